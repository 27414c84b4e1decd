//! A stream that somebody else can cut.
//!
//! The SSH library runs each connection in a task of its own that ends only when its stream does. A peer that accepts TCP
//! and then never speaks would keep such a task, its socket and its memory for ever after we gave up. So every stream
//! handed to the library is wrapped: when the [`Knife`] is dropped, reading and writing end at once, even when blocked.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;

/// Cuts its stream when dropped.
pub(crate) struct Knife {
    _held: oneshot::Sender<()>,
}

/// The stream side; must be read and written by one task (it keeps a single waker).
pub(crate) struct Severable<S> {
    inner: S,
    knife: oneshot::Receiver<()>,
    cut: bool,
    heard: Heard,
}

/// The first bytes that came from the other side (at most [`HEARD_MAX`]), to tell a person what answered when it was not
/// an SSH server.
pub(crate) type Heard = Arc<OnceLock<Vec<u8>>>;
const HEARD_MAX: usize = 64;

impl<S> Severable<S> {
    pub(crate) fn new(inner: S) -> (Self, Knife) {
        let (held, knife) = oneshot::channel();
        (Self { inner, knife, cut: false, heard: Heard::default() }, Knife { _held: held })
    }

    pub(crate) fn heard(&self) -> Heard {
        Arc::clone(&self.heard)
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.cut {
            self.cut = Pin::new(&mut self.knife).poll(cx).is_ready();
        }
        self.cut
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.heard.get().is_none()
            && let Some(new) = buf.filled().get(before..)
            && !new.is_empty()
        {
            // Nobody else sets it: this stream has one reader.
            let _ = self.heard.set(new.iter().copied().take(HEARD_MAX).collect());
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_cut(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.poll_cut(cx) {
            // The socket closes when the stream is dropped; waiting for a polite shutdown is what we came to end.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn dropping_the_knife_ends_a_blocked_read_and_a_blocked_write() {
        let (near, _far) = tokio::io::duplex(16);
        let (mut stream, knife) = Severable::new(near);
        let task = tokio::spawn(async move {
            let write = stream.write_all(&[0; 1024]).await.unwrap_err().kind();
            let read = stream.read(&mut [0; 1]).await.unwrap_err().kind();
            (write, read)
        });
        tokio::task::yield_now().await;
        assert!(!task.is_finished());
        drop(knife);
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(task.await.unwrap(), (aborted, aborted));
    }
}
