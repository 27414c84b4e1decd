//! The clients people already use, through the gateway to a real sshd: each leaves a session, its commands or files, and
//! a recording (issue "First light", P02-P06, U05, U08, U09).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::run_limited;
use gatehouse_tests::world::{USER_PASSWORD, World};
use serde_json::Value;
use sha2::{Digest, Sha256};

const LIMIT: Duration = Duration::from_secs(60);

struct Stage {
    world: World,
    sshd: Sshd,
    asset: String,
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
    Stage { world, sshd, asset, login }
}

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(bytes))
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

impl Stage {
    /// The session's replay as raw output bytes.
    async fn raw_replay(&self, session: &Value) -> Vec<u8> {
        let path = format!("terminal/sessions/{}/replay/download/?type=raw", session["id"].as_str().unwrap());
        let (status, bytes) = self.world.admin.raw(reqwest::Method::GET, &path, None).await;
        assert_eq!(status, 200, "{}", String::from_utf8_lossy(&bytes));
        bytes
    }

    async fn file_rows(&self, session: &Value) -> Vec<Value> {
        let path = format!("audits/ftp-logs/?session={}&limit=100", session["id"].as_str().unwrap());
        self.world.admin.list(&path).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_passes_status_output_and_errors_and_is_recorded() {
    let s = stage().await;
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo out; echo err >&2; exit 7"]), b"", LIMIT);
    assert_eq!((done.code, done.text().as_str()), (Some(7), "out\n"));
    assert!(done.stderr.contains("err"), "{}", done.stderr);

    let sessions = s.world.ended_sessions(&s.asset, 1).await;
    let session = &sessions[0];
    assert_eq!(session["protocol"], "ssh");
    assert_eq!(session["is_success"], true);
    let commands = s.world.admin.list(&format!("terminal/commands/?session={}", session["id"].as_str().unwrap())).await;
    assert_eq!(commands.len(), 1);
    assert_eq!(commands[0]["input"], "echo out; echo err >&2; exit 7");
    let replay = String::from_utf8_lossy(&s.raw_replay(session).await).into_owned();
    assert!(replay.contains("out") && replay.contains("err"), "{replay}");
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_carries_binary_both_ways_byte_identical() {
    let s = stage().await;
    let data = noise(20 << 20);
    let done = run_limited(&mut s.world.ssh(&s.login, &["cat"]), &data, LIMIT).ok();
    assert_eq!(hex(&done.stdout), hex(&data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shell_with_a_terminal_leaves_its_commands_and_a_recording_equal_to_what_was_seen() {
    let s = stage().await;
    let mut shell = Interactive::start(s.world.client("ssh").args(["-tt", "-l", &s.login, "127.0.0.1"]));
    // Written so that the echo of the line is not taken for the prompt.
    shell.send("PS1='re''ady> '; stty -echoctl\n");
    shell.expect("ready> ");
    shell.send("echo first-$((40+2))\n");
    shell.expect("first-42");
    shell.expect("ready> ");
    shell.send("exit 3\n");
    assert_eq!(shell.wait_end(Duration::from_secs(20)), Some(3));

    let sessions = s.world.ended_sessions(&s.asset, 1).await;
    let path = format!("terminal/commands/?session={}&order=timestamp", sessions[0]["id"].as_str().unwrap());
    let commands: Vec<String> =
        s.world.admin.list(&path).await.iter().map(|c| c["input"].as_str().unwrap().to_owned()).collect();
    assert!(commands.contains(&"echo first-$((40+2))".to_owned()), "{commands:?}");
    assert!(commands.contains(&"exit 3".to_owned()), "{commands:?}");
    let replay = s.raw_replay(&sessions[0]).await;
    let seen = shell.bytes();
    assert!(
        seen.windows(replay.len().max(1)).any(|w| w == replay) || replay == seen,
        "the recording differs from what the terminal saw\nrecorded: {:?}\nseen: {:?}",
        String::from_utf8_lossy(&replay),
        String::from_utf8_lossy(&seen)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sftp_moves_files_both_ways_and_each_is_audited_with_size_and_digest() {
    let s = stage().await;
    let data = noise(5 << 20);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("up.bin"), &data).unwrap();
    let remote = tempfile::Builder::new().prefix("gh-sftp-").tempdir_in("/tmp").unwrap();
    let name = remote.path().file_name().unwrap().to_str().unwrap().to_owned();
    let script = format!(
        "put {local}/up.bin {name}/a.bin\nmkdir {name}/sub\nrename {name}/a.bin {name}/sub/b.bin\n\
         get {name}/sub/b.bin {local}/down.bin\nrm {name}/sub/b.bin\nrmdir {name}/sub\n",
        local = dir.path().display()
    );
    let mut sftp = s.world.client("sftp");
    sftp.args(["-o", "BatchMode=no", "-o", &format!("User={}", s.login), "127.0.0.1"]);
    let done = run_limited(&mut sftp, script.as_bytes(), LIMIT);
    assert_eq!(done.code, Some(0), "{done:?}");
    assert_eq!(hex(&std::fs::read(dir.path().join("down.bin")).unwrap_or_default()), hex(&data), "{done:?}");

    let sessions = s.world.ended_sessions(&s.asset, 1).await;
    let rows = s.file_rows(&sessions[0]).await;
    let find = |operate: &str| {
        rows.iter()
            .find(|r| r["operate"]["value"] == operate || r["operate"] == operate)
            .unwrap_or_else(|| panic!("no {operate} in {rows:#?}"))
    };
    for operate in ["upload", "download"] {
        let row = find(operate);
        assert_eq!(row["size"], data.len(), "{row}");
        assert_eq!(row["sha256"], hex(&data), "{row}");
        assert_eq!(row["is_success"], true);
        assert_eq!(row["has_file"], true, "{row}");
    }
    for operate in ["mkdir", "rename", "delete", "rmdir"] {
        find(operate);
    }
    let kept = format!("audits/ftp-logs/{}/file/", find("upload")["id"].as_str().unwrap());
    let (status, bytes) = s.world.admin.raw(reqwest::Method::GET, &kept, None).await;
    assert_eq!((status, hex(&bytes)), (200, hex(&data)));
}

#[tokio::test(flavor = "multi_thread")]
async fn scp_old_and_new_protocol_copy_both_ways_and_are_audited() {
    let s = stage().await;
    for (flag, name) in [("-O", "old"), ("-s", "new")] {
        let data = noise(3 << 20);
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("up.bin"), &data).unwrap();
        let remote = tempfile::Builder::new().prefix("gh-scp-").tempdir_in("/tmp").unwrap();
        let there = if flag == "-O" {
            format!("{}/x.bin", remote.path().display())
        } else {
            // SFTP paths start at the platform's root, /tmp.
            format!("/{}/x.bin", remote.path().file_name().unwrap().to_str().unwrap())
        };
        let login = &s.login;
        for (from, to) in [
            (dir.path().join("up.bin").display().to_string(), format!("[{login}@127.0.0.1]:{there}")),
            (format!("[{login}@127.0.0.1]:{there}"), dir.path().join("down.bin").display().to_string()),
        ] {
            let host = |p: String| p.replace(&format!("[{login}@127.0.0.1]:"), "127.0.0.1:");
            let mut scp = s.world.client("scp");
            scp.args([flag, "-q", "-o", &format!("User={login}"), &host(from), &host(to)]);
            run_limited(&mut scp, b"", LIMIT).ok();
        }
        assert_eq!(hex(&std::fs::read(remote.path().join("x.bin")).unwrap()), hex(&data), "{name}: upload");
        assert_eq!(hex(&std::fs::read(dir.path().join("down.bin")).unwrap()), hex(&data), "{name}: download");
    }
    let sessions = s.world.ended_sessions(&s.asset, 4).await;
    for session in &sessions {
        let rows = s.file_rows(session).await;
        let with_digest = rows.iter().filter(|r| r["sha256"].as_str().is_some_and(|d| d.len() == 64)).count();
        assert_eq!(with_digest, 1, "session {session}: {rows:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rsync_copies_a_tree_both_ways() {
    let s = stage().await;
    let (from, back) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let there = tempfile::tempdir().unwrap();
    std::fs::create_dir(from.path().join("sub")).unwrap();
    std::fs::write(from.path().join("a.bin"), noise(1 << 20)).unwrap();
    std::fs::write(from.path().join("sub/b.txt"), "hello").unwrap();
    let ssh = s.world.client("ssh");
    let shell = std::iter::once(ssh.get_program())
        .chain(ssh.get_args())
        .map(|a| a.to_str().unwrap().to_owned())
        .chain(["-l".to_owned(), s.login.clone()])
        .collect::<Vec<_>>()
        .join(" ");
    for (src, dst) in [
        (format!("{}/", from.path().display()), format!("127.0.0.1:{}/", there.path().display())),
        (format!("127.0.0.1:{}/", there.path().display()), format!("{}/", back.path().display())),
    ] {
        run_limited(Command::new("rsync").args(["-a", "-e", &shell, &src, &dst]), b"", LIMIT).ok();
    }
    assert_eq!(std::fs::read(back.path().join("a.bin")).unwrap(), std::fs::read(from.path().join("a.bin")).unwrap());
    assert_eq!(std::fs::read_to_string(back.path().join("sub/b.txt")).unwrap(), "hello");
    let sessions = s.world.ended_sessions(&s.asset, 2).await;
    for session in sessions {
        let path = format!("terminal/commands/?session={}", session["id"].as_str().unwrap());
        let commands = s.world.admin.list(&path).await;
        assert!(commands[0]["input"].as_str().unwrap().starts_with("rsync --server"), "{commands:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plink_runs_a_command() {
    let s = stage().await;
    let fingerprints = run_limited(
        Command::new("ssh-keyscan").args(["-p", &s.world.ssh.to_string(), "-t", "ed25519", "127.0.0.1"]),
        b"",
        LIMIT,
    );
    let mut keyed = Command::new("ssh-keygen");
    let line = run_limited(keyed.args(["-lf", "-"]), &fingerprints.stdout, LIMIT).ok().text();
    let fingerprint = line.split_whitespace().find(|w| w.starts_with("SHA256:")).unwrap().to_owned();
    let mut plink = Command::new("plink");
    plink.args(["-batch", "-ssh", "-P", &s.world.ssh.to_string(), "-hostkey", &fingerprint, "-pw", USER_PASSWORD]);
    plink.args(["-l", &s.login, "127.0.0.1", "echo from-plink"]);
    let done = run_limited(&mut plink, b"", LIMIT);
    assert_eq!((done.code, done.text().as_str()), (Some(0), "from-plink\n"), "{}", done.stderr);
    s.world.ended_sessions(&s.asset, 1).await;
}

fn python(script: &str, args: &[&str]) -> Command {
    let mut command = Command::new(gatehouse_tests::python());
    command.args(["-c", script]).args(args);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn paramiko_runs_a_command_and_copies_a_file() {
    let s = stage().await;
    let script = r"
import sys, io, paramiko
port, user, password = int(sys.argv[1]), sys.argv[2], sys.argv[3]
c = paramiko.SSHClient(); c.set_missing_host_key_policy(paramiko.AutoAddPolicy())
c.connect('127.0.0.1', port, user, password, allow_agent=False, look_for_keys=False)
i, o, e = c.exec_command('echo from-paramiko')
print(o.read().decode().strip(), o.channel.recv_exit_status())
f = c.open_sftp(); f.putfo(io.BytesIO(b'x' * 300000), 'gh-paramiko.txt')
b = io.BytesIO(); f.getfo('gh-paramiko.txt', b); f.remove('gh-paramiko.txt')
print(len(b.getvalue())); c.close()
";
    let mut command = python(script, &[&s.world.ssh.to_string(), &s.login, USER_PASSWORD]);
    let done = run_limited(&mut command, b"", LIMIT).ok();
    assert_eq!(done.text(), "from-paramiko 0\n300000\n");
    s.world.ended_sessions(&s.asset, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ansible_pings_the_asset_through_the_gateway() {
    let s = stage().await;
    let ansible = gatehouse_tests::python().with_file_name("ansible");
    let dir = tempfile::tempdir().unwrap();
    let inventory = format!(
        "web1 ansible_host=127.0.0.1 ansible_port={} ansible_user={} ansible_password={USER_PASSWORD} \
         ansible_python_interpreter=/usr/bin/python3 \
         ansible_ssh_common_args='-F none -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlPath=none'\n",
        s.world.ssh, s.login
    );
    std::fs::write(dir.path().join("inventory"), inventory).unwrap();
    let mut command = Command::new(ansible);
    command
        .current_dir(dir.path())
        .env("ANSIBLE_HOST_KEY_CHECKING", "False")
        .env("ANSIBLE_LOCAL_TEMP", dir.path())
        .env("ANSIBLE_HOME", dir.path())
        .env("LC_ALL", "C.UTF-8")
        .args(["-i", "inventory", "web1", "-m", "ping"]);
    let done = run_limited(&mut command, b"", Duration::from_secs(120));
    assert!(done.code == Some(0) && done.text().contains("\"ping\": \"pong\""), "{done:?}");
    assert!(!s.world.ended_sessions(&s.asset, 1).await.is_empty());
    drop(s.sshd);
}
