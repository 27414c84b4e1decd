//! What the tests of this crate share: a service over a store in memory, with a clock that they move.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::common::{Meta, far_future};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::notice::{Notice, Notifier};
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::{MfaLevel, User, UserSource};
use gatehouse_store::ledger::{OrgFilter, Query};
use gatehouse_store::{AllOrgs, Store};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::{Attempt, BeginLogin, By, Door, HashCost, Identity, Options, Proof, Step};

pub(crate) const PASSWORD: &str = "Correct-Horse-42";
pub(crate) const IP: &str = "192.0.2.10";

pub(crate) fn start() -> DateTime<Utc> {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn user(name: &str) -> User {
    User {
        id: crate::random::id(start()).unwrap(),
        username: name.to_owned(),
        name: name.to_owned(),
        email: format!("{name}@example.com"),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(start()),
        date_password_last_updated: None,
        need_update_password: false,
        is_first_login: false,
        last_login: None,
        lang: None,
        system_roles: Vec::new(),
        org_roles: Vec::new(),
        meta: Meta::new("test", start()),
    }
}

#[derive(Default)]
pub(crate) struct Inbox(pub(crate) Mutex<Vec<Notice>>);

impl Notifier for Inbox {
    fn notify(&self, notice: Notice) {
        self.0.lock().push(notice);
    }
}

pub(crate) struct World {
    pub(crate) store: Store,
    pub(crate) identity: Identity,
    pub(crate) inbox: Arc<Inbox>,
    seconds: Arc<AtomicI64>,
}

impl World {
    pub(crate) fn new() -> Self {
        let store = Store::in_memory();
        let inbox = Arc::new(Inbox::default());
        let seconds = Arc::new(AtomicI64::new(0));
        let identity = Self::service(&store, &inbox, &seconds);
        Self { store, identity, inbox, seconds }
    }

    fn service(store: &Store, inbox: &Arc<Inbox>, seconds: &Arc<AtomicI64>) -> Identity {
        let clock = {
            let seconds = Arc::clone(seconds);
            Arc::new(move || start() + TimeDelta::seconds(seconds.load(Ordering::Relaxed)))
        };
        let options = Options { hash_cost: HashCost::CHEAP_FOR_TESTS };
        Identity::with_options(store.clone(), Arc::<Inbox>::clone(inbox), clock, options).unwrap()
    }

    /// The service as after a restart of the daemon: all that was in memory is gone.
    pub(crate) fn restarted(&self) -> Identity {
        Self::service(&self.store, &self.inbox, &self.seconds)
    }

    pub(crate) fn wait(&self, seconds: i64) {
        self.seconds.fetch_add(seconds, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        start() + TimeDelta::seconds(self.seconds.load(Ordering::Relaxed))
    }

    pub(crate) async fn settings(&self, change: impl FnOnce(&mut Settings)) {
        let mut settings =
            self.store.system().get::<Settings>(SETTINGS_ID).unwrap().map(|s| Settings::clone(&s)).unwrap_or_default();
        change(&mut settings);
        let mut batch = self.store.batch();
        batch.put(settings);
        self.store.commit(batch).await.unwrap();
    }

    /// A user with `PASSWORD`.
    pub(crate) async fn add(&self, name: &str) -> User {
        self.add_with(name, |_| {}).await
    }

    pub(crate) async fn add_with(&self, name: &str, change: impl FnOnce(&mut User)) -> User {
        let made = user(name);
        let mut batch = self.store.batch();
        batch.insert(made.clone());
        self.store.commit(batch).await.unwrap();
        self.identity.reset_password(made.id, PASSWORD, false, &By::system()).await.unwrap();
        self.change(made.id, change).await
    }

    pub(crate) async fn change(&self, id: Uuid, change: impl FnOnce(&mut User)) -> User {
        let mut user = User::clone(&self.store.system().get::<User>(id).unwrap().unwrap());
        change(&mut user);
        let mut batch = self.store.batch();
        batch.put(user.clone());
        self.store.commit(batch).await.unwrap();
        user
    }

    /// Sets up a second factor; gives its secret.
    pub(crate) async fn enrol(&self, user: &User) -> String {
        let secret = self.identity.start_enrolment(user.id).unwrap().secret.to_string();
        let code = crate::totp::code_at(&secret, self.now());
        self.identity.confirm_enrolment(user.id, &code, &By::system()).await.unwrap();
        // The confirming step is used up.
        self.wait(60);
        secret
    }

    pub(crate) fn code(&self, secret: &str) -> String {
        crate::totp::code_at(secret, self.now())
    }

    pub(crate) fn begin(&self, name: &str, door: Door) -> Attempt {
        self.begin_from(name, door, IP)
    }

    pub(crate) fn begin_from(&self, name: &str, door: Door, from: &str) -> Attempt {
        self.identity.begin(BeginLogin { username: name.to_owned(), ip: ip(from), door, user_agent: "test".to_owned() })
    }

    pub(crate) async fn proof(&self, name: &str, door: Door) -> Proof {
        match self.begin(name, door).password(PASSWORD).await.unwrap() {
            Step::Done(proof) => proof,
            other => panic!("expected a proof, got {other:?}"),
        }
    }

    /// Ledger entries of one kind, oldest first.
    pub(crate) fn ledger(&self, kind: LedgerKind) -> Vec<Arc<LedgerEntry>> {
        entries(&self.store, kind)
    }

    /// (reason code, status) of all log-in rows, oldest first.
    pub(crate) fn logins(&self) -> Vec<(String, bool)> {
        self.ledger(LedgerKind::Login)
            .iter()
            .map(|e| (e.body["reason_code"].as_str().unwrap().to_owned(), e.body["status"].as_bool().unwrap()))
            .collect()
    }
}

pub(crate) fn entries(store: &Store, kind: LedgerKind) -> Vec<Arc<LedgerEntry>> {
    let mut query = Query::new(OrgFilter::All(AllOrgs::crossing_organizations())).kinds(&[kind]).limit(usize::MAX);
    query = query.ascending();
    store.ledger().query(&query).unwrap().into_iter().map(|e| e.entry).collect()
}
