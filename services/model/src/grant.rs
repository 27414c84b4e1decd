//! Grants (JumpServer: asset permissions): who may reach what, with which account, over which protocol, doing what.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use crate::common::{Invalid, Meta, Validate, check_name};
use crate::record::{Index, org_record};

/// A set of actions, with JumpServer's bits. Shown by the API as a list of `{"value","label"}`, stored as the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Actions(u16);

impl Actions {
    pub const NONE: Self = Self(0);
    pub const CONNECT: Self = Self(1);
    pub const UPLOAD: Self = Self(2);
    pub const DOWNLOAD: Self = Self(4);
    pub const COPY: Self = Self(8);
    pub const PASTE: Self = Self(16);
    pub const DELETE: Self = Self(32);
    pub const SHARE: Self = Self(64);
    pub const ALL: Self = Self(127);

    pub const NAMES: [(Self, &'static str, &'static str); 7] = [
        (Self::CONNECT, "connect", "Connect"),
        (Self::UPLOAD, "upload", "Upload"),
        (Self::DOWNLOAD, "download", "Download"),
        (Self::COPY, "copy", "Copy"),
        (Self::PASTE, "paste", "Paste"),
        (Self::DELETE, "delete", "Delete"),
        (Self::SHARE, "share", "Share"),
    ];

    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Unknown bits are dropped: a bit that this version does not know grants nothing.
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits & Self::ALL.0)
    }

    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn from_name(name: &str) -> Option<Self> {
        if name == "all" {
            return Some(Self::ALL);
        }
        Self::NAMES.iter().find(|(_, n, _)| *n == name).map(|(a, _, _)| *a)
    }

    pub fn names(self) -> impl Iterator<Item = (&'static str, &'static str)> {
        Self::NAMES.into_iter().filter(move |(a, _, _)| self.contains(*a)).map(|(_, n, l)| (n, l))
    }
}

impl Serialize for Actions {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u16(self.0)
    }
}

impl<'de> Deserialize<'de> for Actions {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        u16::deserialize(d).map(Self::from_bits)
    }
}

/// Words that stand for accounts in a grant or a request, instead of an account's user name.
pub mod alias {
    /// Every account of the asset.
    pub const ALL: &str = "@ALL";
    /// The accounts whose user names are listed beside it.
    pub const SPEC: &str = "@SPEC";
    /// The person types user name and secret.
    pub const INPUT: &str = "@INPUT";
    /// The account whose user name is the person's own.
    pub const USER: &str = "@USER";
    /// No log-in at all; only web and custom assets.
    pub const ANON: &str = "@ANON";
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssetPermission {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    #[serde(default)]
    pub users: Vec<Uuid>,
    #[serde(default)]
    pub user_groups: Vec<Uuid>,
    #[serde(default)]
    pub assets: Vec<Uuid>,
    #[serde(default)]
    pub nodes: Vec<Uuid>,
    /// User names and aliases: `["@ALL"]`, `["@SPEC","root","@USER"]`. A name with a leading `!` excludes it.
    #[serde(default)]
    pub accounts: Vec<String>,
    /// `["all"]` or protocol names.
    #[serde(default)]
    pub protocols: Vec<String>,
    pub actions: Actions,
    pub date_start: DateTime<Utc>,
    pub date_expired: DateTime<Utc>,
    pub is_active: bool,
    #[serde(default)]
    pub from_ticket: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

impl AssetPermission {
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.is_active && self.date_start <= now && now < self.date_expired
    }

    pub fn allows_protocol(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| p == "all" || p == protocol)
    }
}

org_record!(AssetPermission, "asset_permission", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for AssetPermission {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        invalid.check(self.date_start < self.date_expired, "date_expired", "the end must be after the start");
        invalid.check(!self.actions.is_empty(), "actions", "choose at least one action");
        for account in &self.accounts {
            // Z03: `*` matches nothing here, so it is refused rather than silently useless.
            invalid.check(!account.contains('*'), "accounts", "* cannot be used to match all; use @ALL");
            let known = [alias::ALL, alias::SPEC, alias::INPUT, alias::USER, alias::ANON].contains(&account.as_str());
            invalid.check(known || !account.starts_with('@'), "accounts", format!("unknown alias {account}"));
        }
        invalid.into_result()
    }
}
