//! Telnet assets through the SSH door, against the real telnetd (its log-in is a script), and switching accounts (C18) in a
//! real bash behind a real sshd, where `su` and `sudo` are scripts that behave like them: the machine's accounts are not a
//! test's to change.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::{Sshd, Telnetd, write_script};
use gatehouse_tests::run_limited;
use gatehouse_tests::world::World;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

async fn platform(world: &World, name: &str, with: Value) -> String {
    let mut platform = json!({"name": name, "category": "host", "type": "linux", "charset": "utf-8",
        "protocols": [{"name": "ssh", "port": 22, "primary": true}]});
    for (key, value) in with.as_object().unwrap() {
        platform[key] = value.clone();
    }
    id(&world.admin.post("assets/platforms/", platform).await)
}

async fn asset(world: &World, name: &str, platform: &str, protocol: &str, port: u16) -> String {
    let asset = json!({"name": name, "address": "127.0.0.1", "platform": platform,
        "protocols": [{"name": protocol, "port": port}]});
    id(&world.admin.post("assets/hosts/", asset).await)
}

async fn password_account(world: &World, asset: &str, username: &str, secret: &str, su_from: Option<&str>) -> String {
    let account = json!({"asset": asset, "name": username, "username": username, "secret_type": "password",
        "secret": secret, "su_from": su_from});
    let made = world.admin.post("accounts/accounts/", account).await;
    id(made.as_array().and_then(|a| a.first()).unwrap_or(&made))
}

fn open(world: &World, login: &str) -> Interactive {
    Interactive::start(world.client("ssh").args(["-tt", "-l", login, "127.0.0.1"]))
}

/// Replay and command rows of a session.
async fn left_behind(world: &World, session: &Value) -> (String, Vec<String>) {
    let path = format!("terminal/sessions/{}/replay/download/?type=raw", id(session));
    let (status, bytes) = world.admin.raw(reqwest::Method::GET, &path, None).await;
    assert_eq!(status, 200);
    let commands = world.admin.list(&format!("terminal/commands/?session={}", id(session))).await;
    let inputs = commands.iter().map(|c| c["input"].as_str().unwrap().to_owned()).collect();
    (String::from_utf8_lossy(&bytes).into_owned(), inputs)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_telnet_asset_is_logged_in_to_recorded_and_filtered() {
    let world = World::start().await;
    let telnetd = Telnetd::start("ann", "Console-Secret-5");
    let console =
        platform(&world, "Console", json!({"protocols": [{"name": "telnet", "port": 23, "primary": true}]})).await;
    let unit = asset(&world, "unit1", &console, "telnet", telnetd.port).await;
    password_account(&world, &unit, "ann", "Console-Secret-5", None).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &unit).await;
    let group = json!({"name": "never", "type": "command", "content": "reload"});
    let group = id(&world.admin.post("acls/command-groups/", group).await);
    let filter = json!({"name": "no reload", "priority": 10, "action": "reject", "command_groups": [group],
        "users": {"type": "all"}, "assets": {"type": "all"}, "accounts": ["@ALL"]});
    world.admin.post("acls/command-filter-acls/", filter).await;

    // A telnet asset is found without naming the protocol, and with it.
    for login in ["alice@ann@unit1", "alice@telnet@ann@unit1"] {
        let mut shell = open(&world, login);
        shell.expect("unit$ ");
        shell.send("echo tel-$((40+2))\r");
        shell.expect("tel-42");
        shell.expect("unit$ ");
        shell.send("reload now\r");
        shell.expect("forbidden by the rule \"no reload\"");
        shell.send("echo go''es-on\r");
        shell.expect("goes-on");
        shell.expect("unit$ ");
        shell.send("exit\r");
        shell.wait_end(LIMIT);
        assert!(!shell.all().contains("Console-Secret-5"), "{}", shell.all());
        assert!(!shell.all().contains("reload: command not found"), "{}", shell.all());
    }
    let sessions = world.ended_sessions(&unit, 2).await;
    for session in &sessions {
        assert_eq!((&session["protocol"], &session["is_success"]), (&json!("telnet"), &json!(true)));
        let (replay, commands) = left_behind(&world, session).await;
        assert!(replay.contains("tel-42") && replay.contains("forbidden") && !replay.contains("Secret"), "{replay}");
        for wanted in ["echo tel-$((40+2))", "reload now", "echo go''es-on", "exit"] {
            assert!(commands.iter().any(|c| c == wanted), "{wanted}: {commands:?}");
        }
    }
    // Commands without a terminal do not exist in telnet.
    let done = run_limited(&mut world.ssh("alice@ann@unit1", &["date"]), b"", LIMIT);
    assert!(done.code != Some(0) && !done.stderr.is_empty(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_at_a_telnet_asset_is_told_and_recorded_as_a_failure() {
    let world = World::start().await;
    let telnetd = Telnetd::start("ann", "right");
    let console =
        platform(&world, "Console", json!({"protocols": [{"name": "telnet", "port": 23, "primary": true}]})).await;
    let unit = asset(&world, "unit1", &console, "telnet", telnetd.port).await;
    password_account(&world, &unit, "ann", "wrong-Secret-1", None).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &unit).await;
    let mut shell = open(&world, "alice@ann@unit1");
    let said = shell.expect("Cannot connect: ");
    assert_ne!(shell.wait_end(LIMIT), Some(0));
    assert!(!said.contains("wrong-Secret-1") && shell.all().contains("refused"), "{}", shell.all());
    let sessions = world.ended_sessions(&unit, 1).await;
    assert_eq!(sessions[0]["is_success"], false, "{}", sessions[0]);
}

const SU: &str = r#"#!/bin/bash
[ "$1" = - ] && shift
IFS= read -rsp 'Password: ' secret; echo
if [ "$secret" != "open sesame 7" ]; then sleep 0.3; echo "su: Authentication failure"; exit 1; fi
export WHO="$1" PS1="$1@unit:~# "; exec bash --norc --noprofile -i
"#;
const SUDO: &str = r#"#!/bin/bash
for try in 1 2 3; do
  IFS= read -rsp '[sudo] password for ann: ' secret; echo
  [ "$secret" = "mine own 8" ] && break
  [ $try = 3 ] && { echo "sudo: 3 incorrect password attempts"; exit 1; }
  echo "Sorry, try again."
done
shift; [ "$1" = - ] && shift
export WHO="$1" PS1="$1@unit:~# "; exec bash --norc --noprofile -i
"#;

/// A real sshd whose shells find the scripts above first.
fn sshd_with_scripts(dir: &std::path::Path) -> Sshd {
    write_script(&dir.join("su"), SU);
    write_script(&dir.join("sudo"), SUDO);
    let shell = dir.join("shell");
    let path = dir.display();
    write_script(
        &shell,
        &format!("#!/bin/bash\nexport PATH={path}:$PATH PS1='ann@unit:~$ '\nexec bash --norc --noprofile -i\n"),
    );
    Sshd::start_with(&format!("ForceCommand {}", shell.display()))
}

/// An asset `unit1` whose account `deploy` is reached from the sshd's user; granted to alice.
async fn with_su(world: &World, sshd: &Sshd, method: &str, secret: &str) -> String {
    let kind = platform(world, "switching", json!({"su_enabled": true, "su_method": method})).await;
    let unit = asset(world, "unit1", &kind, "ssh", sshd.port).await;
    let first = world.add_key_account(&unit, &sshd.user, &sshd.private_key).await;
    password_account(world, &unit, "deploy", secret, Some(&first)).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &unit).await;
    unit
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_with_su_from_is_reached_by_switching_and_nothing_of_that_is_shown_or_recorded() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let sshd = sshd_with_scripts(dir.path());
    let unit = with_su(&world, &sshd, "su", "open sesame 7").await;
    let mut shell = open(&world, "alice@deploy@unit1");
    let greeting = shell.expect("deploy@unit:~# ");
    assert!(!greeting.contains("ann@unit") && !greeting.contains("Password:"), "{greeting}");
    shell.send("echo \"<$WHO>\"\r");
    shell.expect("<deploy>");
    shell.send("exit\r");
    shell.wait_end(LIMIT);
    let sessions = world.ended_sessions(&unit, 1).await;
    let account = sessions[0]["account"].as_str().unwrap();
    assert!(account.contains("deploy"), "{account}");
    let (replay, commands) = left_behind(&world, &sessions[0]).await;
    assert!(replay.contains("<deploy>") && !replay.contains("Password:") && !replay.contains("sesame"), "{replay}");
    assert_eq!(commands.len(), 2, "{commands:?}");
    assert!(commands.iter().all(|c| !c.contains("su ") && !c.contains("sesame")), "{commands:?}");
    // Without a terminal there is nothing to switch in.
    let done = run_limited(&mut world.ssh("alice@deploy@unit1", &["id"]), b"", LIMIT);
    assert!(done.code != Some(0) && done.stderr.contains("switching"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_fails_never_leaves_a_shell_of_the_first_account() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let sshd = sshd_with_scripts(dir.path());
    let unit = with_su(&world, &sshd, "su", "wrong-Secret-3").await;
    let trace = dir.path().join("never");
    let mut shell = open(&world, "alice@deploy@unit1");
    shell.send(format!("touch {}\r", trace.display()));
    shell.expect("Cannot connect: ");
    assert_ne!(shell.wait_end(LIMIT), Some(0));
    assert!(shell.all().contains("Authentication failure"), "{}", shell.all());
    assert!(!shell.all().contains("ann@unit") && !shell.all().contains("wrong-Secret-3"), "{}", shell.all());
    assert!(!trace.exists());
    let sessions = world.ended_sessions(&unit, 1).await;
    assert_eq!(sessions[0]["is_success"], false, "{}", sessions[0]);
}

/// `sudo` asks for the first account's own password, which an account with a key does not have; the target's is not typed
/// in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_not_the_one_asked_for_is_not_typed() {
    let world = World::start().await;
    let dir = tempfile::tempdir().unwrap();
    let sshd = sshd_with_scripts(dir.path());
    let unit = with_su(&world, &sshd, "sudo", "mine own 8").await;
    let mut shell = open(&world, "alice@deploy@unit1");
    shell.expect("Cannot connect: ");
    assert_ne!(shell.wait_end(LIMIT), Some(0));
    assert!(!shell.all().contains("deploy@unit"), "{}", shell.all());
    let sessions = world.ended_sessions(&unit, 1).await;
    assert_eq!(sessions[0]["is_success"], false, "{}", sessions[0]);
}
