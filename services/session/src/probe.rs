//! Connection tests behind `connectivity`: does an asset's port answer, does an account's log-in work. A test goes the way
//! that a session would go (the zone's gateways, pinned host keys), so that it says what a session would meet. What must
//! not be here: who may ask for a test, and what is noted of its outcome; that is the asker's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use gatehouse_dial::telnet::{TelnetLogin, TelnetPrompts};
use gatehouse_dial::{DialContext, DialError, Keepalive, Probe, Route, SshLogin, Timeouts};
use gatehouse_model::account::Account;
use gatehouse_model::asset::{Asset, Connectivity, Platform};
use tokio::time::error::Elapsed;
use uuid::Uuid;

use crate::admit::Refusal;
use crate::core::Core;
use crate::hostkeys::{Pinned, Place};
use crate::unlock::{login, way};

/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// Who asks for a test: host keys that it pins are pinned in their name.
#[derive(Debug, Clone, Copy)]
pub struct Prober {
    pub user: Uuid,
    pub source: IpAddr,
}

/// What a test found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    pub connectivity: Connectivity,
    /// What a person reads.
    pub detail: String,
}

impl Probed {
    fn na(why: &str) -> Self {
        Self { connectivity: Connectivity::Na, detail: why.to_owned() }
    }
}

/// Why there is nothing to find out, or no way to do so.
impl From<Refusal> for Probed {
    fn from(refusal: Refusal) -> Self {
        let connectivity = match refusal.code {
            "account_no_secret" | "account_secret_type" => Connectivity::Na,
            _ => Connectivity::Err,
        };
        Self { connectivity, detail: refusal.message }
    }
}

enum Credentials {
    None,
    Ssh(SshLogin),
    Telnet(TelnetLogin),
}

impl Core {
    /// Whether the first port of the asset answers. Ends within 30 s.
    pub async fn probe_asset(&self, asset: &Asset, by: Prober) -> Probed {
        let Some(first) = asset.protocols.first() else { return Probed::na("the asset has no protocol") };
        self.probe(asset, &first.name, Credentials::None, by).await
    }

    /// Whether the account's stored secret logs in, over ssh or telnet. Ends within 30 s.
    pub async fn probe_account(&self, account: &Account, by: Prober) -> Probed {
        let Some(asset) = self.read().asset(account.asset) else { return Probed::na("the asset is gone") };
        if account.su_from.is_some() {
            return Probed::na("accounts that are switched to are tested by connecting");
        }
        let platform = self.read().platform(asset.platform);
        let Some(protocol) = ["ssh", "telnet"].into_iter().find(|p| asset.protocol(p).is_some()) else {
            return Probed::na("only ssh and telnet can be tested");
        };
        let found = match credentials(self, account, platform.as_deref(), protocol) {
            Ok(found) => found,
            Err(refusal) => return refusal.into(),
        };
        self.probe(&asset, protocol, found, by).await
    }

    /// The account with which a gateway is used logs in. Ends within 30 s.
    pub async fn probe_gateway(&self, gateway: &Asset, by: Prober) -> Probed {
        match self.read().gateway_account(gateway.id) {
            Some(account) => self.probe_account(&account, by).await,
            None => Probed::na("the gateway has no account with a stored secret"),
        }
    }

    async fn probe(&self, asset: &Asset, protocol: &str, credentials: Credentials, by: Prober) -> Probed {
        let platform = self.read().platform(asset.platform);
        let (route, places) = match way(self, asset, platform.as_deref(), protocol) {
            Ok(way) => way,
            Err(refusal) => return refusal.into(),
        };
        let context = self.probe_context(by, places);
        // On a thread of its own: a telnet dialogue cannot move between threads while it waits.
        let runtime = tokio::runtime::Handle::current();
        let work = move || runtime.block_on(run(&route, &credentials, &context));
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "a connection test broke off");
            Probed { connectivity: Connectivity::Err, detail: "the test broke off; the log says why".to_owned() }
        })
    }

    fn probe_context(&self, by: Prober, places: Vec<Place>) -> DialContext {
        DialContext {
            host_keys: Arc::new(Pinned::new(self.clone(), by.user, by.source.to_canonical(), places)),
            timeouts: Timeouts::default(),
            keepalive: Keepalive::default(),
            gateways: self.gateways().clone(),
        }
    }
}

fn credentials(
    core: &Core,
    account: &Account,
    platform: Option<&Platform>,
    protocol: &str,
) -> Result<Credentials, Refusal> {
    let unlocked = login(core, account)?;
    let settings = platform.and_then(|p| p.protocol(protocol));
    if protocol == "ssh" {
        let legacy = settings.is_some_and(|p| p.setting_bool("old_ssh_version"));
        return Ok(Credentials::Ssh(SshLogin { username: unlocked.username, auth: unlocked.auth, legacy }));
    }
    let password = unlocked.password.ok_or_else(|| Refusal::new("account_secret_type", "telnet needs a password"))?;
    let setting = |key: &str| settings.and_then(|p| p.setting_str(key)).unwrap_or("");
    let prompts = TelnetPrompts::new(setting("username_prompt"), setting("password_prompt"), setting("success_prompt"))
        .map_err(|e| Refusal::new("telnet_prompts", e.to_string()))?;
    let (term, cols, rows) = ("xterm".to_owned(), 80, 24);
    Ok(Credentials::Telnet(TelnetLogin { username: unlocked.username, password, prompts, term, cols, rows }))
}

async fn run(route: &Route, credentials: &Credentials, context: &DialContext) -> Probed {
    let probe = match credentials {
        Credentials::None => Probe::Tcp,
        Credentials::Ssh(login) => Probe::Ssh(login),
        Credentials::Telnet(login) => Probe::Telnet(login),
    };
    outcome(tokio::time::timeout(PATIENCE, Box::pin(gatehouse_dial::test(route, probe, context))).await)
}

fn outcome(result: Result<Result<(), DialError>, Elapsed>) -> Probed {
    let (connectivity, detail) = match result {
        Ok(Ok(())) => (Connectivity::Ok, "ok".to_owned()),
        Ok(Err(error)) => (error.connectivity().parse().unwrap_or(Connectivity::Err), error.to_string()),
        Err(_) => (Connectivity::Err, format!("no answer within {} s", PATIENCE.as_secs())),
    };
    Probed { connectivity, detail }
}
