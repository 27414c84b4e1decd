//! Connection tests behind `connectivity` (S05, S18, C17, S15): of an asset (its port answers), of an account (its log-in
//! works), of a gateway. What a test finds is written to the record.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use gatehouse_dial::telnet::{TelnetLogin, TelnetPrompts};
use gatehouse_dial::{
    Auth, DialContext, DialError, GatewayMemory, Hop, HostKey, HostKeyVerdict, HostKeys, Keepalive, Probe, Route,
    SshLogin, Timeouts,
};
use gatehouse_model::account::{Account, Secret, SecretType};
use gatehouse_model::asset::{Asset, Connectivity, PinnedHostKey, Platform};
use gatehouse_model::builtin;
use gatehouse_model::ledger::LedgerEntry;
use gatehouse_model::record::Index;
use gatehouse_store::{Store, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::audit::{Action, Operation};
use crate::engine::change::Change;
use crate::engine::list::json_response;
use crate::engine::values::as_id;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// A test that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// Tests of one request; they run one after another.
const MAX_TESTS: usize = 50;

pub(crate) fn routes(routes: &mut Routes) {
    let test = Need::Point("assets.test_asset");
    routes.post(
        "/api/v1/assets/assets/{id}/tasks/",
        test,
        Doc::new("Test whether the asset's port answers"),
        asset_task,
    );
    let body = json!({"type": "object", "properties": {"accounts": {"type": "array", "items": {"type": "string"}}}});
    let doc = Doc::new("Test the log-in of accounts").request(body);
    routes.post("/api/v1/accounts/accounts/tasks/", Need::Point("accounts.verify_account"), doc, account_tasks);
    let doc = Doc::new("Test the log-in of a gateway");
    routes.post("/api/v1/assets/gateways/{id}/test-connective/", Need::Point("assets.test_gateway"), doc, gateway_test);
}

/// Makes the entry of a pinned key.
type Note = Box<dyn Fn(&Asset, &PinnedHostKey, &'static str) -> LedgerEntry + Send + Sync>;

/// Checks and pins host keys for a test, with the caller as the one who saw them first.
struct Pins {
    store: Store,
    by: Note,
    now: chrono::DateTime<chrono::Utc>,
    places: Vec<Arc<Asset>>,
}

impl Pins {
    async fn judge(&self, asset: &Asset, port: u16, key: &HostKey) -> Result<HostKeyVerdict, StoreError> {
        let view = self.store.in_org(asset.org_id);
        let place = Index::compound(&[asset.id.as_bytes(), &port.to_be_bytes()]);
        if let Some(pin) = view.find::<PinnedHostKey>("place", &place)?.first() {
            return Ok(if pin.fingerprint == key.sha256 {
                HostKeyVerdict::Known
            } else {
                HostKeyVerdict::Changed { expected: pin.fingerprint.clone() }
            });
        }
        let pin = PinnedHostKey {
            id: Uuid::now_v7(),
            org_id: asset.org_id,
            asset: asset.id,
            port,
            algorithm: key.algorithm.clone(),
            fingerprint: key.sha256.clone(),
            public_key: key.openssh.clone(),
            date_pinned: self.now,
        };
        let mut batch = self.store.batch();
        batch.audit((self.by)(asset, &pin, "create")).insert(pin);
        self.store.commit(batch).await?;
        Ok(HostKeyVerdict::PinnedNow)
    }
}

#[async_trait]
impl HostKeys for Pins {
    async fn check(&self, host: &str, port: u16, key: &HostKey) -> HostKeyVerdict {
        let Some(asset) = self.places.iter().find(|a| a.address == host) else {
            return HostKeyVerdict::Refused { reason: "it is not on the way to this asset".to_owned() };
        };
        self.judge(asset, port, key).await.unwrap_or_else(|error| {
            tracing::error!(asset = %asset.id, %error, "a host key cannot be checked");
            HostKeyVerdict::Refused { reason: "the store does not answer".to_owned() }
        })
    }
}

fn login(call: &Call, account: &Account, legacy: bool) -> Result<Option<SshLogin>, Problem> {
    let Some(secret) = call.reader().get::<Secret>(account.id)? else { return Ok(None) };
    let text = Zeroizing::new(secret.secret.clone());
    let auth = match account.secret_type {
        SecretType::Password => Auth::Password(text),
        SecretType::SshKey => Auth::Key { pem: text, passphrase: secret.passphrase.clone().map(Zeroizing::new) },
        SecretType::AccessKey | SecretType::Token | SecretType::ApiKey => return Ok(None),
    };
    Ok(Some(SshLogin { username: account.username.clone(), auth: vec![auth], legacy }))
}

fn legacy(call: &Call, asset: &Asset) -> Result<bool, Problem> {
    let platform = call.reader().get::<Platform>(asset.platform)?;
    Ok(platform.is_some_and(|p| p.protocol("ssh").is_some_and(|p| p.setting_bool("old_ssh_version"))))
}

/// The way to an asset, through the gateways of its zone, and the assets on it.
fn way(call: &Call, asset: &Arc<Asset>, port: u16) -> Result<(Route, Vec<Arc<Asset>>), Problem> {
    let mut route = Route::direct(asset.address.clone(), port);
    let mut places = vec![asset.clone()];
    let gateway = builtin::gateway_platform_id();
    let Some(zone) = asset.zone.filter(|_| asset.platform != gateway) else { return Ok((route, places)) };
    let mut gateways = call.reader().list::<Asset>()?;
    gateways.retain(|g| g.zone == Some(zone) && g.platform == gateway && g.is_active && g.org_id == asset.org_id);
    gateways.sort_by(|a, b| a.name.cmp(&b.name));
    for gateway in gateways {
        let Some(port) = gateway.protocol("ssh").map(|p| p.port) else { continue };
        let accounts = call.reader().find::<Account>("asset", gateway.id.as_bytes())?;
        let usable = accounts.iter().filter(|a| a.is_active && a.has_secret).min_by_key(|a| (a.privileged, a.id));
        let Some(account) = usable else { continue };
        let Some(login) = login(call, account, legacy(call, &gateway)?)? else { continue };
        let hop = Hop { name: gateway.name.clone(), address: gateway.address.clone(), port, login };
        route.gateways.push(Arc::new(hop));
        places.push(gateway);
    }
    if route.gateways.is_empty() {
        // Never around the gateway: that is what the zone is there for.
        return Err(Problem::bad_request(
            "gateway_invalid",
            "no gateway of the zone has an account with a stored secret",
        ));
    }
    Ok((route, places))
}

fn context(call: &Call, places: Vec<Arc<Asset>>) -> DialContext {
    let (user, display, ip, now): (Uuid, String, IpAddr, _) =
        (call.user.id, call.user.display(), call.ip, call.app.now());
    let by = move |asset: &Asset, pin: &PinnedHostKey, action: &'static str| {
        let body = json!({
            "user": display, "user_id": user, "action": action, "resource_type": "Host key",
            "resource": format!("{}({}):{}", asset.name, asset.address, pin.port), "resource_id": pin.id,
            "remote_addr": ip.to_string(), "diff": [{"field": "fingerprint", "before": null, "after": pin.fingerprint}],
        });
        LedgerEntry::new(Uuid::now_v7(), now, asset.org_id, gatehouse_model::ledger::LedgerKind::Operate, body)
            .actor(user)
            .refs([pin.id, asset.id])
    };
    let pins = Pins { store: call.app.store().clone(), by: Box::new(by), now, places };
    DialContext {
        host_keys: Arc::new(pins),
        timeouts: Timeouts::default(),
        keepalive: Keepalive::default(),
        gateways: GatewayMemory::default(),
    }
}

/// (connectivity, what a person reads)
type Outcome = (Connectivity, String);

fn outcome(result: Result<Result<(), DialError>, tokio::time::error::Elapsed>) -> Outcome {
    match result {
        Ok(Ok(())) => (Connectivity::Ok, "ok".into()),
        Ok(Err(error)) => (error.connectivity().parse().unwrap_or(Connectivity::Err), error.to_string()),
        Err(_) => (Connectivity::Err, format!("no answer within {} s", PATIENCE.as_secs())),
    }
}

enum Credentials {
    None,
    Ssh(SshLogin),
    Telnet(TelnetLogin),
}

/// On a thread of its own: a telnet dialogue cannot move between threads while it waits.
async fn run(route: Route, credentials: Credentials, context: DialContext) -> Result<Outcome, Problem> {
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        runtime.block_on(async {
            let probe = match &credentials {
                Credentials::None => Probe::Tcp,
                Credentials::Ssh(login) => Probe::Ssh(login),
                Credentials::Telnet(login) => Probe::Telnet(login),
            };
            outcome(tokio::time::timeout(PATIENCE, Box::pin(gatehouse_dial::test(&route, probe, &context))).await)
        })
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::internal(&e))
}

async fn reach(call: &Call, asset: &Arc<Asset>) -> Result<Outcome, Problem> {
    let Some(port) = asset.protocols.first().map(|p| p.port) else {
        return Ok((Connectivity::Na, "the asset has no protocol".into()));
    };
    let (route, places) = match way(call, asset, port) {
        Ok(way) => way,
        Err(problem) => return Ok((Connectivity::Err, problem.sentence())),
    };
    let context = context(call, places);
    run(route, Credentials::None, context).await
}

async fn verify(call: &Call, account: &Account) -> Result<Outcome, Problem> {
    let na = |why: &str| Ok((Connectivity::Na, why.to_owned()));
    let Some(asset) = call.reader().get::<Asset>(account.asset)? else { return na("the asset is gone") };
    let Some(login) = login(call, account, legacy(call, &asset)?)? else { return na("no usable secret is stored") };
    if account.su_from.is_some() {
        return na("accounts that are switched to are tested by connecting");
    }
    let (protocol, port) = match (asset.protocol("ssh"), asset.protocol("telnet")) {
        (Some(ssh), _) => ("ssh", ssh.port),
        (None, Some(telnet)) => ("telnet", telnet.port),
        (None, None) => return na("only ssh and telnet can be tested"),
    };
    let (route, places) = match way(call, &asset, port) {
        Ok(way) => way,
        Err(problem) => return Ok((Connectivity::Err, problem.sentence())),
    };
    let context = context(call, places);
    if protocol == "ssh" {
        return run(route, Credentials::Ssh(login), context).await;
    }
    let Some(Auth::Password(password)) = login.auth.into_iter().next() else {
        return na("telnet needs a password");
    };
    let platform = call.reader().get::<Platform>(asset.platform)?;
    let prompts = telnet_prompts(platform.as_deref())?;
    let login =
        TelnetLogin { username: account.username.clone(), password, prompts, term: "xterm".into(), cols: 80, rows: 24 };
    run(route, Credentials::Telnet(login), context).await
}

fn telnet_prompts(platform: Option<&Platform>) -> Result<TelnetPrompts, Problem> {
    let protocol = platform.and_then(|p| p.protocol("telnet"));
    let setting = |key: &str| protocol.and_then(|p| p.setting_str(key)).unwrap_or("");
    TelnetPrompts::new(setting("username_prompt"), setting("password_prompt"), setting("success_prompt"))
        .map_err(|e| Problem::bad_request("telnet_prompts", e.to_string()))
}

async fn note_asset(call: &Call, asset: &Asset, (found, text): &Outcome) -> Result<(), Problem> {
    let mut change = Change::new(call);
    let (now, found) = (change.now, *found);
    change.edit::<Asset>(asset.id, |a| {
        a.connectivity = found;
        a.date_verified = Some(now);
    })?;
    let name = format!("{}({})", asset.name, asset.address);
    change.audit(Operation::new(Action::Test, "Asset", name, asset.id).org(asset.org_id).changed(
        "connectivity",
        &json!(asset.connectivity.as_str()),
        &json!(text),
    ));
    change.commit().await
}

fn answer(task: &[(Uuid, Outcome)]) -> Answer {
    let rows: Vec<Value> = task
        .iter()
        .map(|(id, (found, text))| {
            json!({"id": id, "connectivity": {"value": found.as_str(), "label": found.label()}, "detail": text})
        })
        .collect();
    Ok(json_response(StatusCode::CREATED, &json!({"task": Uuid::now_v7(), "results": rows})))
}

async fn asset_task(call: Call) -> Answer {
    let body = call.json().await?;
    let action = body.get("action").and_then(Value::as_str).unwrap_or("test");
    if action != "test" {
        return Err(Problem::field("action", "test is the only task of this version"));
    }
    let asset = call.reader().get::<Asset>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let found = reach(&call, &asset).await?;
    note_asset(&call, &asset, &found).await?;
    answer(&[(asset.id, found)])
}

async fn account_tasks(call: Call) -> Answer {
    let body = call.json().await?;
    let action = body.get("action").and_then(Value::as_str).unwrap_or("verify");
    if action != "verify" {
        return Err(Problem::field("action", "verify is the only task of this version"));
    }
    let ids: Vec<Uuid> = body
        .get("accounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| as_id(v.get("id").unwrap_or(v)))
        .collect();
    if ids.is_empty() || ids.len() > MAX_TESTS {
        return Err(Problem::field("accounts", format!("between 1 and {MAX_TESTS} ids")));
    }
    let mut done = Vec::new();
    for id in ids {
        let account = call.reader().get::<Account>(id)?.ok_or_else(Problem::not_found)?;
        let outcome = verify(&call, &account).await?;
        note_account(&call, &account, &outcome).await?;
        done.push((id, outcome));
    }
    answer(&done)
}

async fn note_account(call: &Call, account: &Account, (found, text): &Outcome) -> Result<(), Problem> {
    let mut change = Change::new(call);
    let (now, found) = (change.now, *found);
    change.edit::<Account>(account.id, |a| {
        a.connectivity = found;
        a.date_verified = Some(now);
    })?;
    let name = format!("{}({})", account.name, account.username);
    change.audit(
        Operation::new(Action::Test, "Account", name, account.id).org(account.org_id).refs([account.asset]).changed(
            "connectivity",
            &json!(account.connectivity.as_str()),
            &json!(text),
        ),
    );
    change.commit().await
}

async fn gateway_test(call: Call) -> Answer {
    let gateway = call.reader().get::<Asset>(call.id()?)?.filter(|a| a.platform == builtin::gateway_platform_id());
    let gateway = gateway.ok_or_else(Problem::not_found)?;
    let accounts = call.reader().find::<Account>("asset", gateway.id.as_bytes())?;
    let usable = accounts.iter().filter(|a| a.is_active && a.has_secret).min_by_key(|a| (a.privileged, a.id));
    let found = match usable {
        Some(account) => verify(&call, account).await?,
        None => (Connectivity::Na, "the gateway has no account with a stored secret".to_owned()),
    };
    note_asset(&call, &gateway, &found).await?;
    answer(&[(gateway.id, found)])
}
