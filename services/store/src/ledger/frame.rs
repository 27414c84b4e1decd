//! The bytes of a segment file: a header, then frames. Nothing here knows about files or about the engine.
//!
//! Header, 98 bytes: magic (8), format (2), segment (8), sequence of its first entry (8), chain hash before that entry
//! (32), creation in milliseconds (8), HMAC-SHA-256 over the former (32).
//!
//! Frame: length of the rest (4), type (1), nonce (12), ciphertext, tag (16). The associated data binds a frame to its
//! segment, its place and the chain before it, so that none can be changed, moved, repeated or left out. All numbers are
//! big-endian.

use crate::{
    error::Result,
    keys::{Blind, Cipher, Hash, KeyRing, OVERHEAD},
};

pub(crate) const HEADER: usize = 98;
const MAGIC: &[u8; 8] = b"GHLEDG1\n";
const FORMAT: u16 = 1;
/// Before the ciphertext: length and type.
pub(crate) const FRAME_HEAD: usize = 5;
/// An entry and what encryption adds.
pub(crate) const MAX_FRAME: usize = super::entry::MAX_ENTRY + 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FrameKind {
    Entry = 1,
    Checkpoint = 2,
}

impl FrameKind {
    pub(crate) fn from_u8(n: u8) -> Option<Self> {
        [Self::Entry, Self::Checkpoint].into_iter().find(|kind| *kind as u8 == n)
    }
}

/// What opens segments.
pub(crate) struct FrameKeys {
    cipher: Cipher,
    mac: Blind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) segment: u64,
    pub(crate) first_seq: u64,
    pub(crate) previous: Hash,
    /// Milliseconds since 1970.
    pub(crate) created: i64,
}

impl FrameKeys {
    pub(crate) fn new(ring: &KeyRing) -> Result<Self> {
        Ok(Self { cipher: ring.cipher("ledger segments")?, mac: ring.blind("ledger segment headers")? })
    }

    pub(crate) fn header(&self, header: &Header) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_be_bytes());
        out.extend_from_slice(&header.segment.to_be_bytes());
        out.extend_from_slice(&header.first_seq.to_be_bytes());
        out.extend_from_slice(&header.previous);
        out.extend_from_slice(&header.created.to_be_bytes());
        let tag = self.mac.mac(&out);
        out.extend_from_slice(&tag);
        out
    }

    /// `None` when the header is not one that `header` made.
    pub(crate) fn parse_header(&self, bytes: &[u8; HEADER]) -> Option<Header> {
        let (body, tag) = bytes.split_last_chunk::<32>()?;
        if !self.mac.mac_ok(body, tag) {
            return None;
        }
        let rest = body.strip_prefix(MAGIC)?;
        let (format, rest) = rest.split_first_chunk::<2>()?;
        let (segment, rest) = rest.split_first_chunk::<8>()?;
        let (first_seq, rest) = rest.split_first_chunk::<8>()?;
        let (previous, rest) = rest.split_first_chunk::<32>()?;
        let created = rest.try_into().ok()?;
        (u16::from_be_bytes(*format) == FORMAT).then(|| Header {
            segment: u64::from_be_bytes(*segment),
            first_seq: u64::from_be_bytes(*first_seq),
            previous: *previous,
            created: i64::from_be_bytes(created),
        })
    }

    /// Appends a frame to `out`. `seq` is the entry's, or for a checkpoint that of the last entry before it; `previous`
    /// the chain hash before the entry, or at the checkpoint.
    pub(crate) fn frame(&self, out: &mut Vec<u8>, place: &Place, plain: &[u8]) -> Result<()> {
        let length = u32::try_from(1 + plain.len() + OVERHEAD)
            .map_err(|_| crate::StoreError::TooLarge { what: "a ledger entry".into(), limit: MAX_FRAME })?;
        out.extend_from_slice(&length.to_be_bytes());
        out.push(place.kind as u8);
        self.cipher.seal_into(out, &place.aad(length), plain)
    }

    /// The plaintext of the frame whose bytes after the type are `sealed`.
    pub(crate) fn open(&self, place: &Place, sealed: &[u8]) -> Option<Vec<u8>> {
        let length = u32::try_from(sealed.len() + 1).ok()?;
        self.cipher.open(&place.aad(length), sealed).map(|plain| plain.to_vec())
    }
}

/// Where a frame belongs.
pub(crate) struct Place {
    pub(crate) kind: FrameKind,
    pub(crate) segment: u64,
    pub(crate) seq: u64,
    pub(crate) previous: Hash,
}

impl Place {
    fn aad(&self, length: u32) -> [u8; 53] {
        let mut out = [0; 53];
        let parts: [&[u8]; 5] = [
            &[self.kind as u8],
            &self.segment.to_be_bytes(),
            &self.seq.to_be_bytes(),
            &self.previous,
            &length.to_be_bytes(),
        ];
        for (to, from) in out.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        out
    }
}
