//! What the command tracker costs: bytes per second in a flood and close up, and memory per idle tracker.
//!
//! Run with `cargo run --release -p gatehouse-session --example command_cost`. Numbers to look at, not a test: machines differ.
#![allow(clippy::print_stdout, reason = "it is a report")]

use std::time::Instant;

use gatehouse_session::command::{Options, Tracker};

fn main() {
    let plain = "the quick brown fox jumps over the lazy dog 0123456789 and goes on\r\n".repeat(480);
    let coloured = "\x1b[01;34mdirectory\x1b[0m  \x1b[01;32mprogram\x1b[0m  file  \x1b[0m\r\n".repeat(600);
    for (name, chunk) in [("plain", plain.as_bytes()), ("coloured", coloured.as_bytes())] {
        let (total, rounds) = (1_usize << 30, (1 << 30) / chunk.len());
        let mut tracker = Tracker::new(80, 24, Options::default());
        let start = Instant::now();
        for _ in 0..rounds {
            tracker.output(chunk, start);
        }
        report(&format!("{name} flood"), total, start);
        let mut tracker = Tracker::new(80, 24, Options::default());
        let start = Instant::now();
        for _ in 0..rounds / 16 {
            // A key now and then keeps the tracker looking closely.
            tracker.input(b"\x1b[?1;2c", start);
            tracker.output(chunk, start);
        }
        report(&format!("{name} looked at closely"), total / 16, start);
    }
    println!("memory of 1000 idle trackers with a prompt on a filled 80x24 screen: {} KiB each", idle_kib());
}

fn report(what: &str, bytes: usize, start: Instant) {
    println!("{what}: {:.0} MiB/s", bytes as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64());
}

/// Resident growth per tracker; 0 where the system does not tell.
fn idle_kib() -> usize {
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
        text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4
    };
    let before = resident();
    let trackers: Vec<Tracker> = (0..1000)
        .map(|_| {
            let mut tracker = Tracker::new(80, 24, Options::default());
            for _ in 0..30 {
                tracker.output(b"drwxr-xr-x 2 root root 4096 Nov 21 11:17 some-directory\r\n", Instant::now());
            }
            tracker.output(b"user@host:~$ ", Instant::now());
            tracker
        })
        .collect();
    let grown = resident().saturating_sub(before) / trackers.len();
    drop(trackers);
    grown
}
