//! The running ledger: what is acknowledged is found, in order, once.

use std::{sync::Arc, time::Duration};

use chrono::{TimeDelta, Utc};
use gatehouse_model::ledger::LedgerKind;
use gatehouse_store::{
    AllOrgs, Health, LedgerOptions, OrgFilter, Query, Store, StoreError,
    ledger::{Checkpoint, VerifyOptions, verify},
};
use uuid::Uuid;

use crate::common::{Host, ROOT, append, commit, entry, entry_at, open, options, signer, small_segments};

fn everywhere() -> OrgFilter {
    OrgFilter::All(AllOrgs::crossing_organizations())
}

fn numbers(store: &Store, query: &Query) -> Vec<u64> {
    let found = store.ledger().query(query).unwrap();
    assert!(query.limit < found.len() || store.ledger().count(query).unwrap() >= found.len() as u64);
    found.iter().map(|found| found.entry.body["n"].as_u64().unwrap()).collect()
}

#[test]
fn an_entry_is_there_exactly_when_its_change_is() {
    let store = Store::in_memory();
    let org = Uuid::now_v7();
    let (good, bad) = (entry(1), entry(2));
    commit(&store, |b| {
        b.insert(Host::new(org, "a")).audit(good.clone());
    })
    .unwrap();
    let refused = commit(&store, |b| {
        b.insert(Host::new(org, "a")).audit(bad.clone());
    });
    assert!(matches!(refused, Err(StoreError::Conflict { .. })));
    let found = store.ledger().get(good.id).unwrap().unwrap();
    assert_eq!((found.seq, &*found.entry), (1, &good));
    assert!(store.ledger().get(bad.id).unwrap().is_none());
    // A retry writes nothing twice, alone or among new ones.
    append(&store, [good.clone(), entry(3), good]);
    assert_eq!(store.ledger().head().seq, 2);
}

#[test]
fn queries_find_by_kind_organization_object_and_time() {
    let tmp = tempfile::tempdir().unwrap();
    // Settles rarely and often: entries are found in the outbox as well as in segments.
    for settle_entries in [3, 1000] {
        let signer = signer();
        let dir = tmp.path().join(settle_entries.to_string());
        let ledger = LedgerOptions { settle_entries, segment_bytes: 2000, ..LedgerOptions::default() };
        let store = Store::open(&dir, &ROOT, gatehouse_store::Options { ledger, ..options(&signer) }).unwrap();
        let (a, b, asset) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        let begin = Utc::now() - TimeDelta::days(10);
        for n in 0..40_u64 {
            let kind = if n % 2 == 0 { LedgerKind::Login } else { LedgerKind::Command };
            let org = if n % 4 < 2 { a } else { b };
            let mut one = entry_at(n, begin + TimeDelta::hours(n.try_into().unwrap()), org, kind);
            if n % 10 == 0 {
                one = one.refs([asset, asset]).actor(a);
            }
            append(&store, [one]);
        }
        let q = |org| Query::new(org);
        let down = |from: u64, f: &dyn Fn(u64) -> bool| (0..=from).rev().filter(|n| f(*n)).collect::<Vec<_>>();
        assert_eq!(numbers(&store, &q(everywhere())), down(39, &|_| true));
        assert_eq!(numbers(&store, &q(OrgFilter::One(a))), down(39, &|n| n % 4 < 2));
        assert_eq!(numbers(&store, &q(OrgFilter::Several(vec![b, a, b]))), down(39, &|_| true));
        assert_eq!(numbers(&store, &q(everywhere()).kinds(&[LedgerKind::Login])), down(39, &|n| n % 2 == 0));
        let logins_of_a = q(OrgFilter::One(a)).kinds(&[LedgerKind::Login, LedgerKind::Ticket]);
        assert_eq!(numbers(&store, &logins_of_a), down(39, &|n| n % 4 == 0));
        assert_eq!(numbers(&store, &q(everywhere()).reference(asset)), [30, 20, 10, 0]);
        assert_eq!(numbers(&store, &q(OrgFilter::One(b)).reference(asset)), [30, 10]);
        assert_eq!(store.ledger().count(&q(OrgFilter::One(b)).reference(a)).unwrap(), 2, "the actor is an object too");
        assert_eq!(numbers(&store, &q(everywhere()).reference(Uuid::now_v7())), Vec::<u64>::new());
        let hour = |n: i64| Some(begin + TimeDelta::hours(n));
        assert_eq!(numbers(&store, &q(everywhere()).between(hour(5), hour(8))), [7, 6, 5]);
        assert_eq!(numbers(&store, &q(everywhere()).between(hour(38), None).ascending()), [38, 39]);
        assert_eq!(numbers(&store, &q(everywhere()).between(hour(100), None)), Vec::<u64>::new());
        assert_eq!(numbers(&store, &q(everywhere()).between(hour(8), hour(5))), Vec::<u64>::new());
        assert_eq!(numbers(&store, &q(everywhere()).before(Some(4)).limit(2)), [2, 1]);
        let third = store.ledger().query_where(&q(everywhere()).limit(3), |e| e.body["n"].as_u64().unwrap() % 3 == 0);
        let third: Vec<u64> = third.unwrap().iter().map(|f| f.entry.body["n"].as_u64().unwrap()).collect();
        assert_eq!(third, [39, 36, 33]);
        let sequence: Vec<u64> = store.ledger().iter_from(38).map(|found| found.unwrap().seq).collect();
        assert_eq!(sequence, [38, 39, 40]);
        let before = numbers(&store, &logins_of_a);
        let rebuilt = futures_block(async { store.ledger().rebuild_index().await.unwrap() });
        assert_eq!((rebuilt, numbers(&store, &logins_of_a)), (40, before));
        assert_eq!(numbers(&store, &q(everywhere()).between(hour(5), hour(8))), [7, 6, 5]);
    }
}

fn futures_block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_thousand_entries_in_one_burst_are_all_there() {
    const TASKS: u64 = 100;
    const EACH: u64 = 500;
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = tokio::task::block_in_place(|| open(tmp.path(), &signer));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = store.clone();
        tasks.spawn(async move {
            // Some one by one, most in bulk: both ways are in use.
            for n in 0..20 {
                store.append(entry(task * EACH + n)).await.unwrap();
            }
            store.append_all((20..EACH).map(|n| entry(task * EACH + n)).collect()).await.unwrap();
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(store.ledger().head().seq, TASKS * EACH);
    assert_eq!(store.ledger().count(&Query::new(everywhere())).unwrap(), TASKS * EACH);
    assert_eq!(store.health(), Health::Healthy);
    let mut seen = vec![false; usize::try_from(TASKS * EACH).unwrap()];
    tokio::task::block_in_place(|| drop(store));
    let store = tokio::task::block_in_place(|| open(tmp.path(), &signer));
    for found in store.ledger().iter_from(1) {
        let n = usize::try_from(found.unwrap().entry.body["n"].as_u64().unwrap()).unwrap();
        assert!(!std::mem::replace(&mut seen[n], true), "{n} is there twice");
    }
    assert!(seen.iter().all(|seen| *seen));
    let report = verify(tmp.path(), &ROOT, &VerifyOptions::default()).unwrap();
    assert!(report.is_ok() && report.entries == TASKS * EACH && report.checkpoints >= 50, "{report:?}");
}

#[test]
fn checkpoints_come_by_count_by_time_and_at_the_end() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let ledger = LedgerOptions {
        checkpoint_entries: 10,
        checkpoint_after: Duration::from_millis(80),
        ..LedgerOptions::default()
    };
    let store = Store::open(tmp.path(), &ROOT, gatehouse_store::Options { ledger, ..options(&signer) }).unwrap();
    let lines = || -> Vec<Checkpoint> {
        let text = std::fs::read_to_string(tmp.path().join("ledger/checkpoints")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    append(&store, (0..10).map(entry));
    assert_eq!(lines().len(), 1, "by count");
    append(&store, [entry(10)]);
    let due = std::time::Instant::now() + Duration::from_secs(20);
    while lines().len() < 2 {
        assert!(std::time::Instant::now() < due, "by time");
        std::thread::sleep(Duration::from_millis(20));
    }
    append(&store, [entry(11)]);
    drop(store);
    let lines = lines();
    assert_eq!(lines.last().unwrap().seq, 12, "at the end");
    assert!(lines.iter().all(Checkpoint::signature_ok));
    assert!(lines.windows(2).all(|pair| pair[1].counter == pair[0].counter + 1));
    // Nothing new, nothing signed.
    drop(open(tmp.path(), &signer));
    let text = std::fs::read_to_string(tmp.path().join("ledger/checkpoints")).unwrap();
    assert_eq!(text.lines().count(), lines.len());
}

#[test]
fn large_entries_survive_in_outbox_and_segment() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let store = Store::open(tmp.path(), &ROOT, small_segments(&signer, 100_000)).unwrap();
    let mut noise = String::new();
    let mut state = 1_u64;
    while noise.len() < 400_000 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        noise.push_str(&format!("{:x}", state >> 20));
    }
    let mut large = entry(1);
    large.body["command"] = noise.into();
    append(&store, [entry(0), large.clone(), entry(2)]);
    assert_eq!(*store.ledger().get(large.id).unwrap().unwrap().entry, large);
    drop(store);
    let store = open(tmp.path(), &signer);
    assert_eq!(*store.ledger().get(large.id).unwrap().unwrap().entry, large);
    large.id = Uuid::now_v7();
    large.body["command"] = "x".repeat(gatehouse_store::ledger::MAX_ENTRY).into();
    let refused = commit(&store, |b| {
        b.audit(large);
    });
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
}

#[test]
fn a_closed_store_takes_nothing_and_still_reads() {
    let store = Store::in_memory();
    let one = entry(1);
    append(&store, [one.clone()]);
    store.close();
    let refused = commit(&store, |b| {
        b.audit(entry(2));
    });
    assert!(matches!(refused, Err(StoreError::Closed)));
    assert_eq!(store.ledger().get(one.id).unwrap().unwrap().entry, Arc::new(one));
}
