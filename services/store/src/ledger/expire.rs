//! Retention: whole segments go, and an entry stays that says so, covered by a signed checkpoint.

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use serde_json::json;
use uuid::Uuid;

use super::{
    checkpoint::Checkpoint,
    entry::EncodedEntry,
    segment::{self, Frame, Reader},
    writer::{CHECKPOINTS, Writer},
};
use crate::{
    engine::Write,
    error::{Result, StoreError},
    files,
    keys::{Hash, hex},
};

const DELETE_BATCH: usize = 4096;

/// What expiry would remove.
pub(crate) struct Plan {
    pub(crate) segments: Vec<u64>,
    pub(crate) first: u64,
    /// The last entry that goes, and the chain hash at it.
    pub(crate) through: u64,
    pub(crate) hash: Hash,
}

impl Plan {
    pub(crate) fn tombstone(&self, before: DateTime<Utc>) -> LedgerEntry {
        let now = Utc::now();
        let body = json!({
            "first": self.first,
            "through": self.through,
            "hash": hex(&self.hash),
            "entries": self.through + 1 - self.first,
            "segments": self.segments.len(),
            "before": before.to_rfc3339(),
        });
        LedgerEntry::new(Uuid::now_v7(), now, Uuid::nil(), LedgerKind::Tombstone, body)
    }
}

impl Writer {
    /// The oldest segments of which every entry happened before `before`. Never the one being written.
    pub(crate) fn plan_expiry(&mut self, before: DateTime<Utc>) -> Result<Option<Plan>> {
        self.drain()?;
        self.settle()?;
        let mut plan: Option<Plan> = None;
        for (number, path) in segment::list(&self.core.dir)? {
            if number >= self.state.segment {
                break;
            }
            let mut reader =
                Reader::open(&self.core.frames, &path, number, None)?.map_err(|fault| fault.into_error(&path))?;
            let first = reader.header.first_seq;
            let mut expired = true;
            while let Some(step) = reader.next().map_err(|fault| fault.into_error(&path))? {
                if let Frame::Entry { encoded, .. } = step.frame
                    && encoded.entry.at >= before
                {
                    expired = false;
                    break;
                }
            }
            if !expired {
                break;
            }
            let plan = plan.get_or_insert(Plan { segments: Vec::new(), first, through: 0, hash: [0; 32] });
            plan.segments.push(number);
            (plan.through, plan.hash) = (reader.seq, reader.head);
        }
        Ok(plan)
    }

    /// The tombstone is in the ledger: sign it, then let the segments go.
    pub(crate) fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        self.checkpoint()?;
        self.state.expired_through = plan.through;
        self.save_state()?;
        self.finish_expiry()
    }

    /// Removes what a tombstone covers; also what a crash left of an earlier expiry.
    pub(crate) fn finish_expiry(&mut self) -> Result<()> {
        let through = self.state.expired_through;
        if through == 0 {
            return Ok(());
        }
        let mut removed = false;
        for (number, path) in segment::list(&self.core.dir)? {
            if number >= self.state.segment {
                break;
            }
            let mut reader =
                Reader::open(&self.core.frames, &path, number, None)?.map_err(|fault| fault.into_error(&path))?;
            if reader.header.first_seq > through {
                break;
            }
            let mut deletes = Vec::new();
            while let Some(step) = reader.next().map_err(|fault| fault.into_error(&path))? {
                let Frame::Entry { seq, encoded, .. } = step.frame else { continue };
                self.unindex(seq, &encoded, &mut deletes);
                if deletes.len() >= DELETE_BATCH {
                    self.core.engine.apply(&std::mem::take(&mut deletes))?;
                }
            }
            self.core.engine.apply(&deletes)?;
            self.core.forget_file(number);
            std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?;
            removed = true;
        }
        if removed {
            files::sync_dir(&self.core.dir)?;
            self.forget_hours(through)?;
            self.trim_checkpoints(through)?;
            self.core.engine.flush()?;
        }
        Ok(())
    }

    fn unindex(&self, seq: u64, encoded: &EncodedEntry, out: &mut Vec<Write>) {
        let trees = &self.core.trees;
        let index = self.core.index_keys(seq, encoded);
        out.extend(index.map(|key| Write { tree: trees.index, key, value: None }));
        out.push(Write { tree: trees.location, key: seq.to_be_bytes().to_vec(), value: None });
    }

    /// Lines about entries that are gone, but for those at the very border.
    fn trim_checkpoints(&self, through: u64) -> Result<()> {
        let path = self.core.dir.join(CHECKPOINTS);
        let bytes = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(StoreError::io("read", &path))?,
        };
        let mut kept = Vec::new();
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            let parsed = Checkpoint::from_line(line.strip_suffix(b"\n").unwrap_or(line));
            // A line that cannot be read stays, so that verification points at it.
            if parsed.is_none_or(|checkpoint| checkpoint.seq >= through) {
                kept.extend_from_slice(line);
            }
        }
        files::write_atomic(&path, &kept, self.core.sync)
    }
}
