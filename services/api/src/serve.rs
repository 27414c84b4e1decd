//! The sockets of the web door: HTTPS, and plain HTTP that only sends people to HTTPS.
//!
//! Everything here is bounded, because strangers reach it first: connections in all and per address, the time of a TLS
//! handshake and of a request's head, the size of heads, streams per connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, StatusCode, header};
use gatehouse_model::net::canonical;
use gatehouse_store::Store;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::engine::reader::{Reader, Scope};
use crate::guard::PeerAddr;
use crate::tls::{TlsError, TlsStore};

const MAX_CONNECTIONS: usize = 4_096;
const MAX_PER_ADDRESS: usize = 512;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// For the head of a request, and for the next one on a connection kept open.
const HEAD: Duration = Duration::from_secs(20);
/// Requests that still run may end when the daemon stops.
const DRAIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Limits {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection's place; given back when it is dropped.
struct Place {
    _permit: OwnedSemaphorePermit,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.by_address.lock();
        if let Some(count) = counts.get_mut(&self.ip) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.ip);
            }
        }
    }
}

impl Limits {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAX_CONNECTIONS)), by_address: Arc::default() }
    }

    fn enter(&self, ip: IpAddr) -> Option<Place> {
        let permit = self.all.clone().try_acquire_owned().ok()?;
        let mut counts = self.by_address.lock();
        let count = counts.entry(ip).or_insert(0);
        if *count >= MAX_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Place { _permit: permit, by_address: self.by_address.clone(), ip })
    }
}

/// Serves until `shutdown`; then lets requests end.
pub async fn serve_https(
    listener: TcpListener,
    router: Router,
    tls: TlsStore,
    shutdown: CancellationToken,
) -> Result<(), TlsError> {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls.server_config()?));
    let limits = Limits::new();
    let graceful = GracefulShutdown::new();
    while let Some((socket, ip)) = accept(&listener, &shutdown).await {
        let Some(place) = limits.enter(ip) else {
            tracing::debug!(%ip, "too many connections, one is refused");
            continue;
        };
        let (acceptor, router, graceful) = (acceptor.clone(), router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
                Ok(Ok(stream)) => serve(stream, router, ip, graceful).await,
                Ok(Err(error)) => tracing::debug!(%ip, %error, "TLS handshake failed"),
                Err(_) => tracing::debug!(%ip, "TLS handshake took too long"),
            }
        });
    }
    drain(graceful).await;
    Ok(())
}

/// Answers every request with a redirect to the site's HTTPS address. The address is the configured one: what a `Host`
/// header says is never repeated (CVE-2024-24763, CVE-2025-58044).
pub async fn serve_redirect(listener: TcpListener, store: Store, shutdown: CancellationToken) {
    let limits = Limits::new();
    let graceful = GracefulShutdown::new();
    let router = redirect_router(store);
    while let Some((socket, ip)) = accept(&listener, &shutdown).await {
        let Some(place) = limits.enter(ip) else { continue };
        let (router, graceful) = (router.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            serve(socket, router, ip, graceful).await;
        });
    }
    drain(graceful).await;
}

pub(crate) fn redirect_router(store: Store) -> Router {
    Router::new().fallback(move |request: Request<Body>| {
        let store = store.clone();
        async move { redirect(&store, &request) }
    })
}

fn redirect(store: &Store, request: &Request<Body>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let target = request.uri().path_and_query().map_or("/", axum::http::uri::PathAndQuery::as_str);
    let site = Reader::new(store, Scope::Global).settings().map(|s| s.site_url.trim_end_matches('/').to_owned());
    let location = match site {
        Ok(site) if site.starts_with("https://") => HeaderValue::from_str(&format!("{site}{target}")),
        _ => {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
            *response.body_mut() = Body::from("use https://; the site address (SITE_URL) is not set\n");
            return response;
        }
    };
    match location {
        Ok(location) => {
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    response
}

async fn accept(listener: &TcpListener, shutdown: &CancellationToken) -> Option<(TcpStream, IpAddr)> {
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return None,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                // Small answers should not wait for more; a socket that refuses the option still works.
                let _ = socket.set_nodelay(true);
                return Some((socket, canonical(peer.ip())));
            }
            Err(error) => {
                // Out of file descriptors, or a peer that is gone already: neither ends the door.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve<S>(stream: S, router: Router, ip: IpAddr, graceful: Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let router = router.clone();
        request.extensions_mut().insert(PeerAddr(ip));
        async move {
            Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(64 * 1024).max_headers(100);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(64)
        .max_header_list_size(32 * 1024)
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = graceful.watch(connection.into_owned()).await {
        tracing::debug!(%ip, error = %error, "a connection ended early");
    }
}

async fn drain(graceful: GracefulShutdown) {
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::info!("some connections did not end in time and are cut");
    }
}
