//! Tests that need a disk that is slow or fails, which only the crate itself can put in.

use crate::disk::{Disk, LocalDisk, Sink};
use crate::{Event, Header, MasterKey, PoolOptions, Reader, RecordError, Recorder, RecorderPool, library};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::timeout;
use uuid::Uuid;

/// The local disk with a gate before every append and switches for failure.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    moved: Condvar,
    fail_append: AtomicBool,
    fail_sync: AtomicBool,
    panic: AtomicBool,
    appends: AtomicUsize,
    syncs: AtomicUsize,
    entry_syncs: AtomicUsize,
}

impl Gate {
    fn close(&self) {
        *self.closed.lock() = true;
    }

    fn open(&self) {
        *self.closed.lock() = false;
        self.moved.notify_all();
    }
}

struct GateDisk(Arc<Gate>);

struct GateSink {
    gate: Arc<Gate>,
    inner: Arc<dyn Sink>,
}

impl Disk for GateDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Sink>> {
        Ok(Arc::new(GateSink { gate: Arc::clone(&self.0), inner: LocalDisk.create(path)? }))
    }

    fn sync_entry(&self, path: &Path) -> io::Result<()> {
        self.0.entry_syncs.fetch_add(1, Ordering::SeqCst);
        LocalDisk.sync_entry(path)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        LocalDisk.remove(path)
    }
}

impl Sink for GateSink {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut closed = self.gate.closed.lock();
        while *closed {
            self.gate.moved.wait(&mut closed);
        }
        drop(closed);
        self.gate.appends.fetch_add(1, Ordering::SeqCst);
        assert!(!self.gate.panic.load(Ordering::SeqCst), "a fault in a worker");
        if self.gate.fail_append.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.inner.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.syncs.fetch_add(1, Ordering::SeqCst);
        if self.gate.fail_sync.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.inner.sync()
    }

    fn sync_filesystem(&self) -> io::Result<()> {
        self.sync()
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    gate: Arc<Gate>,
    pool: RecorderPool,
}

fn bench(options: &PoolOptions) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(GateDisk(Arc::clone(&gate)));
    let pool =
        RecorderPool::with_disk(dir.path().into(), MasterKey::new([7; 32]), options, library::RECORDING, disk).unwrap();
    Bench { _dir: dir, gate, pool }
}

fn header() -> Header {
    Header::term(Uuid::now_v7(), Uuid::nil(), 80, 24, "xterm")
}

fn output(len: usize) -> Event {
    // Data that does not compress, so that sizes mean something.
    let mut bytes = vec![0; len];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    Event::Output(Bytes::from(bytes))
}

/// Writes until the recording makes the writer wait; returns the bytes that it took.
async fn fill(recorder: &Recorder) -> usize {
    for n in 0.. {
        if timeout(Duration::from_millis(200), recorder.write(Duration::ZERO, output(10_000))).await.is_err() {
            return n * 10_000;
        }
        assert!(n < 10_000, "memory is not bounded");
    }
    0
}

#[tokio::test]
async fn a_stuck_disk_makes_writers_wait_with_bounded_memory_and_nothing_is_lost() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions::default());
    let recorder = pool.start(header()).await.unwrap();
    gate.close();
    let taken = fill(&recorder).await;
    assert!((200_000..400_000).contains(&taken), "{taken} bytes taken");
    gate.open();
    // The event that had to wait was given up whole: it is shorter than what may be split.
    recorder.write(Duration::from_secs(1), output(10_000)).await.unwrap();
    let path = pool.dir().join(recorder.file());
    let sealed = recorder.close().await.unwrap();
    assert_eq!(crate::verify(&path, &MasterKey::new([7; 32]), Some(sealed.digest)).unwrap().events, sealed.events);
    let bytes: usize = Reader::open(&path, &MasterKey::new([7; 32]))
        .unwrap()
        .events()
        .map(|entry| match entry.unwrap().event {
            Event::Output(bytes) => bytes.len(),
            other => panic!("unexpected {other:?}"),
        })
        .sum();
    assert!(bytes >= taken + 10_000 && bytes < taken + 20_000, "{bytes} of {taken}");
}

#[tokio::test]
async fn all_recordings_together_are_bounded_too() {
    let options = PoolOptions { total_queue_bytes: 300_000, ..PoolOptions::default() };
    let Bench { _dir, gate, pool } = bench(&options);
    let mut recorders = Vec::new();
    for _ in 0..4 {
        recorders.push(pool.start(header()).await.unwrap());
    }
    gate.close();
    let mut taken = Vec::new();
    for recorder in &recorders {
        taken.push(fill(recorder).await);
    }
    assert!(taken.iter().sum::<usize>() < 450_000, "{taken:?}");
    assert!(taken.iter().all(|taken| *taken > 0), "nobody is shut out: {taken:?}");
    gate.open();
    for recorder in recorders {
        recorder.write(Duration::ZERO, output(500_000)).await.unwrap();
        recorder.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_recording_that_waits_for_the_disk_does_not_hold_up_the_header_of_another() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions { workers: 1, ..PoolOptions::default() });
    let first = pool.start(header()).await.unwrap();
    let second = pool.start(header()).await.unwrap();
    gate.close();
    fill(&first).await;
    // Its chunk waits in memory; the session is not held up.
    timeout(Duration::from_secs(5), second.write(Duration::ZERO, output(1_000))).await.unwrap().unwrap();
    gate.open();
    second.close().await.unwrap();
    first.close().await.unwrap();
}

#[tokio::test]
async fn a_full_disk_fails_waiting_and_later_writers_and_the_closer() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions::default());
    let recorder = pool.start(header()).await.unwrap();
    gate.close();
    fill(&recorder).await;
    let waiting = tokio::spawn({
        let recorder = recorder.clone();
        async move { recorder.write(Duration::ZERO, output(10_000)).await }
    });
    let failed = tokio::spawn(recorder.failed());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!waiting.is_finished() && !failed.is_finished());
    gate.fail_append.store(true, Ordering::SeqCst);
    gate.open();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error, RecordError::Io { kind: io::ErrorKind::StorageFull, .. }), "{error:?}");
    assert_eq!(failed.await.unwrap(), error);
    assert_eq!(recorder.failed().await, error, "also for whoever asks later");
    gate.fail_append.store(false, Ordering::SeqCst);
    assert_eq!(recorder.write(Duration::ZERO, output(1)).await, Err(error.clone()), "a gap is never papered over");
    assert_eq!(recorder.flush().await, Err(error.clone()));
    assert_eq!(recorder.close().await, Err(error));
    assert_eq!(pool.shared_queue(), 0, "what was dropped is not counted any more");
}

#[tokio::test]
async fn a_seal_that_cannot_be_written_or_synced_is_not_reported_as_done() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions::default());
    let recorder = pool.start(header()).await.unwrap();
    recorder.write(Duration::ZERO, output(10)).await.unwrap();
    recorder.flush().await.unwrap();
    gate.fail_append.store(true, Ordering::SeqCst);
    assert!(matches!(recorder.close().await, Err(RecordError::Io { action: "seal", .. })));
    gate.fail_append.store(false, Ordering::SeqCst);
    let recorder = pool.start(header()).await.unwrap();
    gate.fail_sync.store(true, Ordering::SeqCst);
    assert!(matches!(recorder.close().await, Err(RecordError::Io { action: "sync the seal", .. })));
}

#[tokio::test]
async fn a_recording_does_not_start_without_its_header_on_the_disk() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions::default());
    let facts = header();
    for switch in [&gate.fail_append, &gate.fail_sync] {
        switch.store(true, Ordering::SeqCst);
        assert!(matches!(pool.start(facts.clone()).await.err(), Some(RecordError::Io { .. })));
        switch.store(false, Ordering::SeqCst);
        assert_eq!(library::usage(pool.dir()).unwrap().files, 0, "no half recording stays");
    }
    let syncs = (gate.syncs.load(Ordering::SeqCst), gate.entry_syncs.load(Ordering::SeqCst));
    let recorder = pool.start(facts).await.unwrap();
    assert_eq!(gate.syncs.load(Ordering::SeqCst), syncs.0 + 1, "the header is synced");
    assert_eq!(gate.entry_syncs.load(Ordering::SeqCst), syncs.1 + 1, "and its directory");
    recorder.close().await.unwrap();
}

#[tokio::test]
async fn written_chunks_are_synced_soon_and_a_failed_sync_fails_the_recording() {
    let options = PoolOptions { sync_every: Duration::from_millis(50), ..PoolOptions::default() };
    let Bench { _dir, gate, pool } = bench(&options);
    let recorder = pool.start(header()).await.unwrap();
    let before = gate.syncs.load(Ordering::SeqCst);
    recorder.write(Duration::ZERO, output(10)).await.unwrap();
    recorder.flush().await.unwrap();
    for _ in 0..500 {
        if gate.syncs.load(Ordering::SeqCst) > before {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(gate.syncs.load(Ordering::SeqCst), before + 1);
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(gate.syncs.load(Ordering::SeqCst), before + 1, "an idle recording is not synced again");
    gate.fail_sync.store(true, Ordering::SeqCst);
    recorder.write(Duration::ZERO, output(10)).await.unwrap();
    recorder.flush().await.unwrap();
    let error = timeout(Duration::from_secs(10), recorder.failed()).await.unwrap();
    assert!(matches!(error, RecordError::Io { action: "sync chunks", .. }), "{error:?}");
}

#[tokio::test]
async fn many_changed_recordings_are_synced_in_one_go() {
    let options = PoolOptions { sync_every: Duration::from_millis(400), ..PoolOptions::default() };
    let Bench { _dir, gate, pool } = bench(&options);
    let mut recorders = Vec::new();
    for _ in 0..100 {
        recorders.push(pool.start(header()).await.unwrap());
    }
    let before = gate.syncs.load(Ordering::SeqCst);
    for recorder in &recorders {
        recorder.write(Duration::ZERO, output(10)).await.unwrap();
    }
    for recorder in &recorders {
        recorder.flush().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let syncs = gate.syncs.load(Ordering::SeqCst) - before;
    assert!((1..100).contains(&syncs), "{syncs} syncs for 100 recordings");
    gate.fail_sync.store(true, Ordering::SeqCst);
    for recorder in &recorders {
        recorder.write(Duration::ZERO, output(10)).await.unwrap();
    }
    for recorder in &recorders {
        timeout(Duration::from_secs(10), recorder.failed()).await.unwrap();
    }
}

#[tokio::test]
async fn a_fault_in_one_recording_leaves_the_others_alone() {
    let Bench { _dir, gate, pool } = bench(&PoolOptions { workers: 1, ..PoolOptions::default() });
    let bad = pool.start(header()).await.unwrap();
    let good = pool.start(header()).await.unwrap();
    gate.panic.store(true, Ordering::SeqCst);
    bad.write(Duration::ZERO, output(10)).await.unwrap();
    assert!(matches!(bad.flush().await, Err(RecordError::Internal(_))));
    gate.panic.store(false, Ordering::SeqCst);
    good.write(Duration::ZERO, output(100_000)).await.unwrap();
    good.close().await.unwrap();
    assert!(matches!(bad.close().await, Err(RecordError::Internal(_))));
}

#[tokio::test]
async fn an_idle_recording_is_never_touched() {
    let Bench { _dir, gate, pool } =
        bench(&PoolOptions { sync_every: Duration::from_millis(50), ..PoolOptions::default() });
    let recorder = pool.start(header()).await.unwrap();
    recorder.write(Duration::ZERO, output(10)).await.unwrap();
    recorder.flush().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = (gate.appends.load(Ordering::SeqCst), gate.syncs.load(Ordering::SeqCst));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(before, (gate.appends.load(Ordering::SeqCst), gate.syncs.load(Ordering::SeqCst)));
    recorder.close().await.unwrap();
}
