//! The one writer of the ledger: assigns numbers, drains the outbox into segments, settles, signs, rotates.
//!
//! An entry's way: (1) `stage` puts it and its index into the same engine batch as the change it belongs to; after the
//! engine's flush it is acknowledged. (2) `drain` appends its frame to the segment. (3) `settle` syncs the segment,
//! then records the place and empties the outbox. A crash between any two steps repeats the later ones from the outbox.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs::{File, OpenOptions},
    os::unix::fs::{FileExt, OpenOptionsExt},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;

use super::{
    checkpoint::{Checkpoint, CheckpointSigner},
    core::{Core, Head, LastCheckpoint, Location, State, hour_of, hour_write},
    entry::{EncodedEntry, link},
    frame::{FrameKind, HEADER, Header, Place},
    segment,
};
use crate::{
    commit::Staging,
    engine::Write,
    error::{Result, StoreError},
    files,
    keys::{Hash, sha256},
};

/// One write to the segment carries at most about this much.
const WRITE_BYTES: usize = 1 << 20;
const DAY_MILLIS: i64 = 24 * 3600 * 1000;
pub(crate) const CHECKPOINTS: &str = "checkpoints";

/// When the ledger does what.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// A segment that has reached this size is followed by a new one. Also every day (UTC).
    pub segment_bytes: u64,
    /// A checkpoint is signed after so many entries...
    pub checkpoint_entries: u64,
    /// ...or so long after the first entry that none covers.
    pub checkpoint_after: Duration,
    /// So many entries may wait in the outbox, already written to the segment but not yet settled.
    pub settle_entries: usize,
    pub settle_after: Duration,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 16 * 1024 * 1024,
            checkpoint_entries: 1000,
            checkpoint_after: Duration::from_secs(60),
            settle_entries: 1000,
            settle_after: Duration::from_secs(1),
        }
    }
}

/// An entry that has its number.
pub(crate) struct Assigned {
    pub(crate) seq: u64,
    pub(crate) encoded: EncodedEntry,
}

struct Written {
    seq: u64,
    location: Location,
    payload: usize,
}

pub(crate) struct Writer {
    pub(crate) core: Arc<Core>,
    pub(crate) signer: Arc<dyn CheckpointSigner>,
    pub(crate) options: LedgerOptions,
    /// As last settled.
    pub(crate) state: State,
    pub(crate) file: File,
    /// UTC day on which the segment was begun.
    pub(crate) day: i64,
    /// Where the next frame goes; equals the file's length.
    pub(crate) offset: u64,
    pub(crate) head: Head,
    pub(crate) next_seq: u64,
    backlog: VecDeque<Assigned>,
    written: Vec<Written>,
    hours: BTreeSet<i64>,
    uncovered: u64,
    settle_due: Option<Instant>,
    checkpoint_due: Option<Instant>,
}

pub(crate) fn open_segment(core: &Core, number: u64) -> Result<File> {
    let path = segment::path(&core.dir, number);
    OpenOptions::new().read(true).write(true).open(&path).map_err(StoreError::io("open", &path))
}

/// Make the file of a segment with its header; on the disk when this returns.
pub(crate) fn create_segment(core: &Core, header: &Header) -> Result<File> {
    let path = segment::path(&core.dir, header.segment);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(StoreError::io("create", &path))?;
    // One may be left by an attempt that failed; it never holds more than its header.
    if file.metadata().map_err(StoreError::io("read", &path))?.len() > HEADER as u64 {
        return Err(StoreError::corrupt(path.display().to_string(), "a segment is there that should not exist yet"));
    }
    let written = file.write_all_at(&core.frames.header(header), 0).and_then(|()| match core.sync {
        true => file.sync_all(),
        false => Ok(()),
    });
    written.map_err(StoreError::io("write", &path))?;
    if core.sync {
        files::sync_dir(&core.dir)?;
    }
    Ok(file)
}

pub(crate) fn day_of(millis: i64) -> i64 {
    millis.div_euclid(DAY_MILLIS)
}

impl Writer {
    /// A writer at the settled end. `recover` then feeds it what the outbox holds.
    pub(crate) fn new(
        core: Arc<Core>,
        signer: Arc<dyn CheckpointSigner>,
        options: LedgerOptions,
        state: State,
        file: File,
        created: i64,
    ) -> Self {
        let head = Head { seq: state.seq, hash: state.hash };
        let covered = state.checkpoint.as_ref().map_or(0, |last| last.seq);
        let uncovered = state.seq.saturating_sub(covered);
        let checkpoint_due = (uncovered > 0).then(|| Instant::now() + options.checkpoint_after);
        Self {
            core,
            signer,
            options,
            offset: state.offset,
            next_seq: state.seq + 1,
            state,
            file,
            day: day_of(created),
            head,
            backlog: VecDeque::new(),
            written: Vec::new(),
            hours: BTreeSet::new(),
            uncovered,
            settle_due: None,
            checkpoint_due,
        }
    }

    /// Give numbers to `entries` and put them into the batch. Entries whose id is in the ledger already are skipped: a
    /// retry does not write twice. Nothing is changed here until [`Self::accept`].
    pub(crate) fn stage(&self, entries: Vec<EncodedEntry>, staging: &mut Staging<'_>) -> Result<Vec<Assigned>> {
        let mut out: Vec<Assigned> = Vec::with_capacity(entries.len());
        for encoded in entries {
            if staging.any(self.core.trees.index, &self.core.by_id(encoded.entry.id))? {
                continue;
            }
            let seq = self.next_seq + out.len() as u64;
            for write in self.core.outbox_writes(seq, &encoded.payload)? {
                staging.write(write);
            }
            for write in self.core.index_writes(seq, &encoded) {
                staging.write(write);
            }
            out.push(Assigned { seq, encoded });
        }
        Ok(out)
    }

    /// The engine has taken the batch.
    pub(crate) fn accept(&mut self, assigned: Vec<Assigned>) {
        if let Some(last) = assigned.last() {
            self.next_seq = last.seq + 1;
        }
        self.backlog.extend(assigned);
    }

    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Write what is accepted into the segment and show it to readers. On failure everything stays in the backlog.
    pub(crate) fn drain(&mut self) -> Result<()> {
        while !self.backlog.is_empty() {
            self.rotate_if_due()?;
            self.write_some()?;
            if self.written.len() >= self.options.settle_entries {
                self.settle()?;
            }
            if self.uncovered >= self.options.checkpoint_entries {
                self.checkpoint()?;
            }
        }
        Ok(())
    }

    fn write_some(&mut self) -> Result<()> {
        let mut bytes = Vec::new();
        let mut head = self.head;
        let mut written = Vec::new();
        let segment = self.state.segment;
        let room = self.options.settle_entries.saturating_sub(self.written.len()).max(1);
        for Assigned { seq, encoded } in self.backlog.iter().take(room) {
            if *seq != head.seq + 1 {
                return Err(StoreError::corrupt(
                    "the outbox of the ledger",
                    format!("entry {} is missing", head.seq + 1),
                ));
            }
            let offset = self.offset + bytes.len() as u64;
            if bytes.len() >= WRITE_BYTES || (!bytes.is_empty() && offset >= self.options.segment_bytes) {
                break;
            }
            let place = Place { kind: FrameKind::Entry, segment, seq: *seq, previous: head.hash };
            self.core.frames.frame(&mut bytes, &place, &encoded.payload)?;
            let location = Location { segment, offset, previous: head.hash };
            written.push(Written { seq: *seq, location, payload: encoded.payload.len() });
            head = Head { seq: *seq, hash: link(&head.hash, *seq, &encoded.digest) };
        }
        self.append(&bytes)?;
        self.adopt(head, written, bytes.len() as u64);
        Ok(())
    }

    /// A frame that is in the segment already, found after a crash: as if it had just been written.
    pub(crate) fn adopt_existing(&mut self, seq: u64, location: Location, head: Hash, end: u64) {
        let Some(front) = self.backlog.front() else { return };
        let payload = front.encoded.payload.len();
        let length = end.saturating_sub(self.offset);
        self.adopt(Head { seq, hash: head }, vec![Written { seq, location, payload }], length);
    }

    fn adopt(&mut self, head: Head, written: Vec<Written>, length: u64) {
        self.offset += length;
        self.head = head;
        let count = written.len();
        let mut visible = self.core.visible.write();
        for Assigned { seq, encoded } in self.backlog.drain(..count) {
            let hour = hour_of(encoded.entry.at.timestamp_millis());
            let range = visible.hours.entry(hour).or_insert((seq, seq));
            range.1 = range.1.max(seq);
            self.hours.insert(hour);
            visible.recent.insert(seq, encoded.entry);
        }
        visible.head = head;
        drop(visible);
        self.written.extend(written);
        self.uncovered += count as u64;
        let now = Instant::now();
        self.settle_due.get_or_insert(now + self.options.settle_after);
        self.checkpoint_due.get_or_insert(now + self.options.checkpoint_after);
    }

    /// Append to the segment, or leave it as it was.
    fn append(&self, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, self.offset).map_err(|e| {
            // What a full disk let through is cut off again; if even that fails, the next start does it.
            let _ = self.file.set_len(self.offset);
            StoreError::io("write", &segment::path(&self.core.dir, self.state.segment))(e)
        })
    }

    fn sync_segment(&self) -> Result<()> {
        match self.core.sync {
            true => self
                .file
                .sync_data()
                .map_err(StoreError::io("sync", &segment::path(&self.core.dir, self.state.segment))),
            false => Ok(()),
        }
    }

    /// Everything written so far is safe in the segment: record places, empty the outbox.
    pub(crate) fn settle(&mut self) -> Result<()> {
        if self.written.is_empty() {
            self.settle_due = None;
            return Ok(());
        }
        self.sync_segment()?;
        let state = State { seq: self.head.seq, hash: self.head.hash, offset: self.offset, ..self.state.clone() };
        self.core.write_head(&state)?;
        let mut writes = Vec::with_capacity(self.written.len() * 2 + 4);
        for Written { seq, location, payload } in &self.written {
            let key = seq.to_be_bytes().to_vec();
            writes.push(Write { tree: self.core.trees.location, key, value: Some(location.to_bytes()) });
            writes.extend(self.core.outbox_deletes(*seq, *payload));
        }
        {
            let visible = self.core.visible.read();
            let tree = self.core.trees.hours;
            let known = |hour: &i64| visible.hours.get(hour).map(|range| hour_write(tree, *hour, *range));
            writes.extend(self.hours.iter().filter_map(known));
        }
        writes.push(self.core.state_write(&state)?);
        self.core.engine.apply(&writes)?;
        self.state = state;
        self.hours.clear();
        let mut visible = self.core.visible.write();
        for Written { seq, .. } in self.written.drain(..) {
            visible.recent.remove(&seq);
        }
        self.settle_due = None;
        Ok(())
    }

    /// The state as it is now, durable in both places.
    pub(crate) fn save_state(&self) -> Result<()> {
        self.core.write_head(&self.state)?;
        self.core.engine.apply(&[self.core.state_write(&self.state)?])?;
        self.core.engine.flush()
    }

    /// Sign what is there.
    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.settle()?;
        if self.uncovered == 0 {
            self.checkpoint_due = None;
            return Ok(());
        }
        let intent = self.signer.counter()?.saturating_add(1);
        if !self.state.intents.contains(&intent) {
            self.state.intents.push(intent);
        }
        // Before the number is spent: a crash in between must not look like a checkpoint that somebody removed.
        self.save_state()?;
        let counter = self.signer.next_counter()?;
        if counter != intent {
            return Err(StoreError::Signer(format!("its counter went from {} to {counter}", intent - 1)));
        }
        let abandoned = self.state.intents.iter().copied().filter(|n| *n != counter).collect();
        let checkpoint =
            Checkpoint::sign(&*self.signer, self.head.seq, &self.head.hash, Utc::now(), counter, abandoned)?;
        let line = checkpoint.to_line()?;
        let mut frame = Vec::new();
        let Head { seq, hash } = self.head;
        let place = Place { kind: FrameKind::Checkpoint, segment: self.state.segment, seq, previous: hash };
        self.core.frames.frame(&mut frame, &place, &line)?;
        let wrote = self.append(&frame).and_then(|()| self.sync_segment()).and_then(|()| self.append_line(&line));
        if let Err(e) = wrote {
            let _ = self.file.set_len(self.offset);
            return Err(e);
        }
        self.offset += frame.len() as u64;
        self.state.offset = self.offset;
        self.state.intents.clear();
        self.state.checkpoint = Some(LastCheckpoint { seq, counter, key: checkpoint.key, digest: sha256(&[&line]) });
        self.uncovered = 0;
        self.checkpoint_due = None;
        self.save_state()
    }

    fn append_line(&self, line: &[u8]) -> Result<()> {
        let path = self.core.dir.join(CHECKPOINTS);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let end = file.metadata().map_err(StoreError::io("read", &path))?.len();
        let written = file.write_all_at(&[line, b"\n"].concat(), end).and_then(|()| match self.core.sync {
            true => file.sync_all(),
            false => Ok(()),
        });
        written.map_err(|e| {
            let _ = file.set_len(end);
            StoreError::io("write", &path)(e)
        })
    }

    fn rotate_if_due(&mut self) -> Result<()> {
        let now = Utc::now().timestamp_millis();
        let used = self.offset > HEADER as u64;
        if used && (self.offset >= self.options.segment_bytes || day_of(now) > self.day) {
            self.rotate(now)?;
        }
        Ok(())
    }

    fn rotate(&mut self, now: i64) -> Result<()> {
        self.settle()?;
        self.core.engine.flush()?;
        let segment = self.state.segment + 1;
        let header = Header { segment, first_seq: self.head.seq + 1, previous: self.head.hash, created: now };
        self.file = create_segment(&self.core, &header)?;
        self.state.segment = segment;
        self.state.offset = HEADER as u64;
        self.offset = HEADER as u64;
        self.day = day_of(now);
        self.save_state()
    }

    /// What is due by now; called when the committer has nothing else to do, and between groups.
    pub(crate) fn tick(&mut self, now: Instant) -> Result<()> {
        if self.checkpoint_due.is_some_and(|due| due <= now) {
            self.checkpoint()?;
        }
        if self.settle_due.is_some_and(|due| due <= now) {
            self.settle()?;
        }
        Ok(())
    }

    /// When `tick` has something to do next.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        [self.settle_due, self.checkpoint_due].into_iter().flatten().min()
    }

    /// After a failure: not at once again.
    pub(crate) fn postpone(&mut self, until: Instant) {
        for due in [&mut self.settle_due, &mut self.checkpoint_due] {
            *due = due.map(|due| due.max(until));
        }
    }

    /// Clean shutdown.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.drain()?;
        self.checkpoint()?;
        self.settle()?;
        self.core.engine.flush()
    }

    /// Entries up to `through` are gone: forget when they happened.
    pub(crate) fn forget_hours(&mut self, through: u64) -> Result<()> {
        let mut visible = self.core.visible.write();
        let gone: BTreeMap<i64, (u64, u64)> = visible.hours.extract_if(.., |_, range| range.1 <= through).collect();
        visible.first = through + 1;
        drop(visible);
        let tree = self.core.trees.hours;
        let delete = |hour: &i64| Write { tree, key: super::core::hour_key(*hour), value: None };
        let deletes: Vec<Write> = gone.keys().map(delete).collect();
        self.core.engine.apply(&deletes)
    }
}

const REBUILD_BATCH: usize = 8192;

impl Writer {
    /// Everything is settled: forget index and places, and make them again from the segments. Returns the number of
    /// entries. If it is interrupted, it has to be run again.
    pub(crate) fn rebuild_index(&mut self) -> Result<u64> {
        use std::ops::Bound::Unbounded;
        let core = self.core.clone();
        let trees = &core.trees;
        let mut writes = Vec::new();
        for tree in [trees.index, trees.location, trees.hours] {
            for pair in core.engine.scan(tree, Unbounded, Unbounded, false) {
                writes.push(Write { tree, key: pair?.0, value: None });
                if writes.len() >= REBUILD_BATCH {
                    core.engine.apply(&std::mem::take(&mut writes))?;
                }
            }
        }
        let mut hours: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
        let mut count = 0;
        for (number, path) in segment::list(&core.dir)? {
            let end = (number == self.state.segment).then_some(self.offset);
            let mut reader =
                segment::Reader::open(&core.frames, &path, number, end)?.map_err(|fault| fault.into_error(&path))?;
            while let Some(step) = reader.next().map_err(|fault| fault.into_error(&path))? {
                let segment::Frame::Entry { seq, previous, encoded } = step.frame else { continue };
                writes.extend(core.index_writes(seq, &encoded));
                let location = Location { segment: number, offset: step.offset, previous };
                let key = seq.to_be_bytes().to_vec();
                writes.push(Write { tree: trees.location, key, value: Some(location.to_bytes()) });
                let hour = hours.entry(hour_of(encoded.entry.at.timestamp_millis())).or_insert((seq, seq));
                hour.1 = seq;
                count += 1;
                if writes.len() >= REBUILD_BATCH {
                    core.engine.apply(&std::mem::take(&mut writes))?;
                }
            }
        }
        writes.extend(hours.iter().map(|(hour, range)| hour_write(trees.hours, *hour, *range)));
        core.engine.apply(&writes)?;
        core.engine.flush()?;
        core.visible.write().hours = hours;
        Ok(count)
    }
}
