//! JumpServer's published CVEs that touch what is built here: why each cannot happen, shown on a running box. Those that
//! live inside one crate are tested there under the same names (`cve_…` in gatehouse-identity and gatehouse-api).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use gatehouse_tests::api::{Api, id};
use gatehouse_tests::peers::{Sshd, ssh_keygen};
use gatehouse_tests::run_limited;
use gatehouse_tests::world::{SSH_OPTIONS, USER_PASSWORD, World};
use reqwest::Method;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn cve_2021_3169_and_2023_42442_and_2025_62795_sessions_replays_and_sockets_are_closed_to_anonymous() {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    run_limited(&mut world.ssh(&format!("alice@{}@web1", sshd.user), &["true"]), b"", LIMIT).ok();
    let session = id(&world.ended_sessions(&asset, 1).await[0]);
    let anonymous = Api::anonymous(&world.base());
    // Somebody who may log in but is no auditor must not see them either (CVE-2024-29020, 29024: other people's objects).
    world.add_user("mallory").await;
    let mallory = Api::login(&world.base(), "mallory", USER_PASSWORD).await;
    for path in [
        format!("terminal/sessions/{session}/"),
        format!("terminal/sessions/{session}/replay/"),
        format!("terminal/sessions/{session}/replay/download/"),
        format!("terminal/sessions/{session}/watch/"),
        "terminal/sessions/".into(),
        "terminal/commands/".into(),
        "audits/ftp-logs/".into(),
        "authentication/connection-token/".into(),
    ] {
        let (status, body) = anonymous.ask(Method::GET, &path, None).await;
        assert_eq!(status, 401, "{path}: {body}");
        let (status, body) = mallory.ask(Method::GET, &path, None).await;
        let nothing = body["results"].as_array().or(body.as_array()).is_some_and(Vec::is_empty);
        assert!(status == 403 || status == 404 || nothing, "{path}: {status} {body}");
    }
    for path in ["/ws/ops/tasks/log/", "/ws/ldap/", "/ws/notifications/site-msg/", "/koko/ws/terminal/"] {
        let url = format!("wss://127.0.0.1:{}{path}", world.https);
        let http = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
        let answer = http
            .get(url.replace("wss:", "https:"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_42818_a_key_without_its_private_half_opens_nothing_and_mfa_is_asked_after_it() {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let dir = tempfile::tempdir().unwrap();
    for name in ["own", "other"] {
        ssh_keygen("ed25519", &dir.path().join(name));
    }
    let public = std::fs::read_to_string(dir.path().join("own.pub")).unwrap();
    let alice = Api::login(&world.base(), "alice", USER_PASSWORD).await;
    alice.post("authentication/ssh-key/", json!({"name": "k", "public_key": public.trim()})).await;
    let login = format!("alice@{}@web1", sshd.user);
    let ssh = |key: &str| {
        let mut ssh = std::process::Command::new("ssh");
        ssh.args(SSH_OPTIONS)
            .args(["-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-p", &world.ssh.to_string(), "-i"])
            .arg(dir.path().join(key))
            .args(["-l", &login, "127.0.0.1", "echo in"]);
        run_limited(&mut ssh, b"", LIMIT)
    };
    assert_eq!(ssh("own").ok().text(), "in\n");
    // The client offers the registered public key and signs with another.
    std::fs::copy(dir.path().join("own.pub"), dir.path().join("other.pub")).unwrap();
    assert_ne!(ssh("other").code, Some(0));
    // With MFA required for all, the key alone is not enough.
    world.admin.patch("settings/setting/?category=security_auth", json!({"SECURITY_MFA_AUTH": "1"})).await;
    let done = ssh("own");
    assert_ne!(done.code, Some(0), "{done:?}");
    assert!(!done.text().contains("in\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2023_46123_a_forged_client_address_does_not_reset_the_lock() {
    let world = World::start().await;
    world.add_user("alice").await;
    let http = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    for n in 0..8 {
        let answer = http
            .post(format!("{}/api/v1/authentication/auth/", world.base()))
            .header("X-Forwarded-For", format!("198.51.100.{n}"))
            .header("X-Real-IP", format!("198.51.100.{n}"))
            .json(&json!({"username": "alice", "password": "wrong"}))
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_client_error());
    }
    let (status, _) = Api::anonymous(&world.base())
        .ask(Method::POST, "authentication/auth/", Some(json!({"username": "alice", "password": USER_PASSWORD})))
        .await;
    assert!(status >= 400, "the lock did not hold");
    let rows = world.admin.list("audits/login-logs/?username=alice&limit=20").await;
    assert!(rows.iter().all(|r| r["ip"] == "127.0.0.1"), "{rows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_54336_sftp_cannot_leave_the_platforms_root() {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let dir = tempfile::tempdir().unwrap();
    let link = tempfile::Builder::new().prefix("gh-link-").tempdir_in("/tmp").unwrap();
    std::os::unix::fs::symlink("/etc", link.path().join("etc")).unwrap();
    let name = link.path().file_name().unwrap().to_str().unwrap();
    for path in ["../etc/hostname", "/../etc/hostname", "/../../../etc/hostname", "x/../../etc/hostname"] {
        let mut sftp = world.client("sftp");
        let login = format!("User=alice@{}@web1", sshd.user);
        sftp.args(["-b", "-", "-o", "BatchMode=no", "-o", &login, "127.0.0.1"]);
        let local = dir.path().join("stolen");
        let done = run_limited(&mut sftp, format!("get {path} {}\n", local.display()).as_bytes(), LIMIT);
        assert!(!local.exists(), "{path}: {done:?}");
    }
    let mut sftp = world.client("sftp");
    let login = format!("User=alice@{}@web1", sshd.user);
    sftp.args(["-b", "-", "-o", "BatchMode=no", "-o", &login, "127.0.0.1"]);
    let local = dir.path().join("stolen");
    let done = run_limited(&mut sftp, format!("get {name}/etc/hostname {}\n", local.display()).as_bytes(), LIMIT);
    assert!(!local.exists(), "through a link: {done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2026_44846_inviting_a_member_again_never_takes_roles_away() {
    let world = World::start().await;
    let user = world.add_user("alice").await;
    let auditor = "00000000-0000-0000-0000-000000000006";
    world.admin.post("users/users/invite/", json!({"users": [user], "org_roles": [auditor]})).await;
    let after = world.admin.get(&format!("users/users/{user}/")).await;
    let roles = after["org_roles"].to_string();
    assert!(roles.contains("000000000007") && roles.contains(auditor), "{roles}");
    let admin = world.admin.list("users/users/?username=admin").await;
    let admin_id = id(&admin[0]);
    let system_before = admin[0]["system_roles"].clone();
    let (_, _) = world
        .admin
        .ask(Method::POST, "users/users/invite/", Some(json!({"users": [admin_id], "org_roles": [auditor]})))
        .await;
    assert_eq!(world.admin.get(&format!("users/users/{admin_id}/")).await["system_roles"], system_before);
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2024_24763_and_2025_58044_no_redirect_leaves_the_box() {
    let world = World::start().await;
    let http = reqwest::Client::builder()
        .danger_accept_invalid_certs(true)
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap();
    for path in
        ["/", "/core/i18n/en/", "/?next=https://evil.example/", "//evil.example/", "/api/docs?next=//evil.example"]
    {
        let answer = http
            .get(format!("{}{path}", world.base()))
            .header("Referer", "https://evil.example/")
            .send()
            .await
            .unwrap();
        if let Some(to) = answer.headers().get("location") {
            let to = to.to_str().unwrap();
            assert!(to.starts_with('/') && !to.starts_with("//"), "{path} redirects to {to}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cve_2025_62712_tokens_are_never_listed_with_their_secrets() {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let alice = Api::login(&world.base(), "alice", USER_PASSWORD).await;
    let body = json!({"asset": asset, "account": sshd.user, "protocol": "ssh", "connect_method": "ssh_guide"});
    let token = alice.post("authentication/connection-token/", body).await;
    let value = token["value"].as_str().unwrap();
    assert!(value.len() >= 16);
    for (who, api) in [("alice", &alice), ("admin", &world.admin)] {
        for path in ["authentication/connection-token/", "authentication/super-connection-token/"] {
            let (_, listed) = api.ask(Method::GET, path, None).await;
            assert!(!listed.to_string().contains(value), "{who} sees the value at {path}");
        }
    }
    // It opens the session once.
    let login = format!("JMS-{}", id(&token));
    let ssh = || {
        let mut ssh = std::process::Command::new("sshpass");
        ssh.args(["-p", value, "ssh"])
            .args(SSH_OPTIONS)
            .args(["-o", "PreferredAuthentications=password", "-p", &world.ssh.to_string()])
            .args(["-l", &login, "127.0.0.1", "echo by-token"]);
        run_limited(&mut ssh, b"", LIMIT)
    };
    assert_eq!(ssh().ok().text(), "by-token\n");
    assert_ne!(ssh().code, Some(0), "a one-time token worked twice");
}
