//! One SSH gateway of a zone: log in to it and have it connect us to the asset.
//!
//! Each dialled asset gets an SSH connection to the gateway of its own. Sharing one would let a session whose user
//! stopped reading hold up everybody else behind the same gateway, because the SSH library stops reading a whole
//! connection when one of its channels is not read (see [`crate::flow`]).

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use russh::ChannelMsg;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use crate::auth;
use crate::channel::SshReader;
use crate::error::DialError;
use crate::route::{DialContext, Hop, Route};
use crate::ssh::{self, SshPeer};
use crate::tcp;

/// How far we read ahead on the way from the gateway.
///
/// When SSH to the asset runs inside this stream, its task does not read while it is blocked writing, and the gateway's
/// window adjustment that would unblock it may sit behind data. The asset can have sent at most one window
/// ([`ssh::WINDOW`]) per channel then, and reading ahead by more than that makes the dead end impossible. For one channel
/// the asset's window keeps the queue below 2 MiB; the bound is for several channels, and for an asset that ignores
/// windows.
const READ_AHEAD: usize = 4 * ssh::WINDOW as usize;

/// Logs in to the gateway and opens a TCP connection from there to the asset.
pub(crate) async fn through(hop: &Hop, route: &Route, ctx: &DialContext) -> Result<HopStream, DialError> {
    let peer = match log_in(hop, ctx).await {
        Ok(peer) => {
            ctx.gateways.note_worked(hop);
            peer
        }
        Err(error) => {
            ctx.gateways.note_failed(hop);
            return Err(error);
        }
    };
    // The gateway works; that it cannot reach this asset says nothing about others.
    let address = route.address.trim_start_matches('[').trim_end_matches(']');
    let channel = peer.direct_tcpip_within(address, route.port, ("127.0.0.1", 0), ctx.timeouts.tcp).await?;
    let (reader, writer) = channel.split();
    let shared = Arc::new(Shared::default());
    let pump = tokio::spawn(pump(reader, Arc::clone(&shared)));
    let write = Box::pin(writer.make_writer());
    Ok(HopStream { name: hop.name.clone(), shared, pump, write, _peer: peer })
}

async fn log_in(hop: &Hop, ctx: &DialContext) -> Result<SshPeer, DialError> {
    let proofs = auth::prepare(&hop.login).await?;
    let stream = tcp::connect(&hop.address, hop.port, ctx.timeouts.tcp).await?;
    ssh::establish(stream, (&hop.address, hop.port), &hop.login, proofs, ctx).await
}

/// A TCP connection that a gateway opened for us.
pub(crate) struct HopStream {
    name: String,
    shared: Arc<Shared>,
    pump: tokio::task::JoinHandle<()>,
    write: Pin<Box<dyn AsyncWrite + Send + Sync>>,
    _peer: SshPeer,
}

impl HopStream {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for HopStream {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    bytes: usize,
    done: bool,
    reader: Option<Waker>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves what comes from the gateway into the read-ahead queue, so that a blocked writer of the stream never stops the
/// gateway connection from being read.
async fn pump(mut reader: SshReader, shared: Arc<Shared>) {
    loop {
        while shared.state().bytes > READ_AHEAD {
            shared.room.notified().await;
        }
        let message = reader.wait().await;
        let mut state = shared.state();
        match message {
            Some(ChannelMsg::Data { data }) => {
                state.bytes += data.len();
                state.queue.push_back(data);
            }
            Some(ChannelMsg::Eof | ChannelMsg::Close) | None => state.done = true,
            Some(_) => continue,
        }
        let (done, reader) = (state.done, state.reader.take());
        drop(state);
        if let Some(waker) = reader {
            waker.wake();
        }
        if done {
            return;
        }
    }
}

impl AsyncRead for HopStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.shared.state();
        if state.queue.is_empty() && !state.done {
            state.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let before = state.bytes;
        while buf.remaining() > 0
            && let Some(front) = state.queue.front_mut()
        {
            let n = front.len().min(buf.remaining());
            buf.put_slice(front.get(..n).unwrap_or_default());
            front.advance(n);
            if front.is_empty() {
                state.queue.pop_front();
            }
            state.bytes = state.bytes.saturating_sub(n);
        }
        let made_room = before > READ_AHEAD && state.bytes <= READ_AHEAD;
        drop(state);
        if made_room {
            self.shared.room.notify_one();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for HopStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
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
