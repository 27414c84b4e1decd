//! The sockets: TLS with a certificate that changes while they are open, and the way from HTTP to HTTPS.

use std::sync::Arc;
use std::time::Duration;

use axum::http::Method;
use gatehouse_api::{serve_https, serve_redirect};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::world::World;

/// One request over a connection that trusts exactly this certificate.
async fn ask(port: u16, chain: &str, name: &'static str) -> Result<String, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(chain.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from(name).unwrap(), socket).await.map_err(|e| e.to_string())?;
    let request = format!("GET /api/health HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    Ok(answer)
}

#[tokio::test]
async fn a_replaced_certificate_is_what_new_connections_get_at_once() {
    let world = World::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let router = world.admin.router.clone();
    let server = tokio::spawn(serve_https(listener, router, world.tls.clone(), shutdown.clone()));
    let first = world.tls.facts().unwrap().chain;
    let answer = ask(port, &first, "box.example").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("strict-transport-security"), "{answer}");
    let body = json!({"self_signed_names": ["new.example"]});
    world.admin.ask(Method::PUT, "gatehouse/certificate/", Some(body)).await.expect(200);
    let second = world.tls.facts().unwrap().chain;
    assert!(ask(port, &second, "new.example").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(ask(port, &first, "box.example").await.is_err(), "the old certificate is still given out");
    // Garbage before and instead of TLS hurts nobody else.
    let mut garbage = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(ask(port, &second, "new.example").await.is_ok());
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(15), server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn plain_http_leads_to_the_configured_address_whatever_the_host_header_says() {
    let world = World::start().await;
    world.admin.patch("settings/setting/", json!({"SITE_URL": "https://box.example"})).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let shutdown = CancellationToken::new();
    let server = tokio::spawn(serve_redirect(listener, world.store.clone(), shutdown.clone()));
    let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    socket
        .write_all(b"GET //evil.example/x?y HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 308"), "{answer}");
    assert!(answer.contains("location: https://box.example//evil.example/x?y\r\n"), "{answer}");
    shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(15), server).await.unwrap().unwrap();
}
