//! One user, one asset, one account and a grant of everything, on a store in memory.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use chrono::Utc;
use gatehouse_model::account::{Account, SecretType};
use gatehouse_model::asset::{Asset, AssetProtocol, Connectivity};
use gatehouse_model::builtin;
use gatehouse_model::common::{Meta, far_future, org_ids};
use gatehouse_model::grant::{Actions, AssetPermission};
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::notice::NullNotifier;
use gatehouse_model::session::{LoginFrom, Session, SessionType};
use gatehouse_model::user::{MfaLevel, OrgRole, User, UserSource};
use gatehouse_record::{FileKeeper, KeeperOptions, MasterKey, PoolOptions, RecorderPool};
use gatehouse_session::{AccountChoice, Admission, AdmitRequest, Core, CoreParts, Refusal};
use gatehouse_store::{OrgFilter, Query, Store, StoredEntry};
use uuid::Uuid;

pub const ORG: Uuid = org_ids::DEFAULT;

pub struct World {
    pub store: Store,
    pub core: Core,
    pub user: Arc<User>,
    pub asset: Uuid,
    pub account: Uuid,
    pub grant: Uuid,
}

pub fn meta() -> Meta {
    Meta::new("test", Utc::now())
}

fn records() -> (User, Asset, Account, AssetPermission) {
    let user = User {
        id: Uuid::now_v7(),
        username: "kim".into(),
        name: "Kim".into(),
        email: "kim@example.com".into(),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(Utc::now()),
        date_password_last_updated: None,
        need_update_password: false,
        is_first_login: false,
        last_login: None,
        lang: None,
        system_roles: Vec::new(),
        org_roles: vec![OrgRole { org: ORG, role: builtin::ORG_USER }],
        meta: meta(),
    };
    let asset = Asset {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "web1".into(),
        address: "192.0.2.1".into(),
        platform: builtin::platform_id("Linux"),
        zone: None,
        nodes: vec![builtin::root_node_id(ORG)],
        protocols: vec![AssetProtocol { name: "ssh".into(), port: 22 }],
        is_active: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        gathered_info: serde_json::Map::new(),
        custom_info: serde_json::Map::new(),
        spec_info: serde_json::Map::new(),
        meta: meta(),
    };
    let account = Account {
        id: Uuid::now_v7(),
        org_id: ORG,
        asset: asset.id,
        name: "root".into(),
        username: "root".into(),
        secret_type: SecretType::Password,
        has_secret: false,
        privileged: false,
        is_active: true,
        su_from: None,
        source: None,
        source_id: None,
        version: 1,
        secret_reset: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        date_last_login: None,
        login_by: None,
        meta: meta(),
    };
    let grant = AssetPermission {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "all".into(),
        users: vec![user.id],
        user_groups: Vec::new(),
        assets: vec![asset.id],
        nodes: Vec::new(),
        accounts: vec!["@ALL".into()],
        protocols: vec!["all".into()],
        actions: Actions::ALL,
        date_start: Utc::now() - chrono::TimeDelta::days(1),
        date_expired: far_future(Utc::now()),
        is_active: true,
        from_ticket: false,
        meta: meta(),
    };
    (user, asset, account, grant)
}

pub async fn core(store: &Store, dir: &Path, options: PoolOptions) -> Core {
    let key = MasterKey::new([7; 32]);
    let parts = CoreParts {
        store: store.clone(),
        recorders: RecorderPool::new(dir.join("rec"), key.clone(), options).unwrap(),
        recording_key: key.clone(),
        files: FileKeeper::new(dir.join("files"), key, KeeperOptions::default()).unwrap(),
        notifier: Arc::new(NullNotifier),
        clock: Arc::new(Utc::now),
    };
    Core::start(parts).await.unwrap()
}

impl World {
    pub async fn new(dir: &Path, options: PoolOptions) -> Self {
        let store = Store::in_memory();
        let (user, asset, account, grant) = records();
        let org = builtin::default_organization();
        let mut batch = store.batch();
        batch.put(builtin::root_node(&org)).put(org);
        for platform in builtin::platforms() {
            batch.put(platform);
        }
        let (user_copy, ids) = (Arc::new(user.clone()), (asset.id, account.id, grant.id));
        batch.put(user).put(asset).put(account).put(grant);
        store.commit(batch).await.unwrap();
        let core = core(&store, dir, options).await;
        Self { store, core, user: user_copy, asset: ids.0, account: ids.1, grant: ids.2 }
    }

    pub async fn admit(&self, protocol: &str) -> Result<Admission, Refusal> {
        let wish = AdmitRequest {
            user: Arc::clone(&self.user),
            asset: self.asset,
            account: AccountChoice::Stored(self.account),
            protocol: protocol.into(),
            connect_method: "ssh_client".into(),
            login_from: LoginFrom::Ssh,
            remote_ip: IpAddr::from([192, 0, 2, 9]),
            r#type: SessionType::Normal,
        };
        self.core.admit(wish).await
    }

    pub fn entries(&self, kind: LedgerKind) -> Vec<StoredEntry> {
        let query = Query { kinds: vec![kind], limit: 10_000, ..Query::new(OrgFilter::One(ORG)) };
        self.store.ledger().query(&query).unwrap()
    }

    pub fn account(&self) -> Account {
        (*self.store.in_org(ORG).get::<Account>(self.account).unwrap().unwrap()).clone()
    }

    pub fn row(&self, id: Uuid) -> Session {
        (*self.store.in_org(ORG).get::<Session>(id).unwrap().unwrap()).clone()
    }
}
