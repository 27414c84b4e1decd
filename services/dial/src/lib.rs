//! Reaching an asset: TCP direct or through a zone's SSH gateways, SSH log-in with an account, telnet log-in, and
//! switching accounts inside an open shell.
//!
//! Used by gateways, automation and connection tests alike. What lives here: sockets, name resolution, gateway
//! fail-over, the SSH client side, the telnet protocol. What must not: the store, grants, recordings, users. Callers
//! bring plain data ([`Route`], [`SshLogin`]) and somebody who remembers host keys ([`HostKeys`]).
//!
//! - [`tcp`] and [`ssh`] connect; [`telnet::login`] logs in over a [`DialStream`]; [`test`] is the connection test.
//! - How bytes are moved between two SSH connections without deadlock: module [`flow`]; read it before you splice channels.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod ahead;
mod algorithms;
mod auth;
mod channel;
mod error;
pub mod flow;
mod handshake;
mod hop;
mod probe;
mod route;
mod sever;
mod ssh;
pub mod su;
mod tcp;
pub mod telnet;

pub use ahead::ReadAhead;
pub use algorithms::cpu_prefers_aes;
pub use channel::{Exit, Output, PtySpec, SshChannel, SshReader, SshStream, SshWriter};
pub use error::{DialError, GatewayFailure, Proof, Stage};
pub use probe::{Probe, test};
pub use route::{
    Auth, DialContext, GatewayMemory, Hop, HostKey, HostKeyVerdict, HostKeys, Keepalive, Route, SshLogin, Timeouts,
};
pub use ssh::{Sftp, SshPeer, ssh};
pub use tcp::{DialStream, tcp};
