//! Collections: what is read is what was committed, within its organization, under its constraints.

use std::{collections::BTreeMap, sync::Arc};

use gatehouse_model::record::{Index, Record, SystemRecord};
use gatehouse_store::{AllOrgs, ChangeOp, Registry, Store, StoreError};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::common::{Host, Person, ROOT, Secret, commit, entry, open, options, signer};

/// Both engines under the same store.
fn both(test: impl Fn(&Store)) {
    test(&Store::in_memory());
    let tmp = tempfile::tempdir().unwrap();
    test(&open(tmp.path(), &signer()));
}

#[test]
fn a_record_is_seen_in_its_organization_only() {
    both(|store| {
        let (mine, other) = (Uuid::now_v7(), Uuid::now_v7());
        let host = Host::new(mine, "db1");
        let secret = Secret { id: Uuid::now_v7(), org: mine, owner: host.id, value: "s3cret".into() };
        commit(store, |b| {
            b.insert(host.clone()).insert(secret.clone());
        })
        .unwrap();
        let (here, there) = (store.in_org(mine), store.in_org(other));
        let everywhere = store.all_orgs(AllOrgs::crossing_organizations());
        assert_eq!(*here.get::<Host>(host.id).unwrap().unwrap(), host);
        assert_eq!(*here.get::<Secret>(secret.id).unwrap().unwrap(), secret);
        assert_eq!(*everywhere.get::<Host>(host.id).unwrap().unwrap(), host);
        assert!(
            there.get::<Host>(host.id).unwrap().is_none() && there.versioned::<Secret>(secret.id).unwrap().is_none()
        );
        for (view, wanted) in [(&here, 1), (&there, 0), (&everywhere, 1)] {
            assert_eq!(view.list::<Host>().unwrap().len(), wanted);
            assert_eq!(view.list::<Secret>().unwrap().len(), wanted);
            assert_eq!(view.count::<Host>().unwrap(), wanted);
            assert_eq!(view.count::<Secret>().unwrap(), wanted);
            assert_eq!(view.find::<Host>("platform", b"linux").unwrap().len(), wanted);
            assert_eq!(view.find::<Secret>("owner", host.id.as_bytes()).unwrap().len(), wanted);
            assert_eq!(view.page::<Host>(None, 9, true).unwrap().len(), wanted);
        }
        let moved = Host { org: other, ..host };
        let refused = commit(store, |b| {
            b.put(moved);
        });
        assert!(matches!(refused, Err(StoreError::OtherOrganization { .. })));
    });
}

#[test]
fn unique_keys_hold_within_a_batch_and_across_batches() {
    both(|store| {
        let org = Uuid::now_v7();
        let (a, b, c) = (Host::new(org, "a"), Host::new(org, "b"), Host::new(org, "a"));
        commit(store, |batch| {
            batch.insert(a.clone()).insert(b.clone());
        })
        .unwrap();
        let taken = commit(store, |batch| {
            batch.insert(Host::new(org, "fine")).insert(c.clone()).audit(entry(1));
        });
        assert!(
            matches!(taken, Err(StoreError::Conflict { kind: "test-host", index: "name", existing }) if existing == a.id)
        );
        let view = store.in_org(org);
        assert_eq!(view.count::<Host>().unwrap(), 2, "nothing of the batch happened");
        assert_eq!(store.ledger().head().seq, 0);
        let twice = commit(store, |batch| {
            batch.insert(Host::new(org, "x")).insert(Host::new(org, "x"));
        });
        assert!(matches!(twice, Err(StoreError::Conflict { .. })));
        // A name that is given up in a batch is free later in the same batch; swapping needs that.
        commit(store, |batch| {
            batch.delete::<Host>(a.id).insert(c.clone());
        })
        .unwrap();
        commit(store, |batch| {
            batch.put(Host { name: "tmp".into(), ..c.clone() });
            batch.put(Host { name: "a".into(), ..b.clone() });
            batch.put(Host { name: "b".into(), ..c.clone() });
        })
        .unwrap();
        let key = |name: &str| Index::compound(&[org.as_bytes(), name.as_bytes()]);
        assert_eq!(view.find::<Host>("name", &key("a")).unwrap()[0].id, b.id);
        assert_eq!(view.find::<Host>("name", &key("b")).unwrap()[0].id, c.id);
        assert!(view.find::<Host>("name", &key("tmp")).unwrap().is_empty());
        // The same name in another organization is no conflict.
        commit(store, |batch| {
            batch.insert(Host::new(Uuid::now_v7(), "a"));
        })
        .unwrap();
    });
}

#[test]
fn versions_tell_who_came_first() {
    both(|store| {
        let person = Person { id: Uuid::now_v7(), username: "ada".into() };
        let absent = commit(store, |b| {
            b.update(person.clone(), 1);
        });
        assert!(matches!(absent, Err(StoreError::NotFound { .. })));
        commit(store, |b| {
            b.insert(person.clone());
        })
        .unwrap();
        let again = commit(store, |b| {
            b.insert(person.clone());
        });
        assert!(matches!(again, Err(StoreError::Exists { .. })));
        let (_, version) = store.system().versioned::<Person>(person.id).unwrap().unwrap();
        let renamed = Person { username: "grace".into(), ..person };
        commit(store, |b| {
            b.update(renamed.clone(), version);
        })
        .unwrap();
        let late = commit(store, |b| {
            b.update(person.clone(), version);
        });
        assert!(matches!(late, Err(StoreError::Stale { expected: 1, found: Some(2), .. })));
        commit(store, |b| {
            b.put(person.clone());
        })
        .unwrap();
        assert_eq!(store.system().versioned::<Person>(person.id).unwrap().unwrap(), (Arc::new(person.clone()), 3));
        commit(store, |b| {
            b.delete::<Person>(person.id).delete::<Person>(Uuid::now_v7());
        })
        .unwrap();
        assert!(store.system().get::<Person>(person.id).unwrap().is_none());
    });
}

#[test]
fn pages_go_through_everything_in_both_directions() {
    both(|store| {
        let (org, other) = (Uuid::now_v7(), Uuid::now_v7());
        let secret = |n: u128, org| Secret { id: Uuid::from_u128(n), org, owner: org, value: n.to_string() };
        let host = |n: u128, org| Host { id: Uuid::from_u128(n), ..Host::new(org, &n.to_string()) };
        commit(store, |b| {
            for n in 1..=25 {
                let org = if n % 5 == 0 { other } else { org };
                b.insert(secret(n, org)).insert(host(n, org));
            }
        })
        .unwrap();
        fn walk<T: gatehouse_model::record::OrgRecord>(store: &Store, org: Uuid, reverse: bool) -> Vec<u128> {
            let (mut after, mut out) = (None, Vec::new());
            loop {
                let page = store.in_org(org).page::<T>(after, 3, reverse).unwrap();
                let Some(last) = page.last() else { return out };
                assert!(page.len() <= 3);
                after = Some(last.id());
                out.extend(page.iter().map(|r| r.id().as_u128()));
            }
        }
        let mut wanted: Vec<u128> = (1..=25).filter(|n| n % 5 != 0).collect();
        assert_eq!(
            (walk::<Secret>(store, org, false), walk::<Host>(store, org, false)),
            (wanted.clone(), wanted.clone())
        );
        wanted.reverse();
        assert_eq!((walk::<Secret>(store, org, true), walk::<Host>(store, org, true)), (wanted.clone(), wanted));
    });
}

#[tokio::test]
async fn subscribers_hear_of_what_is_visible() {
    let store = Store::in_memory();
    let mut changes = store.subscribe();
    let host = Host::new(Uuid::now_v7(), "a");
    let mut batch = store.batch();
    batch.insert(host.clone());
    store.commit(batch).await.unwrap();
    let mut batch = store.batch();
    batch.put(host.clone()).delete::<Host>(host.id);
    store.commit(batch).await.unwrap();
    for wanted in [ChangeOp::Inserted, ChangeOp::Updated, ChangeOp::Deleted] {
        let change = changes.recv().await.unwrap();
        assert_eq!((change.kind, change.id, change.org, change.op), ("test-host", host.id, Some(host.org), wanted));
    }
}

/// The traps of serde in a stored form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Tricky {
    id: Uuid,
    #[serde(flatten)]
    flat: Flat,
    any: Either,
    value: serde_json::Value,
    at: chrono::DateTime<chrono::Utc>,
    map: BTreeMap<Uuid, u64>,
    #[serde(default)]
    later: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flat {
    inner: Uuid,
    address: std::net::IpAddr,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Either {
    Id { target: Uuid },
    Text(String),
}

impl Record for Tricky {
    const KIND: &'static str = "test-tricky";
    const CACHED: bool = false;

    fn id(&self) -> Uuid {
        self.id
    }
}

impl SystemRecord for Tricky {}

#[test]
fn the_stored_form_survives_what_serde_finds_difficult() {
    let store = Store::in_memory();
    let one = Tricky {
        id: Uuid::now_v7(),
        flat: Flat { inner: Uuid::now_v7(), address: "::1".parse().unwrap() },
        any: Either::Id { target: Uuid::now_v7() },
        value: serde_json::json!({ "z": 1, "a": [null, 1.5, u64::MAX, -3, "\u{1F980}\u{0}"] }),
        at: chrono::Utc::now(),
        map: BTreeMap::from([(Uuid::now_v7(), u64::MAX)]),
        later: None,
    };
    let two = Tricky { id: Uuid::now_v7(), any: Either::Text("x".into()), ..one.clone() };
    commit(&store, |b| {
        b.insert(one.clone()).insert(two.clone());
    })
    .unwrap();
    assert_eq!(*store.system().get::<Tricky>(one.id).unwrap().unwrap(), one);
    assert_eq!(*store.system().get::<Tricky>(two.id).unwrap().unwrap(), two);
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct ThingV1 {
    id: Uuid,
    label: String,
}

impl Record for ThingV1 {
    const KIND: &'static str = "test-thing";

    fn id(&self) -> Uuid {
        self.id
    }
}

impl SystemRecord for ThingV1 {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct ThingV3 {
    id: Uuid,
    name: String,
    length: usize,
}

impl Record for ThingV3 {
    const KIND: &'static str = "test-thing";
    const SCHEMA: u32 = 3;

    fn id(&self) -> Uuid {
        self.id
    }

    fn indexes(&self) -> Vec<Index> {
        vec![Index::unique("name", self.name.as_bytes())]
    }

    fn migrate(from: u32, mut value: serde_json::Value) -> Result<serde_json::Value, String> {
        let map = value.as_object_mut().ok_or("no object")?;
        match from {
            1 => {
                let label = map.remove("label").ok_or("no label")?;
                map.insert("name".into(), label);
            }
            2 => {
                let length = map["name"].as_str().ok_or("no text")?.len();
                map.insert("length".into(), length.into());
            }
            _ => return Err("unknown".into()),
        }
        Ok(value)
    }
}

impl SystemRecord for ThingV3 {}

#[test]
fn records_are_brought_forward_in_one_step_or_not_at_all() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let with = |registry| gatehouse_store::Options { registry, ..options(&signer) };
    let thing = ThingV1 { id: Uuid::now_v7(), label: "lamp".into() };
    let store = Store::open(tmp.path(), &ROOT, with(Registry::new().with::<ThingV1>())).unwrap();
    commit(&store, |b| {
        b.insert(thing.clone()).insert(ThingV1 { id: Uuid::now_v7(), label: "desk".into() });
    })
    .unwrap();
    let rival = ThingV1 { id: Uuid::now_v7(), label: "lamp".into() };
    commit(&store, |b| {
        b.insert(rival.clone());
    })
    .unwrap();
    drop(store);
    // Two lamps cannot both have a unique name: nothing moves, and the old program still works.
    let refused = Store::open(tmp.path(), &ROOT, with(Registry::new().with::<ThingV3>()));
    assert!(matches!(refused.err(), Some(StoreError::Conflict { index: "name", .. })));
    let store = Store::open(tmp.path(), &ROOT, with(Registry::new().with::<ThingV1>())).unwrap();
    assert_eq!(store.system().list::<ThingV1>().unwrap().len(), 3);
    commit(&store, |b| {
        b.delete::<ThingV1>(rival.id);
    })
    .unwrap();
    drop(store);
    let store = Store::open(tmp.path(), &ROOT, with(Registry::new().with::<ThingV3>())).unwrap();
    let lamp = store.system().find::<ThingV3>("name", b"lamp").unwrap();
    assert_eq!(*lamp[0], ThingV3 { id: thing.id, name: "lamp".into(), length: 4 });
    assert_eq!(store.system().versioned::<ThingV3>(thing.id).unwrap().unwrap().1, 1);
    let taken = commit(&store, |b| {
        b.insert(ThingV3 { id: Uuid::now_v7(), name: "desk".into(), length: 4 });
    });
    assert!(matches!(taken, Err(StoreError::Conflict { .. })), "the index was made on the way");
    drop(store);
    let old = Store::open(tmp.path(), &ROOT, with(Registry::new().with::<ThingV1>()));
    assert!(matches!(old.err(), Some(StoreError::TooNew { found: 3, known: 1, .. })));
}

#[test]
fn two_types_with_one_kind_are_noticed() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let registry = Registry::new().with::<ThingV1>().with::<ThingV3>();
    let opened = Store::open(tmp.path(), &ROOT, gatehouse_store::Options { registry, ..options(&signer) });
    assert!(matches!(opened.err(), Some(StoreError::DuplicateKind("test-thing"))));
}

#[test]
fn everything_is_there_after_opening_again() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let org = Uuid::now_v7();
    let hosts: Vec<Host> = (0..300).map(|n| Host::new(org, &format!("host-{n}"))).collect();
    let store = open(tmp.path(), &signer);
    commit(&store, |b| {
        for host in &hosts {
            b.insert(host.clone());
        }
    })
    .unwrap();
    let key = store.derive_key("cookies").unwrap();
    drop(store);
    let store = open(tmp.path(), &signer);
    let found: Vec<Host> = store.in_org(org).list::<Host>().unwrap().iter().map(|host| (**host).clone()).collect();
    assert_eq!(found, hosts);
    assert!(*store.derive_key("cookies").unwrap() == *key && *store.derive_key("other").unwrap() != *key);
}

#[test]
fn records_that_are_too_large_are_refused_with_their_name() {
    let store = Store::in_memory();
    let mut host = Host::new(Uuid::now_v7(), "big");
    host.extra = "x".repeat(gatehouse_store::MAX_RECORD).into();
    let refused = commit(&store, |b| {
        b.insert(host);
    });
    assert!(matches!(refused, Err(StoreError::TooLarge { .. })));
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u8, u8),
    Put(u8, u8),
    Update(u8, u8, u8),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let (id, name) = (0..5_u8, 0..5_u8);
    prop_oneof![
        (id.clone(), name.clone()).prop_map(|(i, n)| Step::Insert(i, n)),
        (id.clone(), name.clone()).prop_map(|(i, n)| Step::Put(i, n)),
        (id.clone(), name, 1..4_u8).prop_map(|(i, n, v)| Step::Update(i, n, v)),
        id.prop_map(Step::Delete),
    ]
}

/// The plainest thing that behaves as a store of named persons should.
fn model_apply(model: &BTreeMap<u8, (u8, u64)>, batch: &[Step]) -> Option<BTreeMap<u8, (u8, u64)>> {
    let mut next = model.clone();
    for step in batch {
        let (id, name) = match *step {
            Step::Delete(id) => {
                next.remove(&id);
                continue;
            }
            Step::Insert(id, _) if next.contains_key(&id) => return None,
            Step::Update(id, _, version) if next.get(&id).map(|(_, v)| *v) != Some(version.into()) => return None,
            Step::Insert(id, name) | Step::Put(id, name) | Step::Update(id, name, _) => (id, name),
        };
        if next.iter().any(|(other, (taken, _))| *other != id && *taken == name) {
            return None;
        }
        let version = next.get(&id).map_or(0, |(_, v)| *v) + 1;
        next.insert(id, (name, version));
    }
    Some(next)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn batches_behave_like_a_map(batches in proptest::collection::vec(proptest::collection::vec(step(), 1..5), 1..12)) {
        let store = Store::in_memory();
        let mut model = BTreeMap::new();
        let id = |n: u8| Uuid::from_u128(u128::from(n) + 1);
        let person = |n: u8, name: u8| Person { id: id(n), username: format!("user-{name}") };
        for batch in &batches {
            let result = commit(&store, |b| {
                for step in batch {
                    match *step {
                        Step::Insert(i, n) => b.insert(person(i, n)),
                        Step::Put(i, n) => b.put(person(i, n)),
                        Step::Update(i, n, v) => b.update(person(i, n), v.into()),
                        Step::Delete(i) => b.delete::<Person>(id(i)),
                    };
                }
            });
            let wanted = model_apply(&model, batch);
            prop_assert_eq!(result.is_ok(), wanted.is_some(), "{:?}", result);
            model = wanted.unwrap_or(model);
            let system = store.system();
            let found: BTreeMap<u8, (u8, u64)> = (0..5_u8)
                .filter_map(|n| {
                    let (person, version) = system.versioned::<Person>(id(n)).unwrap()?;
                    Some((n, (person.username[5..].parse().unwrap(), version)))
                })
                .collect();
            prop_assert_eq!(&found, &model);
            for name in 0..5_u8 {
                let by_name = system.find::<Person>("username", format!("user-{name}").as_bytes()).unwrap();
                let wanted = model.iter().find(|(_, (n, _))| *n == name).map(|(i, _)| id(*i));
                prop_assert_eq!(by_name.iter().map(|p| p.id).collect::<Vec<_>>(), wanted.into_iter().collect::<Vec<_>>());
            }
        }
    }
}

/// Not asserted (machines are noisy): how long 100,000 records take to come up. Run with `--run-ignored all --nocapture`.
#[test]
#[ignore = "a measurement, not a check"]
fn measure_opening_with_a_hundred_thousand_records() {
    let tmp = tempfile::tempdir().unwrap();
    let signer = signer();
    let org = Uuid::now_v7();
    let store = open(tmp.path(), &signer);
    let begin = std::time::Instant::now();
    for chunk in 0..200 {
        commit(&store, |b| {
            for n in 0..500 {
                let mut host = Host::new(org, &format!("host-{}", chunk * 500 + n));
                host.extra = serde_json::json!({ "comment": "x".repeat(400), "n": n });
                b.insert(host);
            }
        })
        .unwrap();
    }
    println!("written in {:?}, {} MiB on the disk", begin.elapsed(), store.size_on_disk().unwrap() >> 20);
    drop(store);
    let begin = std::time::Instant::now();
    let store = open(tmp.path(), &signer);
    println!("opened in {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    assert_eq!(store.in_org(org).list::<Host>().unwrap().len(), 100_000);
    println!("listed in {:?}", begin.elapsed());
}
