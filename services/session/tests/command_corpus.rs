//! Commands as recorded against commands as run, by real programs in a pseudo-terminal.
//!
//! What lives here: the bench that plays the gateway (forward, hold Enter, judge, forward or refuse) between keys of a case
//! and a real shell, and the comparison with an oracle that knows nothing of the tracker: bash's and Python's own history,
//! zsh's `preexec`, and for the others a program `rec` that logs the arguments it was started with. The cases are in
//! `command_corpus/cases.rs`.
//!
//! Needs on the PATH: bash, zsh, dash, busybox, tmux, vim, less, python3, setsid (util-linux).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

#[path = "command_corpus/bench.rs"]
mod bench;
#[path = "command_corpus/cases.rs"]
mod cases;

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

#[test]
fn every_case_is_recorded_as_the_shell_ran_it() {
    bench::require_programs();
    let only = std::env::var("CORPUS_ONLY").unwrap_or_default();
    let cases: Vec<_> = cases::cases().into_iter().filter(|case| case.name.contains(&only)).collect();
    assert!(!only.is_empty() || cases.len() >= 60, "the corpus shrank to {} cases", cases.len());
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = bench::run(case) {
                        failures.lock().unwrap().push(format!("== {}\n{why}", case.name));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    eprintln!("{} cases, {} failed", cases.len(), failures.len());
    assert!(failures.is_empty(), "{} of {} cases failed\n{}", failures.len(), cases.len(), failures.join("\n"));
}
