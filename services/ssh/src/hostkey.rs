//! The gateway's own host keys: Ed25519, ECDSA P-256 and RSA 3072, made at the first start and kept in the store
//! (encrypted, never cached). What must not be here: keys of assets.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use data_encoding::BASE64;
use gatehouse_model::record::{Record, SystemRecord};
use gatehouse_store::{Store, StoreError};
use russh::keys::{PrivateKey, decode_secret_key};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

/// A host key. Its id says which algorithm, so that two starts at once cannot keep two.
#[derive(Clone, Serialize, Deserialize)]
pub struct GatewayHostKey {
    pub id: Uuid,
    /// PKCS#8, as PEM.
    pub pem: String,
}

impl Record for GatewayHostKey {
    const KIND: &'static str = "gateway_host_key";
    const CACHED: bool = false;
    fn id(&self) -> Uuid {
        self.id
    }
}
impl SystemRecord for GatewayHostKey {}

impl Drop for GatewayHostKey {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.pem);
    }
}

/// Why the gateway has no host keys.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a host key of the ssh gateway cannot be read ({0}); restore a backup of the store")]
    Unreadable(russh::keys::Error),
    #[error("a host key of the ssh gateway cannot be made")]
    Make,
}

enum Kind {
    Ed25519,
    Ecdsa,
    Rsa,
}

const KINDS: [(Uuid, Kind); 3] = [
    (Uuid::from_u128(0x6761_7465_0000_0000_0000_0000_0000_0001), Kind::Ed25519),
    (Uuid::from_u128(0x6761_7465_0000_0000_0000_0000_0000_0002), Kind::Ecdsa),
    (Uuid::from_u128(0x6761_7465_0000_0000_0000_0000_0000_0003), Kind::Rsa),
];

/// The keys from the store; missing ones are made first.
///
/// # Errors
/// [`HostKeyError`]; a key that cannot be read is never replaced silently, because clients have pinned it.
pub(crate) async fn load_or_create(store: &Store) -> Result<Vec<PrivateKey>, HostKeyError> {
    let mut keys = Vec::with_capacity(KINDS.len());
    for (id, kind) in KINDS {
        if let Some(stored) = store.system().get::<GatewayHostKey>(id)? {
            keys.push(decode_secret_key(&stored.pem, None).map_err(HostKeyError::Unreadable)?);
            continue;
        }
        // An RSA key takes a moment.
        let made = tokio::task::spawn_blocking(move || make(&kind)).await;
        let pem = made.ok().flatten().ok_or(HostKeyError::Make)?;
        keys.push(decode_secret_key(&pem, None).map_err(HostKeyError::Unreadable)?);
        let mut batch = store.batch();
        batch.insert(GatewayHostKey { id, pem: pem.to_string() });
        store.commit(batch).await?;
    }
    Ok(keys)
}

/// A new key as PKCS#8 PEM.
fn make(kind: &Kind) -> Option<Zeroizing<String>> {
    let random = SystemRandom::new();
    let der = match kind {
        Kind::Ed25519 => Zeroizing::new(Ed25519KeyPair::generate_pkcs8(&random).ok()?.as_ref().to_vec()),
        Kind::Ecdsa => {
            let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).ok()?;
            Zeroizing::new(pair.as_ref().to_vec())
        }
        Kind::Rsa => {
            let pair = aws_lc_rs::rsa::KeyPair::generate(KeySize::Rsa3072).ok()?;
            Zeroizing::new(pair.as_der().ok()?.as_ref().to_vec())
        }
    };
    let text = Zeroizing::new(BASE64.encode(&der));
    let mut pem = Zeroizing::new(String::from("-----BEGIN PRIVATE KEY-----\n"));
    for line in text.as_bytes().chunks(64) {
        pem.push_str(std::str::from_utf8(line).ok()?);
        pem.push('\n');
    }
    pem.push_str("-----END PRIVATE KEY-----\n");
    Some(pem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_are_made_once_and_stay() {
        let store = Store::in_memory();
        let first = load_or_create(&store).await.unwrap();
        let names: Vec<String> = first.iter().map(|k| k.algorithm().to_string()).collect();
        assert_eq!(names, ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"]);
        let again = load_or_create(&store).await.unwrap();
        let prints = |keys: &[PrivateKey]| -> Vec<String> {
            keys.iter().map(|k| k.fingerprint(Default::default()).to_string()).collect()
        };
        assert_eq!(prints(&first), prints(&again));
    }
}
