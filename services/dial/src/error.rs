//! Why an asset could not be reached, in words for the person who tried.
//!
//! Every message says what happened and what to do about it. Nothing here may carry a secret, and text that came from
//! the other side is cleaned and shortened before it is kept.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

/// The step that was under way when something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Name resolution and the TCP connection.
    Connect,
    /// SSH version exchange, key exchange and host key check.
    Handshake,
    /// Proving who we are.
    Auth,
    /// Opening a channel or asking for a shell, a command or a subsystem.
    Request,
    /// Telnet log-in prompts.
    Prompt,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connecting",
            Self::Handshake => "the ssh handshake",
            Self::Auth => "logging in",
            Self::Request => "opening the session",
            Self::Prompt => "waiting for a log-in prompt",
        })
    }
}

/// What was presented to the asset as proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A password, by the `password` or the `keyboard-interactive` method, or typed at a prompt.
    Password,
    /// A private key.
    Key,
    /// A private key with an OpenSSH certificate.
    Certificate,
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password => "password",
            Self::Key => "ssh key",
            Self::Certificate => "certificate",
        })
    }
}

/// One gateway of a zone and why it could not be used.
#[derive(Debug)]
pub struct GatewayFailure {
    /// The gateway's name as the administrator gave it.
    pub name: String,
    /// What went wrong on it.
    pub reason: DialError,
}

/// Why an asset could not be reached or used. `target` is always `host:port`.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// The name does not resolve, or no address answered.
    #[error("cannot reach {target}: {reason}; check the address, the port and any firewall in between")]
    Unreachable { target: String, reason: String },
    /// Nothing came back in time.
    #[error("{target} did not answer within {} s while {stage}; check that the service is running and not overloaded", after.as_secs_f32())]
    Timeout { target: String, stage: Stage, after: Duration },
    /// The other side closed the connection before we were done.
    #[error("{target} closed the connection while {stage}{}; look into the log of that host", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    ClosedEarly { target: String, stage: Stage, reason: Option<String> },
    /// What answers on that port does not speak SSH 2.
    #[error(
        "what answers on {target} is not an ssh server (it said {said:?}); check the port and the protocol of the asset"
    )]
    NotSsh { target: String, said: String },
    /// The peer broke the protocol.
    #[error("{target} broke the ssh protocol ({reason}); check its software version")]
    Protocol { target: String, reason: String },
    /// No algorithm in common.
    #[error("no common {kind} algorithm with {target}, which offers {}; {}", theirs.join(", "), if *legacy { "update its ssh server" } else { "update its ssh server, or switch on old ssh versions for its platform" })]
    NoCommonAlgorithm { target: String, kind: &'static str, theirs: Vec<String>, legacy: bool },
    /// The host key is not the one that was pinned. Never goes on.
    #[error(
        "the host key of {target} changed: pinned {expected}, now {got}; somebody may be intercepting the connection, or the host was reinstalled: an administrator has to compare the fingerprint and accept the new key"
    )]
    HostKeyChanged { target: String, expected: String, got: String },
    /// The host key could not be judged, so it was not trusted.
    #[error("the host key of {target} could not be checked: {reason}")]
    HostKeyRefused { target: String, reason: String },
    /// All that we have was presented and refused.
    #[error(
        "{target} refused account {username}{}; check the account's secret{}",
        tried_text(tried),
        methods_text(methods)
    )]
    AuthRejected { target: String, username: String, tried: Vec<Proof>, methods: Vec<String> },
    /// The asset asks something that no stored secret answers (a one-time code, a new password).
    #[error(
        "{target} asks account {username} for something that is not stored ({prompt}); log in to it once by hand or change its log-in policy"
    )]
    PromptNotAnswerable { target: String, username: String, prompt: String },
    /// The account's key or certificate cannot be used.
    #[error("the ssh key of account {username} cannot be used: {reason}; store the key again, with its passphrase")]
    KeyUnusable { username: String, reason: String },
    /// The account has no secret at all.
    #[error("account {username} has no secret; store a password or an ssh key for it")]
    NoCredential { username: String },
    /// The asset refused to open a channel.
    #[error("{target} refused to open the channel: {reason}")]
    ChannelRefused { target: String, reason: String },
    /// The asset refused a request on an open channel.
    #[error("{target} refused the request for {what}; it may not offer this service to the account")]
    RequestRefused { target: String, what: &'static str },
    /// No gateway of the zone led to the asset.
    #[error("no gateway of the zone leads to {target}: {}", each_text(each))]
    GatewayFailed { target: String, each: Vec<GatewayFailure> },
    /// The connection is gone.
    #[error("the connection to {target} is closed{}", reason.as_ref().map(|r| format!(" ({r})")).unwrap_or_default())]
    Closed { target: String, reason: Option<String> },
    /// A platform's prompt is not a usable regular expression.
    #[error(
        "the {which} of the platform is not a usable regular expression: {reason}; correct it in the platform's telnet settings"
    )]
    BadPattern { which: &'static str, reason: String },
    /// Telnet: no prompt that the platform describes appeared.
    #[error(
        "{target} showed no {which} that the platform describes; compare its prompts with the platform's telnet settings"
    )]
    NoPrompt { target: String, which: &'static str },
    /// SFTP could not be started.
    #[error("sftp on {target} failed: {reason}")]
    Sftp { target: String, reason: String },
    /// A command produced more than the caller was ready to keep.
    #[error("the command on {target} produced more than {limit} bytes; narrow it down")]
    TooMuchOutput { target: String, limit: usize },
}

fn tried_text(tried: &[Proof]) -> String {
    if tried.is_empty() {
        return String::new();
    }
    let names: Vec<String> = tried.iter().map(ToString::to_string).collect();
    format!(" with its {}", names.join(" and "))
}

fn methods_text(methods: &[String]) -> String {
    if methods.is_empty() { String::new() } else { format!(" (the asset accepts {})", methods.join(", ")) }
}

fn each_text(each: &[GatewayFailure]) -> String {
    each.iter().map(|g| format!("{}: {}", g.name, g.reason)).collect::<Vec<_>>().join("; ")
}

impl DialError {
    /// The value of JumpServer's `connectivity` field for this failure: one of `err`, `auth_err`, `password_err`,
    /// `openssh_key_err`. A test that succeeds is `ok`.
    pub fn connectivity(&self) -> &'static str {
        match self {
            Self::AuthRejected { tried, .. } if tried.as_slice() == [Proof::Password] => "password_err",
            Self::AuthRejected { .. } | Self::NoCredential { .. } | Self::PromptNotAnswerable { .. } => "auth_err",
            Self::KeyUnusable { .. } => "openssh_key_err",
            _ => "err",
        }
    }
}

/// Makes text of the other side fit for a log or a screen: no control characters, at most 200 characters.
pub(crate) fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_to_do() {
        let e = DialError::AuthRejected {
            target: "h:22".into(),
            username: "root".into(),
            tried: vec![Proof::Password],
            methods: vec!["publickey".into()],
        };
        assert_eq!(
            e.to_string(),
            "h:22 refused account root with its password; check the account's secret (the asset accepts publickey)"
        );
        assert_eq!(e.connectivity(), "password_err");
    }

    #[test]
    fn foreign_text_cannot_drive_a_terminal() {
        assert_eq!(clean("\x1b[2Jbye\r\n"), "[2Jbye");
        assert_eq!(clean(&"x".repeat(5000)).len(), 200);
    }
}
