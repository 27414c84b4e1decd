//! The first factor: password, one-time codes, SSH key, certificate.

use std::net::IpAddr;
use std::sync::Arc;

use gatehouse_model::settings::Settings;
use gatehouse_model::user::{SshKey, TempPassword, User, UserSecret, UserSource};
use gatehouse_store::StoreError;
use russh::keys::{Certificate, PublicKey};
use russh::server::VerifiedPublicKey;
use uuid::Uuid;

use super::finish::{Login, OneTime};
use super::{BeginLogin, Door, Method, Step};
use crate::Identity;
use crate::error::{IdentityError, LoginCode, LoginError};
use crate::temp_password::Prefix;

/// A log-in of which nothing is proven yet.
pub struct Attempt {
    login: Login,
    /// What the key proved, when the password is wanted as well.
    first: Option<(Method, Option<Uuid>)>,
    finished: bool,
}

/// What a typed password is compared with.
struct Candidates {
    hashes: Vec<Option<String>>,
    one_time: Vec<(Arc<TempPassword>, u64)>,
    prefix: Option<Prefix>,
}

impl Attempt {
    pub(super) fn new(identity: Identity, begin: &BeginLogin) -> Self {
        Self { login: Login::new(identity, begin), first: None, finished: false }
    }

    pub fn username(&self) -> &str {
        &self.login.username
    }

    pub fn ip(&self) -> IpAddr {
        self.login.ip
    }

    /// Checks a password, a temporary password or a set-up code. A user that does not exist costs the same work and
    /// gets the same answer.
    pub async fn password(&mut self, password: &str) -> Result<Step, LoginError> {
        if self.finished {
            return Err(LoginError::finished());
        }
        let settings = self.login.identity.settings()?;
        if self.login.door == Door::Ssh {
            if !settings.terminal_password_auth {
                let told =
                    LoginError::new(LoginCode::MethodDisabled, "password log-in is switched off here; use an SSH key");
                return Err(self.login.refuse(told, LoginCode::MethodDisabled, "Password", "").await);
            }
            if settings.terminal_force_multi_auth && self.first.is_none() {
                let told = LoginError::new(
                    LoginCode::MethodDisabled,
                    "an SSH key is needed before the password; offer a key that is registered for this user",
                );
                return Err(self.login.refuse(told, LoginCode::MethodDisabled, "Password", "a key comes first").await);
            }
        }
        if !self.login.identity.inner.limit.take(self.login.ip, self.login.identity.now()) {
            return Err(self.login.refuse(LoginError::throttled(), LoginCode::Throttled, "Password", "").await);
        }
        let user = self.login.lookup()?;
        self.login.gate(user.as_deref(), "Password").await?;

        let local =
            user.as_ref().is_some_and(|u| u.source == UserSource::Local || !settings.only_allow_auth_from_source);
        let candidates = self.candidates(user.as_deref(), local, password, &settings)?;
        let Candidates { hashes, one_time, prefix } = candidates;
        let found = self.login.identity.inner.hasher.check(Some(self.login.ip), password, hashes).await;
        let found = match found {
            Ok(found) => found,
            Err(IdentityError::Busy) => {
                return Err(self.login.refuse(LoginError::busy(), LoginCode::ServerBusy, "Password", "").await);
            }
            Err(other) => return Err(other.into()),
        };
        let (Some(user), Some(found)) = (&user, found) else {
            let code = match &user {
                None => LoginCode::UserNotExist,
                Some(_) if !local => LoginCode::BackendNotMatch,
                Some(_) => LoginCode::PasswordFailed,
            };
            return Err(self.login.wrong(user.as_deref(), code, "Password").await);
        };
        let (method, one_time) = match (found.checked_sub(1), prefix) {
            (None, _) if self.first.is_some() => (Method::KeyAndPassword, None),
            (None, _) => (Method::Password, None),
            (Some(i), Some(prefix)) => {
                let record = one_time.into_iter().nth(i).ok_or_else(LoginError::finished)?;
                (prefix.method(), Some(record))
            }
            // One-time hashes are among the candidates for prefixed codes only.
            (Some(_), None) => return Err(LoginError::finished()),
        };
        self.login.identity.inner.limit.give_back(self.login.ip);
        let key = self.first.and_then(|(_, key)| key);
        let one_time = one_time.map(|(record, version)| OneTime { record, version });
        let step = self.login.first_factor(user, method, key, one_time).await?;
        self.finished = true;
        Ok(step)
    }

    /// Always the same number of hashes for the same kind of input, whoever the user is.
    fn candidates(
        &self,
        user: Option<&User>,
        local: bool,
        typed: &str,
        settings: &Settings,
    ) -> Result<Candidates, LoginError> {
        let store = self.login.identity.store().system();
        let main = match user.filter(|_| local) {
            Some(user) => store.get::<UserSecret>(user.id)?.and_then(|s| s.password_hash.clone()),
            None => None,
        };
        let mut out = Candidates { hashes: vec![main], one_time: Vec::new(), prefix: Prefix::of(typed) };
        let Some(prefix) = out.prefix else { return Ok(out) };
        let usable = prefix != Prefix::Temp || settings.auth_temp_token;
        if let Some(user) = user.filter(|_| usable) {
            out.one_time = self.login.identity.open_one_time(user.id, prefix)?;
        }
        out.hashes.extend((0..Prefix::MOST_OPEN).map(|i| out.one_time.get(i).map(|(r, _)| r.hash.clone())));
        Ok(out)
    }

    /// Whether it is worth the client's while to sign with this key: it is registered for the user, or a certificate
    /// authority is trusted (whether a certificate comes with the key cannot be seen at this point). Nothing is
    /// counted, logged or remembered, and a `true` proves nothing.
    pub fn key_offered(&self, key: &PublicKey) -> bool {
        let asked = || -> Result<bool, StoreError> {
            let settings = self.login.identity.settings()?;
            if self.finished || self.first.is_some() || !settings.terminal_public_key_auth {
                return Ok(false);
            }
            if self.login.identity.trusts_any_ca()? {
                return Ok(true);
            }
            let Some(user) = self.login.lookup()? else { return Ok(false) };
            Ok(self.login.identity.find_user_key(&user, key)?.is_some())
        };
        asked().unwrap_or_else(|error| {
            tracing::error!(%error, "an offered key could not be looked up");
            false
        })
    }

    /// The client signed with a key. The argument can be made by the SSH library only, after it verified the signature
    /// over this connection's session id: possession is proven by type (CVE-2023-42818, CVE-2023-43652).
    pub async fn key_proven(&mut self, key: VerifiedPublicKey<'_>) -> Result<Step, LoginError> {
        let label = Method::SshKey.label();
        self.key_gate(label).await?;
        let user = self.login.lookup()?;
        self.login.gate(user.as_deref(), label).await?;
        let found = match &user {
            Some(user) => self.login.identity.find_user_key(user, key.public_key)?,
            None => None,
        };
        let (Some(user), Some(record)) = (user, found) else {
            let code = LoginCode::KeyFailed;
            let told = LoginError::new(code, "this SSH key is not registered for this user").retry();
            return Err(self.login.refuse(told, code, label, "").await);
        };
        if crate::ssh_key::signed_with_sha1(key.algorithm) {
            let told =
                LoginError::new(LoginCode::KeyFailed, "signatures with SHA-1 (ssh-rsa) are not accepted").retry();
            return Err(self.login.refuse(told, LoginCode::KeyFailed, label, "SHA-1").await);
        }
        self.after_key(&user, Method::SshKey, Some(&record)).await
    }

    /// The client signed with the key of a certificate. Call it only from `Handler::auth_openssh_certificate`, which
    /// the SSH library calls after it verified that signature; everything about the certificate itself is checked here.
    pub async fn certificate_proven(&mut self, certificate: &Certificate) -> Result<Step, LoginError> {
        let label = Method::Certificate.label();
        self.key_gate(label).await?;
        let user = self.login.lookup()?;
        self.login.gate(user.as_deref(), label).await?;
        let checked = match &user {
            Some(user) => self.login.identity.check_certificate(certificate, &user.username, self.login.ip)?,
            None => Err(crate::CertificateError::Principal),
        };
        match (user, checked) {
            (Some(user), Ok(())) => self.after_key(&user, Method::Certificate, None).await,
            (_, checked) => {
                let why = checked.err().map(|e| e.to_string()).unwrap_or_default();
                // Which check failed is for the auditor; outside it would tell which users exist.
                let told =
                    LoginError::new(LoginCode::KeyFailed, "the certificate is not accepted for this user").retry();
                Err(self.login.refuse(told, LoginCode::KeyFailed, label, &why).await)
            }
        }
    }

    async fn key_gate(&mut self, label: &str) -> Result<(), LoginError> {
        if self.finished {
            return Err(LoginError::finished());
        }
        if !self.login.identity.settings()?.terminal_public_key_auth {
            let told = LoginError::new(LoginCode::MethodDisabled, "log-in with SSH keys is switched off here");
            return Err(self.login.refuse(told, LoginCode::MethodDisabled, label, "").await);
        }
        Ok(())
    }

    async fn after_key(&mut self, user: &Arc<User>, method: Method, key: Option<&SshKey>) -> Result<Step, LoginError> {
        let settings = self.login.identity.settings()?;
        if user.source != UserSource::Local && settings.only_allow_auth_from_source {
            let told = LoginError::new(LoginCode::KeyFailed, "this user logs in through another system only");
            return Err(self.login.refuse(told, LoginCode::BackendNotMatch, method.label(), "").await);
        }
        if let Some(key) = key {
            self.login.identity.key_used(key).await;
        }
        if settings.terminal_force_multi_auth {
            // Before the password is asked for: a user who may not come in is told now.
            self.login.admit(user, method).await?;
            self.first = Some((method, key.map(|k| k.id)));
            return Ok(Step::Password);
        }
        let step = self.login.first_factor(user, method, key.map(|k| k.id), None).await?;
        self.finished = true;
        Ok(step)
    }
}
