//! The ledger as JSON lines for other systems, verifiable with the public key alone.
//!
//! Lines, in order: `{"type":"header",...}` with the number of the first entry and the chain hash before it; one
//! `{"type":"entry","seq":N,"hash":"H","entry":{...}}` per entry; `{"type":"checkpoint","checkpoint":{...}}` wherever
//! one was signed; `{"type":"end",...}` with the head, signed if a signer was at hand.
//!
//! To verify, with SHA-256 and Ed25519: the bytes of an entry are those between `"entry":` (its first occurrence in the
//! line) and the line's last `}`. Its hash is SHA-256("gatehouse ledger entry\n" || hash before (32 bytes) || seq
//! (8 bytes, big-endian) || SHA-256(bytes)). A checkpoint's `head` equals the hash of entry `seq`; its signature covers
//! "gatehouse ledger checkpoint 1\nseq=..\nhead=..\nat=..\ncounter=..\nabandoned=..\nkey=..\n". The end's signature
//! covers "gatehouse ledger export 1\nseq=..\nhead=..\nat=..\nkey=..\n".

use std::{
    io::{BufRead, Write},
    path::Path,
    sync::Arc,
};

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{Checkpoint, CheckpointSigner},
    core::Core,
    entry::{json, link},
    segment::{self, Frame, Reader},
    verify::follows,
};
use crate::{
    engine::MemoryEngine,
    error::{Result, StoreError},
    keys::{Hash, hex, sha256, unhex, unhex32},
    meta,
};

/// A line is an entry and a little around it.
const MAX_LINE: u64 = super::entry::MAX_ENTRY as u64 + 4096;

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Header { format: u32, first_seq: u64, previous: String },
    Checkpoint { checkpoint: Checkpoint },
    End { seq: u64, head: String, at: String, key: Option<String>, signature: Option<String> },
}

fn end_message(seq: u64, head: &str, at: &str, key: &str) -> String {
    format!("gatehouse ledger export 1\nseq={seq}\nhead={head}\nat={at}\nkey={key}\n")
}

fn write_line(out: &mut dyn Write, line: &Line) -> Result<()> {
    let mut bytes = serde_json::to_vec(line)
        .map_err(|e| StoreError::Encode { what: "an export line".into(), why: e.to_string() })?;
    bytes.push(b'\n');
    write_bytes(out, &bytes)
}

fn write_bytes(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    out.write_all(bytes).map_err(StoreError::io("write", Path::new("the export")))
}

/// Write all settled entries of the data directory `dir` to `out`; the number of them is returned. Stops with an error
/// at the first damage. Works beside a running daemon.
pub fn export(
    dir: &Path,
    root_key: &[u8; 32],
    signer: Option<&dyn CheckpointSigner>,
    out: &mut dyn Write,
) -> Result<u64> {
    let ring = meta::load(dir, root_key)?
        .ok_or_else(|| StoreError::corrupt(dir.display().to_string(), "there is no store in this directory"))?;
    let core = Core::new(Arc::new(MemoryEngine::new()), &dir.join(super::DIRECTORY), &ring, false)?;
    let state = core.read_head()?.ok_or_else(|| {
        StoreError::corrupt(core.head_path().display().to_string(), "the file that says how far it goes is missing")
    })?;
    let mut count = 0;
    let mut tip: Option<(u64, Hash)> = None;
    for (number, path) in segment::list(&core.dir)?.range(..=state.segment) {
        let end = (*number == state.segment).then_some(state.offset);
        let mut reader = Reader::open(&core.frames, path, *number, end)?.map_err(|fault| fault.into_error(path))?;
        let begin = (reader.seq, reader.head);
        match tip {
            None => {
                let previous = hex(&reader.head);
                write_line(out, &Line::Header { format: 1, first_seq: reader.header.first_seq, previous })?;
            }
            Some(tip) if tip != begin => {
                let what = "the segment does not continue the one before it";
                return Err(StoreError::corrupt(path.display().to_string(), what));
            }
            Some(_) => {}
        }
        while let Some(step) = reader.next().map_err(|fault| fault.into_error(path))? {
            match step.frame {
                Frame::Entry { seq, encoded, .. } => {
                    let text = json(&encoded.payload)
                        .ok_or_else(|| StoreError::corrupt(path.display().to_string(), "an entry cannot be decoded"))?;
                    let head = format!(r#"{{"type":"entry","seq":{seq},"hash":"{}","entry":"#, hex(&reader.head));
                    write_bytes(out, &[head.as_bytes(), &text, b"}\n"].concat())?;
                    count += 1;
                }
                Frame::Checkpoint { checkpoint, .. } => write_line(out, &Line::Checkpoint { checkpoint })?,
            }
        }
        tip = Some((reader.seq, reader.head));
    }
    let (seq, head) = tip.filter(|tip| *tip == (state.seq, state.hash)).ok_or_else(|| {
        StoreError::corrupt(core.dir.display().to_string(), format!("the ledger ends before entry {}", state.seq))
    })?;
    let (head, at) = (hex(&head), Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true));
    let (key, signature) = match signer {
        Some(signer) => {
            let key = hex(&signer.public_key());
            let signature = hex(&signer.sign(end_message(seq, &head, &at, &key).as_bytes())?);
            (Some(key), Some(signature))
        }
        None => (None, None),
    };
    write_line(out, &Line::End { seq, head, at, key, signature })?;
    out.flush().map_err(StoreError::io("write", Path::new("the export")))?;
    Ok(count)
}

/// What an export turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExportReport {
    pub entries: u64,
    pub checkpoints: u64,
    /// The last entry that a signature of the given key covers.
    pub signed_through: u64,
}

/// Check an export with nothing but the box's public key. The message of an error names the line.
pub fn verify_export(input: &mut dyn BufRead, public_key: &[u8]) -> Result<ExportReport, String> {
    use std::io::Read;
    let key = hex(public_key);
    let mut report = ExportReport { entries: 0, checkpoints: 0, signed_through: 0 };
    let mut tip: Option<(u64, Hash)> = None;
    let mut last = None;
    let mut ended = false;
    let mut line = Vec::new();
    for n in 1_u64.. {
        line.clear();
        let read =
            Read::take(&mut *input, MAX_LINE).read_until(b'\n', &mut line).map_err(|e| format!("line {n}: {e}"))?;
        if read == 0 {
            break;
        }
        let wrong = |what: &str| format!("line {n}: {what}");
        let text = line.strip_suffix(b"\n").ok_or_else(|| wrong("it is cut off"))?;
        if ended {
            return Err(wrong("there is something after the end"));
        }
        if text.starts_with(br#"{"type":"entry","#) {
            let (seq, hash) = tip.ok_or_else(|| wrong("an entry comes before the header"))?;
            let next = check_entry(text, seq + 1, &hash).ok_or_else(|| wrong("the entry was changed"))?;
            tip = Some((seq + 1, next));
            report.entries += 1;
            continue;
        }
        let parsed: Line = serde_json::from_slice(text).map_err(|_| wrong("it cannot be read"))?;
        match parsed {
            Line::Header { format: 1, first_seq, previous } if tip.is_none() && first_seq > 0 => {
                tip = Some((first_seq - 1, unhex32(&previous).ok_or_else(|| wrong("the hash cannot be read"))?));
            }
            Line::Header { .. } => return Err(wrong("an unexpected header")),
            Line::Checkpoint { checkpoint } => {
                let here = tip.is_some_and(|(seq, hash)| checkpoint.seq == seq && checkpoint.head == hex(&hash));
                if !here || !checkpoint.signature_ok() {
                    return Err(wrong("the checkpoint does not vouch for the entries before it"));
                }
                follows(&last, &checkpoint).map_err(|what| wrong(&what))?;
                if checkpoint.key == key {
                    report.signed_through = checkpoint.seq;
                }
                report.checkpoints += 1;
                last = Some(checkpoint);
            }
            Line::End { seq, head, at, key: signed_by, signature } => {
                ended = true;
                if tip.is_none_or(|(n, hash)| n != seq || hex(&hash) != head) {
                    return Err(wrong("entries are missing at the end"));
                }
                if let (Some(signed_by), Some(signature)) = (signed_by, signature) {
                    let message = end_message(seq, &head, &at, &signed_by);
                    let signature = unhex(&signature).ok_or_else(|| wrong("the signature cannot be read"))?;
                    if signed_by != key
                        || UnparsedPublicKey::new(&ED25519, public_key).verify(message.as_bytes(), &signature).is_err()
                    {
                        return Err(wrong("the end was not signed by the given key"));
                    }
                    report.signed_through = seq;
                }
            }
        }
    }
    if ended { Ok(report) } else { Err("the export is cut off: it has no end".into()) }
}

/// The chain hash after the entry in `line`, if the line is right.
fn check_entry(line: &[u8], seq: u64, previous: &Hash) -> Option<Hash> {
    let rest = line.strip_prefix(format!(r#"{{"type":"entry","seq":{seq},"hash":""#).as_bytes())?;
    let (hash, rest) = rest.split_at_checked(64)?;
    let entry = rest.strip_prefix(br#"","entry":"#)?.strip_suffix(b"}")?;
    let next = link(previous, seq, &sha256(&[entry]));
    (unhex32(std::str::from_utf8(hash).ok()?)? == next).then_some(next)
}
