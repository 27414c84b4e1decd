//! What all sessions share: the store, the read model, recordings, notices, the clock. What must not be here: anything
//! about one session.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use gatehouse_dial::GatewayMemory;
use gatehouse_model::notice::Notifier;
use gatehouse_model::settings::Settings;
use gatehouse_model::time_period::Moment;
use gatehouse_record::{FileKeeper, MasterKey, RecordError, RecorderPool};
use gatehouse_store::{Store, StoreError};

use crate::audit::Auditor;
use crate::lastlogin::LastLogins;
use crate::live::Live;
use crate::readmodel::ReadModel;
use crate::{recover, warden};

/// Where time comes from; tests bring their own.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// Why something with sessions did not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Also for sessions of other organizations.
    #[error("the session does not run; look for it in the history")]
    NotLive,
    #[error("this session has no terminal to watch; its file transfers and bytes are in its records")]
    NothingToWatch,
    #[error("too many people watch this session already; try again when one of them has left")]
    TooManyWatchers,
    #[error("gatehouse is stopping and starts no sessions")]
    Draining,
    #[error("the session cannot be recorded, so it does not start: {0}")]
    Unrecordable(#[from] RecordError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an audit row has no stored form: {0}")]
    Row(#[from] serde_json::Error),
}

/// What [`Core::start`] needs.
pub struct CoreParts {
    pub store: Store,
    pub recorders: RecorderPool,
    /// The key that `recorders` was made with: to seal what a crash left open.
    pub recording_key: MasterKey,
    pub files: FileKeeper,
    pub notifier: Arc<dyn Notifier>,
    pub clock: Clock,
}

/// The session service. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    recorders: RecorderPool,
    files: FileKeeper,
    notifier: Arc<dyn Notifier>,
    clock: Clock,
    read: ReadModel,
    live: Live,
    auditor: Auditor,
    last_logins: LastLogins,
    gateways: GatewayMemory,
    draining: AtomicBool,
}

impl Core {
    /// Loads the read model, closes what a crash left open, and starts the tasks that keep sessions within their rules.
    /// They end when the last clone is dropped and the store's change stream ends.
    ///
    /// # Errors
    /// What the store says.
    pub async fn start(parts: CoreParts) -> Result<Self, SessionError> {
        let CoreParts { store, recorders, recording_key, files, notifier, clock } = parts;
        let read = ReadModel::start(&store).await?;
        let live = Live::new(store.clone(), Arc::clone(&clock));
        let auditor = Auditor::start(store.clone());
        let last_logins = LastLogins::start(store.clone());
        let gateways = GatewayMemory::default();
        let draining = AtomicBool::new(false);
        let inner =
            Inner { store, recorders, files, notifier, clock, read, live, auditor, last_logins, gateways, draining };
        let core = Self { inner: Arc::new(inner) };
        recover::close_interrupted(&core, &recording_key).await?;
        warden::start(&core);
        Ok(core)
    }

    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Users, assets, grants and rules in memory.
    pub fn read(&self) -> &ReadModel {
        &self.inner.read
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.inner.read.settings()
    }

    pub fn live(&self) -> &Live {
        &self.inner.live
    }

    pub fn files(&self) -> &FileKeeper {
        &self.inner.files
    }

    pub fn recorders(&self) -> &RecorderPool {
        &self.inner.recorders
    }

    pub fn notifier(&self) -> &dyn Notifier {
        self.inner.notifier.as_ref()
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.inner.clock)()
    }

    /// Now, and how far local time is from UTC: rules speak of local hours.
    pub fn moment(&self) -> Moment {
        let now = self.now();
        Moment::new(now, now.with_timezone(&chrono::Local).offset().local_minus_utc())
    }

    pub(crate) fn auditor(&self) -> &Auditor {
        &self.inner.auditor
    }

    pub(crate) fn last_logins(&self) -> &LastLogins {
        &self.inner.last_logins
    }

    pub(crate) fn gateways(&self) -> &GatewayMemory {
        &self.inner.gateways
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// For tasks that must not keep the service alive.
    pub(crate) fn downgrade(&self) -> WeakCore {
        WeakCore(Arc::downgrade(&self.inner))
    }

    /// Shutdown: no session starts any more, running ones are ended with a message and get `patience` to seal their
    /// recordings. Returns how many were still open after that (they are closed at the next start).
    pub async fn drain(&self, patience: Duration) -> usize {
        self.inner.draining.store(true, Ordering::Release);
        for session in self.live().all() {
            session.kill(None, "gatehouse is stopping; connect again in a moment");
        }
        let deadline = tokio::time::Instant::now() + patience;
        while self.live().count() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.live().count()
    }
}

pub(crate) struct WeakCore(std::sync::Weak<Inner>);

impl WeakCore {
    pub(crate) fn upgrade(&self) -> Option<Core> {
        self.0.upgrade().map(|inner| Core { inner })
    }
}
