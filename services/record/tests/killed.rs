//! A writer process that is killed with SIGKILL: what is older than a second is there, and nothing lies.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, reason = "the writer process tells its parent how far it is")]

mod common;

use common::{all, header, key, out};
use gatehouse_record::{PoolOptions, Reader, Reason, RecorderPool, library, seal_interrupted, verify};
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const DIR: &str = "GATEHOUSE_RECORD_TEST_DIR";

/// Not a test by itself: the process that gets killed. Without the variable there is nothing to do.
#[tokio::test]
async fn writer_process() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let pool = RecorderPool::new(dir.into(), key(), PoolOptions::default()).unwrap();
    let recorder = pool.start(header()).await.unwrap();
    let start = Instant::now();
    for n in 0u64.. {
        let at = start.elapsed();
        recorder.write(at, out(n.to_le_bytes())).await.unwrap();
        let mut stdout = std::io::stdout();
        writeln!(stdout, "wrote {}", at.as_micros()).unwrap();
        stdout.flush().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn a_killed_writer_loses_at_most_the_last_second() {
    for millis in [300, 1_700, 2_450] {
        let dir = tempfile::tempdir().unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut last = Duration::ZERO;
        let mut started = None;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            if let Some((_, micros)) = line.split_once("wrote ") {
                last = Duration::from_micros(micros.parse().unwrap());
                let started = started.get_or_insert_with(Instant::now);
                if started.elapsed() >= Duration::from_millis(millis) {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(last > Duration::ZERO, "the writer never came to write");
        let found = library::list(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        let path = dir.path().join(&found[0].file);
        let mut reader = Reader::open(&path, &key()).unwrap();
        assert!(!reader.complete());
        let entries = all(&mut reader);
        for (n, entry) in entries.iter().enumerate() {
            assert_eq!(entry.event, out((n as u64).to_le_bytes()), "no gap and no repetition");
        }
        let read = entries.last().map_or(Duration::ZERO, |entry| entry.at);
        // Half a second on top of the promise is for a machine that is busy with other tests.
        assert!(last.saturating_sub(read) < Duration::from_millis(1_500), "written {last:?}, readable {read:?}");
        assert!(matches!(verify(&path, &key(), None).unwrap_err().reason, Reason::NotSealed | Reason::Truncated(_)));
        let sealed = seal_interrupted(&path, &key()).unwrap();
        assert_eq!(verify(&path, &key(), Some(sealed.digest)).unwrap().events, entries.len() as u64);
    }
}
