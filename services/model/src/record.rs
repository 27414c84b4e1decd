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

/// A record that belongs to exactly one organization: it can be asked for only with an organization in hand.
pub trait OrgRecord: Record {}

/// A record of the whole system (users, roles, platforms, settings...).
pub trait SystemRecord: Record {}
