//! A channel on an SSH connection: starting something on it, and the raw channel for whoever moves bytes.

use std::collections::VecDeque;
use std::io;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use russh::client::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelStream, ChannelWriteHalf, Pty};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

use crate::error::{DialError, Stage, clean};
use crate::ssh::Link;

/// Messages that may come before the answer to our requests; an asset that sends more is broken.
const MAX_EARLY: usize = 64;

/// A pseudo terminal as the user's client described it (RFC 4254 section 6.2).
#[derive(Debug, Clone)]
pub struct PtySpec {
    /// Value of `TERM`.
    pub term: String,
    /// Columns, characters.
    pub cols: u32,
    /// Rows, characters.
    pub rows: u32,
    /// Width, pixels; 0 when unknown.
    pub width: u32,
    /// Height, pixels; 0 when unknown.
    pub height: u32,
    /// Terminal modes to pass on.
    pub modes: Vec<(Pty, u32)>,
}

impl Default for PtySpec {
    fn default() -> Self {
        Self { term: "xterm-256color".into(), cols: 80, rows: 24, width: 0, height: 0, modes: Vec::new() }
    }
}

/// An open channel. `raw` is the library's own channel: splice with it (through [`SshChannel::split`]) and no byte is
/// copied on the way.
pub struct SshChannel {
    /// The library's channel. Prefer [`SshChannel::wait`] for reading, which also returns what came before the answer to
    /// our requests.
    pub raw: Channel<Msg>,
    early: VecDeque<ChannelMsg>,
    link: Arc<Link>,
}

impl SshChannel {
    pub(crate) fn new(raw: Channel<Msg>, link: Arc<Link>) -> Self {
        Self { raw, early: VecDeque::new(), link }
    }

    /// Sets environment variables for what is started next. Assets take few (OpenSSH: `AcceptEnv`) and drop the others;
    /// no answer is asked for, so this costs no round trip.
    pub async fn set_environment(&self, env: &[(String, String)]) -> Result<(), DialError> {
        for (name, value) in env {
            self.sent(self.raw.set_env(false, name.as_str(), value.as_str()).await)?;
        }
        Ok(())
    }

    /// Asks for a shell, on a pseudo terminal if given, and waits for the answers. Both requests travel together.
    pub async fn start_shell(&mut self, pty: Option<&PtySpec>) -> Result<(), DialError> {
        self.ask_pty(pty).await?;
        self.sent(self.raw.request_shell(true).await)?;
        self.answers(pty, "a shell").await
    }

    /// Asks for a command, on a pseudo terminal if given, and waits for the answers.
    pub async fn start_exec(&mut self, command: &[u8], pty: Option<&PtySpec>) -> Result<(), DialError> {
        self.ask_pty(pty).await?;
        self.sent(self.raw.exec(true, command).await)?;
        self.answers(pty, "a command").await
    }

    /// Asks for a subsystem and waits for the answer.
    pub async fn start_subsystem(&mut self, name: &str) -> Result<(), DialError> {
        self.sent(self.raw.request_subsystem(true, name).await)?;
        self.answers(None, "a subsystem").await
    }

    async fn ask_pty(&self, pty: Option<&PtySpec>) -> Result<(), DialError> {
        let Some(p) = pty else { return Ok(()) };
        self.sent(self.raw.request_pty(true, &p.term, p.cols, p.rows, p.width, p.height, &p.modes).await)
    }

    fn sent(&self, result: Result<(), russh::Error>) -> Result<(), DialError> {
        result.map_err(|_| self.link.closed())
    }

    async fn answers(&mut self, pty: Option<&PtySpec>, what: &'static str) -> Result<(), DialError> {
        let limit = self.link.request;
        let wait = async {
            if pty.is_some() {
                self.answer("a terminal").await?;
            }
            self.answer(what).await
        };
        match timeout(limit, wait).await {
            Ok(result) => result,
            Err(_) => Err(DialError::Timeout { target: self.link.target.clone(), stage: Stage::Request, after: limit }),
        }
    }

    async fn answer(&mut self, what: &'static str) -> Result<(), DialError> {
        loop {
            match self.raw.wait().await {
                Some(ChannelMsg::Success) => return Ok(()),
                Some(ChannelMsg::Failure) => {
                    return Err(DialError::RequestRefused { target: self.link.target.clone(), what });
                }
                Some(ChannelMsg::Close) | None => return Err(self.link.closed()),
                Some(ChannelMsg::WindowAdjusted { .. }) => {}
                Some(message) if self.early.len() < MAX_EARLY => self.early.push_back(message),
                Some(_) => {
                    let reason = "it sends data instead of answering a request".to_owned();
                    return Err(DialError::Protocol { target: self.link.target.clone(), reason });
                }
            }
        }
    }

    /// The next message; `None` when the channel is closed.
    pub async fn wait(&mut self) -> Option<ChannelMsg> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.raw.wait().await,
        }
    }

    /// A reader and a writer for two tasks. Both keep the connection open.
    pub fn split(self) -> (SshReader, SshWriter) {
        let (read, write) = self.raw.split();
        (
            SshReader { raw: read, early: self.early, _link: Arc::clone(&self.link) },
            SshWriter { raw: write, _link: self.link },
        )
    }

    /// As a byte stream of standard output and standard input (for SFTP, tunnels). Anything else that the asset sends,
    /// such as standard error and the exit status, is dropped. Closing is part of dropping it.
    pub fn into_stream(self) -> SshStream {
        let early = self
            .early
            .into_iter()
            .filter_map(|m| if let ChannelMsg::Data { data } = m { Some(data) } else { None })
            .collect();
        SshStream { early, raw: self.raw.into_stream(), _link: self.link }
    }
}

impl Deref for SshChannel {
    type Target = Channel<Msg>;

    fn deref(&self) -> &Self::Target {
        &self.raw
    }
}

/// The reading half of a channel.
pub struct SshReader {
    raw: ChannelReadHalf,
    early: VecDeque<ChannelMsg>,
    _link: Arc<Link>,
}

impl SshReader {
    /// The next message; `None` when the channel is closed. Cancel safe. Messages own their bytes (`Bytes`): pass them on
    /// with `data_bytes` and nothing is copied.
    pub async fn wait(&mut self) -> Option<ChannelMsg> {
        match self.early.pop_front() {
            Some(message) => Some(message),
            None => self.raw.wait().await,
        }
    }
}

/// The writing half of a channel; derefs to the library's, for `data_bytes`, `window_change`, `signal`, `eof`, `close`.
pub struct SshWriter {
    raw: ChannelWriteHalf<Msg>,
    _link: Arc<Link>,
}

impl Deref for SshWriter {
    type Target = ChannelWriteHalf<Msg>;

    fn deref(&self) -> &Self::Target {
        &self.raw
    }
}

/// A channel as a byte stream.
pub struct SshStream {
    early: VecDeque<bytes::Bytes>,
    raw: ChannelStream<Msg>,
    _link: Arc<Link>,
}

impl AsyncRead for SshStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(front) = self.early.front_mut() {
            let n = front.len().min(buf.remaining());
            buf.put_slice(&front.split_to(n));
            if front.is_empty() {
                self.early.pop_front();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.raw).poll_read(cx, buf)
    }
}

impl AsyncWrite for SshStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            // The library calls this an error; the contract of AsyncWrite does not.
            return Poll::Ready(Ok(0));
        }
        Pin::new(&mut self.raw).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.raw).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.raw).poll_shutdown(cx)
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// Exit status, 0-255 on Unix.
    Status(u32),
    /// Killed by a signal, its name without `SIG`.
    Signal(String),
    /// The asset did not say.
    Unknown,
}

/// What a command wrote and how it ended.
#[derive(Debug)]
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit: Exit,
}

/// Feeds `input` and collects both streams until the channel closes.
pub(crate) async fn collect(
    mut reader: SshReader,
    writer: &SshWriter,
    input: &[u8],
    limit: usize,
    target: &str,
) -> Result<Output, DialError> {
    let feed = async {
        // A command that does not read its input closes it; what it wrote still counts.
        let _ = writer.data(input).await;
        let _ = writer.eof().await;
    };
    let read = async {
        let mut out = Output { stdout: Vec::new(), stderr: Vec::new(), exit: Exit::Unknown };
        while let Some(message) = reader.wait().await {
            let (into, data) = match message {
                ChannelMsg::Data { data } => (&mut out.stdout, data),
                ChannelMsg::ExtendedData { data, ext: 1 } => (&mut out.stderr, data),
                ChannelMsg::ExitStatus { exit_status } => {
                    out.exit = Exit::Status(exit_status);
                    continue;
                }
                ChannelMsg::ExitSignal { signal_name, .. } => {
                    out.exit = Exit::Signal(signal_name_of(&signal_name));
                    continue;
                }
                ChannelMsg::Close => break,
                _ => continue,
            };
            into.extend_from_slice(&data);
            if out.stdout.len() + out.stderr.len() > limit {
                return Err(DialError::TooMuchOutput { target: target.to_owned(), limit });
            }
        }
        Ok(out)
    };
    // The two run together: a command may write before it has read everything.
    tokio::pin!(feed);
    tokio::pin!(read);
    tokio::select! {
        result = &mut read => result,
        () = &mut feed => read.await,
    }
}

fn signal_name_of(signal: &russh::Sig) -> String {
    match signal {
        russh::Sig::Custom(name) => clean(name),
        known => format!("{known:?}"),
    }
}
