//! sled 0.34 as it must be used: one tree with prefixed keys (its batches are atomic within a tree only), small values,
//! no compression, and a logical rewrite into a new directory when waste passes a bound.
//!
//! sled's own `flush` on Linux ends in `sync_file_range`, which neither empties the disk's write cache nor writes the
//! file's size. An acknowledged change has to survive power loss, so `flush` here also syncs the file itself.

use std::{
    fs::{self, File},
    ops::Bound,
    path::{Path, PathBuf},
    time::Duration,
};

use parking_lot::{Mutex, RwLock};

use super::{Engine, Scan, TreeId, Write, after_prefix};
use crate::{
    error::{Result, StoreError},
    files,
};

const CURRENT: &str = "current";
/// Below this size on the disk, waste does not matter.
const SMALL: u64 = 64 * 1024 * 1024;
/// Rewrite when the files are this many times as large as what lives in them.
const WASTE: u64 = 4;
const REWRITE_BATCH: usize = 512;
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

struct Open {
    db: ::sled::Db,
    /// A second handle on sled's log, to sync it.
    log: File,
    dir: PathBuf,
}

/// The engine of the appliance. `dir/current` names the generation that counts; a rewrite makes the next one.
pub struct SledEngine {
    dir: PathBuf,
    cache_bytes: u64,
    open: RwLock<Open>,
    /// Size on the disk at which live data is measured next; measuring reads everything, so it backs off.
    measure_at: Mutex<u64>,
}

fn failed(e: ::sled::Error) -> StoreError {
    match e {
        ::sled::Error::Corruption { at, .. } => StoreError::corrupt("the storage engine", format!("{at:?}")),
        other => StoreError::Engine(other.to_string()),
    }
}

impl SledEngine {
    /// Open the engine in `dir`, or make one there. `cache_bytes` bounds sled's page cache.
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Self> {
        files::create_dir(dir)?;
        let current = dir.join(CURRENT);
        let generation = match files::read_small(&current, 64)? {
            Some(text) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.trim_end().parse::<u64>().ok())
                .ok_or_else(|| StoreError::corrupt(current.display().to_string(), "it does not name a generation"))?,
            None => {
                if Self::generations(dir)?.next().is_some() {
                    return Err(StoreError::corrupt(current.display().to_string(), "the file is missing"));
                }
                let open = Self::open_generation(dir, 1, cache_bytes)?;
                open.sync()?;
                Self::point_to(dir, 1)?;
                1
            }
        };
        let path = generation_dir(dir, generation);
        if !path.join("db").exists() {
            return Err(StoreError::corrupt(path.display().to_string(), "the storage engine's log is missing"));
        }
        // What a rewrite that was cut short left behind.
        for (found, path) in Self::generations(dir)?.collect::<Vec<_>>() {
            if found != generation {
                fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))?;
            }
        }
        let open = Self::open_generation(dir, generation, cache_bytes)?;
        Ok(Self { dir: dir.to_owned(), cache_bytes, open: RwLock::new(open), measure_at: Mutex::new(SMALL) })
    }

    fn generations(dir: &Path) -> Result<impl Iterator<Item = (u64, PathBuf)>> {
        let entries = fs::read_dir(dir).map_err(StoreError::io("list", dir))?;
        Ok(entries.filter_map(|entry| {
            let entry = entry.ok()?;
            let generation = entry.file_name().to_str()?.strip_prefix("generation-")?.parse().ok()?;
            Some((generation, entry.path()))
        }))
    }

    fn point_to(dir: &Path, generation: u64) -> Result<()> {
        files::write_atomic(&dir.join(CURRENT), format!("{generation}\n").as_bytes(), true)
    }

    fn open_generation(dir: &Path, generation: u64, cache_bytes: u64) -> Result<Open> {
        let path = generation_dir(dir, generation);
        files::create_dir(&path)?;
        let config = ::sled::Config::new()
            .path(&path)
            .cache_capacity(cache_bytes)
            .mode(::sled::Mode::LowSpace)
            // Flushing is the committer's business: a timer here would wake an idle box.
            .flush_every_ms(None);
        let mut tries = 0;
        let db = loop {
            // sled asserts on some damaged files. A refusal with words serves the operator better than an abort.
            let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open())).map_err(|_| {
                StoreError::corrupt(path.display().to_string(), "the storage engine cannot make sense of its files")
            })?;
            match opened {
                Ok(db) => break db,
                // The data directory is ours, so this is an engine of this very process whose threads are still ending.
                Err(::sled::Error::Io(e)) if tries < LOCK_TRIES && e.to_string().contains("acquire lock") => {
                    tries += 1;
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(::sled::Error::Corruption { .. }) => {
                    let what = "a checksum of the storage engine does not match";
                    return Err(StoreError::corrupt(path.display().to_string(), what));
                }
                Err(::sled::Error::Unsupported(why)) => {
                    return Err(StoreError::corrupt(path.display().to_string(), why));
                }
                Err(other) => return Err(StoreError::io("open", &path)(std::io::Error::other(other.to_string()))),
            }
        };
        let log_path = path.join("db");
        let log = File::open(&log_path).map_err(StoreError::io("open", &log_path))?;
        Ok(Open { db, log, dir: path })
    }

    fn rewrite(&self, open: &mut Open) -> Result<()> {
        let from = current_generation(&open.dir).unwrap_or(1);
        let to = from.saturating_add(1);
        let fresh = generation_dir(&self.dir, to);
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(StoreError::io("remove", &fresh))?;
        }
        let new = Self::open_generation(&self.dir, to, self.cache_bytes)?;
        let mut batch = ::sled::Batch::default();
        let mut size = 0;
        for pair in open.db.iter() {
            let (key, value) = pair.map_err(failed)?;
            batch.insert(key, value);
            size += 1;
            if size == REWRITE_BATCH {
                new.db.apply_batch(std::mem::take(&mut batch)).map_err(failed)?;
                size = 0;
            }
        }
        new.db.apply_batch(batch).map_err(failed)?;
        new.sync()?;
        files::sync_dir(&self.dir)?;
        Self::point_to(&self.dir, to)?;
        let old = std::mem::replace(open, new);
        let path = old.dir.clone();
        drop(old);
        fs::remove_dir_all(&path).map_err(StoreError::io("remove", &path))
    }
}

impl Open {
    fn sync(&self) -> Result<()> {
        self.db.flush().map_err(failed)?;
        self.log.sync_data().map_err(StoreError::io("sync", &self.dir))
    }
}

fn generation_dir(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("generation-{generation}"))
}

fn current_generation(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("generation-")?.parse().ok()
}

fn prefixed(tree: TreeId, key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + key.len());
    out.extend_from_slice(&tree.0);
    out.extend_from_slice(key);
    out
}

impl Engine for SledEngine {
    fn get(&self, tree: TreeId, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.open.read().db.get(prefixed(tree, key)).map_err(failed)?;
        Ok(found.map(|value| value.to_vec()))
    }

    fn scan<'a>(&'a self, tree: TreeId, from: Bound<&[u8]>, to: Bound<&[u8]>, reverse: bool) -> Scan<'a> {
        let from = match from {
            Bound::Unbounded => Bound::Included(tree.0.to_vec()),
            other => other.map(|key| prefixed(tree, key)),
        };
        let to = match to {
            Bound::Unbounded => after_prefix(&tree.0),
            other => other.map(|key| prefixed(tree, key)),
        };
        // sled's iterator yields nonsense rather than nothing for a range that ends before it begins.
        if let (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) = (&from, &to)
            && a > b
        {
            return Box::new(std::iter::empty());
        }
        let range = self.open.read().db.range((from, to));
        let strip = |pair: ::sled::Result<(::sled::IVec, ::sled::IVec)>| {
            let (key, value) = pair.map_err(failed)?;
            Ok((key.get(16..).unwrap_or_default().to_vec(), value.to_vec()))
        };
        match reverse {
            false => Box::new(range.map(strip)),
            true => Box::new(range.rev().map(strip)),
        }
    }

    fn scan_all(&self) -> Scan<'_> {
        let all = self.open.read().db.iter();
        Box::new(all.map(|pair| {
            let (key, value) = pair.map_err(failed)?;
            Ok((key.to_vec(), value.to_vec()))
        }))
    }

    fn apply(&self, writes: &[Write]) -> Result<()> {
        let mut batch = ::sled::Batch::default();
        for Write { tree, key, value } in writes {
            match value {
                Some(value) => batch.insert(prefixed(*tree, key), value.as_slice()),
                None => batch.remove(prefixed(*tree, key)),
            }
        }
        self.open.read().db.apply_batch(batch).map_err(failed)
    }

    fn flush(&self) -> Result<()> {
        self.open.read().sync()
    }

    fn compact(&self) -> Result<bool> {
        let size = self.size_on_disk()?;
        let mut measure_at = self.measure_at.lock();
        if size < *measure_at {
            return Ok(false);
        }
        let mut open = self.open.write();
        let mut live = 0_u64;
        for pair in open.db.iter() {
            let (key, value) = pair.map_err(failed)?;
            live = live.saturating_add((key.len() + value.len()) as u64);
        }
        let wasteful = size > live.saturating_mul(WASTE).max(SMALL);
        // The rewrite needs room beside the old files; without it the waste stays, which is the lesser evil.
        let room = files::free_space(&self.dir)? > live.saturating_mul(2);
        if wasteful && room {
            self.rewrite(&mut open)?;
        }
        drop(open);
        *measure_at = self.size_on_disk()?.saturating_mul(2).max(SMALL);
        Ok(wasteful && room)
    }

    fn size_on_disk(&self) -> Result<u64> {
        self.open.read().db.size_on_disk().map_err(failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overwriting_is_given_back_by_a_rewrite_that_loses_nothing() {
        let tmp = tempfile::tempdir().unwrap();
        let engine = SledEngine::open(tmp.path(), 4 << 20).unwrap();
        let tree = TreeId([7; 16]);
        let put = |n: u32, value: Vec<u8>| Write { tree, key: n.to_be_bytes().to_vec(), value: Some(value) };
        for n in 0..200_u32 {
            engine.apply(&[put(n, vec![n as u8; 500])]).unwrap();
        }
        let mut open = engine.open.write();
        engine.rewrite(&mut open).unwrap();
        drop(open);
        assert_eq!(engine.scan(tree, Bound::Unbounded, Bound::Unbounded, false).count(), 200);
        engine.apply(&[put(200, vec![1])]).unwrap();
        engine.flush().unwrap();
        drop(engine);
        // Left behind by a rewrite that was cut short: ignored and removed.
        fs::create_dir(tmp.path().join("generation-3")).unwrap();
        let engine = SledEngine::open(tmp.path(), 4 << 20).unwrap();
        assert_eq!(engine.scan(tree, Bound::Unbounded, Bound::Unbounded, false).count(), 201);
        assert!(!tmp.path().join("generation-3").exists() && !tmp.path().join("generation-1").exists());
    }

    #[test]
    fn a_missing_log_is_damage_not_a_fresh_start() {
        let tmp = tempfile::tempdir().unwrap();
        drop(SledEngine::open(tmp.path(), 4 << 20).unwrap());
        fs::remove_file(tmp.path().join("generation-1/db")).unwrap();
        assert!(matches!(SledEngine::open(tmp.path(), 4 << 20), Err(StoreError::Corrupt { .. })));
    }
}
