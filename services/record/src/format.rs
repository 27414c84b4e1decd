//! Layout of the container: header block, frames, index and end, byte for byte.
//!
//! What lives here: constants, encoding and defensive decoding of fixed structures. What must not: IO, threads, events.
//!
//! ```text
//! header   magic 8 | version u16 | flags u16 | public_len u32 | private_len u32
//!          public    session 16 | org 16 | started i64 us | salt 32 | track u8 | reserved u8 | width u16 | height u16
//!          private   AEAD(title, term, shell), tag included
//!          chain 32  SHA-256(domain, all of the above)
//! frame    kind u8 | reserved u8 x 3 | len u32 | number u64 | ciphertext with tag (len bytes)
//!          chain 32  SHA-256(chain before, frame header, ciphertext)
//! ```
//!
//! Integers are little-endian. Frames are numbered from 1 without a gap. A frame is sealed with AES-256-GCM-SIV; its
//! associated data are the header's chain value, the frame header and the chain value before it, so a frame opens in
//! its place only. Data frames hold `codec u8 | reserved u8 x 3 | raw_len u32 | body`; the raw chunk is
//! `track u8 | reserved u8 x 3 | records u32 | base time u64 us | first position u64`, then event records. After the
//! last data frame come one index frame and one end frame; the last 32 bytes of a sealed file are its digest.

use crate::error::Reason;
use crate::event::{Header, MAX_TEXT, RECORD_OVERHEAD, TrackKind, put_varint, take, take_array};
use bytes::Bytes;
use chrono::DateTime;
use std::time::Duration;
use uuid::Uuid;

/// Like PNG's signature it shows at once when a transfer changed line ends or cut the eighth bit.
pub(crate) const MAGIC: [u8; 8] = *b"\x89GHR\r\n\x1a\n";
pub(crate) const VERSION: u16 = 1;
pub(crate) const HASH_LEN: usize = 32;
pub(crate) const FIXED_LEN: usize = 20;
pub(crate) const PUBLIC_LEN: usize = 78;
/// Bounds on what a header may claim, so that a hostile file cannot make a reader allocate.
pub(crate) const MAX_PUBLIC_LEN: u32 = 4096;
pub(crate) const MAX_PRIVATE_LEN: u32 = 16 * 1024;
/// Longest title, `TERM` or `SHELL` that is kept, in bytes; longer ones are cut (a client chooses them freely).
pub(crate) const MAX_FACT: usize = 1024;

/// A chunk is closed before it would grow past this many bytes uncompressed.
pub(crate) const CHUNK_LIMIT: usize = 64 * 1024;
pub(crate) const CHUNK_HEAD: usize = 24;
/// Only a chunk that holds one large text event is longer than [`CHUNK_LIMIT`].
pub(crate) const MAX_RAW: usize = CHUNK_HEAD + RECORD_OVERHEAD + MAX_TEXT;
pub(crate) const BODY_HEAD: usize = 8;
pub(crate) const FRAME_HEAD: usize = 16;
pub(crate) const MAX_FRAME_BODY: usize = BODY_HEAD + MAX_RAW + crate::key::TAG_LEN;

pub(crate) const CODEC_RAW: u8 = 0;
pub(crate) const CODEC_ZSTD: u8 = 1;

const CHAIN_DOMAIN: &[u8] = b"gatehouse recording chain v1";

pub(crate) type Hash = [u8; HASH_LEN];

/// SHA-256 over the parts, one after the other.
fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0u8; HASH_LEN];
    for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    hash
}

/// First link of the chain: over the header block without its own chain value.
pub(crate) fn header_hash(block: &[u8]) -> Hash {
    sha256(&[CHAIN_DOMAIN, block])
}

/// Next link of the chain: over the link before and a whole frame (header and ciphertext).
pub(crate) fn next_hash(previous: &Hash, frame: &[u8]) -> Hash {
    sha256(&[previous, frame])
}

/// Associated data of a frame.
pub(crate) fn frame_aad(header: &Hash, frame_head: &[u8; FRAME_HEAD], previous: &Hash) -> [u8; 80] {
    let mut aad = [0u8; 80];
    for (to, from) in aad.iter_mut().zip(header.iter().chain(frame_head).chain(previous)) {
        *to = *from;
    }
    aad
}

/// A place between two frames: all that is needed to go on there, reading or appending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Hash chain up to here.
    pub(crate) previous: Hash,
    /// Number of the next frame.
    pub(crate) number: u64,
    /// Offset of the next frame in the file.
    pub(crate) offset: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameKind {
    Data,
    Index,
    End,
    /// From a later version: chained and counted, but not looked into.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHead {
    pub(crate) kind: FrameKind,
    pub(crate) len: usize,
    pub(crate) number: u64,
}

impl FrameHead {
    pub(crate) fn encode(kind: FrameKind, len: u32, number: u64) -> [u8; FRAME_HEAD] {
        let code = match kind {
            FrameKind::Data => 1,
            FrameKind::Index => 2,
            FrameKind::End => 3,
            FrameKind::Unknown => 0,
        };
        let ([a, b, c, d], [e, f, g, h, i, j, k, l]) = (len.to_le_bytes(), number.to_le_bytes());
        [code, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub(crate) fn decode(bytes: &[u8; FRAME_HEAD]) -> Result<Self, Reason> {
        let [code, r1, r2, r3, a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let kind = match code {
            0 => return Err(Reason::Frame("kind 0")),
            1 => FrameKind::Data,
            2 => FrameKind::Index,
            3 => FrameKind::End,
            _ => FrameKind::Unknown,
        };
        if [r1, r2, r3] != [0; 3] {
            return Err(Reason::Frame("reserved bytes are set"));
        }
        let len = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| Reason::Frame("length"))?;
        if !(crate::key::TAG_LEN..=MAX_FRAME_BODY).contains(&len) {
            return Err(Reason::Frame("length"));
        }
        Ok(Self { kind, len, number: u64::from_le_bytes([e, f, g, h, i, j, k, l]) })
    }
}

/// The part of the header that anybody can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Public {
    pub(crate) session: Uuid,
    pub(crate) org: Uuid,
    pub(crate) started_us: i64,
    pub(crate) salt: [u8; 32],
    pub(crate) kind: TrackKind,
    pub(crate) width: u16,
    pub(crate) height: u16,
}

impl Public {
    pub(crate) fn of(header: &Header, salt: [u8; 32]) -> Self {
        Self {
            session: header.session,
            org: header.org,
            started_us: header.started.timestamp_micros(),
            salt,
            kind: header.kind,
            width: header.width,
            height: header.height,
        }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(PUBLIC_LEN);
        out.extend_from_slice(self.session.as_bytes());
        out.extend_from_slice(self.org.as_bytes());
        out.extend_from_slice(&self.started_us.to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&[self.kind.code(), 0]);
        out.extend_from_slice(&self.width.to_le_bytes());
        out.extend_from_slice(&self.height.to_le_bytes());
        out
    }

    /// Bytes after the known fields belong to later versions and are left alone.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, Reason> {
        let short = || Reason::Header("too short");
        let session = Uuid::from_bytes(take_array(bytes).ok_or_else(short)?);
        let org = Uuid::from_bytes(take_array(bytes).ok_or_else(short)?);
        let started_us = i64::from_le_bytes(take_array(bytes).ok_or_else(short)?);
        let salt = take_array(bytes).ok_or_else(short)?;
        let [kind, _] = take_array(bytes).ok_or_else(short)?;
        let width = u16::from_le_bytes(take_array(bytes).ok_or_else(short)?);
        let height = u16::from_le_bytes(take_array(bytes).ok_or_else(short)?);
        Ok(Self { session, org, started_us, salt, kind: TrackKind::from_code(kind), width, height })
    }

    pub(crate) fn started(&self) -> Result<DateTime<chrono::Utc>, Reason> {
        DateTime::from_timestamp_micros(self.started_us).ok_or(Reason::Header("time"))
    }

    pub(crate) fn header(&self, private: Private) -> Result<Header, Reason> {
        Ok(Header {
            session: self.session,
            org: self.org,
            started: self.started()?,
            kind: self.kind,
            width: self.width,
            height: self.height,
            title: private.title,
            term: private.term,
            shell: private.shell,
        })
    }
}

/// The part of the header that is encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Private {
    pub(crate) title: Option<String>,
    pub(crate) term: String,
    pub(crate) shell: Option<String>,
}

impl Private {
    pub(crate) fn encode(header: &Header) -> Vec<u8> {
        let mut out = Vec::new();
        for (code, fact) in
            [(1u8, header.title.as_deref()), (2, Some(header.term.as_str())), (3, header.shell.as_deref())]
        {
            let Some(fact) = fact else { continue };
            let fact = fact.get(..fact.floor_char_boundary(MAX_FACT)).unwrap_or(fact);
            out.push(code);
            put_varint(&mut out, fact.len() as u64);
            out.extend_from_slice(fact.as_bytes());
        }
        out
    }

    /// Facts with a code that this version does not know are skipped.
    pub(crate) fn decode(bytes: &mut Bytes) -> Result<Self, Reason> {
        let bad = || Reason::Header("private facts");
        let mut private = Self { title: None, term: String::new(), shell: None };
        while !bytes.is_empty() {
            let [code] = take_array(bytes).ok_or_else(bad)?;
            let len = crate::event::take_varint(bytes).and_then(|len| usize::try_from(len).ok()).ok_or_else(bad)?;
            let fact = take(bytes, len).ok_or_else(bad)?;
            let fact = || std::str::from_utf8(&fact).map(str::to_owned).map_err(|_| bad());
            match code {
                1 => private.title = Some(fact()?),
                2 => private.term = fact()?,
                3 => private.shell = Some(fact()?),
                _ => {}
            }
        }
        Ok(private)
    }
}

/// What the first 20 bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    pub(crate) public_len: usize,
    pub(crate) private_len: usize,
}

impl Fixed {
    pub(crate) fn encode(public_len: u32, private_len: u32) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&public_len.to_le_bytes());
        out.extend_from_slice(&private_len.to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8; FIXED_LEN]) -> Result<Self, Reason> {
        let mut bytes = Bytes::copy_from_slice(bytes);
        let bad = || Reason::Header("length");
        if take_array(&mut bytes) != Some(MAGIC) {
            return Err(Reason::NotAContainer);
        }
        let version = u16::from_le_bytes(take_array(&mut bytes).ok_or_else(bad)?);
        if version != VERSION {
            return Err(Reason::Version(version));
        }
        if take_array(&mut bytes) != Some([0, 0]) {
            return Err(Reason::Header("unknown flags"));
        }
        let public_len = u32::from_le_bytes(take_array(&mut bytes).ok_or_else(bad)?);
        let private_len = u32::from_le_bytes(take_array(&mut bytes).ok_or_else(bad)?);
        if public_len > MAX_PUBLIC_LEN || private_len > MAX_PRIVATE_LEN {
            return Err(bad());
        }
        Ok(Self {
            public_len: usize::try_from(public_len).map_err(|_| bad())?,
            private_len: usize::try_from(private_len).map_err(|_| bad())?,
        })
    }
}

/// Head of a raw chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkHead {
    pub(crate) track: TrackKind,
    pub(crate) records: u32,
    pub(crate) base_us: u64,
    pub(crate) first: u64,
}

impl ChunkHead {
    pub(crate) fn encode(&self) -> [u8; CHUNK_HEAD] {
        let mut out = [0u8; CHUNK_HEAD];
        let bytes = [self.track.code(), 0, 0, 0]
            .into_iter()
            .chain(self.records.to_le_bytes())
            .chain(self.base_us.to_le_bytes())
            .chain(self.first.to_le_bytes());
        for (to, from) in out.iter_mut().zip(bytes) {
            *to = from;
        }
        out
    }

    pub(crate) fn take(chunk: &mut Bytes) -> Option<Self> {
        let [track, _, _, _] = take_array(chunk)?;
        Some(Self {
            track: TrackKind::from_code(track),
            records: u32::from_le_bytes(take_array(chunk)?),
            base_us: u64::from_le_bytes(take_array(chunk)?),
            first: u64::from_le_bytes(take_array(chunk)?),
        })
    }
}

/// Where a chunk is, for seeking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IndexEntry {
    pub(crate) first: u64,
    pub(crate) base_us: u64,
    pub(crate) offset: u64,
}

/// The index while it is built. It never holds more than [`Index::MAX`] entries: when it is full, every other entry goes
/// and from then on half as many chunks are noted. So a recording of any length costs at most 24 KiB here, and a
/// reader that seeks decodes at most the chunks between two entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Index {
    entries: Vec<IndexEntry>,
    stride: u64,
    chunks: u64,
}

impl Index {
    pub(crate) const MAX: usize = 1024;

    pub(crate) fn new() -> Self {
        Self { entries: Vec::new(), stride: 1, chunks: 0 }
    }

    pub(crate) fn chunks(&self) -> u64 {
        self.chunks
    }

    pub(crate) fn push(&mut self, entry: IndexEntry) {
        if self.chunks.is_multiple_of(self.stride) {
            if self.entries.len() >= Self::MAX {
                let mut keep = false;
                self.entries.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.stride = self.stride.saturating_mul(2);
            }
            if self.chunks.is_multiple_of(self.stride) {
                self.entries.push(entry);
            }
        }
        self.chunks += 1;
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for entry in &self.entries {
            out.extend_from_slice(&entry.first.to_le_bytes());
            out.extend_from_slice(&entry.base_us.to_le_bytes());
            out.extend_from_slice(&entry.offset.to_le_bytes());
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<IndexEntry>> {
        let (rows, []) = bytes.as_chunks::<24>() else { return None };
        if rows.len() > Self::MAX {
            return None;
        }
        rows.iter()
            .map(|row| {
                let mut row = Bytes::copy_from_slice(row);
                Some(IndexEntry {
                    first: u64::from_le_bytes(take_array(&mut row)?),
                    base_us: u64::from_le_bytes(take_array(&mut row)?),
                    offset: u64::from_le_bytes(take_array(&mut row)?),
                })
            })
            .collect()
    }
}

/// Totals in the end frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    /// The daemon was killed; the file was sealed afterwards up to its last whole chunk.
    pub(crate) interrupted: bool,
    pub(crate) index_offset: u64,
    pub(crate) chunks: u64,
    pub(crate) events: u64,
    pub(crate) duration_us: u64,
}

impl End {
    pub(crate) const LEN: usize = 40;
    /// Length of the whole end frame, chain value included.
    pub(crate) const FRAME_LEN: usize = FRAME_HEAD + Self::LEN + crate::key::TAG_LEN + HASH_LEN;

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[u8::from(self.interrupted), 0, 0, 0, 0, 0, 0, 0]);
        for value in [self.index_offset, self.chunks, self.events, self.duration_us] {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut bytes = Bytes::copy_from_slice(bytes);
        let [flags, ..]: [u8; 8] = take_array(&mut bytes)?;
        let mut next = || Some(u64::from_le_bytes(take_array(&mut bytes)?));
        let end = Self {
            interrupted: flags & 1 == 1,
            index_offset: next()?,
            chunks: next()?,
            events: next()?,
            duration_us: next()?,
        };
        bytes.is_empty().then_some(end)
    }

    pub(crate) fn duration(&self) -> Duration {
        Duration::from_micros(self.duration_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_stays_small_and_keeps_the_first_chunk() {
        let mut index = Index::new();
        for chunk in 0..100_000u64 {
            index.push(IndexEntry { first: chunk, base_us: chunk, offset: chunk * 10 });
            assert!(index.entries.len() <= Index::MAX);
        }
        assert_eq!(index.chunks(), 100_000);
        assert!(index.entries.len() > Index::MAX / 2);
        let steps: Vec<u64> = index.entries.windows(2).map(|pair| pair[1].first - pair[0].first).collect();
        assert_eq!(index.entries[0].first, 0);
        assert!(steps.iter().all(|step| *step == index.stride), "entries are evenly spaced");
        let mut out = Vec::new();
        index.encode(&mut out);
        assert_eq!(Index::decode(&out), Some(index.entries));
        assert_eq!(Index::decode(&out[1..]), None);
        assert_eq!(Index::decode(&vec![0; 24 * (Index::MAX + 1)]), None);
    }

    #[test]
    fn frame_heads_refuse_what_no_writer_writes() {
        let good = FrameHead::encode(FrameKind::Data, 100, 9);
        assert_eq!(FrameHead::decode(&good), Ok(FrameHead { kind: FrameKind::Data, len: 100, number: 9 }));
        for len in [0, 15, u32::try_from(MAX_FRAME_BODY).unwrap() + 1, u32::MAX] {
            assert!(FrameHead::decode(&FrameHead::encode(FrameKind::Data, len, 1)).is_err());
        }
        assert!(FrameHead::decode(&[0; FRAME_HEAD]).is_err(), "a hole in the file is no frame");
        let mut reserved = good;
        reserved[2] = 1;
        assert!(FrameHead::decode(&reserved).is_err());
    }

    #[test]
    fn long_facts_are_cut_at_a_character() {
        let mut header = Header::term(Uuid::nil(), Uuid::nil(), 80, 24, "x".repeat(1023) + "\u{4e2d}");
        header.title = Some("t".into());
        let private = Private::decode(&mut Bytes::from(Private::encode(&header))).unwrap();
        assert_eq!(private, Private { title: Some("t".into()), term: "x".repeat(1023), shell: None });
    }
}
