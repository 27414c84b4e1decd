//! A whole API on a store in memory, and a small client for it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use chrono::{DateTime, Utc};
use gatehouse_api::{Api, ApiContext, PeerAddr, RouteInfo, TlsStore};
use gatehouse_identity::{By, HashCost, Identity, Options};
use gatehouse_model::builtin;
use gatehouse_model::common::{Meta, far_future, org_ids};
use gatehouse_model::org::Organization;
use gatehouse_model::user::{MfaLevel, OrgRole, User, UserSource};
use gatehouse_notify::Notify;
use gatehouse_record::{FileKeeper, KeeperOptions, MasterKey, PoolOptions, RecorderPool};
use gatehouse_session::{Core, CoreParts};
use gatehouse_store::Store;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use uuid::Uuid;

pub const PASSWORD: &str = "Brave-Otter-77-Climbs-High";
pub const OTHER: Uuid = Uuid::from_u128(0x77);

pub struct World {
    pub routes: Vec<RouteInfo>,
    pub store: Store,
    pub identity: Identity,
    pub tls: TlsStore,
    pub admin: Client,
    /// While set, whoever asks the API's clock panics.
    pub clock_panics: Arc<AtomicBool>,
    _dir: tempfile::TempDir,
}

#[derive(Clone)]
pub struct Client {
    pub router: Router,
    pub token: String,
    pub org: Option<Uuid>,
    pub ip: IpAddr,
    pub headers: HeaderMap,
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }
}

impl Client {
    pub fn in_org(&self, org: Uuid) -> Self {
        Self { org: Some(org), ..self.clone() }
    }

    pub fn from(&self, ip: &str) -> Self {
        Self { ip: ip.parse().unwrap(), ..self.clone() }
    }

    pub fn with(&self, name: &'static str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.append(name, value.parse().unwrap());
        client
    }

    pub async fn raw(&self, method: Method, path: &str, kind: &str, body: Vec<u8>) -> Answer {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let mut request = Request::builder().method(method).uri(path).header("host", "box.example");
        if !self.token.is_empty() {
            request = request.header("authorization", &self.token);
        }
        if let Some(org) = self.org {
            request = request.header("x-jms-org", org.to_string());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let mut request = request.body(Body::from(body)).unwrap();
        request.extensions_mut().insert(PeerAddr(self.ip));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap().to_vec();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    pub async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let (kind, body) = match body {
            Some(body) => ("application/json", body.to_string().into_bytes()),
            None => ("", Vec::new()),
        };
        self.raw(method, path, kind, body).await
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> impl Future<Output = Value> {
        let (client, path) = (self.clone(), path.to_owned());
        async move {
            let answer = client.ask(Method::GET, &path, None).await;
            assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
            answer.json()
        }
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let answer = self.ask(Method::POST, path, Some(body)).await;
        assert!(answer.status.is_success(), "POST {path}: {} {}", answer.status, answer.text());
        if answer.bytes.is_empty() { Value::Null } else { answer.json() }
    }

    pub async fn patch(&self, path: &str, body: Value) -> Value {
        let answer = self.ask(Method::PATCH, path, Some(body)).await;
        assert!(answer.status.is_success(), "PATCH {path}: {} {}", answer.status, answer.text());
        answer.json()
    }

    pub async fn delete(&self, path: &str) {
        let answer = self.ask(Method::DELETE, path, None).await;
        assert_eq!(answer.status, 204, "DELETE {path}: {}", answer.text());
    }
}

pub fn id(value: &Value) -> String {
    value["id"].as_str().unwrap_or_else(|| panic!("no id in {value}")).to_owned()
}

impl World {
    pub async fn start() -> Self {
        let clock: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync> = Arc::new(Utc::now);
        let store = Store::in_memory();
        let dir = tempfile::tempdir().unwrap();
        seed(&store).await;
        let (notify, worker) = Notify::new(store.clone(), clock.clone());
        // Nothing is delivered in these tests; the queue is bounded by itself.
        std::mem::forget(worker);
        let cheap = Options { hash_cost: HashCost::CHEAP_FOR_TESTS };
        let identity = Identity::with_options(store.clone(), Arc::new(notify.clone()), clock.clone(), cheap).unwrap();
        let key = MasterKey::new(*store.derive_key("recordings").unwrap());
        let core = Core::start(CoreParts {
            store: store.clone(),
            recording_key: key.clone(),
            recorders: RecorderPool::new(dir.path().join("recordings"), key.clone(), PoolOptions::default()).unwrap(),
            files: FileKeeper::new(dir.path().join("files"), key, KeeperOptions::default()).unwrap(),
            notifier: Arc::new(notify.clone()),
            clock: clock.clone(),
        })
        .await
        .unwrap();
        let tls = TlsStore::open(&store, &["box.example".to_owned()], Utc::now()).await.unwrap();
        let clock_panics = Arc::new(AtomicBool::new(false));
        let context = ApiContext {
            store: store.clone(),
            identity: identity.clone(),
            core,
            notify,
            tls: tls.clone(),
            ledger: None,
            clock: {
                let panics = clock_panics.clone();
                Arc::new(move || {
                    assert!(!panics.load(Ordering::Relaxed), "the test breaks the clock");
                    Utc::now()
                })
            },
        };
        let (router, routes) = Api::with_routes(context);
        let anonymous = Client {
            router,
            token: String::new(),
            org: None,
            ip: IpAddr::from([192, 0, 2, 10]),
            headers: HeaderMap::new(),
        };
        let mut world = Self { routes, store, identity, tls, admin: anonymous, clock_panics, _dir: dir };
        world.add_user("admin", &[builtin::SYSTEM_ADMIN], &[(org_ids::DEFAULT, builtin::ORG_USER)]).await;
        world.admin = world.login("admin").await;
        world
    }

    pub fn anonymous(&self) -> Client {
        Client { token: String::new(), org: None, headers: HeaderMap::new(), ..self.admin.clone() }
    }

    /// Straight into the store: tests of routes need users whom no route would make.
    pub async fn add_user(&self, username: &str, system: &[Uuid], org: &[(Uuid, Uuid)]) -> Uuid {
        let now = Utc::now();
        let user = User {
            id: Uuid::now_v7(),
            username: username.into(),
            name: format!("{username} the tester"),
            email: format!("{username}@example.com"),
            phone: String::new(),
            wechat: String::new(),
            source: UserSource::Local,
            mfa_level: MfaLevel::Off,
            otp_enrolled: false,
            is_active: true,
            is_service_account: false,
            date_expired: far_future(now),
            date_password_last_updated: None,
            need_update_password: false,
            is_first_login: false,
            last_login: None,
            lang: None,
            system_roles: system.to_vec(),
            org_roles: org.iter().map(|(org, role)| OrgRole { org: *org, role: *role }).collect(),
            meta: Meta::new("test", now),
        };
        let id = user.id;
        let mut batch = self.store.batch();
        batch.insert(user);
        self.store.commit(batch).await.unwrap();
        self.identity.reset_password(id, PASSWORD, false, &By::system()).await.unwrap();
        id
    }

    pub async fn login(&self, username: &str) -> Client {
        let body = json!({"username": username, "password": PASSWORD});
        let answer = self.anonymous().post("authentication/auth/", body).await;
        let token = answer["token"].as_str().unwrap_or_else(|| panic!("no token: {answer}"));
        Client { token: format!("Bearer {token}"), ..self.anonymous() }
    }

    pub async fn add_host(&self, client: &Client, name: &str) -> String {
        let host = json!({"name": name, "address": "192.0.2.50", "platform": "Linux"});
        id(&client.post("assets/hosts/", host).await)
    }

    /// A second organization with its own root node.
    pub async fn add_other_org(&self) {
        let mut batch = self.store.batch();
        let org = Organization { id: OTHER, name: "Other".into(), builtin: false, meta: Meta::new("test", Utc::now()) };
        batch.insert(builtin::root_node(&org));
        batch.insert(org);
        self.store.commit(batch).await.unwrap();
    }
}

async fn seed(store: &Store) {
    let mut batch = store.batch();
    let org = builtin::default_organization();
    batch.insert(builtin::root_node(&org));
    batch.insert(org);
    for role in builtin::roles() {
        batch.insert(role);
    }
    for platform in builtin::platforms() {
        batch.insert(platform);
    }
    store.commit(batch).await.unwrap();
}
