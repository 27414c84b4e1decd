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
        let account = self.user(user)?;
        let record = self.new_ssh_key(user, name, line, by)?;
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
        self.tell_of_key(account.id, &record, by);
        Ok(record)
    }

    /// A checked key that is stored nowhere yet: for the batch that creates or changes the user. That another user has the
    /// key shows as a conflict of the index `fingerprint` when it is committed; `tell_of_key` follows.
    pub fn new_ssh_key(&self, user: Uuid, name: &str, line: &str, by: &By) -> Result<SshKey, IdentityError> {
        let parsed = parse_public_key(line).map_err(|e| IdentityError::field("public_key", e.to_string()))?;
        if self.ssh_keys(user)?.len() >= MAX_KEYS {
            return Err(IdentityError::field("public_key", format!("a user can have {MAX_KEYS} keys")));
        }
        let now = self.now();
        let name = match (name.trim(), parsed.comment.trim()) {
            ("", "") => parsed.fingerprint.as_str(),
            ("", comment) => comment,
            (name, _) => name,
        };
        Ok(SshKey {
            id: random::id(now)?,
            user,
            name: name.chars().take(128).collect(),
            public_key: parsed.line,
            fingerprint: parsed.fingerprint,
            is_active: true,
            date_last_used: None,
            meta: Meta::new(&by.display, now),
        })
    }

    /// Tells the user that a key was added.
    pub fn tell_of_key(&self, user: Uuid, key: &SshKey, by: &By) {
        self.tell(
            user,
            "An SSH key was added",
            format!("The key {} was added to your account by {}.", key.fingerprint, by.display),
        );
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::World;

    const RSA_2048: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCe+9A0A9qLDpPcNvEOnANRa2QJY/LA/o8hNMlkrxKSyK3hT1Eyon3hJpvjr4mNdH06dIvbboX1XM/pGkuoKEoyAr6B9GOewA1lpzxBaZBnAkNoF/44w0pD2DGT8J5DXkfjxR6IPq8Ku8xP+NTeq11fnSq/Whz3N/d9wKbkCTjflpibHDr1KuBQoDx+gET7gdwaHHQtuPyhFxbpoXfsyjZdESDhmg/DURNI18DkdpoQm6FLGb4CeC3jMXiLMuL7l+jg83HWuSw6w3D1BgfWI+WlK3j6taEJNkLRzDMyMlc9dCCwvRHRvV16ffzD3N0sGwWWTofFeYCZUdDLqL9XwSOP laptop";
    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDS3wnkdc1+np8yY37LtyXGAoLt84rXWgSHS2rdd4NjPr4UEWI6iERDUdRCaY3pbTNp+e5f9POm+zBAY1/cuKCFk6UbQEcsr4PKaCBuQGD0x1uzKuTl4FnADtryDkjYMC9ujPhHNCkmFB6DCO7656fC6OHI/0xNPTQxSdVVMb248Q== small";
    const ECDSA: &str = "ecdsa-sha2-nistp384 AAAAE2VjZHNhLXNoYTItbmlzdHAzODQAAAAIbmlzdHAzODQAAABhBBCPwXuClgT100H67WScXGl3KhppTHxxZWFcaocQ3uGGpplmgQOzYSPhOHc5yr9ZyE3MadQxAwQRz8yjO8XvieRCp1mmHwnVes86qw0XoVotFoNRM1sdNPKtAZ7jMksagQ== e c";
    const DSA: &str = "ssh-dss AAAAB3NzaC1kc3MAAACBAIu46fdMvLkB9JWNXhujwWC5MnY6mCnMdwDZBs3EdY9HS1YW2yklY+586g2ZNrZrtzhMa0fW3MN5zsxjWC3fWWweSePkK75Iu+3PN0zXs7Y7UdWak6zLfKNTrAKiLbTltWVA/SnmZl1WvIi3TrkwWsvFfH106iRi1DxvCMaSWgl5AAAAFQCAuG1tmwTRzaYbj5KBLx9kdRyeYwAAAIBL9aa3qo70yexhrJgPZtspEbvYDhL0FOlFwDfrmkqCd/H7dkeeqfI6nDtjA2tn5zmkWszUSgiz7jCIjjpj/tXMHaFQm/fjigegmr1F+i3itOHXbVhN+X+hYifu6OS0+U5LxOdKbzz7AZSsSGrAn/dvasYvFWsYPK86aHEsevBKHQAAAIANY8RtyLa0N5KRFjRWI7g9e88o5k2cnGhgVqz9kvOawfWOWQbEdRCrv3su63BAewvAj7Ozc3pYnt1Z0D75i2kQ2zMqRgFW3gHvqgW/rBn1dHVDooCj5egRYeBto0P5k8gHakQlLjMhfWFgJ9Xqvdz/6AlUiUj5OyPbbdKYU0BGXw== d";
    const SK: &str = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fAAAABHNzaDo=";

    #[test]
    fn keys_as_ssh_keygen_writes_them_are_read() {
        let rsa = parse_public_key(&format!("  {RSA_2048}\n")).unwrap();
        // What `ssh-keygen -l` says of the same key.
        assert_eq!(rsa.fingerprint, "SHA256:I/4ZONxdqfX5SZnI92UWz8F6txQIqMiEujN1Bwe3/mw");
        assert_eq!(rsa.comment, "laptop");
        assert!(RSA_2048.starts_with(&rsa.line) && !rsa.line.ends_with("laptop"));
        assert_eq!(parse_public_key(ECDSA).unwrap().comment, "e c");
        assert!(parse_public_key(SK).unwrap().line.starts_with("sk-ssh-ed25519@openssh.com "));
    }

    #[test]
    fn weak_foreign_and_private_keys_are_refused_with_the_reason() {
        assert_eq!(parse_public_key(RSA_1024), Err(KeyError::RsaSize(1_024)));
        assert_eq!(parse_public_key(DSA), Err(KeyError::Type("ssh-dss".into())));
        let private = "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----";
        assert_eq!(parse_public_key(private), Err(KeyError::PrivateKey));
        let with_options = format!("command=\"id\" {ECDSA}");
        let two = format!("{ECDSA}\n{SK}");
        for broken in
            ["", "ssh-ed25519", "ssh-ed25519 AAAA", "ssh-ed25519 !!!!", &with_options, &two, &"x".repeat(100_000)]
        {
            assert_eq!(parse_public_key(broken), Err(KeyError::Malformed), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in ".{0,400}") {
            let _ = parse_public_key(&text);
        }

        #[test]
        fn any_blob_is_answered(
            kind in prop::sample::select(vec!["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com", "ssh-dss"]),
            mut blob in prop::collection::vec(any::<u8>(), 0..300),
            framed: bool,
        ) {
            if framed {
                let mut whole = u32::try_from(kind.len()).unwrap().to_be_bytes().to_vec();
                whole.extend_from_slice(kind.as_bytes());
                whole.append(&mut blob);
                blob = whole;
            }
            let _ = parse_public_key(&format!("{kind} {} x", data_encoding::BASE64.encode(&blob)));
        }

        #[test]
        fn one_changed_character_never_panics(at in 0_usize..300, to in any::<char>()) {
            let changed: String = RSA_2048.chars().enumerate().map(|(i, c)| if i == at { to } else { c }).collect();
            let _ = parse_public_key(&changed);
        }
    }

    #[tokio::test]
    async fn a_key_belongs_to_one_user_who_can_remove_it() {
        let world = World::new();
        let (alice, bob) = (world.add("alice").await, world.add("bob").await);
        let by = By::system();
        let key = world.identity.add_ssh_key(alice.id, "", ECDSA, &by).await.unwrap();
        assert_eq!(key.name, "e c");
        let error = world.identity.add_ssh_key(bob.id, "mine", ECDSA, &by).await.unwrap_err();
        assert!(error.to_string().contains("registered already"), "{error}");
        let parsed = parse_public_key(ECDSA).unwrap();
        assert!(world.identity.find_user_key(&alice, &parsed.key).unwrap().is_some());
        assert!(world.identity.find_user_key(&bob, &parsed.key).unwrap().is_none());
        assert!(world.identity.remove_ssh_key(bob.id, key.id, &by).await.is_err());
        world.identity.remove_ssh_key(alice.id, key.id, &by).await.unwrap();
        world.identity.add_ssh_key(bob.id, "mine", ECDSA, &by).await.unwrap();
        assert_eq!(world.identity.remove_all_ssh_keys(bob.id, &by).await.unwrap(), 1);
        assert!(world.inbox.0.lock().iter().any(|n| n.subject == "Your SSH keys were removed"));
    }

    #[tokio::test]
    async fn a_generated_pair_fits_together_and_its_private_half_is_not_kept() {
        let world = World::new();
        let alice = world.add("alice").await;
        let made = world.identity.generate_ssh_key(alice.id, "made here", &By::system()).await.unwrap();
        let private = PrivateKey::from_openssh(made.private_key.as_bytes()).unwrap();
        assert_eq!(private.fingerprint(HashAlg::Sha256).to_string(), made.record.fingerprint);
        let stored = serde_json::to_string(world.identity.ssh_keys(alice.id).unwrap()[0].as_ref()).unwrap();
        assert!(!stored.contains("PRIVATE"));
        let other = world.identity.generate_ssh_key(alice.id, "", &By::system()).await.unwrap();
        assert_ne!(other.record.fingerprint, made.record.fingerprint);
    }
}
