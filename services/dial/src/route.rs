//! What callers say: where the asset is, which way leads there, as whom, and how long to try.
//!
//! Plain data and the [`HostKeys`] trait only. Nothing here knows the store or opens a socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use zeroize::Zeroizing;

/// An SSH gateway of a zone.
pub struct Hop {
    /// The gateway's name, for messages.
    pub name: String,
    /// Host name or IP address.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// As whom we log in to the gateway itself.
    pub login: SshLogin,
}

/// The way to an asset.
#[derive(Clone)]
pub struct Route {
    /// Host name or IP address of the asset, as seen from the last gateway.
    pub address: String,
    /// TCP port of the asset.
    pub port: u16,
    /// Alternatives, tried in order with fail-over; empty means direct.
    pub gateways: Vec<Arc<Hop>>,
}

impl Route {
    /// A route without gateways.
    pub fn direct(address: impl Into<String>, port: u16) -> Self {
        Self { address: address.into(), port, gateways: Vec::new() }
    }

    /// `host:port`, with brackets around an IPv6 address.
    pub fn target(&self) -> String {
        target(&self.address, self.port)
    }
}

/// `host:port` for messages; an IPv6 address is put in brackets.
pub(crate) fn target(address: &str, port: u16) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// As whom to log in over SSH.
pub struct SshLogin {
    /// Account name on the asset.
    pub username: String,
    /// What to present, in this order; a server that asks for several gets them one after the other.
    pub auth: Vec<Auth>,
    /// Also offer algorithms that are no longer considered safe (SHA-1 key exchange and signatures, CBC ciphers).
    /// A property of the asset's platform, off by default.
    pub legacy: bool,
}

/// One proof of identity. Deliberately without `Debug`.
pub enum Auth {
    /// For the `password` method, or a single hidden prompt of `keyboard-interactive`.
    Password(Zeroizing<String>),
    /// A private key in OpenSSH, PKCS#1, PKCS#8, SEC1 or PuTTY format.
    Key { pem: Zeroizing<String>, passphrase: Option<Zeroizing<String>> },
    /// A private key with an OpenSSH certificate for it (the text of a `*-cert.pub` file).
    Certificate { pem: Zeroizing<String>, passphrase: Option<Zeroizing<String>>, certificate: String },
}

/// A host key as the other side presented it; its possession has been proven by the key exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa`...
    pub algorithm: String,
    /// The public key in OpenSSH's one-line format, without a comment.
    pub openssh: String,
    /// `SHA256:` and 43 characters of base64, as OpenSSH prints it.
    pub sha256: String,
}

/// What the keeper of pinned keys says about a host key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostKeyVerdict {
    /// It is the pinned key.
    Known,
    /// Nothing was pinned; it is now.
    PinnedNow,
    /// Another key is pinned; `expected` is its fingerprint. The connection is dropped.
    Changed { expected: String },
    /// It cannot be judged (the store does not answer, pinning is off by policy). The connection is dropped.
    Refused { reason: String },
}

/// Who remembers host keys. `host` and `port` are those of the route or the hop, not of a resolved address.
#[async_trait]
pub trait HostKeys: Send + Sync {
    /// Judges a key. Runs inside the handshake's time limit.
    async fn check(&self, host: &str, port: u16, key: &HostKey) -> HostKeyVerdict;

    /// Algorithms of the keys pinned for this host (`ssh-ed25519`, `ssh-rsa`...). They are asked for first, so that a
    /// host with several keys proves the pinned one instead of looking changed.
    async fn pinned_algorithms(&self, _host: &str, _port: u16) -> Vec<String> {
        Vec::new()
    }
}

/// Time limits. Each covers its whole stage, per attempt at one host.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// Name resolution and TCP connection, over all addresses of the name.
    pub tcp: Duration,
    /// SSH version exchange, key exchange and host key check.
    pub handshake: Duration,
    /// All log-in attempts together; for telnet all prompts together.
    pub auth: Duration,
    /// Opening a channel and getting the answer to the requests on it.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let each = Duration::from_secs(15);
        Self { tcp: each, handshake: each, auth: each, request: each }
    }
}

/// SSH keepalives towards an asset.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Ask for a sign of life after this much silence; `None` never asks.
    pub interval: Option<Duration>,
    /// Give up after this many unanswered questions; 0 never gives up.
    pub max: usize,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { interval: Some(Duration::from_secs(60)), max: 3 }
    }
}

/// Everything about dialling that does not depend on the asset. Cheap to clone; share one per process so that failed
/// gateways are remembered across sessions.
#[derive(Clone)]
pub struct DialContext {
    pub host_keys: Arc<dyn HostKeys>,
    pub timeouts: Timeouts,
    pub keepalive: Keepalive,
    pub gateways: GatewayMemory,
}

impl DialContext {
    /// Defaults for everything but the host keys.
    pub fn new(host_keys: Arc<dyn HostKeys>) -> Self {
        Self {
            host_keys,
            timeouts: Timeouts::default(),
            keepalive: Keepalive::default(),
            gateways: GatewayMemory::default(),
        }
    }
}

/// How long a failed gateway goes to the end of the queue.
const FAILED_FOR: Duration = Duration::from_secs(30);
/// More failed gateways than this are not remembered; the oldest goes first.
const FAILED_MAX: usize = 1024;

/// Gateways that failed in the last 30 s. They are tried after the others, never skipped.
#[derive(Clone, Default)]
pub struct GatewayMemory {
    failed: Arc<Mutex<HashMap<(String, u16), Instant>>>,
}

impl GatewayMemory {
    /// The gateways of a route, healthy ones first, otherwise in the given order.
    pub(crate) fn order(&self, hops: &[Arc<Hop>]) -> Vec<Arc<Hop>> {
        let now = Instant::now();
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let recently = |hop: &Arc<Hop>| {
            failed
                .get(&(hop.address.clone(), hop.port))
                .is_some_and(|at| now.saturating_duration_since(*at) < FAILED_FOR)
        };
        let (last, mut first): (Vec<_>, Vec<_>) = hops.iter().cloned().partition(recently);
        first.extend(last);
        first
    }

    pub(crate) fn note_failed(&self, hop: &Hop) {
        let now = Instant::now();
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.retain(|_, at| now.saturating_duration_since(*at) < FAILED_FOR);
        if failed.len() >= FAILED_MAX
            && let Some(oldest) = failed.iter().min_by_key(|(_, at)| **at).map(|(key, _)| key.clone())
        {
            failed.remove(&oldest);
        }
        failed.insert((hop.address.clone(), hop.port), now);
    }

    pub(crate) fn note_worked(&self, hop: &Hop) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).remove(&(hop.address.clone(), hop.port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(name: &str, port: u16) -> Arc<Hop> {
        Arc::new(Hop {
            name: name.into(),
            address: "10.0.0.1".into(),
            port,
            login: SshLogin { username: "g".into(), auth: vec![], legacy: false },
        })
    }

    #[test]
    fn a_failed_gateway_goes_last_and_comes_back() {
        let memory = GatewayMemory::default();
        let hops = [hop("a", 1), hop("b", 2), hop("c", 3)];
        let names = |m: &GatewayMemory| m.order(&hops).iter().map(|h| h.name.clone()).collect::<String>();
        assert_eq!(names(&memory), "abc");
        memory.note_failed(&hops[0]);
        assert_eq!(names(&memory), "bca");
        memory.note_worked(&hops[0]);
        assert_eq!(names(&memory), "abc");
    }

    #[test]
    fn memory_of_failures_is_bounded() {
        let memory = GatewayMemory::default();
        for port in 0..3000 {
            memory.note_failed(&hop("x", port));
        }
        assert_eq!(memory.failed.lock().unwrap().len(), FAILED_MAX);
    }

    #[test]
    fn ipv6_targets_are_bracketed() {
        assert_eq!(Route::direct("::1", 22).target(), "[::1]:22");
        assert_eq!(Route::direct("h", 22).target(), "h:22");
    }
}
