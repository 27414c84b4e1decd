//! Connection tokens (P72, X10): identity, asset, account, protocol and method in one, started with an id and a value
//! that is shown once. What must not be here: whether the user may reach the asset; that is decided when the token is
//! made and again when the session starts.

use std::net::IpAddr;
use std::sync::Arc;

use chrono::TimeDelta;
use gatehouse_model::account::Secret;
use gatehouse_model::session::ConnectionToken;
use gatehouse_store::{AllOrgs, StoreError};
use serde_json::{Map, Value};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::{IdentityError, LoginCode, LoginError};
use crate::login::{BeginLogin, Door, Method, Proof, Redemption};
use crate::token::hash;
use crate::{By, Identity, random};

/// Characters of the value: 143 bits.
const VALUE_LENGTH: usize = 24;
/// Open tokens of one user.
const MAX_OPEN: usize = 256;
const RETRIES: usize = 16;

/// What a token is made for. The caller has decided that the user may.
pub struct ConnectionTokenRequest {
    pub org: Uuid,
    pub user: Uuid,
    pub asset: Uuid,
    pub asset_display: String,
    /// Account user name or alias.
    pub account: String,
    pub protocol: String,
    pub connect_method: String,
    pub input_username: String,
    /// The typed secret of a manual account.
    pub input_secret: Option<Zeroizing<String>>,
    pub connect_options: Map<String, Value>,
    pub reusable: bool,
}

/// A token that was accepted.
pub struct Redeemed {
    pub token: ConnectionToken,
    pub proof: Proof,
    /// The typed secret of a manual account.
    pub input_secret: Option<Zeroizing<String>>,
}

impl Identity {
    /// Makes a token. The value is returned this once; the store keeps its hash.
    pub async fn create_connection_token(
        &self,
        request: ConnectionTokenRequest,
        by: &By,
    ) -> Result<(ConnectionToken, Zeroizing<String>), IdentityError> {
        let settings = self.settings()?;
        let user = self.user(request.user)?;
        let now = self.now();
        if !user.is_valid(now) {
            return Err(IdentityError::refused("user_inactive", "the user is disabled or has expired"));
        }
        if request.reusable && !settings.connection_token_reusable {
            return Err(IdentityError::refused("reusable_disabled", "reusable connection tokens are switched off"));
        }
        let seconds = if request.reusable {
            settings.connection_token_reusable_expiration
        } else {
            settings.connection_token_onetime_expiration
        };
        let value = random::alphanumeric(VALUE_LENGTH)?;
        let token = ConnectionToken {
            id: random::id(now)?,
            org_id: request.org,
            value_hash: hash(&value),
            user: user.id,
            user_display: user.display(),
            asset: request.asset,
            asset_display: request.asset_display,
            account: request.account,
            protocol: request.protocol,
            connect_method: request.connect_method,
            input_username: request.input_username,
            has_input_secret: request.input_secret.is_some(),
            connect_options: request.connect_options,
            remote_addr: by.remote_addr.clone(),
            is_active: true,
            is_reusable: request.reusable,
            used: 0,
            date_created: now,
            date_expired: now + TimeDelta::seconds(i64::from(seconds)),
        };
        let mut batch = self.store().batch();
        let mut mine = self.tokens_for(user.id)?;
        mine.sort_by_key(|t| t.date_created);
        let surplus = (mine.len() + 1).saturating_sub(MAX_OPEN);
        for old in mine.into_iter().take(surplus) {
            batch.delete::<ConnectionToken>(old.id);
            batch.delete::<Secret>(old.id);
        }
        if let Some(secret) = request.input_secret {
            batch.insert(Secret { id: token.id, org_id: token.org_id, secret: secret.to_string(), passphrase: None });
        }
        batch.insert(token.clone());
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok((token, value))
    }

    fn tokens_for(&self, user: Uuid) -> Result<Vec<Arc<ConnectionToken>>, IdentityError> {
        let everywhere = self.store().all_orgs(AllOrgs::crossing_organizations());
        Ok(everywhere.find::<ConnectionToken>("user", user.as_bytes())?)
    }

    /// The tokens of a user in an organization, newest first. The values are not in them.
    pub fn connection_tokens(&self, org: Uuid, user: Uuid) -> Result<Vec<Arc<ConnectionToken>>, IdentityError> {
        let mut found = self.store().in_org(org).find::<ConnectionToken>("user", user.as_bytes())?;
        found.sort_by_key(|t| std::cmp::Reverse(t.id));
        Ok(found)
    }

    fn own_token(&self, org: Uuid, user: Uuid, id: Uuid) -> Result<(Arc<ConnectionToken>, u64), IdentityError> {
        let found = self.store().in_org(org).versioned::<ConnectionToken>(id)?;
        found.filter(|(t, _)| t.user == user).ok_or(IdentityError::NotFound("the connection token"))
    }

    /// Ends a token of this user before its time (JumpServer: `<id>/expire/`).
    pub async fn expire_connection_token(
        &self,
        org: Uuid,
        user: Uuid,
        id: Uuid,
        by: &By,
    ) -> Result<ConnectionToken, IdentityError> {
        for _ in 0..RETRIES {
            let (token, version) = self.own_token(org, user, id)?;
            let now = self.now();
            let mut ended = ConnectionToken::clone(&token);
            ended.is_active = false;
            ended.date_expired = ended.date_expired.min(now);
            let mut batch = self.store().batch();
            batch.update(ended.clone(), version);
            batch.delete::<Secret>(id);
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => return Ok(ended),
                Err(StoreError::Stale { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// Makes a token of this user reusable, or one-time again (JumpServer: `<id>/reuse/`).
    pub async fn set_connection_token_reusable(
        &self,
        org: Uuid,
        user: Uuid,
        id: Uuid,
        reusable: bool,
        by: &By,
    ) -> Result<ConnectionToken, IdentityError> {
        let settings = self.settings()?;
        if reusable && !settings.connection_token_reusable {
            return Err(IdentityError::refused("reusable_disabled", "reusable connection tokens are switched off"));
        }
        for _ in 0..RETRIES {
            let (token, version) = self.own_token(org, user, id)?;
            let now = self.now();
            if !token.is_active || token.date_expired <= now {
                return Err(IdentityError::refused("token_invalid", "the token has ended; make a new one"));
            }
            let seconds = if reusable {
                settings.connection_token_reusable_expiration
            } else {
                settings.connection_token_onetime_expiration
            };
            let mut changed = ConnectionToken::clone(&token);
            changed.is_reusable = reusable;
            changed.date_expired = token.date_created + TimeDelta::seconds(i64::from(seconds));
            // One that was used while it was reusable has had its one time.
            changed.is_active = reusable || token.used == 0;
            let mut batch = self.store().batch();
            batch.update(changed.clone(), version);
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => return Ok(changed),
                Err(StoreError::Stale { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    /// Starts a session with a token (`JMS-<id>` and its value). A one-time token is used up here: of two at the same
    /// time one wins. Wrong values count for the lock of the address.
    pub async fn redeem(
        &self,
        id: Uuid,
        value: &str,
        ip: IpAddr,
        door: Door,
        user_agent: &str,
    ) -> Result<Redeemed, LoginError> {
        let begin = BeginLogin { username: format!("JMS-{id}"), ip, door, user_agent: user_agent.to_owned() };
        let mut redemption = Redemption::new(self.clone(), &begin);
        redemption.gate().await?;
        let everywhere = self.store().all_orgs(AllOrgs::crossing_organizations());
        let given = hash(value);
        for _ in 0..RETRIES {
            let found = everywhere.versioned::<ConnectionToken>(id)?;
            let now = self.now();
            // Compared for unknown tokens as well.
            let stored = found.as_ref().map_or([0; 32], |(t, _)| t.value_hash);
            let right: bool = given.ct_eq(&stored).into();
            let Some((token, version)) = found.filter(|_| right) else {
                return Err(redemption.wrong().await);
            };
            let user = match self.user(token.user) {
                Ok(user) => user,
                Err(IdentityError::NotFound(_)) => return Err(redemption.wrong().await),
                Err(other) => return Err(other.into()),
            };
            redemption.is_for(&user);
            if !token.is_active || token.date_expired <= now || (!token.is_reusable && token.used > 0) {
                let told = "the connection token has ended or was used already; make a new one";
                return Err(redemption.refuse(LoginError::new(LoginCode::TokenInvalid, told), "ended").await);
            }
            if token.is_reusable && !self.settings()?.connection_token_reusable {
                let told = "reusable connection tokens are switched off";
                return Err(redemption.refuse(LoginError::new(LoginCode::TokenInvalid, told), "reusable").await);
            }
            let notices = redemption.admit(&user).await?;
            let input_secret = if token.has_input_secret {
                let stored = self.store().in_org(token.org_id).get::<Secret>(token.id)?;
                stored.map(|s| Zeroizing::new(s.secret.clone()))
            } else {
                None
            };
            let mut used = ConnectionToken::clone(&token);
            used.used = used.used.saturating_add(1);
            used.is_active = used.is_reusable;
            let mut batch = self.store().batch();
            batch.update(used.clone(), version);
            if !used.is_reusable {
                batch.delete::<Secret>(token.id);
            }
            let (entry, proof) = redemption.success(&user, Method::ConnectionToken)?;
            batch.audit(entry);
            match self.store().commit(batch).await {
                Ok(()) => {
                    redemption.tell(&user, notices);
                    return Ok(Redeemed { token: used, proof, input_secret });
                }
                Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => {}
                Err(other) => return Err(other.into()),
            }
        }
        Err(LoginError::busy())
    }
}
