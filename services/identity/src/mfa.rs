//! The second factor outside a log-in: setting it up and taking it away (A22), and proving it again before secrets are
//! shown (A27, A28). What must not be here: the arithmetic (`totp`), and when a log-in asks for it (`login`).

use std::collections::HashMap;
use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::settings::MfaPolicy;
use gatehouse_model::user::{ApiToken, MfaLevel, User, UserSecret};
use gatehouse_store::StoreError;
use parking_lot::Mutex;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{IdentityError, LoginCode, LoginError};
use crate::failures::Subject;
use crate::http_auth::Authenticated;
use crate::login::{Door, LoginRow, MfaNeed, mfa_need};
use crate::password::blank_secret;
use crate::{By, Identity, random, totp};

/// Enrolments that were started and wait for their code, in memory: a secret counts only when it is confirmed.
const MAX_ENROLMENTS: usize = 1_024;
const ENROLMENT_MINUTES: i64 = 10;
const MAX_WINDOWS: usize = 4_096;
const RETRIES: usize = 8;

/// What a user puts into an authenticator app. Shown once.
pub struct Enrolment {
    /// Base32, for typing.
    pub secret: Zeroizing<String>,
    /// `otpauth://` for the QR code.
    pub uri: Zeroizing<String>,
}

/// A secret, and until when it may be confirmed.
type Unconfirmed = (DateTime<Utc>, Zeroizing<String>);

#[derive(Default)]
pub(crate) struct Enrolments {
    waiting: Mutex<HashMap<Uuid, Unconfirmed>>,
}

/// Until when the second factor counts for access keys, which have no record that could say it.
#[derive(Default)]
pub(crate) struct Windows {
    until: Mutex<HashMap<Uuid, DateTime<Utc>>>,
}

impl Windows {
    pub(crate) fn get(&self, key: Uuid, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.until.lock().get(&key).copied().filter(|until| *until > now)
    }

    fn set(&self, key: Uuid, until: DateTime<Utc>, now: DateTime<Utc>) -> bool {
        let mut windows = self.until.lock();
        if windows.len() >= MAX_WINDOWS {
            windows.retain(|_, until| *until > now);
        }
        let room = windows.len() < MAX_WINDOWS || windows.contains_key(&key);
        if room {
            windows.insert(key, until);
        }
        room
    }

    pub(crate) fn forget(&self, key: Uuid) {
        self.until.lock().remove(&key);
    }
}

impl Identity {
    /// Starts setting up a second factor for a user that is logged in. Nothing changes before `confirm_enrolment`.
    pub fn start_enrolment(&self, user: Uuid) -> Result<Enrolment, IdentityError> {
        let account = self.user(user)?;
        if account.otp_enrolled {
            return Err(IdentityError::refused("mfa_enrolled", "a second factor is set up already; remove it first"));
        }
        let secret = random::totp_secret()?;
        let now = self.now();
        {
            let mut waiting = self.inner.enrolments.waiting.lock();
            waiting.retain(|_, (until, _)| *until > now);
            if waiting.len() >= MAX_ENROLMENTS && !waiting.contains_key(&user) {
                return Err(IdentityError::Busy);
            }
            waiting.insert(user, (now + TimeDelta::minutes(ENROLMENT_MINUTES), secret.clone()));
        }
        let uri = totp::uri(&self.settings()?.otp_issuer_name, &account.username, &secret);
        Ok(Enrolment { secret, uri })
    }

    /// A code proves that the app has the secret; from now on it is asked for.
    pub async fn confirm_enrolment(&self, user: Uuid, code: &str, by: &By) -> Result<(), IdentityError> {
        let now = self.now();
        if let Ok(ip) = by.remote_addr.parse()
            && !self.inner.limit.take(ip, now)
        {
            return Err(LoginError::throttled().into());
        }
        let secret = self.inner.enrolments.waiting.lock().get(&user).filter(|(until, _)| *until > now).cloned();
        let Some((_, secret)) = secret else {
            return Err(IdentityError::refused("mfa_unset", "start setting up the second factor first"));
        };
        if !self.enrol(user, &secret, code, by).await? {
            return Err(IdentityError::field("code", "the code is not correct; check the clock of the device"));
        }
        self.inner.enrolments.waiting.lock().remove(&user);
        Ok(())
    }

    /// Stores a secret if the code is right for it.
    pub(crate) async fn enrol(&self, user: Uuid, secret: &str, code: &str, by: &By) -> Result<bool, IdentityError> {
        for _ in 0..RETRIES {
            let now = self.now();
            let window = self.settings()?.otp_valid_window;
            let Some(step) = totp::accept(secret, code, now, window, 0) else { return Ok(false) };
            let mut batch = self.store().batch();
            self.put_secret(user, &mut batch, |stored| {
                stored.otp_secret = Some(secret.to_owned());
                stored.otp_last_step = step;
            })?;
            self.put_user(user, by, now, &mut batch, |changed| {
                changed.otp_enrolled = true;
                if changed.mfa_level == MfaLevel::Off {
                    changed.mfa_level = MfaLevel::On;
                }
            })?;
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => {
                    self.tell(
                        user,
                        "A second factor was set up",
                        format!("A second factor was set up for your account from {}.", by.remote_addr),
                    );
                    return Ok(true);
                }
                Err(StoreError::Stale { .. } | StoreError::Exists { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// The user removes the own second factor, with a code of it. Refused while it is required.
    pub async fn disable_mfa(&self, auth: &Authenticated, code: &str, by: &By) -> Result<(), IdentityError> {
        let user = self.user(auth.user.id)?;
        let settings = self.settings()?;
        let required = user.mfa_level == MfaLevel::Forced
            || match settings.security_mfa_auth {
                MfaPolicy::Off => false,
                MfaPolicy::All => true,
                MfaPolicy::Admins => self.is_admin(&user)?,
            };
        if required {
            return Err(IdentityError::refused(
                "mfa_required",
                "a second factor is required for you and cannot be removed",
            ));
        }
        if !user.otp_enrolled {
            return Err(IdentityError::refused("mfa_unset", "no second factor is set up"));
        }
        self.verify_mfa(auth, code, by).await?;
        self.remove_mfa(user.id, MfaLevel::Off, by).await
    }

    /// An administrator removes a user's second factor (lost device). The user is signed out everywhere, and sets up a
    /// new one at the next log-in where one is required.
    pub async fn reset_mfa(&self, user: Uuid, by: &By) -> Result<(), IdentityError> {
        let level = self.user(user)?.mfa_level;
        self.remove_mfa(user, level, by).await?;
        self.sign_out(user, None, &By { audit: Vec::new(), ..by.clone() }).await?;
        self.tell(
            user,
            "Your second factor was reset",
            format!("{} removed the second factor of your account.", by.display),
        );
        Ok(())
    }

    async fn remove_mfa(&self, user: Uuid, level: MfaLevel, by: &By) -> Result<(), IdentityError> {
        for _ in 0..RETRIES {
            let now = self.now();
            let mut batch = self.store().batch();
            self.put_secret(user, &mut batch, |stored| {
                stored.otp_secret = None;
            })?;
            self.put_user(user, by, now, &mut batch, |changed| {
                changed.otp_enrolled = false;
                changed.mfa_level = level;
            })?;
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => return Ok(()),
                Err(StoreError::Stale { .. } | StoreError::Exists { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// Checks a code and uses its step up: of two checks of one code at the same time one is right. Locks are the
    /// caller's.
    pub(crate) async fn accept_code(&self, user: Uuid, code: &str) -> Result<bool, IdentityError> {
        let Some((stored, version)) = self.store().system().versioned::<UserSecret>(user)? else { return Ok(false) };
        let Some(secret) = &stored.otp_secret else { return Ok(false) };
        let window = self.settings()?.otp_valid_window;
        let Some(step) = totp::accept(secret, code, self.now(), window, stored.otp_last_step) else { return Ok(false) };
        let mut used = UserSecret::clone(&stored);
        used.otp_last_step = step;
        let mut batch = self.store().batch();
        batch.update(used, version);
        match self.store().commit(batch).await {
            Ok(()) => Ok(true),
            Err(StoreError::Stale { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }

    /// Proves the second factor again (A27): until the returned time secrets may be shown to this token, browser
    /// session or access key. Wrong codes count for the same lock as those of log-ins.
    pub async fn verify_mfa(&self, auth: &Authenticated, code: &str, by: &By) -> Result<DateTime<Utc>, IdentityError> {
        let user = self.user(auth.user.id)?;
        let settings = self.settings()?;
        let ip: IpAddr = by.remote_addr.parse().unwrap_or_else(|_| IpAddr::from([0, 0, 0, 0]));
        if !self.inner.limit.take(ip, self.now()) {
            return Err(LoginError::throttled().into());
        }
        if !user.otp_enrolled {
            let told = LoginError::new(
                LoginCode::MfaUnset,
                format!("no second factor is set up: log in at {} and set it up in your profile", settings.site_url),
            );
            return Err(told.into());
        }
        let subject = Subject::Mfa(user.username.to_lowercase());
        let turn = self.inner.failures.turn(&user.username, ip).await;
        if let Some(minutes) = self.inner.failures.blocked(&subject, self.now())? {
            return Err(LoginError::mfa_blocked(minutes).into());
        }
        let now = self.now();
        if !self.accept_code(user.id, code).await? {
            let mut batch = self.store().batch();
            let counted = self.inner.failures.count(&subject, now, &settings, &mut batch)?;
            let row = LoginRow {
                username: &user.username,
                user: Some(&user),
                door: Door::Api,
                ip,
                user_agent: "",
                mfa: Some(true),
                backend: "OTP",
                code: Some(LoginCode::MfaFailed),
                detail: "before showing a secret",
            };
            batch.audit(row.entry(now)?);
            self.store().commit(batch).await?;
            let told = if counted.tries_left == 0 {
                LoginError::mfa_blocked(counted.lock_minutes)
            } else {
                LoginError {
                    code: LoginCode::MfaFailed,
                    message: format!(
                        "the code is not correct or was used before; {} tries are left",
                        counted.tries_left
                    ),
                    tries_left: Some(counted.tries_left),
                    may_retry: true,
                }
            };
            return Err(told.into());
        }
        drop(turn);
        let until = now + TimeDelta::seconds(i64::from(settings.security_mfa_verify_ttl));
        for _ in 0..RETRIES {
            let mut batch = self.store().batch();
            self.inner.failures.clear(&subject, &mut batch)?;
            match self.store().system().versioned::<ApiToken>(auth.token_id)? {
                Some((token, version)) if token.user == user.id => {
                    batch.update(ApiToken { mfa_until: Some(until), ..ApiToken::clone(&token) }, version);
                }
                Some(_) => return Err(IdentityError::NotFound("the token")),
                None if auth.how.is_access_key() => {
                    if !self.inner.windows.set(auth.token_id, until, now) {
                        return Err(IdentityError::Busy);
                    }
                }
                // Signed out meanwhile.
                None => return Err(IdentityError::NotFound("the token")),
            }
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => return Ok(until),
                Err(StoreError::Stale { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// Whether this caller may be shown secrets now (A28): the setting is off, or a second factor was proven lately.
    pub fn may_see_secrets(&self, auth: &Authenticated) -> Result<bool, IdentityError> {
        let needed = self.settings()?.security_view_auth_need_mfa;
        Ok(!needed || auth.mfa_until.is_some_and(|until| until > self.now()))
    }

    /// Whether a log-in of this user asks for a second factor, for the profile page.
    pub fn mfa_required(&self, user: &User) -> Result<bool, IdentityError> {
        Ok(mfa_need(user, self.is_admin(user)?, self.settings()?.as_ref()) != MfaNeed::No)
    }

    fn put_secret(
        &self,
        user: Uuid,
        batch: &mut gatehouse_store::Batch,
        change: impl FnOnce(&mut UserSecret),
    ) -> Result<(), IdentityError> {
        match self.store().system().versioned::<UserSecret>(user)? {
            Some((stored, version)) => {
                let mut stored = UserSecret::clone(&stored);
                change(&mut stored);
                batch.update(stored, version);
            }
            None => {
                let mut fresh = blank_secret(user);
                change(&mut fresh);
                batch.insert(fresh);
            }
        }
        Ok(())
    }

    fn put_user(
        &self,
        id: Uuid,
        by: &By,
        now: DateTime<Utc>,
        batch: &mut gatehouse_store::Batch,
        change: impl FnOnce(&mut User),
    ) -> Result<(), IdentityError> {
        let found = self.store().system().versioned::<User>(id)?;
        let (user, version) = found.ok_or(IdentityError::NotFound("the user"))?;
        let mut changed = User::clone(&user);
        change(&mut changed);
        changed.meta.date_updated = now;
        changed.meta.updated_by.clone_from(&by.display);
        batch.update(changed, version);
        Ok(())
    }
}
