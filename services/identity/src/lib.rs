//! Who you are: everything by which Gatehouse recognises a person or a program.
//!
//! What lives here: the log-in as a state machine that every door (SSH, web, API) drives, passwords and their policy,
//! the second factor, SSH keys and user certificates, locks after failures, and everything that stands for a person
//! between requests (access keys, tokens, browser sessions, temporary passwords, connection tokens). Each attempt,
//! failed or not, is an entry of the ledger before its answer is given. What must not: who may reach what (`model`
//! decides, `session` asks), any protocol of a door, and how people are told things (`notify`).
//!
//! A log-in, as a door drives it:
//!
//! ```text
//! identity.begin(..) -> Attempt -- password / key_proven / certificate_proven --> Step
//! Step::Password       the key was right, now the password (terminal_force_multi_auth): Attempt::password
//! Step::Mfa            MfaAttempt::verify(code)             -> Step
//! Step::EnrolMfa       EnrolMfa::start, ::confirm(code)     -> Step   (web and API only)
//! Step::ChangePassword ChangePassword::submit(new)          -> Step
//! Step::Done(Proof)    the only way to a Proof; tokens and sessions are given for proofs only
//! ```
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod access_key;
mod connection_token;
mod error;
mod failures;
mod hash;
mod http_auth;
mod http_signature;
mod limit;
mod login;
mod mfa;
mod password;
mod policy;
mod random;
mod sign_out;
mod ssh_cert;
mod ssh_key;
mod sweep;
mod temp_password;
#[cfg(test)]
mod testing;
mod token;
#[cfg(test)]
mod tokens_tests;
mod totp;

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::LedgerEntry;
use gatehouse_model::notice::{Notice, NoticeKind, Notifier};
use gatehouse_model::session::ConnectionToken;
use gatehouse_model::settings::{SETTINGS_ID, Settings};
use gatehouse_model::user::User;
use gatehouse_model::user::{AccessKey, ApiToken, LoginFailures, SshKey, TempPassword, TrustedUserCa, UserSecret};
use gatehouse_store::{Batch, Registry, Store, StoreError};
use uuid::Uuid;

pub use access_key::NewAccessKey;
pub use connection_token::{ConnectionTokenRequest, Redeemed};
pub use error::{IdentityError, LoginCode, LoginError};
pub use failures::{Locked, LockedSubject};
pub use hash::{HashCost, MAX_PASSWORD_BYTES};
pub use http_auth::{AuthError, Authenticated, HowAuthenticated, RequestParts, SESSION_COOKIE};
pub use http_signature::SignatureError;
pub use login::{Attempt, BeginLogin, ChangePassword, ChangeReason, Door, EnrolMfa, Method, MfaAttempt, Proof, Step};
pub use mfa::Enrolment;
pub use password::FirstPassword;
pub use policy::PasswordPolicy;
pub use random::password as random_password;
pub use ssh_cert::CertificateError;
pub use ssh_key::{GeneratedKey, KeyError, ParsedKey, parse_public_key};
pub use sweep::Swept;
pub use token::{BearerToken, BrowserSession, CSRF_HEADER};

/// Where the time comes from, so that tests can move it.
pub type Clock = Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>;

/// Adds the kinds of record that this service writes, for `Store::open`.
pub fn kinds(registry: Registry) -> Registry {
    registry
        .with::<UserSecret>()
        .with::<SshKey>()
        .with::<TrustedUserCa>()
        .with::<AccessKey>()
        .with::<ApiToken>()
        .with::<TempPassword>()
        .with::<LoginFailures>()
        .with::<ConnectionToken>()
}

/// What may be chosen when the service is made.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub hash_cost: HashCost,
}

impl Default for Options {
    fn default() -> Self {
        Self { hash_cost: HashCost::OWASP }
    }
}

/// The service. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Identity {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) store: Store,
    notifier: Arc<dyn Notifier>,
    clock: Clock,
    pub(crate) hasher: hash::Hasher,
    pub(crate) limit: limit::RateLimit,
    pub(crate) failures: failures::Failures,
    pub(crate) parked: login::Parked,
    pub(crate) enrolments: mfa::Enrolments,
    pub(crate) windows: mfa::Windows,
    pub(crate) csrf_key: aws_lc_rs::hmac::Key,
    pub(crate) reminders: sweep::Reminders,
}

/// Who makes a change, for the logs, and the entries that commit together with it.
#[derive(Debug, Clone)]
pub struct By {
    /// `None`: the system itself.
    pub id: Option<Uuid>,
    /// `Name(username)`.
    pub display: String,
    pub remote_addr: String,
    /// Entries of the caller (its operation log), written in the same atomic batch as the change.
    pub audit: Vec<LedgerEntry>,
}

impl By {
    pub fn user(user: &User, ip: IpAddr) -> Self {
        Self {
            id: Some(user.id),
            display: user.display(),
            remote_addr: ip.to_canonical().to_string(),
            audit: Vec::new(),
        }
    }

    /// The system itself: set-up, recovery, expiry.
    pub fn system() -> Self {
        Self { id: None, display: "System".to_owned(), remote_addr: String::new(), audit: Vec::new() }
    }

    #[must_use]
    pub fn with_audit(mut self, entry: LedgerEntry) -> Self {
        self.audit.push(entry);
        self
    }

    fn write(&self, batch: &mut Batch) {
        for entry in &self.audit {
            batch.audit(entry.clone());
        }
    }
}

impl Identity {
    pub fn new(store: Store, notifier: Arc<dyn Notifier>, clock: Clock) -> Result<Self, IdentityError> {
        Self::with_options(store, notifier, clock, Options::default())
    }

    pub fn with_options(
        store: Store,
        notifier: Arc<dyn Notifier>,
        clock: Clock,
        options: Options,
    ) -> Result<Self, IdentityError> {
        let csrf = store.derive_key("identity csrf")?;
        let inner = Inner {
            failures: failures::Failures::new(store.clone()),
            hasher: hash::Hasher::new(options.hash_cost)?,
            limit: limit::RateLimit::default(),
            parked: login::Parked::default(),
            enrolments: mfa::Enrolments::default(),
            windows: mfa::Windows::default(),
            csrf_key: aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, csrf.as_slice()),
            reminders: sweep::Reminders::default(),
            store,
            notifier,
            clock,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        (self.inner.clock)()
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn settings(&self) -> Result<Arc<Settings>, StoreError> {
        Ok(self.store().system().get::<Settings>(SETTINGS_ID)?.unwrap_or_default())
    }

    /// The user of a log-in name, without regard to case.
    pub fn user_by_name(&self, username: &str) -> Result<Option<Arc<User>>, StoreError> {
        let found = self.store().system().find::<User>("username", username.to_lowercase().as_bytes())?;
        Ok(found.into_iter().next())
    }

    pub(crate) fn user(&self, id: Uuid) -> Result<Arc<User>, IdentityError> {
        self.store().system().get::<User>(id)?.ok_or(IdentityError::NotFound("the user"))
    }

    /// Tells one user something that concerns the own account.
    pub(crate) fn tell(&self, user: Uuid, subject: &str, text: String) {
        self.inner.notifier.notify(Notice {
            kind: NoticeKind::Account,
            org: Uuid::nil(),
            recipients: vec![user],
            subject: subject.to_owned(),
            text,
            resource: Some(user),
        });
    }

    pub(crate) fn notify(&self, notice: Notice) {
        self.inner.notifier.notify(notice);
    }
}
