//! The SSH gateway: the door that every SSH client can use. Log-in, menu, direct log-ins, shells, commands, tunnels, SFTP
//! and SCP towards users; SSH and telnet towards assets (through `dial`).
//!
//! What lives here: the SSH protocol towards users and how its channels become sessions. What must not: who may do what
//! (`session`, `identity`), how commands are judged (`session`), how assets are reached (`dial`).
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod asset;
mod auth;
mod direct;
mod exec;
mod forward;
mod handler;
mod hostkey;
mod i18n;
mod limits;
mod menu;
mod names;
mod offer;
pub mod scp;
mod server;
pub mod sftp;
mod shell;
mod switch;
mod tty;
pub mod user;
pub mod visitor;

pub use hostkey::{GatewayHostKey, HostKeyError};
pub use limits::Limits;
pub use server::{GatewayError, SshConfig, SshGateway};
