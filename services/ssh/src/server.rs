//! The listener: accepts connections within bounds, gives each its handler, cuts those that do not log in in time, and
//! drains at the end. What must not be here: what a connection does.

use std::borrow::Cow;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use gatehouse_dial::{ReadAhead, flow};
use gatehouse_identity::Identity;
use gatehouse_session::Core;
use russh::SshId;
use russh::keys::{HashAlg, PrivateKey};
use russh::server::Config;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;

use crate::auth::Login;
use crate::handler::Connection;
use crate::hostkey::{self, HostKeyError};
use crate::limits::{Gatekeeper, Limits};
use crate::offer::Offers;

/// Largest packet that we accept, bytes of payload.
const MAX_PACKET: u32 = 32 * 1024;
/// Messages towards one user that wait for their connection.
const EVENTS: usize = 16;
/// The library's own queue of a channel, which this gateway does not read.
const UNUSED_QUEUE: usize = 1;
/// Refused log-ins of one connection. Keys that a client merely offers count too, so there is room for a full agent.
const MAX_AUTH_ATTEMPTS: usize = 16;
/// After this long a client that says nothing is asked for a sign of life; after three without an answer it is gone.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What the gateway is started with.
#[derive(Debug, Clone)]
pub struct SshConfig {
    pub limits: Limits,
    /// Time to log in, codes and new passwords included. Default 120 s.
    pub login_grace: Duration,
    /// How long sessions may take to end at shutdown before their connections are cut. Default 5 s.
    pub drain: Duration,
}

impl Default for SshConfig {
    fn default() -> Self {
        Self { limits: Limits::default(), login_grace: Duration::from_secs(120), drain: Duration::from_secs(5) }
    }
}

/// Why the gateway does not run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    #[error(transparent)]
    HostKey(#[from] HostKeyError),
    #[error("the ssh gateway cannot accept connections: {0}")]
    Accept(#[from] io::Error),
}

/// The SSH gateway. Cheap to clone.
#[derive(Clone)]
pub struct SshGateway {
    core: Core,
    identity: Identity,
    config: SshConfig,
    offers: Arc<Offers>,
    fingerprints: Arc<Vec<String>>,
}

impl SshGateway {
    /// Loads the host keys, or makes them at the first start.
    ///
    /// # Errors
    /// [`GatewayError::HostKey`].
    pub async fn new(core: Core, identity: Identity, config: SshConfig) -> Result<Self, GatewayError> {
        let keys = hostkey::load_or_create(core.store()).await?;
        let fingerprints =
            keys.iter().map(|k| format!("{} {}", k.algorithm(), k.fingerprint(HashAlg::Sha256))).collect();
        let offers = Arc::new(Offers::new(|| server_config(keys.clone())));
        Ok(Self { core, identity, config, offers, fingerprints: Arc::new(fingerprints) })
    }

    /// `algorithm SHA256:...` of each host key, to be shown to whoever connects for the first time.
    pub fn fingerprints(&self) -> &[String] {
        &self.fingerprints
    }

    /// Accepts connections until `shutdown`, then ends them: sessions are closed by [`Core::drain`], which the supervisor
    /// calls; what is left after [`SshConfig::drain`] is cut.
    ///
    /// # Errors
    /// [`GatewayError::Accept`] when the listener fails for good.
    pub async fn run(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), GatewayError> {
        let keeper = Gatekeeper::new(self.config.limits);
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        tokio::pin!(shutdown);
        let result = loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break Ok(()),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.accept(&tasks, &cut, &keeper, stream, peer),
                // Too many open files and the like pass; a broken listener does not come back.
                Err(error) if passes(&error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => break Err(GatewayError::Accept(error)),
            }
        };
        drop(listener);
        tasks.close();
        if tokio::time::timeout(self.config.drain, tasks.wait()).await.is_err() {
            cut.cancel();
            tasks.wait().await;
        }
        result
    }

    fn accept(
        &self,
        tasks: &TaskTracker,
        cut: &CancellationToken,
        keeper: &Gatekeeper,
        stream: TcpStream,
        peer: SocketAddr,
    ) {
        let Some(place) = keeper.admit(peer.ip()) else {
            tracing::debug!(ip = %peer.ip(), "a connection is refused: too many");
            return;
        };
        // Keystrokes must not wait for acknowledgements; failure only costs latency.
        let _ = stream.set_nodelay(true);
        let cut = cut.child_token();
        let (grace, proven) = Grace::new();
        let login = Login::new(self.identity.clone(), peer.ip().to_canonical());
        let connection = Connection::new(login, self.core.clone(), place, grace);
        let severed = cut.clone();
        let (offers, patience) = (Arc::clone(&self.offers), self.config.login_grace);
        tasks.spawn(async move {
            let served = async {
                let offered = offers.choose(&stream, peer.ip()).await;
                let stream = ReadAhead::new(Severable::new(stream, severed));
                let result = match russh::server::run_stream(Arc::clone(&offered), stream, connection).await {
                    Ok(running) => running.await,
                    Err(error) => Err(error),
                };
                if let Err(error) = &result {
                    offers.note(peer.ip(), &offered, error);
                }
                result
            };
            tokio::pin!(served);
            let in_time = async {
                tokio::select! {
                    () = proven.notified() => std::future::pending().await,
                    () = tokio::time::sleep(patience) => {}
                }
            };
            let result = tokio::select! {
                result = &mut served => result,
                () = in_time => {
                    cut.cancel();
                    served.await
                }
            };
            if let Err(error) = result {
                // What strangers send is not worth more.
                tracing::debug!(ip = %peer.ip(), %error, "an ssh connection ended");
            }
        });
    }
}

fn passes(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, OutOfMemory, WouldBlock};
    // EMFILE and ENFILE have no kind of their own.
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | OutOfMemory | WouldBlock)
        || matches!(error.raw_os_error(), Some(23 | 24))
}

/// All but the algorithms (see [`Offers`]).
fn server_config(keys: Vec<PrivateKey>) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed("SSH-2.0-Gatehouse")),
        methods: Login::methods(),
        // Identity does the same work for everybody, so this only slows guessing.
        auth_rejection_time: Duration::from_millis(50),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys,
        window_size: flow::FIRST,
        maximum_packet_size: MAX_PACKET,
        channel_buffer_size: UNUSED_QUEUE,
        event_buffer_size: EVENTS,
        max_auth_attempts: MAX_AUTH_ATTEMPTS,
        // Sessions end by policy, connections by keepalive.
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    }
}

/// Says that the user has logged in, so that the connection is not cut.
pub(crate) struct Grace(Arc<Notify>);

impl Grace {
    fn new() -> (Self, Arc<Notify>) {
        let proven = Arc::new(Notify::new());
        (Self(Arc::clone(&proven)), proven)
    }

    pub(crate) fn proven(&self) {
        self.0.notify_one();
    }
}

/// A stream that ends when its token is cancelled: the SSH library runs each connection in a task of its own that only
/// ends with its stream.
struct Severable {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Severable {
    fn new(stream: TcpStream, cut: CancellationToken) -> Self {
        Self { stream, cut: Box::pin(cut.cancelled_owned()) }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Result<(), io::Error> {
        match self.cut.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Severable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Severable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_cut(cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
