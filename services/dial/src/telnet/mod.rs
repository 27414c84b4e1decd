//! Telnet assets: the option codec, log-in by prompts, and a peer that hands out plain data bytes.
//!
//! Telnet has no encryption and no host identity; whoever switches it on for an asset accepts that. Character sets
//! (GBK and the like) are the caller's: bytes go through as they are.

mod codec;
mod login;
mod peer;

pub use codec::Codec;
pub use login::{TelnetLogin, TelnetPrompts, connect, login};
pub use peer::{TelnetPeer, TelnetReader, TelnetWriter};
