//! An SSH connection to an asset, logged in as an account.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use russh::client::{self, Handle};
use russh::{Channel, Disconnect, SshId};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use crate::ahead::ReadAhead;
use crate::algorithms::preferred;
use crate::auth::{self, Ready};
use crate::channel::{Exit, Output, PtySpec, SshChannel, SshStream};
use crate::error::{DialError, Stage, clean};
use crate::handshake::{Client, Facts, explain};
use crate::route::{DialContext, HostKey, Route, SshLogin, target};
use crate::sever::{Knife, Severable};
use crate::tcp;

/// Receive window of a channel, bytes. OpenSSH's own size: 2 MiB keep 20 MiB/s flowing over 100 ms. It also bounds what
/// an asset can push at us while we do not read.
pub(crate) const WINDOW: u32 = 2 * 1024 * 1024;
/// Largest packet that we accept, bytes of payload.
const MAX_PACKET: u32 = 32 * 1024;
/// Messages that wait in a channel before its connection is no longer read: with full packets half a MiB.
const CHANNEL_BUFFER: usize = 16;
/// How long a polite good-bye may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Connects to the asset and logs in.
///
/// Keys are decoded before anything is dialled. The host key is checked by [`crate::HostKeys`] before any secret is
/// sent.
///
/// # Errors
/// Any [`DialError`]; each says in words what to do.
pub async fn ssh(route: &Route, login: &SshLogin, ctx: &DialContext) -> Result<SshPeer, DialError> {
    let proofs = auth::prepare(login).await?;
    let stream = tcp::tcp(route, ctx).await?;
    Box::pin(establish(stream, (&route.address, route.port), login, proofs, ctx)).await
}

/// Handshake and log-in over a stream that already leads to the host.
pub(crate) async fn establish<S>(
    stream: S,
    (address, port): (&str, u16),
    login: &SshLogin,
    proofs: Vec<Ready>,
    ctx: &DialContext,
) -> Result<SshPeer, DialError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let target = target(address, port);
    let facts = Arc::new(Facts::default());
    let client =
        Client { host: address.to_owned(), port, host_keys: Arc::clone(&ctx.host_keys), facts: Arc::clone(&facts) };
    // From here on, leaving early drops the knife, and with it the library's task and the socket.
    let (stream, knife) = Severable::new(stream);
    let heard = stream.heard();
    let handshake = async {
        let pinned = ctx.host_keys.pinned_algorithms(address, port).await;
        let stream = ReadAhead::new(stream);
        client::connect_stream(Arc::new(config(login.legacy, &pinned, ctx)), stream, client).await
    };
    let limit = ctx.timeouts.handshake;
    let mut handle = match timeout(limit, handshake).await {
        Ok(Ok(handle)) => handle,
        Ok(Err(error)) => return Err(explain(error, target, login.legacy, &heard, &facts)),
        Err(_) => return Err(DialError::Timeout { target, stage: Stage::Handshake, after: limit }),
    };
    auth::log_in(&mut handle, &target, login, proofs, &facts, ctx.timeouts.auth).await?;
    let link = Link { handle, facts, target, request: ctx.timeouts.request, _knife: knife };
    Ok(SshPeer { link: Arc::new(link) })
}

fn config(legacy: bool, pinned: &[String], ctx: &DialContext) -> client::Config {
    client::Config {
        client_id: SshId::Standard("SSH-2.0-Gatehouse".into()),
        window_size: WINDOW,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size: CHANNEL_BUFFER,
        preferred: preferred(legacy, pinned),
        // Idle sessions are ended by policy of the session, not by the transport.
        inactivity_timeout: None,
        keepalive_interval: ctx.keepalive.interval,
        keepalive_max: ctx.keepalive.max,
        nodelay: true,
        ..client::Config::default()
    }
}

/// What everything on one connection shares. The connection is cut when the last holder is gone.
pub(crate) struct Link {
    handle: Handle<Client>,
    pub(crate) facts: Arc<Facts>,
    pub(crate) target: String,
    pub(crate) request: Duration,
    _knife: Knife,
}

impl Link {
    pub(crate) fn closed(&self) -> DialError {
        DialError::Closed { target: self.target.clone(), reason: self.facts.ended() }
    }
}

/// A connection to an asset, logged in. Cheap to clone; cut when the last clone, channel, reader and writer is dropped.
///
/// Channels of one connection share its fate in the library: a channel that is not read stops the others (see
/// [`crate::flow`]). Open a connection of its own for whatever may be read independently.
#[derive(Clone)]
pub struct SshPeer {
    link: Arc<Link>,
}

impl SshPeer {
    /// A session channel on which nothing has been requested yet.
    pub async fn session(&self) -> Result<SshChannel, DialError> {
        let limit = self.link.request;
        self.open(self.link.handle.channel_open_session(), limit).await
    }

    /// A log-in shell, on a pseudo terminal if asked, with these environment variables as far as the asset takes them.
    pub async fn shell(&self, pty: Option<&PtySpec>, env: &[(String, String)]) -> Result<SshChannel, DialError> {
        let mut channel = self.session().await?;
        channel.set_environment(env).await?;
        channel.start_shell(pty).await?;
        Ok(channel)
    }

    /// Runs a command, otherwise as [`SshPeer::shell`]. Bytes, because a command line need not be UTF-8.
    pub async fn exec(
        &self,
        command: &[u8],
        pty: Option<&PtySpec>,
        env: &[(String, String)],
    ) -> Result<SshChannel, DialError> {
        let mut channel = self.session().await?;
        channel.set_environment(env).await?;
        channel.start_exec(command, pty).await?;
        Ok(channel)
    }

    /// Starts a subsystem such as `sftp`.
    pub async fn subsystem(&self, name: &str) -> Result<SshChannel, DialError> {
        let mut channel = self.session().await?;
        channel.start_subsystem(name).await?;
        Ok(channel)
    }

    /// A TCP connection from the asset to `host:port` (RFC 4254 section 7.2). `originator` is what the asset logs.
    pub async fn open_direct_tcpip(
        &self,
        host: &str,
        port: u16,
        originator: (&str, u16),
    ) -> Result<SshChannel, DialError> {
        self.direct_tcpip_within(host, port, originator, self.link.request).await
    }

    pub(crate) async fn direct_tcpip_within(
        &self,
        host: &str,
        port: u16,
        (from, from_port): (&str, u16),
        limit: Duration,
    ) -> Result<SshChannel, DialError> {
        let open = self.link.handle.channel_open_direct_tcpip(host, u32::from(port), from, u32::from(from_port));
        self.open(open, limit).await
    }

    /// An SFTP client (protocol version 3) on a channel of its own.
    pub async fn sftp(&self) -> Result<Sftp, DialError> {
        let stream = self.subsystem("sftp").await?.into_stream();
        let failed = |reason: String| DialError::Sftp { target: self.link.target.clone(), reason };
        let config = russh_sftp::client::Config {
            request_timeout_secs: self.link.request.as_secs().max(1),
            ..russh_sftp::client::Config::default()
        };
        let session = timeout(self.link.request, russh_sftp::client::SftpSession::new_with_config(stream, config))
            .await
            .map_err(|_| failed("no answer to the first message".to_owned()))?
            .map_err(|e| failed(clean(&e.to_string())))?;
        Ok(Sftp { session, _peer: self.clone() })
    }

    /// Runs a command to its end with `input` as its standard input and returns what it wrote, for automation.
    ///
    /// # Errors
    /// [`DialError::TooMuchOutput`] past `limit` bytes of both streams together, [`DialError::Timeout`] after `within`.
    pub async fn run(&self, command: &[u8], input: &[u8], limit: usize, within: Duration) -> Result<Output, DialError> {
        let deadline = Instant::now() + within;
        let late = || DialError::Timeout { target: self.link.target.clone(), stage: Stage::Request, after: within };
        let channel = timeout_at(deadline, Box::pin(self.exec(command, None, &[]))).await.map_err(|_| late())??;
        let (reader, writer) = channel.split();
        let work = crate::channel::collect(reader, &writer, input, limit, &self.link.target);
        let result = match timeout_at(deadline, Box::pin(work)).await {
            Ok(result) => result,
            Err(_) => Err(late()),
        };
        if result.is_err() {
            // The command must not outlive our interest in it; an error means that the connection is gone anyway.
            let _ = writer.close().await;
        }
        result
    }

    async fn open(
        &self,
        opening: impl Future<Output = Result<Channel<client::Msg>, russh::Error>>,
        limit: Duration,
    ) -> Result<SshChannel, DialError> {
        let target = || self.link.target.clone();
        match timeout(limit, opening).await {
            Ok(Ok(channel)) => Ok(SshChannel::new(channel, Arc::clone(&self.link))),
            Ok(Err(russh::Error::ChannelOpenFailure(why))) => {
                Err(DialError::ChannelRefused { target: target(), reason: clean(why.description()) })
            }
            Ok(Err(_)) => Err(self.link.closed()),
            Err(_) => Err(DialError::Timeout { target: target(), stage: Stage::Request, after: limit }),
        }
    }

    /// True once the connection is gone, whoever ended it.
    pub fn is_closed(&self) -> bool {
        self.link.handle.is_closed()
    }

    /// Says good-bye and cuts the connection, at the latest after one second. Channels end.
    pub async fn close(&self) {
        let goodbye = async {
            // An error means that it is closed already.
            let _ = self.link.handle.disconnect(Disconnect::ByApplication, "", "").await;
            while !self.is_closed() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = timeout(GOODBYE, goodbye).await;
    }

    /// What the asset said before log-in, without control characters; at most 8 KiB.
    pub fn banner(&self) -> Option<String> {
        self.link.facts.banner()
    }

    /// The host key that the asset proved; `None` only if the library was replaced by one that asks for none.
    pub fn host_key(&self) -> Option<&HostKey> {
        self.link.facts.host_key.get()
    }

    /// Why the connection ended, when it has.
    pub fn end_reason(&self) -> Option<String> {
        self.link.facts.ended()
    }
}

/// An SFTP client that keeps its connection open. Use it like the `SftpSession` that it derefs to.
pub struct Sftp {
    session: russh_sftp::client::SftpSession,
    _peer: SshPeer,
}

impl Deref for Sftp {
    type Target = russh_sftp::client::SftpSession;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}

// Kept in one place so that the public types of this module and of `channel` cannot drift apart unnoticed.
const _: fn() = || {
    fn movable_between_tasks<T: Send + 'static>() {}
    movable_between_tasks::<SshPeer>();
    movable_between_tasks::<SshChannel>();
    movable_between_tasks::<SshStream>();
    movable_between_tasks::<Output>();
    movable_between_tasks::<Exit>();
};
