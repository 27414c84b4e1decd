//! Set-up: from an empty directory to a box with keys, built-in records and a first administrator. All or nothing: it is
//! made beside the data directory and put in place by one rename, so that a power cut leaves either nothing or everything.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use chrono::{DateTime, Utc};
use gatehouse_api::TlsStore;
use gatehouse_identity::{By, Identity};
use gatehouse_model::builtin;
use gatehouse_model::common::{Meta, Validate, far_future, org_ids};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::notice::NullNotifier;
use gatehouse_model::settings::Settings;
use gatehouse_model::user::{MfaLevel, OrgRole, User, UserSource};
use gatehouse_seal::{FileSeal, RecoveryKey, RootKey, Seal};
use gatehouse_store::Store;
use serde::Deserialize;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::open;

/// What the installer asks, as TOML.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answers {
    #[serde(default)]
    seal: SealAnswers,
    admin: AdminAnswers,
    #[serde(default)]
    site: SiteAnswers,
    #[serde(default)]
    recovery: RecoveryAnswers,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SealAnswers {
    method: String,
}

impl Default for SealAnswers {
    fn default() -> Self {
        Self { method: FileSeal.method().to_owned() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AdminAnswers {
    username: String,
    name: String,
    email: String,
    #[serde(deserialize_with = "secret")]
    password: Zeroizing<String>,
}

fn secret<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(d).map(Zeroizing::new)
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct SiteAnswers {
    url: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RecoveryAnswers {
    /// A file that must not exist yet; without it the words are printed, once.
    write_to: Option<PathBuf>,
}

impl Answers {
    pub(crate) fn load(path: &Path) -> anyhow::Result<Self> {
        let text = Zeroizing::new(fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?);
        // The error of the parser quotes the line it stumbles over, which may hold the password.
        toml::from_str(&text)
            .map_err(|e| anyhow::anyhow!("{} is not a valid answers file: {}", path.display(), e.message()))
    }

    /// A development instance: everything generated, nothing asked.
    pub(crate) fn development(password: Zeroizing<String>, url: String) -> Self {
        Self {
            seal: SealAnswers::default(),
            admin: AdminAnswers {
                username: "admin".into(),
                name: "Administrator".into(),
                email: "admin@localhost".into(),
                password,
            },
            site: SiteAnswers { url: Some(url) },
            recovery: RecoveryAnswers::default(),
        }
    }
}

/// What set-up has to show, once.
pub(crate) struct Done {
    /// The recovery words, when they were not written to a file.
    pub words: Option<Zeroizing<String>>,
    pub qr: Option<Zeroizing<String>>,
}

/// Makes the box in `data`, which must be missing or empty.
pub(crate) async fn run(data: &Path, answers: Answers) -> anyhow::Result<Done> {
    if answers.seal.method != FileSeal.method() {
        bail!("seal method \"{}\" is not available here; \"file\" is", answers.seal.method);
    }
    let data = absolute(data)?;
    if data.is_dir() && fs::read_dir(&data).with_context(|| format!("cannot read {}", data.display()))?.next().is_some()
    {
        bail!("{} is not empty: set-up never writes over anything", data.display());
    }
    let recovery_file = match &answers.recovery.write_to {
        // Claimed first: words that cannot be written down would be lost.
        Some(path) => Some((path.clone(), new_private_file(path)?)),
        None => None,
    };
    let result = prepare(&data, &answers).await;
    let recovery = match result {
        Ok(recovery) => recovery,
        Err(error) => {
            if let Some((path, _)) = recovery_file {
                let _ = fs::remove_file(path);
            }
            return Err(error);
        }
    };
    let words = recovery.words()?;
    match recovery_file {
        Some((path, mut file)) => {
            writeln!(file, "{}", words.as_str()).and_then(|()| file.sync_all()).with_context(|| {
                format!("cannot write the recovery words to {}: the box is not set up", path.display())
            })?;
            put_in_place(&data)?;
            Ok(Done { words: None, qr: None })
        }
        None => {
            put_in_place(&data)?;
            Ok(Done { words: Some(words), qr: Some(recovery.qr()?) })
        }
    }
}

fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("{} is not a usable path", path.display()))
}

/// Where the box is made before it is put in place.
fn workshop(data: &Path) -> anyhow::Result<PathBuf> {
    let name = data.file_name().with_context(|| format!("{} has no name", data.display()))?;
    let mut name = name.to_os_string();
    name.push(".setup");
    Ok(data.with_file_name(name))
}

fn new_private_file(path: &Path) -> anyhow::Result<fs::File> {
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot create {} for the recovery words (it must not exist yet)", path.display()))
}

async fn prepare(data: &Path, answers: &Answers) -> anyhow::Result<RecoveryKey> {
    let dir = workshop(data)?;
    if dir.exists() {
        // Left by a set-up that was cut off: it was never in use.
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot create {}", dir.display()))?;
    let made = fill(&dir, answers).await;
    if made.is_err() {
        let _ = fs::remove_dir_all(&dir);
    }
    made
}

fn put_in_place(data: &Path) -> anyhow::Result<()> {
    let dir = workshop(data)?;
    if data.exists() {
        fs::remove_dir(data).with_context(|| format!("cannot replace the empty {}", data.display()))?;
    }
    fs::rename(&dir, data).with_context(|| format!("cannot move {} to {}", dir.display(), data.display()))?;
    if let Some(parent) = data.parent() {
        fs::File::open(parent)
            .and_then(|d| d.sync_all())
            .with_context(|| format!("cannot sync {}", parent.display()))?;
    }
    Ok(())
}

async fn fill(dir: &Path, answers: &Answers) -> anyhow::Result<RecoveryKey> {
    let (root, recovery): (RootKey, RecoveryKey) = gatehouse_seal::initialise(dir, &FileSeal)?;
    let store = open::store(dir, &root)?;
    let now = Utc::now();
    let url = answers.site.url.clone().unwrap_or_else(|| Settings::default().site_url);
    let settings = Settings { site_url: url.clone(), ..Settings::default() };
    settings.validate()?;
    let admin = administrator(&answers.admin, now);
    admin.validate()?;
    let mut batch = store.batch();
    let org = builtin::default_organization();
    batch.insert(builtin::root_node(&org)).insert(org);
    for role in builtin::roles() {
        batch.insert(role);
    }
    for platform in builtin::platforms() {
        batch.insert(platform);
    }
    batch.insert(settings).insert(admin.clone());
    let facts = serde_json::json!({
        "event": "setup", "seal": FileSeal.method(), "hardware": FileSeal.is_hardware(), "site_url": url,
        "version": env!("CARGO_PKG_VERSION"),
    });
    batch.audit(LedgerEntry::new(Uuid::now_v7(), now, org_ids::SYSTEM, LedgerKind::System, facts));
    store.commit(batch).await?;
    // The policy for passwords is asked, so a weak first password is refused like any other.
    let identity = Identity::new(store.clone(), Arc::new(NullNotifier), Arc::new(Utc::now))?;
    identity
        .reset_password(admin.id, &answers.admin.password, false, &By::system())
        .await
        .context("the administrator's password is refused")?;
    TlsStore::open(&store, &certificate_names(&store)?, now).await?;
    store.close();
    drop((identity, store));
    Ok(recovery)
}

/// Host names and addresses that the self-signed certificate is made for.
pub(crate) fn certificate_names(store: &Store) -> anyhow::Result<Vec<String>> {
    let settings = store.system().list::<Settings>()?;
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    if let Some(host) = settings.first().and_then(|s| host_of(&s.site_url)).filter(|host| !names.contains(host)) {
        names.push(host);
    }
    Ok(names)
}

fn host_of(url: &str) -> Option<String> {
    let rest = url.split_once("://")?.1;
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority.rsplit('@').next()?;
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => authority.split(':').next()?,
    };
    (!host.is_empty()).then(|| host.to_owned())
}

fn administrator(answers: &AdminAnswers, now: DateTime<Utc>) -> User {
    User {
        id: Uuid::now_v7(),
        username: answers.username.clone(),
        name: answers.name.clone(),
        email: answers.email.clone(),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(now),
        date_password_last_updated: None,
        need_update_password: false,
        is_first_login: true,
        last_login: None,
        lang: None,
        system_roles: vec![builtin::SYSTEM_ADMIN],
        org_roles: vec![OrgRole { org: org_ids::DEFAULT, role: builtin::ORG_ADMIN }],
        meta: Meta::new("System", now),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(password: &str) -> Answers {
        let text = format!(
            "[seal]\nmethod=\"file\"\n[admin]\nusername=\"root1\"\nname=\"R\"\nemail=\"r@example.com\"\npassword=\"{password}\"\n"
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn hosts_of_urls() {
        assert_eq!(host_of("https://gh.example.com:8443/x"), Some("gh.example.com".into()));
        assert_eq!(host_of("https://[2001:db8::1]:443"), Some("2001:db8::1".into()));
        assert_eq!(host_of("nonsense"), None);
    }

    #[test]
    fn a_broken_answers_file_is_refused_without_quoting_the_password() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        fs::write(&path, "[admin]\npassword = \"Sup3r-Secret-Word\" oops\n").unwrap();
        let error = format!("{:#}", Answers::load(&path).err().unwrap());
        assert!(!error.contains("Sup3r"), "{error}");
        fs::write(&path, "[admin]\nusername=\"a\"\nname=\"a\"\nemail=\"a@b.c\"\npassword=\"x\"\nextra=1\n").unwrap();
        assert!(Answers::load(&path).is_err());
    }

    #[tokio::test]
    async fn set_up_is_all_or_nothing_and_never_over_something() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        // A password that the policy refuses: nothing is left behind.
        assert!(run(&data, answers("short")).await.is_err());
        assert!(!data.exists() && !workshop(&data).unwrap().exists());
        let done = run(&data, answers("Correct-Horse-42-Battery")).await.unwrap();
        assert_eq!(done.words.unwrap().split_whitespace().count(), 24);
        let before = fs::read(data.join("root.key")).unwrap();
        assert!(run(&data, answers("Correct-Horse-42-Battery")).await.is_err());
        assert_eq!(fs::read(data.join("root.key")).unwrap(), before);
    }
}
