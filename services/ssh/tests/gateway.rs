//! The gateway between OpenSSH's own client and server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod world;

use std::time::{Duration, Instant};

use gatehouse_model::grant::AssetPermission;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::session::{CommandConfidence, CommandRow, RiskLevel, SessionError, SessionType};
use gatehouse_model::user::User;
use gatehouse_record::{Event, MasterKey, Reader, verify};
use gatehouse_session::WatchFrame;
use gatehouse_store::{OrgFilter, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use world::{ORG, RECORDING_KEY, World};

const PATIENCE: Duration = Duration::from_secs(30);

async fn output(mut command: tokio::process::Command) -> (String, String, i32) {
    command.stdin(std::process::Stdio::null());
    let out = timeout(PATIENCE, command.output()).await.expect("ssh hangs").unwrap();
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    (text(&out.stdout), text(&out.stderr), out.status.code().unwrap_or(-1))
}

fn commands(world: &World) -> Vec<CommandRow> {
    let query = Query { kinds: vec![LedgerKind::Command], limit: 100, ..Query::new(OrgFilter::One(ORG)) };
    let rows = world.store.ledger().query(&query).unwrap();
    rows.into_iter().map(|e| serde_json::from_value(e.entry.body.clone()).unwrap()).collect()
}

/// Everything that the recording of a session shows, after it was verified.
fn recorded(world: &World, session: &gatehouse_model::session::Session) -> (Vec<u8>, Vec<u8>) {
    let replay = session.replay.as_ref().expect("a recording");
    let path = world.path("rec").join(&replay.file);
    let key = MasterKey::new(RECORDING_KEY);
    let digest: Vec<u8> =
        (0..64).step_by(2).map(|i| u8::from_str_radix(&replay.digest[i..i + 2], 16).unwrap()).collect();
    verify(&path, &key, Some(digest.try_into().unwrap())).unwrap();
    let (mut shown, mut typed) = (Vec::new(), Vec::new());
    for entry in Reader::open(&path, &key).unwrap().events() {
        match entry.unwrap().event {
            Event::Output(data) => shown.extend_from_slice(&data),
            Event::Input(data) => typed.extend_from_slice(&data),
            _ => {}
        }
    }
    (shown, typed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_with_its_status_and_leaves_its_record() {
    let world = World::new().await;
    let mut ssh = world.ssh(&world.direct(), &[]);
    ssh.arg("echo out; echo err >&2; exit 7");
    let (stdout, stderr, status) = output(ssh).await;
    assert_eq!((stdout.as_str(), stderr.as_str(), status), ("out\n", "err\n", 7));
    let sessions = world.closed_sessions(1).await;
    let session = &sessions[0];
    assert!(session.is_success && session.has_replay && session.cmd_amount == 1, "{session:?}");
    assert_eq!(session.r#type, SessionType::Command);
    let rows = commands(&world);
    assert_eq!(rows[0].input, "echo out; echo err >&2; exit 7");
    assert_eq!((rows[0].confidence, rows[0].risk_level), (CommandConfidence::Exec, RiskLevel::Accept));
    assert!(rows[0].output.contains("out\n") && rows[0].output.contains("err\n"), "{rows:?}");
    let shown = String::from_utf8(recorded(&world, session).0).unwrap();
    assert!(shown.contains("out\n") && shown.contains("err\n"), "{shown}");

    let mut ssh = world.ssh(&world.direct(), &[]);
    ssh.arg("kill -TERM $$");
    let (_, _, status) = output(ssh).await;
    assert_eq!(status, 255, "a signal is passed on as ssh shows it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forbidden_command_never_reaches_the_asset() {
    let world = World::new().await;
    let file = world.path("made");
    let mut ssh = world.ssh(&world.direct(), &[]);
    ssh.arg(format!("touch {}; touch   forbidden", file.display()));
    let (_, stderr, status) = output(ssh).await;
    assert_eq!(status, 126);
    assert!(stderr.contains("forbidden by the rule \"no touching\""), "{stderr}");
    assert!(!file.exists());
    world.closed_sessions(1).await;
    assert_eq!(commands(&world)[0].risk_level, RiskLevel::Reject);

    // The same, typed into a shell.
    let mut ssh = world.ssh(&world.direct(), &["-tt"]).spawn().unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let mut seen = String::new();
    read_until(&mut stdout, &mut seen, "$ ").await;
    let second = world.path("second");
    stdin.write_all(format!("PS1='ready> '\rcd {}\r", world.dir.path().display()).as_bytes()).await.unwrap();
    read_until(&mut stdout, &mut seen, "ready> cd ").await;
    read_until(&mut stdout, &mut seen, "ready> ").await;
    stdin.write_all(b"touch second; touch forbidden\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "is forbidden by the rule").await;
    stdin.write_all(b"echo still-$((1+1))\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "still-2").await;
    stdin.write_all(b"exit 3\r").await.unwrap();
    let status = timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(3), "{seen}");
    assert!(!second.exists() && !world.path("forbidden").exists());
    let sessions = world.closed_sessions(2).await;
    let rows = commands(&world);
    let row = |text: &str| rows.iter().find(|r| r.input == text).unwrap_or_else(|| panic!("{text}: {rows:?}")).clone();
    assert_eq!(row("touch second; touch forbidden").risk_level, RiskLevel::Reject);
    let kept = row("echo still-$((1+1))");
    assert_eq!((kept.risk_level, kept.output.trim()), (RiskLevel::Accept, "still-2"));
    // The recording is what the terminal saw.
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).await.unwrap();
    seen.push_str(&String::from_utf8_lossy(&rest));
    assert_eq!(String::from_utf8(recorded(&world, &sessions[1]).0).unwrap(), seen);
}

async fn read_until(stdout: &mut (impl AsyncReadExt + Unpin), seen: &mut String, what: &str) {
    let mut buffer = [0; 4096];
    let from = seen.len();
    let wait = async {
        // A shell of root has another prompt.
        let there = |text: &str| text.contains(what) || what == "$ " && text.contains("# ");
        while !there(&seen[from..]) {
            let n = stdout.read(&mut buffer).await.unwrap();
            assert!(n > 0, "the session ended before {what:?}: {seen}");
            seen.push_str(&String::from_utf8_lossy(&buffer[..n]));
        }
    };
    if timeout(PATIENCE, wait).await.is_err() {
        panic!("{what:?} did not show: {seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_for_a_shell_without_a_terminal_is_judged_line_by_line() {
    let world = World::new().await;
    let mut ssh = world.ssh(&world.direct(), &["-T"]).spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    let script = format!("cd {}\necho one\ntouch made; touch forbidden\necho two", world.dir.path().display());
    stdin.write_all(script.as_bytes()).await.unwrap();
    drop(stdin);
    let out = timeout(PATIENCE, ssh.wait_with_output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("one\n") && text.contains("two\n"), "{text} {}", String::from_utf8_lossy(&out.stderr));
    assert!(String::from_utf8_lossy(&out.stderr).contains("forbidden by the rule"));
    assert!(!world.path("made").exists());
    world.closed_sessions(1).await;
    let refused = commands(&world).into_iter().filter(|r| r.risk_level == RiskLevel::Reject).count();
    assert_eq!((commands(&world).len(), refused), (5, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_leaves_while_the_asset_does_not_read_leaves_nothing_behind() {
    let world = World::new().await;
    let mut ssh = world.ssh(&world.direct(), &[]);
    let mut ssh = ssh.arg("sleep 60").spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    let pushing = tokio::spawn(async move {
        let block = vec![0; 64 * 1024];
        let mut sent = 0_usize;
        while stdin.write_all(&block).await.is_ok() {
            sent += block.len();
            if sent > 64 * 1024 * 1024 {
                break;
            }
        }
        sent
    });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let moved = world.core.live().list(Some(ORG))[0].session.bytes_in;
    assert!(moved < 8 * 1024 * 1024, "the gateway took {moved} bytes for an asset that does not read");
    ssh.kill().await.unwrap();
    assert!(pushing.await.unwrap() < 16 * 1024 * 1024, "the user's client was not held");
    let sessions = world.closed_sessions(1).await;
    assert_eq!(sessions[0].end_reason, "the user closed the connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_duplex_moves_every_byte_and_records_both_ways() {
    let world = World::new().await;
    const SIZE: usize = 48 * 1024 * 1024;
    let mut ssh = world.ssh(&world.direct(), &[]);
    let mut ssh = ssh.arg("cat").spawn().unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let data: Vec<u8> = (0..SIZE).map(|i| ((i * 31) ^ (i >> 9)) as u8).collect();
    let sent = data.clone();
    let writing = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        drop(stdin);
    });
    let mut back = Vec::with_capacity(SIZE);
    timeout(Duration::from_secs(50), stdout.read_to_end(&mut back)).await.expect("a deadlock").unwrap();
    writing.await.unwrap();
    assert!(back == data, "{} of {SIZE} bytes", back.len());
    let sessions = world.closed_sessions(1).await;
    assert_eq!((sessions[0].bytes_in, sessions[0].bytes_out), (SIZE as u64, SIZE as u64));
    let (shown, typed) = recorded(&world, &sessions[0]);
    assert!(shown == data && typed == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_is_watched_paused_and_ended_and_a_withdrawn_grant_ends_it() {
    let world = World::new().await;
    let auditor = (*world.store.system().get::<User>(world.user).unwrap().unwrap()).clone();
    let mut ssh = world.ssh(&world.direct(), &["-tt"]).spawn().unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let mut seen = String::new();
    read_until(&mut stdout, &mut seen, "$ ").await;
    let live = world.core.live();
    let id = live.list(Some(ORG))[0].session.id;
    assert!(live.list(Some(uuid::Uuid::from_u128(99))).is_empty(), "another organization sees nothing");
    let mut watch = live.watch(Some(ORG), id, &auditor, "192.0.2.1").await.unwrap();
    assert!(matches!(watch.next().await, Some(WatchFrame::Screen { .. })));
    stdin.write_all(b"echo watch-$((20+3))\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "watch-23").await;
    let mut watched = Vec::new();
    while !String::from_utf8_lossy(&watched).contains("watch-23") {
        if let Some(WatchFrame::Output { data, .. }) = timeout(PATIENCE, watch.next()).await.unwrap() {
            watched.extend_from_slice(&data);
        }
    }
    live.pause(Some(ORG), id, &auditor, "192.0.2.1").await.unwrap();
    read_until(&mut stdout, &mut seen, "was paused by Kim(kim)").await;
    stdin.write_all(b"echo lost-$((1+1))\r").await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    live.resume(Some(ORG), id, &auditor, "192.0.2.1").await.unwrap();
    read_until(&mut stdout, &mut seen, "goes on").await;
    stdin.write_all(b"echo back-$((2+2))\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "back-4").await;
    assert!(!seen.contains("lost-2"), "{seen}");
    let before = Instant::now();
    live.kill(Some(ORG), id, &auditor, "192.0.2.1", "enough").await.unwrap();
    timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
    let sessions = world.closed_sessions(1).await;
    assert_eq!(sessions[0].end_reason, "enough (Kim(kim))");
    assert!(live.watch(Some(ORG), id, &auditor, "192.0.2.1").await.is_err());
    let query = Query { kinds: vec![LedgerKind::SessionEvent], limit: 9, ..Query::new(OrgFilter::One(ORG)) };
    assert_eq!(world.store.ledger().query(&query).unwrap().len(), 4);

    let mut ssh = world.ssh(&world.direct(), &["-tt"]).spawn().unwrap();
    let mut stdout = ssh.stdout.take().unwrap();
    let _stdin = ssh.stdin.take();
    let mut seen = String::new();
    read_until(&mut stdout, &mut seen, "$ ").await;
    let before = Instant::now();
    let mut batch = world.store.batch();
    batch.delete::<AssetPermission>(world.grant);
    world.store.commit(batch).await.unwrap();
    read_until(&mut stdout, &mut seen, "you have no permission").await;
    timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_menu_finds_assets_and_comes_back_after_a_session() {
    let world = World::new().await;
    let mut ssh = world.ssh("kim", &["-tt"]).spawn().unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let mut seen = String::new();
    read_until(&mut stdout, &mut seen, "Opt> ").await;
    assert!(seen.contains("Kim(kim), welcome") && seen.contains(" 10) "), "{seen}");
    for (keys, expected) in [
        ("p", "web1"),
        ("g", "Default (1)"),
        ("g1", "127.0.0.1"),
        ("/nothing", "No assets."),
        ("d", "No databases"),
        ("k", "No Kubernetes"),
        ("r", "as new as"),
        ("?", " 10) "),
    ] {
        stdin.write_all(format!("{keys}\r").as_bytes()).await.unwrap();
        read_until(&mut stdout, &mut seen, expected).await;
    }
    stdin.write_all(b"s\r2\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "进行退出").await;
    stdin.write_all(b"web\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "$ ").await;
    stdin.write_all(b"echo in-$((3+4))\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "in-7").await;
    stdin.write_all(b"exit\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "已返回菜单").await;
    stdin.write_all(b"q\r").await.unwrap();
    assert_eq!(timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap().code(), Some(0));
    assert_eq!(world.closed_sessions(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_host_key_and_an_unknown_asset_are_told_in_words() {
    let world = World::new().await;
    let run = |user: String| {
        let mut ssh = world.ssh(&user, &[]);
        ssh.arg("true");
        output(ssh)
    };
    assert_eq!(run(world.direct()).await.2, 0);
    let (_, stderr, status) = run(format!("kim@{}@nowhere", world::whoami())).await;
    assert!(status == 255 && stderr.contains("no asset and account that you may use"), "{stderr}");
    // Somebody else answers on the asset's address: the pinned key is another one.
    let pins = world.store.in_org(ORG).list::<gatehouse_model::asset::PinnedHostKey>().unwrap();
    let mut other = (*pins[0]).clone();
    assert_eq!(other.asset, world.asset);
    other.fingerprint = "SHA256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".into();
    let mut batch = world.store.batch();
    batch.put(other);
    world.store.commit(batch).await.unwrap();
    let (_, stderr, status) = run(world.direct()).await;
    assert!(status == 255 && stderr.contains("the host key of 127.0.0.1") && stderr.contains("changed"), "{stderr}");
    let sessions = world.closed_sessions(2).await;
    let failed = sessions.last().unwrap();
    assert!(!failed.is_success && failed.error_reason == Some(SessionError::ConnectFailed), "{failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_leads_to_the_asset_only_and_is_a_session() {
    let world = World::new().await;
    let echo = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let echo_port = echo.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let ask = |target: String| {
        let mut ssh = world.ssh(&world.direct(), &["-W"]);
        // `-W` takes its argument before the host.
        let mut fresh = tokio::process::Command::new("ssh");
        let args: Vec<std::ffi::OsString> = ssh.as_std().get_args().map(Into::into).collect();
        let (host, rest) = args.split_last().unwrap();
        fresh.args(rest).arg(target).arg(host);
        ssh = fresh;
        ssh.stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        ssh.kill_on_drop(true);
        ssh
    };
    let mut ssh = ask(format!("localhost:{echo_port}")).spawn().unwrap();
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    stdin.write_all(b"through the tunnel").await.unwrap();
    let mut back = [0; 18];
    timeout(PATIENCE, stdout.read_exact(&mut back)).await.unwrap().unwrap();
    assert_eq!(&back, b"through the tunnel");
    drop(stdin);
    timeout(PATIENCE, ssh.wait()).await.unwrap().unwrap();
    let sessions = world.closed_sessions(1).await;
    assert_eq!((sessions[0].r#type, sessions[0].bytes_in), (SessionType::Tunnel, 18));
    let (_, stderr, status) = output(ask("192.0.2.7:80".into())).await;
    assert!(status != 0 && stderr.contains("forwarding failed"), "{stderr}");
    assert_eq!(world.sessions().len(), 1, "nothing was opened");

    let mut settings = world.settings();
    settings.enable_local_port_forward = false;
    let mut batch = world.store.batch();
    batch.put(settings);
    world.store.commit(batch).await.unwrap();
    world.core.read().settled().await;
    let (_, _, status) = output(ask(format!("localhost:{echo_port}"))).await;
    assert_ne!(status, 0);
}

/// Stands in for a telnet device: asks for name and password, then answers each line.
async fn telnet_stand_in() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let mut lines = tokio::io::AsyncBufReadExt::split(tokio::io::BufReader::new(read), b'\r');
                // GBK: the two characters for "device".
                write.write_all(b"\xc9\xe8\xb1\xb8 login: ").await?;
                lines.next_segment().await?;
                write.write_all(b"Password: ").await?;
                let password = lines.next_segment().await?.unwrap_or_default();
                let right = String::from_utf8_lossy(&password).contains("t3lnet-secret");
                write.write_all(if right { b"\r\nwelcome\r\n\xc9\xe8\xb1\xb8# " } else { b"bad\r\nlogin: " }).await?;
                while let Some(line) = lines.next_segment().await? {
                    let line: Vec<u8> = line.into_iter().filter(|b| *b >= 0x20 && *b != 0xff).collect();
                    write.write_all(&[b"\r\nran ", &line[..], b"\r\n\xc9\xe8\xb1\xb8# "].concat()).await?;
                }
                std::io::Result::Ok(())
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_opens_the_door_to_a_stand_in_for_a_telnet_device_that_speaks_gbk() {
    let world = World::new().await;
    world
        .identity
        .reset_password(world.user, "Correct-Horse-7", false, &gatehouse_identity::By::system())
        .await
        .unwrap();
    let port = telnet_stand_in().await;
    let asset = world.store.in_org(ORG).get::<gatehouse_model::asset::Asset>(world.asset).unwrap().unwrap();
    let mut device = (*asset).clone();
    device.id = uuid::Uuid::now_v7();
    device.name = "switch1".into();
    device.protocols = vec![gatehouse_model::asset::AssetProtocol { name: "telnet".into(), port }];
    let linux = world.core.read().platform(device.platform).unwrap();
    let mut platform = (*linux).clone();
    platform.id = uuid::Uuid::now_v7();
    platform.name = "GBK device".into();
    platform.charset = gatehouse_model::asset::Charset::Gbk;
    device.platform = platform.id;
    let grant = world.store.in_org(ORG).get::<AssetPermission>(world.grant).unwrap().unwrap();
    let mut grant = (*grant).clone();
    grant.accounts.push("@INPUT".into());
    let mut batch = world.store.batch();
    batch.put(platform).put(device).put(grant);
    world.store.commit(batch).await.unwrap();
    world.core.read().settled().await;

    let mut ssh = tokio::process::Command::new("sshpass");
    ssh.args(["-p", "Correct-Horse-7", "ssh", "-tt", "-F", "none", "-o", "StrictHostKeyChecking=no"])
        .args(["-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "PubkeyAuthentication=no"])
        .args(["-p", &world.port.to_string(), "-l", "kim@telnet@netadmin@switch1", "127.0.0.1"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true);
    let mut ssh = ssh.spawn().expect("sshpass is needed: apt install sshpass");
    let (mut stdin, mut stdout) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap());
    let mut seen = String::new();
    read_until(&mut stdout, &mut seen, "Password of netadmin: ").await;
    stdin.write_all(b"t3lnet-secret\r").await.unwrap();
    read_until(&mut stdout, &mut seen, "设备# ").await;
    stdin.write_all("show 版本\r".as_bytes()).await.unwrap();
    read_until(&mut stdout, &mut seen, "ran show 版本").await;
    drop(stdin);
    ssh.kill().await.unwrap();
    let sessions = world.closed_sessions(1).await;
    assert_eq!((sessions[0].protocol.as_str(), sessions[0].account.as_str()), ("telnet", "@INPUT(netadmin)"));
    let shown = String::from_utf8(recorded(&world, &sessions[0]).0).unwrap();
    assert!(shown.contains("ran show 版本") && !shown.contains("t3lnet-secret") && !seen.contains("t3lnet-secret"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_costs_the_gateway_nothing() {
    let world = World::new().await;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b"SSH-2.0-x\r\n\xff\xff\xff\xff garbage garbage", b""] {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", world.port)).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // A reset is as good as an end.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the gateway keeps a dead connection");
    }
    let mut ssh = world.ssh(&world.direct(), &[]);
    ssh.arg("echo alive");
    assert_eq!(output(ssh).await.0, "alive\n");
    assert_eq!(world.core.live().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn language_settings_reach_the_asset_and_nothing_else_does() {
    let world = World::new().await;
    let set = ["-o", "SetEnv=LANG=de_DE.UTF-8 LC_TIME=ja_JP.UTF-8 LD_PRELOAD=/tmp/x LC_A;b=c"];
    let script = "echo \"$LANG|$LC_TIME|$LD_PRELOAD\"; env | grep -c ';b='";
    for terminal in [&[][..], &["-tt"]] {
        let mut ssh = world.ssh(&world.direct(), &[&set[..], terminal].concat());
        ssh.arg(script);
        let (stdout, stderr, _) = output(ssh).await;
        let lines: Vec<&str> = stdout.lines().map(str::trim_end).collect();
        assert_eq!(lines, ["de_DE.UTF-8|ja_JP.UTF-8|", "0"], "{terminal:?} {stderr}");
    }
}

/// The cipher that OpenSSH's client says it agreed on, if any.
async fn agreed(world: &World, options: &[&str]) -> Option<String> {
    let mut ssh = world.ssh(&world.direct(), &[&["-v"], options].concat());
    ssh.arg("true");
    let (_, stderr, _) = output(ssh).await;
    let line = stderr.lines().find(|l| l.contains("server->client cipher:"))?;
    line.split("cipher: ").nth(1)?.split_whitespace().next().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openssh_gets_the_fast_cipher_and_one_that_does_not_take_it_gets_in_at_the_second_attempt() {
    let world = World::new().await;
    if gatehouse_dial::cpu_prefers_aes() {
        assert!(agreed(&world, &[]).await.is_some_and(|cipher| cipher.ends_with("-gcm@openssh.com")));
        assert_eq!(agreed(&world, &["-c", "aes256-ctr"]).await, None);
    }
    assert_eq!(agreed(&world, &["-c", "aes256-ctr"]).await.as_deref(), Some("aes256-ctr"));
}
