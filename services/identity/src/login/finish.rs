//! What every log-in goes through whatever the first factor was: locks, validity of the user, rules, second factor,
//! outdated password, and the one place where a proof is made.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::TimeDelta;
use gatehouse_model::decide::RuleNotice;
use gatehouse_model::settings::{MfaPolicy, Settings};
use gatehouse_model::user::{MfaLevel, TempPassword, User};
use gatehouse_store::StoreError;
use uuid::Uuid;

use super::second::{ChangePassword, EnrolMfa, MfaAttempt};
use super::{BeginLogin, ChangeReason, Door, LoginRow, Method, Proof, Step, clean, rules};
use crate::Identity;
use crate::error::{IdentityError, LoginCode, LoginError};
use crate::failures::{Subject, Turn};
use crate::policy;

/// A name that is longer belongs to nobody (model: names have at most 128 characters).
const MAX_USERNAME: usize = 128;
/// How often `User::last_login` is written (seconds): a script that logs in all the time changes no record each time.
const LAST_LOGIN_EVERY: i64 = 60;
/// Times that a write is tried again after somebody else changed the same record.
const RETRIES: usize = 8;

/// Who tries, and where; the part of an attempt that never changes.
#[derive(Clone)]
pub(crate) struct Login {
    pub(crate) identity: Identity,
    pub(crate) username: String,
    pub(crate) ip: IpAddr,
    pub(crate) door: Door,
    pub(crate) user_agent: String,
}

/// A temporary password or set-up code that was right and is used up by it.
pub(super) struct OneTime {
    pub(super) record: Arc<TempPassword>,
    pub(super) version: u64,
}

/// Whether a second factor is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MfaNeed {
    No,
    Verify,
    /// Required, and none is set up.
    Enrol,
}

/// A22: everybody, administrators, or whoever switched it on or was told to.
pub(crate) fn mfa_need(user: &User, is_admin: bool, settings: &Settings) -> MfaNeed {
    let by_policy = match settings.security_mfa_auth {
        MfaPolicy::Off => false,
        MfaPolicy::All => true,
        MfaPolicy::Admins => is_admin,
    };
    match (by_policy || user.mfa_level != MfaLevel::Off, user.otp_enrolled) {
        (false, _) => MfaNeed::No,
        (true, true) => MfaNeed::Verify,
        (true, false) => MfaNeed::Enrol,
    }
}

impl Login {
    pub(super) fn new(identity: Identity, begin: &BeginLogin) -> Self {
        Self {
            identity,
            // Bounded before it is kept; one character more than allowed, so that a longer name matches nobody.
            username: begin.username.chars().take(MAX_USERNAME + 1).collect(),
            ip: begin.ip.to_canonical(),
            door: begin.door,
            user_agent: clean(&begin.user_agent, 255),
        }
    }

    /// Asked anew each time: between two factors a user may be disabled.
    pub(super) fn lookup(&self) -> Result<Option<Arc<User>>, StoreError> {
        self.identity.user_by_name(&self.username)
    }

    fn row<'a>(&'a self, user: Option<&'a User>, backend: &'a str) -> LoginRow<'a> {
        LoginRow {
            username: &self.username,
            user,
            door: self.door,
            ip: self.ip,
            user_agent: &self.user_agent,
            mfa: None,
            backend,
            code: None,
            detail: "",
        }
    }

    /// Writes a refusal to the ledger and gives back what may be told. A ledger that cannot be written is told instead.
    pub(super) async fn refuse(&self, told: LoginError, code: LoginCode, backend: &str, detail: &str) -> LoginError {
        let user = self.lookup().ok().flatten();
        let row = LoginRow { code: Some(code), detail, ..self.row(user.as_deref(), backend) };
        match self.append(&row).await {
            Ok(()) => told,
            Err(error) => error.into(),
        }
    }

    async fn append(&self, row: &LoginRow<'_>) -> Result<(), IdentityError> {
        let entry = row.entry(self.identity.now())?;
        self.identity.store().append(entry).await?;
        Ok(())
    }

    /// Address lists, and locks of the address and of the user.
    pub(super) async fn gate(&self, user: Option<&User>, backend: &str) -> Result<(), LoginError> {
        match self.blocked(user)? {
            None => Ok(()),
            Some(told) => {
                let code = told.code;
                Err(self.refuse(told, code, backend, "").await)
            }
        }
    }

    fn blocked(&self, user: Option<&User>) -> Result<Option<LoginError>, IdentityError> {
        let now = self.identity.now();
        let settings = self.identity.settings()?;
        if let Err((code, told)) = rules::source_allowed(&settings, self.ip) {
            return Ok(Some(LoginError::new(code, told)));
        }
        // The allow list takes an address out of the locks (JumpServer's SECURITY_LOGIN_IP_WHITE_LIST).
        if !settings.security_login_ip_white_list.contains(self.ip)
            && let Some(minutes) = self.identity.inner.failures.blocked(&Subject::ip(self.ip), now)?
        {
            return Ok(Some(LoginError::ip_blocked(minutes)));
        }
        let name = Subject::name(&self.username, user.is_some());
        Ok(self.identity.inner.failures.blocked(&name, now)?.map(LoginError::user_blocked))
    }

    /// A wrong password or code: counted for the name and the address, and in the ledger, in one batch.
    pub(super) async fn wrong(&self, user: Option<&User>, code: LoginCode, backend: &str) -> LoginError {
        let turn = self.identity.inner.failures.turn(&self.username, self.ip).await;
        self.wrong_in(turn, user, code, backend).await
    }

    /// The same for who checked the credential during a turn already.
    pub(super) async fn wrong_in(
        &self,
        turn: Turn<'_>,
        user: Option<&User>,
        code: LoginCode,
        backend: &str,
    ) -> LoginError {
        match self.count_wrong(turn, user, code, backend).await {
            Ok(told) => told,
            Err(error) => error.into(),
        }
    }

    async fn count_wrong(
        &self,
        _turn: Turn<'_>,
        user: Option<&User>,
        code: LoginCode,
        backend: &str,
    ) -> Result<LoginError, IdentityError> {
        let failures = &self.identity.inner.failures;
        let settings = self.identity.settings()?;
        // Attempts made at the same time all passed the gate: only as many as the limit get a true answer.
        if let Some(told) = self.blocked(user)? {
            let row = LoginRow { code: Some(told.code), ..self.row(user, backend) };
            self.append(&row).await?;
            return Ok(told);
        }
        let now = self.identity.now();
        let mut batch = self.identity.store().batch();
        let mfa = code == LoginCode::MfaFailed;
        let subject = if mfa {
            Subject::Mfa(self.username.to_lowercase())
        } else {
            Subject::name(&self.username, user.is_some())
        };
        let counted = failures.count(&subject, now, &settings, &mut batch)?;
        if !settings.security_login_ip_white_list.contains(self.ip) {
            let of_ip = failures.count(&Subject::ip(self.ip), now, &settings, &mut batch)?;
            if of_ip.locked_now {
                tracing::warn!(ip = %self.ip, "an address is locked after too many failed log-ins");
            }
        }
        let row = LoginRow { code: Some(code), mfa: mfa.then_some(true), ..self.row(user, backend) };
        batch.audit(row.entry(now)?);
        self.identity.store().commit(batch).await?;
        if counted.locked_now
            && let Some(user) = user
        {
            self.identity.tell(
                user.id,
                "Your account is locked",
                format!(
                    "There were too many failed log-ins as {}, the last one from {}. The account is locked for {} \
                     minutes. If that was not you, tell an administrator.",
                    user.username, self.ip, counted.lock_minutes
                ),
            );
        }
        Ok(match (counted.tries_left, mfa) {
            (0, true) => LoginError::mfa_blocked(counted.lock_minutes),
            (0, false) => LoginError::user_blocked(counted.lock_minutes),
            (left, true) => LoginError {
                code: LoginCode::MfaFailed,
                message: format!(
                    "the code is not correct or was used before; {left} tries are left before a lock of {} minutes",
                    counted.lock_minutes
                ),
                tries_left: Some(left),
                may_retry: true,
            },
            (left, false) => LoginError::invalid(left, counted.lock_minutes),
        })
    }

    /// Whether this user may log in at all, now and from here, and whom to tell when it is done.
    pub(super) async fn admit(&self, user: &Arc<User>, method: Method) -> Result<Vec<RuleNotice>, LoginError> {
        let (code, told) = if user.is_service_account && method != Method::ConnectionToken {
            (LoginCode::AclNotAllow, "service accounts use access keys and cannot log in".to_owned())
        } else {
            match rules::check(&self.identity, user, self.ip, self.identity.now())? {
                Ok(notices) => return Ok(notices),
                Err(refused) => refused,
            }
        };
        Err(self.refuse(LoginError::new(code, told), code, method.label(), "").await)
    }

    /// The first factor was right: what now?
    pub(super) async fn first_factor(
        &self,
        user: &Arc<User>,
        method: Method,
        key: Option<Uuid>,
        one_time: Option<OneTime>,
    ) -> Result<Step, LoginError> {
        {
            // Right, but too late: a guess made at the same time as those that led to the lock.
            let _turn = self.identity.inner.failures.turn(&self.username, self.ip).await;
            self.gate(Some(user), method.label()).await?;
        }
        self.admit(user, method).await?;
        if let Some(one_time) = one_time
            && !self.identity.use_up(&one_time.record, one_time.version).await?
        {
            return Err(self.wrong(Some(user), LoginCode::PasswordFailed, method.label()).await);
        }
        let settings = self.identity.settings()?;
        let change = match method {
            Method::SetUpCode => Some(ChangeReason::Required),
            _ if !method.is_password() => None,
            _ if user.need_update_password => Some(ChangeReason::Required),
            _ if policy::is_expired(user, &settings, self.identity.now()) => Some(ChangeReason::Expired),
            _ => None,
        };
        Pending { login: self.clone(), user: Arc::clone(user), method, key, change, mfa: false }.next().await
    }
}

/// A log-in whose first factor was right. Moved from state to state until nothing is left to ask.
pub(crate) struct Pending {
    pub(super) login: Login,
    pub(super) user: Arc<User>,
    pub(super) method: Method,
    pub(super) key: Option<Uuid>,
    pub(super) change: Option<ChangeReason>,
    /// The second factor was verified in this log-in.
    pub(super) mfa: bool,
}

impl Pending {
    pub(super) async fn next(self) -> Result<Step, LoginError> {
        let identity = &self.login.identity;
        let settings = identity.settings()?;
        if !self.mfa {
            let user = identity.user(self.user.id)?;
            match mfa_need(&user, identity.is_admin(&user)?, &settings) {
                MfaNeed::No => {}
                MfaNeed::Verify => return Ok(Step::Mfa(MfaAttempt::new(self))),
                MfaNeed::Enrol if self.login.door == Door::Ssh => {
                    let told = LoginError::new(
                        LoginCode::MfaUnset,
                        format!(
                            "a second factor is required and none is set up: log in at {} once to set it up",
                            settings.site_url
                        ),
                    );
                    return Err(self.login.refuse(told, LoginCode::MfaUnset, self.method.label(), "").await);
                }
                MfaNeed::Enrol => return Ok(Step::EnrolMfa(EnrolMfa::new(self))),
            }
        }
        if self.change.is_some() {
            return Ok(Step::ChangePassword(ChangePassword::new(self)));
        }
        self.finish().await.map(Step::Done)
    }

    /// The only place where a proof is made. The entry of the ledger is durable before it is given.
    async fn finish(self) -> Result<Proof, LoginError> {
        let login = &self.login;
        let identity = &login.identity;
        for _ in 0..RETRIES {
            // Once more: minutes may have passed since the first factor.
            let Some((user, version)) = identity.store().system().versioned::<User>(self.user.id)? else {
                return Err(login.wrong(None, LoginCode::UserNotExist, self.method.label()).await);
            };
            login.gate(Some(&user), self.method.label()).await?;
            let notices = login.admit(&user, self.method).await?;
            let now = identity.now();
            let mut batch = identity.store().batch();
            identity.inner.failures.clear(&Subject::name(&login.username, true), &mut batch)?;
            if self.mfa {
                identity.inner.failures.clear(&Subject::Mfa(login.username.to_lowercase()), &mut batch)?;
            }
            let stale_login = user.last_login.is_none_or(|at| now - at >= TimeDelta::seconds(LAST_LOGIN_EVERY));
            let user = if stale_login || user.is_first_login {
                let mut changed = User::clone(&user);
                changed.last_login = Some(now);
                changed.is_first_login = false;
                batch.update(changed.clone(), version);
                Arc::new(changed)
            } else {
                user
            };
            let row = LoginRow { mfa: Some(self.mfa), ..login.row(Some(&user), self.method.label()) };
            batch.audit(row.entry(now)?);
            match identity.store().commit(batch).await {
                Ok(()) => {
                    rules::send(identity, &user, login.ip, notices);
                    return Ok(Proof {
                        user,
                        method: self.method,
                        mfa: self.mfa,
                        door: login.door,
                        at: now,
                        ip: login.ip,
                        key: self.key,
                    });
                }
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(LoginError::busy())
    }
}
