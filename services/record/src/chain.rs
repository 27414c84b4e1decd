//! Sealing of frames: compression, encryption in place and the hash chain, for whoever appends to a container.
//!
//! What lives here: turning chunks into the bytes of frames. What must not: files, threads, reading.

use crate::error::RecordError;
use crate::event::Header;
use crate::format::{
    BODY_HEAD, CHUNK_HEAD, CODEC_RAW, CODEC_ZSTD, ChunkHead, End, FRAME_HEAD, Fixed, FrameHead, FrameKind, HASH_LEN,
    Hash, Index, IndexEntry, Mark, Private, Public, frame_aad, header_hash, next_hash,
};
use crate::key::{ContainerKey, MasterKey, TAG_LEN};
use bytes::Bytes;
use std::io::Cursor;

const FAULT: RecordError = RecordError::Internal("a frame could not be sealed");

/// What each worker thread owns: one compression context and one buffer, used for all recordings in turn.
pub(crate) struct Scratch {
    compressor: zstd::bulk::Compressor<'static>,
    buffer: Vec<u8>,
}

/// After a chunk that did not shrink by an eighth this many chunks are stored as they are before the next attempt.
const STORE_RUN: u32 = 15;
/// Shorter chunks are always worth an attempt: they cost nothing, and say nothing about the next one.
const STORE_FROM: usize = 16 * 1024;

impl Scratch {
    /// `level` is zstd's; 1 to 3 make sense for live recordings.
    pub(crate) fn new(level: i32) -> Result<Self, RecordError> {
        let compressor =
            zstd::bulk::Compressor::new(level).map_err(|error| RecordError::io("prepare compression", &error))?;
        Ok(Self { compressor, buffer: Vec::new() })
    }

    /// Gives back the memory that one unusually large chunk took.
    fn trim(&mut self) {
        const KEEP: usize = 256 * 1024;
        if self.buffer.capacity() > KEEP {
            self.buffer = Vec::new();
        }
    }
}

/// The state of a container that is being appended to.
pub(crate) struct Chain {
    key: ContainerKey,
    header: Hash,
    mark: Mark,
    index: Index,
    events: u64,
    /// Chunks still to be stored uncompressed, because the last attempt did not pay.
    store: u32,
}

impl Chain {
    /// Starts a container: returns its chain and the header block to write first.
    pub(crate) fn start(master: &MasterKey, header: &Header) -> Result<(Self, Vec<u8>), RecordError> {
        let mut salt = [0u8; 32];
        aws_lc_rs::rand::fill(&mut salt).map_err(|_| RecordError::Internal("the system has no randomness"))?;
        let key = master.container(header.session, &salt).map_err(|_| FAULT)?;
        let public = Public::of(header, salt).encode();
        let mut private = Private::encode(header);
        let mut block = Fixed::encode(
            u32::try_from(public.len()).map_err(|_| FAULT)?,
            u32::try_from(private.len() + TAG_LEN).map_err(|_| FAULT)?,
        );
        block.extend_from_slice(&public);
        let tag = key.seal(0, &block, &mut private).map_err(|_| FAULT)?;
        block.extend_from_slice(&private);
        block.extend_from_slice(&tag);
        let header = header_hash(&block);
        block.extend_from_slice(&header);
        let mark = Mark { previous: header, number: 1, offset: block.len() as u64 };
        Ok((Self::resume(key, header, mark, Index::new(), 0), block))
    }

    /// Takes up a container at `mark`; `index` and `events` describe what is before it.
    pub(crate) fn resume(key: ContainerKey, header: Hash, mark: Mark, index: Index, events: u64) -> Self {
        Self { key, header, mark, index, events, store: 0 }
    }

    /// Size of the file so far in bytes.
    pub(crate) fn offset(&self) -> u64 {
        self.mark.offset
    }

    /// End of the chain so far; after [`Chain::finish`] it is the digest of the file.
    pub(crate) fn digest(&self) -> Hash {
        self.mark.previous
    }

    /// Data chunks so far.
    pub(crate) fn chunks(&self) -> u64 {
        self.index.chunks()
    }

    /// Event records so far.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// Seals one raw chunk (head included). The bytes returned are the frame to append.
    pub(crate) fn chunk<'a>(&mut self, raw: &[u8], scratch: &'a mut Scratch) -> Result<&'a [u8], RecordError> {
        scratch.trim();
        let head = ChunkHead::take(&mut Bytes::copy_from_slice(raw.get(..CHUNK_HEAD).ok_or(FAULT)?)).ok_or(FAULT)?;
        let raw_len = u32::try_from(raw.len()).map_err(|_| FAULT)?.to_le_bytes();
        let start = FRAME_HEAD + BODY_HEAD;
        let Scratch { compressor, buffer } = scratch;
        buffer.clear();
        buffer.resize(start, 0);
        let mut codec = CODEC_RAW;
        if self.store > 0 && raw.len() >= STORE_FROM {
            self.store -= 1;
        } else {
            buffer.reserve(zstd::zstd_safe::compress_bound(raw.len()) + TAG_LEN + HASH_LEN);
            let mut tail = Cursor::new(&mut *buffer);
            tail.set_position(start as u64);
            let packed =
                compressor.compress_to_buffer(raw, &mut tail).map_err(|error| RecordError::io("compress", &error))?;
            if packed < raw.len() {
                codec = CODEC_ZSTD;
            }
            let paid = packed < raw.len() - raw.len() / 8;
            self.store = if paid || raw.len() < STORE_FROM { 0 } else { STORE_RUN };
        }
        if codec == CODEC_RAW {
            buffer.truncate(start);
            buffer.reserve(raw.len() + TAG_LEN + HASH_LEN);
            buffer.extend_from_slice(raw);
        }
        let body_head = [codec, 0, 0, 0].into_iter().chain(raw_len);
        for (to, from) in buffer.iter_mut().skip(FRAME_HEAD).zip(body_head) {
            *to = from;
        }
        self.index.push(IndexEntry { first: head.first, base_us: head.base_us, offset: self.mark.offset });
        self.events = head.first.saturating_add(u64::from(head.records));
        self.seal(FrameKind::Data, buffer)?;
        Ok(buffer)
    }

    /// Seals index and end; returns the bytes to append. Nothing can be appended afterwards.
    pub(crate) fn finish(&mut self, duration_us: u64, interrupted: bool) -> Result<Vec<u8>, RecordError> {
        let end = End {
            interrupted,
            index_offset: self.mark.offset,
            chunks: self.index.chunks(),
            events: self.events,
            duration_us,
        };
        let mut bytes = vec![0; FRAME_HEAD];
        self.index.encode(&mut bytes);
        self.seal(FrameKind::Index, &mut bytes)?;
        let mut last = vec![0; FRAME_HEAD];
        end.encode(&mut last);
        self.seal(FrameKind::End, &mut last)?;
        bytes.extend_from_slice(&last);
        Ok(bytes)
    }

    /// `frame` holds room for the frame header and the plaintext; it becomes the whole frame.
    fn seal(&mut self, kind: FrameKind, frame: &mut Vec<u8>) -> Result<(), RecordError> {
        let (head, plain) = frame.split_first_chunk_mut::<FRAME_HEAD>().ok_or(FAULT)?;
        let len = u32::try_from(plain.len() + TAG_LEN).map_err(|_| FAULT)?;
        *head = FrameHead::encode(kind, len, self.mark.number);
        let aad = frame_aad(&self.header, head, &self.mark.previous);
        let tag = self.key.seal(self.mark.number, &aad, plain).map_err(|_| FAULT)?;
        frame.extend_from_slice(&tag);
        self.mark.previous = next_hash(&self.mark.previous, frame);
        frame.extend_from_slice(&self.mark.previous);
        self.mark.number += 1;
        self.mark.offset += frame.len() as u64;
        Ok(())
    }
}
