//! How one record lies in the engine: what is in clear (format, schema, version), what is sealed, and what binds them.
//!
//! Payloads are JSON. Binary encodings were tried and dropped: with them `Uuid` and `IpAddr` inside flattened, untagged
//! or internally tagged types do not come back (serde buffers those as human-readable), and migrations work on JSON.

use std::io::Write;

use gatehouse_model::record::Record;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    error::{Result, StoreError},
    keys::KindKeys,
};

const FORMAT: u8 = 1;
/// format, schema, version
const CLEAR: usize = 1 + 4 + 8;
/// Bytes of a record's payload. sled moves values of about half a megabyte to files that it does not sync.
pub const MAX_RECORD: usize = 192 * 1024;

/// What is known of a record without knowing its type.
pub(crate) struct Opened {
    pub(crate) schema: u32,
    pub(crate) version: u64,
    pub(crate) org: Option<Uuid>,
    /// Blinded keys of its index entries, so that they can be removed without the type at hand.
    pub(crate) indexes: Vec<[u8; 16]>,
    plain: Zeroizing<Vec<u8>>,
    payload_at: usize,
}

impl Opened {
    pub(crate) fn payload(&self) -> &[u8] {
        self.plain.get(self.payload_at..).unwrap_or_default()
    }
}

pub(crate) struct Sealing<'a> {
    pub(crate) kind: &'static str,
    pub(crate) id: Uuid,
    pub(crate) schema: u32,
    pub(crate) version: u64,
    pub(crate) org: Option<Uuid>,
    pub(crate) indexes: &'a [[u8; 16]],
    pub(crate) payload: &'a [u8],
}

pub(crate) fn seal(keys: &KindKeys, record: &Sealing<'_>) -> Result<Vec<u8>> {
    let too_many =
        || StoreError::TooLarge { what: format!("the index of {} {}", record.kind, record.id), limit: 65_535 };
    let count = u16::try_from(record.indexes.len()).map_err(|_| too_many())?;
    let mut plain = Zeroizing::new(Vec::with_capacity(19 + record.indexes.len() * 16 + record.payload.len()));
    plain.push(u8::from(record.org.is_some()));
    plain.extend_from_slice(record.org.unwrap_or_default().as_bytes());
    plain.extend_from_slice(&count.to_be_bytes());
    for index in record.indexes {
        plain.extend_from_slice(index);
    }
    plain.extend_from_slice(record.payload);
    let mut out = Vec::with_capacity(CLEAR + plain.len() + crate::keys::OVERHEAD);
    out.push(FORMAT);
    out.extend_from_slice(&record.schema.to_be_bytes());
    out.extend_from_slice(&record.version.to_be_bytes());
    let aad = aad(record.kind, record.id, &out);
    keys.cipher.seal_into(&mut out, &aad, &plain)?;
    Ok(out)
}

pub(crate) fn open(keys: &KindKeys, kind: &'static str, id: Uuid, bytes: &[u8]) -> Result<Opened> {
    let corrupt = |what: &str| StoreError::corrupt(format!("{kind} {id}"), what);
    let (clear, sealed) = bytes.split_first_chunk::<CLEAR>().ok_or_else(|| corrupt("the record is too short"))?;
    let [format, s0, s1, s2, s3, version @ ..] = *clear;
    if format != FORMAT {
        return Err(corrupt("the record has an unknown format"));
    }
    let (schema, version) = (u32::from_be_bytes([s0, s1, s2, s3]), u64::from_be_bytes(version));
    let plain = keys
        .cipher
        .open(&aad(kind, id, clear), sealed)
        .ok_or_else(|| corrupt("the record was changed outside of gatehouse, or its disk is failing"))?;
    let short = || corrupt("the record is too short");
    let (flag, rest) = plain.split_first().ok_or_else(short)?;
    let (org, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let (count, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
    let length = usize::from(u16::from_be_bytes(*count)) * 16;
    let indexes = rest.get(..length).ok_or_else(short)?.as_chunks::<16>().0.to_vec();
    let org = (*flag == 1).then(|| Uuid::from_bytes(*org));
    let payload_at = 19 + length;
    Ok(Opened { schema, version, org, indexes, plain, payload_at })
}

fn aad(kind: &str, id: Uuid, clear: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(kind.len() + 17 + clear.len());
    out.extend_from_slice(kind.as_bytes());
    out.push(0);
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(clear);
    out
}

/// Counts instead of writing, so that the real buffer never grows and leaves no copies of a secret behind.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(crate) fn encode<T: Record>(record: &T) -> Result<Zeroizing<Vec<u8>>> {
    let name = || format!("{} {}", T::KIND, record.id());
    let failed = |e: serde_json::Error| StoreError::Encode { what: name(), why: e.to_string() };
    let mut length = Length(0);
    serde_json::to_writer(&mut length, record).map_err(failed)?;
    if length.0 > MAX_RECORD {
        return Err(StoreError::TooLarge { what: name(), limit: MAX_RECORD });
    }
    let mut out = Zeroizing::new(Vec::with_capacity(length.0));
    serde_json::to_writer(&mut *out, record).map_err(failed)?;
    Ok(out)
}

/// The record in today's form; older schemas are brought forward on the way.
pub(crate) fn decode<T: Record>(id: Uuid, opened: &Opened) -> Result<T> {
    // A message of serde may quote a value, so only its category is told.
    let failed = |e: &serde_json::Error| {
        StoreError::corrupt(format!("{} {id}", T::KIND), format!("it does not fit its type ({:?} error)", e.classify()))
    };
    if opened.schema > T::SCHEMA {
        return Err(StoreError::TooNew { what: format!("{} {id}", T::KIND), found: opened.schema, known: T::SCHEMA });
    }
    if opened.schema == T::SCHEMA {
        return serde_json::from_slice(opened.payload()).map_err(|e| failed(&e));
    }
    let mut value = serde_json::from_slice(opened.payload()).map_err(|e| failed(&e))?;
    for from in opened.schema..T::SCHEMA {
        value = T::migrate(from, value).map_err(|why| StoreError::Migration { kind: T::KIND, id, from, why })?;
    }
    serde_json::from_value(value).map_err(|e| StoreError::Migration {
        kind: T::KIND,
        id,
        from: opened.schema,
        why: format!("the result does not fit its type ({:?} error)", e.classify()),
    })
}

/// Where an index entry lies: the blinded (name, key), then the record's id.
pub(crate) fn index_tag(keys: &KindKeys, name: &str, key: &[u8]) -> [u8; 16] {
    keys.blind.tag(&[name.as_bytes(), key])
}

pub(crate) fn index_key(tag: &[u8; 16], id: Uuid) -> Vec<u8> {
    [tag.as_slice(), id.as_bytes()].concat()
}

/// The id that an index key ends in, or a record key is.
pub(crate) fn id_of(key: &[u8]) -> Result<Uuid> {
    key.last_chunk::<16>()
        .map(|id| Uuid::from_bytes(*id))
        .ok_or_else(|| StoreError::corrupt("the storage engine", "a key is too short"))
}
