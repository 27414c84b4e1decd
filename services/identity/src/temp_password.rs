//! Passwords that work once: temporary passwords that users make for themselves (A44) and set-up codes. Stored as
//! Argon2id hashes. The prefix is part of what is hashed: one kind can never stand in for the other, and which kind is
//! typed decides the work that is done, not whose it is.

use std::sync::Arc;

use chrono::TimeDelta;
use gatehouse_model::user::TempPassword;
use gatehouse_store::StoreError;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::login::Method;
use crate::{By, Identity, random};

/// Random characters after the prefix: 143 bits.
const LENGTH: usize = 24;
/// Used-up and expired ones that are kept for the user to see.
const MAX_KEPT: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Prefix {
    Temp,
    SetUp,
}

impl Prefix {
    /// Most open records that one user can have: one of each kind.
    pub(crate) const MOST_OPEN: usize = 2;

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Temp => "tmp-",
            Self::SetUp => "setup-",
        }
    }

    pub(crate) fn of(typed: &str) -> Option<Self> {
        [Self::Temp, Self::SetUp].into_iter().find(|p| typed.starts_with(p.text()))
    }

    pub(crate) const fn method(self) -> Method {
        match self {
            Self::Temp => Method::TempPassword,
            Self::SetUp => Method::SetUpCode,
        }
    }

    /// How the record says its kind: beside the user name, which it repeats for the log.
    fn mark(self, username: &str) -> String {
        match self {
            Self::Temp => username.to_owned(),
            Self::SetUp => format!("{SET_UP_MARK}{username}"),
        }
    }

    fn of_record(record: &TempPassword) -> Self {
        if record.username.starts_with(SET_UP_MARK) { Self::SetUp } else { Self::Temp }
    }
}

/// A blank is in no user name (model), so no name begins like this.
const SET_UP_MARK: &str = "set-up code of ";

impl Identity {
    /// Makes a temporary password for a user; shown this once. The user's earlier one stops working.
    pub async fn create_temp_password(
        &self,
        user: Uuid,
        by: &By,
    ) -> Result<(TempPassword, Zeroizing<String>), IdentityError> {
        let settings = self.settings()?;
        if !settings.auth_temp_token {
            return Err(IdentityError::refused("temp_password_disabled", "temporary passwords are switched off"));
        }
        if !self.user(user)?.is_valid(self.now()) {
            return Err(IdentityError::refused("user_inactive", "the user is disabled or has expired"));
        }
        let ttl = TimeDelta::seconds(i64::from(settings.auth_temp_token_ttl));
        let secret = self.new_one_time(user, Prefix::Temp, ttl, by).await?;
        let newest = self.temp_passwords(user)?.into_iter().next().ok_or(IdentityError::NotFound("the password"))?;
        Ok((newest, secret))
    }

    /// The temporary passwords of a user, newest first; the hashes are blanked.
    pub fn temp_passwords(&self, user: Uuid) -> Result<Vec<TempPassword>, IdentityError> {
        let mut found: Vec<TempPassword> = self
            .records(user)?
            .into_iter()
            .filter(|r| Prefix::of_record(r) == Prefix::Temp)
            .map(|r| TempPassword { hash: String::new(), ..TempPassword::clone(&r) })
            .collect();
        found.sort_by_key(|r| std::cmp::Reverse((r.date_created, r.id)));
        Ok(found)
    }

    /// Makes a temporary password useless before its time.
    pub async fn expire_temp_password(&self, user: Uuid, id: Uuid, by: &By) -> Result<(), IdentityError> {
        let record = self.records(user)?.into_iter().find(|r| r.id == id && Prefix::of_record(r) == Prefix::Temp);
        let record = record.ok_or(IdentityError::NotFound("the temporary password"))?;
        let mut batch = self.store().batch();
        batch.delete::<TempPassword>(record.id);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }

    fn records(&self, user: Uuid) -> Result<Vec<Arc<TempPassword>>, StoreError> {
        self.store().system().find::<TempPassword>("user", user.as_bytes())
    }

    pub(crate) async fn new_one_time(
        &self,
        user: Uuid,
        prefix: Prefix,
        ttl: TimeDelta,
        by: &By,
    ) -> Result<Zeroizing<String>, IdentityError> {
        let account = self.user(user)?;
        let secret = Zeroizing::new(format!("{}{}", prefix.text(), random::alphanumeric(LENGTH)?.as_str()));
        let hash = self.inner.hasher.hash(&secret).await?;
        let now = self.now();
        let mut batch = self.store().batch();
        let mut kept = self.records(user)?;
        kept.sort_by_key(|r| r.date_created);
        let surplus = kept.len().saturating_sub(MAX_KEPT);
        for (i, old) in kept.iter().enumerate() {
            let open = !old.verified && old.date_expired > now;
            if (open && Prefix::of_record(old) == prefix) || (!open && i < surplus) {
                batch.delete::<TempPassword>(old.id);
            }
        }
        batch.insert(TempPassword {
            id: random::id(now)?,
            user,
            username: prefix.mark(&account.username),
            hash,
            verified: false,
            date_created: now,
            date_expired: now + ttl,
            date_verified: None,
        });
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(secret)
    }

    /// Records of one kind that still work, with the versions under which they are used up.
    pub(crate) fn open_one_time(
        &self,
        user: Uuid,
        prefix: Prefix,
    ) -> Result<Vec<(Arc<TempPassword>, u64)>, IdentityError> {
        let now = self.now();
        let mut open = Vec::new();
        for record in self.records(user)? {
            if record.verified || record.date_expired <= now || Prefix::of_record(&record) != prefix {
                continue;
            }
            if let Some(versioned) = self.store().system().versioned::<TempPassword>(record.id)? {
                open.push(versioned);
            }
        }
        open.sort_by_key(|(r, _)| std::cmp::Reverse(r.date_created));
        open.truncate(Prefix::MOST_OPEN);
        Ok(open)
    }

    /// Uses a record up. Of two log-ins at the same time one gets `true`.
    pub(crate) async fn use_up(&self, record: &TempPassword, version: u64) -> Result<bool, IdentityError> {
        let now = self.now();
        if record.verified || record.date_expired <= now {
            return Ok(false);
        }
        let mut batch = self.store().batch();
        batch.update(TempPassword { verified: true, date_verified: Some(now), ..record.clone() }, version);
        match self.store().commit(batch).await {
            Ok(()) => Ok(true),
            Err(StoreError::Stale { .. } | StoreError::NotFound { .. }) => Ok(false),
            Err(other) => Err(other.into()),
        }
    }
}
