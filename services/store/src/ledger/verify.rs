//! Checking a ledger offline: every byte of every segment and of the checkpoint file, the chain, the signatures, the
//! counter, and that nothing is missing at either end. Reads only; a running daemon is not disturbed.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use serde::Serialize;

use super::{
    checkpoint::Checkpoint,
    core::{Core, State},
    segment::{self, Frame, Reader},
    writer::CHECKPOINTS,
};
use crate::{
    engine::MemoryEngine,
    error::{Result, StoreError},
    keys::{Hash, hex, sha256, unhex32},
    meta,
};

/// Problems with recordings that are listed; the rest is counted.
const MAX_LISTED: usize = 100;

/// Called for each recording that a `SessionEnd` entry vouches for, with the entry's `replay` object; an answer of
/// `Err` says what is wrong with it.
pub type ReplayCheck<'a> = dyn Fn(&LedgerEntry, &serde_json::Value) -> Result<(), String> + 'a;

/// How to verify.
#[derive(Default)]
pub struct VerifyOptions<'a> {
    /// The key that the box signs with, kept outside of the box. Without it, signatures are checked against the key in
    /// each checkpoint, and `Report::keys` says which these were.
    pub public_key: Option<Vec<u8>>,
    /// Keys that the box signed with earlier (before hardware was replaced).
    pub former_keys: Vec<Vec<u8>>,
    pub replay: Option<&'a ReplayCheck<'a>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    pub file: PathBuf,
    /// Bytes from the beginning of the file.
    pub offset: u64,
    /// The last entry that is whole, or the entry concerned.
    pub seq: u64,
    pub what: String,
}

/// What verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub segments: u64,
    pub entries: u64,
    pub checkpoints: u64,
    /// First and last entry; the first is not 1 when retention removed older ones.
    pub first_seq: u64,
    pub last_seq: u64,
    /// Chain hash at the last entry, hexadecimal.
    pub head: String,
    /// The last entry that a signature covers.
    pub signed_through: u64,
    /// Public keys (hexadecimal) that signed, with the number of their checkpoints.
    pub keys: BTreeMap<String, u64>,
    /// Bytes behind the settled end: what a running or crashed daemon has yet to settle.
    pub unsettled_bytes: u64,
    pub replays_checked: u64,
    pub replays_failed: u64,
    /// The first problem; what lies behind it was not looked at.
    pub problem: Option<Problem>,
    pub replay_problems: Vec<Problem>,
}

impl Report {
    pub fn is_ok(&self) -> bool {
        self.problem.is_none() && self.replays_failed == 0
    }
}

/// Either the disk failed, or the ledger is not what it should be.
enum Stop {
    Failed(StoreError),
    Found(Problem),
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Self {
        Self::Failed(e)
    }
}

struct SeenCheckpoint {
    line: Vec<u8>,
    counter: u64,
    seq: u64,
}

struct Verifier<'a> {
    core: Core,
    options: &'a VerifyOptions<'a>,
    report: Report,
    checkpoints: Vec<SeenCheckpoint>,
    last: Option<Checkpoint>,
    /// Chain hash before each segment's first entry.
    borders: BTreeMap<u64, Hash>,
    /// (own number, last removed entry, hash there)
    tombstones: Vec<(u64, u64, Hash)>,
}

/// Verify the ledger of the data directory `dir`. An error means that it could not be read at all (wrong key, missing
/// files, failing disk); what is wrong with it is in the report.
pub fn verify(dir: &Path, root_key: &[u8; 32], options: &VerifyOptions<'_>) -> Result<Report> {
    let ring = meta::load(dir, root_key)?
        .ok_or_else(|| StoreError::corrupt(dir.display().to_string(), "there is no store in this directory"))?;
    let core = Core::new(Arc::new(MemoryEngine::new()), &dir.join(super::DIRECTORY), &ring, false)?;
    let mut verifier = Verifier {
        core,
        options,
        report: Report::default(),
        checkpoints: Vec::new(),
        last: None,
        borders: BTreeMap::new(),
        tombstones: Vec::new(),
    };
    match verifier.run() {
        Ok(()) => {}
        Err(Stop::Found(problem)) => verifier.report.problem = Some(problem),
        Err(Stop::Failed(e)) => return Err(e),
    }
    Ok(verifier.report)
}

fn found(file: &Path, offset: u64, seq: u64, what: impl Into<String>) -> Stop {
    Stop::Found(Problem { file: file.to_owned(), offset, seq, what: what.into() })
}

impl Verifier<'_> {
    fn run(&mut self) -> Result<(), Stop> {
        let head_path = self.core.head_path();
        let state = match self.core.read_head() {
            Ok(Some(state)) => state,
            Ok(None) => return Err(found(&head_path, 0, 0, "the file that says how far the ledger goes is missing")),
            Err(StoreError::Corrupt { what, .. }) => return Err(found(&head_path, 0, 0, what)),
            Err(e) => return Err(e.into()),
        };
        let segments = segment::list(&self.core.dir)?;
        let mut expected = None;
        for (number, path) in segments.range(..=state.segment) {
            if expected.is_some_and(|n| n != *number) {
                let what = format!("the segment before {number} is missing");
                return Err(found(path, 0, self.report.last_seq, what));
            }
            expected = Some(number + 1);
            self.segment(*number, path, &state)?;
        }
        let last_path = segment::path(&self.core.dir, state.segment);
        if expected != Some(state.segment + 1) {
            let what = format!("segment {} with acknowledged entries is missing", state.segment);
            return Err(found(&last_path, 0, self.report.last_seq, what));
        }
        if self.report.last_seq != state.seq || self.report.head != hex(&state.hash) {
            let what = format!("the ledger ends at entry {}, {} was acknowledged", self.report.last_seq, state.seq);
            return Err(found(&last_path, state.offset, self.report.last_seq, what));
        }
        self.beginning(segments.values().next().unwrap_or(&last_path))?;
        self.checkpoint_file(&state)
    }

    fn segment(&mut self, number: u64, path: &Path, state: &State) -> Result<(), Stop> {
        // Earlier segments were settled whole; the last one up to the settled end.
        let length = std::fs::metadata(path).map_err(StoreError::io("read", path))?.len();
        let end = if number == state.segment { state.offset } else { length };
        if length < end {
            let what = format!("the file is cut off: {} bytes are missing", end - length);
            return Err(found(path, length, self.report.last_seq, what));
        }
        self.report.unsettled_bytes += length - end;
        let frames = &self.core.frames;
        let mut reader = match Reader::open(frames, path, number, Some(end))? {
            Ok(reader) => reader,
            Err(fault) => return Err(found(path, fault.offset, self.report.last_seq, fault.what)),
        };
        let before = reader.header.first_seq - 1;
        let first = self.report.segments == 0;
        if !first && before > self.report.last_seq {
            // Its header is authentic, so it is the file before it that lost its end.
            let what = format!("the file is cut off: entries {} to {before} are missing", self.report.last_seq + 1);
            let before = segment::path(&self.core.dir, number.saturating_sub(1));
            let length = std::fs::metadata(&before).map_err(StoreError::io("read", &before))?.len();
            return Err(found(&before, length, self.report.last_seq, what));
        }
        if !first && (before != self.report.last_seq || hex(&reader.header.previous) != self.report.head) {
            let what = "the segment does not continue the one before it";
            return Err(found(path, 0, self.report.last_seq, what));
        }
        if first {
            self.report.first_seq = reader.header.first_seq;
        }
        self.borders.insert(before, reader.header.previous);
        self.report.segments += 1;
        let mut steps = Vec::new();
        let outcome = loop {
            match reader.next() {
                Ok(Some(step)) => match step.frame {
                    Frame::Entry { seq, encoded, .. } => {
                        self.report.entries += 1;
                        let entry = encoded.entry;
                        if matches!(entry.kind, LedgerKind::Tombstone | LedgerKind::SessionEnd) {
                            steps.push((step.offset, seq, entry));
                        }
                    }
                    Frame::Checkpoint { checkpoint, line } => {
                        if let Err(what) =
                            check_key(self.options, &checkpoint).and_then(|()| follows(&self.last, &checkpoint))
                        {
                            break Err(found(path, step.offset, reader.seq, what));
                        }
                        self.report.checkpoints += 1;
                        self.report.signed_through = checkpoint.seq;
                        *self.report.keys.entry(checkpoint.key.clone()).or_default() += 1;
                        let (counter, seq) = (checkpoint.counter, checkpoint.seq);
                        self.checkpoints.push(SeenCheckpoint { line, counter, seq });
                        self.last = Some(checkpoint);
                    }
                },
                Ok(None) => break Ok(()),
                Err(fault) => break Err(found(path, fault.offset, fault.seq, fault.what)),
            }
        };
        self.report.last_seq = reader.seq;
        self.report.head = hex(&reader.head);
        drop(reader);
        for (offset, seq, entry) in steps {
            self.special(path, offset, seq, &entry);
        }
        outcome
    }

    fn special(&mut self, path: &Path, offset: u64, seq: u64, entry: &LedgerEntry) {
        let body = &entry.body;
        if entry.kind == LedgerKind::Tombstone {
            let through = body.get("through").and_then(serde_json::Value::as_u64);
            let hash = body.get("hash").and_then(serde_json::Value::as_str).and_then(unhex32);
            if let (Some(through), Some(hash)) = (through, hash) {
                self.tombstones.push((seq, through, hash));
            }
            return;
        }
        let (Some(check), Some(replay)) = (self.options.replay, body.get("replay")) else { return };
        if replay.is_null() {
            return;
        }
        self.report.replays_checked += 1;
        if let Err(what) = check(entry, replay) {
            self.report.replays_failed += 1;
            if self.report.replay_problems.len() < MAX_LISTED {
                let problem = Problem { file: path.to_owned(), offset, seq, what };
                self.report.replay_problems.push(problem);
            }
        }
    }

    /// Older entries may be gone only if a signed tombstone says so.
    fn beginning(&self, path: &Path) -> Result<(), Stop> {
        let before = self.report.first_seq.saturating_sub(1);
        if before == 0 {
            return match self.borders.get(&0) {
                Some(hash) if *hash == [0; 32] => Ok(()),
                _ => Err(found(path, 0, 0, "the first segment does not begin the chain")),
            };
        }
        let proven = self.tombstones.iter().any(|(own, through, hash)| {
            *through >= before && *own <= self.report.signed_through && self.borders.get(through) == Some(hash)
        });
        if proven {
            return Ok(());
        }
        let what = format!("entries 1 to {before} are gone, and no signed tombstone says that retention removed them");
        Err(found(path, 0, before, what))
    }

    /// The file repeats the checkpoints of the segments, byte for byte.
    fn checkpoint_file(&self, state: &State) -> Result<(), Stop> {
        let path = self.core.dir.join(CHECKPOINTS);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(StoreError::io("read", &path))?,
        };
        let mut wanted = self.checkpoints.iter().peekable();
        let mut last: Option<Checkpoint> = None;
        let mut offset = 0;
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let at = offset;
            offset += line.len() as u64;
            let seq = last.as_ref().map_or(0, |last| last.seq);
            let content = line.strip_suffix(b"\n");
            if wanted.peek().is_none()
                && self.checkpoints.last().is_some_and(|c| last.as_ref().is_some_and(|l| l.counter == c.counter))
            {
                // Behind the settled end.
                break;
            }
            let Some(checkpoint) = content.and_then(Checkpoint::from_line) else {
                return Err(found(&path, at, seq, "the line was changed: it is no checkpoint"));
            };
            if !checkpoint.signature_ok() {
                return Err(found(&path, at, seq, "the line was changed: its signature does not verify"));
            }
            check_key(self.options, &checkpoint)
                .and_then(|()| follows(&last, &checkpoint))
                .map_err(|what| found(&path, at, seq, what))?;
            match wanted.peek() {
                Some(seen) if content == Some(seen.line.as_slice()) => {
                    wanted.next();
                }
                Some(seen) if checkpoint.counter < seen.counter && checkpoint.seq < self.report.first_seq => {}
                _ => return Err(found(&path, at, seq, "the checkpoint is not the one in the segments")),
            }
            last = Some(checkpoint);
        }
        if let Some(missing) = wanted.next() {
            let what = format!("the checkpoint with number {} is missing", missing.counter);
            return Err(found(&path, offset, missing.seq, what));
        }
        let known = state.checkpoint.as_ref().map(|last| last.digest);
        let present = match &last {
            Some(last) => Some(sha256(&[&last.to_line()?])),
            None => None,
        };
        if known != present {
            return Err(found(&path, offset, state.seq, "the last checkpoint is missing"));
        }
        Ok(())
    }
}

/// Whether somebody whom the caller trusts signed it.
fn check_key(options: &VerifyOptions<'_>, checkpoint: &Checkpoint) -> Result<(), String> {
    let Some(key) = &options.public_key else { return Ok(()) };
    let trusted = std::iter::once(key).chain(&options.former_keys).any(|key| hex(key) == checkpoint.key);
    match trusted {
        true => Ok(()),
        false => Err(format!("the checkpoint was signed by key {}, which is not one of the box", checkpoint.key_id())),
    }
}

/// Numbers go up by one; those that a crash wasted are listed in the next checkpoint.
pub(crate) fn follows(last: &Option<Checkpoint>, next: &Checkpoint) -> Result<(), String> {
    let Some(last) = last else { return Ok(()) };
    if last.key != next.key {
        return Ok(());
    }
    let mut expected = last.counter.saturating_add(1);
    for abandoned in &next.abandoned {
        if *abandoned == expected {
            expected = expected.saturating_add(1);
        }
    }
    match next.counter == expected {
        true => Ok(()),
        false => {
            Err(format!("the checkpoint has number {}, {expected} was due: checkpoints are missing", next.counter))
        }
    }
}
