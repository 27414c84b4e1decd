//! Our side of the SSH handshake: what we answer when the library asks, and what we keep of what the peer said.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use russh::client::{self, ChannelOpenHandle, DisconnectReason, Msg, Session};
use russh::keys::{HashAlg, PublicKeyOrCertificate};
use russh::{AlgorithmKind, Channel};

use crate::error::{DialError, Stage, clean};
use crate::route::{HostKey, HostKeyVerdict, HostKeys, target};
use crate::sever::Heard;

/// A banner longer than this is cut; sshd sends a file of the administrator's choice here.
const BANNER_MAX: usize = 8 * 1024;

/// What is known about a connection besides its channels.
#[derive(Default)]
pub(crate) struct Facts {
    pub(crate) host_key: OnceLock<HostKey>,
    banner: Mutex<String>,
    /// Why the connection ended, in the peer's words or the library's.
    ended: OnceLock<String>,
}

impl Facts {
    pub(crate) fn banner(&self) -> Option<String> {
        let banner = self.banner.lock().unwrap_or_else(PoisonError::into_inner);
        (!banner.is_empty()).then(|| banner.clone())
    }

    pub(crate) fn ended(&self) -> Option<String> {
        self.ended.get().cloned()
    }
}

/// An error inside the library's task: its own, or a verdict of ours.
#[derive(Debug)]
pub(crate) enum LinkError {
    Library(russh::Error),
    Ours(DialError),
}

impl From<russh::Error> for LinkError {
    fn from(error: russh::Error) -> Self {
        Self::Library(error)
    }
}

/// Callbacks of one connection.
pub(crate) struct Client {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) host_keys: Arc<dyn HostKeys>,
    pub(crate) facts: Arc<Facts>,
}

impl client::Handler for Client {
    type Error = LinkError;

    async fn check_server_key(&mut self, presented: &PublicKeyOrCertificate) -> Result<bool, LinkError> {
        let target = target(&self.host, self.port);
        let mut key = presented.public_key();
        key.set_comment("");
        let openssh = key.to_openssh().map_err(|e| LinkError::Library(e.into()))?;
        let key = HostKey {
            algorithm: key.algorithm().as_str().to_owned(),
            openssh,
            sha256: key.fingerprint(HashAlg::Sha256).to_string(),
        };
        let verdict = self.host_keys.check(&self.host, self.port, &key).await;
        let got = key.sha256.clone();
        let _ = self.facts.host_key.set(key);
        match verdict {
            HostKeyVerdict::Known | HostKeyVerdict::PinnedNow => Ok(true),
            HostKeyVerdict::Changed { expected } => {
                Err(LinkError::Ours(DialError::HostKeyChanged { target, expected, got }))
            }
            HostKeyVerdict::Refused { reason } => Err(LinkError::Ours(DialError::HostKeyRefused { target, reason })),
        }
    }

    async fn auth_banner(&mut self, text: &str, _session: &mut Session) -> Result<(), LinkError> {
        let mut banner = self.facts.banner.lock().unwrap_or_else(PoisonError::into_inner);
        let room = BANNER_MAX.saturating_sub(banner.len());
        // Escape sequences in a banner must not reach a user's terminal before the session is even recorded.
        let safe = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'));
        let mut left = room;
        for c in safe {
            if c.len_utf8() > left {
                break;
            }
            left -= c.len_utf8();
            banner.push(c);
        }
        Ok(())
    }

    async fn disconnected(&mut self, reason: DisconnectReason<LinkError>) -> Result<(), LinkError> {
        let text = match reason {
            DisconnectReason::ReceivedDisconnect(info) => clean(&info.message),
            DisconnectReason::Error(LinkError::Library(error)) => clean(&error.to_string()),
            DisconnectReason::Error(LinkError::Ours(error)) => error.to_string(),
        };
        let _ = self.facts.ended.set(text);
        Ok(())
    }

    // The library's defaults accept channels that the *server* opens. We never ask for forwarding, so an asset that
    // opens one is up to no good: dropping the handle refuses it.

    async fn server_channel_open_forwarded_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _connected_address: &str,
        _connected_port: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_forwarded_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_agent_forward(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_session(
        &mut self,
        _channel: Channel<Msg>,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_direct_tcpip(
        &mut self,
        _channel: Channel<Msg>,
        _host_to_connect: &str,
        _port_to_connect: u32,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_direct_streamlocal(
        &mut self,
        _channel: Channel<Msg>,
        _socket_path: &str,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }

    async fn server_channel_open_x11(
        &mut self,
        _channel: Channel<Msg>,
        _originator_address: &str,
        _originator_port: u32,
        _reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), LinkError> {
        Ok(())
    }
}

/// Turns an error of the handshake into words.
pub(crate) fn explain(error: LinkError, target: String, legacy: bool, heard: &Heard, facts: &Facts) -> DialError {
    use std::io::ErrorKind;
    let error = match error {
        LinkError::Ours(error) => return error,
        LinkError::Library(error) => error,
    };
    let said = heard.get().filter(|bytes| !bytes.starts_with(b"SSH-")).map(|b| clean(&String::from_utf8_lossy(b)));
    let closed = matches!(&error, russh::Error::Disconnect | russh::Error::HUP)
        || matches!(&error, russh::Error::IO(e) if matches!(e.kind(), ErrorKind::UnexpectedEof
            | ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe));
    match (error, said) {
        (russh::Error::NoCommonAlgo { kind, theirs, .. }, _) => {
            let kind = match kind {
                AlgorithmKind::Kex => "key exchange",
                AlgorithmKind::Key => "host key",
                AlgorithmKind::Cipher => "cipher",
                AlgorithmKind::Compression => "compression",
                AlgorithmKind::Mac => "mac",
            };
            let theirs = theirs.iter().take(20).map(|name| clean(name)).collect();
            DialError::NoCommonAlgorithm { target, kind, theirs, legacy }
        }
        (russh::Error::Version, said) => DialError::NotSsh { target, said: said.unwrap_or_default() },
        (_, Some(said)) if closed => DialError::NotSsh { target, said },
        (_, None) if closed => DialError::ClosedEarly { target, stage: Stage::Handshake, reason: facts.ended() },
        (error, _) => DialError::Protocol { target, reason: clean(&error.to_string()) },
    }
}
