//! Opening a store, handing work to its committer, closing it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

use chrono::Utc;
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, oneshot, watch};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    batch::Batch,
    cache::ReadModel,
    commit::{Change, Committer},
    engine::{Engine, MemoryEngine, SledEngine},
    error::{Result, StoreError},
    files::{self, DirLock, ScratchDir},
    health::{Health, HealthReporter},
    keys::KeyRing,
    ledger::{self, CheckpointSigner, EncodedEntry, Ledger, LedgerOptions, MemorySigner, core::Core, recover},
    meta,
    queue::{Queue, Request, block_on},
    registry::Registry,
    view::{AllOrgs, OrgView, SystemView},
};

/// The engine's directory inside the data directory.
pub(crate) const ENGINE: &str = "engine";
/// Changes that a slow subscriber may be behind before it is told that it missed some.
const CHANGES: usize = 4096;
/// Entries of one `append_all` that go into one batch.
const APPEND_CHUNK: usize = 256;

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// The kinds to bring forward and to load at once.
    pub registry: Registry,
    /// Signs the ledger's checkpoints. The same key and counter for the life of the data directory.
    pub signer: Arc<dyn CheckpointSigner>,
    pub ledger: LedgerOptions,
    /// Bound of the engine's page cache.
    pub cache_bytes: u64,
    /// With less free space than this on the disk, changes are refused: the engine must never meet a full disk.
    pub min_free_bytes: u64,
    /// Go on under another signing key or counter than the last checkpoint's (replaced hardware). A restored backup
    /// needs no such consent.
    pub accept_new_signer: bool,
}

impl Options {
    pub fn new(signer: Arc<dyn CheckpointSigner>) -> Self {
        Self {
            registry: Registry::new(),
            signer,
            ledger: LedgerOptions::default(),
            cache_bytes: 32 * 1024 * 1024,
            min_free_bytes: 64 * 1024 * 1024,
            accept_new_signer: false,
        }
    }
}

/// What the committer and all readers share.
pub(crate) struct Shared {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) keys: KeyRing,
    pub(crate) model: RwLock<ReadModel>,
    pub(crate) ledger: Arc<Core>,
    pub(crate) health: HealthReporter,
    pub(crate) changes: broadcast::Sender<Change>,
    pub(crate) signer: Arc<dyn CheckpointSigner>,
    pub(crate) dir: PathBuf,
    /// Where free space is watched; not for stores in memory.
    pub(crate) watched_dir: Option<PathBuf>,
    pub(crate) min_free: u64,
    /// Backups that are reading the ledger's segments.
    backups: AtomicUsize,
}

/// While it lives, nothing expires from the ledger.
pub(crate) struct ExpiryHold(Arc<Shared>);

impl Drop for ExpiryHold {
    fn drop(&mut self) {
        self.0.backups.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    pub(crate) fn hold_expiry(self: &Arc<Self>) -> ExpiryHold {
        self.backups.fetch_add(1, Ordering::AcqRel);
        ExpiryHold(self.clone())
    }

    pub(crate) fn may_expire(&self) -> bool {
        self.backups.load(Ordering::Acquire) == 0
    }
}

/// The life of an open store: when the last of its clones goes, it is closed cleanly.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    queue: Arc<Queue>,
    thread: Mutex<Option<JoinHandle<()>>>,
    // In this order: the engine must be gone before somebody else may open it.
    _lock: Option<DirLock>,
    _scratch: Option<ScratchDir>,
}

impl Handle {
    /// Run `job` between two groups of commits.
    pub(crate) async fn run<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Committer) -> R + Send + 'static,
    ) -> Result<R> {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Request::Job(Box::new(move |committer| {
            // A caller that stopped waiting loses only the news.
            let _ = reply.send(job(committer));
        })))?;
        answer.await.map_err(|_| self.gone())
    }

    fn gone(&self) -> StoreError {
        match self.shared.health.get() {
            Health::Failed(why) => StoreError::Failed(why),
            _ => StoreError::Closed,
        }
    }

    fn close(&self) {
        self.queue.close();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's writer ended in a panic");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close();
    }
}

/// The store. Clones are cheap and share everything.
#[derive(Clone)]
pub struct Store {
    pub(crate) handle: Arc<Handle>,
}

impl Store {
    /// Open the store of the data directory `dir`, or make one there if there is none. Kinds are brought forward and
    /// loaded before this returns. Blocking: from asynchronous code use `spawn_blocking`.
    pub fn open(dir: &Path, root: &[u8; 32], options: Options) -> Result<Self> {
        files::create_dir(dir)?;
        let lock = DirLock::acquire(dir)?;
        let (engine_dir, ledger_dir) = (dir.join(ENGINE), dir.join(ledger::DIRECTORY));
        let keys = meta::load(dir, root)?;
        let unfinished = meta::is_unfinished(dir);
        let fresh = keys.is_none() || unfinished;
        let keys = match keys {
            Some(keys) if engine_dir.join("current").exists() => keys,
            Some(_) => {
                return Err(StoreError::corrupt(engine_dir.display().to_string(), "the engine's files are missing"));
            }
            None => {
                for left in [&engine_dir, &ledger_dir].into_iter().filter(|dir| dir.exists() && !is_empty(dir)) {
                    // Making new keys beside old data would be the end of the data.
                    if !unfinished {
                        let what = format!("{} is missing beside existing data", meta::NAME);
                        return Err(StoreError::corrupt(left.display().to_string(), what));
                    }
                    std::fs::remove_dir_all(left).map_err(StoreError::io("remove", left))?;
                }
                let free = files::free_space(dir)?;
                if free < options.min_free_bytes {
                    return Err(StoreError::DiskFull { dir: dir.to_owned(), free, needed: options.min_free_bytes });
                }
                meta::begin(dir)?;
                drop(SledEngine::open(&engine_dir, options.cache_bytes)?);
                meta::create(dir, root, true)?
            }
        };
        let engine = SledEngine::open(&engine_dir, options.cache_bytes)?;
        engine.compact()?;
        let core = Core::new(Arc::new(engine), &ledger_dir, &keys, true)?;
        Self::start(dir, keys, core, options, fresh, Some(lock), None)
    }

    /// A store that forgets everything, for tests of other crates. The ledger is in a scratch directory.
    ///
    /// # Panics
    /// When the machine has no randomness or no temporary directory; tests cannot go on then.
    #[expect(clippy::panic, reason = "for tests; they want a store, not a result")]
    pub fn in_memory() -> Self {
        let made = MemorySigner::generate().and_then(|signer| Self::in_memory_with(Options::new(signer)));
        made.unwrap_or_else(|e| panic!("no store in memory: {e}"))
    }

    /// As [`Self::in_memory`], with options.
    pub fn in_memory_with(options: Options) -> Result<Self> {
        let scratch = ScratchDir::create()?;
        let dir = scratch.path().to_owned();
        let mut root = Zeroizing::new([0; 32]);
        crate::keys::fill_random(root.as_mut())?;
        let keys = meta::create(&dir, &root, false)?;
        let core = Core::new(Arc::new(MemoryEngine::new()), &dir.join(ledger::DIRECTORY), &keys, false)?;
        Self::start(&dir, keys, core, options, true, None, Some(scratch))
    }

    fn start(
        dir: &Path,
        keys: KeyRing,
        core: Core,
        options: Options,
        fresh: bool,
        lock: Option<DirLock>,
        scratch: Option<ScratchDir>,
    ) -> Result<Self> {
        let Options { registry, signer, ledger, min_free_bytes, accept_new_signer, .. } = options;
        registry.check()?;
        let core = Arc::new(core);
        let shared = Arc::new(Shared {
            engine: core.engine.clone(),
            keys,
            model: RwLock::default(),
            ledger: core.clone(),
            health: HealthReporter::new(),
            changes: broadcast::Sender::new(CHANGES),
            signer: signer.clone(),
            dir: dir.to_owned(),
            watched_dir: lock.is_some().then(|| dir.to_owned()),
            min_free: min_free_bytes,
            backups: AtomicUsize::new(0),
        });
        registry.migrate(&shared)?;
        registry.load(&shared)?;
        let opening = recover::Opening { signer: signer.clone(), options: ledger, accept_new_signer, fresh };
        let (writer, broken) = recover::open(core, opening)?;
        meta::finish(dir)?;
        let mut committer = Committer::new(shared.clone(), writer);
        if let Some(what) = broken {
            tracing::warn!(%what, key = signer.key_id(), "the ledger goes on after a break in its signatures");
            let body = serde_json::json!({ "event": "ledger_continued", "what": what, "key": signer.key_id() });
            let entry = LedgerEntry::new(Uuid::now_v7(), Utc::now(), Uuid::nil(), LedgerKind::System, body);
            committer.append_now(EncodedEntry::new(entry)?)?;
        }
        let queue = Arc::new(Queue::new());
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn({
                let queue = queue.clone();
                move || committer.run(&queue)
            })
            .map_err(StoreError::io("start the writer of", dir))?;
        let handle = Handle { shared, queue, thread: Mutex::new(Some(thread)), _lock: lock, _scratch: scratch };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Records of one organization.
    pub fn in_org(&self, org: Uuid) -> OrgView {
        OrgView::one(self.clone(), org)
    }

    /// Records of all organizations, for those who may.
    pub fn all_orgs(&self, _: AllOrgs) -> OrgView {
        OrgView::all(self.clone())
    }

    /// Records of the whole system.
    pub fn system(&self) -> SystemView {
        SystemView::new(self.clone())
    }

    pub fn batch(&self) -> Batch {
        Batch::new()
    }

    /// Do all of `batch` or nothing. Durable, and visible to readers, when it returns.
    pub async fn commit(&self, batch: Batch) -> Result<()> {
        match self.handle.queue.commit(batch).await {
            Err(StoreError::Closed) => Err(self.handle.gone()),
            other => other,
        }
    }

    /// [`Self::commit`] for synchronous code.
    pub fn commit_blocking(&self, batch: Batch) -> Result<()> {
        block_on(self.commit(batch))
    }

    /// An audit entry by itself. Durable when it returns; waits while the queue is full, never drops.
    pub async fn append(&self, entry: LedgerEntry) -> Result<()> {
        let mut batch = self.batch();
        batch.audit(entry);
        self.commit(batch).await
    }

    /// Several audit entries, in order. Durable when it returns; after an error the first ones may be there, and
    /// calling again does not write them twice.
    pub async fn append_all(&self, entries: Vec<LedgerEntry>) -> Result<()> {
        let mut entries = entries.into_iter().peekable();
        while entries.peek().is_some() {
            let mut batch = self.batch();
            for entry in entries.by_ref().take(APPEND_CHUNK) {
                batch.audit(entry);
            }
            self.commit(batch).await?;
        }
        Ok(())
    }

    pub fn ledger(&self) -> Ledger {
        Ledger { handle: self.handle.clone() }
    }

    /// Changes from now on, each after it is durable and visible. Who lags gets `Lagged` and should read anew.
    pub fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.handle.shared.changes.subscribe()
    }

    pub fn health(&self) -> Health {
        self.handle.shared.health.get()
    }

    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.handle.shared.health.watch()
    }

    /// A key for another use than the store's own, from the root key (HKDF). The same purpose gives the same key for
    /// the life of the data directory, backups included.
    pub fn derive_key(&self, purpose: &str) -> Result<Zeroizing<[u8; 32]>> {
        self.handle.shared.keys.derive_for_others(purpose)
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.handle.shared.dir
    }

    /// Bytes that the engine takes on the disk.
    pub fn size_on_disk(&self) -> Result<u64> {
        self.handle.shared.engine.size_on_disk()
    }

    /// Finish what is queued, sign the ledger's head, stop taking changes. Reading still works. Dropping the last clone
    /// does the same.
    pub fn close(&self) {
        self.handle.close();
    }
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}
