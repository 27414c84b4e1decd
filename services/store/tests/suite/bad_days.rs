//! Wrong keys, two daemons, damage, full disks, data put back: refused clearly, and what is there stays.

use std::{fs, path::Path, sync::Arc};

use chrono::Utc;
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_store::{
    CheckpointSigner, Health, MemorySigner, Options, Store, StoreError,
    ledger::{VerifyOptions, verify},
};
use uuid::Uuid;

use crate::common::{Host, Person, ROOT, Secret, append, commit, copy_dir, entry, files, open, options, signer};

fn try_open(dir: &Path, signer: &Arc<MemorySigner>) -> Option<StoreError> {
    Store::open(dir, &ROOT, options(signer)).err()
}

#[test]
fn a_wrong_key_is_not_damage() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = open(tmp.path(), &signer);
    append(&store, [entry(1)]);
    drop(store);
    let before: Vec<Vec<u8>> = files(tmp.path()).iter().map(|f| fs::read(f).unwrap()).collect();
    assert!(matches!(Store::open(tmp.path(), &[1; 32], options(&signer)).err(), Some(StoreError::WrongKey)));
    let after: Vec<Vec<u8>> = files(tmp.path()).iter().map(|f| fs::read(f).unwrap()).collect();
    assert!(before == after, "nothing was touched");
    assert_eq!(open(tmp.path(), &signer).ledger().head().seq, 1);
}

#[test]
fn two_programs_cannot_have_it_open() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = open(tmp.path(), &signer);
    let e = try_open(tmp.path(), &signer).unwrap();
    assert!(matches!(e, StoreError::Locked { .. }) && e.to_string().contains("stop it first"), "{e}");
    drop(store);
    open(tmp.path(), &signer);
}

#[test]
fn nothing_readable_reaches_the_disk() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path(), &signer());
    let org = Uuid::now_v7();
    let mut host = Host::new(org, "needle-host-name");
    host.extra = serde_json::json!({ "address": "needle-address" });
    commit(&store, |b| {
        b.insert(host.clone());
        b.insert(Secret { id: Uuid::now_v7(), org, owner: host.id, value: "needle-secret".into() });
        b.insert(Person { id: Uuid::now_v7(), username: "needle-person".into() });
        let body = serde_json::json!({ "command": "needle-command", "user": "needle-person" });
        b.audit(LedgerEntry::new(Uuid::now_v7(), Utc::now(), org, LedgerKind::Command, body));
    })
    .unwrap();
    let look = || {
        let words =
            ["needle", "test-host", "test-secret", "test-person", "username", "platform", "command", "ledger outbox"];
        for file in files(tmp.path()) {
            let bytes = fs::read(&file).unwrap();
            for word in words {
                let there = bytes.windows(word.len()).any(|w| w == word.as_bytes());
                assert!(!there, "{word:?} is readable in {}", file.display());
            }
        }
    };
    look();
    drop(store);
    look();
    let everything: usize = files(tmp.path()).iter().map(|f| fs::read(f).unwrap().len()).sum();
    assert!(everything > 1000, "there was something to look at");
}

#[test]
fn damage_to_the_engine_is_refused_or_harmless_but_never_wrong_data() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let good = tmp.path().join("good");
    let org = Uuid::now_v7();
    let hosts: Vec<Host> = (0..50).map(|n| Host::new(org, &format!("host-{n}"))).collect();
    let store = open(&good, &signer);
    commit(&store, |b| {
        for host in &hosts {
            b.insert(host.clone());
        }
    })
    .unwrap();
    append(&store, (0..20).map(entry));
    drop(store);
    let log = Path::new("engine/generation-1/db");
    let size = fs::read(good.join(log)).unwrap().iter().rposition(|b| *b != 0).unwrap();
    let (mut refused, mut intact) = (0, 0);
    for n in 0..24 {
        let dir = tmp.path().join(format!("bad-{n}"));
        copy_dir(&good, &dir);
        let mut bytes = fs::read(dir.join(log)).unwrap();
        bytes[size * n / 24] ^= 0x10;
        fs::write(dir.join(log), bytes).unwrap();
        match Store::open(&dir, &ROOT, options(&signer)) {
            Err(e) => {
                assert!(
                    matches!(
                        e,
                        StoreError::Corrupt { .. }
                            | StoreError::RolledBack(_)
                            | StoreError::Io { .. }
                            | StoreError::Engine(_)
                    ),
                    "{e:?}"
                );
                refused += 1;
            }
            // The flipped byte was in something that is dead by now.
            Ok(store) => {
                let found: Vec<Host> =
                    store.in_org(org).list::<Host>().unwrap().iter().map(|h| (**h).clone()).collect();
                assert_eq!(found, hosts);
                assert_eq!(store.ledger().head().seq, 20);
                intact += 1;
            }
        }
        fs::remove_dir_all(dir).unwrap();
    }
    assert!(refused > 0, "{refused} refused, {intact} harmless");
}

#[test]
fn missing_pieces_are_named_and_never_replaced() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let good = tmp.path().join("good");
    let store = open(&good, &signer);
    append(&store, (0..5).map(entry));
    drop(store);
    for (n, gone) in [
        "store.json",
        "engine",
        "ledger",
        "ledger/head",
        "ledger/checkpoints",
        "ledger/segment-0000000001",
        "engine/current",
    ]
    .into_iter()
    .enumerate()
    {
        let dir = tmp.path().join(format!("bad-{n}"));
        copy_dir(&good, &dir);
        let path = dir.join(gone);
        if path.is_dir() {
            fs::remove_dir_all(&path).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
        let e = try_open(&dir, &signer).unwrap_or_else(|| panic!("opened without {gone}"));
        assert!(matches!(e, StoreError::Corrupt { .. }), "{gone}: {e}");
        assert!(!path.exists() || gone == "ledger", "{gone} was made anew");
    }
}

#[test]
fn damage_to_the_ledger_is_found_when_opening() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = open(tmp.path(), &signer);
    append(&store, (0..5).map(entry));
    drop(store);
    for name in ["segment-0000000001", "checkpoints", "head"] {
        let file = tmp.path().join("ledger").join(name);
        let good = fs::read(&file).unwrap();
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            let e = try_open(tmp.path(), &signer).unwrap_or_else(|| panic!("{name} byte {at} went unnoticed"));
            assert!(matches!(e, StoreError::Corrupt { .. }), "{name} byte {at}: {e}");
            fs::write(&file, &good[..at]).unwrap();
            assert!(try_open(tmp.path(), &signer).is_some(), "{name} cut at {at}");
        }
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(open(tmp.path(), &signer).ledger().head().seq, 5);
}

#[test]
fn data_that_was_put_back_is_noticed() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, old) = (tmp.path().join("data"), tmp.path().join("old"));
    let signer = signer();
    let store = open(&dir, &signer);
    append(&store, (0..5).map(entry));
    drop(store);
    copy_dir(&dir, &old);
    let store = open(&dir, &signer);
    append(&store, (5..9).map(entry));
    drop(store);
    // The whole directory: the signing key's counter knows better.
    assert!(matches!(try_open(&old, &signer), Some(StoreError::RolledBack(_))));
    // Parts of it, against each other.
    for part in ["engine", "ledger"] {
        let mixed = tmp.path().join(format!("mixed-{part}"));
        copy_dir(&dir, &mixed);
        fs::remove_dir_all(mixed.join(part)).unwrap();
        copy_dir(&old.join(part), &mixed.join(part));
        let e = try_open(&mixed, &signer).unwrap();
        assert!(matches!(e, StoreError::RolledBack(_) | StoreError::Corrupt { .. }), "{part}: {e}");
    }
    // With consent the ledger goes on, and the gap in the numbers is written down.
    let consent = Options { accept_new_signer: true, ..options(&signer) };
    let store = Store::open(&old, &ROOT, consent).unwrap();
    append(&store, [entry(100)]);
    drop(store);
    assert!(verify(&old, &ROOT, &VerifyOptions::default()).unwrap().is_ok());
}

/// Runs `test` in a small file system of its own, if this machine lets us have one.
fn on_small_disk(test: impl FnOnce(&Path)) {
    let tmp = tempfile::tempdir().unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
        .arg(tmp.path())
        .stderr(std::process::Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        println!("skipped: mounting a small file system needs root");
        return;
    }
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(tmp.path())));
    let _ = std::process::Command::new("umount").arg("-l").arg(tmp.path()).status();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_full_disk_stops_changes_and_loses_nothing() {
    on_small_disk(|disk| {
        let dir = disk.join("data");
        let signer = signer();
        let with_floor = || Options { min_free_bytes: 4 << 20, ..options(&signer) };
        let store = Store::open(&dir, &ROOT, with_floor()).unwrap();
        let mut health = store.watch_health();
        let mut acknowledged = Vec::new();
        let filler = disk.join("filler");
        let mut size = 0;
        let refused = loop {
            let mut one = entry(acknowledged.len() as u64);
            one.body["pad"] = "x".repeat(600).into();
            let id = one.id;
            let done = commit(&store, |b| {
                b.audit(one);
            });
            match done {
                Ok(()) => acknowledged.push(id),
                Err(e) => break e,
            }
            size += 256 * 1024;
            fs::write(&filler, vec![1; size]).unwrap();
        };
        assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
        assert!(matches!(store.health(), Health::Failing(_)) && health.has_changed().unwrap());
        for id in &acknowledged {
            assert!(store.ledger().get(*id).unwrap().is_some());
        }
        // Space comes back: so does the store, without a restart.
        fs::remove_file(&filler).unwrap();
        append(&store, [entry(0)]);
        assert_eq!(*health.borrow_and_update(), Health::Healthy);
        drop(store);
        let store = Store::open(&dir, &ROOT, with_floor()).unwrap();
        assert_eq!(store.ledger().head().seq, acknowledged.len() as u64 + 1);
    });
}

#[test]
fn a_disk_that_is_really_full_is_survived() {
    on_small_disk(|disk| {
        let dir = disk.join("data");
        let signer = signer();
        let store = open(&dir, &signer);
        append(&store, [entry(0)]);
        // Not a byte left, and nobody watching: ledger and engine meet it themselves.
        let mut filler = fs::File::create(disk.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[1; 4096]).is_ok() {}
        let mut acknowledged = 1_u64;
        for n in 0..200 {
            let mut one = entry(n);
            one.body["pad"] = "x".repeat(5000 + usize::try_from(n).unwrap()).into();
            let done = commit(&store, |b| {
                b.audit(one);
            });
            match done {
                Ok(()) => acknowledged += 1,
                Err(_) => break,
            }
        }
        assert!(!store.health().is_healthy());
        drop(filler);
        fs::remove_file(disk.join("filler")).unwrap();
        drop(store);
        // A failed sled keeps its files locked until the process ends; a copy stands for the restart that we ask for.
        let restarted = tempfile::tempdir().unwrap();
        let dir = restarted.path().join("data");
        copy_dir(&disk.join("data"), &dir);
        let store = open(&dir, &signer);
        assert!(store.ledger().head().seq >= acknowledged, "{} < {acknowledged}", store.ledger().head().seq);
        append(&store, [entry(1)]);
        drop(store);
        assert!(verify(&dir, &ROOT, &VerifyOptions::default()).unwrap().is_ok());
    });
}

/// Fails when it is told to.
struct Moody {
    inner: Arc<MemorySigner>,
    broken: std::sync::atomic::AtomicBool,
}

impl CheckpointSigner for Moody {
    fn key_id(&self) -> String {
        self.inner.key_id()
    }

    fn public_key(&self) -> Vec<u8> {
        self.inner.public_key()
    }

    fn counter(&self) -> Result<u64, StoreError> {
        self.inner.counter()
    }

    fn next_counter(&self) -> Result<u64, StoreError> {
        let next = self.inner.next_counter();
        // The worst moment: the number is spent, the signature never comes.
        if self.broken.load(std::sync::atomic::Ordering::SeqCst) {
            Err(StoreError::Signer("gone".into()))
        } else {
            next
        }
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.inner.sign(message)
    }
}

#[test]
fn a_signer_that_fails_is_loud_and_its_lost_numbers_are_explained() {
    let tmp = tempfile::tempdir().unwrap();
    let moody = Arc::new(Moody { inner: signer(), broken: true.into() });
    let with = || {
        let mut options = Options { min_free_bytes: 0, ..Options::new(moody.clone()) };
        options.ledger.checkpoint_entries = 4;
        options
    };
    let store = Store::open(tmp.path(), &ROOT, with()).unwrap();
    append(&store, (0..4).map(entry));
    assert!(matches!(store.health(), Health::Failing(_)), "{:?}", store.health());
    drop(store);
    let store = Store::open(tmp.path(), &ROOT, with()).unwrap();
    moody.broken.store(false, std::sync::atomic::Ordering::SeqCst);
    append(&store, (4..9).map(entry));
    assert_eq!(store.health(), Health::Healthy);
    drop(store);
    let report = verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap();
    assert!(report.is_ok() && report.entries == 9, "{report:?}");
    assert!(moody.inner.counter().unwrap() > report.checkpoints, "numbers were lost");
}

#[test]
fn below_the_floor_of_free_space_changes_are_refused_and_reading_goes_on() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let one = entry(1);
    let store = open(tmp.path(), &signer);
    append(&store, [one.clone()]);
    drop(store);
    let floor = Options { min_free_bytes: u64::MAX, ..options(&signer) };
    let store = Store::open(tmp.path(), &ROOT, floor).unwrap();
    let refused = commit(&store, |b| {
        b.audit(entry(2));
    });
    assert!(matches!(refused, Err(StoreError::DiskFull { .. })));
    assert!(matches!(store.health(), Health::Failing(_)));
    assert!(store.ledger().get(one.id).unwrap().is_some());
    assert_eq!(store.ledger().head().seq, 1);
}

#[test]
fn a_ledger_that_cannot_be_written_stops_changes_and_recovers() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let mut options = options(&signer);
    options.ledger.segment_bytes = 300;
    let store = Store::open(tmp.path(), &ROOT, options).unwrap();
    append(&store, [entry(0)]);
    // The next segment's name is taken by something that is no file.
    let taken = tmp.path().join("ledger/segment-0000000002");
    fs::create_dir(&taken).unwrap();
    let mut acknowledged = 1;
    let refused = loop {
        match commit(&store, |b| {
            b.audit(entry(acknowledged));
        }) {
            Ok(()) => acknowledged += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, StoreError::LedgerFailing(_)), "{refused}");
    assert!(matches!(store.health(), Health::Failing(_)));
    fs::remove_dir(&taken).unwrap();
    append(&store, [entry(acknowledged)]);
    assert_eq!((store.health(), store.ledger().head().seq), (Health::Healthy, acknowledged + 1));
    drop(store);
    let report = verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap();
    assert!(report.is_ok() && report.entries == acknowledged + 1, "{report:?}");
}
