//! What every engine must do. The same functions run against each engine.

use std::{collections::BTreeMap, ops::Bound};

use gatehouse_store::engine::{Engine, MemoryEngine, SledEngine, TreeId, Write};
use proptest::prelude::*;

const A: TreeId = TreeId([1; 16]);
const B: TreeId = TreeId([2; 16]);
const LAST: TreeId = TreeId([0xff; 16]);

fn put(tree: TreeId, key: &[u8], value: &[u8]) -> Write {
    Write { tree, key: key.to_vec(), value: Some(value.to_vec()) }
}

fn del(tree: TreeId, key: &[u8]) -> Write {
    Write { tree, key: key.to_vec(), value: None }
}

fn keys(engine: &dyn Engine, tree: TreeId, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Vec<Vec<u8>> {
    engine.scan(tree, from, to, reverse).map(|pair| pair.unwrap().0).collect()
}

fn basics(engine: &dyn Engine) {
    assert_eq!(engine.get(A, b"x").unwrap(), None);
    engine.apply(&[put(A, b"x", b"1"), put(B, b"x", b"2"), put(A, b"", b"empty key"), put(A, b"y", b"")]).unwrap();
    assert_eq!(engine.get(A, b"x").unwrap().unwrap(), b"1");
    assert_eq!(engine.get(B, b"x").unwrap().unwrap(), b"2");
    assert_eq!(engine.get(A, b"").unwrap().unwrap(), b"empty key");
    assert_eq!(engine.get(A, b"y").unwrap().unwrap(), b"");
    engine.apply(&[del(A, b"x"), del(A, b"never was")]).unwrap();
    assert_eq!(engine.get(A, b"x").unwrap(), None);
    assert_eq!(engine.get(B, b"x").unwrap().unwrap(), b"2");
    engine.apply(&[put(A, b"z", b"1"), del(A, b"z"), put(A, b"z", b"2")]).unwrap();
    assert_eq!(engine.get(A, b"z").unwrap().unwrap(), b"2", "the last write of a batch counts");
    engine.flush().unwrap();
    assert_eq!(engine.scan_all().count(), 4);
}

fn ranges(engine: &dyn Engine) {
    use Bound::{Excluded, Included, Unbounded};
    for tree in [A, B, LAST] {
        let writes: Vec<Write> = (0..600_u16).map(|n| put(tree, &n.to_be_bytes(), &tree.0)).collect();
        engine.apply(&writes).unwrap();
    }
    let n = |n: u16| n.to_be_bytes().to_vec();
    let all: Vec<Vec<u8>> = (0..600).map(n).collect();
    for tree in [A, B, LAST] {
        assert_eq!(keys(engine, tree, Unbounded, Unbounded, false), all, "no other tree shows");
        let back: Vec<Vec<u8>> = all.iter().rev().cloned().collect();
        assert_eq!(keys(engine, tree, Unbounded, Unbounded, true), back);
    }
    let (low, high) = (n(10), n(13));
    let between = |from, to, reverse| keys(engine, A, from, to, reverse);
    assert_eq!(between(Included(&low), Excluded(&high), false), [n(10), n(11), n(12)]);
    assert_eq!(between(Excluded(&low), Included(&high), true), [n(13), n(12), n(11)]);
    assert_eq!(between(Included(&high), Included(&low), false), Vec::<Vec<u8>>::new());
    assert_eq!(between(Excluded(&low), Excluded(&low), false), Vec::<Vec<u8>>::new());
    assert_eq!(between(Included(&low), Included(&low), true), [n(10)]);
    assert_eq!(engine.scan(A, Unbounded, Unbounded, false).take(3).count(), 3);
}

/// A batch is seen whole or not at all.
fn batches_are_atomic_for_readers(engine: &dyn Engine) {
    let stop = std::sync::atomic::AtomicBool::new(false);
    engine.apply(&[put(A, b"a", &[0]), put(B, b"b", &[0])]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                // Written later in the batch, read first: it may be older, never newer.
                let b = engine.get(B, b"b").unwrap().unwrap()[0];
                let a = engine.get(A, b"a").unwrap().unwrap()[0];
                assert!(a >= b, "{a} {b}");
            }
        });
        for n in 1..=200_u8 {
            engine.apply(&[put(A, b"a", &[n]), put(B, b"b", &[n])]).unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

type Batch = Vec<(bool, u8, Option<u8>)>;

fn like_a_map(engine: &dyn Engine, batches: &[Batch]) {
    let mut model: BTreeMap<(TreeId, Vec<u8>), Vec<u8>> = BTreeMap::new();
    // An engine is used for one case after the other.
    let old: Vec<Write> = [A, B]
        .into_iter()
        .flat_map(|tree| {
            keys(engine, tree, Bound::Unbounded, Bound::Unbounded, false).into_iter().map(move |k| del(tree, &k))
        })
        .collect();
    engine.apply(&old).unwrap();
    for batch in batches {
        let mut writes = Vec::new();
        for (first, key, value) in batch {
            let tree = if *first { A } else { B };
            writes.push(Write { tree, key: vec![*key], value: value.map(|v| vec![v; usize::from(v)]) });
            match value {
                Some(v) => model.insert((tree, vec![*key]), vec![*v; usize::from(*v)]),
                None => model.remove(&(tree, vec![*key])),
            };
        }
        engine.apply(&writes).unwrap();
        let found: BTreeMap<(TreeId, Vec<u8>), Vec<u8>> = [A, B]
            .into_iter()
            .flat_map(|tree| {
                engine.scan(tree, Bound::Unbounded, Bound::Unbounded, false).map(move |pair| {
                    let (key, value) = pair.unwrap();
                    ((tree, key), value)
                })
            })
            .collect();
        assert_eq!(found, model);
    }
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let op = (any::<bool>(), 0..12_u8, proptest::option::of(any::<u8>()));
    proptest::collection::vec(proptest::collection::vec(op, 0..10), 1..12)
}

macro_rules! suite {
    ($name:ident, $make:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn basics() {
                let (engine, _keep) = $make;
                super::basics(&engine);
            }

            #[test]
            fn ranges() {
                let (engine, _keep) = $make;
                super::ranges(&engine);
            }

            #[test]
            fn batches_are_atomic_for_readers() {
                let (engine, _keep) = $make;
                super::batches_are_atomic_for_readers(&engine);
            }

            #[test]
            fn like_a_map() {
                let (engine, _keep) = $make;
                proptest!(ProptestConfig::with_cases(64), |(batches in batches())| {
                    super::like_a_map(&engine, &batches);
                });
            }
        }
    };
}

fn sled() -> (SledEngine, tempfile::TempDir) {
    let tmp = tempfile::tempdir().unwrap();
    (SledEngine::open(tmp.path(), 4 << 20).unwrap(), tmp)
}

suite!(memory_engine, (MemoryEngine::new(), ()));
suite!(sled_engine, sled());

#[test]
fn what_sled_flushed_is_there_after_opening_again() {
    let (engine, tmp) = sled();
    engine.apply(&[put(A, b"k", b"v"), put(LAST, b"k", b"w")]).unwrap();
    engine.flush().unwrap();
    drop(engine);
    let engine = SledEngine::open(tmp.path(), 4 << 20).unwrap();
    assert_eq!(engine.get(A, b"k").unwrap().unwrap(), b"v");
    assert_eq!(engine.get(LAST, b"k").unwrap().unwrap(), b"w");
}
