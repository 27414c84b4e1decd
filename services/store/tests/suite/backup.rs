//! Backups: one file, restorable elsewhere with the root key, damage found before anything is written.

use std::{fs, path::PathBuf, sync::Arc};

use gatehouse_store::{
    CheckpointSigner, Store, StoreError, backup,
    ledger::{VerifyOptions, verify},
};
use parking_lot::Mutex;
use uuid::Uuid;

use crate::common::{Host, ROOT, Secret, append, commit, entry, open, options, signer};

/// A file that the test can look at afterwards.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_comes_back_on_another_box() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, new, file) = (tmp.path().join("data"), tmp.path().join("new"), tmp.path().join("backup"));
    let old_signer = signer();
    let store = tokio::task::block_in_place(|| open(&data, &old_signer));
    let org = Uuid::now_v7();
    let host = Host::new(org, "hidden-name");
    let secret = Secret { id: Uuid::now_v7(), org, owner: host.id, value: "hidden-value".into() };
    tokio::task::block_in_place(|| {
        commit(&store, |b| {
            b.insert(host.clone()).insert(secret.clone());
        })
        .unwrap();
        append(&store, (0..50).map(entry));
    });
    fs::create_dir_all(data.join("recordings/2026")).unwrap();
    fs::write(data.join("recordings/2026/a.ghr"), vec![7; 700_000]).unwrap();
    fs::write(data.join("recordings/empty"), b"").unwrap();
    let out = Memory::default();
    // Others go on working meanwhile.
    let busy = tokio::spawn({
        let store = store.clone();
        async move {
            for n in 0..50 {
                store.append(entry(100 + n)).await.unwrap();
            }
        }
    });
    let extra = [PathBuf::from("recordings"), PathBuf::from("not-there")];
    backup::create(&store, &ROOT, b"the wrap", &extra, out.clone()).await.unwrap();
    busy.await.unwrap();
    let bytes = out.0.lock().clone();
    assert!(!bytes.windows(6).any(|w| w == b"hidden" || w == b"record" && bytes.starts_with(w)));
    fs::write(&file, &bytes).unwrap();

    assert_eq!(backup::read_header(&file).unwrap().recovery().unwrap(), b"the wrap");
    assert!(matches!(backup::restore(&file, &[1; 32], &new), Err(StoreError::WrongKey)));
    assert!(matches!(backup::restore(&file, &ROOT, &data), Err(StoreError::NotEmpty(_))));
    assert!(!new.exists());
    backup::restore(&file, &ROOT, &new).unwrap();
    assert_eq!(fs::read(new.join("recordings/2026/a.ghr")).unwrap(), vec![7; 700_000]);
    assert!(new.join("recordings/empty").exists());
    assert!(verify(&new, &ROOT, &VerifyOptions::default()).unwrap().is_ok());

    // The new box signs with its own key; that is accepted once, and written down.
    let new_signer = signer();
    tokio::task::block_in_place(|| {
        let store = open(&new, &new_signer);
        assert_eq!(*store.in_org(org).get::<Host>(host.id).unwrap().unwrap(), host);
        assert_eq!(*store.in_org(org).get::<Secret>(secret.id).unwrap().unwrap(), secret);
        assert!(store.ledger().head().seq > 50);
        append(&store, [entry(9999)]);
        drop(store);
        drop(open(&new, &new_signer));
    });
    let keys = VerifyOptions {
        public_key: Some(new_signer.public_key()),
        former_keys: vec![old_signer.public_key()],
        replay: None,
    };
    let report = verify(&new, &ROOT, &keys).unwrap();
    assert!(report.is_ok() && report.keys.len() == 2, "{report:?}");
    let third = Store::open(&new, &ROOT, options(&signer()));
    assert!(matches!(third.err(), Some(StoreError::SignerChanged { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn damage_is_found_before_anything_is_written() {
    let tmp = tempfile::tempdir().unwrap();
    let (data, new, file) = (tmp.path().join("data"), tmp.path().join("new"), tmp.path().join("backup"));
    let store = tokio::task::block_in_place(|| open(&data, &signer()));
    tokio::task::block_in_place(|| append(&store, (0..3).map(entry)));
    let out = Memory::default();
    backup::create(&store, &ROOT, b"wrap", &[], out.clone()).await.unwrap();
    let good = out.0.lock().clone();
    let step = (good.len() / 400).max(1);
    for at in (0..good.len()).step_by(step).chain(good.len() - 20..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        assert!(backup::restore(&file, &ROOT, &new).is_err(), "byte {at}");
        fs::write(&file, &good[..at]).unwrap();
        assert!(backup::restore(&file, &ROOT, &new).is_err(), "cut at {at}");
        assert!(!new.exists(), "nothing is written");
    }
    fs::write(&file, [good.as_slice(), b"x"].concat()).unwrap();
    assert!(backup::restore(&file, &ROOT, &new).is_err());
    fs::write(&file, &good).unwrap();
    let outside = backup::create(&store, &ROOT, b"", &[PathBuf::from("../etc")], Memory::default()).await;
    assert!(outside.is_err(), "paths outside of the data directory are refused");
    backup::restore(&file, &ROOT, &new).unwrap();
}

#[test]
fn a_restore_that_was_cut_short_is_not_opened() {
    let tmp = tempfile::tempdir().unwrap();
    fs::write(tmp.path().join("restoring"), b"").unwrap();
    let opened = Store::open(tmp.path(), &ROOT, options(&signer()));
    assert!(matches!(opened.err(), Some(StoreError::Corrupt { what, .. }) if what.contains("did not finish")));
}

#[test]
fn a_planted_mark_of_a_restore_hides_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, old) = (tmp.path().join("data"), tmp.path().join("old"));
    let signer = signer();
    let store = open(&dir, &signer);
    append(&store, [entry(1)]);
    drop(store);
    crate::common::copy_dir(&dir, &old);
    let store = open(&dir, &signer);
    append(&store, [entry(2)]);
    drop(store);
    for mark in [Vec::new(), fs::read(dir.join("ledger/head")).unwrap(), fs::read(old.join("ledger/head")).unwrap()] {
        fs::write(old.join("ledger/restored"), mark).unwrap();
        let opened = Store::open(&old, &ROOT, options(&signer));
        assert!(matches!(opened.err(), Some(StoreError::RolledBack(_))));
    }
}
