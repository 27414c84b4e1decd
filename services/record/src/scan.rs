//! Walking through the frames of a container with every check that the format allows.
//!
//! What lives here: opening a file, the next frame, jumping, unpacking a chunk. What must not: events (see
//! [`crate::reader`]) and judgement on whole files (see [`crate::verify`]). The bytes are foreign: every length is
//! bounded before memory is taken for it, and nothing is used that did not authenticate.

use crate::chain::Chain;
use crate::error::{ReadError, Reason, VerifyError};
use crate::event::Header;
use crate::format::{
    BODY_HEAD, CHUNK_HEAD, CODEC_RAW, CODEC_ZSTD, ChunkHead, FIXED_LEN, FRAME_HEAD, Fixed, FrameHead, FrameKind,
    HASH_LEN, Hash, Index, MAX_RAW, Mark, Private, Public, frame_aad, header_hash, next_hash,
};
use crate::key::{ContainerKey, MasterKey};
use bytes::Bytes;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// A whole, authentic frame; its content is [`Scanner::plain`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) offset: u64,
}

pub(crate) struct Scanner {
    file: File,
    len: u64,
    public: Public,
    header_len: u64,
    header_hash: Hash,
    key: Option<ContainerKey>,
    mark: Mark,
    buffer: Vec<u8>,
    plain_len: usize,
}

fn fault(offset: u64, reason: Reason) -> VerifyError {
    VerifyError { offset, reason }
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64, what: &'static str) -> Result<(), Reason> {
    file.read_exact_at(buffer, offset).map_err(|error| match error.kind() {
        // Shorter than it was when it was opened: somebody cut it meanwhile.
        ErrorKind::UnexpectedEof => Reason::Truncated(what),
        _ => Reason::Io(error.to_string()),
    })
}

impl Scanner {
    /// Opens a container and checks its header; with a key also its encrypted part.
    pub(crate) fn open(file: File, master: Option<&MasterKey>) -> Result<(Self, Option<Header>), VerifyError> {
        let at_start = |reason| fault(0, reason);
        let len = file.metadata().map_err(|error| at_start(Reason::Io(error.to_string())))?.len();
        let mut fixed = [0u8; FIXED_LEN];
        if len < FIXED_LEN as u64 {
            return Err(at_start(Reason::Truncated("header")));
        }
        read_at(&file, &mut fixed, 0, "header").map_err(at_start)?;
        let Fixed { public_len, private_len } = Fixed::decode(&fixed).map_err(at_start)?;
        let block_len = FIXED_LEN + public_len + private_len;
        let header_len = (block_len + HASH_LEN) as u64;
        if len < header_len {
            return Err(at_start(Reason::Truncated("header")));
        }
        let mut block = vec![0u8; block_len + HASH_LEN];
        read_at(&file, &mut block, 0, "header").map_err(at_start)?;
        let Some((block, stored)) = block.split_last_chunk::<HASH_LEN>() else {
            return Err(at_start(Reason::Truncated("header")));
        };
        let header_hash = header_hash(block);
        if header_hash != *stored {
            return Err(at_start(Reason::Chain));
        }
        let mut rest = Bytes::copy_from_slice(block);
        let aad = rest.split_to(FIXED_LEN + public_len);
        let public = Public::decode(&mut aad.slice(FIXED_LEN..)).map_err(at_start)?;
        let mut header = None;
        let mut key = None;
        if let Some(master) = master {
            let container = master.container(public.session, &public.salt).map_err(|_| at_start(Reason::Decrypt))?;
            let mut private = rest.to_vec();
            let plain = container.open(0, &aad, &mut private).map_err(|_| at_start(Reason::Decrypt))?;
            let private = Private::decode(&mut Bytes::copy_from_slice(plain)).map_err(at_start)?;
            header = Some(public.header(private).map_err(at_start)?);
            key = Some(container);
        }
        let scanner = Self {
            file,
            len,
            public,
            header_len,
            header_hash,
            key,
            mark: Mark { previous: header_hash, number: 1, offset: header_len },
            buffer: Vec::new(),
            plain_len: 0,
        };
        Ok((scanner, header))
    }

    /// Opens a file by its path. The operating system's refusal is told apart from a bad file.
    pub(crate) fn open_path(path: &Path, master: Option<&MasterKey>) -> Result<(Self, Option<Header>), ReadError> {
        let file = File::open(path).map_err(|error| ReadError::io(path, error))?;
        Self::open(file, master).map_err(|error| read_error(path, error))
    }

    pub(crate) fn public(&self) -> &Public {
        &self.public
    }

    /// Size of the file when it was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Where the next frame starts.
    pub(crate) fn offset(&self) -> u64 {
        self.mark.offset
    }

    /// End of the hash chain up to [`Scanner::offset`].
    pub(crate) fn digest(&self) -> Hash {
        self.mark.previous
    }

    /// Content of the frame that [`Scanner::next`] returned last; ciphertext if there is no key.
    pub(crate) fn plain(&self) -> &[u8] {
        self.buffer.get(FRAME_HEAD..FRAME_HEAD + self.plain_len).unwrap_or_default()
    }

    /// Everything that is needed to append at the current place; `index` and `events` describe what is before it.
    /// `None` without a key.
    pub(crate) fn into_chain(self, index: Index, events: u64) -> Option<Chain> {
        Some(Chain::resume(self.key?, self.header_hash, self.mark, index, events))
    }

    /// The current place.
    pub(crate) fn mark(&self) -> Mark {
        self.mark
    }

    /// Back to a place that [`Scanner::mark`] returned.
    pub(crate) fn reset(&mut self, mark: Mark) {
        self.mark = mark;
    }

    /// Back to the first frame.
    pub(crate) fn rewind(&mut self) {
        self.mark = Mark { previous: self.header_hash, number: 1, offset: self.header_len };
    }

    /// Goes on at the frame at `offset`. Its number and the chain value before it are taken from the file; a frame
    /// opens with the true ones only.
    pub(crate) fn jump(&mut self, offset: u64) -> Result<(), VerifyError> {
        if offset == self.header_len {
            self.rewind();
            return Ok(());
        }
        let last = self.len.checked_sub(FRAME_HEAD as u64).ok_or_else(|| fault(offset, Reason::Truncated("frame")))?;
        if offset < self.header_len || offset > last {
            return Err(fault(offset, Reason::Mismatch("index")));
        }
        let mut head = [0u8; FRAME_HEAD];
        read_at(&self.file, &mut head, offset, "frame").map_err(|reason| fault(offset, reason))?;
        let mut previous = [0u8; HASH_LEN];
        read_at(&self.file, &mut previous, offset - HASH_LEN as u64, "frame")
            .map_err(|reason| fault(offset, reason))?;
        let number = FrameHead::decode(&head).map_err(|reason| fault(offset, reason))?.number;
        self.mark = Mark { previous, number, offset };
        Ok(())
    }

    /// Reads and checks the next frame. `None` at the exact end of the file. After an error the scanner stays where it
    /// was.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, VerifyError> {
        let offset = self.mark.offset;
        let here = |reason| fault(offset, reason);
        let left = self.len.saturating_sub(offset);
        if left == 0 {
            return Ok(None);
        }
        if left < FRAME_HEAD as u64 {
            return Err(here(Reason::Truncated("frame")));
        }
        let mut head_bytes = [0u8; FRAME_HEAD];
        read_at(&self.file, &mut head_bytes, offset, "frame").map_err(here)?;
        let head = FrameHead::decode(&head_bytes).map_err(here)?;
        if head.number != self.mark.number {
            return Err(here(Reason::Chain));
        }
        let total = FRAME_HEAD + head.len + HASH_LEN;
        if left < total as u64 {
            return Err(here(Reason::Truncated("frame")));
        }
        self.plain_len = 0;
        self.buffer.resize(total, 0);
        read_at(&self.file, &mut self.buffer, offset, "frame").map_err(here)?;
        let Some((frame, stored)) = self.buffer.split_last_chunk_mut::<HASH_LEN>() else {
            return Err(here(Reason::Truncated("frame")));
        };
        let link = next_hash(&self.mark.previous, frame);
        if link != *stored {
            return Err(here(Reason::Chain));
        }
        self.plain_len = head.len;
        if let Some(key) = &self.key {
            let Some((head_bytes, body)) = frame.split_first_chunk_mut::<FRAME_HEAD>() else {
                return Err(here(Reason::Truncated("frame")));
            };
            let aad = frame_aad(&self.header_hash, head_bytes, &self.mark.previous);
            self.plain_len = 0;
            self.plain_len = key.open(head.number, &aad, body).map_err(|_| here(Reason::Decrypt))?.len();
        }
        self.mark = Mark { previous: link, number: head.number.saturating_add(1), offset: offset + total as u64 };
        Ok(Some(Frame { kind: head.kind, offset }))
    }
}

/// Expands the content of a data frame to a chunk's head and records. What it expands to is bounded by what a writer
/// writes, so a crafted file cannot fill the memory.
pub(crate) fn unpack(
    plain: &[u8],
    decompressor: &mut zstd::bulk::Decompressor<'static>,
) -> Result<(ChunkHead, Bytes), Reason> {
    let short = || Reason::Frame("too short");
    let (head, body) = plain.split_first_chunk::<BODY_HEAD>().ok_or_else(short)?;
    let [codec, _, _, _, a, b, c, d] = *head;
    let raw_len = usize::try_from(u32::from_le_bytes([a, b, c, d])).map_err(|_| short())?;
    if !(CHUNK_HEAD..=MAX_RAW).contains(&raw_len) {
        return Err(Reason::Frame("length of the chunk"));
    }
    let raw = match codec {
        CODEC_RAW => body.to_vec(),
        CODEC_ZSTD => {
            let mut raw = Vec::with_capacity(raw_len);
            // The vector's capacity may be more than was asked for; the length is checked below.
            decompressor.decompress_to_buffer(body, &mut raw).map_err(|_| Reason::Compression)?;
            raw
        }
        _ => return Err(Reason::Frame("unknown compression")),
    };
    if raw.len() != raw_len {
        return Err(Reason::Compression);
    }
    let mut raw = Bytes::from(raw);
    let head = ChunkHead::take(&mut raw).ok_or_else(short)?;
    Ok((head, raw))
}

pub(crate) fn new_decompressor(path: &Path) -> Result<zstd::bulk::Decompressor<'static>, ReadError> {
    zstd::bulk::Decompressor::new().map_err(|error| ReadError::io(path, error))
}

pub(crate) fn read_error(path: &Path, error: VerifyError) -> ReadError {
    match error.reason {
        Reason::Io(message) => ReadError::io(path, io::Error::other(message)),
        reason => ReadError::Damaged { offset: error.offset, reason },
    }
}
