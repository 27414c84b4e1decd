//! Which algorithms are offered to whom. What must not be here: connections.
//!
//! In SSH the client's order decides among what the server offers (RFC 4253 section 7.1), and OpenSSH's clients put
//! ChaCha20 and AES-CTR with a MAC before AES-GCM, which is several times faster on a CPU with AES. So a client that calls
//! itself OpenSSH is offered AES-GCM alone; others, some of which have no AES-GCM, everything. Should an OpenSSH be
//! configured without it, its address gets everything from then on.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_dial::cpu_prefers_aes;
use parking_lot::Mutex;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{Preferred, cipher, compression, kex, mac};
use tokio::net::TcpStream;

/// How long a client may take to say what it is before it is offered everything. Nearly all say it at once, unasked.
const PATIENCE: Duration = Duration::from_millis(100);
/// Between two looks at a greeting that came in part.
const AGAIN: Duration = Duration::from_millis(5);
/// Bytes of the greeting that are looked at.
const GREETING: usize = 24;
/// Addresses remembered; beyond, all are forgotten.
const MAX_REMEMBERED: usize = 4096;

/// What the gateway offers.
pub(crate) struct Offers {
    everything: Arc<Config>,
    /// `None` where AES is slow: everybody gets everything.
    fast: Option<Arc<Config>>,
    /// Addresses with an OpenSSH that does not take the fast offer.
    without: Mutex<HashSet<IpAddr>>,
}

impl Offers {
    /// `config` is all but the algorithms.
    pub(crate) fn new(config: impl Fn() -> Config) -> Self {
        let with = |ciphers| Arc::new(Config { preferred: preferred(ciphers), ..config() });
        Self {
            everything: with(if cpu_prefers_aes() { AES_FIRST } else { CHACHA_FIRST }),
            fast: cpu_prefers_aes().then(|| with(FAST)),
            without: Mutex::default(),
        }
    }

    /// What a new client is offered, before anything is read from it.
    pub(crate) async fn choose(&self, stream: &TcpStream, ip: IpAddr) -> Arc<Config> {
        match &self.fast {
            Some(fast) if !self.without.lock().contains(&ip) && takes_gcm(&greeting(stream).await) => Arc::clone(fast),
            _ => Arc::clone(&self.everything),
        }
    }

    /// A client ended the handshake like this.
    pub(crate) fn note(&self, ip: IpAddr, offered: &Arc<Config>, error: &russh::Error) {
        let fast = self.fast.as_ref().is_some_and(|fast| Arc::ptr_eq(fast, offered));
        if fast && matches!(error, russh::Error::NoCommonAlgo { .. }) {
            let mut without = self.without.lock();
            if without.len() >= MAX_REMEMBERED {
                without.clear();
            }
            without.insert(ip);
        }
    }
}

/// The beginning of the client's first line, left in the socket. Empty when it does not come in time.
async fn greeting(stream: &TcpStream) -> Vec<u8> {
    let mut seen = [0; GREETING];
    let look = async {
        loop {
            let n = stream.peek(&mut seen).await.unwrap_or(0);
            let seen = seen.get(..n).unwrap_or_default();
            if n == 0 || n == GREETING || seen.contains(&b'\n') {
                return seen.to_vec();
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_default()
}

/// OpenSSH since 6.2 (2013).
fn takes_gcm(greeting: &[u8]) -> bool {
    let number = |text: &[u8]| -> Option<u32> {
        let end = text.iter().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
        std::str::from_utf8(text.get(..end)?).ok()?.parse().ok()
    };
    let Some(version) = greeting.strip_prefix(b"SSH-2.0-OpenSSH_") else { return false };
    let minor = version.iter().position(|b| *b == b'.').and_then(|dot| number(version.get(dot + 1..)?));
    number(version).zip(minor).is_some_and(|version| version >= (6, 2))
}

const FAST: &[cipher::Name] = &[cipher::AES_256_GCM, cipher::AES_128_GCM];
const AES_FIRST: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
    cipher::CHACHA20_POLY1305,
];
const CHACHA_FIRST: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

fn preferred(ciphers: &'static [cipher::Name]) -> Preferred {
    const KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::DH_G16_SHA512,
        kex::DH_G14_SHA256,
        kex::EXTENSION_SUPPORT_AS_SERVER,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
    ];
    const MAC: &[mac::Name] = &[mac::HMAC_SHA512_ETM, mac::HMAC_SHA256_ETM, mac::HMAC_SHA512, mac::HMAC_SHA256];
    Preferred {
        kex: Cow::Borrowed(KEX),
        key: Cow::Borrowed(&[
            Algorithm::Ed25519,
            Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
            Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
        ]),
        cipher: Cow::Borrowed(ciphers),
        mac: Cow::Borrowed(MAC),
        compression: Cow::Borrowed(&[compression::NONE]),
        ..Preferred::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_openssh_that_has_aes_gcm_is_taken_for_one() {
        for yes in ["SSH-2.0-OpenSSH_9.2p1 Debian-2", "SSH-2.0-OpenSSH_6.2\r\n", "SSH-2.0-OpenSSH_10.0p2\r\n"] {
            assert!(takes_gcm(yes.as_bytes()), "{yes}");
        }
        for no in ["SSH-2.0-OpenSSH_6.1\r\n", "SSH-2.0-OpenSSH_5.9p1", "SSH-2.0-OpenSSH_", "SSH-2.0-OpenSSH_99", ""] {
            assert!(!takes_gcm(no.as_bytes()), "{no}");
        }
        for no in ["SSH-2.0-paramiko_3.5", "SSH-2.0-PuTTY_Release_0.83", "SSH-1.5-OpenSSH_9.9", "\r\n"] {
            assert!(!takes_gcm(no.as_bytes()), "{no}");
        }
    }

    #[tokio::test]
    async fn the_greeting_is_looked_at_and_left_where_it_is() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        assert_eq!(greeting(&server).await, b"", "a silent client is not waited for");
        client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
        assert_eq!(greeting(&server).await, b"SSH-2.0-x\r\n");
        let mut all = [0; 11];
        server.read_exact(&mut all).await.unwrap();
        assert_eq!(&all, b"SSH-2.0-x\r\n");
    }
}
