//! Port forwarding (P07): off until it is switched on, then to the asset itself only and recorded; everything that leads
//! back or sideways refused. And several channels in one connection (ControlMaster).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::world::World;
use gatehouse_tests::{free_port, run_limited, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

struct Stage {
    world: World,
    sshd: Sshd,
    asset: String,
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

impl Stage {
    async fn allow(&self) {
        self.world.admin.patch("settings/setting/", json!({"ENABLE_LOCAL_PORT_FORWARD": true})).await;
    }

    /// `ssh -N` with a forwarding, up once its port answers.
    fn forward(&self, how: &str, wish: &str, port: u16) -> Interactive {
        let mut ssh = self.world.client("ssh");
        ssh.args(["-N", how, wish, "-l", &self.login, "127.0.0.1"]);
        let client = Interactive::start(&mut ssh);
        wait_for("the forwarded port", LIMIT, || TcpListener::bind(("127.0.0.1", port)).err());
        client
    }
}

/// Gives back what it is sent, on a port of its own.
fn echo_server() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut writer = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut &stream, &mut writer);
                let _ = writer.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    port
}

/// Sends, closes its direction, and reads to the end. Nothing at all is what a refused tunnel gives.
fn through(port: u16, data: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let data = data.to_vec();
    let feed = std::thread::spawn(move || {
        let _ = writer.write_all(&data);
        let _ = writer.shutdown(std::net::Shutdown::Write);
    });
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got);
    feed.join().unwrap();
    got
}

async fn tunnels(s: &Stage, count: usize) -> Vec<Value> {
    let rows = s.world.ended_sessions(&s.asset, count).await;
    rows.into_iter().filter(|r| r["type"]["value"] == "tunnel").collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_refused_until_it_is_switched_on_and_then_leads_to_the_asset_only() {
    let s = stage().await;
    let echo = echo_server();
    let local = free_port();
    let wish = format!("{local}:127.0.0.1:{echo}");
    {
        let _client = s.forward("-L", &wish, local);
        assert_eq!(through(local, b"secret data"), b"", "a tunnel is open though the setting is off");
    }
    s.allow().await;
    let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    {
        let _client = s.forward("-L", &wish, local);
        assert!(through(local, &data) == data, "the tunnel changed the data");
        // To the asset by its name as well; several at once.
        let by_name = free_port();
        let _second = s.forward("-L", &format!("{by_name}:web1:{echo}"), by_name);
        let ports = [local, by_name, local];
        let threads: Vec<_> = ports.into_iter().map(|p| std::thread::spawn(move || through(p, b"again"))).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), b"again");
        }
        assert_eq!(through(local, b"third"), b"third");
    }
    let rows = tunnels(&s, 2).await;
    let row = rows.iter().find(|r| r["bytes_in"] == data.len() && r["bytes_out"] == data.len());
    let row = row.unwrap_or_else(|| panic!("no tunnel of {} bytes both ways: {rows:#?}", data.len()));
    assert_eq!(row["is_success"], true, "{row}");
    assert!(row.to_string().contains(&format!("tunnel to 127.0.0.1:{echo}")), "{row}");

    // Elsewhere: another address of the asset's network, and the machine's other names.
    for elsewhere in ["127.0.0.9.nip.example", "192.0.2.7", "169.254.169.254", "gateway.internal"] {
        let port = free_port();
        let _client = s.forward("-L", &format!("{port}:{elsewhere}:{echo}"), port);
        assert_eq!(through(port, b"x"), b"", "{elsewhere}");
    }
    // A proxy (-D) and the direct form (-W) are the same request.
    let done =
        run_limited(s.world.client("ssh").args(["-W", "192.0.2.7:80", "-l", &s.login, "127.0.0.1"]), b"x", LIMIT);
    assert_ne!(done.code, Some(0), "{done:?}");
    let done = run_limited(
        s.world.client("ssh").args(["-W", &format!("127.0.0.1:{echo}"), "-l", &s.login, "127.0.0.1"]),
        b"via stdio",
        LIMIT,
    );
    assert_eq!(done.text(), "via stdio", "{done:?}");
    // Without a target there is nothing to lead to.
    let done = run_limited(
        s.world.client("ssh").args(["-W", &format!("127.0.0.1:{echo}"), "-l", "alice", "127.0.0.1"]),
        b"x",
        LIMIT,
    );
    assert!(done.code != Some(0) && done.stdout.is_empty(), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_grant_ends_a_tunnel() {
    let s = stage().await;
    s.allow().await;
    let echo = echo_server();
    let local = free_port();
    let _client = s.forward("-L", &format!("{local}:127.0.0.1:{echo}"), local);
    let mut stream = TcpStream::connect(("127.0.0.1", local)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(6))).unwrap();
    stream.write_all(b"ping").unwrap();
    let mut four = [0; 4];
    stream.read_exact(&mut four).unwrap();
    assert_eq!(&four, b"ping");
    let grants = s.world.admin.list("perms/asset-permissions/").await;
    for grant in grants {
        s.world.admin.delete(&format!("perms/asset-permissions/{}/", grant["id"].as_str().unwrap())).await;
    }
    assert_eq!(stream.read(&mut four).unwrap_or(9), 0, "the tunnel is still open after five seconds");
    assert_eq!(tunnels(&s, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leads_back_to_the_client_is_refused() {
    let s = stage().await;
    s.allow().await;
    // Remote forwarding.
    let port = free_port();
    let mut ssh = s.world.client("ssh");
    ssh.args(["-o", "ExitOnForwardFailure=yes", "-R", &format!("{port}:127.0.0.1:{}", s.sshd.port)]);
    let done = run_limited(ssh.args(["-l", &s.login, "127.0.0.1", "echo in"]), b"", LIMIT);
    assert_eq!(done.code, Some(255), "{done:?}");
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    // A Unix socket on the asset.
    let socket = s.world.dir.path().join("there.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || listener.accept().map(|(mut stream, _)| stream.write_all(b"open")));
    {
        let port = free_port();
        let _client = s.forward("-L", &format!("{port}:{}", socket.display()), port);
        assert_eq!(through(port, b"x"), b"");
    }
    // The agent and the display are not on the asset.
    let mut agent = Command::new("ssh-agent");
    let agent_socket = s.world.dir.path().join("agent");
    let mut agent = agent.args(["-D", "-a"]).arg(&agent_socket).stdout(Stdio::null()).spawn().unwrap();
    wait_for("ssh-agent", LIMIT, || agent_socket.exists().then_some(()));
    let mut ssh = s.world.client("ssh");
    ssh.env("SSH_AUTH_SOCK", &agent_socket).env("DISPLAY", "127.0.0.1:77").args(["-A", "-X"]);
    let done = run_limited(ssh.args(["-l", &s.login, "127.0.0.1", "echo \"[$SSH_AUTH_SOCK][$DISPLAY]\""]), b"", LIMIT);
    let _ = agent.kill();
    let _ = agent.wait();
    assert_eq!((done.code, done.text().as_str()), (Some(0), "[][]\n"), "{done:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_a_shell_commands_and_files_side_by_side() {
    let s = stage().await;
    let socket = s.world.dir.path().join("mux");
    let path = format!("ControlPath={}", socket.display());
    let mut master = s.world.client("ssh");
    master.args(["-tt", "-o", "ControlMaster=yes", "-o", &path, "-l", &s.login, "127.0.0.1"]);
    let mut shell = Interactive::start(&mut master);
    shell.send("PS1='re''ady> '\r");
    shell.expect("ready> ");
    wait_for("the control socket", LIMIT, || socket.exists().then_some(()));
    // No password on these: they ride on the first connection.
    let slave = |program: &str| {
        let mut ssh = Command::new(program);
        ssh.args(gatehouse_tests::world::SSH_OPTIONS).args([
            "-o",
            "BatchMode=yes",
            "-o",
            &path,
            "-o",
            &format!("User={}", s.login),
        ]);
        ssh
    };
    let threads: Vec<_> = (0..6)
        .map(|n| {
            let mut ssh = slave("ssh");
            ssh.args(["127.0.0.1", &format!("sleep 0.2; echo done-{n}; exit {n}")]);
            std::thread::spawn(move || run_limited(&mut ssh, b"", LIMIT))
        })
        .collect();
    for (n, thread) in (0..).zip(threads) {
        let done = thread.join().unwrap();
        assert_eq!((done.code, done.text()), (Some(n), format!("done-{n}\n")), "{}", done.stderr);
    }
    let file = s.world.dir.path().join("f");
    std::fs::write(&file, vec![5; 2 << 20]).unwrap();
    let name = format!("gh-mux-{}", s.world.ssh);
    let script = format!("put {} {name}\nget {name} {}.back\nrm {name}\n", file.display(), file.display());
    let done = run_limited(slave("sftp").args(["-b", "-", "127.0.0.1"]), script.as_bytes(), LIMIT).ok();
    assert_eq!(std::fs::read(file.with_extension("back")).unwrap(), vec![5; 2 << 20], "{done:?}");
    // A bulk transfer of one channel does not starve the shell beside it.
    let mut bulk = slave("ssh");
    bulk.args(["127.0.0.1", "head -c 30000000 /dev/zero"]);
    let bulk = std::thread::spawn(move || run_limited(&mut bulk, b"", LIMIT));
    shell.send("echo side-$((40+2))\r");
    shell.expect("side-42");
    assert_eq!(bulk.join().unwrap().ok().stdout.len(), 30_000_000);
    shell.send("exit\r");
    shell.wait_end(LIMIT);
    let rows = s.world.ended_sessions(&s.asset, 9).await;
    assert_eq!(rows.len(), 9, "each channel is a session of its own: {rows:#?}");
}
