//! Bearer secrets: bearer tokens, private tokens and browser sessions (X03). The store knows their SHA-256 only, so
//! nobody can list them or use them from a copy (CVE-2025-62712). What must not be here: reading them from a request
//! (`http_auth`).

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::user::{ApiToken, ApiTokenKind, User};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::login::{Door, Proof, clean};
use crate::{By, Identity, random};

/// The header in which a browser repeats its CSRF token (JumpServer, Django).
pub const CSRF_HEADER: &str = "x-csrftoken";

/// Tokens of one kind that a user can have at a time; the oldest goes when one more is made.
const MAX_TOKENS: usize = 128;

/// Answer of `POST /api/v1/authentication/auth/`.
pub struct BearerToken {
    pub id: Uuid,
    pub token: Zeroizing<String>,
    pub user: Arc<User>,
    pub date_expired: DateTime<Utc>,
}

/// What a browser is given after log-in.
pub struct BrowserSession {
    pub id: Uuid,
    /// For an `HttpOnly; Secure; SameSite` cookie.
    pub cookie: Zeroizing<String>,
    /// For a cookie that the page reads and repeats in `CSRF_HEADER`.
    pub csrf: String,
    pub user: Arc<User>,
    pub date_expired: DateTime<Utc>,
}

pub(crate) fn hash(secret: &str) -> [u8; 32] {
    let mut out = [0_u8; 32];
    for (to, from) in out.iter_mut().zip(digest(&SHA256, secret.as_bytes()).as_ref()) {
        *to = *from;
    }
    out
}

impl Identity {
    /// A bearer token for a proven log-in at the API or the web (CVE-2023-43652: what was proven at the SSH door, a key
    /// for example, is never exchanged for one).
    pub async fn create_bearer(&self, proof: &Proof, user_agent: &str) -> Result<BearerToken, IdentityError> {
        let seconds = self.settings()?.token_expiration;
        let (record, token) = self.new_token(proof, ApiTokenKind::Bearer, seconds, user_agent).await?;
        let date_expired = record.date_expired.unwrap_or(record.date_created);
        Ok(BearerToken { id: record.id, token, user: Arc::clone(proof.user()), date_expired })
    }

    /// A browser session for a proven log-in. With `user_login_single_machine_enabled` it ends the earlier ones (A36).
    pub async fn create_session(&self, proof: &Proof, user_agent: &str) -> Result<BrowserSession, IdentityError> {
        let seconds = self.settings()?.session_cookie_age;
        let (record, cookie) = self.new_token(proof, ApiTokenKind::Cookie, seconds, user_agent).await?;
        Ok(BrowserSession {
            id: record.id,
            cookie,
            csrf: self.csrf_token(record.id),
            user: Arc::clone(proof.user()),
            date_expired: record.date_expired.unwrap_or(record.date_created),
        })
    }

    async fn new_token(
        &self,
        proof: &Proof,
        kind: ApiTokenKind,
        seconds: u32,
        user_agent: &str,
    ) -> Result<(ApiToken, Zeroizing<String>), IdentityError> {
        if !matches!(proof.door(), Door::Api | Door::Web) {
            return Err(IdentityError::refused("token_invalid", "a log-in over SSH gives no API token"));
        }
        let now = self.now();
        let settings = self.settings()?;
        let user = self.user(proof.user().id)?;
        // The proof may be minutes old: a password that was changed since ended everything that came before.
        let outdated = user.date_password_last_updated.is_some_and(|changed| proof.at() < changed);
        if !user.is_valid(now) || outdated || now - proof.at() > TimeDelta::minutes(5) {
            return Err(IdentityError::refused("token_invalid", "the log-in is out of date; log in again"));
        }
        let secret = random::token()?;
        let window = TimeDelta::seconds(i64::from(settings.security_mfa_verify_ttl));
        let record = ApiToken {
            id: random::id(now)?,
            user: user.id,
            kind,
            hash: hash(&secret),
            date_created: now,
            date_expired: Some(now + TimeDelta::seconds(i64::from(seconds))),
            remote_addr: proof.ip().to_string(),
            user_agent: clean(user_agent, 255),
            mfa_until: proof.mfa().then(|| now + window),
        };
        let mut batch = self.store().batch();
        let mut others = self.tokens_of(user.id, kind)?;
        others.sort_by_key(|t| t.date_created);
        let keep = if kind == ApiTokenKind::Cookie && settings.user_login_single_machine_enabled {
            0
        } else {
            MAX_TOKENS.saturating_sub(1)
        };
        let surplus = others.len().saturating_sub(keep);
        for (i, old) in others.iter().enumerate() {
            if i < surplus || old.date_expired.is_some_and(|end| end <= now) {
                batch.delete::<ApiToken>(old.id);
            }
        }
        batch.insert(record.clone());
        self.store().commit(batch).await?;
        Ok((record, secret))
    }

    /// Makes the private token of a user (`Authorization: Token ...`); the earlier one stops working. Shown this once.
    pub async fn create_private_token(&self, user: Uuid, by: &By) -> Result<Zeroizing<String>, IdentityError> {
        let account = self.user(user)?;
        let now = self.now();
        if !account.is_valid(now) {
            return Err(IdentityError::refused("user_inactive", "the user is disabled or has expired"));
        }
        let secret = random::token()?;
        let mut batch = self.store().batch();
        for old in self.tokens_of(user, ApiTokenKind::Private)? {
            batch.delete::<ApiToken>(old.id);
        }
        batch.insert(ApiToken {
            id: random::id(now)?,
            user,
            kind: ApiTokenKind::Private,
            hash: hash(&secret),
            date_created: now,
            date_expired: None,
            remote_addr: by.remote_addr.clone(),
            user_agent: String::new(),
            mfa_until: None,
        });
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(secret)
    }

    fn tokens_of(&self, user: Uuid, kind: ApiTokenKind) -> Result<Vec<Arc<ApiToken>>, IdentityError> {
        let mut found = self.store().system().find::<ApiToken>("user", user.as_bytes())?;
        found.retain(|t| t.kind == kind);
        Ok(found)
    }

    /// What a user is signed in with now (tokens and browser sessions), newest first. The secrets are not in it.
    pub fn user_tokens(&self, user: Uuid) -> Result<Vec<Arc<ApiToken>>, IdentityError> {
        let now = self.now();
        let mut found = self.store().system().find::<ApiToken>("user", user.as_bytes())?;
        found.retain(|t| t.date_expired.is_none_or(|end| end > now));
        found.sort_by_key(|t| std::cmp::Reverse(t.id));
        Ok(found)
    }

    /// Ends one token or browser session of this user (log out).
    pub async fn revoke_token(&self, user: Uuid, token: Uuid, by: &By) -> Result<(), IdentityError> {
        let found = self.store().system().get::<ApiToken>(token)?.filter(|t| t.user == user);
        let record = found.ok_or(IdentityError::NotFound("the token"))?;
        let mut batch = self.store().batch();
        batch.delete::<ApiToken>(record.id);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }

    /// The CSRF token of a browser session: bound to it, so that one of another session (a cookie that a neighbour
    /// domain planted) does not do.
    pub fn csrf_token(&self, session: Uuid) -> String {
        let tag = hmac::sign(&self.inner.csrf_key, session.as_bytes());
        data_encoding::HEXLOWER.encode(tag.as_ref())
    }

    pub(crate) fn csrf_matches(&self, session: Uuid, given: &str) -> bool {
        let Ok(given) = data_encoding::HEXLOWER_PERMISSIVE.decode(given.as_bytes()) else { return false };
        // Constant in time.
        hmac::verify(&self.inner.csrf_key, session.as_bytes(), &given).is_ok()
    }
}
