//! What strangers and mistakes cannot take: everybody else's turn.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use axum::http::Method;
use gatehouse_api::serve_https;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::world::World;

#[tokio::test]
async fn a_handler_that_panics_answers_500_and_the_others_go_on() {
    let world = World::start().await;
    world.clock_panics.store(true, Ordering::Relaxed);
    let broken = world.anonymous().ask(Method::GET, "/api/health/", None).await.expect(500);
    assert_eq!(broken["code"], "internal_error");
    assert!(!broken.to_string().contains("breaks the clock"), "{broken}");
    world.clock_panics.store(false, Ordering::Relaxed);
    world.anonymous().get("/api/health/").await;
    world.admin.post("users/groups/", json!({"name": "g"})).await;
}

#[tokio::test]
async fn bodies_have_a_size_and_a_sheet_has_rows() {
    let world = World::start().await;
    let long = vec![b' '; 5 * 1024 * 1024];
    let answer = world.admin.raw(Method::POST, "users/groups/", "application/json", long.clone()).await;
    assert_eq!(answer.expect(413)["code"], "too_large");
    let sheet = vec![b'x'; 17 * 1024 * 1024];
    let answer = world.admin.raw(Method::POST, "users/groups/", "text/csv", sheet).await;
    assert_eq!(answer.expect(413)["code"], "too_large");
    let answer = world.anonymous().raw(Method::POST, "authentication/auth/", "application/json", long).await;
    assert_eq!(answer.expect(413)["code"], "too_large");
    let many: Vec<_> = (0..5_001).map(|n| json!({"name": format!("g{n}")})).collect();
    let answer = world.admin.ask(Method::POST, "users/groups/", Some(json!(many))).await;
    assert_eq!(answer.expect(400)["code"], "too_many");
    assert_eq!(world.admin.get("users/groups/").await, json!([]));
}

#[tokio::test]
async fn slow_clients_are_cut_and_one_address_has_a_number_of_connections() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve_https(listener, world.admin.router.clone(), world.tls.clone(), shutdown.clone()));
    let begin = Instant::now();
    let mut held = Vec::new();
    for _ in 0..512 {
        held.push(TcpStream::connect(at).await.unwrap());
    }
    let closed = |mut socket: TcpStream| async move {
        let _ = socket.write_all(b"\x16\x03\x01").await;
        let mut byte = [0; 1];
        matches!(tokio::time::timeout(Duration::from_secs(15), socket.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
    };
    assert!(closed(TcpStream::connect(at).await.unwrap()).await, "one connection too many was kept");
    assert!(begin.elapsed() < Duration::from_secs(9), "it was closed only when the handshake ran out of time");
    // Another address is let in.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(at).await.unwrap();
    let mut byte = [0; 1];
    assert!(tokio::time::timeout(Duration::from_secs(1), other.peek(&mut byte)).await.is_err(), "it was refused");
    // Who does not finish the handshake is cut, and the places are free again.
    assert!(closed(held.pop().unwrap()).await, "a client that says nothing was kept");
    drop(held);
    assert!(begin.elapsed() < Duration::from_secs(30));
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(15), server).await.unwrap().unwrap().unwrap();
}
