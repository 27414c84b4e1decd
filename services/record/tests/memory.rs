//! Memory and threads of many open recordings. A binary of its own, because it measures the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use common::{Fixture, header, ms, noise, out};

fn status(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn idle_recordings_cost_little_memory_and_no_thread() {
    let fixture = Fixture::new();
    // Warm up: allocator, thread pools, compression contexts, and one recording that moved a lot.
    let warm = fixture.pool.start(header()).await.unwrap();
    for n in 0..200 {
        warm.write(ms(n), out(noise(60_000, n))).await.unwrap();
    }
    warm.flush().await.unwrap();
    let (before, threads) = (status("VmRSS"), status("Threads"));
    let mut recorders = Vec::new();
    for _ in 0..500 {
        recorders.push(fixture.pool.start(header()).await.unwrap());
    }
    for recorder in &recorders {
        recorder.write(ms(1), out("Last login: today\r\n$ ")).await.unwrap();
    }
    for recorder in &recorders {
        recorder.flush().await.unwrap();
    }
    let per_recording = status("VmRSS").saturating_sub(before) * 1024 / recorders.len();
    assert!(per_recording < 16 * 1024, "{per_recording} bytes per idle recording");
    assert!(status("Threads") <= threads + 2, "threads do not grow with recordings");
    // What they move does not stay: 500 recordings that each wrote 1 MB.
    for round in 0..16 {
        for recorder in &recorders {
            recorder.write(ms(2), out(noise(60_000, round))).await.unwrap();
        }
    }
    for recorder in &recorders {
        recorder.flush().await.unwrap();
    }
    let after = status("VmRSS").saturating_sub(before) * 1024 / recorders.len();
    assert!(after < 128 * 1024, "{after} bytes per recording after moving 1 MB each");
    for recorder in recorders {
        recorder.close().await.unwrap();
    }
}
