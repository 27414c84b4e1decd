//! A gateway in this process, a real sshd as the asset, and OpenSSH's client as the user.

use std::net::TcpListener as StdListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use gatehouse_identity::{HashCost, Identity, Options as IdentityOptions};
use gatehouse_model::account::{Account, Secret, SecretType};
use gatehouse_model::asset::{Asset, AssetProtocol, Connectivity};
use gatehouse_model::builtin;
use gatehouse_model::common::{Meta, far_future, org_ids};
use gatehouse_model::grant::{Actions, AssetPermission};
use gatehouse_model::notice::NullNotifier;
use gatehouse_model::rules::{CommandFilter, CommandGroup, CommandGroupType, ManyFilter, RuleAction};
use gatehouse_model::session::Session;
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::{MfaLevel, OrgRole, SshKey, User, UserSource};
use gatehouse_record::{FileKeeper, KeeperOptions, MasterKey, PoolOptions, RecorderPool};
use gatehouse_session::{Core, CoreParts};
use gatehouse_ssh::{SshConfig, SshGateway};
use gatehouse_store::{AllOrgs, Batch, Store};
use serde_json::Map;
use tokio::process::{Child, Command};
use uuid::Uuid;

pub(crate) const ORG: Uuid = org_ids::DEFAULT;
pub(crate) const RECORDING_KEY: [u8; 32] = [7; 32];

pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) core: Core,
    pub(crate) identity: Identity,
    pub(crate) user: Uuid,
    pub(crate) asset: Uuid,
    pub(crate) grant: Uuid,
    pub(crate) port: u16,
    _sshd: Child,
}

fn meta() -> Meta {
    Meta::new("test", Utc::now())
}

fn free_port() -> u16 {
    StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn keygen(path: &Path) {
    let done = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status().await;
    assert!(done.expect("ssh-keygen is needed: apt install openssh-client").success());
}

/// An sshd that takes one key for the user that runs the tests.
async fn sshd(dir: &Path, port: u16) -> Child {
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    if !dir.join("asset_host").exists() {
        keygen(&dir.join("asset_host")).await;
    }
    std::fs::write(dir.join("authorized"), read("asset_key.pub")).unwrap();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nHostKey {d}/asset_host\nAuthorizedKeysFile {d}/authorized\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nPidFile none\n\
         Subsystem sftp internal-sftp\nMaxStartups 100\nAcceptEnv *\nPrintMotd no\nPrintLastLog no\n",
        d = dir.display()
    );
    std::fs::write(dir.join("sshd_config"), config).unwrap();
    std::fs::create_dir_all("/run/sshd").ok();
    let child = Command::new("/usr/sbin/sshd")
        .args(["-D", "-e", "-f"])
        .arg(dir.join("sshd_config"))
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("sshd is needed: apt install openssh-server");
    for _ in 0..100 {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return child;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("sshd did not start");
}

fn seed(store: &Store, dir: &Path, asset_port: u16) -> (Batch, Uuid, Uuid, Uuid) {
    let mut batch = store.batch();
    let org = builtin::default_organization();
    batch.put(builtin::root_node(&org)).put(org);
    for platform in builtin::platforms() {
        batch.put(platform);
    }
    for role in builtin::roles() {
        batch.put(role);
    }
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
    let line = std::fs::read_to_string(dir.join("user_key.pub")).unwrap();
    let parsed = gatehouse_identity::parse_public_key(&line).unwrap();
    batch.put(SshKey {
        id: Uuid::now_v7(),
        user: user.id,
        name: "laptop".into(),
        public_key: parsed.line,
        fingerprint: parsed.fingerprint,
        is_active: true,
        date_last_used: None,
        meta: meta(),
    });
    let protocol = |name: &str| AssetProtocol { name: name.into(), port: asset_port };
    let asset = Asset {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "web1".into(),
        address: "127.0.0.1".into(),
        platform: builtin::platform_id("Linux"),
        zone: None,
        nodes: vec![builtin::root_node_id(ORG)],
        protocols: vec![protocol("ssh"), protocol("sftp")],
        is_active: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        gathered_info: Map::new(),
        custom_info: Map::new(),
        spec_info: Map::new(),
        meta: meta(),
    };
    let account = Account {
        id: Uuid::now_v7(),
        org_id: ORG,
        asset: asset.id,
        name: "admin".into(),
        username: whoami(),
        secret_type: SecretType::SshKey,
        has_secret: true,
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
    let pem = std::fs::read_to_string(dir.join("asset_key")).unwrap();
    batch.put(Secret { id: account.id, org_id: ORG, secret: pem, passphrase: None }).put(account);
    let group = CommandGroup {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "dangerous".into(),
        r#type: CommandGroupType::Command,
        content: "touch forbidden".into(),
        ignore_case: true,
        meta: meta(),
    };
    batch.put(CommandFilter {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "no touching".into(),
        priority: 50,
        users: ManyFilter::All,
        assets: ManyFilter::All,
        accounts: vec!["@ALL".into()],
        command_groups: vec![group.id],
        action: RuleAction::Reject,
        reviewers: Vec::new(),
        is_active: true,
        meta: meta(),
    });
    batch.put(group);
    let grant = AssetPermission {
        id: Uuid::now_v7(),
        org_id: ORG,
        name: "kim everywhere".into(),
        users: vec![user.id],
        user_groups: Vec::new(),
        assets: Vec::new(),
        nodes: vec![builtin::root_node_id(ORG)],
        accounts: vec!["@ALL".into()],
        protocols: vec!["all".into()],
        actions: Actions::ALL,
        date_start: Utc::now() - chrono::TimeDelta::days(1),
        date_expired: far_future(Utc::now()),
        is_active: true,
        from_ticket: false,
        meta: meta(),
    };
    let ids = (user.id, asset.id, grant.id);
    batch.put(user).put(asset).put(grant);
    batch.put(Settings { enable_local_port_forward: true, ..Settings::default() });
    (batch, ids.0, ids.1, ids.2)
}

pub(crate) fn whoami() -> String {
    let out = std::process::Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

impl World {
    pub(crate) async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("user_key")).await;
        keygen(&dir.path().join("asset_key")).await;
        let asset_port = free_port();
        let sshd = sshd(dir.path(), asset_port).await;
        let store = Store::in_memory();
        let (batch, user, asset, grant) = seed(&store, dir.path(), asset_port);
        store.commit(batch).await.unwrap();
        let key = MasterKey::new(RECORDING_KEY);
        let core = Core::start(CoreParts {
            store: store.clone(),
            recorders: RecorderPool::new(dir.path().join("rec"), key.clone(), PoolOptions::default()).unwrap(),
            recording_key: key.clone(),
            files: FileKeeper::new(dir.path().join("files"), key, KeeperOptions::default()).unwrap(),
            notifier: Arc::new(NullNotifier),
            clock: Arc::new(Utc::now),
        })
        .await
        .unwrap();
        let options = IdentityOptions { hash_cost: HashCost::CHEAP_FOR_TESTS };
        let identity =
            Identity::with_options(store.clone(), Arc::new(NullNotifier), Arc::new(Utc::now), options).unwrap();
        let gateway = SshGateway::new(core.clone(), identity.clone(), SshConfig::default()).await.unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move { gateway.run(listener, std::future::pending()).await });
        Self { dir, store, core, identity, user, asset, grant, port, _sshd: sshd }
    }

    pub(crate) fn direct(&self) -> String {
        format!("kim@{}@web1", whoami())
    }

    /// OpenSSH's client with the user's key.
    pub(crate) fn ssh(&self, user: &str, options: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command
            .args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"])
            .args(["-o", "LogLevel=ERROR", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"])
            .arg("-i")
            .arg(self.dir.path().join("user_key"))
            .args(["-p", &self.port.to_string(), "-l", user])
            .args(options)
            .arg("127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        self.store.all_orgs(AllOrgs::crossing_organizations()).page::<Session>(None, 100, false).unwrap()
    }

    /// The session rows once there are `n` and all are closed.
    pub(crate) async fn closed_sessions(&self, n: usize) -> Vec<Arc<Session>> {
        for _ in 0..200 {
            let rows = self.sessions();
            if rows.len() >= n && rows.iter().all(|s| s.is_finished) {
                return rows;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not {n} closed sessions: {:?}", self.sessions());
    }

    pub(crate) fn settings(&self) -> Settings {
        self.store.system().get::<Settings>(SETTINGS_ID).unwrap().map(|s| (*s).clone()).unwrap_or_default()
    }
}
