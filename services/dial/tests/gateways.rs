//! Zones: reaching an asset through SSH gateways (real sshd on both ends), fail-over, and traffic both ways.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use gatehouse_dial::{DialError, Hop, Route};
use russh::ChannelMsg;
use support::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn dead_hop(name: &str) -> Arc<Hop> {
    Arc::new(Hop {
        name: name.into(),
        address: "127.0.0.1".into(),
        port: free_port(),
        login: login(vec![password("x")]),
    })
}

#[tokio::test]
async fn reaches_the_asset_through_a_gateway_and_pins_both_host_keys() {
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let pins = Arc::new(Pins::default());
    let ctx = with_pins(Arc::clone(&pins));
    let route = Route { gateways: vec![gateway.hop("g")], ..asset.route() };
    let peer = gatehouse_dial::ssh(&route, &asset.login(), &ctx).await.unwrap();
    let out = peer.run(b"echo $SSH_CONNECTION", b"", 1000, Duration::from_secs(10)).await.unwrap();
    let connection = String::from_utf8(out.stdout).unwrap();
    assert!(connection.trim().ends_with(&format!(" {}", asset.port)), "{connection}");
    assert_eq!(peer.host_key().unwrap().sha256, asset.fingerprint("host_ed25519"));
    let pinned: Vec<u16> = pins.0.lock().unwrap().iter().map(|(_, port, _)| *port).collect();
    assert_eq!(pinned, [gateway.port, asset.port]);
    let stream = gatehouse_dial::tcp(&route, &ctx).await.unwrap();
    assert_eq!(stream.gateway(), Some("g"));
}

#[tokio::test]
async fn fails_over_and_remembers_which_gateway_was_dead() {
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let ctx = context();
    // Accepts and never speaks: the worst kind of dead.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let stuck =
        Arc::new(Hop { name: "stuck".into(), address: "127.0.0.1".into(), port, login: login(vec![password("x")]) });
    let mut ctx = ctx;
    ctx.timeouts.handshake = Duration::from_millis(1500);
    let route = Route { gateways: vec![stuck, dead_hop("dead"), gateway.hop("good")], ..asset.route() };
    let began = std::time::Instant::now();
    let stream = gatehouse_dial::tcp(&route, &ctx).await.unwrap();
    assert_eq!(stream.gateway(), Some("good"));
    assert!(began.elapsed() >= Duration::from_millis(1500));
    let began = std::time::Instant::now();
    gatehouse_dial::tcp(&route, &ctx).await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(1500), "the stuck gateway was tried first again");
}

#[tokio::test]
async fn when_no_gateway_works_each_reason_is_told() {
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let stranger = Arc::new(Hop {
        name: "locked".into(),
        address: "127.0.0.1".into(),
        port: gateway.port,
        login: login(vec![password("wrong")]),
    });
    let route = Route { gateways: vec![dead_hop("dead"), stranger], ..asset.route() };
    let error = error_of(gatehouse_dial::ssh(&route, &asset.login(), &context()).await);
    let text = error.to_string();
    let DialError::GatewayFailed { each, .. } = &error else { panic!("{text}") };
    assert_eq!(each.iter().map(|g| g.name.as_str()).collect::<Vec<_>>(), ["dead", "locked"]);
    assert!(text.contains("dead: cannot reach") && text.contains("locked: ") && text.contains("refused account"));

    // A gateway that works but cannot reach the asset.
    let route = Route { gateways: vec![gateway.hop("g")], ..Route::direct("127.0.0.1", free_port()) };
    let error = error_of(gatehouse_dial::ssh(&route, &asset.login(), &context()).await);
    assert!(error.to_string().contains("g: "), "{error}");
}

#[tokio::test]
async fn a_gateway_whose_host_key_changed_is_not_used() {
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let pins = Arc::new(Pins::default());
    let ctx = with_pins(Arc::clone(&pins));
    let route = Route { gateways: vec![gateway.hop("g")], ..asset.route() };
    gatehouse_dial::tcp(&route, &ctx).await.unwrap();
    pins.0.lock().unwrap()[0].2.sha256 = "SHA256:another".into();
    let error = error_of(gatehouse_dial::tcp(&route, &ctx).await);
    let DialError::GatewayFailed { each, .. } = error else { panic!("{error}") };
    assert!(matches!(each[0].reason, DialError::HostKeyChanged { .. }));
}

#[tokio::test]
async fn a_tunnelled_stream_carries_data_and_its_end_both_ways() {
    let gateway = Sshd::start();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (s, _) = listener.accept().await.unwrap();
        let (mut read, mut write) = s.into_split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let route = Route { gateways: vec![gateway.hop("g")], ..Route::direct("127.0.0.1", port) };
    let stream = gatehouse_dial::tcp(&route, &context()).await.unwrap();
    let (mut read, mut write) = tokio::io::split(stream);
    let sent = noise(8 << 20);
    let expected = sent.clone();
    let writing = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(30), read.read_to_end(&mut got)).await.expect("stalled").unwrap();
    writing.await.unwrap();
    assert!(got == expected);
}

const CHANNELS: usize = 6;
/// Bytes per channel and direction.
const TOTAL: usize = 8 << 20;

/// SSH inside the gateway's channel is where a read blocked behind a write would never end.
#[tokio::test]
async fn full_duplex_ssh_through_a_gateway_does_not_deadlock() {
    let (gateway, asset) = (Sshd::start(), Sshd::start());
    let route = Route { gateways: vec![gateway.hop("g")], ..asset.route() };
    let peer = gatehouse_dial::ssh(&route, &asset.login(), &context()).await.unwrap();
    // Several channels: together they may have more on the way than the gateway's own channel has window.
    let block = bytes::Bytes::from(noise(32 * 1024));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..CHANNELS {
        let (mut reader, writer) = peer.exec(b"cat", None, &[]).await.unwrap().split();
        let sent = block.clone();
        running.spawn(async move {
            for _ in 0..TOTAL / sent.len() {
                writer.data_bytes(sent.clone()).await.unwrap();
            }
            writer.eof().await.unwrap();
        });
        let block = block.clone();
        running.spawn(async move {
            let mut got = 0;
            while let Some(message) = reader.wait().await {
                if let ChannelMsg::Data { data } = message {
                    for (i, byte) in data.iter().enumerate().step_by(997) {
                        assert_eq!(*byte, block[(got + i) % block.len()]);
                    }
                    got += data.len();
                }
            }
            assert_eq!(got, TOTAL);
        });
    }
    let all = async {
        while let Some(done) = running.join_next().await {
            done.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("deadlock");
}
