//! The domain of Gatehouse: nouns, their validation, and the one pure decision.
//!
//! What lives here: plain data types with the field's standard names (JumpServer's where users meet them), checks on
//! them, and `decide`, the function that every door asks. What must not: IO, async, a clock of its own (time is an
//! argument), randomness, logging, or anything that knows how data is stored or shown.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

pub mod account;
pub mod asset;
pub mod builtin;
pub mod choices;
pub mod command;
pub mod common;
pub mod decide;
pub mod directory;
pub mod filter;
#[cfg(test)]
mod fixture;
pub mod grant;
pub mod ledger;
pub mod net;
pub mod nodes;
pub mod notice;
#[cfg(test)]
mod nouns_tests;
pub mod org;
pub mod permission;
pub mod record;
pub mod rules;
pub mod session;
pub mod settings;
pub mod time_period;
pub mod user;

pub use decide::{Decision, decide, decide_login};
pub use directory::Directory;
