//! The one writer of the store: takes batches in groups, checks them, applies them, flushes once, and only then answers.

use std::{
    collections::BTreeMap,
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    batch::{Batch, Expect, Op, Put},
    cache::Effect,
    codec::{self, Sealing},
    engine::{Engine, TreeId, Write, scan_prefix},
    error::{Result, StoreError},
    files,
    health::Health,
    keys::KindKeys,
    ledger::{EncodedEntry, Expired, writer::Writer},
    queue::{Commit, Queue, Request, Taken},
    store::Shared,
};

/// After a failed upkeep of the ledger it is tried again this much later.
const RETRY: Duration = Duration::from_secs(5);
/// How often the engine is asked whether its waste is worth a rewrite.
const COMPACT_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeOp {
    Inserted,
    Updated,
    Deleted,
}

/// Told to subscribers after a change is durable and visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub kind: &'static str,
    pub id: Uuid,
    pub org: Option<Uuid>,
    pub op: ChangeOp,
}

/// The writes of one batch before they reach the engine, seen as if they already had.
pub(crate) struct Staging<'a> {
    engine: &'a dyn Engine,
    writes: BTreeMap<(TreeId, Vec<u8>), Option<Vec<u8>>>,
}

impl<'a> Staging<'a> {
    pub(crate) fn new(engine: &'a dyn Engine) -> Self {
        Self { engine, writes: BTreeMap::new() }
    }

    pub(crate) fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.writes.get(&(tree, key.to_vec())) {
            Some(staged) => Ok(staged.clone()),
            None => self.engine.get(tree, key),
        }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.writes.insert((write.tree, write.key), write.value);
    }

    /// Whether there is any key that begins with `prefix`.
    pub(crate) fn any(&self, tree: TreeId, prefix: &[u8]) -> Result<bool> {
        self.first(tree, prefix, |_| true).map(|found| found.is_some())
    }

    /// The first key that begins with `prefix` and is `wanted`.
    fn first(&self, tree: TreeId, prefix: &[u8], wanted: impl Fn(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let from = Bound::Included((tree, prefix.to_vec()));
        let staged = self.writes.range((from, Bound::Unbounded));
        let staged = staged.take_while(|((t, key), _)| *t == tree && key.starts_with(prefix));
        if let Some(((_, key), _)) = staged.into_iter().find(|((_, key), value)| value.is_some() && wanted(key)) {
            return Ok(Some(key.clone()));
        }
        for pair in scan_prefix(self.engine, tree, prefix, false) {
            let key = pair?.0;
            if wanted(&key) && !matches!(self.writes.get(&(tree, key.clone())), Some(None)) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    pub(crate) fn into_writes(self) -> Vec<Write> {
        self.writes.into_iter().map(|((tree, key), value)| Write { tree, key, value }).collect()
    }

    /// Put one record with its index, checking uniqueness. `old` are the index entries it had before.
    pub(crate) fn put_record(
        &mut self,
        keys: &KindKeys,
        kind: &'static str,
        id: Uuid,
        put: &Put,
        version: u64,
        old: &[[u8; 16]],
    ) -> Result<()> {
        let mut tags = Vec::with_capacity(put.indexes.len());
        for index in &put.indexes {
            let tag = codec::index_tag(keys, index.name, &index.key);
            if index.unique {
                let other = self.first(keys.index, &tag, |key| key.last_chunk() != Some(id.as_bytes()))?;
                if let Some(key) = other {
                    return Err(StoreError::Conflict { kind, index: index.name, existing: codec::id_of(&key)? });
                }
            }
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        self.drop_index(keys, id, old.iter().filter(|tag| !tags.contains(tag)));
        for tag in tags.iter().filter(|tag| !old.contains(tag)) {
            self.write(Write { tree: keys.index, key: codec::index_key(tag, id), value: Some(Vec::new()) });
        }
        let record =
            Sealing { kind, id, schema: put.schema, version, org: put.org, indexes: &tags, payload: &put.payload };
        let value = Some(codec::seal(keys, &record)?);
        self.write(Write { tree: keys.records, key: id.as_bytes().to_vec(), value });
        Ok(())
    }

    fn drop_index<'t>(&mut self, keys: &KindKeys, id: Uuid, tags: impl Iterator<Item = &'t [u8; 16]>) {
        for tag in tags {
            self.write(Write { tree: keys.index, key: codec::index_key(tag, id), value: None });
        }
    }
}

/// What a batch will show once it is durable.
#[derive(Default)]
struct Outcome {
    effects: Vec<Effect>,
    changes: Vec<Change>,
}

pub(crate) struct Committer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    compact_at: Instant,
}

impl Committer {
    pub(crate) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        Self { shared, writer, compact_at: Instant::now() + COMPACT_EVERY }
    }

    /// The thread's life: until the queue is closed and empty.
    pub(crate) fn run(mut self, queue: &Queue) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.work(queue)));
        if outcome.is_err() {
            // The engine asserts rather than answers in some failures. Nothing that was acknowledged is lost.
            self.shared.health.set(Health::Failed("the storage engine gave up; see the log".into()));
        }
        queue.abandon();
    }

    fn work(&mut self, queue: &Queue) {
        loop {
            match queue.take(self.writer.next_due()) {
                Taken::Group(requests) => {
                    let mut commits = Vec::with_capacity(requests.len());
                    for request in requests {
                        match request {
                            Request::Commit(commit) => commits.push(*commit),
                            Request::Job(job) => job(self),
                        }
                    }
                    if !commits.is_empty() {
                        self.commit_group(commits);
                    }
                }
                Taken::Due => {}
                Taken::Closed => break,
            }
            self.upkeep();
        }
        if !matches!(self.shared.health.get(), Health::Failed(_))
            && let Err(error) = self.writer.close()
        {
            tracing::error!(%error, "the ledger was not closed cleanly; it is repaired at the next start");
        }
    }

    fn upkeep(&mut self) {
        if matches!(self.shared.health.get(), Health::Failed(_)) {
            self.writer.postpone(Instant::now() + RETRY);
            return;
        }
        let now = Instant::now();
        if let Err(error) = self.writer.tick(now) {
            self.ledger_failed(&error);
            self.writer.postpone(now + RETRY);
        }
        if now >= self.compact_at {
            self.compact_at = now + COMPACT_EVERY;
            match self.shared.engine.compact() {
                Ok(true) => tracing::info!("the store was rewritten to give back wasted space"),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "the store could not be rewritten; it stays as it is"),
            }
        }
    }

    fn ledger_failed(&self, error: &StoreError) {
        self.shared.health.set(match error {
            // What the engine refused it will go on refusing: it remembers its failure.
            StoreError::Engine(why) => Health::Failed(why.clone()),
            other => Health::Failing(other.to_string()),
        });
    }

    /// Whether a change can be taken at all.
    fn admit(&mut self) -> Result<()> {
        if let Health::Failed(why) = self.shared.health.get() {
            return Err(StoreError::Failed(why));
        }
        if let Some(dir) = &self.shared.watched_dir {
            let (free, needed) = (files::free_space(dir)?, self.shared.min_free);
            if free < needed {
                let full = StoreError::DiskFull { dir: dir.clone(), free, needed };
                self.shared.health.set(Health::Failing(full.to_string()));
                return Err(full);
            }
        }
        if self.writer.has_backlog()
            && let Err(e) = self.writer.drain()
        {
            self.ledger_failed(&e);
            return Err(StoreError::LedgerFailing(e.to_string()));
        }
        Ok(())
    }

    fn commit_group(&mut self, commits: Vec<Commit>) {
        if let Err(e) = self.admit() {
            for Commit { reply, .. } in commits {
                answer(reply, Err(e.clone()));
            }
            return;
        }
        let mut waiting = Vec::with_capacity(commits.len());
        let mut outcome = Outcome::default();
        for Commit { batch, reply, .. } in commits {
            match self.apply(batch) {
                Ok(mut done) => {
                    outcome.effects.append(&mut done.effects);
                    outcome.changes.append(&mut done.changes);
                    waiting.push(reply);
                }
                Err(e) => answer(reply, Err(e)),
            }
        }
        let result = if waiting.is_empty() { Ok(()) } else { self.settle_group(outcome) };
        for reply in waiting {
            answer(reply, result.clone());
        }
    }

    /// One flush for all, then show what happened.
    fn settle_group(&mut self, outcome: Outcome) -> Result<()> {
        if let Err(e) = self.shared.engine.flush() {
            self.shared.health.set(Health::Failed(e.to_string()));
            return Err(StoreError::Failed(e.to_string()));
        }
        // From here on the changes and their entries are safe (in the outbox); a ledger that cannot take them over now
        // stops the next commit, not this one.
        match self.writer.drain() {
            Ok(()) => self.shared.health.set(Health::Healthy),
            Err(e) => self.ledger_failed(&e),
        }
        self.shared.model.write().apply(outcome.effects);
        for change in outcome.changes {
            // Nobody listening is no failure.
            let _ = self.shared.changes.send(change);
        }
        Ok(())
    }

    fn apply(&mut self, batch: Batch) -> Result<Outcome> {
        if let Some(e) = batch.error {
            return Err(e);
        }
        let mut outcome = Outcome::default();
        let shared = self.shared.clone();
        let mut staging = Staging::new(&*shared.engine);
        for op in batch.ops {
            stage(&shared, op, &mut staging, &mut outcome)?;
        }
        let assigned = self.writer.stage(batch.entries, &mut staging)?;
        if let Err(e) = shared.engine.apply(&staging.into_writes()) {
            shared.health.set(Health::Failed(e.to_string()));
            return Err(StoreError::Failed(e.to_string()));
        }
        self.writer.accept(assigned);
        Ok(outcome)
    }

    pub(crate) fn checkpoint(&mut self) -> Result<()> {
        self.admit()?;
        self.writer.drain()?;
        self.writer.checkpoint()
    }

    pub(crate) fn expire(&mut self, before: DateTime<Utc>) -> Result<Option<Expired>> {
        self.admit()?;
        if !self.shared.may_expire() {
            tracing::info!("nothing expires from the ledger while a backup reads it");
            return Ok(None);
        }
        let Some(plan) = self.writer.plan_expiry(before)? else { return Ok(None) };
        let mut batch = Batch::new();
        batch.audit(plan.tombstone(before));
        let outcome = self.apply(batch)?;
        self.settle_group(outcome)?;
        self.writer.drain()?;
        self.writer.carry_out(&plan)?;
        Ok(Some(Expired { through: plan.through, segments: plan.segments.len() }))
    }

    pub(crate) fn rebuild_index(&mut self) -> Result<u64> {
        self.admit()?;
        self.writer.drain()?;
        self.writer.settle()?;
        self.writer.rebuild_index()
    }

    /// Appends outside of any batch of a caller (events of the box itself at start).
    pub(crate) fn append_now(&mut self, entry: EncodedEntry) -> Result<()> {
        let batch = Batch { entries: vec![entry], ..Batch::default() };
        let outcome = self.apply(batch)?;
        self.settle_group(outcome)
    }
}

fn answer(reply: oneshot::Sender<Result<()>>, result: Result<()>) {
    // A caller that stopped waiting loses only the news.
    let _ = reply.send(result);
}

fn stage(shared: &Shared, op: Op, staging: &mut Staging<'_>, outcome: &mut Outcome) -> Result<()> {
    let Op { kind, id, put } = op;
    let keys = shared.keys.kind(kind)?;
    let current = match staging.get(keys.records, id.as_bytes())? {
        Some(bytes) => Some(codec::open(&keys, kind, id, &bytes)?),
        None => None,
    };
    let Some(put) = put else {
        let Some(current) = current else { return Ok(()) };
        staging.drop_index(&keys, id, current.indexes.iter());
        staging.write(Write { tree: keys.records, key: id.as_bytes().to_vec(), value: None });
        outcome.effects.push(Effect::Remove { kind, id });
        outcome.changes.push(Change { kind, id, org: current.org, op: ChangeOp::Deleted });
        return Ok(());
    };
    let found = current.as_ref().map(|current| current.version);
    match (put.expect, found) {
        (Expect::Absent, Some(_)) => return Err(StoreError::Exists { kind, id }),
        (Expect::Version(_), None) => return Err(StoreError::NotFound { kind, id }),
        (Expect::Version(expected), Some(version)) if expected != version => {
            return Err(StoreError::Stale { kind, id, expected, found });
        }
        _ => {}
    }
    if current.as_ref().is_some_and(|current| current.org != put.org) {
        return Err(StoreError::OtherOrganization { kind, id });
    }
    let version = found.unwrap_or(0) + 1;
    let old = current.as_ref().map(|current| current.indexes.as_slice()).unwrap_or_default();
    staging.put_record(&keys, kind, id, &put, version, old)?;
    let op = if found.is_some() { ChangeOp::Updated } else { ChangeOp::Inserted };
    outcome.changes.push(Change { kind, id, org: put.org, op });
    if let Some(value) = put.value {
        outcome.effects.push(Effect::Put { kind, value, version });
    }
    Ok(())
}
