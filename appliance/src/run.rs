//! The daemon: opens the box, starts the doors under the supervisor, and ends in order.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use chrono::Utc;
use gatehouse_api::{Api, ApiContext, TlsStore, serve_https, serve_redirect};
use gatehouse_identity::{Identity, random_password};
use gatehouse_model::account::PasswordRules;
use gatehouse_model::common::org_ids;
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::settings::Settings;
use gatehouse_notify::Notify;
use gatehouse_record::{FileKeeper, KeeperOptions, MasterKey, PoolOptions, RecorderPool};
use gatehouse_seal::RootKey;
use gatehouse_session::{Core, CoreParts};
use gatehouse_ssh::{SshConfig, SshGateway};
use gatehouse_store::Store;
use serde_json::json;
use tokio::net::TcpListener;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::setup::{self, Answers};
use crate::status::{self, Facts};
use crate::supervisor::Supervisor;
use crate::{offline, open, upkeep};

/// How long sessions get to seal their recordings at shutdown.
const DRAIN: Duration = Duration::from_secs(10);
/// How often the init's watchdog hears of us; the unit's limit is several times longer.
const WATCHDOG: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let data = config.data.clone();
    if !gatehouse_seal::is_initialised(&data) {
        first_start(&config).await?;
    }
    let root = open::root_key(&data)?;
    // Verifying and exporting the ledger reads its files, beside the store.
    let ledger_root = RootKey::from_bytes(root.as_bytes());
    let store = {
        let data = data.clone();
        // Opening reads everything; it must not hold up the runtime.
        tokio::task::spawn_blocking(move || open::store(&data, &root)).await??
    };
    upkeep::bring_builtins_forward(&store).await?;
    let seal = gatehouse_seal::sealed_method(&data)?;
    tracing::warn!(method = seal, "the root key is a file beside the data: use this for development only");
    let clock = || Arc::new(Utc::now) as Arc<dyn Fn() -> chrono::DateTime<Utc> + Send + Sync>;

    let (notify, worker) = Notify::new(store.clone(), clock());
    let identity = Identity::new(store.clone(), Arc::new(notify.clone()), clock())?;
    let key = || anyhow::Ok(MasterKey::new(*store.derive_key(open::RECORDINGS_KEY)?));
    let recorders = RecorderPool::new(data.join(open::RECORDINGS), key()?, PoolOptions::default())?;
    let keep = settings(&store)?.ftp_file_max_store;
    let keeper = KeeperOptions { limit_bytes: u64::from(keep) * 1024 * 1024, ..KeeperOptions::default() };
    let files = FileKeeper::new(data.join(open::KEPT_FILES), key()?, keeper)?;
    let core = Core::start(CoreParts {
        store: store.clone(),
        recorders,
        recording_key: key()?,
        files,
        notifier: Arc::new(notify.clone()),
        clock: clock(),
    })
    .await?;
    let tls = TlsStore::open(&store, &setup::certificate_names(&store)?, Utc::now()).await?;

    let mut supervisor = Supervisor::new();
    // An address that is taken is an error at once, not a service that is tried again for ever.
    let https = bind("https", config.listen.https).await?;
    let http = bind("http", config.listen.http).await?;
    let ssh = bind("ssh", config.listen.ssh).await?;
    let addresses = json!({
        "https": https.as_ref().map(|l| l.address.to_string()), "http": http.as_ref().map(|l| l.address.to_string()),
        "ssh": ssh.as_ref().map(|l| l.address.to_string()),
    });

    if let Some(door) = https {
        let context = ApiContext {
            store: store.clone(),
            identity: identity.clone(),
            core: core.clone(),
            notify: notify.clone(),
            tls: tls.clone(),
            ledger: Some(Arc::new(offline::LedgerOnDisk::new(data.clone(), ledger_root))),
            clock: clock(),
        };
        let router = Api::new(context);
        supervisor.start("web", move |stop| {
            let (router, tls, door) = (router.clone(), tls.clone(), door.clone());
            async move { Ok(serve_https(door.listener()?, router, tls, stop).await?) }
        });
    }
    if let Some(door) = http {
        let store = store.clone();
        supervisor.start("redirect", move |stop| {
            let (store, door) = (store.clone(), door.clone());
            async move {
                serve_redirect(door.listener()?, store, stop).await;
                Ok(())
            }
        });
    }
    if let Some(door) = ssh {
        let gateway = SshGateway::new(core.clone(), identity.clone(), SshConfig::default()).await?;
        supervisor.start("ssh", move |stop| {
            let (gateway, door) = (gateway.clone(), door.clone());
            async move { Ok(gateway.run(door.listener()?, stop.cancelled_owned()).await?) }
        });
    }
    let worker = Arc::new(std::sync::Mutex::new(Some(worker)));
    supervisor.start("notify", move |stop| {
        let worker = worker.lock().ok().and_then(|mut slot| slot.take());
        async move {
            // Its queue is gone with it: notices are counted as lost, and status says so, until the daemon restarts.
            worker.context("the notifier ended; restart gatehouse")?.run(stop.cancelled_owned()).await;
            Ok(())
        }
    });
    {
        let (core, identity) = (core.clone(), identity.clone());
        supervisor.start("upkeep", move |stop| upkeep::run(core.clone(), identity.clone(), stop));
    }
    let facts = Facts {
        core: core.clone(),
        states: supervisor.states.clone(),
        seal,
        listen: addresses.clone(),
        began: Instant::now(),
    };
    let socket = status::socket_path(&data);
    supervisor.start("status", move |stop| {
        let (socket, facts) = (socket.clone(), facts.clone());
        async move { status::serve(&socket, facts, stop).await }
    });
    {
        let store = store.clone();
        supervisor.start("watchdog", move |stop| watchdog(store.clone(), stop));
    }

    note(&store, "start", &addresses).await?;
    tracing::info!(listen = %addresses, "gatehouse is ready");
    println!("gatehouse is ready: {addresses}");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    wait_for_signal().await?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping: running sessions are told and their recordings sealed");
    let left = core.drain(DRAIN).await;
    if left > 0 {
        tracing::warn!(left, "some sessions did not end in time; they are closed at the next start");
    }
    supervisor.stop(DRAIN).await;
    note(&store, "stop", &addresses).await?;
    drop((core, identity));
    tokio::task::spawn_blocking(move || store.close()).await?;
    Ok(())
}

fn settings(store: &Store) -> anyhow::Result<Settings> {
    Ok(store.system().list::<Settings>()?.first().map(|s| (**s).clone()).unwrap_or_default())
}

async fn note(store: &Store, event: &str, listen: &serde_json::Value) -> anyhow::Result<()> {
    let body = json!({"event": event, "version": env!("CARGO_PKG_VERSION"), "listen": listen});
    let entry = LedgerEntry::new(Uuid::now_v7(), Utc::now(), org_ids::SYSTEM, LedgerKind::System, body);
    Ok(store.append(entry).await?)
}

/// A bound address that a restarted service can listen on again.
#[derive(Clone)]
struct Door {
    socket: Arc<std::net::TcpListener>,
    address: SocketAddr,
}

impl Door {
    fn listener(&self) -> anyhow::Result<TcpListener> {
        Ok(TcpListener::from_std(self.socket.try_clone()?)?)
    }
}

async fn bind(name: &str, address: Option<SocketAddr>) -> anyhow::Result<Option<Door>> {
    let Some(address) = address else { return Ok(None) };
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (listen.{name})"))?;
    let socket = listener.into_std()?;
    let address = socket.local_addr()?;
    Ok(Some(Door { socket: Arc::new(socket), address }))
}

/// The init's watchdog is fed only while the store answers: a daemon that cannot write must not look alive.
async fn watchdog(store: Store, stop: tokio_util::sync::CancellationToken) -> anyhow::Result<()> {
    let mut tick = tokio::time::interval(WATCHDOG);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return Ok(()),
        }
        if store.health().is_healthy() {
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
        } else {
            tracing::error!(health = ?store.health(), "the store does not accept changes");
        }
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
    Ok(())
}

/// A development instance is set up by its first start; what is generated is shown once and kept nowhere.
async fn first_start(config: &Config) -> anyhow::Result<()> {
    let loopback = [config.listen.https, config.listen.http, config.listen.ssh].into_iter().flatten();
    if !loopback.clone().all(|a| a.ip().is_loopback()) {
        anyhow::bail!(
            "{} is not set up: run `gatehouse setup --data {} --answers FILE` first",
            config.data.display(),
            config.data.display()
        );
    }
    let password = random_password(&PasswordRules { length: 20, symbol: false, ..PasswordRules::default() })?;
    let https = config.listen.https.map(|a| format!("https://{a}"));
    let answers = Answers::development(
        Zeroizing::new(password.as_str().to_owned()),
        https.clone().unwrap_or_else(|| "https://127.0.0.1:8443".into()),
    );
    let done = setup::run(&config.data, answers).await?;
    show_first_start(&config.data, config, &password, &done);
    Ok(())
}

fn show_first_start(data: &Path, config: &Config, password: &str, done: &setup::Done) {
    println!("A development instance was set up in {}. This is shown ONCE:\n", data.display());
    println!("  administrator   admin");
    println!("  password        {password}");
    if let Some(words) = &done.words {
        println!("  recovery words  {}", words.as_str());
    }
    if let Some(qr) = &done.qr {
        println!("{}", qr.as_str());
    }
    if let Some(https) = config.listen.https {
        println!("  API             https://{https}/api/docs/");
        println!("  log in          curl -k https://{https}/api/v1/authentication/auth/ \\");
        println!(
            "                    -H 'Content-Type: application/json' -d '{{\"username\":\"admin\",\"password\":\"...\"}}'"
        );
    }
    if let Some(ssh) = config.listen.ssh {
        println!("  SSH             ssh -p {} admin@{}", ssh.port(), ssh.ip());
    }
    println!("\nThe key that protects this instance is a file beside the data: not for production.");
    println!("Next: docs/quick-start.md\n");
}
