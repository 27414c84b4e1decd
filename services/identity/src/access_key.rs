//! Access keys: pairs for HTTP Signature (A45, X02). The secret is shown once; checking a MAC needs it in clear, so it
//! lies in a record that is never cached.

use std::sync::Arc;

use chrono::TimeDelta;
use gatehouse_model::net::IpGroup;
use gatehouse_model::user::AccessKey;
use gatehouse_store::StoreError;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::{By, Identity, random};

/// Keys of one user.
const MAX_KEYS: usize = 64;
const LAST_USED_EVERY: TimeDelta = TimeDelta::minutes(1);
/// Tries of a change that something else comes in between.
const ATTEMPTS: usize = 8;

/// A key that was just made.
pub struct NewAccessKey {
    /// With a blank secret, as every list shows it.
    pub record: AccessKey,
    pub secret: Zeroizing<String>,
}

fn without_secret(key: &AccessKey) -> AccessKey {
    AccessKey { secret: String::new(), ..key.clone() }
}

impl Identity {
    /// Makes a key for a user. `ip_group`: from where it works.
    pub async fn create_access_key(
        &self,
        user: Uuid,
        ip_group: IpGroup,
        by: &By,
    ) -> Result<NewAccessKey, IdentityError> {
        self.user(user)?;
        if ip_group.0.is_empty() {
            return Err(IdentityError::field("ip_group", "an empty list matches nothing; use * for every address"));
        }
        if self.store().system().find::<AccessKey>("user", user.as_bytes())?.len() >= MAX_KEYS {
            return Err(IdentityError::refused("too_many", format!("a user can have {MAX_KEYS} access keys")));
        }
        let now = self.now();
        let secret = random::token()?;
        let key = AccessKey {
            id: random::id(now)?,
            user,
            secret: secret.to_string(),
            is_active: true,
            ip_group,
            date_created: now,
            date_last_used: None,
        };
        let record = without_secret(&key);
        let mut batch = self.store().batch();
        batch.insert(key);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(NewAccessKey { record, secret })
    }

    /// The keys of a user, oldest first, secrets blanked.
    pub fn access_keys(&self, user: Uuid) -> Result<Vec<AccessKey>, IdentityError> {
        let found = self.store().system().find::<AccessKey>("user", user.as_bytes())?;
        let mut keys: Vec<AccessKey> = found.iter().map(|k| without_secret(k)).collect();
        keys.sort_by_key(|k| k.id);
        Ok(keys)
    }

    /// Switches a key of this user on or off, or changes from where it works.
    pub async fn change_access_key(
        &self,
        user: Uuid,
        key: Uuid,
        is_active: Option<bool>,
        ip_group: Option<IpGroup>,
        by: &By,
    ) -> Result<AccessKey, IdentityError> {
        if ip_group.as_ref().is_some_and(|g| g.0.is_empty()) {
            return Err(IdentityError::field("ip_group", "an empty list matches nothing; use * for every address"));
        }
        // The note of the key's last use is written beside requests and may come in between.
        for _ in 0..ATTEMPTS {
            let (stored, version) = self.own_key(user, key)?;
            let mut changed = AccessKey::clone(&stored);
            changed.is_active = is_active.unwrap_or(changed.is_active);
            changed.ip_group = ip_group.clone().unwrap_or(changed.ip_group);
            let shown = without_secret(&changed);
            let mut batch = self.store().batch();
            batch.update(changed, version);
            by.write(&mut batch);
            match self.store().commit(batch).await {
                Ok(()) => {
                    self.inner.windows.forget(key);
                    return Ok(shown);
                }
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(IdentityError::Busy)
    }

    pub async fn delete_access_key(&self, user: Uuid, key: Uuid, by: &By) -> Result<(), IdentityError> {
        self.own_key(user, key)?;
        let mut batch = self.store().batch();
        batch.delete::<AccessKey>(key);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        self.inner.windows.forget(key);
        Ok(())
    }

    fn own_key(&self, user: Uuid, key: Uuid) -> Result<(Arc<AccessKey>, u64), IdentityError> {
        let found = self.store().system().versioned::<AccessKey>(key)?;
        found.filter(|(k, _)| k.user == user).ok_or(IdentityError::NotFound("the access key"))
    }

    /// Notes the use of a key beside the request, at most once a minute.
    pub(crate) fn access_key_used(&self, key: &AccessKey) {
        let now = self.now();
        if key.date_last_used.is_some_and(|at| now - at < LAST_USED_EVERY) {
            return;
        }
        let (identity, id) = (self.clone(), key.id);
        tokio::spawn(async move {
            let noted = async {
                let Some((stored, version)) = identity.store().system().versioned::<AccessKey>(id)? else {
                    return Ok(());
                };
                if stored.date_last_used.is_some_and(|at| now - at < LAST_USED_EVERY) {
                    return Ok(());
                }
                let mut batch = identity.store().batch();
                batch.update(AccessKey { date_last_used: Some(now), ..AccessKey::clone(&stored) }, version);
                identity.store().commit(batch).await
            };
            match noted.await {
                Ok(()) | Err(StoreError::Stale { .. }) => {}
                Err(error) => tracing::warn!(%error, "the last use of an access key could not be noted"),
            }
        });
    }
}
