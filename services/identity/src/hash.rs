//! Password hashes: Argon2id on the blocking pool, behind limits that keep a flood of attempts from taking all memory
//! or all cores. What must not be here: what a password is for, or who may have one.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use argon2::password_hash::PasswordHasher as _;
use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordVerifier as _, Version};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::limit::client_key;
use crate::random;

/// Longer input is refused before it is hashed (bytes).
pub const MAX_PASSWORD_BYTES: usize = 1_024;

/// Attempts that may wait for their turn, over all addresses and for one. The rest is told to come back.
const MAX_WAITING: usize = 512;
const MAX_WAITING_PER_CLIENT: usize = 128;

/// Cost of one hash (RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashCost {
    /// KiB of memory.
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl HashCost {
    /// OWASP's first recommendation for Argon2id: 19 MiB, 2 passes, 1 lane.
    pub const OWASP: Self = Self { memory_kib: 19 * 1_024, passes: 2, lanes: 1 };
    /// The least that Argon2 knows. Tests of log-ins measure logic, not the hash.
    pub const CHEAP_FOR_TESTS: Self = Self { memory_kib: 8, passes: 1, lanes: 1 };
}

/// Hashes and checks. At most one hash per core runs at a time, and one address never holds them all.
pub(crate) struct Hasher {
    params: Params,
    slots: Arc<Semaphore>,
    per_client: usize,
    clients: Mutex<HashMap<IpAddr, Client>>,
    waiting: AtomicU64,
    /// Stands for the hash of users that do not exist, so that they cost the same.
    dummy: String,
    /// Checks made, for the test that unknown users cost as much as known ones.
    checks: AtomicU64,
}

struct Client {
    slots: Arc<Semaphore>,
    users: usize,
}

/// Leaves the queue when dropped, also when the caller gave up.
struct Place<'a> {
    hasher: &'a Hasher,
    client: Option<IpAddr>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.hasher.waiting.fetch_sub(1, Ordering::Relaxed);
        let Some(key) = self.client else { return };
        let mut clients = self.hasher.clients.lock();
        if let Some(client) = clients.get_mut(&key) {
            client.users = client.users.saturating_sub(1);
            if client.users == 0 {
                clients.remove(&key);
            }
        }
    }
}

impl Hasher {
    pub(crate) fn new(cost: HashCost) -> Result<Self, IdentityError> {
        let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
            .map_err(|_| IdentityError::Damaged("the cost of password hashes is out of range"))?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from).max(2);
        let dummy = hash_now(&params, random::token()?.as_bytes())?;
        Ok(Self {
            params,
            slots: Arc::new(Semaphore::new(cores)),
            per_client: (cores / 2).max(1),
            clients: Mutex::new(HashMap::new()),
            waiting: AtomicU64::new(0),
            dummy,
            checks: AtomicU64::new(0),
        })
    }

    /// PHC string of `password`.
    pub(crate) async fn hash(&self, password: &str) -> Result<String, IdentityError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(IdentityError::field("password", format!("no more than {MAX_PASSWORD_BYTES} bytes")));
        }
        let password = Zeroizing::new(password.to_owned());
        let params = self.params.clone();
        self.run(None, move || hash_now(&params, password.as_bytes())).await?
    }

    /// Whether `password` is one of `hashes`. `None` (no such user, no password set) costs the same as a real hash and
    /// never matches. All hashes are checked whatever the first ones say. `client` is whom the work is counted for.
    pub(crate) async fn check(
        &self,
        client: Option<IpAddr>,
        password: &str,
        hashes: Vec<Option<String>>,
    ) -> Result<Option<usize>, IdentityError> {
        if password.len() > MAX_PASSWORD_BYTES {
            return Ok(None);
        }
        let password = Zeroizing::new(password.to_owned());
        let dummy = self.dummy.clone();
        self.checks.fetch_add(hashes.len() as u64, Ordering::Relaxed);
        self.run(client, move || {
            let mut found = None;
            for (i, hash) in hashes.iter().enumerate() {
                let text = hash.as_deref().unwrap_or(&dummy);
                let matches = check_now(text, password.as_bytes());
                if matches && hash.is_some() && found.is_none() {
                    found = Some(i);
                }
            }
            found
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        client: Option<IpAddr>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, IdentityError> {
        let (place, own) = self.queue(client.map(client_key))?;
        // Own turn first: attempts of one address that wait for each other hold no slot of the others.
        let own = match own {
            Some(own) => Some(own.acquire_owned().await.map_err(|_| IdentityError::Busy)?),
            None => None,
        };
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| IdentityError::Busy)?;
        let done = tokio::task::spawn_blocking(move || {
            // Held by the work itself: a caller that goes away does not free the core that is still busy.
            let _held = (slot, own);
            work()
        })
        .await;
        drop(place);
        done.map_err(|_| IdentityError::Damaged("a password check ended early"))
    }

    fn queue(&self, client: Option<IpAddr>) -> Result<(Place<'_>, Option<Arc<Semaphore>>), IdentityError> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING as u64 {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(IdentityError::Busy);
        }
        let mut place = Place { hasher: self, client: None };
        let Some(key) = client else { return Ok((place, None)) };
        let slots = {
            let mut clients = self.clients.lock();
            let entry = clients
                .entry(key)
                .or_insert_with(|| Client { slots: Arc::new(Semaphore::new(self.per_client)), users: 0 });
            if entry.users >= MAX_WAITING_PER_CLIENT {
                None
            } else {
                entry.users += 1;
                Some(Arc::clone(&entry.slots))
            }
        };
        match slots {
            Some(slots) => {
                place.client = Some(key);
                Ok((place, Some(slots)))
            }
            None => Err(IdentityError::Busy),
        }
    }

    #[cfg(test)]
    pub(crate) fn checks(&self) -> u64 {
        self.checks.load(Ordering::Relaxed)
    }
}

fn hash_now(params: &Params, password: &[u8]) -> Result<String, IdentityError> {
    let salt = random::bytes::<16>()?;
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_with_salt(password, salt.as_ref())
        .map(|hash| hash.to_string())
        .map_err(|_| IdentityError::Damaged("the password could not be hashed"))
}

fn check_now(phc: &str, password: &[u8]) -> bool {
    // The cost is that of the stored hash; comparing is constant in time.
    PasswordHash::new(phc).is_ok_and(|hash| Argon2::default().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hasher() -> Hasher {
        Hasher::new(HashCost::CHEAP_FOR_TESTS).unwrap()
    }

    #[tokio::test]
    async fn a_hash_is_argon2id_with_its_own_salt_and_opens_only_for_its_password() {
        let hasher = hasher();
        let (one, two) = (hasher.hash("correct horse").await.unwrap(), hasher.hash("correct horse").await.unwrap());
        assert!(one.starts_with("$argon2id$v=19$"), "{one}");
        assert_ne!(one, two);
        assert_eq!(hasher.check(None, "correct horse", vec![Some(one.clone())]).await.unwrap(), Some(0));
        assert_eq!(hasher.check(None, "correct hors", vec![Some(one.clone())]).await.unwrap(), None);
        assert_eq!(hasher.check(None, "correct horse", vec![None, Some(two)]).await.unwrap(), Some(1));
        assert_eq!(hasher.check(None, "x", vec![Some("not a hash".into())]).await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_default_cost_is_what_owasp_asks_for() {
        let hash = Hasher::new(HashCost::OWASP).unwrap().hash("a password").await.unwrap();
        assert!(hash.contains("m=19456,t=2,p=1"), "{hash}");
    }

    #[tokio::test]
    async fn oversized_input_is_refused_without_work() {
        let hasher = hasher();
        let long = "x".repeat(MAX_PASSWORD_BYTES + 1);
        assert!(hasher.hash(&long).await.is_err());
        assert_eq!(hasher.check(None, &long, vec![None]).await.unwrap(), None);
        assert_eq!(hasher.checks(), 0);
    }

    #[tokio::test]
    async fn one_address_cannot_hold_the_queue_of_the_others() {
        let hasher = Arc::new(hasher());
        let flood: IpAddr = "203.0.113.9".parse().unwrap();
        // Nothing moves while every slot is taken: what waits, waits.
        let cores = hasher.slots.available_permits();
        let all = Arc::clone(&hasher.slots).acquire_many_owned(u32::try_from(cores).unwrap()).await.unwrap();
        let mut tasks = Vec::new();
        for _ in 0..1_000 {
            let hasher = Arc::clone(&hasher);
            tasks.push(tokio::spawn(async move { hasher.check(Some(flood), "guess", vec![None]).await }));
        }
        tokio::task::yield_now().await;
        while hasher.waiting.load(Ordering::Relaxed) < MAX_WAITING_PER_CLIENT as u64 {
            tokio::task::yield_now().await;
        }
        assert!(hasher.clients.lock().len() == 1);
        let other: IpAddr = "198.51.100.1".parse().unwrap();
        let honest = {
            let hasher = Arc::clone(&hasher);
            tokio::spawn(async move { hasher.check(Some(other), "guess", vec![None]).await })
        };
        tokio::task::yield_now().await;
        drop(all);
        assert!(honest.await.unwrap().is_ok(), "another address gets its turn");
        let mut refused = 0;
        for task in tasks {
            refused += usize::from(matches!(task.await.unwrap(), Err(IdentityError::Busy)));
        }
        assert!(refused >= 1_000 - 2 * MAX_WAITING_PER_CLIENT, "the flood was turned away: {refused}");
        assert_eq!(hasher.waiting.load(Ordering::Relaxed), 0);
        assert!(hasher.clients.lock().is_empty(), "nothing is kept of addresses that left");
    }
}
