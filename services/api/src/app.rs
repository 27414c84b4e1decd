//! What every handler can reach: the services below, and the small state that only the web door has.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use gatehouse_identity::Identity;
use gatehouse_model::directory::Directory;
use gatehouse_notify::Notify;
use gatehouse_session::Core;
use gatehouse_store::Store;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::engine::Resource;
use crate::guard::Route;
use crate::problem::Problem;
use crate::tls::TlsStore;

/// What the daemon does for the API with the ledger's files. Both run for long and are called on a blocking thread.
pub trait LedgerFiles: Send + Sync {
    /// Checks chain, signatures and recordings.
    fn verify(&self) -> Result<gatehouse_store::ledger::Report, String>;
    /// Writes everything as JSON lines with a signed end; answers how many entries.
    fn export(&self, out: &mut dyn std::io::Write) -> Result<u64, String>;
}

/// Everything that the API stands on.
pub struct ApiContext {
    pub store: Store,
    pub identity: Identity,
    pub core: Core,
    pub notify: Notify,
    /// The certificate of the HTTPS door, shared with `serve_https`.
    pub tls: TlsStore,
    /// Work on the ledger's files, which needs the root key that the API does not have; `None` when the store is in memory.
    pub ledger: Option<Arc<dyn LedgerFiles>>,
    pub clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Inner>);

struct Inner {
    context: ApiContext,
    serial: Arc<tokio::sync::Mutex<()>>,
    bodies: Semaphore,
    heavy: Semaphore,
    spm: Mutex<HashMap<String, Spm>>,
    pub(crate) tickets: Mutex<HashMap<[u8; 32], Ticket>>,
    metrics: Metrics,
    routes: OnceLock<(Vec<Route>, Vec<Arc<Resource>>)>,
}

struct Spm {
    user: Uuid,
    ids: Vec<Uuid>,
    made: Instant,
}

/// A one-time right to open one watching socket.
#[derive(Clone)]
pub(crate) struct Ticket {
    pub user: Uuid,
    pub org: Option<Uuid>,
    pub session: Uuid,
    pub ip: IpAddr,
    pub made: Instant,
}

/// KiB of request bodies in memory at the same time.
const BODY_ROOM: usize = 128 * 1024;
const SPM_TTL: Duration = Duration::from_secs(300);
const SPM_MAX: usize = 256;
pub(crate) const SPM_IDS: usize = 10_000;
pub(crate) const TICKET_TTL: Duration = Duration::from_secs(60);
const TICKETS_MAX: usize = 1_024;

impl App {
    pub(crate) fn new(context: ApiContext) -> Self {
        Self(Arc::new(Inner {
            context,
            serial: Arc::new(tokio::sync::Mutex::new(())),
            bodies: Semaphore::new(BODY_ROOM),
            heavy: Semaphore::new(2),
            spm: Mutex::new(HashMap::new()),
            tickets: Mutex::new(HashMap::new()),
            metrics: Metrics::default(),
            routes: OnceLock::new(),
        }))
    }

    pub fn store(&self) -> &Store {
        &self.0.context.store
    }

    pub fn identity(&self) -> &Identity {
        &self.0.context.identity
    }

    pub fn core(&self) -> &Core {
        &self.0.context.core
    }

    /// Asks the read model. What is asked holds a lock, so it is short and never waits.
    pub fn with_directory<R>(&self, ask: impl FnOnce(&Directory) -> R) -> R {
        ask(&self.core().read().directory())
    }

    pub fn notify(&self) -> &Notify {
        &self.0.context.notify
    }

    pub fn tls(&self) -> &TlsStore {
        &self.0.context.tls
    }

    pub fn ledger_files(&self) -> Option<Arc<dyn LedgerFiles>> {
        self.0.context.ledger.clone()
    }

    pub fn now(&self) -> DateTime<Utc> {
        (self.0.context.clock)()
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// The turn of changes whose checks look at other records (the last administrator, the next key of a node).
    pub async fn serial(&self) -> OwnedMutexGuard<()> {
        self.0.serial.clone().lock_owned().await
    }

    /// Room for a body: so that many large ones wait instead of filling the memory.
    pub async fn body_room(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Problem> {
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX);
        let wait = tokio::time::timeout(Duration::from_secs(10), self.0.bodies.acquire_many(kib));
        match wait.await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::unavailable("too many large requests; try again").after(5)),
        }
    }

    /// The turn of work that reads whole ledgers or recordings.
    pub async fn heavy(&self) -> Result<SemaphorePermit<'_>, Problem> {
        match tokio::time::timeout(Duration::from_secs(30), self.0.heavy.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Problem::unavailable("other long work is running; try again").after(30)),
        }
    }

    /// Keeps a set of ids for a few minutes, for bulk deletes.
    pub fn keep_spm(&self, user: Uuid, ids: Vec<Uuid>) -> String {
        let mut kept = self.0.spm.lock();
        kept.retain(|_, s| s.made.elapsed() < SPM_TTL);
        while kept.len() >= SPM_MAX {
            let oldest = kept.iter().max_by_key(|(_, s)| s.made.elapsed()).map(|(k, _)| k.clone());
            let Some(oldest) = oldest else { break };
            kept.remove(&oldest);
        }
        let key = Uuid::new_v4().to_string();
        kept.insert(key.clone(), Spm { user, ids, made: Instant::now() });
        key
    }

    /// The kept ids; only for whom they were kept.
    pub fn spm(&self, key: &str, user: Uuid) -> Option<Vec<Uuid>> {
        let kept = self.0.spm.lock();
        kept.get(key).filter(|s| s.user == user && s.made.elapsed() < SPM_TTL).map(|s| s.ids.clone())
    }

    pub fn keep_ticket(&self, hash: [u8; 32], ticket: Ticket) -> Result<(), Problem> {
        let mut kept = self.0.tickets.lock();
        kept.retain(|_, t| t.made.elapsed() < TICKET_TTL);
        if kept.len() >= TICKETS_MAX {
            return Err(Problem::unavailable("too many unused tickets").after(60));
        }
        kept.insert(hash, ticket);
        Ok(())
    }

    /// Takes the ticket: it opens one socket, once.
    pub fn take_ticket(&self, hash: &[u8; 32]) -> Option<Ticket> {
        self.0.tickets.lock().remove(hash).filter(|t| t.made.elapsed() < TICKET_TTL)
    }

    pub(crate) fn set_routes(&self, routes: Vec<Route>, resources: Vec<Arc<Resource>>) {
        if self.0.routes.set((routes, resources)).is_err() {
            tracing::error!("the routes were set twice");
        }
    }

    pub fn routes(&self) -> &[Route] {
        self.0.routes.get().map_or(&[], |(routes, _)| routes)
    }

    pub fn resources(&self) -> &[Arc<Resource>] {
        self.0.routes.get().map_or(&[], |(_, resources)| resources)
    }

    /// A resource of the registry, for handlers that show its rows.
    pub fn resource(&self, app: &str, route: &str) -> Result<Arc<Resource>, Problem> {
        let found = self.resources().iter().find(|r| r.app == app && r.route == route).cloned();
        found.ok_or_else(|| Problem::internal(&format!("there is no resource {app}/{route}")))
    }
}

/// Counters of the web door.
#[derive(Default)]
pub(crate) struct Metrics {
    classes: [AtomicU64; 6],
}

impl Metrics {
    pub fn answered(&self, status: StatusCode) {
        if let Some(class) = self.classes.get(usize::from(status.as_u16() / 100)) {
            class.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// (class of status, answers), `2` for 2xx.
    pub fn answers(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.classes.iter().enumerate().skip(1).map(|(class, n)| (class, n.load(Ordering::Relaxed)))
    }
}

/// Text of the client for logs; bounded and without control characters.
pub(crate) fn clean_agent(agent: Option<&str>) -> String {
    agent.unwrap_or("").chars().filter(|c| !c.is_control()).take(256).collect()
}
