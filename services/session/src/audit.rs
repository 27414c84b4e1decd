//! The way from running sessions to the ledger: one bounded queue and one task for all of them, so that a command costs
//! its session no fsync, and many sessions share one. Lossless: a full queue makes sessions wait, and a ledger that
//! cannot be written ends them. What must not be here: what the entries say.

use std::sync::Arc;

use gatehouse_model::ledger::LedgerEntry;
use gatehouse_store::Store;
use tokio::sync::{mpsc, oneshot};

use crate::handle::Shared;

/// Entries that may wait. Behind them sessions wait.
const QUEUE: usize = 4096;
/// Entries written with one flush.
const BATCH: usize = 256;

enum Job {
    Entry(Box<LedgerEntry>, Arc<Shared>),
    /// Answered when everything before it is durable.
    Flush(oneshot::Sender<()>),
}

/// Takes entries of running sessions.
#[derive(Clone)]
pub(crate) struct Auditor {
    queue: mpsc::Sender<Job>,
}

/// The task that writes is gone: the daemon is ending.
#[derive(Debug, thiserror::Error)]
#[error("the ledger takes no more entries, gatehouse is stopping")]
pub(crate) struct Stopped;

impl Auditor {
    pub(crate) fn start(store: Store) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        tokio::spawn(write(store, jobs));
        Self { queue }
    }

    /// Queues an entry; waits while the queue is full.
    pub(crate) async fn push(&self, entry: LedgerEntry, session: Arc<Shared>) -> Result<(), Stopped> {
        self.queue.send(Job::Entry(Box::new(entry), session)).await.map_err(|_| Stopped)
    }

    /// Waits until everything queued before is durable, or has ended its session.
    pub(crate) async fn flush(&self) -> Result<(), Stopped> {
        let (done, wait) = oneshot::channel();
        self.queue.send(Job::Flush(done)).await.map_err(|_| Stopped)?;
        wait.await.map_err(|_| Stopped)
    }
}

async fn write(store: Store, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH);
    while jobs.recv_many(&mut batch, BATCH).await > 0 {
        let (mut entries, mut sessions, mut flushes) = (Vec::new(), Vec::new(), Vec::new());
        for job in batch.drain(..) {
            match job {
                Job::Entry(entry, session) => {
                    entries.push(*entry);
                    sessions.push(session);
                }
                // Answered after the whole batch, which is after everything before it.
                Job::Flush(done) => flushes.push(done),
            }
        }
        if !entries.is_empty()
            && let Err(error) = store.append_all(entries).await
        {
            tracing::error!(%error, "audit entries of running sessions cannot be written, the sessions end");
            for session in &sessions {
                session.fail("the audit ledger cannot be written");
            }
        }
        for done in flushes {
            // Nobody waits any more: fine.
            let _ = done.send(());
        }
    }
}
