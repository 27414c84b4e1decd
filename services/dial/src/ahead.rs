//! A stream that is read a little ahead, so that a small packet costs one system call instead of three.
//!
//! The SSH library reads a packet in two steps, its length and the rest. Both are exact, so that the runtime cannot tell
//! that the socket is empty afterwards, and asks it a third time. With this in between, a keystroke is one read that comes
//! back short. Large packets still go straight into the library's buffer. What must not be here: protocols.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read ahead: many keystrokes or SFTP requests, and small beside what an idle session may cost.
const AHEAD: usize = 2048;

/// Reads `S` ahead by at most 2 KiB; writing goes straight through.
pub struct ReadAhead<S> {
    inner: S,
    buffer: Box<[u8]>,
    at: usize,
    end: usize,
}

impl<S> ReadAhead<S> {
    pub fn new(inner: S) -> Self {
        Self { inner, buffer: vec![0; AHEAD].into_boxed_slice(), at: 0, end: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at == this.end {
            if buf.remaining() >= AHEAD {
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut fill = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut fill))?;
            (this.at, this.end) = (0, fill.filled().len());
        }
        let ready = this.buffer.get(this.at..this.end).unwrap_or_default();
        let taken = ready.get(..ready.len().min(buf.remaining())).unwrap_or_default();
        buf.put_slice(taken);
        this.at += taken.len();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().inner).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Counts the reads that reach the socket.
    struct Counted<S>(S, usize);

    impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.1 += 1;
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }

    #[tokio::test]
    async fn a_packet_in_two_exact_reads_reaches_the_socket_once() {
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut stream = ReadAhead::new(Counted(near, 0));
        far.write_all(&[7; 60]).await.unwrap();
        let (mut head, mut rest) = ([0; 4], [0; 56]);
        stream.read_exact(&mut head).await.unwrap();
        stream.read_exact(&mut rest).await.unwrap();
        assert_eq!((head, rest, stream.inner.1), ([7; 4], [7; 56], 1));
    }

    #[tokio::test]
    async fn no_byte_is_lost_or_moved_whatever_the_sizes() {
        let (near, mut far) = tokio::io::duplex(5_000);
        let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        let copy = sent.clone();
        let writer = tokio::spawn(async move { far.write_all(&copy).await.unwrap() });
        let mut stream = ReadAhead::new(near);
        let mut got = Vec::new();
        for n in (0..).map(|n| (n * 37) % 6_000 + 1) {
            let mut piece = vec![0; n];
            match stream.read(&mut piece).await.unwrap() {
                0 => break,
                len => got.extend_from_slice(&piece[..len]),
            }
        }
        writer.await.unwrap();
        assert!(got == sent);
    }
}
