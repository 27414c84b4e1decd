//! SFTP packets, version 3 (draft-ietf-secsh-filexfer-02, and OpenSSH's PROTOCOL for the extensions): cut out of a byte
//! stream, read, and written. What must not be here: what a request means or whether it is allowed.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Largest packet taken, as OpenSSH: 256 KiB and the fields around the data.
pub(crate) const MAX_PACKET: usize = 256 * 1024 + 1024;
pub(crate) const VERSION: u32 = 3;

/// Packet types (section 3).
pub(crate) mod kind {
    pub(crate) const INIT: u8 = 1;
    pub(crate) const VERSION: u8 = 2;
    pub(crate) const OPEN: u8 = 3;
    pub(crate) const CLOSE: u8 = 4;
    pub(crate) const READ: u8 = 5;
    pub(crate) const WRITE: u8 = 6;
    pub(crate) const LSTAT: u8 = 7;
    pub(crate) const FSTAT: u8 = 8;
    pub(crate) const SETSTAT: u8 = 9;
    pub(crate) const FSETSTAT: u8 = 10;
    pub(crate) const OPENDIR: u8 = 11;
    pub(crate) const READDIR: u8 = 12;
    pub(crate) const REMOVE: u8 = 13;
    pub(crate) const MKDIR: u8 = 14;
    pub(crate) const RMDIR: u8 = 15;
    pub(crate) const REALPATH: u8 = 16;
    pub(crate) const STAT: u8 = 17;
    pub(crate) const RENAME: u8 = 18;
    pub(crate) const READLINK: u8 = 19;
    pub(crate) const SYMLINK: u8 = 20;
    pub(crate) const STATUS: u8 = 101;
    pub(crate) const HANDLE: u8 = 102;
    pub(crate) const DATA: u8 = 103;
    pub(crate) const NAME: u8 = 104;
    pub(crate) const ATTRS: u8 = 105;
    pub(crate) const EXTENDED: u8 = 200;
    pub(crate) const EXTENDED_REPLY: u8 = 201;
}

/// Status codes (section 7).
pub(crate) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const EOF: u32 = 1;
    pub(crate) const NO_SUCH_FILE: u32 = 2;
    pub(crate) const PERMISSION_DENIED: u32 = 3;
    pub(crate) const FAILURE: u32 = 4;
    pub(crate) const UNSUPPORTED: u32 = 8;
}

/// Flags of OPEN (section 6.3).
pub(crate) mod open {
    pub(crate) const READ: u32 = 1;
    pub(crate) const WRITE: u32 = 2;
    pub(crate) const APPEND: u32 = 4;
    pub(crate) const CREAT: u32 = 8;
    pub(crate) const TRUNC: u32 = 16;
    /// Any of these changes the file.
    pub(crate) const CHANGES: u32 = WRITE | APPEND | CREAT | TRUNC;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("an SFTP packet of {0} bytes is larger than the limit")]
    TooLarge(usize),
    #[error("an SFTP packet ends in the middle of a field")]
    Short,
}

/// Cuts packets (type byte first, without the length) out of a stream.
#[derive(Default)]
pub(crate) struct Framer {
    buffer: BytesMut,
    ready: VecDeque<Bytes>,
}

impl Framer {
    pub(crate) fn push(&mut self, mut data: Bytes) -> Result<(), Broken> {
        // The usual case: a packet begins and ends with the message, and is passed on without being copied.
        while self.buffer.is_empty() && data.len() >= 4 {
            let len = checked_len(&data)?;
            if data.len() < 4 + len {
                break;
            }
            data.advance(4);
            self.ready.push_back(data.split_to(len));
        }
        self.buffer.extend_from_slice(&data);
        while self.buffer.len() >= 4 {
            let len = checked_len(&self.buffer)?;
            if self.buffer.len() < 4 + len {
                self.buffer.reserve(4 + len - self.buffer.len());
                break;
            }
            self.buffer.advance(4);
            self.ready.push_back(self.buffer.split_to(len).freeze());
        }
        Ok(())
    }

    pub(crate) fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }
}

fn checked_len(data: &[u8]) -> Result<usize, Broken> {
    let len = data.first_chunk().map_or(0, |b| u32::from_be_bytes(*b)) as usize;
    match len {
        0 => Err(Broken::Short),
        n if n > MAX_PACKET => Err(Broken::TooLarge(n)),
        n => Ok(n),
    }
}

/// Reads fields of a packet, one after the other.
pub(crate) struct Fields(pub(crate) Bytes);

impl Fields {
    pub(crate) fn u8(&mut self) -> Result<u8, Broken> {
        if self.0.is_empty() { Err(Broken::Short) } else { Ok(self.0.get_u8()) }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Broken> {
        if self.0.len() < 4 { Err(Broken::Short) } else { Ok(self.0.get_u32()) }
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Broken> {
        if self.0.len() < 8 { Err(Broken::Short) } else { Ok(self.0.get_u64()) }
    }

    pub(crate) fn string(&mut self) -> Result<Bytes, Broken> {
        let len = self.u32()? as usize;
        if self.0.len() < len { Err(Broken::Short) } else { Ok(self.0.split_to(len)) }
    }

    /// What is left, to be passed on as it is.
    pub(crate) fn rest(self) -> Bytes {
        self.0
    }
}

/// Writes a packet; the length is filled in at the end.
pub(crate) struct Packet(BytesMut);

impl Packet {
    pub(crate) fn new(kind: u8, id: u32) -> Self {
        let mut buffer = BytesMut::with_capacity(64);
        buffer.put_u32(0);
        buffer.put_u8(kind);
        buffer.put_u32(id);
        Self(buffer)
    }

    /// One string field, for requests that are numbered later.
    pub(crate) fn field(s: &[u8]) -> Vec<u8> {
        let mut out = u32::try_from(s.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        out.extend_from_slice(s);
        out
    }

    pub(crate) fn u32(mut self, n: u32) -> Self {
        self.0.put_u32(n);
        self
    }

    pub(crate) fn u64(mut self, n: u64) -> Self {
        self.0.put_u64(n);
        self
    }

    pub(crate) fn string(mut self, s: &[u8]) -> Self {
        self.0.put_u32(u32::try_from(s.len()).unwrap_or(u32::MAX));
        self.0.put_slice(s);
        self
    }

    pub(crate) fn raw(mut self, s: &[u8]) -> Self {
        self.0.put_slice(s);
        self
    }

    pub(crate) fn build(self) -> Bytes {
        self.build_before(0)
    }

    /// The head of a packet whose last `following` bytes are sent right after it, without being copied here.
    pub(crate) fn build_before(mut self, following: usize) -> Bytes {
        let len = u32::try_from(self.0.len().saturating_sub(4).saturating_add(following)).unwrap_or(u32::MAX);
        if let Some(head) = self.0.first_chunk_mut() {
            *head = len.to_be_bytes();
        }
        self.0.freeze()
    }
}

pub(crate) fn status_packet(id: u32, code: u32, message: &str) -> Bytes {
    Packet::new(kind::STATUS, id).u32(code).string(message.as_bytes()).string(b"en").build()
}

/// A NAME packet.
pub(crate) fn name_packet(id: u32, names: &[(Vec<u8>, Vec<u8>, Bytes)]) -> Bytes {
    let mut packet = Packet::new(kind::NAME, id).u32(u32::try_from(names.len()).unwrap_or(u32::MAX));
    for (name, long, attrs) in names {
        packet = packet.string(name).string(long).raw(attrs);
    }
    packet.build()
}

/// Attributes of a directory that exists only here: `drwxr-xr-x`, with the time given (Unix seconds).
pub(crate) fn directory_attrs(time: u32) -> Bytes {
    const PERMISSIONS: u32 = 4;
    const TIMES: u32 = 8;
    let mut attrs = BytesMut::with_capacity(16);
    attrs.put_u32(PERMISSIONS | TIMES);
    attrs.put_u32(0o040_755);
    attrs.put_u32(time);
    attrs.put_u32(time);
    attrs.freeze()
}

/// No attributes.
pub(crate) fn empty_attrs() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(chunks: &[&[u8]]) -> Result<Vec<Bytes>, Broken> {
        let mut framer = Framer::default();
        for chunk in chunks {
            framer.push(Bytes::copy_from_slice(chunk))?;
        }
        Ok(std::iter::from_fn(|| framer.pop()).collect())
    }

    #[test]
    fn packets_are_cut_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for n in 0..20_u32 {
            stream
                .extend_from_slice(&Packet::new(kind::READ, n).string(&vec![7; n as usize * 10]).u64(1).u32(2).build());
        }
        let whole = packets(&[&stream]).unwrap();
        assert_eq!(whole.len(), 20);
        for size in [1, 2, 3, 5, 7, 64, 1000] {
            let chunks: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(packets(&chunks).unwrap(), whole, "chunks of {size}");
        }
    }

    #[test]
    fn empty_and_oversized_packets_are_refused() {
        assert_eq!(packets(&[&[0, 0, 0, 0]]), Err(Broken::Short));
        assert!(matches!(packets(&[&[0xff, 0, 0, 0]]), Err(Broken::TooLarge(_))));
    }

    #[test]
    fn fields_never_read_past_the_end() {
        let mut fields = Fields(Bytes::from_static(&[0, 0, 0, 9, 1, 2]));
        assert_eq!(fields.string(), Err(Broken::Short));
        assert_eq!(Fields(Bytes::new()).u8(), Err(Broken::Short));
        assert_eq!(Fields(Bytes::from_static(&[1, 2, 3])).u32(), Err(Broken::Short));
        assert_eq!(Fields(Bytes::from_static(&[1, 2, 3])).u64(), Err(Broken::Short));
    }
}
