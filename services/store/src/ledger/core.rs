//! What the writer and the readers of a running ledger share: keys, trees in the engine, and what is visible.
//!
//! In the engine: the outbox (entries that are acknowledged but not yet known to be safe in a segment), the place of
//! each entry, the search index under blinded keys, and the state (how far the segments are known to be safe).

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    entry::{EncodedEntry, StoredEntry},
    frame::{FRAME_HEAD, FrameKeys, FrameKind, MAX_FRAME, Place},
    segment,
};
use crate::{
    engine::{Engine, TreeId, Write},
    error::{Result, StoreError},
    files,
    keys::{Blind, Cipher, Hash, KeyRing, OVERHEAD},
};

/// Open files kept for readers.
const MAX_OPEN: usize = 32;
/// Pieces in which an entry waits in the outbox: far below the size at which sled moves values to files.
const CHUNK: usize = 64 * 1024;
const HEAD_FILE: &str = "head";
/// Left by a restore: the machine, and with it the signing key, may be another one.
const RESTORED: &str = "restored";

/// How far the ledger is known to be safe in its segments. Kept in the engine, and a copy in `ledger/head` so that
/// offline verification notices segments that were cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) seq: u64,
    pub(crate) hash: Hash,
    pub(crate) segment: u64,
    /// Length of that segment.
    pub(crate) offset: u64,
    pub(crate) checkpoint: Option<LastCheckpoint>,
    /// Counter values that were or may have been spent since the last checkpoint.
    pub(crate) intents: Vec<u64>,
    /// Everything up to here may be gone.
    pub(crate) expired_through: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastCheckpoint {
    pub(crate) seq: u64,
    pub(crate) counter: u64,
    pub(crate) key: String,
    /// SHA-256 of its line.
    pub(crate) digest: Hash,
}

pub(crate) struct Trees {
    pub(crate) outbox: TreeId,
    pub(crate) index: TreeId,
    pub(crate) location: TreeId,
    pub(crate) hours: TreeId,
    pub(crate) state: TreeId,
}

/// Where an entry's frame is, and the chain hash that opens it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Location {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
    pub(crate) previous: Hash,
}

impl Location {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        [self.segment.to_be_bytes().as_slice(), &self.offset.to_be_bytes(), &self.previous].concat()
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (segment, rest) = bytes.split_first_chunk::<8>()?;
        let (offset, previous) = rest.split_first_chunk::<8>()?;
        Some(Self {
            segment: u64::from_be_bytes(*segment),
            offset: u64::from_be_bytes(*offset),
            previous: previous.try_into().ok()?,
        })
    }
}

/// Sequence number and chain hash of the newest entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: [u8; 32],
}

/// What readers see beside the engine.
pub(crate) struct Visible {
    /// Durable in the outbox, but without a place yet. Bounded: settling is due after a few thousand.
    pub(crate) recent: BTreeMap<u64, Arc<LedgerEntry>>,
    pub(crate) head: Head,
    /// For each hour, the first and last entry whose time lies in it: turns times into sequence numbers.
    pub(crate) hours: BTreeMap<i64, (u64, u64)>,
    /// The oldest entry that is still there.
    pub(crate) first: u64,
}

pub(crate) struct Core {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) dir: PathBuf,
    pub(crate) frames: FrameKeys,
    outbox: Cipher,
    state: Cipher,
    blind: Blind,
    pub(crate) trees: Trees,
    pub(crate) visible: RwLock<Visible>,
    open: Mutex<HashMap<u64, Arc<File>>>,
    pub(crate) sync: bool,
}

impl Core {
    pub(crate) fn new(engine: Arc<dyn Engine>, dir: &Path, ring: &KeyRing, sync: bool) -> Result<Self> {
        Ok(Self {
            engine,
            dir: dir.to_owned(),
            frames: FrameKeys::new(ring)?,
            outbox: ring.cipher("ledger outbox")?,
            state: ring.cipher("ledger state")?,
            blind: ring.blind("ledger index")?,
            trees: Trees {
                outbox: ring.tree("ledger outbox"),
                index: ring.tree("ledger index"),
                location: ring.tree("ledger location"),
                hours: ring.tree("ledger hours"),
                state: ring.tree("ledger state"),
            },
            visible: RwLock::new(Visible {
                recent: BTreeMap::new(),
                head: Head { seq: 0, hash: [0; 32] },
                hours: BTreeMap::new(),
                first: 1,
            }),
            open: Mutex::default(),
            sync,
        })
    }

    // The index. Keys are a blinded prefix and the sequence number; values the time and the kind.

    pub(crate) fn by_kind(&self, kind: LedgerKind) -> [u8; 16] {
        self.blind.tag(&[b"kind", &[kind as u8]])
    }

    pub(crate) fn by_kind_and_org(&self, kind: LedgerKind, org: Uuid) -> [u8; 16] {
        self.blind.tag(&[b"kind and org", &[kind as u8], org.as_bytes()])
    }

    pub(crate) fn by_reference(&self, id: Uuid) -> [u8; 16] {
        self.blind.tag(&[b"reference", id.as_bytes()])
    }

    pub(crate) fn by_id(&self, id: Uuid) -> [u8; 16] {
        self.blind.tag(&[b"id", id.as_bytes()])
    }

    pub(crate) fn index_keys(&self, seq: u64, encoded: &EncodedEntry) -> impl Iterator<Item = Vec<u8>> + use<> {
        let entry = &encoded.entry;
        let mut prefixes =
            vec![self.by_kind(entry.kind), self.by_kind_and_org(entry.kind, entry.org), self.by_id(entry.id)];
        prefixes.extend(encoded.references().into_iter().map(|id| self.by_reference(id)));
        prefixes.into_iter().map(move |prefix| [prefix.as_slice(), &seq.to_be_bytes()].concat())
    }

    pub(crate) fn index_writes(&self, seq: u64, encoded: &EncodedEntry) -> impl Iterator<Item = Write> + use<> {
        let mut value = encoded.entry.at.timestamp_millis().to_be_bytes().to_vec();
        value.push(encoded.entry.kind as u8);
        let tree = self.trees.index;
        self.index_keys(seq, encoded).map(move |key| Write { tree, key, value: Some(value.clone()) })
    }

    // The outbox.

    pub(crate) fn outbox_writes(&self, seq: u64, payload: &[u8]) -> Result<Vec<Write>> {
        let chunks = payload.chunks(CHUNK);
        let count = u16::try_from(chunks.len()).unwrap_or(u16::MAX);
        let mut out = Vec::with_capacity(chunks.len());
        for (n, chunk) in (0_u16..).zip(chunks) {
            let mut value = count.to_be_bytes().to_vec();
            self.outbox.seal_into(&mut value, &outbox_aad(seq, n, count), chunk)?;
            out.push(Write { tree: self.trees.outbox, key: outbox_key(seq, n), value: Some(value) });
        }
        Ok(out)
    }

    /// All entries that wait, in order. At most as many as one settling leaves.
    pub(crate) fn outbox_entries(&self) -> Result<BTreeMap<u64, EncodedEntry>> {
        use std::ops::Bound::Unbounded;
        let corrupt = |what: &str| StoreError::corrupt("the outbox of the ledger", what);
        let mut payloads: BTreeMap<u64, (u16, Vec<u8>)> = BTreeMap::new();
        for pair in self.engine.scan(self.trees.outbox, Unbounded, Unbounded, false) {
            let (key, value) = pair?;
            let (seq, n) = key.split_first_chunk::<8>().ok_or_else(|| corrupt("a key is too short"))?;
            let seq = u64::from_be_bytes(*seq);
            let n = u16::from_be_bytes(n.try_into().map_err(|_| corrupt("a key is too short"))?);
            let (count, sealed) = value.split_first_chunk::<2>().ok_or_else(|| corrupt("a value is too short"))?;
            let count = u16::from_be_bytes(*count);
            let plain = self
                .outbox
                .open(&outbox_aad(seq, n, count), sealed)
                .ok_or_else(|| corrupt("an entry was changed outside of gatehouse, or the disk is failing"))?;
            let (missing, payload) = payloads.entry(seq).or_insert((count, Vec::new()));
            *missing = missing.saturating_sub(1);
            payload.extend_from_slice(&plain);
        }
        let decode = |(seq, (missing, payload)): (u64, (u16, Vec<u8>))| {
            let encoded = if missing == 0 { EncodedEntry::from_payload(payload) } else { None };
            encoded.map(|encoded| (seq, encoded)).ok_or_else(|| corrupt("an entry is incomplete"))
        };
        payloads.into_iter().map(decode).collect()
    }

    pub(crate) fn outbox_deletes(&self, seq: u64, payload: usize) -> impl Iterator<Item = Write> + use<> {
        let tree = self.trees.outbox;
        let chunks = u16::try_from(payload.div_ceil(CHUNK)).unwrap_or(u16::MAX);
        (0..chunks).map(move |n| Write { tree, key: outbox_key(seq, n), value: None })
    }

    // The state.

    pub(crate) fn load_state(&self) -> Result<Option<State>> {
        let Some(sealed) = self.engine.get(self.trees.state, b"state")? else { return Ok(None) };
        self.decode_state(b"engine", &sealed)
            .map(Some)
            .ok_or_else(|| StoreError::corrupt("the state of the ledger", "it was changed outside of gatehouse"))
    }

    fn decode_state(&self, aad: &[u8], sealed: &[u8]) -> Option<State> {
        serde_json::from_slice(&self.state.open(aad, sealed)?).ok()
    }

    fn encode_state(&self, aad: &[u8], state: &State) -> Result<Vec<u8>> {
        let json = serde_json::to_vec(state)
            .map_err(|e| StoreError::Encode { what: "the ledger's state".into(), why: e.to_string() })?;
        self.state.seal(aad, &json)
    }

    pub(crate) fn state_write(&self, state: &State) -> Result<Write> {
        let value = Some(self.encode_state(b"engine", state)?);
        Ok(Write { tree: self.trees.state, key: b"state".to_vec(), value })
    }

    pub(crate) fn head_path(&self) -> PathBuf {
        self.dir.join(HEAD_FILE)
    }

    /// Always written before the engine's copy, so that it is never behind it.
    pub(crate) fn write_head(&self, state: &State) -> Result<()> {
        files::write_atomic(&self.head_path(), &self.encode_state(b"file", state)?, self.sync)
    }

    /// `None` when there is no such file.
    pub(crate) fn read_head(&self) -> Result<Option<State>> {
        let path = self.head_path();
        let Some(sealed) = files::read_small(&path, 1 << 20)? else { return Ok(None) };
        self.decode_state(b"file", &sealed)
            .map(Some)
            .ok_or_else(|| StoreError::corrupt(path.display().to_string(), "it was changed outside of gatehouse"))
    }

    // The mark of a restore: authenticated, and good for exactly the state that was restored, so that planting one does
    // not hide that data was put back.

    pub(crate) fn restored_path(&self) -> PathBuf {
        self.dir.join(RESTORED)
    }

    pub(crate) fn mark_restored(&self) -> Result<()> {
        let state = self
            .read_head()?
            .ok_or_else(|| StoreError::corrupt(self.head_path().display().to_string(), "the file is missing"))?;
        files::write_atomic(&self.restored_path(), &self.encode_state(b"restored", &state)?, true)
    }

    pub(crate) fn was_restored(&self, state: &State) -> Result<bool> {
        let marked = files::read_small(&self.restored_path(), 1 << 20)?;
        Ok(marked.and_then(|sealed| self.decode_state(b"restored", &sealed)).is_some_and(|marked| marked == *state))
    }

    // Reading entries.

    pub(crate) fn load(&self, seq: u64) -> Result<Option<StoredEntry>> {
        // This order: settling first writes the place, then forgets the recent entry.
        if let Some(entry) = self.visible.read().recent.get(&seq) {
            return Ok(Some(StoredEntry { seq, entry: entry.clone() }));
        }
        let Some(bytes) = self.engine.get(self.trees.location, &seq.to_be_bytes())? else { return Ok(None) };
        let place = || format!("ledger entry {seq}");
        let location = Location::from_bytes(&bytes)
            .ok_or_else(|| StoreError::corrupt(place(), "its place in the segments is not known"))?;
        let Some(file) = self.file(location.segment)? else { return Ok(None) };
        let damaged =
            |_| StoreError::corrupt(place(), "it cannot be read from its segment; run `gatehouse ledger verify`");
        let mut head = [0; FRAME_HEAD];
        file.read_exact_at(&mut head, location.offset).map_err(damaged)?;
        let [l0, l1, l2, l3, _] = head;
        let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
        let changed = || StoreError::corrupt(place(), "it was changed in its segment; run `gatehouse ledger verify`");
        if !(1 + OVERHEAD..=MAX_FRAME).contains(&length) {
            return Err(changed());
        }
        let mut sealed = vec![0; length - 1];
        file.read_exact_at(&mut sealed, location.offset + FRAME_HEAD as u64).map_err(damaged)?;
        let Location { segment, previous, .. } = location;
        let plain =
            self.frames.open(&Place { kind: FrameKind::Entry, segment, seq, previous }, &sealed).ok_or_else(changed)?;
        let encoded = EncodedEntry::from_payload(plain).ok_or_else(changed)?;
        Ok(Some(StoredEntry { seq, entry: encoded.entry }))
    }

    fn file(&self, segment: u64) -> Result<Option<Arc<File>>> {
        let mut open = self.open.lock();
        if let Some(file) = open.get(&segment) {
            return Ok(Some(file.clone()));
        }
        let path = segment::path(&self.dir, segment);
        let file = match File::open(&path) {
            // Expired between the look at the index and now.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => Arc::new(other.map_err(StoreError::io("open", &path))?),
        };
        if open.len() >= MAX_OPEN {
            open.clear();
        }
        open.insert(segment, file.clone());
        Ok(Some(file))
    }

    pub(crate) fn forget_file(&self, segment: u64) {
        self.open.lock().remove(&segment);
    }
}

fn outbox_key(seq: u64, chunk: u16) -> Vec<u8> {
    [seq.to_be_bytes().as_slice(), &chunk.to_be_bytes()].concat()
}

fn outbox_aad(seq: u64, chunk: u16, count: u16) -> Vec<u8> {
    [b"outbox".as_slice(), &seq.to_be_bytes(), &chunk.to_be_bytes(), &count.to_be_bytes()].concat()
}

pub(crate) fn hour_of(millis: i64) -> i64 {
    millis.div_euclid(3_600_000)
}

/// Keys sort like numbers, negative ones too.
pub(crate) fn hour_key(hour: i64) -> Vec<u8> {
    (hour ^ i64::MIN).to_be_bytes().to_vec()
}

pub(crate) fn hour_from_key(key: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(key.try_into().ok()?) ^ i64::MIN)
}

pub(crate) fn hour_write(tree: TreeId, hour: i64, (first, last): (u64, u64)) -> Write {
    let value = Some([first.to_be_bytes(), last.to_be_bytes()].concat());
    Write { tree, key: hour_key(hour), value }
}

pub(crate) fn hour_from_value(value: &[u8]) -> Option<(u64, u64)> {
    let (first, last) = value.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*first), u64::from_be_bytes(last.try_into().ok()?)))
}
