//! Opening a ledger: what the last process left is checked, a torn tail is repaired from the outbox, and anything that
//! a crash cannot explain is refused with its place.

use std::{path::Path, sync::Arc};

use chrono::Utc;

use super::{
    checkpoint::CheckpointSigner,
    core::{Core, LastCheckpoint, Location, State, hour_from_key, hour_from_value},
    entry::{EncodedEntry, link},
    frame::{HEADER, Header},
    segment::{self, Frame, Reader},
    writer::{Assigned, CHECKPOINTS, LedgerOptions, Writer, create_segment, open_segment},
};
use crate::{
    error::{Result, StoreError},
    files, keys,
    keys::sha256,
};

/// Numbers that one checkpoint may list as abandoned.
const MAX_GAP: u64 = 100_000;

pub(crate) struct Opening {
    pub(crate) signer: Arc<dyn CheckpointSigner>,
    pub(crate) options: LedgerOptions,
    pub(crate) accept_new_signer: bool,
    /// Whether the store itself is being made now.
    pub(crate) fresh: bool,
}

/// A writer at the end of the ledger in `core.dir`, and, if somebody consented to a break in its signatures, which.
pub(crate) fn open(core: Arc<Core>, opening: Opening) -> Result<(Writer, Option<&'static str>)> {
    let Opening { signer, options, accept_new_signer, fresh } = opening;
    files::create_dir(&core.dir)?;
    let Some(mut state) = core.load_state()? else {
        let writer = if fresh {
            create(core, signer, options, accept_new_signer)?
        } else {
            return Err(missing_state(&core.dir));
        };
        return Ok((writer, None));
    };
    check_head_file(&core, &state)?;
    let accept = accept_new_signer || core.was_restored(&state)?;
    let changed = check_signer(&*signer, &mut state, accept)?;
    check_checkpoint_file(&core.dir, state.checkpoint.as_ref())?;
    remove_unstarted(&core, state.segment)?;
    load_visible(&core, &state)?;
    let (file, created) = check_last_segment(&core, &state)?;
    let mut writer = Writer::new(core.clone(), signer, options, state, file, created);
    replay_outbox(&core, &mut writer)?;
    let marker = core.restored_path();
    if marker.exists() {
        std::fs::remove_file(&marker).map_err(StoreError::io("remove", &marker))?;
    }
    writer.finish_expiry()?;
    Ok((writer, changed))
}

fn missing_state(dir: &Path) -> StoreError {
    StoreError::corrupt(dir.display().to_string(), "the store does not know how far the ledger goes")
}

fn create(core: Arc<Core>, signer: Arc<dyn CheckpointSigner>, options: LedgerOptions, accept: bool) -> Result<Writer> {
    let counter = signer.counter()?;
    if counter > 0 && !accept {
        return Err(StoreError::RolledBack(format!(
            "the signing key has signed {counter} checkpoints, but there is no ledger"
        )));
    }
    // A set-up that crashed right here may have left the first segment, without entries.
    let found = segment::list(&core.dir)?;
    if found.keys().any(|n| *n != 1) || core.dir.join(CHECKPOINTS).exists() {
        return Err(missing_state(&core.dir));
    }
    let created = Utc::now().timestamp_millis();
    let file = create_segment(&core, &Header { segment: 1, first_seq: 1, previous: [0; 32], created })?;
    let state = State {
        seq: 0,
        hash: [0; 32],
        segment: 1,
        offset: HEADER as u64,
        checkpoint: None,
        intents: Vec::new(),
        expired_through: 0,
    };
    let writer = Writer::new(core, signer, options, state, file, created);
    writer.save_state()?;
    Ok(writer)
}

/// The file is written before the engine's copy, so being behind it means that one of them is not the latest.
fn check_head_file(core: &Core, state: &State) -> Result<()> {
    let Some(head) = core.read_head()? else {
        return Err(StoreError::corrupt(core.head_path().display().to_string(), "the file is missing"));
    };
    let counter = |state: &State| state.checkpoint.as_ref().map_or(0, |last| last.counter);
    let same_key = match (&head.checkpoint, &state.checkpoint) {
        (Some(a), Some(b)) => a.key == b.key,
        _ => true,
    };
    if head.seq < state.seq || (same_key && counter(&head) < counter(state)) {
        return Err(StoreError::RolledBack(format!(
            "the ledger's files end at entry {}, the store knows {}",
            head.seq, state.seq
        )));
    }
    let waiting = core.outbox_entries()?.last_key_value().map_or(0, |(seq, _)| *seq);
    if head.seq > state.seq.max(waiting) {
        return Err(StoreError::RolledBack(format!(
            "the store ends at entry {}, the ledger's files know {}",
            state.seq.max(waiting),
            head.seq
        )));
    }
    Ok(())
}

/// The break to write down, if there is one. Fills in the numbers that were spent without a checkpoint.
fn check_signer(signer: &dyn CheckpointSigner, state: &mut State, accept: bool) -> Result<Option<&'static str>> {
    let Some(last) = &state.checkpoint else { return Ok(None) };
    if keys::hex(&signer.public_key()) != last.key {
        if !accept {
            let expected = keys::unhex(&last.key).map(|key| super::checkpoint::key_id(&key)).unwrap_or_default();
            return Err(StoreError::SignerChanged { expected, found: signer.key_id() });
        }
        state.intents.clear();
        return Ok(Some("it goes on under another signing key"));
    }
    let counter = signer.counter()?;
    if counter == last.counter || state.intents.contains(&counter) {
        return Ok(None);
    }
    // A number below the last would be given out twice; a gap that no crash explains needs somebody's consent.
    if counter > last.counter && accept && counter - last.counter <= MAX_GAP {
        state.intents = (last.counter + 1..=counter).collect();
        return Ok(Some("signatures that were made since are not in it"));
    }
    Err(StoreError::RolledBack(format!(
        "the ledger's last checkpoint has number {}, the signing key's counter stands at {counter}",
        last.counter
    )))
}

/// Cuts a line that a crash left without a settled frame; anything else must end in the last known checkpoint.
fn check_checkpoint_file(dir: &Path, last: Option<&LastCheckpoint>) -> Result<()> {
    let path = dir.join(CHECKPOINTS);
    let bytes = match std::fs::read(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        other => other.map_err(StoreError::io("read", &path))?,
    };
    let mut keep = if last.is_none() { Some(0) } else { None };
    let mut end = 0;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        end += line.len();
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        if last.is_some_and(|last| sha256(&[line]) == last.digest) {
            keep = Some(end);
        }
    }
    let keep = keep.ok_or_else(|| {
        StoreError::corrupt(path.display().to_string(), "the last checkpoint is missing or was changed")
    })?;
    if keep < bytes.len() {
        tracing::warn!(bytes = bytes.len() - keep, "a checkpoint that a crash left unfinished is removed");
        let kept = bytes.get(..keep).unwrap_or_default();
        files::write_atomic(&path, kept, true)?;
    }
    Ok(())
}

/// The segment that was about to be begun: it has no entry yet.
fn remove_unstarted(core: &Core, current: u64) -> Result<()> {
    for (number, path) in segment::list(&core.dir)? {
        if number <= current {
            continue;
        }
        let length = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
        if number > current + 1 || length > HEADER as u64 {
            return Err(StoreError::RolledBack(format!(
                "the store knows segments up to {current}, the ledger has number {number}"
            )));
        }
        std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
    }
    Ok(())
}

fn load_visible(core: &Core, state: &State) -> Result<()> {
    use std::ops::Bound::Unbounded;
    let mut visible = core.visible.write();
    visible.head = super::core::Head { seq: state.seq, hash: state.hash };
    for pair in core.engine.scan(core.trees.hours, Unbounded, Unbounded, false) {
        let (key, value) = pair?;
        if let (Some(hour), Some(range)) = (hour_from_key(&key), hour_from_value(&value)) {
            visible.hours.insert(hour, range);
        }
    }
    let segments = segment::list(&core.dir)?;
    let (Some(first), Some(last)) = (segments.first_key_value(), segments.last_key_value()) else {
        return Err(StoreError::corrupt(core.dir.display().to_string(), "the ledger has no segments"));
    };
    if last.0 - first.0 + 1 != segments.len() as u64 || *last.0 != state.segment {
        return Err(StoreError::corrupt(core.dir.display().to_string(), "a segment of the ledger is missing"));
    }
    let reader = Reader::open(&core.frames, first.1, *first.0, None)?.map_err(|fault| fault.into_error(first.1))?;
    visible.first = reader.header.first_seq;
    Ok(())
}

/// Reads the settled part of the last segment, whole.
fn check_last_segment(core: &Core, state: &State) -> Result<(std::fs::File, i64)> {
    let path = segment::path(&core.dir, state.segment);
    let corrupt = |what: String| StoreError::corrupt(path.display().to_string(), what);
    let length = std::fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
    if length < state.offset {
        return Err(corrupt(format!(
            "byte {length}: the file is cut off, {} bytes with acknowledged entries are missing",
            state.offset - length
        )));
    }
    let mut reader = Reader::open(&core.frames, &path, state.segment, Some(state.offset))?
        .map_err(|fault| fault.into_error(&path))?;
    while reader.next().map_err(|fault| fault.into_error(&path))?.is_some() {}
    if reader.seq != state.seq || reader.head != state.hash {
        return Err(corrupt(format!("it ends at entry {}, the store knows {}", reader.seq, state.seq)));
    }
    Ok((open_segment(core, state.segment)?, reader.header.created))
}

/// What was acknowledged but not settled: frames that are whole in the segment are kept, the rest is written again.
fn replay_outbox(core: &Core, writer: &mut Writer) -> Result<()> {
    let path = segment::path(&core.dir, writer.state.segment);
    let settled = writer.state.seq;
    let waiting = core.outbox_entries()?;
    if let Some((first, _)) = waiting.first_key_value()
        && *first != settled + 1
    {
        return Err(StoreError::corrupt(
            "the outbox of the ledger",
            format!("it begins at entry {first}, the ledger is safe up to {settled}"),
        ));
    }
    let tail = surviving_tail(core, writer)?;
    let mut cut = None;
    for (seq, encoded) in waiting {
        let digest = encoded.digest;
        writer.accept(vec![Assigned { seq, encoded }]);
        let found = tail.iter().find(|found| found.seq == seq);
        match found {
            Some(found) if cut.is_none() && found.offset == writer.offset => {
                if found.encoded.digest != digest {
                    return Err(StoreError::corrupt(
                        path.display().to_string(),
                        format!("byte {}: entry {seq} differs from the acknowledged one", found.offset),
                    ));
                }
                let segment = writer.state.segment;
                let location = Location { segment, offset: found.offset, previous: found.previous };
                let head = link(&found.previous, seq, &digest);
                writer.adopt_existing(seq, location, head, found.end);
            }
            _ => {
                cut.get_or_insert(writer.offset);
            }
        }
    }
    // Frames whose entries the store has never acknowledged cannot come from a crash: the engine is older.
    if let Some(stranger) = tail.iter().find(|found| found.seq >= writer.next_seq) {
        return Err(StoreError::RolledBack(format!(
            "the ledger has entry {}, the store knows nothing of it",
            stranger.seq
        )));
    }
    let length = writer.file.metadata().map_err(StoreError::io("read", &path))?.len();
    if length > writer.offset {
        tracing::warn!(
            segment = writer.state.segment,
            bytes = length - writer.offset,
            "the torn end of the ledger is cut off and written again"
        );
        writer.file.set_len(writer.offset).map_err(StoreError::io("repair", &path))?;
    }
    writer.drain()?;
    writer.settle()?;
    core.engine.flush()
}

struct Survivor {
    seq: u64,
    offset: u64,
    end: u64,
    previous: keys::Hash,
    encoded: EncodedEntry,
}

/// Whole entry frames beyond the settled end, up to the first that is not whole. A checkpoint there was not settled, so
/// its counter is among the intents; it is cut and signed again.
fn surviving_tail(core: &Core, writer: &Writer) -> Result<Vec<Survivor>> {
    let path = segment::path(&core.dir, writer.state.segment);
    let mut reader =
        Reader::open(&core.frames, &path, writer.state.segment, None)?.map_err(|fault| fault.into_error(&path))?;
    let mut out = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(step)) if step.offset < writer.offset => {}
            Ok(Some(step)) => {
                let Frame::Entry { seq, previous, encoded } = step.frame else { break };
                out.push(Survivor { seq, offset: step.offset, end: reader.offset, previous, encoded });
            }
            Ok(None) | Err(_) => break,
        }
    }
    Ok(out)
}
