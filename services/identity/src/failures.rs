//! Locks after failed log-ins (A33, A34): per user name, per address, and per user for the second factor. Kept in the
//! store, so that a restart lifts no lock. Names that belong to nobody are counted the same way, in bounded memory, so
//! that a lock tells nothing about who exists. What must not be here: how fast one may try (`limit`).

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::settings::Settings;
use gatehouse_model::user::{LoginFailures, User};
use gatehouse_store::{Batch, Store};
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard};
use uuid::Uuid;

use crate::error::IdentityError;
use crate::limit::client_key;
use crate::{By, Identity, random};

/// Names of nobody that are remembered.
const MAX_UNKNOWN: usize = 4_096;
/// Records of addresses that are kept; beyond it the ones that matter least go.
const MAX_ADDRESSES: usize = 10_000;
const STRIPES: usize = 64;

/// Whose failures are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// A log-in name in lower case; `known`: a user has it.
    Name { name: String, known: bool },
    /// The second factor of a user, by log-in name in lower case.
    Mfa(String),
    /// An address, or the /64 of an IPv6 address.
    Ip(IpAddr),
}

impl Subject {
    pub(crate) fn name(username: &str, known: bool) -> Self {
        Self::Name { name: username.to_lowercase(), known }
    }

    pub(crate) fn ip(ip: IpAddr) -> Self {
        Self::Ip(client_key(ip))
    }

    fn key(&self) -> String {
        match self {
            Self::Name { name, .. } => format!("user:{name}"),
            Self::Mfa(name) => format!("mfa:{name}"),
            Self::Ip(ip) => format!("ip:{ip}"),
        }
    }

    fn rule(&self, settings: &Settings) -> (u32, u32) {
        match self {
            Self::Name { .. } | Self::Mfa(_) => {
                (settings.security_login_limit_count, settings.security_login_limit_time)
            }
            Self::Ip(_) => (settings.security_login_ip_limit_count, settings.security_login_ip_limit_time),
        }
    }
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) tries_left: u32,
    /// Length of a lock, or the rest of it (minutes, at least 1).
    pub(crate) lock_minutes: u32,
    /// This failure was the one that locked.
    pub(crate) locked_now: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tally {
    count: u32,
    first: DateTime<Utc>,
    blocked_until: Option<DateTime<Utc>>,
}

impl Tally {
    fn blocked_minutes(&self, now: DateTime<Utc>) -> Option<u32> {
        let left = self.blocked_until? - now;
        (left > TimeDelta::zero()).then(|| u32::try_from(left.num_seconds() / 60 + 1).unwrap_or(u32::MAX))
    }

    /// Neither locked nor within the time in which failures add up.
    fn is_over(&self, now: DateTime<Utc>, minutes: u32) -> bool {
        self.blocked_until.map_or(self.first + TimeDelta::minutes(i64::from(minutes)), |until| until) <= now
    }

    fn add(before: Option<Self>, now: DateTime<Utc>, limit: u32, minutes: u32) -> (Self, Counted) {
        let before = before.filter(|t| !t.is_over(now, minutes));
        let mut tally = before.unwrap_or(Self { count: 0, first: now, blocked_until: None });
        tally.count = tally.count.saturating_add(1);
        let locked_now = tally.count >= limit && tally.blocked_until.is_none();
        if locked_now {
            tally.blocked_until = Some(now + TimeDelta::minutes(i64::from(minutes)));
        }
        let tries_left = limit.saturating_sub(tally.count);
        (tally, Counted { tries_left, lock_minutes: minutes, locked_now })
    }
}

impl From<&LoginFailures> for Tally {
    fn from(record: &LoginFailures) -> Self {
        Self { count: record.count, first: record.first, blocked_until: record.blocked_until }
    }
}

pub(crate) struct Failures {
    store: Store,
    unknown: Mutex<HashMap<String, Tally>>,
    names: Vec<AsyncMutex<()>>,
    addresses: Vec<AsyncMutex<()>>,
}

/// While it is held nobody else counts for the same name or address: attempts made at the same time cannot get more
/// tries than one after the other.
pub(crate) struct Turn<'a> {
    _name: Option<MutexGuard<'a, ()>>,
    _address: Option<MutexGuard<'a, ()>>,
}

impl Failures {
    pub(crate) fn new(store: Store) -> Self {
        let stripes = || (0..STRIPES).map(|_| AsyncMutex::new(())).collect();
        Self { store, unknown: Mutex::new(HashMap::new()), names: stripes(), addresses: stripes() }
    }

    /// Names before addresses, always: no two turns wait for each other.
    pub(crate) async fn turn(&self, username: &str, ip: IpAddr) -> Turn<'_> {
        let name = match self.names.get(stripe(&username.to_lowercase())) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        let address = match self.addresses.get(stripe(&client_key(ip))) {
            Some(lock) => Some(lock.lock().await),
            None => None,
        };
        Turn { _name: name, _address: address }
    }

    /// Minutes that a lock still lasts.
    pub(crate) fn blocked(&self, subject: &Subject, now: DateTime<Utc>) -> Result<Option<u32>, IdentityError> {
        if let Subject::Name { name, known: false } = subject {
            return Ok(self.unknown.lock().get(name).and_then(|t| t.blocked_minutes(now)));
        }
        Ok(self.record(subject)?.and_then(|r| Tally::from(r.as_ref()).blocked_minutes(now)))
    }

    fn record(&self, subject: &Subject) -> Result<Option<Arc<LoginFailures>>, IdentityError> {
        let found = self.store.system().find::<LoginFailures>("subject", subject.key().as_bytes())?;
        Ok(found.into_iter().next())
    }

    /// Counts one failure; the record goes into the batch that writes the attempt to the ledger. Call it during a turn.
    pub(crate) fn count(
        &self,
        subject: &Subject,
        now: DateTime<Utc>,
        settings: &Settings,
        batch: &mut Batch,
    ) -> Result<Counted, IdentityError> {
        let (limit, minutes) = subject.rule(settings);
        if let Subject::Name { name, known: false } = subject {
            let mut unknown = self.unknown.lock();
            let (tally, counted) = Tally::add(unknown.get(name).copied(), now, limit, minutes);
            if !unknown.contains_key(name) && unknown.len() >= MAX_UNKNOWN {
                make_room(&mut unknown, now, minutes);
            }
            unknown.insert(name.clone(), tally);
            return Ok(counted);
        }
        let before = self.record(subject)?;
        let (tally, counted) = Tally::add(before.as_deref().map(Tally::from), now, limit, minutes);
        let id = match &before {
            Some(record) => record.id,
            None => {
                if matches!(subject, Subject::Ip(_)) {
                    self.make_room_for_address(now, minutes, batch)?;
                }
                random::id(now)?
            }
        };
        batch.put(LoginFailures {
            id,
            subject: subject.key(),
            count: tally.count,
            first: tally.first,
            blocked_until: tally.blocked_until,
        });
        Ok(counted)
    }

    /// Forgets the failures of a subject.
    pub(crate) fn clear(&self, subject: &Subject, batch: &mut Batch) -> Result<bool, IdentityError> {
        if let Subject::Name { name, known: false } = subject {
            return Ok(self.unknown.lock().remove(name).is_some());
        }
        let Some(record) = self.record(subject)? else { return Ok(false) };
        batch.delete::<LoginFailures>(record.id);
        Ok(true)
    }

    fn make_room_for_address(&self, now: DateTime<Utc>, minutes: u32, batch: &mut Batch) -> Result<(), IdentityError> {
        if self.store.system().count::<LoginFailures>()? < MAX_ADDRESSES {
            return Ok(());
        }
        let mut addresses: Vec<Arc<LoginFailures>> =
            self.store.system().list::<LoginFailures>()?.into_iter().filter(|r| r.subject.starts_with("ip:")).collect();
        // What is over goes first, then what is not locked, then the oldest.
        addresses.sort_by_key(|r| {
            let tally = Tally::from(r.as_ref());
            (!tally.is_over(now, minutes), tally.blocked_minutes(now).is_some(), tally.first)
        });
        for record in addresses.into_iter().take(MAX_ADDRESSES / 10) {
            batch.delete::<LoginFailures>(record.id);
        }
        Ok(())
    }

    /// Records whose time is over, for the periodic clean-up.
    pub(crate) fn sweep(
        &self,
        now: DateTime<Utc>,
        settings: &Settings,
        batch: &mut Batch,
    ) -> Result<usize, IdentityError> {
        self.unknown.lock().retain(|_, t| !t.is_over(now, settings.security_login_limit_time));
        let mut gone = 0;
        for record in self.store.system().list::<LoginFailures>()? {
            let minutes = if record.subject.starts_with("ip:") {
                settings.security_login_ip_limit_time
            } else {
                settings.security_login_limit_time
            };
            if Tally::from(record.as_ref()).is_over(now, minutes) {
                batch.delete::<LoginFailures>(record.id);
                gone += 1;
            }
        }
        Ok(gone)
    }
}

fn stripe(of: &impl std::hash::Hash) -> usize {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    usize::try_from(hasher.finish() % STRIPES as u64).unwrap_or(0)
}

fn make_room(unknown: &mut HashMap<String, Tally>, now: DateTime<Utc>, minutes: u32) {
    unknown.retain(|_, t| !t.is_over(now, minutes));
    if unknown.len() < MAX_UNKNOWN {
        return;
    }
    let mut oldest: Vec<(bool, DateTime<Utc>, String)> =
        unknown.iter().map(|(name, t)| (t.blocked_until.is_some(), t.first, name.clone())).collect();
    oldest.sort();
    for (_, _, name) in oldest.into_iter().take(MAX_UNKNOWN / 10) {
        unknown.remove(&name);
    }
}

/// Who is locked out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locked {
    pub subject: LockedSubject,
    pub failures: u32,
    pub since: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LockedSubject {
    /// Log-in name in lower case.
    User(String),
    /// The second factor of the user with this log-in name.
    Mfa(String),
    /// An address; for IPv6 the first one of the locked /64.
    Ip(IpAddr),
}

impl Identity {
    /// Users and addresses that are locked now (A34).
    pub fn locked(&self) -> Result<Vec<Locked>, IdentityError> {
        let now = self.now();
        let mut out = Vec::new();
        for record in self.store().system().list::<LoginFailures>()? {
            let Some(until) = record.blocked_until.filter(|until| *until > now) else { continue };
            let subject = match record.subject.split_once(':') {
                Some(("user", name)) => LockedSubject::User(name.to_owned()),
                Some(("mfa", name)) => LockedSubject::Mfa(name.to_owned()),
                Some(("ip", ip)) => match ip.parse() {
                    Ok(ip) => LockedSubject::Ip(ip),
                    Err(_) => continue,
                },
                _ => continue,
            };
            out.push(Locked { subject, failures: record.count, since: record.first, until });
        }
        Ok(out)
    }

    pub fn is_user_locked(&self, user: &User) -> Result<bool, IdentityError> {
        let now = self.now();
        let name = user.username.to_lowercase();
        Ok(self.inner.failures.blocked(&Subject::name(&name, true), now)?.is_some()
            || self.inner.failures.blocked(&Subject::Mfa(name), now)?.is_some())
    }

    /// Lifts the locks of a user, second factor included (A33). `false`: there was none.
    pub async fn unlock_user(&self, user: Uuid, by: &By) -> Result<bool, IdentityError> {
        let user = self.user(user)?;
        let _turn = self.inner.failures.turn(&user.username, IpAddr::from([0, 0, 0, 0])).await;
        let mut batch = self.store().batch();
        let name = self.inner.failures.clear(&Subject::name(&user.username, true), &mut batch)?;
        let mfa = self.inner.failures.clear(&Subject::Mfa(user.username.to_lowercase()), &mut batch)?;
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(name || mfa)
    }

    /// Lifts the lock of an address (A34). `false`: there was none.
    pub async fn unlock_ip(&self, ip: IpAddr, by: &By) -> Result<bool, IdentityError> {
        let _turn = self.inner.failures.turn("", ip).await;
        let mut batch = self.store().batch();
        let found = self.inner.failures.clear(&Subject::ip(ip), &mut batch)?;
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(found)
    }

    /// Locks an address by hand for the time that the settings give.
    pub async fn lock_ip(&self, ip: IpAddr, by: &By) -> Result<(), IdentityError> {
        let now = self.now();
        let settings = self.settings()?;
        let _turn = self.inner.failures.turn("", ip).await;
        let subject = Subject::ip(ip);
        let mut batch = self.store().batch();
        let id = match self.inner.failures.record(&subject)? {
            Some(record) => record.id,
            None => random::id(now)?,
        };
        batch.put(LoginFailures {
            id,
            subject: subject.key(),
            count: settings.security_login_ip_limit_count,
            first: now,
            blocked_until: Some(now + TimeDelta::minutes(i64::from(settings.security_login_ip_limit_time))),
        });
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    async fn count(world: &World, subject: &Subject) -> Counted {
        let settings = world.identity.settings().unwrap();
        let mut batch = world.store.batch();
        let counted = world.identity.inner.failures.count(subject, world.now(), &settings, &mut batch).unwrap();
        if !batch.is_empty() {
            world.store.commit(batch).await.unwrap();
        }
        counted
    }

    #[tokio::test]
    async fn failures_that_lie_far_apart_do_not_add_up() {
        let world = World::new();
        for subject in [Subject::name("alice", true), Subject::name("nobody", false), Subject::Mfa("alice".into())] {
            for _ in 0..20 {
                assert_eq!(count(&world, &subject).await.tries_left, 6);
                world.wait(30 * 60);
            }
        }
    }

    #[tokio::test]
    async fn names_of_nobody_take_bounded_memory_and_no_record() {
        let world = World::new();
        for i in 0..20_000 {
            count(&world, &Subject::name(&format!("guess{i}"), false)).await;
        }
        assert!(world.identity.inner.failures.unknown.lock().len() <= MAX_UNKNOWN);
        assert_eq!(world.store.system().count::<LoginFailures>().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_flood_of_names_does_not_wash_a_lock_away() {
        let world = World::new();
        for _ in 0..7 {
            count(&world, &Subject::name("victim", false)).await;
        }
        for i in 0..20_000 {
            count(&world, &Subject::name(&format!("guess{i}"), false)).await;
        }
        let blocked = world.identity.inner.failures.blocked(&Subject::name("victim", false), world.now()).unwrap();
        assert_eq!(blocked, Some(31));
    }

    #[tokio::test]
    async fn records_of_addresses_are_bounded_and_locked_ones_stay() {
        let world = World::new();
        world.settings(|s| s.security_login_ip_limit_count = 3).await;
        let locked = Subject::ip("198.51.100.1".parse().unwrap());
        for _ in 0..3 {
            count(&world, &locked).await;
        }
        let mut batch = world.store.batch();
        for i in 0..u32::try_from(MAX_ADDRESSES).unwrap() {
            batch.insert(LoginFailures {
                id: Uuid::now_v7(),
                subject: Subject::ip(IpAddr::from((0x0a00_0000 + i).to_be_bytes())).key(),
                count: 1,
                first: world.now(),
                blocked_until: None,
            });
        }
        world.store.commit(batch).await.unwrap();
        count(&world, &Subject::ip("203.0.113.1".parse().unwrap())).await;
        let left = world.store.system().count::<LoginFailures>().unwrap();
        assert!(left <= MAX_ADDRESSES - MAX_ADDRESSES / 10 + 2, "{left}");
        assert!(world.identity.inner.failures.blocked(&locked, world.now()).unwrap().is_some());
        world.wait(3_600);
        let swept = world.identity.sweep().await.unwrap().failures;
        assert_eq!(swept, left);
        assert_eq!(world.store.system().count::<LoginFailures>().unwrap(), 0);
    }
}
