//! Bad input and bad days (issue "First light"): assets that are away, silent, lying or killed; clients that send garbage,
//! guess passwords or do not read; a disk and a data directory that are not as they should be. Each time: a clear sentence
//! where a person sees it, a row, and nobody else disturbed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::world::{SSH_OPTIONS, World};
use gatehouse_tests::{free_port, gatehouse_binary, run_limited};
use serde_json::json;
use sha2::{Digest, Sha256};

const LIMIT: Duration = Duration::from_secs(60);

struct Stage {
    world: World,
    sshd: Sshd,
    asset: String,
    user: String,
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
    fn shell(&self) -> Interactive {
        let mut shell = Interactive::start(self.world.client("ssh").args(["-tt", "-l", &self.login, "127.0.0.1"]));
        shell.send("PS1='re''ady> '\r");
        shell.expect("ready> ");
        shell
    }

    /// Resident memory of the daemon, bytes.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.world.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

/// An asset that does this with every connection.
fn impostor(act: impl Fn(TcpStream) + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let act = std::sync::Arc::new(act);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let act = std::sync::Arc::clone(&act);
            std::thread::spawn(move || act(stream));
        }
    });
    port
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
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

#[tokio::test(flavor = "multi_thread")]
async fn assets_that_are_away_silent_closing_or_talking_garbage_are_a_clear_failure_each() {
    let s = stage().await;
    let key = &s.sshd.private_key;
    let cases = [
        ("closed-port", free_port(), "connection refused"),
        ("closes-early", impostor(drop), "closed"),
        (
            "garbage",
            impostor(|mut stream| {
                let _ = stream.write_all(&noise(200_000, 77));
                let _ = stream.read(&mut [0; 64]);
            }),
            "127.0.0.1",
        ),
        (
            "web-server",
            impostor(|mut stream| {
                let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                let _ = stream.read(&mut [0; 64]);
            }),
            "127.0.0.1",
        ),
        // Accepts and says nothing: given up after the handshake's time.
        ("silent", impostor(|_stream| std::thread::sleep(LIMIT)), "did not"),
    ];
    let mut waiting = Vec::new();
    for (name, port, wanted) in cases {
        let asset = s.world.add_bare_host(name, "127.0.0.1", port).await;
        s.world.add_key_account(&asset, "root", key).await;
        s.world.grant(&s.user, &asset).await;
        let mut ssh = s.world.ssh(&format!("alice@root@{name}"), &["echo in"]);
        let run = std::thread::spawn(move || run_limited(&mut ssh, b"", LIMIT));
        waiting.push((name, asset, wanted, run));
    }
    // While they are tried, the good asset works.
    run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", Duration::from_secs(10)).ok();
    for (name, asset, wanted, run) in waiting {
        let done = run.join().unwrap();
        assert!(done.code == Some(255) && done.stdout.is_empty(), "{name}: {done:?}");
        assert!(done.stderr.contains("Cannot connect: ") && done.stderr.contains(wanted), "{name}: {}", done.stderr);
        // What a liar sent does not reach the terminal.
        assert!(done.stderr.len() < 1_000 && !done.stderr.contains('\u{1b}'), "{name}: {:?}", done.stderr);
        let rows = s.world.ended_sessions(&asset, 1).await;
        assert_eq!(
            (&rows[0]["is_success"], &rows[0]["error_reason"]["value"]),
            (&json!(false), &json!("connect_failed"))
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_host_key_is_refused_until_an_administrator_forgets_the_old_one() {
    let mut s = stage().await;
    run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", LIMIT).ok();
    s.sshd.change_host_key();
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo in"]), b"", LIMIT);
    assert!(done.code == Some(255) && done.stdout.is_empty(), "{done:?}");
    assert!(done.stderr.contains("host key"), "{}", done.stderr);
    let keys = s.world.admin.list(&format!("gatehouse/host-keys/?asset={}", s.asset)).await;
    assert!(done.stderr.contains(keys[0]["fingerprint"].as_str().unwrap()), "{} {keys:?}", done.stderr);
    for key in &keys {
        s.world.admin.delete(&format!("gatehouse/host-keys/{}/", id(key))).await;
    }
    run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", LIMIT).ok();
    let again = s.world.admin.list(&format!("gatehouse/host-keys/?asset={}", s.asset)).await;
    assert_ne!(again[0]["fingerprint"], keys[0]["fingerprint"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asset_that_is_killed_ends_its_session_at_once_with_a_reason() {
    let mut s = stage().await;
    let mut shell = s.shell();
    let begin = Instant::now();
    s.sshd.cut();
    shell.expect("the connection to the asset was lost");
    assert_eq!(shell.wait_end(Duration::from_secs(10)), Some(255));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    let rows = s.world.ended_sessions(&s.asset, 1).await;
    assert_eq!(rows[0]["end_reason"], "the connection to the asset was lost");
}

/// Garbage instead of an SSH version, after one, and on an SSH connection that is encrypted already.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_before_and_after_authentication_disturbs_nobody() {
    let s = stage().await;
    let mut shell = s.shell();
    for seed in 1..=20 {
        for prefix in [&b""[..], b"SSH-2.0-x\r\n", b"SSH-2.0-x\r\n\x00\x00\x00\x0c\x0a\x14"] {
            let mut stream = TcpStream::connect(("127.0.0.1", s.world.ssh)).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            let _ = stream.write_all(&[prefix, &noise(20_000, seed)].concat());
            let _ = stream.read(&mut [0; 4096]);
        }
    }
    // After it: bytes of an authenticated client are damaged on the way. More than the longest packet follows, because a
    // damaged length shows only when so much has come.
    for at in [6_000, 9_000] {
        let to = s.world.ssh;
        let middle = impostor(move |client| {
            let server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            let (mut back_from, mut back_to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut back_from, &mut back_to));
            let (mut from, mut server) = (client, server);
            let (mut seen, mut buffer) = (0, [0; 1024]);
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                if seen + n > at {
                    buffer[n / 2] ^= 0xff;
                }
                seen += n;
                if server.write_all(&buffer[..n]).is_err() {
                    return;
                }
            }
        });
        let mut ssh = Command::new("sshpass");
        ssh.args(["-p", gatehouse_tests::world::USER_PASSWORD, "ssh"]).args(SSH_OPTIONS);
        ssh.args(["-p", &middle.to_string(), "-l", &s.login, "127.0.0.1", "wc -c"]);
        let done = run_limited(&mut ssh, &vec![7; 3_000_000], LIMIT);
        assert_ne!(done.code, Some(0), "{done:?}");
    }
    shell.send("echo un-$((40+2))\r");
    shell.expect("un-42");
    run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", LIMIT).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_guesses_from_one_address_do_not_keep_others_out_and_are_all_logged() {
    let s = stage().await;
    // The lock by address would end it after fifty; here everything is to be checked.
    s.world.admin.patch("settings/setting/", json!({"SECURITY_LOGIN_IP_LIMIT_COUNT": 100_000})).await;
    let port = s.world.ssh.to_string();
    let guessers: Vec<_> = (0..4)
        .map(|worker| {
            let port = port.clone();
            std::thread::spawn(move || {
                let guess = |n: usize| {
                    let mut ssh = Command::new("sshpass");
                    ssh.args(["-p", "Wrong-Guess-1", "ssh"]).args(SSH_OPTIONS).args(["-b", "127.0.0.2"]);
                    ssh.args(["-o", "PreferredAuthentications=password", "-p", &port]);
                    ssh.args(["-l", &format!("guess-{worker}-{n}"), "127.0.0.1", "true"]);
                    run_limited(&mut ssh, b"", LIMIT).code
                };
                (0..250).filter(|n| guess(*n) == Some(0)).count()
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    while !guessers.iter().all(std::thread::JoinHandle::is_finished) {
        let begin = Instant::now();
        run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", Duration::from_secs(20)).ok();
        slowest = slowest.max(begin.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    for guesser in guessers {
        assert_eq!(guesser.join().unwrap(), 0, "a guess was right");
    }
    assert!(slowest < Duration::from_secs(10), "a log-in took {slowest:?}");
    // Names that nobody has belong to no organization.
    let all = s.world.admin.in_org(gatehouse_tests::api::ROOT_ORG);
    let page = all.get("audits/login-logs/?ip=127.0.0.2&limit=1").await;
    assert_eq!(page["count"], 1_000, "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_does_not_read_makes_the_daemon_grow() {
    let s = stage().await;
    // Warm: every path once, with more than any buffer holds.
    let warm = noise(40 << 20, 5);
    let done = run_limited(&mut s.world.ssh(&s.login, &["cat"]), &warm, LIMIT).ok();
    assert_eq!(Sha256::digest(&done.stdout), Sha256::digest(&warm));
    // The floods begin only when both are logged in: checking a password takes 19 MiB for a moment, whoever reads.
    let go = s.world.dir.path().join("go");
    let stalled = |command: &str, stdin: Stdio| {
        let mut ssh = s.world.ssh(&s.login, &[command]);
        ssh.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    };
    // A user who does not read; an asset that does not.
    let wait = format!("until [ -e {} ]; do sleep 0.1; done; exec head -c 2000000000 /dev/zero", go.display());
    let mut held = vec![stalled(&wait, Stdio::null()), stalled("exec sleep 60", Stdio::piped())];
    let end = Instant::now() + LIMIT;
    while s.world.admin.list("terminal/sessions/?is_finished=0").await.len() < 2 {
        assert!(Instant::now() < end, "the sessions did not begin");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = s.resident();
    std::fs::write(&go, "").unwrap();
    let mut stdin = held[1].stdin.take().unwrap();
    let flood = std::thread::spawn(move || {
        let mut taken = 0_u64;
        while stdin.write_all(&[0; 65536]).is_ok() {
            taken += 65536;
        }
        taken
    });
    let mut most = before;
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        most = most.max(s.resident());
    }
    // The others do not notice.
    let begin = Instant::now();
    run_limited(&mut s.world.ssh(&s.login, &["true"]), b"", LIMIT).ok();
    assert!(begin.elapsed() < Duration::from_secs(5));
    for child in &mut held {
        let _ = child.kill();
        let _ = child.wait();
    }
    let grown = most.saturating_sub(before);
    assert!(grown <= 8 << 20, "{} KiB more than before", grown / 1024);
    // They were doing something: some of it was taken from each, and no more than windows and buffers hold.
    let taken = flood.join().unwrap();
    assert!((1 << 16..64 << 20).contains(&taken), "{taken}");
    let rows = s.world.ended_sessions(&s.asset, 4).await;
    assert!(rows.iter().any(|r| r["bytes_out"].as_u64() > Some(1 << 16)), "{rows:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarter_gibibyte_goes_through_a_command_both_ways_unchanged() {
    let s = stage().await;
    let data = noise(256 << 20, 9);
    let done = run_limited(&mut s.world.ssh(&s.login, &["cat"]), &data, Duration::from_secs(180)).ok();
    assert_eq!(done.stdout.len(), data.len());
    assert_eq!(Sha256::digest(&done.stdout), Sha256::digest(&data));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_cannot_be_recorded_does_not_begin() {
    let s = stage().await;
    let ran = s.world.dir.path().join("ran");
    let recordings = s.world.data.join("recordings");
    assert!(recordings.is_dir());
    std::fs::rename(&recordings, s.world.data.join("recordings-away")).unwrap();
    std::fs::write(&recordings, "not a directory").unwrap();
    let done = run_limited(&mut s.world.ssh(&s.login, &[&format!("touch {}", ran.display())]), b"", LIMIT);
    assert_ne!(done.code, Some(0));
    assert!(done.stderr.contains("record"), "{}", done.stderr);
    assert!(!ran.exists(), "an unrecorded command ran");
    let mut shell = Interactive::start(s.world.client("ssh").args(["-tt", "-l", &s.login, "127.0.0.1"]));
    shell.expect("record");
    assert_ne!(shell.wait_end(LIMIT), Some(0));
    // Repaired, it goes on without a restart.
    std::fs::remove_file(&recordings).unwrap();
    std::fs::rename(s.world.data.join("recordings-away"), &recordings).unwrap();
    run_limited(&mut s.world.ssh(&s.login, &[&format!("touch {}", ran.display())]), b"", LIMIT).ok();
    assert!(ran.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_in_use_or_with_a_damaged_key_and_a_wrong_configuration_are_said_so() {
    let mut world = World::start().await;
    let config = world.dir.path().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let other = world.dir.path().join("other.toml");
    let run = |config: &std::path::Path| {
        run_limited(Command::new(gatehouse_binary()).args(["run", "--config"]).arg(config), b"", LIMIT)
    };
    let said = |done: &gatehouse_tests::Output| format!("{}{}", done.text(), done.stderr);

    // A second daemon on the same data, on other ports.
    let moved = text
        .replace(&world.https.to_string(), &free_port().to_string())
        .replace(&world.ssh.to_string(), &free_port().to_string());
    std::fs::write(&other, moved).unwrap();
    let done = run(&other);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(said(&done).contains("in use") || said(&done).contains("another"), "{done:?}");
    // The first does not notice.
    assert_eq!(world.admin.get("users/profile/").await["username"], "admin");
    world.stop();

    // Keys that are not known, and usage.
    std::fs::write(&other, format!("dta = \"x\"\n{text}")).unwrap();
    let done = run(&other);
    assert!(matches!(done.code, Some(1 | 2)) && said(&done).contains("dta"), "{done:?}");
    for args in [&["no-such-command"][..], &["run", "--no-such-flag"], &[]] {
        let done = run_limited(Command::new(gatehouse_binary()).args(args), b"", LIMIT);
        assert_eq!(done.code, Some(2), "{args:?} {done:?}");
        assert!(done.stderr.contains("Usage"), "{done:?}");
    }
    let done = run(std::path::Path::new("/nonexistent/gatehouse.toml"));
    assert!(done.code == Some(1) && said(&done).contains("/nonexistent/gatehouse.toml"), "{done:?}");

    // The root key, damaged, cut short and gone.
    let key = world.data.join("root.key");
    let good = std::fs::read(&key).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    for damaged in [Some(bad), Some(good[..good.len() / 2].to_vec()), None] {
        match &damaged {
            // Written in place, so that it stays readable to its owner only.
            Some(bytes) => std::fs::write(&key, bytes).unwrap(),
            None => std::fs::rename(&key, key.with_extension("away")).unwrap(),
        }
        let done = run(&config);
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(said(&done).contains("key"), "{done:?}");
        assert!(!said(&done).contains("panicked"), "{done:?}");
    }
    std::fs::rename(key.with_extension("away"), &key).unwrap();
    std::fs::write(&key, &good).unwrap();
    world.restart().await;
}

/// A client that has sent everything closes its channel as soon as it sees the end of the output.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_closes_its_output_before_it_ends_keeps_its_exit_status() {
    let s = stage().await;
    let closes = "echo out; exec >&- 2>&-; sleep 0.5; exit 3";
    let done = run_limited(&mut s.world.ssh(&s.login, &[closes]), b"", LIMIT);
    assert_eq!((done.code, done.text().as_str()), (Some(3), "out\n"), "{done:?}");
}
