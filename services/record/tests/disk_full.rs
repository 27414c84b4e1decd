//! A real limit of the operating system on the size of files, in place of a full disk. A binary of its own, because
//! the limit is the process's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Fixture, all, header, key, ms, noise, out};
use gatehouse_record::{Reader, RecordError, seal_interrupted, verify};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

#[tokio::test(flavor = "current_thread")]
async fn a_full_disk_fails_the_recording_loudly_and_keeps_what_was_written() {
    // The limit raises SIGXFSZ too; blocked before the pool's threads exist, they inherit it and see EFBIG.
    let mut set = SigSet::empty();
    set.add(Signal::SIGXFSZ);
    set.thread_block().unwrap();
    let fixture = Fixture::new();
    let recorder = fixture.pool.start(header()).await.unwrap();
    let path = fixture.pool.dir().join(recorder.file());
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 300_000, hard).unwrap();
    let failed = tokio::spawn(recorder.failed());
    let mut written = Ok(());
    for n in 0..1_000 {
        written = recorder.write(ms(n), out(noise(10_000, n))).await;
        if written.is_err() {
            break;
        }
    }
    assert!(matches!(written, Err(RecordError::Io { .. })), "{written:?}");
    assert_eq!(Err(failed.await.unwrap()), written, "whoever waits learns the same");
    assert_eq!(recorder.error().map(Err::<(), _>), Some(written.clone()));
    assert_eq!(recorder.close().await.map(drop), written);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
    let entries = all(&mut Reader::open(&path, &key()).unwrap());
    assert!(entries.len() >= 20, "{} events", entries.len());
    let sealed = seal_interrupted(&path, &key()).unwrap();
    assert_eq!(verify(&path, &key(), Some(sealed.digest)).unwrap().events, entries.len() as u64);
}
