//! Getting a byte stream to an asset: straight over TCP, or through the first gateway of the zone that leads there.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::error::{DialError, GatewayFailure, Stage};
use crate::hop::{self, HopStream};
use crate::route::{DialContext, Route, target};

/// Head start of one address over the next (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// More addresses of one name than this are not tried.
const MAX_ADDRESSES: usize = 16;

/// A byte stream to an asset. Reading and writing may be done by two tasks (`tokio::io::split`): a blocked write never
/// blocks reads.
pub struct DialStream(Way);

enum Way {
    Tcp(TcpStream),
    Hop(Box<HopStream>),
}

impl DialStream {
    /// Name of the gateway that the stream goes through; `None` when direct.
    pub fn gateway(&self) -> Option<&str> {
        match &self.0 {
            Way::Tcp(_) => None,
            Way::Hop(hop) => Some(hop.name()),
        }
    }
}

impl AsyncRead for DialStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Way::Tcp(s) => Pin::new(s).poll_read(cx, buf),
            Way::Hop(s) => Pin::new(s.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for DialStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Way::Tcp(s) => Pin::new(s).poll_write(cx, buf),
            Way::Hop(s) => Pin::new(s.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Way::Tcp(s) => Pin::new(s).poll_flush(cx),
            Way::Hop(s) => Pin::new(s.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Way::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Way::Hop(s) => Pin::new(s.as_mut()).poll_shutdown(cx),
        }
    }
}

/// Connects to the asset: direct, or through the gateways in turn until one leads there. Gateways that failed in the
/// last 30 s are tried last. Nagle's algorithm is off.
///
/// # Errors
/// [`DialError::Unreachable`], [`DialError::Timeout`], or [`DialError::GatewayFailed`] with the reason of every gateway.
pub async fn tcp(route: &Route, ctx: &DialContext) -> Result<DialStream, DialError> {
    if route.gateways.is_empty() {
        return Ok(DialStream(Way::Tcp(connect(&route.address, route.port, ctx.timeouts.tcp).await?)));
    }
    let mut each = Vec::with_capacity(route.gateways.len());
    for gateway in ctx.gateways.order(&route.gateways) {
        match Box::pin(hop::through(&gateway, route, ctx)).await {
            Ok(stream) => return Ok(DialStream(Way::Hop(Box::new(stream)))),
            Err(reason) => {
                tracing::warn!(gateway = %gateway.name, error = %reason, "gateway did not lead to the asset");
                each.push(GatewayFailure { name: gateway.name.clone(), reason });
            }
        }
    }
    Err(DialError::GatewayFailed { target: route.target(), each })
}

/// TCP to the first address of `host` that answers, families interleaved, each with a head start over the next.
pub(crate) async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream, DialError> {
    let target = target(host, port);
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let attempt = async {
        let found = tokio::net::lookup_host((bare, port)).await.map_err(|_| "the name does not resolve".to_owned())?;
        race(interleave(found)).await
    };
    match timeout(limit, attempt).await {
        Ok(Ok(stream)) => {
            // Keystrokes must not wait for acknowledgements; failure only costs latency.
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "cannot switch nagle's algorithm off");
            }
            Ok(stream)
        }
        Ok(Err(reason)) => Err(DialError::Unreachable { target, reason }),
        Err(_) => Err(DialError::Timeout { target, stage: Stage::Connect, after: limit }),
    }
}

/// Alternates address families, beginning with the family that the resolver put first (RFC 8305 section 4).
fn interleave(found: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let all: Vec<SocketAddr> = found.collect();
    let first_is_v6 = all.first().is_some_and(SocketAddr::is_ipv6);
    let (mut a, mut b): (VecDeque<_>, VecDeque<_>) = all.into_iter().partition(|x| x.is_ipv6() == first_is_v6);
    let mut mixed = VecDeque::new();
    while mixed.len() < MAX_ADDRESSES && !(a.is_empty() && b.is_empty()) {
        mixed.extend(a.pop_front());
        mixed.extend(b.pop_front());
    }
    mixed
}

async fn race(mut addresses: VecDeque<SocketAddr>) -> Result<TcpStream, String> {
    let mut running = FuturesUnordered::new();
    let mut last = "the name has no address".to_owned();
    let mut next_start = Instant::now();
    loop {
        if running.is_empty() {
            match addresses.pop_front() {
                Some(address) => running.push(TcpStream::connect(address)),
                None => return Err(last),
            }
            next_start = Instant::now() + HEAD_START;
        }
        tokio::select! {
            Some(result) = running.next() => match result {
                Ok(stream) => return Ok(stream),
                Err(error) => {
                    last = describe(&error);
                    next_start = Instant::now();
                }
            },
            () = sleep_until(next_start), if !addresses.is_empty() => {
                running.extend(addresses.pop_front().map(TcpStream::connect));
                next_start = Instant::now() + HEAD_START;
            }
        }
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused, nothing listens on that port".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to the host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "no route to its network".to_owned(),
        io::ErrorKind::TimedOut => "no answer".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(s: &str) -> SocketAddr {
        s.parse().unwrap()
    }

    #[test]
    fn families_alternate_and_the_number_of_addresses_is_bounded() {
        let found = ["[::1]:1", "[::2]:1", "1.0.0.1:1", "1.0.0.2:1", "1.0.0.3:1"].map(addr);
        let mixed: Vec<String> = interleave(found.into_iter()).iter().map(|a| a.ip().to_string()).collect();
        assert_eq!(mixed, ["::1", "1.0.0.1", "::2", "1.0.0.2", "1.0.0.3"]);
        assert!(interleave((0..200).map(|p| SocketAddr::from(([127, 0, 0, 1], p)))).len() <= MAX_ADDRESSES);
    }

    #[tokio::test]
    async fn a_dead_address_does_not_hide_a_live_one() {
        let live = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = {
            let l = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            l.local_addr().unwrap()
        };
        let stream = race([dead, live.local_addr().unwrap()].into()).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live.local_addr().unwrap());
        assert_eq!(race([dead].into()).await.unwrap_err(), "connection refused, nothing listens on that port");
    }
}
