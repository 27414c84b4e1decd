//! An open telnet connection: data bytes in, data bytes out, option negotiation out of sight.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::codec::Codec;
use crate::tcp::DialStream;

const READ_BUFFER: usize = 16 * 1024;

/// A telnet connection. Bounded memory: nothing is read from the wire that was not asked for.
pub struct TelnetPeer {
    reader: TelnetReader,
    writer: TelnetWriter,
}

impl TelnetPeer {
    /// Speaks telnet over a stream; no log-in yet. `term`, `cols` and `rows` are for the server's questions.
    pub fn new(stream: DialStream, term: &str, cols: u16, rows: u16) -> Self {
        let (read, write) = tokio::io::split(stream);
        let shared =
            Arc::new(Shared { codec: Mutex::new(Codec::new(term, cols, rows)), write: tokio::sync::Mutex::new(write) });
        Self {
            reader: TelnetReader {
                read,
                shared: Arc::clone(&shared),
                buffer: vec![0; READ_BUFFER],
                early: Bytes::new(),
            },
            writer: TelnetWriter { shared },
        }
    }

    /// See [`TelnetReader::read`].
    pub async fn read(&mut self) -> io::Result<Bytes> {
        self.reader.read().await
    }

    /// See [`TelnetWriter::write`].
    pub async fn write(&self, data: &[u8]) -> io::Result<()> {
        self.writer.write(data).await
    }

    /// See [`TelnetWriter::resize`].
    pub async fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        self.writer.resize(cols, rows).await
    }

    /// A reader and a writer for two tasks.
    pub fn split(self) -> (TelnetReader, TelnetWriter) {
        (self.reader, self.writer)
    }

    /// Puts bytes back in front of what will be read next.
    pub(crate) fn unread(&mut self, data: Bytes) {
        self.reader.early = data;
    }
}

struct Shared {
    codec: Mutex<Codec>,
    write: tokio::sync::Mutex<WriteHalf<DialStream>>,
}

impl Shared {
    fn codec(&self) -> MutexGuard<'_, Codec> {
        self.codec.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes waiting answers, unless somebody is writing already: then that one writes them when done. The reader must
    /// never wait for a writer, or a peer that stopped reading until we read would stop us both.
    async fn flush_replies(&self) -> io::Result<()> {
        loop {
            let Ok(mut write) = self.write.try_lock() else { return Ok(()) };
            let replies = self.codec().take_replies();
            if replies.is_empty() {
                return Ok(());
            }
            write.write_all(&replies).await?;
            write.flush().await?;
        }
    }
}

/// The reading half.
pub struct TelnetReader {
    read: ReadHalf<DialStream>,
    shared: Arc<Shared>,
    buffer: Vec<u8>,
    early: Bytes,
}

impl TelnetReader {
    /// The next data bytes; empty at the end of the connection. Cancel safe as far as data goes.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn read(&mut self) -> io::Result<Bytes> {
        if !self.early.is_empty() {
            return Ok(std::mem::take(&mut self.early));
        }
        loop {
            let n = self.read.read(&mut self.buffer).await?;
            if n == 0 {
                return Ok(Bytes::new());
            }
            let mut data = Vec::with_capacity(n);
            let answer = {
                let mut codec = self.shared.codec();
                codec.receive(self.buffer.get(..n).unwrap_or_default(), &mut data);
                codec.has_replies()
            };
            if !data.is_empty() {
                // Data must not be lost when the caller drops this future, so keep it while answering.
                self.early = Bytes::from(data);
            }
            if answer {
                self.shared.flush_replies().await?;
            }
            if !self.early.is_empty() {
                return Ok(std::mem::take(&mut self.early));
            }
        }
    }
}

/// The writing half. Cheap to clone; writes of different clones do not mix.
#[derive(Clone)]
pub struct TelnetWriter {
    shared: Arc<Shared>,
}

impl TelnetWriter {
    /// Sends data bytes, escaped as telnet needs it; returns when the connection took them (back-pressure).
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn write(&self, data: &[u8]) -> io::Result<()> {
        let mut wire = Vec::new();
        {
            let mut write = self.shared.write.lock().await;
            self.shared.codec().encode(data, &mut wire);
            write.write_all(&wire).await?;
            write.flush().await?;
        }
        self.shared.flush_replies().await
    }

    /// Tells the server the new window size if it asked for such news.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn resize(&self, cols: u16, rows: u16) -> io::Result<()> {
        self.shared.codec().resize(cols, rows);
        self.shared.flush_replies().await
    }

    /// True when the server echoes what is typed.
    pub fn server_echoes(&self) -> bool {
        self.shared.codec().server_echoes()
    }

    /// Ends our side of the connection.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn shutdown(&self) -> io::Result<()> {
        self.shared.write.lock().await.shutdown().await
    }
}
