//! Notices: what the system tells people unasked (a rule matched, a key was replaced, a password ends soon). What lives
//! here: the message, the way to hand one over, and the message as it lies in a user's inbox. How it travels (inbox,
//! mail) is the notify crate's; the wording is the sender's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::choices;
use crate::record::{Index, system_record};

choices! {
    /// What a notice is about; people subscribe by it.
    pub enum NoticeKind {
        LoginRule = "login_rule", "Login rule matched";
        AssetLogin = "asset_login", "Asset login rule matched";
        CommandAlert = "command_alert", "Dangerous command";
        Session = "session", "Session event";
        Account = "account", "Account of the user";
        PasswordExpiring = "password_expiring", "Password expires soon";
        /// Carries a one-time code: sent by mail only, never kept in an inbox.
        Credential = "credential", "Set your password";
        System = "system", "System";
    }
}

/// One message to some users.
#[derive(Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: NoticeKind,
    /// The organization it is about; nil for the whole system.
    pub org: Uuid,
    /// User ids.
    pub recipients: Vec<Uuid>,
    /// One line.
    pub subject: String,
    /// Plain text; shown as text, never as markup.
    pub text: String,
    /// The object it is about (session, asset, rule...).
    pub resource: Option<Uuid>,
}

/// The text may carry a one-time code, so only what cannot is shown.
impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notice")
            .field("kind", &self.kind)
            .field("org", &self.org)
            .field("recipients", &self.recipients.len())
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

/// Takes notices. `notify` never waits: it queues, and when the bounded queue is full the implementation says so in the
/// log and counts it; the caller's work goes on.
pub trait Notifier: Send + Sync {
    fn notify(&self, notice: Notice);
}

/// Takes notices and forgets them: for tests and tools without users.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullNotifier;

impl Notifier for NullNotifier {
    fn notify(&self, _notice: Notice) {}
}

/// A notice in the inbox of one user (JumpServer: site message).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteMessage {
    pub id: Uuid,
    /// Whose inbox.
    pub user: Uuid,
    pub kind: NoticeKind,
    /// Nil for the whole system.
    pub org: Uuid,
    pub subject: String,
    pub message: String,
    #[serde(default)]
    pub resource: Option<Uuid>,
    #[serde(default)]
    pub has_read: bool,
    #[serde(default)]
    pub read_at: Option<DateTime<Utc>>,
    pub date_created: DateTime<Utc>,
}

system_record!(SiteMessage, "site_message", uncached, |record| {
    let mut indexes = vec![Index::many("user", *record.user.as_bytes())];
    if !record.has_read {
        // The badge with the number of unread messages asks on every page.
        indexes.push(Index::many("unread", *record.user.as_bytes()));
    }
    indexes
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Record as _;

    #[test]
    fn debug_of_a_notice_shows_neither_subject_nor_text() {
        let notice = Notice {
            kind: NoticeKind::Credential,
            org: Uuid::nil(),
            recipients: vec![Uuid::nil()],
            subject: "subject-with-name".into(),
            text: "code setup-123".into(),
            resource: None,
        };
        let shown = format!("{notice:?}");
        assert!(!shown.contains("setup-123") && !shown.contains("subject-with-name"), "{shown}");
        assert!(shown.contains("Credential"), "{shown}");
    }

    #[test]
    fn a_read_message_leaves_the_unread_index() {
        let mut message = SiteMessage {
            id: Uuid::from_u128(1),
            user: Uuid::from_u128(2),
            kind: NoticeKind::System,
            org: Uuid::nil(),
            subject: "s".into(),
            message: "m".into(),
            resource: None,
            has_read: false,
            read_at: None,
            date_created: DateTime::<Utc>::MIN_UTC,
        };
        assert!(message.indexes().iter().any(|i| i.name == "unread"));
        message.has_read = true;
        assert!(!message.indexes().iter().any(|i| i.name == "unread"));
    }
}
