//! A backup is one encrypted file: a consistent snapshot of the engine, the ledger and other files, restorable into an
//! empty directory on other hardware with the root key, which the recovery key opens.
//!
//! Format: magic (8), length of the header (4), header (JSON, public), then chunks: length (4, the highest bit set on
//! the last one), ciphertext, tag. The key is derived from the root key and the header's salt; the nonce is the chunk's
//! number, the associated data the header's digest and the length. So chunks cannot be changed, moved, left out or
//! added. Inside: items, each a type byte, a path or key, and content.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey};
use chrono::{SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    commit::Committer,
    engine::{Engine, MemoryEngine, SledEngine, TreeId, Write as EngineWrite},
    error::{Result, StoreError},
    files,
    keys::{self, Hash, derive_once, hex, sha256, unhex},
    ledger::{self, core::Core},
    meta,
    store::{ENGINE, Store},
};

const MAGIC: &[u8; 8] = b"GHBACK1\n";
const FORMAT: u32 = 1;
const CHUNK: usize = 256 * 1024;
const TAG: usize = 16;
const LAST: u32 = 1 << 31;
const MAX_HEADER: u32 = 1 << 20;
const ITEM_FILE: u8 = 1;
const ITEM_PAIR: u8 = 2;
const ITEM_END: u8 = 3;
const MAX_PATH: usize = 4096;
/// Keys and values of the engine are far smaller.
const MAX_PAIR: usize = 4 << 20;
const RESTORE_BATCH: usize = 512;

/// What is readable in a backup without any key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    pub format: u32,
    /// RFC 3339, UTC.
    pub created: String,
    /// Version of the program that wrote it.
    pub version: String,
    /// Hexadecimal; see [`Header::recovery`].
    recovery: String,
    salt: String,
}

impl Header {
    /// The recovery wrap as it was handed to [`create`]: with the recovery words it opens the root key.
    pub fn recovery(&self) -> Result<Vec<u8>> {
        unhex(&self.recovery)
            .ok_or_else(|| StoreError::corrupt("the backup's header", "the recovery wrap cannot be read"))
    }
}

fn io_out(e: std::io::Error) -> StoreError {
    StoreError::io("write", Path::new("the backup"))(e)
}

fn nonce(n: u64) -> Nonce {
    let mut bytes = [0; 12];
    for (to, from) in bytes.iter_mut().skip(4).zip(n.to_be_bytes()) {
        *to = from;
    }
    Nonce::assume_unique_for_key(bytes)
}

fn cipher(root: &[u8; 32], salt: &[u8]) -> Result<LessSafeKey> {
    let key = derive_once(root, salt, "backup")?;
    UnboundKey::new(&AES_256_GCM_SIV, key.as_ref()).map(LessSafeKey::new).map_err(|_| StoreError::Crypto("key set-up"))
}

fn aad(header: &Hash, length: u32) -> Vec<u8> {
    [header.as_slice(), &length.to_be_bytes()].concat()
}

/// Cuts what is written into sealed chunks.
struct Sealer<W: Write> {
    out: W,
    key: LessSafeKey,
    header: Hash,
    chunk: Vec<u8>,
    n: u64,
}

impl<W: Write> Sealer<W> {
    fn seal(&mut self, last: bool) -> Result<()> {
        let mut body = std::mem::take(&mut self.chunk);
        let length = u32::try_from(body.len() + TAG).map_err(|_| StoreError::Crypto("chunk length"))?;
        let length = if last { length | LAST } else { length };
        self.key
            .seal_in_place_append_tag(nonce(self.n), Aad::from(aad(&self.header, length)), &mut body)
            .map_err(|_| StoreError::Crypto("encryption"))?;
        self.n += 1;
        self.out.write_all(&length.to_be_bytes()).and_then(|()| self.out.write_all(&body)).map_err(io_out)?;
        body.clear();
        self.chunk = body;
        Ok(())
    }

    fn put(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK {
                self.seal(false)?;
            }
        }
        Ok(())
    }

    fn put_sized(&mut self, bytes: &[u8]) -> Result<()> {
        self.put(&(bytes.len() as u64).to_be_bytes())?;
        self.put(bytes)
    }

    /// Exactly `length` bytes of a file that may be growing.
    fn put_file(&mut self, name: &str, path: &Path, length: u64) -> Result<()> {
        self.put(&[ITEM_FILE])?;
        self.put_sized(name.as_bytes())?;
        self.put(&length.to_be_bytes())?;
        let mut file = File::open(path).map_err(StoreError::io("open", path))?.take(length);
        let mut buffer = vec![0; 64 * 1024];
        let mut left = length;
        while left > 0 {
            let read = file.read(&mut buffer).map_err(StoreError::io("read", path))?;
            if read == 0 {
                let e = std::io::Error::other("it became shorter while it was read");
                return Err(StoreError::io("back up", path)(e));
            }
            self.put(buffer.get(..read).unwrap_or_default())?;
            left -= read as u64;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.put(&[ITEM_END])?;
        self.seal(true)?;
        self.out.flush().map_err(io_out)
    }
}

/// Write a backup of `store` to `out`. `recovery` is the serialised recovery wrap, kept in the public header. `extra`
/// names files and directories inside the data directory that go along (recordings, certificates; not signing keys and
/// their counters: a restored box gets its own). Changes wait while the engine is copied, not while files are; nothing
/// expires from the ledger meanwhile.
///
/// The caller syncs the file and gives it its name when this has returned.
pub async fn create<W>(store: &Store, root: &[u8; 32], recovery: &[u8], extra: &[PathBuf], out: W) -> Result<()>
where
    W: Write + Send + 'static,
{
    let (root, recovery, extra) = (zeroize::Zeroizing::new(*root), recovery.to_vec(), extra.to_vec());
    let shared = store.handle.shared.clone();
    let _hold = shared.hold_expiry();
    let begun = store.handle.run(move |committer| begin(committer, &root, &recovery, out)).await??;
    // A thread of its own: this copies gigabytes, and works without any runtime.
    let (reply, answer) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("backup".into())
        .spawn(move || {
            // Nobody waiting any more loses only the news; the file is incomplete by its format then.
            let _ = reply.send(copy_files(begun, &shared.dir, &extra));
        })
        .map_err(io_out)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

/// What was settled at the moment of the snapshot.
struct Begun<W: Write> {
    sealer: Sealer<BufWriter<W>>,
    /// Files of the ledger with their lengths: those only grow.
    ledger: Vec<(PathBuf, u64)>,
}

/// The part that needs the store to stand still: keys, engine, and the state of the ledger.
fn begin<W: Write>(committer: &mut Committer, root: &[u8; 32], recovery: &[u8], out: W) -> Result<Begun<W>> {
    committer.checkpoint()?;
    let shared = committer.shared.clone();
    // With another root key the backup could not be opened by this box's recovery key.
    let meta_path = shared.dir.join(meta::NAME);
    let meta_bytes = fs::read(&meta_path).map_err(StoreError::io("read", &meta_path))?;
    meta::parse(&meta_path, &meta_bytes, root)?;
    let mut salt = [0; 32];
    keys::fill_random(&mut salt)?;
    let header = Header {
        format: FORMAT,
        created: Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true),
        version: env!("CARGO_PKG_VERSION").into(),
        recovery: hex(recovery),
        salt: hex(&salt),
    };
    let header = serde_json::to_vec(&header)
        .map_err(|e| StoreError::Encode { what: "the header".into(), why: e.to_string() })?;
    let length = u32::try_from(header.len()).ok().filter(|length| *length <= MAX_HEADER);
    let length = length
        .ok_or_else(|| StoreError::TooLarge { what: "the recovery wrap".into(), limit: MAX_HEADER as usize / 2 })?;
    let mut out = BufWriter::new(out);
    for part in [MAGIC.as_slice(), &length.to_be_bytes(), &header] {
        out.write_all(part).map_err(io_out)?;
    }
    let key = cipher(root, &salt)?;
    let mut sealer = Sealer { out, key, header: sha256(&[&header]), chunk: Vec::with_capacity(CHUNK + TAG), n: 0 };
    sealer.put_file(meta::NAME, &meta_path, meta_bytes.len() as u64)?;
    for pair in shared.engine.scan_all() {
        let (key, value) = pair?;
        sealer.put(&[ITEM_PAIR])?;
        sealer.put_sized(&key)?;
        sealer.put_sized(&value)?;
    }
    let mut ledger = Vec::new();
    let head = shared.ledger.head_path();
    for entry in fs::read_dir(&shared.ledger.dir).map_err(StoreError::io("list", &shared.ledger.dir))? {
        let path = entry.map_err(StoreError::io("list", &shared.ledger.dir))?.path();
        let length = fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
        if path == head {
            // The one file that is replaced rather than appended to.
            sealer.put_file(&format!("{}/head", ledger::DIRECTORY), &path, length)?;
        } else {
            ledger.push((path, length));
        }
    }
    ledger.sort();
    Ok(Begun { sealer, ledger })
}

fn copy_files<W: Write>(begun: Begun<W>, dir: &Path, extra: &[PathBuf]) -> Result<()> {
    let Begun { mut sealer, ledger } = begun;
    for (path, length) in ledger {
        let name = plain_name(path.strip_prefix(dir).unwrap_or(&path))?;
        sealer.put_file(&name, &path, length)?;
    }
    for path in extra {
        put_tree(&mut sealer, dir, path)?;
    }
    sealer.finish()
}

fn put_tree<W: Write>(sealer: &mut Sealer<W>, root: &Path, path: &Path) -> Result<()> {
    let name = plain_name(path)?;
    let full = root.join(path);
    let kind = match fs::symlink_metadata(&full) {
        // A recording that retention removed meanwhile.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(StoreError::io("read", &full))?,
    };
    if kind.is_file() {
        return sealer.put_file(&name, &full, kind.len());
    }
    if !kind.is_dir() {
        return Ok(());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&full).map_err(StoreError::io("list", &full))? {
        names.push(entry.map_err(StoreError::io("list", &full))?.file_name());
    }
    names.sort();
    for name in names {
        put_tree(sealer, root, &path.join(name))?;
    }
    Ok(())
}

/// A relative path without any tricks, as text.
fn plain_name(path: &Path) -> Result<String> {
    let plain = path.components().all(|c| matches!(c, Component::Normal(_))) && path.components().next().is_some();
    match path.to_str() {
        Some(name) if plain && name.len() <= MAX_PATH => Ok(name.to_owned()),
        _ => Err(StoreError::corrupt("the backup", format!("{} is no path inside the data directory", path.display()))),
    }
}

/// Opens chunks one by one; every byte that it gives out is authentic.
struct Opener {
    input: BufReader<File>,
    path: PathBuf,
    key: LessSafeKey,
    header: Hash,
    chunk: Vec<u8>,
    at: usize,
    n: u64,
    last: bool,
}

fn read_public(path: &Path) -> Result<(Header, Vec<u8>, BufReader<File>)> {
    let bad = |what: &str| StoreError::NotABackup { path: path.to_owned(), what: what.into() };
    let mut input = BufReader::new(File::open(path).map_err(StoreError::io("open", path))?);
    let mut begin = [0; 12];
    input.read_exact(&mut begin).map_err(|_| bad("it is too short"))?;
    let (magic, length) = begin.split_at(MAGIC.len());
    let length = u32::from_be_bytes(length.try_into().map_err(|_| bad("it is too short"))?);
    if magic != MAGIC || length > MAX_HEADER {
        return Err(bad("it does not begin like one"));
    }
    let mut bytes = vec![0; length as usize];
    input.read_exact(&mut bytes).map_err(|_| bad("it is too short"))?;
    let header: Header = serde_json::from_slice(&bytes).map_err(|_| bad("its header cannot be read"))?;
    if header.format > FORMAT {
        return Err(StoreError::TooNew { what: "the backup".into(), found: header.format, known: FORMAT });
    }
    Ok((header, bytes, input))
}

/// The public part of a backup: whose recovery words are needed.
pub fn read_header(path: &Path) -> Result<Header> {
    read_public(path).map(|(header, _, _)| header)
}

impl Opener {
    fn open(path: &Path, root: &[u8; 32]) -> Result<Self> {
        let (header, bytes, input) = read_public(path)?;
        let salt = unhex(&header.salt).ok_or_else(|| StoreError::NotABackup {
            path: path.to_owned(),
            what: "its header cannot be read".into(),
        })?;
        Ok(Self {
            input,
            path: path.to_owned(),
            key: cipher(root, &salt)?,
            header: sha256(&[&bytes]),
            chunk: Vec::new(),
            at: 0,
            n: 0,
            last: false,
        })
    }

    fn damaged(&self, what: &str) -> StoreError {
        StoreError::corrupt(format!("{} (chunk {})", self.path.display(), self.n), what)
    }

    fn fill(&mut self) -> Result<()> {
        let cut = "the backup is cut off";
        if self.last {
            return Err(self.damaged(cut));
        }
        let mut length = [0; 4];
        self.input.read_exact(&mut length).map_err(|_| self.damaged(cut))?;
        let marked = u32::from_be_bytes(length);
        let length = (marked & !LAST) as usize;
        if !(TAG..=CHUNK + TAG).contains(&length) {
            return Err(self.damaged("the length of a chunk was changed"));
        }
        let mut body = vec![0; length];
        self.input.read_exact(&mut body).map_err(|_| self.damaged(cut))?;
        let opened = self.key.open_in_place(nonce(self.n), Aad::from(aad(&self.header, marked)), &mut body);
        let plain = match opened {
            Ok(plain) => plain.len(),
            // Nothing of it ever opened: most likely the key.
            Err(_) if self.n == 0 => return Err(StoreError::WrongKey),
            Err(_) => return Err(self.damaged("the chunk was changed")),
        };
        body.truncate(plain);
        self.chunk = body;
        self.at = 0;
        self.n += 1;
        self.last = marked & LAST != 0;
        Ok(())
    }

    fn take(&mut self, mut length: u64, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while length > 0 {
            if self.at == self.chunk.len() {
                self.fill()?;
            }
            let rest = self.chunk.get(self.at..).unwrap_or_default();
            let now = rest.get(..usize::try_from(length).unwrap_or(usize::MAX).min(rest.len())).unwrap_or_default();
            each(now)?;
            self.at += now.len();
            length -= now.len() as u64;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<u64> {
        let bytes = self.bytes(8)?;
        Ok(bytes.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }

    fn bytes(&mut self, length: usize) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(length);
        self.take(length as u64, |part| {
            out.extend_from_slice(part);
            Ok(())
        })?;
        Ok(out)
    }

    fn sized(&mut self, limit: usize) -> Result<Vec<u8>> {
        let length = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        if length > limit {
            return Err(self.damaged("an item is far too long"));
        }
        self.bytes(length)
    }

    /// Walk all items.
    fn walk(&mut self, to: &mut dyn Target) -> Result<()> {
        loop {
            match self.bytes(1)?.first() {
                Some(&ITEM_FILE) => {
                    let name = self.sized(MAX_PATH)?;
                    let name = String::from_utf8(name).map_err(|_| self.damaged("a file name is no text"))?;
                    plain_name(Path::new(&name))?;
                    to.begin_file(&name)?;
                    let length = self.number()?;
                    self.take(length, |part| to.file_bytes(part))?;
                    to.end_file()?;
                }
                Some(&ITEM_PAIR) => {
                    let (key, value) = (self.sized(MAX_PAIR)?, self.sized(MAX_PAIR)?);
                    let (tree, key) =
                        key.split_first_chunk::<16>().ok_or_else(|| self.damaged("a key is too short"))?;
                    to.pair(TreeId(*tree), key, value)?;
                }
                Some(&ITEM_END) => break,
                _ => return Err(self.damaged("an item is of an unknown type")),
            }
        }
        let mut more = [0; 1];
        let trailing = self.input.read(&mut more).map_err(StoreError::io("read", &self.path))?;
        if !self.last || self.at != self.chunk.len() || trailing > 0 {
            return Err(self.damaged("there is something after its end"));
        }
        Ok(())
    }
}

/// Where the items of a backup go.
trait Target {
    fn begin_file(&mut self, name: &str) -> Result<()>;
    fn file_bytes(&mut self, part: &[u8]) -> Result<()>;
    fn end_file(&mut self) -> Result<()>;
    fn pair(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<()>;
}

/// First pass: nothing is written, only the description of the keys is looked at.
#[derive(Default)]
struct Check {
    meta: Option<Vec<u8>>,
    in_meta: bool,
}

impl Target for Check {
    fn begin_file(&mut self, name: &str) -> Result<()> {
        self.in_meta = name == meta::NAME && self.meta.is_none();
        if self.in_meta {
            self.meta = Some(Vec::new());
        }
        Ok(())
    }

    fn file_bytes(&mut self, part: &[u8]) -> Result<()> {
        if let (true, Some(meta)) = (self.in_meta, &mut self.meta) {
            meta.extend_from_slice(part);
        }
        Ok(())
    }

    fn end_file(&mut self) -> Result<()> {
        self.in_meta = false;
        Ok(())
    }

    fn pair(&mut self, _: TreeId, _: &[u8], _: Vec<u8>) -> Result<()> {
        Ok(())
    }
}

/// Second pass: into the new directory.
struct Place {
    dir: PathBuf,
    engine: SledEngine,
    batch: Vec<EngineWrite>,
    file: Option<(PathBuf, File)>,
}

impl Place {
    fn flush_batch(&mut self) -> Result<()> {
        self.engine.apply(&std::mem::take(&mut self.batch))
    }
}

impl Target for Place {
    fn begin_file(&mut self, name: &str) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let path = self.dir.join(name);
        if let Some(parent) = path.parent() {
            files::create_dir(parent)?;
        }
        let file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("create", &path))?;
        self.file = Some((path, file));
        Ok(())
    }

    fn file_bytes(&mut self, part: &[u8]) -> Result<()> {
        match &mut self.file {
            Some((path, file)) => file.write_all(part).map_err(StoreError::io("write", path)),
            None => Ok(()),
        }
    }

    fn end_file(&mut self) -> Result<()> {
        match self.file.take() {
            Some((path, file)) => file.sync_all().map_err(StoreError::io("sync", &path)),
            None => Ok(()),
        }
    }

    fn pair(&mut self, tree: TreeId, key: &[u8], value: Vec<u8>) -> Result<()> {
        self.batch.push(EngineWrite { tree, key: key.to_vec(), value: Some(value) });
        if self.batch.len() >= RESTORE_BATCH { self.flush_batch() } else { Ok(()) }
    }
}

/// Restore the backup `file` into `dir`, which must be empty or not exist. The whole file is checked before anything is
/// written. The next opening of the store accepts the new box's signing key. Seal the root key there as well.
pub fn restore(file: &Path, root: &[u8; 32], dir: &Path) -> Result<()> {
    if dir.exists() && fs::read_dir(dir).map_err(StoreError::io("list", dir))?.next().is_some() {
        return Err(StoreError::NotEmpty(dir.to_owned()));
    }
    let mut check = Check::default();
    Opener::open(file, root)?.walk(&mut check)?;
    let meta_bytes = check.meta.ok_or_else(|| StoreError::NotABackup {
        path: file.to_owned(),
        what: format!("{} is not in it", meta::NAME),
    })?;
    let ring = meta::parse(&file.join(meta::NAME), &meta_bytes, root)?;
    let size = fs::metadata(file).map_err(StoreError::io("read", file))?.len();
    files::create_dir(dir)?;
    let (free, needed) = (files::free_space(dir)?, size.saturating_mul(2));
    if free < needed {
        return Err(StoreError::DiskFull { dir: dir.to_owned(), free, needed });
    }
    // As long as this is here, the directory is not opened.
    let marker = dir.join(meta::RESTORING);
    files::write_atomic(&marker, b"", true)?;
    let engine = SledEngine::open(&dir.join(ENGINE), 32 << 20)?;
    let mut place = Place { dir: dir.to_owned(), engine, batch: Vec::new(), file: None };
    Opener::open(file, root)?.walk(&mut place)?;
    place.flush_batch()?;
    place.engine.flush()?;
    drop(place);
    Core::new(Arc::new(MemoryEngine::new()), &dir.join(ledger::DIRECTORY), &ring, true)?.mark_restored()?;
    fs::remove_file(&marker).map_err(StoreError::io("remove", &marker))?;
    files::sync_dir(dir)
}
