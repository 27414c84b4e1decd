//! Reading a recording: its facts, its events in order, and seeking.
//!
//! What lives here: the public reading side. What must not: checks of frames ([`crate::scan`]), exports.

use crate::error::{ReadError, Reason, VerifyError};
use crate::event::{Entry, Event, Header, TrackKind, take_record};
use crate::format::{End, FrameKind, Index, IndexEntry};
use crate::key::MasterKey;
use crate::scan::{Scanner, new_decompressor, read_error, unpack};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Reads one container. It does blocking file IO: in async code use it in `spawn_blocking`. It holds one chunk in
/// memory at a time.
pub struct Reader {
    path: PathBuf,
    scanner: Scanner,
    header: Header,
    end: Option<End>,
    index: Vec<IndexEntry>,
    decompressor: zstd::bulk::Decompressor<'static>,
    tolerant: bool,
    damage: Option<VerifyError>,
    done: bool,
    chunk: Bytes,
    chunk_offset: u64,
    left: u32,
    position: u64,
    time_us: u64,
    from_us: u64,
    from_position: u64,
}

impl Reader {
    /// Opens a recording. One that was never sealed (the daemon was killed, or it is still being written) can be read
    /// to its last whole chunk; [`Reader::complete`] says so. A changed byte is an error when it is reached.
    ///
    /// # Errors
    /// If the file cannot be opened, is no recording, or the key is not its key.
    pub fn open(path: impl AsRef<Path>, key: &MasterKey) -> Result<Self, ReadError> {
        Self::open_as(path.as_ref(), key, false)
    }

    /// Opens a recording of which as much as possible is wanted: reading ends at the first damage instead of failing,
    /// and [`Reader::damage`] tells where and why.
    ///
    /// # Errors
    /// As [`Reader::open`]: without a whole header nothing can be read.
    pub fn open_tolerant(path: impl AsRef<Path>, key: &MasterKey) -> Result<Self, ReadError> {
        Self::open_as(path.as_ref(), key, true)
    }

    fn open_as(path: &Path, key: &MasterKey, tolerant: bool) -> Result<Self, ReadError> {
        let (mut scanner, header) = Scanner::open_path(path, Some(key))?;
        let header = header.ok_or_else(|| ReadError::damaged(0, Reason::Decrypt))?;
        let (end, index) = read_end(&mut scanner).unwrap_or_default();
        scanner.rewind();
        Ok(Self {
            path: path.to_owned(),
            scanner,
            header,
            end,
            index,
            decompressor: new_decompressor(path)?,
            tolerant,
            damage: None,
            done: false,
            chunk: Bytes::new(),
            chunk_offset: 0,
            left: 0,
            position: 0,
            time_us: 0,
            from_us: 0,
            from_position: 0,
        })
    }

    /// Facts about the recording.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether the recording was sealed and its end is in place. (Whether every byte is as it was is a question for
    /// [`crate::verify`].)
    #[must_use]
    pub fn complete(&self) -> bool {
        self.end.is_some_and(|end| !end.interrupted)
    }

    /// Whether the recording was sealed after its daemon had died (see [`crate::seal_interrupted`]).
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.end.is_some_and(|end| end.interrupted)
    }

    /// Time of the last event, known for sealed recordings.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        self.end.map(|end| end.duration())
    }

    /// Number of event records, known for sealed recordings.
    #[must_use]
    pub fn event_count(&self) -> Option<u64> {
        self.end.map(|end| end.events)
    }

    /// Where and why reading ended early, once it has: damage, or an end in the middle of a chunk.
    #[must_use]
    pub fn damage(&self) -> Option<&VerifyError> {
        self.damage.as_ref()
    }

    /// The events from here on, in order. Continues where an earlier iterator of this reader stopped.
    pub fn events(&mut self) -> Events<'_> {
        Events { reader: self }
    }

    /// The next event is the first one at or after `at`.
    ///
    /// # Errors
    /// If the file cannot be read there.
    pub fn seek(&mut self, at: Duration) -> Result<(), ReadError> {
        let at_us = u64::try_from(at.as_micros()).unwrap_or(u64::MAX);
        // Strictly before: events with exactly this time may already be in the chunk before the one that starts with it.
        let entry = self.index.partition_point(|entry| entry.base_us < at_us).checked_sub(1);
        self.go(entry, at_us, 0)
    }

    /// The next event is the one with this position (or the first known one after it).
    ///
    /// # Errors
    /// If the file cannot be read there.
    pub fn seek_position(&mut self, position: u64) -> Result<(), ReadError> {
        let entry = self.index.partition_point(|entry| entry.first <= position).checked_sub(1);
        self.go(entry, 0, position)
    }

    fn go(&mut self, entry: Option<usize>, from_us: u64, from_position: u64) -> Result<(), ReadError> {
        self.left = 0;
        self.chunk = Bytes::new();
        self.done = false;
        self.damage = None;
        self.from_us = from_us;
        self.from_position = from_position;
        match entry.and_then(|entry| self.index.get(entry)) {
            Some(entry) => match self.scanner.jump(entry.offset) {
                Ok(()) => Ok(()),
                Err(error) => self.stop(error).map(drop),
            },
            None => {
                self.scanner.rewind();
                Ok(())
            }
        }
    }

    fn stop(&mut self, error: VerifyError) -> Result<Option<Entry>, ReadError> {
        self.done = true;
        self.left = 0;
        // A torn end of an unsealed file is what a killed daemon leaves; it is not a lie.
        let torn = self.end.is_none() && matches!(error.reason, Reason::Truncated(_));
        self.damage = Some(error.clone());
        if torn || self.tolerant { Ok(None) } else { Err(read_error(&self.path, error)) }
    }

    fn next_entry(&mut self) -> Result<Option<Entry>, ReadError> {
        while !self.done {
            if self.left == 0 {
                if let Err(error) = self.next_chunk() {
                    return self.stop(error);
                }
                continue;
            }
            let Some((dt, event)) = take_record(&mut self.chunk) else {
                return self.stop(VerifyError { offset: self.chunk_offset, reason: Reason::Frame("event record") });
            };
            self.left -= 1;
            self.time_us = self.time_us.saturating_add(dt);
            let position = self.position;
            self.position = position.saturating_add(1);
            if let Some(event) = event
                && self.time_us >= self.from_us
                && position >= self.from_position
            {
                return Ok(Some(Entry { position, at: Duration::from_micros(self.time_us), event }));
            }
        }
        Ok(None)
    }

    fn next_chunk(&mut self) -> Result<(), VerifyError> {
        let Some(frame) = self.scanner.next()? else {
            self.done = true;
            return Ok(());
        };
        match frame.kind {
            FrameKind::Data => {
                let (head, chunk) = unpack(self.scanner.plain(), &mut self.decompressor)
                    .map_err(|reason| VerifyError { offset: frame.offset, reason })?;
                if matches!(head.track, TrackKind::Term | TrackKind::File) {
                    self.left = head.records;
                    self.chunk = chunk;
                    self.chunk_offset = frame.offset;
                    self.position = head.first;
                    self.time_us = head.base_us;
                }
            }
            FrameKind::End => self.done = true,
            FrameKind::Index | FrameKind::Unknown => {}
        }
        Ok(())
    }
}

/// Reads end and index from the end of the file; `None` if it is not sealed.
fn read_end(scanner: &mut Scanner) -> Option<(Option<End>, Vec<IndexEntry>)> {
    scanner.jump(scanner.len().checked_sub(End::FRAME_LEN as u64)?).ok()?;
    let frame = scanner.next().ok()??;
    let end = End::decode(scanner.plain()).filter(|_| frame.kind == FrameKind::End)?;
    scanner.jump(end.index_offset).ok()?;
    let frame = scanner.next().ok()??;
    let index = Index::decode(scanner.plain()).filter(|_| frame.kind == FrameKind::Index)?;
    Some((Some(end), index))
}

/// Iterator over a reader's events, see [`Reader::events`]. After an error it ends.
pub struct Events<'a> {
    reader: &'a mut Reader,
}

impl Iterator for Events<'_> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.reader.next_entry().transpose()
    }
}

/// The bytes of an output event, for those who want nothing else.
pub(crate) fn output(entry: Entry) -> Option<Bytes> {
    match entry.event {
        Event::Output(bytes) => Some(bytes),
        _ => None,
    }
}
