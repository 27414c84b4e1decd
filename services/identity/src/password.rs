//! Setting passwords: by the user, by an administrator, at set-up. Every change writes the password-change log (U12) and
//! ends everything that stood for the user until then. What must not be here: checking a password at a door (`login`).

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::notice::{Notice, NoticeKind};
use gatehouse_model::org;
use gatehouse_model::user::{User, UserSecret, UserSource};
use gatehouse_store::{Batch, StoreError};
use serde_json::json;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{IdentityError, LoginCode, LoginError};
use crate::failures::Subject;
use crate::policy::PasswordPolicy;
use crate::temp_password::Prefix;
use crate::{By, Identity, random};

/// How long a set-up code works (hours).
const SET_UP_HOURS: i64 = 24;
/// Earlier hashes that are kept at most, whatever the setting was.
const MAX_HISTORY: usize = 24;
const RETRIES: usize = 8;

/// Fixed ids of the built-in roles (JumpServer): system administrator and organization administrator.
const SYSTEM_ADMIN: Uuid = Uuid::from_u128(1);
const ORG_ADMIN: Uuid = Uuid::from_u128(5);

/// The secret of a user that has none yet.
pub(crate) fn blank_secret(user: Uuid) -> UserSecret {
    UserSecret { id: user, password_hash: None, password_history: Vec::new(), otp_secret: None, otp_last_step: 0 }
}

/// The password that a user is created with, hashed. Deliberately without `Debug`.
pub struct FirstPassword {
    hash: String,
}

fn kept_here(user: &User) -> Result<(), IdentityError> {
    if user.source == UserSource::Local {
        return Ok(());
    }
    Err(IdentityError::refused(
        "backend_not_match",
        format!("the password of this user is kept by {}, change it there", user.source.label()),
    ))
}

/// The row of the password-change log (U12).
fn password_entry(user: &User, by: &By, now: DateTime<Utc>) -> Result<LedgerEntry, IdentityError> {
    let body = json!({
        "user": user.display(),
        "change_by": by.display,
        "remote_addr": by.remote_addr,
        "datetime": now,
    });
    let mut entry =
        LedgerEntry::new(random::id(now)?, now, Uuid::nil(), LedgerKind::PasswordChange, body).refs([user.id]);
    entry.actor = by.id;
    Ok(entry)
}

impl Identity {
    /// Checks and hashes the password of a user who is about to be created; `put_first_password` stores it together with
    /// the user.
    pub async fn first_password(&self, user: &User, password: &str) -> Result<FirstPassword, IdentityError> {
        kept_here(user)?;
        self.password_policy(user)?.check(password, user)?;
        Ok(FirstPassword { hash: self.inner.hasher.hash(password).await? })
    }

    /// Adds a first password to the batch that creates the user. The caller sets `date_password_last_updated`.
    pub fn put_first_password(
        &self,
        first: FirstPassword,
        user: &User,
        by: &By,
        batch: &mut Batch,
    ) -> Result<(), IdentityError> {
        batch.insert(UserSecret { password_hash: Some(first.hash), ..blank_secret(user.id) });
        batch.audit(password_entry(user, by, self.now())?);
        Ok(())
    }

    /// Whether stricter rules for administrators hold for a user: one of the built-in administrator roles, or a role
    /// that may do everything.
    pub fn is_admin(&self, user: &User) -> Result<bool, IdentityError> {
        let roles = user.system_roles.iter().copied().chain(user.org_roles.iter().map(|r| r.role));
        for id in roles {
            if id == SYSTEM_ADMIN || id == ORG_ADMIN {
                return Ok(true);
            }
            let role = self.store().system().get::<org::Role>(id)?;
            if role.is_some_and(|r| r.permissions.iter().any(|p| p == "*")) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What a new password of this user must be like.
    pub fn password_policy(&self, user: &User) -> Result<PasswordPolicy, IdentityError> {
        Ok(PasswordPolicy::new(self.settings()?.as_ref(), self.is_admin(user)?))
    }

    /// The user changes the own password and proves the old one. Failures count like those of a log-in. `keep`: the
    /// browser session or token that makes the change and stays valid.
    pub async fn change_password(
        &self,
        user: Uuid,
        old: &str,
        new: &str,
        keep: Option<Uuid>,
        by: &By,
    ) -> Result<(), IdentityError> {
        let current = self.user(user)?;
        let name = Subject::name(&current.username, true);
        if let Some(minutes) = self.inner.failures.blocked(&name, self.now())? {
            return Err(LoginError::user_blocked(minutes).into());
        }
        let ip = by.remote_addr.parse().ok();
        if let Some(ip) = ip
            && !self.inner.limit.take(ip, self.now())
        {
            return Err(LoginError::throttled().into());
        }
        let hash = self.store().system().get::<UserSecret>(user)?.and_then(|s| s.password_hash.clone());
        if self.inner.hasher.check(ip, old, vec![hash]).await?.is_none() {
            let settings = self.settings()?;
            let _turn = self.inner.failures.turn(&current.username, ip.unwrap_or([0, 0, 0, 0].into())).await;
            let mut batch = self.store().batch();
            let counted = self.inner.failures.count(&name, self.now(), &settings, &mut batch)?;
            self.store().commit(batch).await?;
            let told = LoginError {
                code: LoginCode::PasswordFailed,
                message: format!("the old password is not correct; {} tries are left", counted.tries_left),
                tries_left: Some(counted.tries_left),
                may_retry: counted.tries_left > 0,
            };
            return Err(told.into());
        }
        self.store_password(user, new, keep, false, by).await
    }

    /// During a log-in, after everything else was proven.
    pub(crate) async fn set_own_password(&self, user: Uuid, new: &str, by: &By) -> Result<(), IdentityError> {
        self.store_password(user, new, None, false, by).await
    }

    /// An administrator (or set-up, or recovery) sets a password. `must_change`: the user has to change it at the next
    /// log-in.
    pub async fn reset_password(&self, user: Uuid, new: &str, must_change: bool, by: &By) -> Result<(), IdentityError> {
        self.store_password(user, new, None, must_change, by).await?;
        self.tell(user, "Your password was reset", format!("{} set a new password for your account.", by.display));
        Ok(())
    }

    async fn store_password(
        &self,
        id: Uuid,
        new: &str,
        keep: Option<Uuid>,
        must_change: bool,
        by: &By,
    ) -> Result<(), IdentityError> {
        let user = self.user(id)?;
        kept_here(&user)?;
        let settings = self.settings()?;
        self.password_policy(&user)?.check(new, &user)?;
        let history = usize::from(settings.old_password_history_limit_count).min(MAX_HISTORY);
        // The record is read before the slow part and written under its version, so that of two changes at the same
        // time one is told to look again, and no history is lost.
        let stored = self.store().system().versioned::<UserSecret>(id)?;
        let hashes: Vec<Option<String>> = stored
            .iter()
            .flat_map(|(s, _)| s.password_hash.iter().chain(s.password_history.iter().take(history)).cloned())
            .map(Some)
            .collect();
        if history > 0 && self.inner.hasher.check(None, new, hashes).await?.is_some() {
            return Err(IdentityError::field(
                "password",
                format!("the last {history} passwords may not be used again"),
            ));
        }
        let hash = self.inner.hasher.hash(new).await?;
        for _ in 0..RETRIES {
            let now = self.now();
            let mut batch = self.store().batch();
            match &stored {
                Some((secret, version)) => {
                    let mut secret = UserSecret::clone(secret);
                    if let Some(old) = secret.password_hash.replace(hash.clone()) {
                        secret.password_history.insert(0, old);
                    }
                    secret.password_history.truncate(MAX_HISTORY);
                    batch.update(secret, *version);
                }
                None => {
                    batch.insert(UserSecret { password_hash: Some(hash.clone()), ..blank_secret(id) });
                }
            }
            let Some((user, version)) = self.store().system().versioned::<User>(id)? else {
                return Err(IdentityError::NotFound("the user"));
            };
            let mut changed = User::clone(&user);
            changed.date_password_last_updated = Some(now);
            changed.need_update_password = must_change;
            changed.meta.date_updated = now;
            changed.meta.updated_by.clone_from(&by.display);
            batch.update(changed, version);
            self.sign_out_in(id, keep, &mut batch)?;
            batch.audit(password_entry(&user, by, now)?);
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Stale { kind, .. }) if kind == <User as gatehouse_model::record::Record>::KIND => {}
                Err(StoreError::Stale { .. } | StoreError::Exists { .. }) => {
                    return Err(IdentityError::refused(
                        "conflict",
                        "the password was changed by somebody else at the same time; try again",
                    ));
                }
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// A one-time code with which a user without a password comes in and has to set one: for the first administrator
    /// of a new box (there is no default password), and for welcome and reset mails. Works once, within 24 hours.
    /// An earlier code of the user stops working.
    pub async fn create_set_up_code(&self, user: Uuid, by: &By) -> Result<Zeroizing<String>, IdentityError> {
        self.user(user)?;
        self.new_one_time(user, Prefix::SetUp, TimeDelta::hours(SET_UP_HOURS), by).await
    }

    /// Mails a set-up code to a user (O02 welcome mail, and "mail a link" of a password reset).
    pub async fn mail_set_up_code(&self, user: Uuid, by: &By) -> Result<(), IdentityError> {
        let account = self.user(user)?;
        let code = self.create_set_up_code(user, by).await?;
        let site = self.settings()?.site_url.clone();
        self.notify(Notice {
            kind: NoticeKind::Credential,
            org: Uuid::nil(),
            recipients: vec![user],
            subject: "Set your password".to_owned(),
            text: format!(
                "Hello {},\n\nyou can log in at {site} with the user name {} and this code in place of a password:\n\n\
                 {}\n\nIt works once, within {SET_UP_HOURS} hours; you will be asked to set a password.\n",
                account.name,
                account.username,
                code.as_str()
            ),
            resource: Some(user),
        });
        Ok(())
    }
}
