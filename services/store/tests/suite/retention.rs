//! Expiry: what is old goes, what is left is still verifiable, and nobody can pretend.

use std::fs;

use chrono::{TimeDelta, Utc};
use gatehouse_model::ledger::LedgerKind;
use gatehouse_store::{
    AllOrgs, OrgFilter, Query, Store,
    ledger::{VerifyOptions, verify},
};
use uuid::Uuid;

use crate::common::{ROOT, append, entry_at, files, signer, small_segments};

fn old_and_new(store: &Store) -> Vec<Uuid> {
    let mut ids = Vec::new();
    for n in 0..40_u64 {
        let at = Utc::now() - TimeDelta::days(40 - i64::try_from(n).unwrap());
        let one = entry_at(n, at, Uuid::nil(), LedgerKind::Login);
        ids.push(one.id);
        append(store, [one]);
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn whole_segments_go_and_a_signed_tombstone_stays() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = Store::open(tmp.path(), &ROOT, small_segments(&signer, 1500)).unwrap();
    let ids = old_and_new(&store);
    let ledger = store.ledger();
    assert!(ledger.expire(Utc::now() - TimeDelta::days(100)).await.unwrap().is_none());
    let gone = ledger.expire(Utc::now() - TimeDelta::days(20)).await.unwrap().unwrap();
    assert!(gone.through > 10 && gone.through <= 21 && gone.segments > 1, "{gone:?}");
    let through = usize::try_from(gone.through).unwrap();
    assert!(ledger.get(ids[through - 1]).unwrap().is_none() && ledger.get(ids[through]).unwrap().is_some());
    let all = Query::new(OrgFilter::All(AllOrgs::crossing_organizations())).limit(1000);
    assert_eq!(ledger.query(&all).unwrap().len(), 40 - through + 1);
    assert_eq!(ledger.count(&all).unwrap() as usize, 40 - through + 1);
    assert_eq!(ledger.iter_from(1).count(), 40 - through + 1);
    let stone = ledger.query(&all.clone().kinds(&[LedgerKind::Tombstone])).unwrap();
    assert_eq!(stone[0].entry.body["through"], gone.through);
    drop((store, ledger));
    let check = || verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap();
    let report = check();
    assert!(report.is_ok() && report.first_seq == gone.through + 1, "{report:?}");

    // A second expiry, and opening again.
    let store = Store::open(tmp.path(), &ROOT, small_segments(&signer, 1500)).unwrap();
    let more = store.ledger().expire(Utc::now() - TimeDelta::days(10)).await.unwrap().unwrap();
    assert!(more.through > gone.through);
    drop(store);
    let report = check();
    assert!(report.is_ok() && report.first_seq == more.through + 1, "{report:?}");

    // Somebody helps: one more segment goes without a word.
    let first =
        files(&tmp.path().join("ledger")).into_iter().find(|f| f.to_str().unwrap().contains("segment-")).unwrap();
    fs::remove_file(first).unwrap();
    let problem = check().problem.unwrap();
    assert!(problem.what.contains("no signed tombstone"), "{}", problem.what);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_expiry_that_was_cut_short_is_finished_at_the_next_start() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = Store::open(tmp.path(), &ROOT, small_segments(&signer, 1500)).unwrap();
    old_and_new(&store);
    let kept: Vec<(std::path::PathBuf, Vec<u8>)> = files(&tmp.path().join("ledger"))
        .into_iter()
        .filter(|file| file.to_str().unwrap().contains("segment-"))
        .map(|file| (file.clone(), fs::read(file).unwrap()))
        .collect();
    let gone = store.ledger().expire(Utc::now() - TimeDelta::days(20)).await.unwrap().unwrap();
    drop(store);
    // As if the power had failed after the first removal: all but the oldest are back.
    for (file, bytes) in kept.iter().take(gone.segments).skip(1) {
        fs::write(file, bytes).unwrap();
    }
    let report = verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap();
    assert!(report.is_ok() && report.first_seq > 1 && report.first_seq <= gone.through, "{report:?}");
    drop(Store::open(tmp.path(), &ROOT, small_segments(&signer, 1500)).unwrap());
    assert!(kept.iter().take(gone.segments).all(|(file, _)| !file.exists()));
    assert!(verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap().is_ok());
}
