//! The row of the log-in log (U10) with JumpServer's field names, as an entry of the ledger.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::user::User;
use serde_json::json;
use uuid::Uuid;

use super::Door;
use crate::error::{IdentityError, LoginCode};
use crate::random;

/// Longest text of strangers that is kept (characters).
const MAX_USERNAME: usize = 128;
const MAX_USER_AGENT: usize = 255;

/// One attempt.
pub(crate) struct LoginRow<'a> {
    pub(crate) username: &'a str,
    pub(crate) user: Option<&'a User>,
    pub(crate) door: Door,
    pub(crate) ip: IpAddr,
    pub(crate) user_agent: &'a str,
    /// JumpServer's numbers: `Some(false)` 0 not used, `Some(true)` 1 used, `None` 2 not known yet.
    pub(crate) mfa: Option<bool>,
    pub(crate) backend: &'a str,
    /// `None`: success.
    pub(crate) code: Option<LoginCode>,
    /// More on the reason than the code's sentence, for auditors only.
    pub(crate) detail: &'a str,
}

impl LoginRow<'_> {
    pub(crate) fn entry(&self, at: DateTime<Utc>) -> Result<LedgerEntry, IdentityError> {
        let mut reason = self.code.map(|c| c.label().to_owned()).unwrap_or_default();
        if !self.detail.is_empty() {
            reason = format!("{reason}: {}", self.detail);
        }
        let body = json!({
            "username": clean(self.username, MAX_USERNAME),
            "type": self.door.letter(),
            "ip": self.ip.to_canonical().to_string(),
            "city": "",
            "user_agent": clean(self.user_agent, MAX_USER_AGENT),
            "mfa": match self.mfa { Some(false) => 0, Some(true) => 1, None => 2 },
            "reason": reason,
            "reason_code": self.code.map(LoginCode::as_str).unwrap_or_default(),
            "status": self.code.is_none(),
            "datetime": at,
            "backend": self.backend,
        });
        let mut entry = LedgerEntry::new(random::id(at)?, at, Uuid::nil(), LedgerKind::Login, body);
        if let Some(user) = self.user {
            entry = entry.refs([user.id]);
            // A failed attempt is nobody's deed: the name was merely typed.
            if self.code.is_none() {
                entry = entry.actor(user.id);
            }
        }
        Ok(entry)
    }
}

/// Text of strangers, fit to be kept and shown: bounded, and without control characters.
pub(crate) fn clean(text: &str, longest: usize) -> String {
    text.chars().take(longest).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
