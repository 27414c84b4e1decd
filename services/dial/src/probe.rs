//! The connection test behind an asset's or account's `connectivity`.

use crate::error::DialError;
use crate::route::{DialContext, Route, SshLogin};
use crate::telnet::{self, TelnetLogin};
use crate::{ssh, tcp};

/// How far a connection test goes.
pub enum Probe<'a> {
    /// Something accepts TCP connections on the port.
    Tcp,
    /// The account can log in over SSH.
    Ssh(&'a SshLogin),
    /// The account can log in over telnet.
    Telnet(&'a TelnetLogin),
}

/// Tests a connection and closes it again. `Ok` is connectivity `ok`; for an error see [`DialError::connectivity`].
///
/// # Errors
/// Whatever the real connection would meet.
pub async fn test(route: &Route, probe: Probe<'_>, ctx: &DialContext) -> Result<(), DialError> {
    match probe {
        Probe::Tcp => tcp::tcp(route, ctx).await.map(drop),
        Probe::Ssh(login) => {
            ssh::ssh(route, login, ctx).await?.close().await;
            Ok(())
        }
        Probe::Telnet(login) => telnet::connect(route, login, ctx).await.map(drop),
    }
}
