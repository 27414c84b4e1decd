//! The model's `Directory`, kept current from the store's changes, and what sessions ask of it. What must not be here: what
//! the answers mean; that is the model's.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::account::{Account, SecretType};
use gatehouse_model::asset::{Asset, FavoriteAsset, Node, Platform};
use gatehouse_model::builtin::gateway_platform_id;
use gatehouse_model::decide::{Facts, Limits};
use gatehouse_model::directory::{AssetQuery, CountDrift, Directory, GrantedAccount};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::org::{Label, Organization, Role};
use gatehouse_model::record::{OrgRecord, Record, SystemRecord};
use gatehouse_model::rules::{AssetLoginRule, CommandFilter, CommandGroup, ConnectMethodRule, LoginRule};
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::{User, UserGroup};
use gatehouse_store::{AllOrgs, Change, Store, StoreError};
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use crate::lastlogin::only_used;

/// Assets with the name or address that was written, beyond which nobody can choose.
const MAX_FOUND: usize = 500;

/// Everything that decisions and lists need, in memory. Cheap to clone.
#[derive(Clone)]
pub struct ReadModel {
    shared: Arc<Shared>,
    barrier: mpsc::Sender<oneshot::Sender<()>>,
}

struct Shared {
    store: Store,
    state: RwLock<State>,
    changed: broadcast::Sender<()>,
}

#[derive(Default)]
struct State {
    directory: Directory,
    settings: Arc<Settings>,
    /// Gateways by zone: assets of the gateway platform.
    gateways: HashMap<Uuid, BTreeSet<Uuid>>,
    zone_of_gateway: HashMap<Uuid, Uuid>,
}

impl ReadModel {
    pub(crate) async fn start(store: &Store) -> Result<Self, StoreError> {
        // Subscribed first: what changes while loading is applied once more, which does no harm.
        let changes = store.subscribe();
        let (barrier, barriers) = mpsc::channel(16);
        let shared =
            Arc::new(Shared { store: store.clone(), state: RwLock::default(), changed: broadcast::Sender::new(16) });
        shared.reload()?;
        tokio::spawn(follow(Arc::downgrade(&shared), changes, barriers));
        Ok(Self { shared, barrier })
    }

    /// Waits until everything that was committed before this call is seen by decisions and lists.
    pub async fn settled(&self) {
        let (done, wait) = oneshot::channel();
        // The task ends with the daemon only; nobody asks then.
        if self.barrier.send(done).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Told whenever something changed that decisions depend on, after it is visible here.
    pub(crate) fn changes(&self) -> broadcast::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// The directory, for lists and trees. Held for reading: changes wait, so do not keep it across anything slow.
    pub fn directory(&self) -> impl std::ops::Deref<Target = Directory> + '_ {
        RwLockReadGuard::map(self.shared.state.read(), |s| &s.directory)
    }

    /// Counts the assets of the organization's nodes anew, puts right what differs and says what did. Decisions and lists
    /// wait meanwhile (some milliseconds for 100,000 assets).
    pub fn recount(&self, org: Uuid) -> Vec<CountDrift> {
        self.shared.state.write().directory.recount(org)
    }

    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.shared.state.read().settings)
    }

    pub fn user(&self, id: Uuid) -> Option<Arc<User>> {
        self.directory().user(id).cloned()
    }

    pub fn asset(&self, id: Uuid) -> Option<Arc<Asset>> {
        self.directory().asset(id).cloned()
    }

    pub fn platform(&self, id: Uuid) -> Option<Arc<Platform>> {
        self.directory().platform(id).cloned()
    }

    /// What the decision about this user and this asset is made from; `None` when one of them does not exist.
    pub fn facts(&self, user: Uuid, asset: Uuid) -> Option<Facts> {
        self.directory().facts(user, asset)
    }

    /// The accounts that the user may choose on the asset.
    pub fn granted_accounts(&self, user: Uuid, asset: Uuid, now: DateTime<Utc>) -> Vec<GrantedAccount> {
        self.directory().granted_accounts(user, asset, now)
    }

    /// Assets that the user reaches and that have exactly this name or address (without regard to case), or this id.
    pub fn find_reachable(&self, user: Uuid, written: &str, now: DateTime<Utc>) -> Vec<Arc<Asset>> {
        let directory = self.directory();
        if let Ok(id) = Uuid::try_parse(written) {
            let asset = directory.asset(id).filter(|a| directory.reach(user, a.org_id, now).get(id).is_some());
            return asset.cloned().into_iter().collect();
        }
        let query = AssetQuery { text: written.to_owned(), limit: MAX_FOUND, ..AssetQuery::default() };
        let found = directory.my_assets(user, None, &query, now).items.into_iter().map(|l| l.asset);
        let same = |text: &str| text.to_lowercase() == written.to_lowercase();
        found.filter(|a| same(&a.name) || same(&a.address)).collect()
    }

    /// The active gateways of a zone, by name.
    pub(crate) fn gateways(&self, org: Uuid, zone: Uuid) -> Vec<Arc<Asset>> {
        let state = self.shared.state.read();
        let ids = state.gateways.get(&zone).into_iter().flatten();
        let mut found: Vec<Arc<Asset>> = ids
            .filter_map(|id| state.directory.asset(*id))
            .filter(|a| a.is_active && a.org_id == org)
            .cloned()
            .collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        found
    }

    /// The account with which a gateway is used: active, with a stored password or key; privileged ones last, because
    /// a jump needs no rights.
    pub(crate) fn gateway_account(&self, gateway: Uuid) -> Option<Arc<Account>> {
        let directory = self.directory();
        let usable = directory.accounts_of(gateway).iter().filter(|a| {
            a.is_active && a.has_secret && matches!(a.secret_type, SecretType::Password | SecretType::SshKey)
        });
        usable.min_by_key(|a| (a.privileged, a.su_from.is_some(), a.id)).cloned()
    }
}

impl State {
    fn settings_changed(&mut self, settings: Arc<Settings>) {
        self.directory.set_limits(Limits::of(&settings));
        self.settings = settings;
    }

    fn asset(&mut self, asset: Arc<Asset>) {
        self.forget_gateway(asset.id);
        if let Some(zone) = asset.zone.filter(|_| asset.platform == gateway_platform_id()) {
            self.gateways.entry(zone).or_default().insert(asset.id);
            self.zone_of_gateway.insert(asset.id, zone);
        }
        self.directory.upsert_asset(asset);
    }

    fn forget_gateway(&mut self, asset: Uuid) {
        if let Some(zone) = self.zone_of_gateway.remove(&asset)
            && let Some(set) = self.gateways.get_mut(&zone)
        {
            set.remove(&asset);
            if set.is_empty() {
                self.gateways.remove(&zone);
            }
        }
    }
}

impl Shared {
    fn everywhere<T: OrgRecord>(&self, id: Uuid) -> Result<Option<Arc<T>>, StoreError> {
        self.store.all_orgs(AllOrgs::crossing_organizations()).get::<T>(id)
    }

    fn system<T: SystemRecord>(&self, id: Uuid) -> Result<Option<Arc<T>>, StoreError> {
        self.store.system().get::<T>(id)
    }

    fn reload(&self) -> Result<(), StoreError> {
        let system = self.store.system();
        let all = self.store.all_orgs(AllOrgs::crossing_organizations());
        let mut state = State::default();
        state.settings_changed(system.get::<Settings>(SETTINGS_ID)?.unwrap_or_default());
        let directory = &mut state.directory;
        system.list::<Organization>()?.into_iter().for_each(|r| directory.upsert_organization(r));
        system.list::<Role>()?.into_iter().for_each(|r| directory.upsert_role(r));
        system.list::<Platform>()?.into_iter().for_each(|r| directory.upsert_platform(r));
        system.list::<User>()?.into_iter().for_each(|r| directory.upsert_user(r));
        system.list::<LoginRule>()?.into_iter().for_each(|r| directory.upsert_login_rule(r));
        system.list::<ConnectMethodRule>()?.into_iter().for_each(|r| directory.upsert_connect_rule(r));
        all.list::<UserGroup>()?.into_iter().for_each(|r| directory.upsert_group(r));
        all.list::<Label>()?.into_iter().for_each(|r| directory.upsert_label(r));
        all.list::<Node>()?.into_iter().for_each(|r| directory.upsert_node(r));
        all.list::<CommandGroup>()?.into_iter().for_each(|r| directory.upsert_command_group(&r));
        all.list::<CommandFilter>()?.into_iter().for_each(|r| directory.upsert_command_filter(r));
        all.list::<AssetLoginRule>()?.into_iter().for_each(|r| directory.upsert_asset_rule(r));
        for asset in all.list::<Asset>()? {
            state.asset(asset);
        }
        let directory = &mut state.directory;
        all.list::<Account>()?.into_iter().for_each(|r| directory.upsert_account(r));
        all.list::<AssetPermission>()?.into_iter().for_each(|r| directory.upsert_grant(r));
        all.list::<FavoriteAsset>()?.into_iter().for_each(|r| directory.upsert_favorite(r));
        *self.state.write() = state;
        Ok(())
    }

    /// Takes over one change; `false` when nothing here depends on it. The record is read as it is now: a later change of
    /// it is told again.
    fn apply(&self, kind: &str, id: Uuid) -> Result<bool, StoreError> {
        macro_rules! take {
            ($($t:ty: $read:ident => |$state:ident, $record:ident| $put:expr;)+) => {
                match kind {
                    $(<$t as Record>::KIND => {
                        let record = self.$read::<$t>(id)?;
                        let mut state = self.state.write();
                        match record {
                            Some($record) => {
                                let $state = &mut *state;
                                $put;
                            }
                            None => {
                                state.forget_gateway(id);
                                state.directory.remove(kind, id);
                            }
                        }
                    })+
                    _ => return Ok(false),
                }
            };
        }
        let account = (kind == Account::KIND).then(|| self.state.read().directory.account(id).cloned()).flatten();
        take! {
            User: system => |s, r| s.directory.upsert_user(r);
            UserGroup: everywhere => |s, r| s.directory.upsert_group(r);
            Organization: system => |s, r| s.directory.upsert_organization(r);
            Role: system => |s, r| s.directory.upsert_role(r);
            Platform: system => |s, r| s.directory.upsert_platform(r);
            Label: everywhere => |s, r| s.directory.upsert_label(r);
            Node: everywhere => |s, r| s.directory.upsert_node(r);
            Asset: everywhere => |s, r| s.asset(r);
            Account: everywhere => |s, r| s.directory.upsert_account(r);
            AssetPermission: everywhere => |s, r| s.directory.upsert_grant(r);
            LoginRule: system => |s, r| s.directory.upsert_login_rule(r);
            ConnectMethodRule: system => |s, r| s.directory.upsert_connect_rule(r);
            AssetLoginRule: everywhere => |s, r| s.directory.upsert_asset_rule(r);
            CommandFilter: everywhere => |s, r| s.directory.upsert_command_filter(r);
            CommandGroup: everywhere => |s, r| s.directory.upsert_command_group(&r);
            FavoriteAsset: everywhere => |s, r| s.directory.upsert_favorite(r);
            Settings: system => |s, r| s.settings_changed(r);
        }
        // Each session notes that its account was used: no reason to judge all the others again.
        if let Some(before) = account
            && let Some(after) = self.state.read().directory.account(id)
        {
            return Ok(!only_used(&before, after));
        }
        Ok(true)
    }

    /// Takes over a change, or everything when that fails or changes were missed.
    fn take(&self, change: Option<&Change>) {
        let relevant = match change {
            Some(change) => self.apply(change.kind, change.id).unwrap_or_else(|error| {
                tracing::error!(%error, "a change could not be read, everything is read again");
                self.read_again()
            }),
            None => self.read_again(),
        };
        if relevant {
            // Nobody listens at the start and at the end.
            let _ = self.changed.send(());
        }
    }

    fn read_again(&self) -> bool {
        if let Err(error) = self.reload() {
            // The old state stays; the store's health tells the administrator, and sessions cannot open without it.
            tracing::error!(%error, "the read model cannot be loaded");
        }
        true
    }
}

async fn follow(
    shared: std::sync::Weak<Shared>,
    mut changes: broadcast::Receiver<Change>,
    mut barriers: mpsc::Receiver<oneshot::Sender<()>>,
) {
    loop {
        tokio::select! {
            change = changes.recv() => {
                let Some(shared) = shared.upgrade() else { return };
                match change {
                    Ok(change) => shared.take(Some(&change)),
                    Err(RecvError::Lagged(_)) => shared.take(None),
                    Err(RecvError::Closed) => return,
                }
            }
            Some(done) = barriers.recv() => {
                let Some(shared) = shared.upgrade() else { return };
                loop {
                    match changes.try_recv() {
                        Ok(change) => shared.take(Some(&change)),
                        Err(TryRecvError::Lagged(_)) => shared.take(None),
                        Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                    }
                }
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }
}
