//! Reading segment files from their beginning, checking everything on the way. What must not live here: writing.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use super::{
    checkpoint::Checkpoint,
    entry::{EncodedEntry, link},
    frame::{FRAME_HEAD, FrameKeys, FrameKind, HEADER, Header, MAX_FRAME, Place},
};
use crate::{
    error::{Result, StoreError},
    keys::{Hash, OVERHEAD},
};

pub(crate) fn path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("segment-{segment:010}"))
}

/// The segment files of a ledger, by number.
pub(crate) fn list(dir: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).map_err(StoreError::io("list", dir))? {
        let entry = entry.map_err(StoreError::io("list", dir))?;
        let name = entry.file_name();
        if let Some(number) = name.to_str().and_then(|n| n.strip_prefix("segment-")).and_then(|n| n.parse().ok()) {
            out.insert(number, entry.path());
        }
    }
    Ok(out)
}

/// What is wrong with a segment, and where.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Bytes from the beginning of the file.
    pub(crate) offset: u64,
    /// The last entry that was whole.
    pub(crate) seq: u64,
    pub(crate) what: &'static str,
}

impl Fault {
    pub(crate) fn into_error(self, path: &Path) -> StoreError {
        let Self { offset, seq, what } = self;
        StoreError::corrupt(path.display().to_string(), format!("byte {offset}, after entry {seq}: {what}"))
    }
}

pub(crate) enum Frame {
    Entry { seq: u64, previous: Hash, encoded: EncodedEntry },
    Checkpoint { checkpoint: Checkpoint, line: Vec<u8> },
}

pub(crate) struct Step {
    pub(crate) offset: u64,
    pub(crate) frame: Frame,
}

/// Walks a segment frame by frame. `end` bounds what is read: a writer may be appending beyond it.
pub(crate) struct Reader<'k> {
    keys: &'k FrameKeys,
    input: BufReader<File>,
    pub(crate) header: Header,
    /// Where the next frame begins.
    pub(crate) offset: u64,
    end: u64,
    /// The last entry read, or the one before the segment.
    pub(crate) seq: u64,
    pub(crate) head: Hash,
}

impl<'k> Reader<'k> {
    /// The outer error is the disk's, the inner one the content's.
    pub(crate) fn open(
        keys: &'k FrameKeys,
        path: &Path,
        segment: u64,
        end: Option<u64>,
    ) -> Result<Result<Self, Fault>> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let length = file.metadata().map_err(StoreError::io("read", path))?.len();
        let mut input = BufReader::with_capacity(256 * 1024, file);
        let fault = |what| Fault { offset: 0, seq: 0, what };
        let mut bytes = [0; HEADER];
        match input.read_exact(&mut bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
                return Ok(Err(fault("the segment's header is cut off")));
            }
            other => other.map_err(StoreError::io("read", path))?,
        }
        let Some(header) = keys.parse_header(&bytes) else {
            return Ok(Err(fault("the segment's header was changed")));
        };
        if header.segment != segment || header.first_seq == 0 {
            return Ok(Err(fault("the segment is not the one that its name says")));
        }
        Ok(Ok(Self {
            keys,
            input,
            header,
            offset: HEADER as u64,
            end: end.unwrap_or(length).min(length),
            seq: header.first_seq.saturating_sub(1),
            head: header.previous,
        }))
    }

    fn fault(&self, what: &'static str) -> Fault {
        Fault { offset: self.offset, seq: self.seq, what }
    }

    /// The next frame, `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Step>, Fault> {
        let left = self.end.saturating_sub(self.offset);
        if left == 0 {
            return Ok(None);
        }
        let cut = "the last frame is cut off";
        let mut head = [0; FRAME_HEAD];
        if left < FRAME_HEAD as u64 {
            return Err(self.fault(cut));
        }
        self.input.read_exact(&mut head).map_err(|_| self.fault("the disk cannot read this place"))?;
        let [l0, l1, l2, l3, kind] = head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        if !(1 + OVERHEAD..=MAX_FRAME).contains(&length) {
            return Err(self.fault("the length of a frame was changed"));
        }
        if left < (4 + length) as u64 {
            return Err(self.fault(cut));
        }
        let kind = FrameKind::from_u8(kind).ok_or_else(|| self.fault("the type of a frame was changed"))?;
        let mut sealed = vec![0; length - 1];
        self.input.read_exact(&mut sealed).map_err(|_| self.fault("the disk cannot read this place"))?;
        let seq = match kind {
            FrameKind::Entry => self.seq.saturating_add(1),
            FrameKind::Checkpoint => self.seq,
        };
        let place = Place { kind, segment: self.header.segment, seq, previous: self.head };
        let plain = self
            .keys
            .open(&place, &sealed)
            .ok_or_else(|| self.fault("the frame was changed, moved, or one before it was removed"))?;
        let frame = match kind {
            FrameKind::Entry => {
                let encoded =
                    EncodedEntry::from_payload(plain).ok_or_else(|| self.fault("the entry cannot be decoded"))?;
                let previous = self.head;
                self.head = link(&previous, seq, &encoded.digest);
                self.seq = seq;
                Frame::Entry { seq, previous, encoded }
            }
            FrameKind::Checkpoint => {
                let checkpoint =
                    Checkpoint::from_line(&plain).ok_or_else(|| self.fault("the checkpoint cannot be decoded"))?;
                if checkpoint.seq != self.seq || checkpoint.head != crate::keys::hex(&self.head) {
                    return Err(self.fault("the checkpoint does not describe the entries before it"));
                }
                if !checkpoint.signature_ok() {
                    return Err(self.fault("the signature of the checkpoint does not verify"));
                }
                Frame::Checkpoint { checkpoint, line: plain }
            }
        };
        let offset = self.offset;
        self.offset += (4 + length) as u64;
        Ok(Some(Step { offset, frame }))
    }
}
