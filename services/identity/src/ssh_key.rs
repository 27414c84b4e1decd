//! SSH keys of users (A42, A43): which ones are accepted, adding, removing, generating, and finding one at log-in. What
//! must not be here: certificates (`ssh_cert`), and proving possession, which the SSH library does.

use std::sync::Arc;

use chrono::TimeDelta;
use gatehouse_model::common::Meta;
use gatehouse_model::user::{SshKey, TrustedUserCa, User};
use gatehouse_store::StoreError;
use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{LineEnding, PrivateKey};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::IdentityError;
use crate::{By, Identity, random};

const MAX_LINE: usize = 16 * 1_024;
/// RSA modulus, bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2_048..=16_384;
/// Keys of one user.
const MAX_KEYS: usize = 64;
/// How often the time of last use is written.
const LAST_USED_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Why a key is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("this is not one line of an OpenSSH public key (\"ssh-ed25519 AAAA... comment\")")]
    Malformed,
    #[error("this is a private key: keep it secret, make a new one, and paste the public key (the .pub file)")]
    PrivateKey,
    #[error("keys of the type {0} are not accepted; use ssh-ed25519, ecdsa, rsa or a FIDO key (sk-)")]
    Type(String),
    #[error("RSA keys need between 2048 and 16384 bits, this one has {0}")]
    RsaSize(u32),
}

/// An accepted public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedKey {
    pub key: PublicKey,
    /// Algorithm and base64, without comment.
    pub line: String,
    /// `SHA256:...`
    pub fingerprint: String,
    pub comment: String,
}

/// Reads one line as `ssh-keygen` writes it into a `.pub` file. Options of `authorized_keys` are not accepted: they
/// would look as if they were honoured.
pub fn parse_public_key(text: &str) -> Result<ParsedKey, KeyError> {
    let text = text.trim();
    if text.contains("PRIVATE KEY") {
        return Err(KeyError::PrivateKey);
    }
    if text.len() > MAX_LINE || text.contains(['\n', '\r']) {
        return Err(KeyError::Malformed);
    }
    let key = PublicKey::from_openssh(text).map_err(|_| KeyError::Malformed)?;
    accept(key.key_data())?;
    let comment: String = key.comment().to_string().chars().filter(|c| !c.is_control()).take(128).collect();
    let bare = PublicKey::new(key.key_data().clone(), "");
    let line = bare.to_openssh().map_err(|_| KeyError::Malformed)?;
    let fingerprint = bare.fingerprint(HashAlg::Sha256).to_string();
    Ok(ParsedKey { key: bare, line: line.trim_end().to_owned(), fingerprint, comment })
}

/// The types that are accepted, for users and for certificate authorities.
pub(crate) fn accept(key: &KeyData) -> Result<(), KeyError> {
    match key {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => Ok(()),
        KeyData::Rsa(rsa) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
        KeyData::Rsa(rsa) => Err(KeyError::RsaSize(rsa.key_size())),
        other => Err(KeyError::Type(other.algorithm().to_string())),
    }
}

/// `ssh-rsa` as the algorithm of a signature means SHA-1 (RFC 8332).
pub(crate) fn signed_with_sha1(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Rsa { hash: None } | Algorithm::Dsa)
}

/// A key pair made for a user. The private half is nowhere else.
pub struct GeneratedKey {
    pub record: SshKey,
    /// OpenSSH format, not encrypted.
    pub private_key: Zeroizing<String>,
}

impl Identity {
    /// Adds a public key to a user.
    pub async fn add_ssh_key(&self, user: Uuid, name: &str, line: &str, by: &By) -> Result<SshKey, IdentityError> {
        let parsed = parse_public_key(line).map_err(|e| IdentityError::field("public_key", e.to_string()))?;
        let account = self.user(user)?;
        if self.ssh_keys(user)?.len() >= MAX_KEYS {
            return Err(IdentityError::field("public_key", format!("a user can have {MAX_KEYS} keys")));
        }
        let now = self.now();
        let name = match (name.trim(), parsed.comment.trim()) {
            ("", "") => parsed.fingerprint.as_str(),
            ("", comment) => comment,
            (name, _) => name,
        };
        let record = SshKey {
            id: random::id(now)?,
            user,
            name: name.chars().take(128).collect(),
            public_key: parsed.line,
            fingerprint: parsed.fingerprint,
            is_active: true,
            date_last_used: None,
            meta: Meta::new(&by.display, now),
        };
        let mut batch = self.store().batch();
        batch.insert(record.clone());
        by.write(&mut batch);
        match self.store().commit(batch).await {
            Ok(()) => {}
            Err(StoreError::Conflict { index: "fingerprint", .. }) => {
                return Err(IdentityError::field(
                    "public_key",
                    "this key is registered already; a key belongs to one user",
                ));
            }
            Err(other) => return Err(other.into()),
        }
        self.tell(
            account.id,
            "An SSH key was added",
            format!("The key {} was added to your account by {}.", record.fingerprint, by.display),
        );
        Ok(record)
    }

    /// Makes an Ed25519 pair for a user; the private key is returned this once.
    pub async fn generate_ssh_key(&self, user: Uuid, name: &str, by: &By) -> Result<GeneratedKey, IdentityError> {
        let account = self.user(user)?;
        let seed = random::bytes::<32>()?;
        let pair = KeypairData::Ed25519(Ed25519Keypair::from_seed(&seed));
        let damaged = |_| IdentityError::Damaged("a key pair could not be made");
        let private = PrivateKey::new(pair, account.username.as_str()).map_err(damaged)?;
        let line = private.public_key().to_openssh().map_err(damaged)?;
        let record = self.add_ssh_key(user, name, &line, by).await?;
        let private_key = private.to_openssh(LineEnding::LF).map_err(damaged)?;
        Ok(GeneratedKey { record, private_key })
    }

    /// Keys of a user, oldest first.
    pub fn ssh_keys(&self, user: Uuid) -> Result<Vec<Arc<SshKey>>, IdentityError> {
        let mut keys = self.store().system().find::<SshKey>("user", user.as_bytes())?;
        keys.sort_by_key(|k| k.id);
        Ok(keys)
    }

    /// Removes a key of this user.
    pub async fn remove_ssh_key(&self, user: Uuid, key: Uuid, by: &By) -> Result<(), IdentityError> {
        let found = self.store().system().get::<SshKey>(key)?.filter(|k| k.user == user);
        let record = found.ok_or(IdentityError::NotFound("the SSH key"))?;
        let mut batch = self.store().batch();
        batch.delete::<SshKey>(record.id);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }

    /// Removes all keys of a user (an administrator's `pubkey/reset`); the user is told.
    pub async fn remove_all_ssh_keys(&self, user: Uuid, by: &By) -> Result<usize, IdentityError> {
        let keys = self.ssh_keys(user)?;
        let mut batch = self.store().batch();
        for key in &keys {
            batch.delete::<SshKey>(key.id);
        }
        by.write(&mut batch);
        self.store().commit(batch).await?;
        if !keys.is_empty() {
            self.tell(
                user,
                "Your SSH keys were removed",
                format!("{} removed the SSH keys of your account.", by.display),
            );
        }
        Ok(keys.len())
    }

    /// The active key of this user that has the same public key, if its type is (still) accepted.
    pub(crate) fn find_user_key(&self, user: &User, key: &PublicKey) -> Result<Option<Arc<SshKey>>, StoreError> {
        if accept(key.key_data()).is_err() {
            return Ok(None);
        }
        let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
        let found = self.store().system().find::<SshKey>("fingerprint", fingerprint.as_bytes())?;
        Ok(found.into_iter().find(|k| k.user == user.id && k.is_active))
    }

    /// Notes the use of a key. Lazily, and never in the way of a log-in.
    pub(crate) async fn key_used(&self, key: &SshKey) {
        let now = self.now();
        if key.date_last_used.is_some_and(|at| now - at < LAST_USED_EVERY) {
            return;
        }
        let updated = async {
            let Some((stored, version)) = self.store().system().versioned::<SshKey>(key.id)? else { return Ok(()) };
            let mut batch = self.store().batch();
            batch.update(SshKey { date_last_used: Some(now), ..SshKey::clone(&stored) }, version);
            self.store().commit(batch).await
        };
        match updated.await {
            Ok(()) | Err(StoreError::Stale { .. }) => {}
            Err(error) => tracing::warn!(%error, "the last use of an SSH key could not be noted"),
        }
    }

    /// Trusts a certificate authority: user certificates that it signs are accepted for log-in.
    pub async fn add_user_ca(&self, name: &str, line: &str, by: &By) -> Result<TrustedUserCa, IdentityError> {
        let parsed = parse_public_key(line).map_err(|e| IdentityError::field("public_key", e.to_string()))?;
        let now = self.now();
        let record = TrustedUserCa {
            id: random::id(now)?,
            name: if name.trim().is_empty() {
                parsed.fingerprint.clone()
            } else {
                name.trim().chars().take(128).collect()
            },
            public_key: parsed.line,
            fingerprint: parsed.fingerprint,
            is_active: true,
            meta: Meta::new(&by.display, now),
        };
        let mut batch = self.store().batch();
        batch.insert(record.clone());
        by.write(&mut batch);
        match self.store().commit(batch).await {
            Ok(()) => Ok(record),
            Err(StoreError::Conflict { .. }) => {
                Err(IdentityError::field("public_key", "this certificate authority is trusted already"))
            }
            Err(other) => Err(other.into()),
        }
    }

    /// No longer trusts a certificate authority.
    pub async fn remove_user_ca(&self, ca: Uuid, by: &By) -> Result<(), IdentityError> {
        self.store().system().get::<TrustedUserCa>(ca)?.ok_or(IdentityError::NotFound("the certificate authority"))?;
        let mut batch = self.store().batch();
        batch.delete::<TrustedUserCa>(ca);
        by.write(&mut batch);
        self.store().commit(batch).await?;
        Ok(())
    }

    pub fn user_cas(&self) -> Result<Vec<Arc<TrustedUserCa>>, IdentityError> {
        Ok(self.store().system().list::<TrustedUserCa>()?)
    }

    pub(crate) fn trusts_any_ca(&self) -> Result<bool, StoreError> {
        Ok(self.store().system().list::<TrustedUserCa>()?.iter().any(|ca| ca.is_active))
    }
}
