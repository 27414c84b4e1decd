//! The recipe of `gatehouse_dial::flow` with real peers on both sides: OpenSSH's `ssh` -> a russh server -> this crate
//! -> OpenSSH's sshd. Full duplex must not deadlock, and whoever stops reading must not cost memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use gatehouse_dial::flow::{FIRST, FULL, Valve, backlog};
use gatehouse_dial::{DialContext, Route, SshPeer, SshReader};
use russh::keys::PrivateKey;
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Session};
use russh::{Channel, ChannelId, ChannelMsg, MethodKind, MethodSet};
use support::*;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Memory is measured for the whole process, so these tests take turns.
static TURN: Mutex<()> = Mutex::const_new(());

/// DESIGN section 15: a stalled receiver costs at most this, bytes.
const STALLED: usize = 4 << 20;

struct Door {
    asset: SshPeer,
    valve: Option<Valve>,
    channel: Option<Channel<Msg>>,
}

impl server::Handler for Door {
    type Error = russh::Error;

    async fn auth_none(&mut self, _: &str) -> Result<Auth, russh::Error> {
        Ok(Auth::Accept)
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn exec_request(&mut self, id: ChannelId, command: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        let (mut user_read, user_write) = self.channel.take().unwrap().split();
        let (mut asset_read, asset_write) = self.asset.exec(command, None, &[]).await.unwrap().split();
        let (intake, mut outlet, valve) = backlog();
        self.valve = Some(valve);
        session.channel_success(id)?;
        tokio::spawn(async move {
            while let Some(message) = user_read.wait().await {
                if !intake.push(message).await {
                    break;
                }
            }
        });
        let up = tokio::spawn(async move {
            while let Some(message) = outlet.pop().await {
                let sent = match message {
                    ChannelMsg::Data { data } => asset_write.data_bytes(data).await,
                    ChannelMsg::Eof => asset_write.eof().await,
                    _ => Ok(()),
                };
                if sent.is_err() {
                    break;
                }
            }
            let _ = asset_write.close().await;
        });
        tokio::spawn(async move {
            while let Some(message) = asset_read.wait().await {
                let sent = match message {
                    ChannelMsg::Data { data } => user_write.data_bytes(data).await,
                    ChannelMsg::ExtendedData { data, ext } => user_write.extended_data_bytes(ext, data).await,
                    ChannelMsg::Eof => user_write.eof().await,
                    ChannelMsg::ExitStatus { exit_status } => user_write.exit_status(exit_status).await,
                    ChannelMsg::Close => break,
                    _ => Ok(()),
                };
                if sent.is_err() {
                    break;
                }
            }
            let _ = user_write.close().await;
            up.abort();
        });
        Ok(())
    }

    fn adjust_window(&mut self, _: ChannelId, _: u32) -> u32 {
        self.valve.as_ref().map_or(FULL, Valve::window)
    }

    async fn data(&mut self, _: ChannelId, _: &[u8], _: &mut Session) -> Result<(), russh::Error> {
        if let Some(valve) = &self.valve {
            valve.pause().await;
        }
        Ok(())
    }
}

/// A bastion in miniature; returns its port.
async fn door(asset: &Sshd, route: Route, ctx: DialContext) -> u16 {
    let key = PrivateKey::from_openssh(fs::read_to_string(asset.path("host_ed25519")).unwrap()).unwrap();
    let config = Arc::new(server::Config {
        keys: vec![key],
        methods: MethodSet::from(&[MethodKind::None][..]),
        window_size: FIRST,
        channel_buffer_size: 16,
        inactivity_timeout: None,
        nodelay: true,
        preferred: russh::Preferred { cipher: vec![russh::cipher::AES_256_GCM].into(), ..russh::Preferred::DEFAULT },
        ..server::Config::default()
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let login = Arc::new(asset.login());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            let (config, route, ctx, login) = (Arc::clone(&config), route.clone(), ctx.clone(), Arc::clone(&login));
            tokio::spawn(async move {
                let asset = gatehouse_dial::ssh(&route, &login, &ctx).await.unwrap();
                let door = Door { asset, valve: None, channel: None };
                if let Ok(session) = server::run_stream(config, stream, door).await {
                    let _ = session.await;
                }
            });
        }
    });
    port
}

struct Client(Child);

impl Client {
    fn start(port: u16, command: &str, input: Stdio, output: Stdio) -> Self {
        let options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes"];
        let mut ssh = Command::new("ssh");
        ssh.args(["-F", "none", "-p", &port.to_string()]);
        for option in options {
            ssh.args(["-o", option]);
        }
        let ssh = ssh.args(["-T", "x@127.0.0.1", command]).stdin(input).stdout(output).spawn().unwrap();
        Self(ssh)
    }

    async fn finish(mut self, within: Duration) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_duplex_through_two_connections_is_byte_identical() {
    let _turn = TURN.lock().await;
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let dir = tempfile::tempdir().unwrap();
    let (input, output) = (dir.path().join("in"), dir.path().join("out"));
    let content = noise(64 << 20);
    fs::write(&input, &content).unwrap();
    let port = door(&asset, asset.route(), context()).await;
    let run = |port: u16, command: &'static str| {
        Client::start(port, command, File::open(&input).unwrap().into(), File::create(&output).unwrap().into())
            .finish(Duration::from_secs(60))
    };
    assert!(run(port, "cat").await, "cat stopped at {} bytes", fs::metadata(&output).unwrap().len());
    assert!(fs::read(&output).unwrap() == content, "cat changed the bytes");
    // Three bytes out for each one in: the asset stops reading for as long as we do not take its output.
    fs::write(&input, &content[..16 << 20]).unwrap();
    assert!(run(port, "od -An -v -tx1").await, "od stopped at {} bytes", fs::metadata(&output).unwrap().len());
    assert_eq!(fs::metadata(&output).unwrap().len(), (16 << 20) * 3 + (1 << 20));

    let zone = Route { gateways: vec![gateway.hop("g")], ..asset.route() };
    let port = door(&asset, zone, context()).await;
    assert!(run(port, "cat").await, "cat through a gateway stopped at {}", fs::metadata(&output).unwrap().len());
    assert!(fs::read(&output).unwrap() == content[..16 << 20], "cat through a gateway changed the bytes");
}

/// Lets `act` run for a good second and returns by how much memory grew.
async fn growth(act: impl Future<Output = ()>) -> usize {
    let before = resident();
    let watch = async {
        let mut most = before;
        for _ in 0..24 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            most = most.max(resident());
        }
        most - before
    };
    tokio::select! {
        grown = watch => grown,
        () = async { act.await; std::future::pending().await } => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_reading_costs_little_and_hurts_nobody_else() {
    let _turn = TURN.lock().await;
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    for (way, gateways) in [("direct", vec![]), ("through a gateway", vec![gateway.hop("g")])] {
        let route = Route { gateways, ..asset.route() };
        let port = door(&asset, route, context()).await;
        // Warm up: the allocator's first growth is not the stall's.
        let zeros = || File::open("/dev/zero").unwrap();
        let mut warm = Client::start(port, "head -c 33554432", zeros().into(), Stdio::null());
        for _ in 0..500 {
            if warm.0.try_wait().unwrap().is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(warm);

        // The user's side does not read: ssh's output goes to a pipe that nobody empties.
        let stalled = Client::start(port, "cat /dev/zero", Stdio::null(), Stdio::piped());
        let grown = growth(std::future::pending()).await;
        assert!(grown <= STALLED, "{way}: a user who does not read cost {grown} bytes");

        // The asset does not read.
        let pushing = Client::start(port, "sleep 60", zeros().into(), Stdio::null());
        let grown = growth(std::future::pending()).await;
        assert!(grown <= STALLED, "{way}: an asset that does not read cost {grown} bytes");

        let served = Client::start(port, "true", Stdio::null(), Stdio::null()).finish(Duration::from_secs(10)).await;
        assert!(served, "{way}: another session suffers");
        drop((stalled, pushing));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_pauses_gets_everything_and_memory_stays() {
    let _turn = TURN.lock().await;
    let asset = Sshd::start();
    let peer = asset.dial().await;
    const TOTAL: usize = 64 << 20;
    async fn drain(reader: &mut SshReader, most: usize) -> usize {
        let mut got = 0;
        while got < most {
            match timeout(Duration::from_secs(20), reader.wait()).await.expect("stalled") {
                Some(ChannelMsg::Data { data }) => got += data.len(),
                Some(_) => {}
                None => break,
            }
        }
        got
    }
    let command = format!("head -c {TOTAL} /dev/zero");
    let (mut reader, _writer) = peer.exec(command.as_bytes(), None, &[]).await.unwrap().split();
    let first = drain(&mut reader, 8 << 20).await;
    let grown = growth(std::future::pending()).await;
    assert!(grown <= STALLED, "{grown} bytes");
    assert_eq!(first + drain(&mut reader, usize::MAX).await, TOTAL);

    // The other direction: an asset that does not read holds the writer, not memory.
    let peer = asset.dial().await;
    let (_reader, writer) = peer.exec(b"sleep 60", None, &[]).await.unwrap().split();
    let block = Bytes::from(noise(256 * 1024));
    let writing = async {
        for _ in 0..(512 << 20) / block.len() {
            writer.data_bytes(Bytes::copy_from_slice(&block)).await.unwrap();
        }
        panic!("512 MiB went nowhere");
    };
    let grown = growth(writing).await;
    assert!(grown <= STALLED, "{grown} bytes");
}
