//! What the store promises, checked from outside: one binary, one module per promise.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout)]

mod backup;
mod bad_days;
mod common;
mod conformance;
mod crash;
mod ledger;
mod records;
mod retention;
mod verify;
