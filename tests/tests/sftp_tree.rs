//! Files without naming an asset: `sftp user@gateway` shows the tree of nodes, assets and accounts (P06); and directories
//! of many files, renames and the limits of the root, there and by a direct log-in (P05).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::path::Path;
use std::time::Duration;

use gatehouse_tests::api::id;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::world::World;
use gatehouse_tests::{Output, run_limited};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

struct Stage {
    world: World,
    sshd: Sshd,
    user: String,
    one: String,
    two: String,
    grants: Vec<String>,
    /// What both assets show as their root.
    root: tempfile::TempDir,
    /// The user's own disk.
    here: tempfile::TempDir,
}

/// Two assets in the node `Europe`, both the same sshd, whose files are shown from a directory of the test's own.
async fn stage() -> Stage {
    let world = World::start().await;
    let sshd = Sshd::start();
    let root = tempfile::tempdir().unwrap();
    let platform = json!({"name": "own root", "category": "host", "type": "linux", "charset": "utf-8", "protocols": [
        {"name": "ssh", "port": 22, "primary": true},
        {"name": "sftp", "port": 22, "default": true, "setting": {"sftp_home": root.path()}},
    ]});
    let platform = id(&world.admin.post("assets/platforms/", platform).await);
    let nodes = world.admin.list("assets/nodes/").await;
    let top = nodes.iter().find(|n| n["key"] == "1").map(id).unwrap();
    let europe = id(&world.admin.post("assets/nodes/", json!({"value": "Europe", "parent": top})).await);
    let user = world.add_user("alice").await;
    let (mut assets, mut grants) = (Vec::new(), Vec::new());
    for name in ["one", "two"] {
        let asset = json!({"name": name, "address": "127.0.0.1", "platform": platform, "nodes": [europe],
            "protocols": [{"name": "ssh", "port": sshd.port}, {"name": "sftp", "port": sshd.port}]});
        let asset = id(&world.admin.post("assets/hosts/", asset).await);
        world.add_key_account(&asset, &sshd.user, &sshd.private_key).await;
        grants.push(world.grant(&user, &asset).await);
        assets.push(asset);
    }
    let here = tempfile::tempdir().unwrap();
    Stage { one: assets[0].clone(), two: assets[1].clone(), world, sshd, user, grants, root, here }
}

impl Stage {
    /// Runs a script as alice; `login` as for `ssh`.
    fn sftp(&self, login: &str, script: &str) -> Output {
        let mut sftp = self.world.sftp(login);
        sftp.current_dir(self.here.path());
        run_limited(&mut sftp, script.as_bytes(), LIMIT)
    }

    fn direct(&self) -> String {
        format!("alice@{}@one", self.sshd.user)
    }

    async fn file_rows(&self, session: &Value) -> Vec<Value> {
        self.world.admin.list(&format!("audits/ftp-logs/?session={}&limit=1000", id(session))).await
    }
}

fn listed(done: &Output) -> Vec<String> {
    let text = done.text();
    let names = text.lines().filter(|l| !l.starts_with("sftp>")).map(|l| l.trim().trim_end_matches('/').to_owned());
    names.map(|l| l.rsplit('/').next().unwrap_or_default().to_owned()).filter(|l| !l.is_empty()).collect()
}

fn operations(rows: &[Value]) -> Vec<&str> {
    rows.iter().map(|r| r["operate"]["value"].as_str().or(r["operate"].as_str()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tree_leads_from_organization_to_account_and_carries_files_of_two_assets_in_one_connection() {
    let s = stage().await;
    let account = s.sshd.user.clone();
    assert_eq!(listed(&s.sftp("alice", "ls -1 /\n").ok()), ["Default"]);
    assert_eq!(listed(&s.sftp("alice", "ls -1 /Default\n").ok()), ["Europe"]);
    let mut names = listed(&s.sftp("alice", "cd Default/Europe\nls -1\n").ok());
    names.sort();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(listed(&s.sftp("alice", "ls -1 /Default/Europe/one\n").ok()), std::slice::from_ref(&account));
    // Looking at the tree opens no session; nothing in it can be changed.
    assert!(s.world.admin.list("terminal/sessions/").await.is_empty());
    for script in ["mkdir /Default/new\n", "rm /Default/Europe\n", "rmdir /Default/Europe/one\n", "put x /Default/x\n"]
    {
        std::fs::write(s.here.path().join("x"), "x").unwrap();
        assert_ne!(s.sftp("alice", script).code, Some(0), "{script}");
    }

    let data: Vec<u8> = (0..700_000_u32).map(|n| (n % 253) as u8).collect();
    std::fs::write(s.here.path().join("up.bin"), &data).unwrap();
    let script = format!(
        "cd /Default/Europe/one/{account}\nput up.bin a.bin\nls -1\nget a.bin down1.bin\n\
         cd /Default/Europe/two/{account}\nput up.bin b.bin\nget b.bin down2.bin\nrename b.bin c.bin\nrm c.bin\n"
    );
    let done = s.sftp("alice", &script).ok();
    assert!(listed(&done).contains(&"a.bin".to_owned()), "{done:?}");
    for name in ["down1.bin", "down2.bin"] {
        assert!(std::fs::read(s.here.path().join(name)).unwrap() == data, "{name}");
    }
    assert!(std::fs::read(s.root.path().join("a.bin")).unwrap() == data);
    for (asset, wanted) in
        [(&s.one, &["upload", "download"][..]), (&s.two, &["upload", "download", "rename", "delete"])]
    {
        let sessions = s.world.ended_sessions(asset, 1).await;
        assert_eq!((sessions.len(), &sessions[0]["protocol"]), (1, &json!("sftp")));
        let rows = s.file_rows(&sessions[0]).await;
        let mut seen = operations(&rows);
        seen.sort_unstable();
        let mut wanted = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(seen, wanted, "{rows:#?}");
        assert!(rows.iter().all(|r| r["is_success"] == true), "{rows:#?}");
    }
    // From one asset to the other there is no way to rename.
    let script = format!("rename /Default/Europe/one/{account}/a.bin /Default/Europe/two/{account}/z.bin\n");
    assert_ne!(s.sftp("alice", &script).code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_granted_is_not_in_the_tree_and_a_withdrawn_grant_closes_what_is_open() {
    let s = stage().await;
    let account = s.sshd.user.clone();
    s.world.admin.delete(&format!("perms/asset-permissions/{}/", s.grants[1])).await;
    assert_eq!(listed(&s.sftp("alice", "ls -1 /Default/Europe\n").ok()), ["one"]);
    assert_ne!(s.sftp("alice", &format!("ls /Default/Europe/two/{account}\n")).code, Some(0));
    // A grant for ssh alone: the asset is known to the user, no account of it leads to files.
    let only_ssh = s.world.grant_with(&s.user, &s.two, json!({"protocols": ["ssh"]})).await;
    assert!(listed(&s.sftp("alice", "ls -1 /Default/Europe/two\n")).is_empty());
    assert_ne!(s.sftp("alice", &format!("ls /Default/Europe/two/{account}\n")).code, Some(0));
    assert_ne!(s.sftp(&format!("alice@{account}@two"), "ls\n").code, Some(0));
    s.world.admin.delete(&format!("perms/asset-permissions/{only_ssh}/")).await;

    // A client that is inside when the grant goes.
    let mut sftp = s.world.client("sftp");
    sftp.args(["-o", "User=alice", "127.0.0.1"]).current_dir(s.here.path());
    let mut client = gatehouse_tests::interactive::Interactive::start(&mut sftp);
    std::fs::write(s.root.path().join("inside.txt"), "x").unwrap();
    client.send(format!("ls -1 /Default/Europe/one/{account}\n"));
    client.expect("inside.txt");
    s.world.admin.delete(&format!("perms/asset-permissions/{}/", s.grants[0])).await;
    let sessions = s.world.ended_sessions(&s.one, 1).await;
    assert_eq!(sessions.len(), 1);
    client.send(format!("get /Default/Europe/one/{account}/inside.txt stolen.txt\nls -1 /\n"));
    client.finish();
    assert!(!s.here.path().join("stolen.txt").exists(), "{}", client.all());
    // Nothing is left to show.
    assert!(listed(&s.sftp("alice", "ls -1 /\n")).is_empty());
}

fn plant(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for sub in ["", "sub one", "sub one/deep", "日本"] {
        std::fs::create_dir_all(dir.join(sub)).unwrap();
        for n in 0..50_usize {
            let name = if sub.is_empty() { format!("f{n}") } else { format!("{sub}/f{n}") };
            let data = vec![u8::try_from(n).unwrap(); n * 211];
            std::fs::write(dir.join(&name), &data).unwrap();
            files.push((name, data));
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn directories_of_two_hundred_files_go_both_ways_directly_and_through_the_tree() {
    let s = stage().await;
    let files = plant(&s.here.path().join("many"));
    for (login, at) in [(s.direct(), String::new()), ("alice".into(), format!("/Default/Europe/two/{}", s.sshd.user))] {
        let there = if at.is_empty() { "direct" } else { "tree" };
        let script = format!("put -r many {at}/{there}\nget -r {at}/{there} back-{there}\n");
        let done = s.sftp(&login, &script).ok();
        for (name, data) in &files {
            for dir in [s.root.path().join(there), s.here.path().join(format!("back-{there}"))] {
                assert!(std::fs::read(dir.join(name)).is_ok_and(|d| d == *data), "{there} {name}: {done:?}");
            }
        }
    }
    for asset in [&s.one, &s.two] {
        let sessions = s.world.ended_sessions(asset, 1).await;
        let rows = s.file_rows(&sessions[0]).await;
        let count = |what: &str| operations(&rows).iter().filter(|o| **o == what).count();
        assert_eq!((count("upload"), count("download"), count("mkdir")), (200, 200, 4), "{asset}");
        assert!(rows.iter().all(|r| r["is_success"] == true));
        // Every row has its digest, an empty file too.
        let transfers = rows.iter().filter(|r| r["sha256"].as_str().is_some_and(|d| d.len() == 64)).count();
        assert_eq!(transfers, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renames_links_and_dots_stay_below_the_root() {
    let s = stage().await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "outside").unwrap();
    std::fs::write(s.root.path().join("a"), "A").unwrap();
    std::fs::write(s.root.path().join("b"), "B").unwrap();
    std::fs::create_dir(s.root.path().join("dir")).unwrap();
    std::os::unix::fs::symlink(outside.path(), s.root.path().join("dir/way-out")).unwrap();
    std::os::unix::fs::symlink("../a", s.root.path().join("dir/inside")).unwrap();
    let login = s.direct();

    // OpenSSH renames by posix-rename, which replaces; `-l` is the old one, which does not.
    s.sftp(&login, "rename a b\n").ok();
    assert_eq!(std::fs::read_to_string(s.root.path().join("b")).unwrap(), "A");
    std::fs::write(s.root.path().join("a"), "A2").unwrap();
    assert_ne!(s.sftp(&login, "rename -l a b\n").code, Some(0));
    assert_eq!(std::fs::read_to_string(s.root.path().join("b")).unwrap(), "A");
    // Links within the root work, those that lead out of it do not, nor does making one.
    s.sftp(&login, "get dir/inside got-inside\n").ok();
    assert_eq!(std::fs::read_to_string(s.here.path().join("got-inside")).unwrap(), "A2");
    let secret = outside.path().join("secret");
    std::fs::write(s.here.path().join("x"), "x").unwrap();
    for script in [
        "get dir/way-out/secret stolen\n".to_owned(),
        "put x dir/way-out/planted\n".to_owned(),
        "rm dir/way-out/secret\n".to_owned(),
        "rename a dir/way-out/a\n".to_owned(),
        "mkdir dir/way-out/new\n".to_owned(),
        format!("get {} stolen\n", secret.display()),
        format!("get ../../../../..{} stolen\n", secret.display()),
        format!("symlink {} made\nget made stolen\n", secret.display()),
        format!("symlink ../../../../../..{} made2\nget made2 stolen\n", secret.display()),
        format!("ln {} hard\n", secret.display()),
    ] {
        let done = s.sftp(&login, &script);
        assert_ne!(done.code, Some(0), "{script}: {done:?}");
        assert!(!s.here.path().join("stolen").exists(), "{script}");
    }
    let left: Vec<_> = std::fs::read_dir(outside.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
    assert_eq!(std::fs::read_to_string(s.root.path().join("a")).unwrap(), "A2");
}
