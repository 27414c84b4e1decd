//! Control while a session lives: command filters, live watch, pause, resume, kill, and grants or users that end
//! (issue "First light"; Z21, U04, P73).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::{Duration, Instant};

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::run_limited;
use gatehouse_tests::world::World;
use serde_json::{Value, json};

struct Stage {
    world: World,
    sshd: Sshd,
    asset: String,
    user: String,
    grant: String,
    login: String,
}

async fn stage() -> Stage {
    let world = World::start().await;
    let sshd = Sshd::start();
    let (asset, _) = world.add_host("web1", &sshd).await;
    let user = world.add_user("alice").await;
    let grant = world.grant(&user, &asset).await;
    let login = format!("alice@{}@web1", sshd.user);
    Stage { world, sshd, asset, user, grant, login }
}

impl Stage {
    async fn forbid(&self, action: &str, kind: &str, content: &str) {
        let group = json!({"name": format!("group {content}"), "type": kind, "content": content, "ignore_case": true});
        let group = id(&self.world.admin.post("acls/command-groups/", group).await);
        let filter = json!({
            "name": format!("{action} {content}"), "priority": 50, "users": {"type": "all"}, "assets": {"type": "all"},
            "accounts": ["@ALL"], "command_groups": [group], "action": action, "is_active": true,
        });
        self.world.admin.post("acls/command-filter-acls/", filter).await;
    }

    fn shell(&self) -> Interactive {
        let mut shell = Interactive::start(self.world.client("ssh").args(["-tt", "-l", &self.login, "127.0.0.1"]));
        // bash, so that history and editing are known on every machine.
        shell.send("exec bash --norc --noprofile\n");
        // Written so that the echo of the line is not taken for the prompt.
        shell.send("PS1='re''ady> '\n");
        shell.expect("ready> ");
        shell
    }

    async fn live(&self) -> Value {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let rows = self.world.admin.list("terminal/sessions/?is_finished=0").await;
            if let Some(row) = rows.into_iter().next() {
                return row;
            }
            assert!(Instant::now() < end, "no live session");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn commands(&self) -> Vec<Value> {
        let sessions = self.world.admin.list("terminal/sessions/?limit=10&order=-date_start").await;
        let mut all = Vec::new();
        for session in sessions {
            all.extend(self.world.admin.list(&format!("terminal/commands/?session={}", id(&session))).await);
        }
        all
    }
}

fn risk(command: &Value) -> i64 {
    let level = &command["risk_level"];
    let value = level.get("value").unwrap_or(level);
    value.as_i64().or_else(|| value.as_str().and_then(|s| s.parse().ok())).unwrap_or(-1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_command_never_reaches_the_asset_by_any_way_of_typing_it() {
    let s = stage().await;
    let dir = tempfile::tempdir().unwrap();
    // A stand-in for `/` whose loss would show; the filter is on the command line as a person would write it.
    let victim = dir.path().join("victim");
    std::fs::create_dir(&victim).unwrap();
    let forbidden = format!("rm -rf {}", victim.display());
    s.forbid("reject", "command", &forbidden).await;
    s.forbid("reject", "command", "rm -rf /").await;

    let mut shell = s.shell();
    // Typed, key by key.
    for key in forbidden.bytes() {
        shell.send([key]);
    }
    shell.send("\r");
    shell.expect("forbidden");
    shell.expect("ready> ");
    // Pasted in one piece, with its Enter, after a harmless command.
    shell.send(format!("echo harmless; {forbidden}\r"));
    shell.expect("forbidden");
    shell.expect("ready> ");
    // Pasted as bracketed paste, several lines.
    shell.send(format!("\x1b[200~echo one\n{forbidden}\x1b[201~\r"));
    shell.expect("forbidden");
    shell.expect("ready> ");
    // Recalled from history: the line gets in there by `history -s`, built so that the filter does not see it.
    shell.send(format!("history -s \"r\"\"m -rf {}\"\r", victim.display()));
    shell.expect("ready> ");
    shell.send("\x1b[A");
    shell.expect(&forbidden);
    shell.send("\r");
    shell.expect("forbidden");
    shell.expect("ready> ");
    // Edited into being.
    shell.send(format!("xx{forbidden}"));
    shell.expect(&forbidden);
    shell.send("\x01\x1b[3~\x1b[3~");
    tokio::time::sleep(Duration::from_millis(300)).await;
    shell.send("\r");
    shell.expect("forbidden");
    shell.expect("ready> ");
    shell.send("echo al''ive\r");
    shell.expect("alive");
    assert!(victim.exists(), "the directory is gone: {}", shell.all());
    shell.send("exit\r");
    shell.wait_end(Duration::from_secs(20));

    // By exec, and the root of all fears.
    for command in [forbidden.as_str(), "true && rm  -rf / --no-preserve-root"] {
        let done = run_limited(&mut s.world.ssh(&s.login, &[command]), b"", Duration::from_secs(30));
        assert_ne!(done.code, Some(0));
        assert!(done.stderr.contains("forbidden"), "{done:?}");
    }
    assert!(victim.exists());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let rejected = s.commands().await.iter().filter(|c| risk(c) == 5).count();
    assert!(rejected >= 7, "{:#?}", s.commands().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warned_command_runs_and_is_marked() {
    let s = stage().await;
    s.forbid("warning", "regex", "echo .*secret").await;
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo my secret"]), b"", Duration::from_secs(30)).ok();
    assert_eq!(done.text(), "my secret\n");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(s.commands().await.iter().map(risk).collect::<Vec<_>>(), [4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn pause_stops_input_resume_lets_it_on_and_kill_ends_at_once() {
    let s = stage().await;
    let mut shell = s.shell();
    let session = id(&s.live().await);
    let lock = |task: &str| json!({"session_id": session, "task_name": task});
    s.world.admin.post("terminal/tasks/toggle-lock-session/", lock("lock_session")).await;
    shell.send("echo while-pa''used\r");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!shell.all().contains("while-paused"), "{}", shell.all());
    s.world.admin.post("terminal/tasks/toggle-lock-session/", lock("unlock_session")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    shell.send("\x15echo after-re''sume\r");
    shell.expect("after-resume");

    let begin = Instant::now();
    s.world.admin.post("terminal/tasks/kill-session/", json!([session])).await;
    shell.wait_end(Duration::from_secs(3));
    assert!(begin.elapsed() < Duration::from_secs(3));
    let ended = s.world.ended_sessions(&s.asset, 1).await;
    assert_eq!(ended[0]["is_finished"], true);
    drop(s.sshd);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_grant_a_disabled_user_and_an_expired_grant_end_running_sessions_within_five_seconds() {
    let s = stage().await;
    let limit = Duration::from_secs(5);

    let mut shell = s.shell();
    s.world.admin.delete(&format!("perms/asset-permissions/{}/", s.grant)).await;
    shell.wait_end(limit);

    let grant = s.world.grant(&s.user, &s.asset).await;
    let mut shell = s.shell();
    let soon = (chrono::Utc::now() + chrono::Duration::seconds(2)).to_rfc3339();
    s.world.admin.patch(&format!("perms/asset-permissions/{grant}/"), json!({"date_expired": soon})).await;
    shell.wait_end(Duration::from_secs(2) + limit);

    s.world.grant(&s.user, &s.asset).await;
    let mut shell = s.shell();
    s.world.admin.patch(&format!("users/users/{}/", s.user), json!({"is_active": false})).await;
    shell.wait_end(limit);
    let done = run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", Duration::from_secs(30));
    assert_ne!(done.code, Some(0), "a disabled user logged in");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_watches_live_and_a_stuck_watcher_hurts_nobody() {
    let s = stage().await;
    let mut shell = s.shell();
    let session = id(&s.live().await);
    let http = reqwest::Client::builder().danger_accept_invalid_certs(true).build().unwrap();
    let url = format!("{}/api/v1/terminal/sessions/{session}/watch/", s.world.base());
    let watch = || http.get(&url).bearer_auth(&s.world.admin.token).header("X-JMS-ORG", &s.world.admin.org).send();
    let mut watcher = watch().await.unwrap();
    assert_eq!(watcher.status(), 200);
    // This one is never read.
    let stuck = watch().await.unwrap();
    shell.send("echo seen-li''ve\r");
    shell.expect("seen-live");
    let mut seen = String::new();
    while !seen.contains("seen-live") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), watcher.chunk()).await;
        seen.push_str(&String::from_utf8_lossy(&chunk.expect("nothing to watch").unwrap().unwrap()));
    }
    shell.send("head -c 12000000 /dev/zero | tr '\\0' 'x'; echo; echo flood-do''ne\r");
    shell.expect_within("flood-done", Duration::from_secs(120));
    drop((watcher, stuck));
    shell.send("exit\r");
    shell.wait_end(Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_is_not_granted_is_refused_for_files() {
    let s = stage().await;
    s.world.admin.delete(&format!("perms/asset-permissions/{}/", s.grant)).await;
    s.world.grant_with(&s.user, &s.asset, json!({"actions": ["connect", "download"]})).await;
    let name = format!("gh-noup-{}", s.world.ssh);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("f"), "x").unwrap();
    let script = format!("put {}/f {name}\n", dir.path().display());
    let done = run_limited(&mut s.world.sftp(&s.login), script.as_bytes(), Duration::from_secs(30));
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("dest open"), "refused for another reason: {done:?}");
    assert!(!std::path::Path::new("/tmp").join(&name).exists());
    // The old scp protocol and a shell redirection by exec are other ways to the same end: scp is refused too.
    let mut scp = s.world.client("scp");
    let local = dir.path().join("f");
    scp.args(["-O", "-q", "-o", &format!("User={}", s.login)]).arg(&local).arg(format!("127.0.0.1:/tmp/{name}"));
    let done = run_limited(&mut scp, b"", Duration::from_secs(30));
    assert_ne!(done.code, Some(0));
    assert!(!std::path::Path::new("/tmp").join(&name).exists());
}
