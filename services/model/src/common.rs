//! Fields and identifiers that every noun shares.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Organizations with fixed identifiers, as in JumpServer.
pub mod org_ids {
    use uuid::Uuid;
    /// The global organization: sees all others, owns nothing but system-wide rules.
    pub const ROOT: Uuid = Uuid::from_u128(0);
    pub const DEFAULT: Uuid = Uuid::from_u128(2);
    pub const SYSTEM: Uuid = Uuid::from_u128(4);
}

/// Who made a record, when, and what people wrote beside it. Flattened into every noun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    #[serde(default)]
    pub created_by: String,
    #[serde(default)]
    pub updated_by: String,
    pub date_created: DateTime<Utc>,
    pub date_updated: DateTime<Utc>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Identifiers of `Label` records of the same organization.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<Uuid>,
}

impl Meta {
    pub fn new(by: &str, now: DateTime<Utc>) -> Self {
        Self {
            created_by: by.to_owned(),
            updated_by: by.to_owned(),
            date_created: now,
            date_updated: now,
            comment: String::new(),
            labels: Vec::new(),
        }
    }
}

/// JumpServer's default end of things without an end: 25550 days (70 years) after `from`.
pub fn far_future(from: DateTime<Utc>) -> DateTime<Utc> {
    from.checked_add_days(chrono::Days::new(25_550)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// What is wrong with a record, field by field. The API shows it as JumpServer does: `{"field": ["sentence", ...]}`.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.summary())]
pub struct Invalid {
    pub fields: Vec<(String, String)>,
}

impl Invalid {
    pub fn add(&mut self, field: &str, why: impl Into<String>) {
        self.fields.push((field.to_owned(), why.into()));
    }

    pub fn check(&mut self, ok: bool, field: &str, why: impl Into<String>) {
        if !ok {
            self.add(field, why);
        }
    }

    pub fn into_result(self) -> Result<(), Self> {
        if self.fields.is_empty() { Ok(()) } else { Err(self) }
    }

    fn summary(&self) -> String {
        self.fields.iter().map(|(f, w)| format!("{f}: {w}")).collect::<Vec<_>>().join("; ")
    }
}

/// Every noun can say whether it is whole by itself. Checks across records (does that node exist?) are the caller's.
pub trait Validate {
    fn validate(&self) -> Result<(), Invalid>;
}

/// Names are shown in lists, menus and log lines: no control characters, a sane length, not blank.
pub fn check_name(invalid: &mut Invalid, field: &str, name: &str) {
    if name.trim().is_empty() {
        invalid.add(field, "this field may not be blank");
    } else if name.chars().count() > 128 {
        invalid.add(field, "ensure this field has no more than 128 characters");
    } else if name.chars().any(char::is_control) {
        invalid.add(field, "control characters are not allowed");
    }
}
