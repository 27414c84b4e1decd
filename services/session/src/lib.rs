//! The one session pipeline: admit -> unlock -> dial -> tap -> control -> close, the same for every protocol.
//!
//! What lives here: who may start a session ([`Core::admit`]), what it needs to reach the asset ([`Admission`]), what
//! happens to every byte while it runs ([`SessionHandle`]), what auditors do to it ([`Live`]), and what is left of it in
//! store, ledger and recordings. What must not: any protocol towards users or assets (that is the gateways'), log-in of
//! users, HTTP.
//!
//! The order that every door keeps: [`Core::admit`], [`Core::open`] (session record, ledger entry and recording exist
//! from here on), dial with [`Admission::unlock`], [`SessionHandle::connected`], then every byte through
//! [`SessionHandle::output`] and [`SessionHandle::input`], and [`SessionHandle::close`].
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod admit;
mod audit;
pub mod command;
mod core;
mod gate;
mod handle;
mod hostkeys;
mod lastlogin;
mod live;
mod open;
mod paste;
mod probe;
mod readmodel;
mod recover;
mod rows;
mod screen;
mod unlock;
mod warden;

pub use admit::{AccountChoice, Admission, AdmitRequest, Refusal};
pub use core::{Clock, Core, CoreParts, SessionError};
pub use gate::{ExecRow, Gate, GateSink, GateStep, Passed, Rule, Verdict};
pub use handle::{Control, Ending, SessionHandle, Stop};
pub use live::{Live, LiveSession, Watch, WatchFrame};
pub use open::OpenSpec;
pub use probe::{Probed, Prober};
pub use readmodel::ReadModel;
pub use rows::FileDraft;
pub use unlock::{SuPlan, Unlocked};
