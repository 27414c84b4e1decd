//! The API as its clients see it: requests in, answers out, on a store in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod bounds;
mod creation;
mod crud;
mod cves;
mod isolation;
mod login;
mod logs;
mod second_factor;
mod serve;
mod shapes;
mod sheets;
mod walk;
mod world;
