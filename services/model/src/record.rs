//! What the store needs to know of a type to keep it. The trait lives on the lowest floor so that the types can
//! implement it without knowing any store.

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// An index entry of a record. Keys are blinded (HMAC) before they reach the disk, so only equality can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Index {
    pub name: &'static str,
    pub key: Vec<u8>,
    /// A second record with the same (name, key) is refused.
    pub unique: bool,
}

impl Index {
    pub fn unique(name: &'static str, key: impl Into<Vec<u8>>) -> Self {
        Self { name, key: key.into(), unique: true }
    }

    pub fn many(name: &'static str, key: impl Into<Vec<u8>>) -> Self {
        Self { name, key: key.into(), unique: false }
    }

    /// The name of a record, unique in its organization.
    pub fn named(org: Uuid, name: &str) -> Self {
        Self::unique("name", Self::compound(&[org.as_bytes(), name.as_bytes()]))
    }

    /// A key made of several parts. Each part carries its length, so that ("a","bc") and ("ab","c") differ.
    pub fn compound(parts: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::with_capacity(parts.iter().map(|p| p.len() + 4).sum());
        for part in parts {
            out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }
}

/// A type that the store keeps. A record is either of an organization (`OrgRecord`) or of the system (`SystemRecord`);
/// which one it is decides which queries compile.
pub trait Record: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The collection's name: part of the derived key and of the associated data, so it never changes.
    const KIND: &'static str;
    /// The version of the stored form; `migrate` brings older ones forward.
    const SCHEMA: u32 = 1;
    /// Kept decoded in memory. Not for records that hold secrets or that grow without bound.
    const CACHED: bool = true;

    fn id(&self) -> Uuid;

    /// The organization the record belongs to; `None` for records of the whole system.
    fn org(&self) -> Option<Uuid> {
        None
    }

    fn indexes(&self) -> Vec<Index> {
        Vec::new()
    }

    /// Bring a stored value of schema `from` forward to `from + 1`. Called once per step.
    fn migrate(from: u32, value: serde_json::Value) -> Result<serde_json::Value, String> {
        let _ = value;
        Err(format!("no migration of {} from schema {from}", Self::KIND))
    }
}

/// Makes a type with `id` and `org_id` a record of an organization: its kind, `uncached` if it must not stay in memory, and
/// its index entries.
macro_rules! org_record {
    ($type:ty, $kind:literal $(, $uncached:ident)? $(, |$record:ident| $indexes:expr)?) => {
        impl $crate::record::Record for $type {
            const KIND: &'static str = $kind;
            $(const CACHED: bool = $crate::record::$uncached;)?
            fn id(&self) -> uuid::Uuid {
                self.id
            }
            fn org(&self) -> Option<uuid::Uuid> {
                Some(self.org_id)
            }
            $(fn indexes(&self) -> Vec<$crate::record::Index> {
                let $record = self;
                $indexes
            })?
        }
        impl $crate::record::OrgRecord for $type {}
    };
}

/// As `org_record`, for a type of the whole system.
macro_rules! system_record {
    ($type:ty, $kind:literal $(, $uncached:ident)? $(, |$record:ident| $indexes:expr)?) => {
        impl $crate::record::Record for $type {
            const KIND: &'static str = $kind;
            $(const CACHED: bool = $crate::record::$uncached;)?
            fn id(&self) -> uuid::Uuid {
                self.id
            }
            $(fn indexes(&self) -> Vec<$crate::record::Index> {
                let $record = self;
                $indexes
            })?
        }
        impl $crate::record::SystemRecord for $type {}
    };
}

pub(crate) use {org_record, system_record};

/// What `uncached` stands for in the macros above.
#[expect(non_upper_case_globals, reason = "reads as a word in the macros")]
pub(crate) const uncached: bool = false;

/// A record that belongs to exactly one organization: it can be asked for only with an organization in hand.
pub trait OrgRecord: Record {}

/// A record of the whole system (users, roles, platforms, settings...).
pub trait SystemRecord: Record {}
