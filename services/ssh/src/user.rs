//! The user's end of a channel: what comes from the user, in order and with back-pressure, and what goes to them.
//!
//! Incoming messages go through a [`flow`] backlog, filled by the connection's handler without ever stopping the
//! connection for long (see there why that matters). What must not be here: what is done with the bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use gatehouse_dial::flow::Outlet;
use russh::server::{Handle, Msg};
use russh::{ChannelId, ChannelMsg, ChannelWriteHalf, Sig};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, ReusableBoxFuture};

/// Code of standard error among extended data (RFC 4254 section 5.2).
const STDERR: u32 = 1;

/// What a user does on a channel.
#[derive(Debug, Clone)]
pub enum UserInput {
    Data(Bytes),
    /// Nothing more will come from the user; they still read.
    Eof,
    /// The user's terminal has a new size (columns, rows).
    Resize(u16, u16),
    Signal(Sig),
}

/// The user is gone: the channel or the whole connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the user closed the connection")]
pub struct Gone;

impl From<Gone> for io::Error {
    fn from(_: Gone) -> Self {
        io::ErrorKind::BrokenPipe.into()
    }
}

/// A channel on which a user asked for something.
pub struct UserChannel {
    pub(crate) reader: UserReader,
    pub(crate) writer: UserWriter,
    /// Harmless environment variables that the client set, for what is started on the asset.
    pub(crate) env: Vec<(String, String)>,
}

impl UserChannel {
    /// `held` is let go when nobody reads the channel any more.
    /// `gone` is cancelled when the channel or the connection is closed.
    pub(crate) fn new(
        outlet: Outlet,
        half: ChannelWriteHalf<Msg>,
        handle: Handle,
        held: Arc<()>,
        gone: CancellationToken,
    ) -> Self {
        Self { reader: UserReader { outlet, _held: held }, writer: UserWriter { half, handle, gone }, env: Vec::new() }
    }

    /// For two tasks.
    pub fn split(self) -> (UserReader, UserWriter) {
        (self.reader, self.writer)
    }

    /// As a byte stream (standard input and output), for SFTP and tunnels. Sizes and signals are dropped. Keep a
    /// [`UserWriter`] from [`UserStream::writer`] to send the exit status and to close.
    pub fn into_stream(self) -> UserStream {
        let write: Pin<Box<dyn AsyncWrite + Send + Sync>> = Box::pin(self.writer.half.make_writer());
        UserStream {
            writer: self.writer,
            write,
            left: Bytes::new(),
            ended: false,
            next: ReusableBoxFuture::new(pull(self.reader)),
        }
    }
}

/// What comes from the user.
pub struct UserReader {
    outlet: Outlet,
    _held: Arc<()>,
}

impl UserReader {
    /// The next thing that the user did; `None` when the channel is closed. Cancel safe.
    pub async fn next(&mut self) -> Option<UserInput> {
        loop {
            let small = |n: u32| u16::try_from(n).unwrap_or(u16::MAX);
            return Some(match self.outlet.pop().await? {
                ChannelMsg::Data { data } => UserInput::Data(data),
                ChannelMsg::Eof => UserInput::Eof,
                ChannelMsg::WindowChange { col_width, row_height, .. } => {
                    UserInput::Resize(small(col_width), small(row_height))
                }
                ChannelMsg::Signal { signal } => UserInput::Signal(signal),
                _ => continue,
            });
        }
    }
}

impl UserReader {
    /// Takes the data that came already, out of turn; what is not data stays in its place.
    pub(crate) fn take_waiting(&mut self) -> Vec<Bytes> {
        self.outlet.take_data()
    }
}

/// What goes to the user. Waits for the user's window, so nothing piles up for somebody who does not read.
pub struct UserWriter {
    half: ChannelWriteHalf<Msg>,
    handle: Handle,
    gone: CancellationToken,
}

impl UserWriter {
    /// Resolves when the user closed the channel or the connection, even while what they sent before still waits for an
    /// asset that does not take it.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    pub fn id(&self) -> ChannelId {
        self.half.id()
    }

    /// Standard output. The bytes are not copied.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn data(&self, data: impl Into<Bytes>) -> Result<(), Gone> {
        self.half.data_bytes(data).await.map_err(|_| Gone)
    }

    /// Standard error.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn stderr(&self, data: impl Into<Bytes>) -> Result<(), Gone> {
        self.half.extended_data_bytes(STDERR, data).await.map_err(|_| Gone)
    }

    /// Other extended data, as the asset numbered it.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn extended(&self, code: u32, data: Bytes) -> Result<(), Gone> {
        self.half.extended_data_bytes(code, data).await.map_err(|_| Gone)
    }

    /// Nothing more will come.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn eof(&self) -> Result<(), Gone> {
        self.half.eof().await.map_err(|_| Gone)
    }

    /// How the command ended.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn exit_status(&self, status: u32) -> Result<(), Gone> {
        self.half.exit_status(status).await.map_err(|_| Gone)
    }

    /// The command was ended by a signal.
    ///
    /// # Errors
    /// [`Gone`].
    pub async fn exit_signal(&self, signal: Sig, core_dumped: bool, message: String) -> Result<(), Gone> {
        self.handle
            .exit_signal_request(self.half.id(), signal, core_dumped, message, String::new())
            .await
            .map_err(|()| Gone)
    }

    /// Closes the channel.
    pub async fn close(&self) {
        // Closed already is as good.
        let _ = self.half.close().await;
    }
}

type Pulled = (UserReader, Option<UserInput>);

async fn pull(mut reader: UserReader) -> Pulled {
    let input = reader.next().await;
    (reader, input)
}

/// A user's channel as a byte stream.
pub struct UserStream {
    writer: UserWriter,
    write: Pin<Box<dyn AsyncWrite + Send + Sync>>,
    left: Bytes,
    ended: bool,
    next: ReusableBoxFuture<'static, Pulled>,
}

impl UserStream {
    /// For the exit status and for closing.
    pub fn writer(&self) -> &UserWriter {
        &self.writer
    }
}

impl AsyncRead for UserStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.left.is_empty() {
                let n = self.left.len().min(buf.remaining());
                let part = self.left.split_to(n);
                buf.put_slice(&part);
                return Poll::Ready(Ok(()));
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            let (reader, input) = ready!(self.next.poll(cx));
            self.next.set(pull(reader));
            match input {
                Some(UserInput::Data(data)) => self.left = data,
                Some(UserInput::Eof) | None => self.ended = true,
                Some(UserInput::Resize(..) | UserInput::Signal(_)) => {}
            }
        }
    }
}

impl AsyncWrite for UserStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            // The library calls this an error; the contract of AsyncWrite does not.
            return Poll::Ready(Ok(0));
        }
        self.write.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write.as_mut().poll_shutdown(cx)
    }
}
