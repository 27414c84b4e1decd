//! SIGKILL at any moment: what was acknowledged is there, what was one step is one step, the ledger verifies.
//!
//! Each round starts this test program again as a writer, which prints what was acknowledged to it, and kills it.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use gatehouse_store::{
    CheckpointSigner, LedgerOptions, MemorySigner, Options, Store, StoreError,
    ledger::{VerifyOptions, verify},
};
use uuid::Uuid;

use crate::common::{Host, ROOT, entry, options, signer};

const DIR: &str = "GATEHOUSE_CRASH_DIR";
const ORG: Uuid = Uuid::from_u128(7);

/// Signs like the key file of a box: number and key outlive the process.
struct Persistent {
    inner: Arc<MemorySigner>,
    path: std::path::PathBuf,
}

impl CheckpointSigner for Persistent {
    fn key_id(&self) -> String {
        self.inner.key_id()
    }

    fn public_key(&self) -> Vec<u8> {
        self.inner.public_key()
    }

    fn counter(&self) -> Result<u64, StoreError> {
        Ok(std::fs::read_to_string(&self.path).map_or(0, |text| text.trim().parse().unwrap()))
    }

    fn next_counter(&self) -> Result<u64, StoreError> {
        let next = self.counter()? + 1;
        let new = self.path.with_extension("new");
        std::fs::write(&new, next.to_string()).unwrap();
        std::fs::rename(&new, &self.path).unwrap();
        Ok(next)
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.inner.sign(message)
    }
}

fn crash_options(dir: &Path) -> Options {
    let seed: [u8; 32] = std::fs::read(dir.join("seed")).unwrap().try_into().unwrap();
    let inner = MemorySigner::from_seed(&seed).unwrap();
    // Small numbers: every kind of step is in flight at some kill.
    let ledger = LedgerOptions {
        segment_bytes: 20_000,
        checkpoint_entries: 40,
        settle_entries: 15,
        settle_after: Duration::from_millis(5),
        ..LedgerOptions::default()
    };
    let persistent = Persistent { inner, path: dir.join("counter") };
    Options { ledger, signer: Arc::new(persistent), ..options(&signer()) }
}

/// Not a test by itself: what the rounds kill.
#[test]
fn crash_writer() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let dir = Path::new(&dir);
    let store = Store::open(&dir.join("data"), &ROOT, crash_options(dir)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let host = Host::new(ORG, &Uuid::now_v7().to_string());
                    let mut audit = entry(0);
                    audit.id = host.id;
                    let mut batch = store.batch();
                    batch.insert(host.clone()).audit(audit);
                    store.commit_blocking(batch).unwrap();
                    println!("\nok {}", host.id);
                }
            });
        }
    });
}

#[test]
fn kill_at_any_moment_loses_nothing_that_was_acknowledged() {
    let rounds = std::env::var("GATEHOUSE_CRASH_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_u64);
    let tmp = tempfile::tempdir().unwrap();
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(Uuid::new_v4().as_bytes());
    std::fs::write(tmp.path().join("seed"), seed).unwrap();
    let mut acknowledged: BTreeSet<Uuid> = BTreeSet::new();
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::crash_writer", "--nocapture", "--test-threads=1"])
            .env(DIR, tmp.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        let reader = std::thread::spawn(move || {
            let ok = |line: std::io::Result<String>| line.ok()?.strip_prefix("ok ")?.parse::<Uuid>().ok();
            BufReader::new(out).lines().filter_map(ok).collect::<Vec<_>>()
        });
        // The first rounds hit the set-up itself.
        std::thread::sleep(Duration::from_millis(10 + (round * 37) % 300));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(reader.join().unwrap());
        let store = Store::open(&tmp.path().join("data"), &ROOT, crash_options(tmp.path()))
            .unwrap_or_else(|e| panic!("round {round}: {e}"));
        let hosts: BTreeSet<Uuid> = store.in_org(ORG).list::<Host>().unwrap().iter().map(|host| host.id).collect();
        let entries: Vec<Uuid> = store.ledger().iter_from(1).map(|found| found.unwrap().entry.id).collect();
        let unique: BTreeSet<Uuid> = entries.iter().copied().collect();
        assert_eq!(unique.len(), entries.len(), "round {round}: an entry is there twice");
        assert_eq!(unique, hosts, "round {round}: changes and their entries are one step");
        let lost: Vec<&Uuid> = acknowledged.iter().filter(|id| !hosts.contains(id)).collect();
        assert!(lost.is_empty(), "round {round}: lost {lost:?}");
        drop(store);
        let report = verify(&tmp.path().join("data"), &ROOT, &VerifyOptions::default()).unwrap();
        assert!(report.is_ok(), "round {round}: {report:?}");
    }
    println!("{} acknowledged changes survived {rounds} kills", acknowledged.len());
    assert!(acknowledged.len() > 20, "the writer hardly wrote");
}
