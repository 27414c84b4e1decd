//! Commands that work on a data directory: verify and export the ledger, back up, restore, recover. Secrets come from
//! standard input, never from arguments that other users of the machine could see.

use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::Utc;
use gatehouse_api::LedgerFiles;
use gatehouse_identity::{By, Identity, random_password};
use gatehouse_model::account::PasswordRules;
use gatehouse_model::ledger::LedgerEntry;
use gatehouse_model::notice::NullNotifier;
use gatehouse_model::session::Replay;
use gatehouse_record::MasterKey;
use gatehouse_seal::{FileSeal, FileSigner, RecoveryKey, RecoveryWrap, RootKey, Seal};
use gatehouse_store::ledger::{Report, VerifyOptions};
use gatehouse_store::{CheckpointSigner, backup};
use zeroize::Zeroizing;

use crate::open::{self, Signer};

/// Longest recovery text: 24 words with room for line breaks.
const MAX_WORDS: u64 = 4096;

fn read_words() -> anyhow::Result<Zeroizing<String>> {
    let mut words = Zeroizing::new(String::new());
    eprintln!("recovery words:");
    std::io::stdin().lock().take(MAX_WORDS).read_to_string(&mut words).context("cannot read the recovery words")?;
    if words.trim().is_empty() {
        bail!("no recovery words were given on standard input");
    }
    Ok(words)
}

/// Checks the ledger of `data` and every recording that it vouches for.
fn check(data: &Path, root: &RootKey) -> anyhow::Result<Report> {
    let key = MasterKey::new(*gatehouse_store::derive_key(data, root.as_bytes(), open::RECORDINGS_KEY)?);
    let recordings = data.join(open::RECORDINGS);
    let replay = |_: &LedgerEntry, value: &serde_json::Value| check_replay(&recordings, &key, value);
    let public_key = FileSigner::open(data, root).ok().map(|signer| Signer(signer).public_key());
    let options = VerifyOptions { public_key, former_keys: Vec::new(), replay: Some(&replay) };
    Ok(gatehouse_store::ledger::verify(data, root.as_bytes(), &options)?)
}

fn write_export(data: &Path, root: &RootKey, out: &mut dyn Write) -> anyhow::Result<u64> {
    let signer = FileSigner::open(data, root).ok().map(Signer);
    let signer = signer.as_ref().map(|s| s as &dyn CheckpointSigner);
    Ok(gatehouse_store::ledger::export(data, root.as_bytes(), signer, out)?)
}

/// The same for the API of a running daemon.
pub(crate) struct LedgerOnDisk {
    data: PathBuf,
    root: RootKey,
}

impl LedgerOnDisk {
    pub(crate) fn new(data: PathBuf, root: RootKey) -> Self {
        Self { data, root }
    }
}

impl LedgerFiles for LedgerOnDisk {
    fn verify(&self) -> Result<Report, String> {
        check(&self.data, &self.root).map_err(|e| format!("{e:#}"))
    }

    fn export(&self, out: &mut dyn Write) -> Result<u64, String> {
        write_export(&self.data, &self.root, out).map_err(|e| format!("{e:#}"))
    }
}

/// `gatehouse ledger verify`. `Ok(false)`: something is wrong, and it was printed.
pub(crate) fn verify(data: &Path, as_json: bool) -> anyhow::Result<bool> {
    let report = check(data, &open::root_key(data)?)?;
    if as_json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(report.is_ok());
    }
    println!(
        "{} entries ({} to {}) in {} segments, {} checkpoints, signed through entry {}, {} recordings checked",
        report.entries,
        report.first_seq,
        report.last_seq,
        report.segments,
        report.checkpoints,
        report.signed_through,
        report.replays_checked
    );
    for problem in report.problem.iter().chain(&report.replay_problems) {
        println!(
            "PROBLEM in {} at byte {} (entry {}): {}",
            problem.file.display(),
            problem.offset,
            problem.seq,
            problem.what
        );
    }
    if report.replays_failed > report.replay_problems.len() as u64 {
        println!("... and {} more recordings", report.replays_failed - report.replay_problems.len() as u64);
    }
    println!("{}", if report.is_ok() { "the record is whole" } else { "the record is NOT whole" });
    Ok(report.is_ok())
}

/// A recording against what the ledger says of it.
fn check_replay(recordings: &Path, key: &MasterKey, value: &serde_json::Value) -> Result<(), String> {
    let replay: Replay = serde_json::from_value(value.clone()).map_err(|e| format!("the entry cannot be read: {e}"))?;
    let name = Path::new(&replay.file);
    let plain = name.components().all(|c| matches!(c, std::path::Component::Normal(_)));
    if !plain {
        return Err(format!("{} is not a name inside the recordings directory", replay.file));
    }
    let digest = digest_of(&replay.digest).ok_or("its digest in the ledger cannot be read")?;
    gatehouse_record::verify(recordings.join(name), key, Some(digest))
        .map(drop)
        .map_err(|e| format!("recording {}: byte {}: {}", replay.file, e.offset, e.reason))
}

fn digest_of(text: &str) -> Option<[u8; 32]> {
    let mut out = [0; 32];
    if text.len() != 64 {
        return None;
    }
    for (n, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(n * 2..n * 2 + 2)?, 16).ok()?;
    }
    Some(out)
}

/// `gatehouse ledger export`.
pub(crate) fn export(data: &Path, out: &str) -> anyhow::Result<()> {
    let root = open::root_key(data)?;
    let count = if out == "-" {
        write_export(data, &root, &mut std::io::stdout().lock())?
    } else {
        let path = PathBuf::from(out);
        let file = File::create_new(&path).with_context(|| format!("cannot create {out} (it must not exist yet)"))?;
        let mut writer = BufWriter::new(file);
        let flushed = write_export(data, &root, &mut writer).and_then(|n| {
            writer.flush()?;
            writer.get_ref().sync_all()?;
            Ok(n)
        });
        if flushed.is_err() {
            // Half an export must not be mistaken for a whole one.
            let _ = fs::remove_file(&path);
        }
        flushed?
    };
    eprintln!("{count} entries exported");
    Ok(())
}

/// `gatehouse backup create`.
pub(crate) async fn backup_create(data: &Path, out: &Path) -> anyhow::Result<()> {
    let root = open::root_key(data)?;
    let recovery = gatehouse_seal::recovery_wrap(data)?.to_vec()?;
    let store = open::store(data, &root)?;
    let mut part = out.as_os_str().to_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    if out.exists() {
        bail!("{} exists already", out.display());
    }
    let file = File::create(&part).with_context(|| format!("cannot create {}", part.display()))?;
    let sync = file.try_clone()?;
    let extra: Vec<PathBuf> = [open::RECORDINGS, open::KEPT_FILES]
        .into_iter()
        .map(PathBuf::from)
        .filter(|name| data.join(name).exists())
        .collect();
    let done = backup::create(&store, root.as_bytes(), &recovery, &extra, BufWriter::new(file)).await;
    store.close();
    let done = done.map_err(anyhow::Error::from).and_then(|()| {
        sync.sync_all()?;
        fs::rename(&part, out)?;
        Ok(())
    });
    if done.is_err() {
        let _ = fs::remove_file(&part);
    }
    done.with_context(|| format!("the backup {} was not written", out.display()))?;
    eprintln!("{} written; it opens with the recovery words of this box only", out.display());
    Ok(())
}

/// `gatehouse backup restore`: with the recovery words, onto any hardware.
pub(crate) fn backup_restore(data: &Path, from: &Path) -> anyhow::Result<()> {
    let header = backup::read_header(from)?;
    let words = read_words()?;
    let wrap = RecoveryWrap::from_slice(&header.recovery()?)?;
    let root = wrap.open(&RecoveryKey::from_words(&words)?)?;
    backup::restore(from, root.as_bytes(), data)?;
    gatehouse_seal::install(data, &root, &wrap, &FileSeal)?;
    eprintln!("the backup of {} is restored in {}", header.created, data.display());
    Ok(())
}

/// `gatehouse recover seal`.
pub(crate) fn recover_seal(data: &Path) -> anyhow::Result<()> {
    gatehouse_seal::recover(data, &read_words()?, &FileSeal)?;
    eprintln!("the root key is sealed again by the method \"{}\"", FileSeal.method());
    Ok(())
}

/// `gatehouse recover admin`: only who has the recovery words may do this.
pub(crate) async fn recover_admin(data: &Path, username: &str) -> anyhow::Result<()> {
    let words = read_words()?;
    let root = gatehouse_seal::recovery_wrap(data)?.open(&RecoveryKey::from_words(&words)?)?;
    let store = open::store(data, &root)?;
    let identity = Identity::new(store.clone(), Arc::new(NullNotifier), Arc::new(Utc::now))?;
    let user = identity.user_by_name(username)?.with_context(|| format!("there is no user {username}"))?;
    if !identity.is_admin(&user)? {
        bail!("{username} is not an administrator; administrators reset other users' passwords");
    }
    let password = random_password(&PasswordRules { length: 24, symbol: true, ..PasswordRules::default() })?;
    let by = By::system();
    identity.reset_password(user.id, &password, false, &by).await?;
    identity.reset_mfa(user.id, &by).await?;
    identity.unlock_user(user.id, &by).await?;
    store.close();
    println!("username: {}\npassword: {}", user.username, password.as_str());
    eprintln!("this password is shown once; the second factor was removed and locks were lifted");
    Ok(())
}
