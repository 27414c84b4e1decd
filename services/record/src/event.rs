//! What a recording holds: its header facts and its events, and how events are laid out inside a chunk.
//!
//! What lives here: event types and their byte encoding. What must not: encryption, files, threads.
//!
//! One event record is `kind u8, dt varint, len varint, payload`: `dt` is the time in microseconds since the record
//! before (or since the chunk's base time). Varints are LEB128, little-endian groups of seven bits. A reader skips
//! kinds that it does not know by their length, so later versions can add kinds.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::time::Duration;
use uuid::Uuid;

/// Largest payload of an event that is text (command, marker, file path) in bytes; such an event is never split.
pub const MAX_TEXT: usize = 1024 * 1024;

/// What a track carries. A reader skips chunks of tracks that it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TrackKind {
    /// Terminal output, input, sizes, commands.
    Term,
    /// Graphical frames (desktops).
    Gfx,
    /// Database statements.
    Query,
    /// Content of a transferred file.
    File,
    /// A kind that this version does not know.
    Other(u8),
}

impl TrackKind {
    /// The byte that stands for the kind in the container.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Term => 1,
            Self::Gfx => 2,
            Self::Query => 3,
            Self::File => 4,
            Self::Other(code) => code,
        }
    }

    /// The kind that a byte stands for.
    #[must_use]
    pub fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Term,
            2 => Self::Gfx,
            3 => Self::Query,
            4 => Self::File,
            other => Self::Other(other),
        }
    }
}

/// Facts about a recording. Only `session`, `org`, `started`, `kind`, `width` and `height` are readable in the file
/// without the key; `title`, `term` and `shell` are encrypted, because they may name a user or a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The session; it names the file.
    pub session: Uuid,
    /// The organization that the session belongs to.
    pub org: Uuid,
    /// When the recording began. Event times count from here. Kept with microsecond precision.
    pub started: DateTime<Utc>,
    /// The main track.
    pub kind: TrackKind,
    /// Columns (or pixels) at the start.
    pub width: u16,
    /// Rows (or pixels) at the start.
    pub height: u16,
    /// A title for players (encrypted in the file).
    pub title: Option<String>,
    /// Value of `TERM` (encrypted in the file).
    pub term: String,
    /// Value of `SHELL`, if known (encrypted in the file).
    pub shell: Option<String>,
}

impl Header {
    /// Facts of a terminal recording that starts now, without title or shell.
    #[must_use]
    pub fn term(session: Uuid, org: Uuid, width: u16, height: u16, term: impl Into<String>) -> Self {
        Self {
            session,
            org,
            started: Utc::now(),
            kind: TrackKind::Term,
            width,
            height,
            title: None,
            term: term.into(),
            shell: None,
        }
    }
}

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Bytes that the user's terminal got. Large pieces may come back as several events with the same time.
    Output(Bytes),
    /// Bytes that the user sent. Kept encrypted like everything else; exported only on request.
    Input(Bytes),
    /// The terminal's new size.
    Resize {
        /// Columns.
        cols: u16,
        /// Rows.
        rows: u16,
    },
    /// A command as the shell ran it.
    Command {
        /// Number of the command within the session.
        index: u64,
        /// The command in full.
        text: String,
        /// Risk level as the command filter saw it.
        risk: u8,
    },
    /// A free mark for players.
    Marker(String),
    /// A file operation.
    File {
        /// The file transfer's id.
        id: Uuid,
        /// The operation, for example `upload`.
        op: String,
        /// Path on the asset.
        path: String,
    },
    /// The session was paused.
    Pause,
    /// The session went on.
    Resume,
}

/// An event with its time since the start and its position (number of the event record within the recording).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Number of the record, from 0; what [`crate::Recorder::position`] returned before it was written.
    pub position: u64,
    /// Time since the start of the recording, microsecond precision.
    pub at: Duration,
    /// What happened.
    pub event: Event,
}

mod kind {
    pub(super) const OUTPUT: u8 = 1;
    pub(super) const INPUT: u8 = 2;
    pub(super) const RESIZE: u8 = 3;
    pub(super) const COMMAND: u8 = 4;
    pub(super) const MARKER: u8 = 5;
    pub(super) const FILE: u8 = 6;
    pub(super) const PAUSE: u8 = 7;
    pub(super) const RESUME: u8 = 8;
}

/// Upper bound of what a record takes besides its payload: kind and two varints of at most ten bytes.
pub(crate) const RECORD_OVERHEAD: usize = 21;

/// One record ready to be appended to a chunk: a small inline head plus payload parts that are borrowed, so that
/// output is copied once only, into the chunk.
pub(crate) enum Record<'a> {
    Stream { kind: u8, data: &'a [u8] },
    Small { kind: u8, data: [u8; 4], len: usize },
    Text { kind: u8, head: Vec<u8>, text: &'a str },
}

impl<'a> Record<'a> {
    pub(crate) fn of(event: &'a Event) -> Self {
        match event {
            Event::Output(data) => Self::output(data),
            Event::Input(data) => Self::Stream { kind: kind::INPUT, data },
            Event::Resize { cols, rows } => {
                let ([a, b], [c, d]) = (cols.to_le_bytes(), rows.to_le_bytes());
                Self::Small { kind: kind::RESIZE, data: [a, b, c, d], len: 4 }
            }
            Event::Command { index, text, risk } => {
                let mut head = vec![*risk];
                head.extend_from_slice(&index.to_le_bytes());
                Self::Text { kind: kind::COMMAND, head, text }
            }
            Event::Marker(text) => Self::Text { kind: kind::MARKER, head: Vec::new(), text },
            Event::File { id, op, path } => {
                let mut head = id.as_bytes().to_vec();
                put_varint(&mut head, op.len() as u64);
                head.extend_from_slice(op.as_bytes());
                Self::Text { kind: kind::FILE, head, text: path }
            }
            Event::Pause => Self::Small { kind: kind::PAUSE, data: [0; 4], len: 0 },
            Event::Resume => Self::Small { kind: kind::RESUME, data: [0; 4], len: 0 },
        }
    }

    pub(crate) fn output(data: &'a [u8]) -> Self {
        Self::Stream { kind: kind::OUTPUT, data }
    }

    /// Size of the payload in bytes.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Stream { data, .. } => data.len(),
            Self::Small { len, .. } => *len,
            Self::Text { head, text, .. } => head.len() + text.len(),
        }
    }

    /// For stream records: cuts off the first `len` bytes as a record of their own. Others cannot be cut.
    pub(crate) fn split_first(&mut self, len: usize) -> Option<Record<'a>> {
        match self {
            Self::Stream { kind, data } => {
                let (first, rest) = data.split_at_checked(len)?;
                *data = rest;
                Some(Record::Stream { kind: *kind, data: first })
            }
            _ => None,
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }

    /// Appends the record to a chunk; `dt` is the time since the record before, in microseconds.
    pub(crate) fn append(&self, dt: u64, out: &mut Vec<u8>) {
        let kind = match self {
            Self::Stream { kind, .. } | Self::Small { kind, .. } | Self::Text { kind, .. } => *kind,
        };
        out.push(kind);
        put_varint(out, dt);
        put_varint(out, self.len() as u64);
        match self {
            Self::Stream { data, .. } => out.extend_from_slice(data),
            Self::Small { data, len, .. } => out.extend(data.iter().take(*len)),
            Self::Text { head, text, .. } => {
                out.extend_from_slice(head);
                out.extend_from_slice(text.as_bytes());
            }
        }
    }
}

/// Takes one record from the front of `chunk` (whose start moves on): time step, and the event if its kind is known.
/// `None` means that the record is malformed.
pub(crate) fn take_record(chunk: &mut Bytes) -> Option<(u64, Option<Event>)> {
    let kind = take(chunk, 1)?.first().copied()?;
    let dt = take_varint(chunk)?;
    let len = usize::try_from(take_varint(chunk)?).ok()?;
    let payload = take(chunk, len)?;
    Some((dt, decode(kind, payload)?))
}

/// Outer `None`: malformed. Inner `None`: a kind that this version does not know.
#[expect(
    clippy::option_option,
    reason = "malformed and unknown are different things and both are private to this file"
)]
fn decode(kind: u8, mut payload: Bytes) -> Option<Option<Event>> {
    let event = match kind {
        kind::OUTPUT => Event::Output(payload),
        kind::INPUT => Event::Input(payload),
        kind::RESIZE => {
            let cols = u16::from_le_bytes(take_array(&mut payload)?);
            let rows = u16::from_le_bytes(take_array(&mut payload)?);
            Event::Resize { cols, rows }
        }
        kind::COMMAND => {
            let [risk] = take_array(&mut payload)?;
            let index = u64::from_le_bytes(take_array(&mut payload)?);
            Event::Command { index, risk, text: text(&payload)? }
        }
        kind::MARKER => Event::Marker(text(&payload)?),
        kind::FILE => {
            let id = Uuid::from_bytes(take_array(&mut payload)?);
            let len = usize::try_from(take_varint(&mut payload)?).ok()?;
            let op = text(&take(&mut payload, len)?)?;
            Event::File { id, op, path: text(&payload)? }
        }
        kind::PAUSE => Event::Pause,
        kind::RESUME => Event::Resume,
        _ => return Some(None),
    };
    Some(Some(event))
}

fn text(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().map(str::to_owned)
}

/// Takes `len` bytes from the front without copying them.
pub(crate) fn take(bytes: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= bytes.len()).then(|| bytes.split_to(len))
}

pub(crate) fn take_array<const N: usize>(bytes: &mut Bytes) -> Option<[u8; N]> {
    take(bytes, N)?.as_ref().try_into().ok()
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let group = u8::try_from(value & 0x7f).unwrap_or(0x7f);
        value >>= 7;
        if value == 0 {
            out.push(group);
            return;
        }
        out.push(group | 0x80);
    }
}

pub(crate) fn take_varint(bytes: &mut Bytes) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let [byte] = take_array(bytes)?;
        let group = u64::from(byte & 0x7f);
        if shift == 63 && group > 1 {
            return None;
        }
        value |= group << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(event: &Event) -> Event {
        let mut out = Vec::new();
        Record::of(event).append(300, &mut out);
        assert!(out.len() <= Record::of(event).len() + RECORD_OVERHEAD);
        let mut bytes = Bytes::from(out);
        let (dt, back) = take_record(&mut bytes).unwrap();
        assert_eq!((dt, bytes.len()), (300, 0));
        back.unwrap()
    }

    #[test]
    fn every_kind_comes_back() {
        for event in [
            Event::Output(Bytes::from_static(b"\xff\x00out")),
            Event::Input(Bytes::new()),
            Event::Resize { cols: 65535, rows: 1 },
            Event::Command { index: u64::MAX, text: "ls \u{4e2d}".into(), risk: 5 },
            Event::Marker("here".into()),
            Event::File { id: Uuid::from_u128(7), op: "upload".into(), path: "/tmp/a b".into() },
            Event::Pause,
            Event::Resume,
        ] {
            assert_eq!(round_trip(&event), event);
        }
    }

    #[test]
    fn unknown_kinds_are_skipped_and_malformed_ones_refused() {
        let mut bytes = Bytes::from_static(&[200, 1, 2, 9, 9, 7, 5, 0]);
        assert_eq!(take_record(&mut bytes), Some((1, None)));
        assert_eq!(take_record(&mut bytes), Some((5, Some(Event::Pause))));
        assert_eq!(take_record(&mut bytes), None);
        for bad in [&[1u8][..], &[1, 0], &[1, 0, 5, 1], &[3, 0, 1, 1], &[5, 0, 1, 0xff], &[6, 0, 3, 1, 2, 3]] {
            assert_eq!(take_record(&mut Bytes::from_static(Box::leak(bad.to_vec().into_boxed_slice()))), None);
        }
    }

    #[test]
    fn varints_hold_their_whole_range_and_refuse_more() {
        for value in [0, 1, 127, 128, 16383, 16384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(take_varint(&mut Bytes::from(out)), Some(value));
        }
        assert_eq!(take_varint(&mut Bytes::from_static(&[0xff; 11])), None);
        assert_eq!(
            take_varint(&mut Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2])),
            None
        );
    }
}
