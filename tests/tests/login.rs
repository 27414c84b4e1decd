//! Ways to log in with OpenSSH's client: second factor, keys of all kinds, certificates, temporary passwords, tokens, locks
//! and what a person is told; and the direct forms that name account and asset (issue "First light", P04, A22, A33-A44).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use gatehouse_tests::api::{Api, id};
use gatehouse_tests::askpass::Askpass;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::{PasswordPeer, Sshd, ssh_keygen};
use gatehouse_tests::world::{SSH_OPTIONS, USER_PASSWORD, World};
use gatehouse_tests::{Output, run_limited};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

struct Stage {
    world: World,
    sshd: Sshd,
    asset: String,
    user: String,
    /// `alice@ACCOUNT@web1`
    login: String,
}

async fn stage() -> Stage {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let login = format!("alice@{}@web1", sshd.user);
    Stage { world, sshd, asset, user, login }
}

impl Stage {
    async fn alice(&self) -> Api {
        Api::login(&self.world.base(), "alice", USER_PASSWORD).await
    }

    /// The client as people run it: messages of the server shown, every method allowed, more than one try.
    fn ssh(&self, methods: &str, prompts: u8) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.args(["-o", "LogLevel=INFO", "-o", &format!("NumberOfPasswordPrompts={prompts}")])
            .args(SSH_OPTIONS)
            .args(["-o", &format!("PreferredAuthentications={methods}"), "-o", "IdentitiesOnly=yes"])
            .args(["-o", "IdentityAgent=none", "-p", &self.world.ssh.to_string()]);
        ssh
    }

    fn asked(&self, login: &str, methods: &str, prompts: u8, askpass: &Askpass) -> Output {
        let mut ssh = self.ssh(methods, prompts);
        askpass.set(&mut ssh);
        run_limited(ssh.args(["-l", login, "127.0.0.1", "echo in"]), b"", LIMIT)
    }

    fn with_key(&self, login: &str, key: &Path) -> Output {
        let mut ssh = self.ssh("publickey", 1);
        run_limited(ssh.arg("-i").arg(key).args(["-l", login, "127.0.0.1", "echo in"]), b"", LIMIT)
    }
}

#[track_caller]
fn is_in(done: &Output) {
    assert_eq!((done.code, done.text().as_str()), (Some(0), "in\n"), "{}", done.stderr);
}

#[track_caller]
fn is_out(done: &Output) {
    assert!(done.code == Some(255) && done.stdout.is_empty(), "{done:?}");
}

/// An authenticator app. Each code is of a later step than the one before, as the rule against reuse asks for, so that no
/// test waits for the clock; the allowed drift is set as wide as it goes.
struct App {
    totp: totp_rs::Totp,
    next: u64,
}

impl App {
    async fn enrol(stage: &Stage) -> Self {
        stage.world.admin.patch("settings/setting/", json!({"OTP_VALID_WINDOW": 10})).await;
        let alice = stage.alice().await;
        let started = alice.post("users/profile/mfa/otp/", json!({})).await;
        let secret = totp_rs::Secret::try_from_base32(started["secret"].as_str().unwrap()).unwrap();
        let totp = totp_rs::Builder::new().with_secret(secret).build_noncompliant();
        let now = u64::try_from(chrono::Utc::now().timestamp()).unwrap();
        let mut app = Self { totp, next: now - 150 };
        let code = app.code();
        let (status, said) =
            alice.ask(reqwest::Method::PUT, "users/profile/mfa/otp/", Some(json!({"code": code}))).await;
        assert_eq!(status, 200, "{said}");
        app
    }

    fn code(&mut self) -> String {
        self.next += 30;
        self.totp.generate(self.next).to_string()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_asked_for_after_the_password_and_after_a_key_and_a_code_serves_once() {
    let s = stage().await;
    let key = s.world.dir.path().join("alice_key");
    ssh_keygen("ed25519", &key);
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    s.alice().await.post("users/profile/public-key/", json!({"name": "laptop", "public_key": public})).await;
    is_in(&s.with_key(&s.login, &key));
    let mut app = App::enrol(&s).await;

    // Password, then the code; both within keyboard-interactive, and password as a method of its own before it.
    for methods in ["keyboard-interactive", "password,keyboard-interactive"] {
        let code = app.code();
        let askpass = Askpass::new(&[("MFA code", &[&code]), ("assword", &[USER_PASSWORD])]);
        is_in(&s.asked(&s.login, methods, 3, &askpass));
        // The same code again is refused, whatever else is right.
        let again = Askpass::new(&[("MFA code", &[&code]), ("assword", &[USER_PASSWORD])]);
        is_out(&s.asked(&s.login, methods, 1, &again));
        assert!(again.asked().contains("MFA code"), "{}", again.asked());
        let unlock = format!("users/users/{}/unblock/", s.user);
        s.world.admin.patch(&unlock, json!({})).await;
    }
    // The password alone, or the key alone, is not enough: nothing but the code is offered then.
    is_out(&s.asked(&s.login, "password", 1, &Askpass::new(&[("assword", &[USER_PASSWORD])])));
    is_out(&s.with_key(&s.login, &key));

    // Public key, then the code. A wrong one is told, and may be tried again in the same log-in.
    let code = app.code();
    let askpass = Askpass::new(&[("MFA code", &["000000", &code])]);
    let mut ssh = s.ssh("publickey,keyboard-interactive", 3);
    askpass.set(&mut ssh);
    let done = run_limited(ssh.arg("-i").arg(&key).args(["-l", &s.login, "127.0.0.1", "echo in"]), b"", LIMIT);
    is_in(&done);
    assert!(done.stderr.contains("tries are left"), "{}", done.stderr);
    assert!(!askpass.asked().contains("assword"), "{}", askpass.asked());

    let rows = s.world.admin.list("audits/login-logs/?username=alice&limit=100").await;
    let failed = rows.iter().filter(|r| r["status"]["value"] == false || r["status"] == false).count();
    assert!(failed >= 3, "the wrong and reused codes are in the log: {rows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_required_second_factor_that_is_not_set_up_is_told_where_to_do_it() {
    let s = stage().await;
    s.world.admin.patch("settings/setting/", json!({"SECURITY_MFA_AUTH": "1"})).await;
    let done = s.asked(&s.login, "password,keyboard-interactive", 1, &Askpass::new(&[("assword", &[USER_PASSWORD])]));
    is_out(&done);
    assert!(done.stderr.contains("https://127.0.0.1"), "{}", done.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_every_kind_open_the_door_until_they_are_removed_and_open_it_for_their_owner_only() {
    let s = stage().await;
    let alice = s.alice().await;
    s.world.add_user("bob").await;
    for (kind, bits) in [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "3072")] {
        let key = s.world.dir.path().join(format!("k-{kind}-{bits}"));
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", kind, "-N", "", "-f"]).arg(&key);
        if !bits.is_empty() {
            keygen.args(["-b", bits]);
        }
        run_limited(&mut keygen, b"", LIMIT).ok();
        is_out(&s.with_key(&s.login, &key));
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        let added = alice.post("users/profile/public-key/", json!({"name": kind, "public_key": public})).await;
        is_in(&s.with_key(&s.login, &key));
        is_out(&s.with_key(&s.login.replace("alice", "bob"), &key));
        alice.delete(&format!("authentication/ssh-key/{}/", id(&added))).await;
        is_out(&s.with_key(&s.login, &key));
    }
    // Switched off for everybody.
    let key = s.world.dir.path().join("k-ed25519-");
    let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
    alice.post("users/profile/public-key/", json!({"name": "k", "public_key": public})).await;
    s.world.admin.patch("settings/setting/", json!({"TERMINAL_PUBLIC_KEY_AUTH": false})).await;
    is_out(&s.with_key(&s.login, &key));
    s.world.admin.patch("settings/setting/", json!({"TERMINAL_PUBLIC_KEY_AUTH": true})).await;
    // Both factors for everybody: the key alone is not enough, key and password are.
    s.world.admin.patch("settings/setting/", json!({"TERMINAL_FORCE_MULTI_AUTH": true})).await;
    is_out(&s.with_key(&s.login, &key));
    let mut ssh = s.ssh("publickey,password,keyboard-interactive", 1);
    let askpass = Askpass::new(&[("assword", &[USER_PASSWORD])]);
    askpass.set(&mut ssh);
    is_in(&run_limited(ssh.arg("-i").arg(&key).args(["-l", &s.login, "127.0.0.1", "echo in"]), b"", LIMIT));
    assert!(askpass.asked().contains("assword"));
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_trusted_authority_open_the_door_for_their_principals_while_they_are_valid() {
    let s = stage().await;
    let at = |name: &str| s.world.dir.path().join(name);
    for name in ["ca", "other-ca", "user"] {
        ssh_keygen("ed25519", &at(name));
    }
    let sign = |ca: &str, args: &[&str]| {
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-s"]).arg(at(ca)).args(["-I", "test"]).args(args).arg(at("user.pub"));
        run_limited(&mut keygen, b"", LIMIT).ok();
    };
    let with_certificate = || {
        let mut ssh = s.ssh("publickey", 1);
        ssh.arg("-i").arg(at("user")).arg("-o").arg(format!("CertificateFile={}", at("user-cert.pub").display()));
        run_limited(ssh.args(["-l", &s.login, "127.0.0.1", "echo in"]), b"", LIMIT)
    };
    sign("ca", &["-n", "alice", "-V", "-5m:+1h"]);
    is_out(&with_certificate());
    let public = std::fs::read_to_string(at("ca.pub")).unwrap();
    let trusted = s.world.admin.post("gatehouse/user-cas/", json!({"name": "corp", "public_key": public})).await;
    is_in(&with_certificate());
    assert_eq!(s.world.admin.list("gatehouse/user-cas/").await.len(), 1);
    for (ca, args) in [
        ("other-ca", &["-n", "alice", "-V", "-5m:+1h"][..]),
        ("ca", &["-n", "bob", "-V", "-5m:+1h"]),
        ("ca", &["-V", "-5m:+1h"]),
        ("ca", &["-n", "alice", "-V", "-2h:-1h"]),
        ("ca", &["-n", "alice", "-V", "+1h:+2h"]),
        ("ca", &["-n", "alice", "-V", "-5m:+1h", "-h"]),
        ("ca", &["-n", "alice", "-V", "-5m:+1h", "-O", "source-address=192.0.2.0/24"]),
        ("ca", &["-n", "alice", "-V", "-5m:+1h", "-O", "force-command=/bin/true"]),
    ] {
        sign(ca, args);
        let done = with_certificate();
        assert!(done.code == Some(255) && done.stdout.is_empty(), "{ca} {args:?}: {done:?}");
    }
    sign("ca", &["-n", "alice", "-V", "-5m:+1h", "-O", "source-address=127.0.0.0/8"]);
    is_in(&with_certificate());
    s.world.admin.delete(&format!("gatehouse/user-cas/{}/", id(&trusted))).await;
    is_out(&with_certificate());
    // Who may not change settings may not say whom to trust.
    let (status, _) = s.alice().await.ask(reqwest::Method::GET, "gatehouse/user-cas/", None).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_passwords_and_connection_tokens_serve_once() {
    let s = stage().await;
    let alice = s.alice().await;
    let (status, _) = alice.ask(reqwest::Method::POST, "authentication/temp-tokens/", Some(json!({}))).await;
    assert!(status >= 400, "temporary passwords are off until they are switched on");
    s.world.admin.patch("settings/setting/", json!({"AUTH_TEMP_TOKEN": true})).await;
    let temp = alice.post("authentication/temp-tokens/", json!({})).await;
    let secret = temp["secret"].as_str().unwrap();
    is_in(&s.asked(&s.login, "password", 1, &Askpass::new(&[("assword", &[secret])])));
    is_out(&s.asked(&s.login, "password", 1, &Askpass::new(&[("assword", &[secret])])));

    let wish = json!({"asset": s.asset, "account": s.sshd.user, "protocol": "ssh", "connect_method": "ssh_client"});
    let token = alice.post("authentication/connection-token/", wish).await;
    let login = format!("JMS-{}", id(&token));
    let value = token["value"].as_str().unwrap();
    is_out(&s.asked(&login, "password", 1, &Askpass::new(&[("assword", &["wrong"])])));
    is_in(&s.asked(&login, "password", 1, &Askpass::new(&[("assword", &[value])])));
    is_out(&s.asked(&login, "password", 1, &Askpass::new(&[("assword", &[value])])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_must_be_changed_is_changed_in_the_log_in() {
    let s = stage().await;
    s.world.admin.patch(&format!("users/users/{}/", s.user), json!({"need_update_password": true})).await;
    let fresh = "Quiet-Badger-31-Digs";
    let askpass = Askpass::new(&[
        ("New password again", &[fresh]),
        ("New password", &["short", fresh]),
        ("assword", &[USER_PASSWORD]),
    ]);
    // The refused one is typed twice as well.
    let askpass_short = Askpass::new(&[("New password", &["short"]), ("assword", &[USER_PASSWORD])]);
    let done = s.asked(&s.login, "keyboard-interactive", 1, &askpass_short);
    is_out(&done);
    assert!(done.stderr.contains("At least 12 characters"), "{}", done.stderr);
    assert!(done.stderr.contains("cannot be used"), "{}", done.stderr);
    // Different passwords are told, and asked for again.
    let done = s.asked(&s.login, "keyboard-interactive", 1, &askpass);
    is_in(&done);
    assert!(done.stderr.contains("differ"), "{}", done.stderr);
    is_in(&s.asked(&s.login, "password", 1, &Askpass::new(&[("assword", &[fresh])])));
    is_out(&s.asked(&s.login, "password", 1, &Askpass::new(&[("assword", &[USER_PASSWORD])])));
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_users_and_addresses_are_told_so_and_let_in_again_by_an_administrator() {
    let s = stage().await;
    s.world.admin.patch("settings/setting/", json!({"SECURITY_LOGIN_LIMIT_COUNT": 3})).await;
    let right = || Askpass::new(&[("assword", &[USER_PASSWORD])]);
    let wrong = || Askpass::new(&[("assword", &["Wrong-Wombat-12"])]);
    for _ in 0..3 {
        is_out(&s.asked(&s.login, "password", 1, &wrong()));
    }
    let done = s.asked(&s.login, "password,keyboard-interactive", 1, &right());
    is_out(&done);
    assert!(done.stderr.contains("the account is locked; try again after"), "{}", done.stderr);
    s.world.admin.patch(&format!("users/users/{}/unblock/", s.user), json!({})).await;
    is_in(&s.asked(&s.login, "password", 1, &right()));

    // An address: others go on.
    s.world.admin.post("settings/security/block-ip/", json!({"ips": ["127.0.0.2"]})).await;
    let from_two = || {
        let mut ssh = s.ssh("password,keyboard-interactive", 1);
        let askpass = right();
        askpass.set(&mut ssh);
        run_limited(ssh.args(["-b", "127.0.0.2", "-l", &s.login, "127.0.0.1", "echo in"]), b"", LIMIT)
    };
    let done = from_two();
    is_out(&done);
    assert!(done.stderr.contains("this address is locked"), "{}", done.stderr);
    is_in(&s.asked(&s.login, "password", 1, &right()));
    s.world.admin.post("settings/security/unlock-ip/", json!({"ips": ["127.0.0.2"]})).await;
    is_in(&from_two());
}

#[tokio::test(flavor = "multi_thread")]
async fn manual_and_same_name_accounts_are_asked_for_on_the_terminal_and_the_secret_is_nowhere() {
    let world = World::start().await;
    let peer = PasswordPeer::start(&[("operator", "Manual-Secret-9"), ("alice", "Same-Secret-9")]).await;
    let user = world.add_user("alice").await;
    let asset = world.add_bare_host("box1", "127.0.0.1", peer.port).await;
    world.grant_with(&user, &asset, json!({"accounts": ["@INPUT", "@USER"]})).await;
    let open = |login: &str| Interactive::start(world.client("ssh").args(["-tt", "-l", login, "127.0.0.1"]));

    // The user name and the password are asked for; the password is not echoed.
    // An alias has `@` in it, so it takes the form with `#`.
    let mut ssh = open("alice#@INPUT#box1");
    ssh.expect("Username: ");
    ssh.send("operator\r");
    ssh.expect("Password of operator: ");
    ssh.send("Manual-Secret-9\r");
    ssh.expect("operator@peer$ ");
    ssh.send("hello\r");
    ssh.expect("operator heard hello");
    ssh.send("exit\r");
    ssh.wait_end(LIMIT);
    assert!(!ssh.all().contains("Manual-Secret-9"), "{}", ssh.all());

    // A user name that no account has is a manual log-in under that name.
    let mut ssh = open("alice@operator@box1");
    ssh.expect("Password of operator: ");
    ssh.send("Wrong-Secret-1\r");
    ssh.expect("Cannot connect: ");
    ssh.wait_end(LIMIT);
    // The user's own name.
    let mut ssh = open("alice#@USER#box1");
    ssh.expect("Password of alice: ");
    ssh.send("Same-Secret-9\r");
    ssh.expect("alice@peer$ ");
    ssh.send("exit\r");
    ssh.wait_end(LIMIT);

    // A command has no place to ask.
    let done = run_limited(&mut world.ssh("alice@operator@box1", &["date"]), b"", LIMIT);
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("has to be typed"), "{}", done.stderr);

    let sessions = world.ended_sessions(&asset, 3).await;
    let accounts: Vec<&str> = sessions.iter().filter_map(|s| s["account"].as_str()).collect();
    assert!(accounts.iter().any(|a| a.contains("operator")), "{accounts:?}");
    for session in &sessions {
        let path = format!("terminal/sessions/{}/replay/download/?type=raw", id(session));
        let (_, bytes) = world.admin.raw(reqwest::Method::GET, &path, None).await;
        let replay = String::from_utf8_lossy(&bytes).into_owned();
        let commands = world.admin.list(&format!("terminal/commands/?session={}", id(session))).await;
        let all = format!("{replay} {commands:?} {session}");
        assert!(!all.contains("Secret-"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_direct_forms_name_account_and_asset_by_name_address_and_id() {
    let s = stage().await;
    let account = s.sshd.user.clone();
    for login in [
        format!("alice@{account}@web1"),
        format!("alice#{account}#web1"),
        format!("alice@ssh@{account}@web1"),
        format!("alice#ssh#{account}#web1"),
        format!("alice@{account}@127.0.0.1"),
        format!("alice@{account}@{}", s.asset),
    ] {
        let done = run_limited(&mut s.world.ssh(&login, &["echo in"]), b"", LIMIT);
        assert_eq!((done.code, done.text().as_str()), (Some(0), "in\n"), "{login}: {}", done.stderr);
    }
    // What does not exist, or is not granted, is told the same way.
    s.world.add_host("secret-host", &s.sshd).await;
    let mut said = Vec::new();
    for asset in ["no-such-host", "secret-host"] {
        let done = run_limited(&mut s.world.ssh(&format!("alice@{account}@{asset}"), &["echo in"]), b"", LIMIT);
        is_out(&done);
        said.push(done.stderr.replace(asset, "X"));
    }
    assert_eq!(said[0], said[1]);
    assert!(said[0].contains("no asset and account that you may use"), "{}", said[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ambiguous_name_is_a_choice_on_a_terminal_and_a_list_without() {
    let s = stage().await;
    let (twin, _) = s.world.add_host("web2", &s.sshd).await;
    s.world.grant(&s.user, &twin).await;
    let login = format!("alice@{}@127.0.0.1", s.sshd.user);
    let done = run_limited(&mut s.world.ssh(&login, &["echo in"]), b"", LIMIT);
    is_out(&done);
    for part in ["several assets", "web1", "web2", s.asset.as_str(), twin.as_str()] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    // What the list says to write works.
    let written = done.stderr.lines().find(|l| l.contains("web2")).unwrap().rsplit("user@").next().unwrap().trim();
    let done = run_limited(&mut s.world.ssh(&format!("alice@{written}"), &["echo in"]), b"", LIMIT);
    is_in(&done);

    let mut ssh = Interactive::start(s.world.client("ssh").args(["-tt", "-l", &login, "127.0.0.1"]));
    let choice = ssh.expect("(q: quit): ");
    let line = choice.lines().find(|l| l.contains("web2")).unwrap();
    ssh.send(format!("{}\r", line.split_whitespace().next().unwrap()));
    ssh.send("echo ch''osen\r");
    ssh.expect("chosen");
    ssh.send("exit\r");
    ssh.wait_end(LIMIT);
    assert_eq!(s.world.ended_sessions(&twin, 2).await.len(), 2);
}
