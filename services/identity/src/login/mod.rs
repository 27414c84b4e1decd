//! The log-in as a state machine. Each state is a type, and a `Proof`, which everything else asks for, is made in one
//! place only, after every factor that the settings want (CVE-2023-42818: a key that was merely offered, or a second
//! factor that was skipped, gets nobody in).

mod attempt;
mod finish;
mod parked;
mod redemption;
mod row;
mod rules;
mod second;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::user::User;
use uuid::Uuid;

pub use attempt::Attempt;
pub(crate) use finish::{MfaNeed, mfa_need};
pub(crate) use parked::Parked;
pub(crate) use redemption::Redemption;
pub(crate) use row::{LoginRow, clean};
pub use second::{ChangePassword, EnrolMfa, MfaAttempt};

use crate::Identity;

/// Where somebody stands while logging in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Door {
    Ssh,
    Web,
    Api,
}

impl Door {
    /// JumpServer's letter in the log-in log: terminal, web, unknown.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Ssh => "T",
            Self::Web => "W",
            Self::Api => "U",
        }
    }
}

/// By what somebody was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    Password,
    TempPassword,
    SetUpCode,
    SshKey,
    Certificate,
    /// Key or certificate, and then the password (terminal_force_multi_auth).
    KeyAndPassword,
    ConnectionToken,
}

impl Method {
    /// How the log-in log names it (JumpServer: `backend`).
    pub fn label(self) -> &'static str {
        match self {
            Self::Password => "Password",
            Self::TempPassword => "Temporary token",
            Self::SetUpCode => "Set-up code",
            Self::SshKey => "SSH Key",
            Self::Certificate => "SSH Certificate",
            Self::KeyAndPassword => "SSH Key and password",
            Self::ConnectionToken => "Connection token",
        }
    }

    fn is_password(self) -> bool {
        matches!(self, Self::Password | Self::KeyAndPassword)
    }
}

/// Who wants to log in, and where. The address is the one that the door saw; nothing that a client says about its own
/// address belongs here (CVE-2023-46123).
#[derive(Debug, Clone)]
pub struct BeginLogin {
    pub username: String,
    pub ip: IpAddr,
    pub door: Door,
    /// Client version or `User-Agent`; only logged.
    pub user_agent: String,
}

/// What comes next.
pub enum Step {
    Done(Proof),
    /// The key was accepted and the password is wanted as well: call `Attempt::password` on the same attempt.
    Password,
    Mfa(MfaAttempt),
    /// A second factor is required and none is set up; offered where it can be shown (not at the SSH door).
    EnrolMfa(EnrolMfa),
    ChangePassword(ChangePassword),
}

impl Step {
    /// For logs: nothing of the states' contents.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Password => "password",
            Self::Mfa(_) => "mfa",
            Self::EnrolMfa(_) => "enrol_mfa",
            Self::ChangePassword(_) => "change_password",
        }
    }
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why the password has to be changed before the log-in ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeReason {
    /// An administrator asks for it, or this is the first log-in.
    Required,
    /// Older than the policy allows.
    Expired,
}

/// That somebody is who they say, with all factors that were asked for. Only this crate makes one.
#[derive(Debug, Clone)]
pub struct Proof {
    user: Arc<User>,
    method: Method,
    mfa: bool,
    door: Door,
    at: DateTime<Utc>,
    ip: IpAddr,
    /// The registered key that was used, for the audit of sessions.
    key: Option<Uuid>,
}

impl Proof {
    pub fn user(&self) -> &Arc<User> {
        &self.user
    }

    pub fn method(&self) -> Method {
        self.method
    }

    /// A second factor was verified during this log-in.
    pub fn mfa(&self) -> bool {
        self.mfa
    }

    pub fn door(&self) -> Door {
        self.door
    }

    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The `SshKey` record that was proven; `None` for every other method.
    pub fn key(&self) -> Option<Uuid> {
        self.key
    }
}

impl Identity {
    /// Starts a log-in. Costs nothing and asks nothing: whether the user exists shows nowhere before a factor is right.
    #[expect(clippy::needless_pass_by_value, reason = "what begins a log-in belongs to it")]
    pub fn begin(&self, login: BeginLogin) -> Attempt {
        Attempt::new(self.clone(), &login)
    }

    /// Keeps a log-in that is not finished until its next request (the second factor of a browser or API log-in comes
    /// in a request of its own), at most 5 minutes. The ticket is a secret and works once.
    pub fn park(&self, step: Step) -> Result<zeroize::Zeroizing<String>, crate::LoginError> {
        self.inner.parked.put(step, self.now())
    }

    /// Takes a parked log-in out again. Park it again after a wrong code.
    pub fn resume(&self, ticket: &str) -> Option<Step> {
        self.inner.parked.take(ticket, self.now())
    }
}
