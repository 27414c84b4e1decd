//! The certificate of the HTTPS door: made at set-up, kept encrypted in the store, replaced live.
//!
//! New connections get the new certificate at once, open ones keep theirs; nothing restarts. The private key leaves this
//! module only into rustls and into the store.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::record::{Record, SystemRecord};
use gatehouse_store::{Batch, Store, StoreError};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::{Zeroize, Zeroizing};

const CERTIFICATE_ID: Uuid = Uuid::from_u128(1);

/// The certificate and its key, in PEM. One record.
#[derive(Clone, Serialize, Deserialize)]
pub struct TlsCertificate {
    pub id: Uuid,
    /// Leaf first.
    pub chain: String,
    pub key: String,
    pub self_signed: bool,
    pub date_created: DateTime<Utc>,
}

impl Drop for TlsCertificate {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

impl Record for TlsCertificate {
    const KIND: &'static str = "tls_certificate";
    const CACHED: bool = false;
    fn id(&self) -> Uuid {
        self.id
    }
}
impl SystemRecord for TlsCertificate {}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the certificate is not valid PEM: {0}")]
    Certificate(String),
    #[error("the private key is not valid PEM (PKCS#8, PKCS#1 or SEC1, not encrypted): {0}")]
    Key(String),
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    #[error("the certificate is not valid now: it is valid from {from} to {to}")]
    NotNow { from: String, to: String },
    #[error("a self-signed certificate could not be made: {0}")]
    SelfSigned(String),
    #[error("TLS could not be configured: {0}")]
    Config(#[from] rustls::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What anybody may know of the certificate.
#[derive(Debug, Clone, Serialize)]
pub struct CertificateFacts {
    pub subject: String,
    pub issuer: String,
    pub names: Vec<String>,
    pub serial: String,
    pub date_start: DateTime<Utc>,
    pub date_expired: DateTime<Utc>,
    /// SHA-256 of the DER form, hex with colons, as browsers show it.
    pub fingerprint: String,
    pub self_signed: bool,
    /// PEM; a client that wants to pin it needs the whole.
    pub chain: String,
}

/// Cheap to clone; all clones see a replaced certificate at once.
#[derive(Clone)]
pub struct TlsStore {
    store: Store,
    current: Arc<Current>,
}

struct Current(RwLock<Arc<CertifiedKey>>);

impl std::fmt::Debug for Current {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl TlsStore {
    /// Opens the stored certificate; when there is none, makes a self-signed one for `names` (host names, addresses).
    pub async fn open(store: &Store, names: &[String], now: DateTime<Utc>) -> Result<Self, TlsError> {
        let record = match store.system().get::<TlsCertificate>(CERTIFICATE_ID)? {
            Some(record) => record,
            None => {
                let record = self_signed(names, now)?;
                let mut batch = store.batch();
                batch.insert(record.clone());
                store.commit(batch).await?;
                Arc::new(record)
            }
        };
        // An expired certificate still opens: people must be able to log in to replace it.
        let key = certified(&record.chain, &record.key)?;
        Ok(Self { store: store.clone(), current: Arc::new(Current(RwLock::new(Arc::new(key)))) })
    }

    /// Checks a new pair and puts it into `batch`; `activate` makes it the one that connections get, after the commit.
    pub(crate) fn stage(
        &self,
        batch: &mut Batch,
        chain: &str,
        key: &str,
        now: DateTime<Utc>,
    ) -> Result<Staged, TlsError> {
        let certified = certified(chain, key)?;
        let facts = facts_of(chain)?;
        if facts.date_start > now || facts.date_expired <= now {
            return Err(TlsError::NotNow { from: facts.date_start.to_rfc3339(), to: facts.date_expired.to_rfc3339() });
        }
        batch.put(TlsCertificate {
            id: CERTIFICATE_ID,
            chain: chain.to_owned(),
            key: key.to_owned(),
            self_signed: facts.self_signed,
            date_created: now,
        });
        Ok(Staged { certified: Arc::new(certified), facts })
    }

    pub(crate) fn activate(&self, staged: &Staged) {
        *self.current.0.write() = staged.certified.clone();
    }

    /// A fresh self-signed pair (chain, key) in PEM.
    pub(crate) fn make_self_signed(
        names: &[String],
        now: DateTime<Utc>,
    ) -> Result<(String, Zeroizing<String>), TlsError> {
        let made = self_signed(names, now)?;
        Ok((made.chain.clone(), Zeroizing::new(made.key.clone())))
    }

    pub fn facts(&self) -> Result<CertificateFacts, TlsError> {
        match self.store.system().get::<TlsCertificate>(CERTIFICATE_ID)? {
            Some(record) => facts_of(&record.chain),
            None => Err(TlsError::Certificate("there is none".into())),
        }
    }

    /// TLS 1.3 and 1.2, HTTP/2 and HTTP/1.1.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(self.current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

pub(crate) struct Staged {
    certified: Arc<CertifiedKey>,
    pub facts: CertificateFacts,
}

fn self_signed(names: &[String], now: DateTime<Utc>) -> Result<TlsCertificate, TlsError> {
    let fail = |e: rcgen::Error| TlsError::SelfSigned(e.to_string());
    let mut names: Vec<String> = names.iter().filter(|n| !n.is_empty()).cloned().collect();
    if names.is_empty() {
        names.push("localhost".into());
    }
    let mut params = rcgen::CertificateParams::new(names.clone()).map_err(fail)?;
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::OrganizationName, "Gatehouse");
    subject.push(rcgen::DnType::CommonName, names.first().map_or("localhost", String::as_str));
    params.distinguished_name = subject;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    // Browsers refuse longer ones even where they are trusted by hand (825 days); a day back for clocks that are late.
    let day = |at: DateTime<Utc>| {
        use chrono::Datelike as _;
        let month = u8::try_from(at.month()).unwrap_or(1);
        rcgen::date_time_ymd(at.year(), month, u8::try_from(at.day()).unwrap_or(1))
    };
    params.not_before = day(now - chrono::Days::new(1));
    params.not_after = day(now + chrono::Days::new(820));
    let key = rcgen::KeyPair::generate().map_err(fail)?;
    let certificate = params.self_signed(&key).map_err(fail)?;
    Ok(TlsCertificate {
        id: CERTIFICATE_ID,
        chain: certificate.pem(),
        key: key.serialize_pem(),
        self_signed: true,
        date_created: now,
    })
}

fn chain_of(pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let chain = chain.map_err(|e| TlsError::Certificate(e.to_string()))?;
    if chain.is_empty() {
        return Err(TlsError::Certificate("it holds no certificate".into()));
    }
    Ok(chain)
}

fn certified(chain: &str, key: &str) -> Result<CertifiedKey, TlsError> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| TlsError::Key(e.to_string()))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let signing = provider.key_provider.load_private_key(key).map_err(|e| TlsError::Key(e.to_string()))?;
    let certified = CertifiedKey::new(chain_of(chain)?, signing);
    certified.keys_match().map_err(|_| TlsError::Mismatch)?;
    Ok(certified)
}

fn facts_of(pem: &str) -> Result<CertificateFacts, TlsError> {
    let chain = chain_of(pem)?;
    let leaf = chain.first().ok_or_else(|| TlsError::Certificate("it holds no certificate".into()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(|e| TlsError::Certificate(e.to_string()))?;
    let moment = |t: x509_parser::time::ASN1Time| DateTime::from_timestamp(t.timestamp(), 0).unwrap_or_default();
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                x509_parser::extensions::GeneralName::DNSName(dns) => names.push((*dns).to_owned()),
                x509_parser::extensions::GeneralName::IPAddress(bytes) => {
                    let v4 = <[u8; 4]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string());
                    let v6 = <[u8; 16]>::try_from(*bytes).map(|b| std::net::IpAddr::from(b).to_string());
                    names.extend(v4.or(v6));
                }
                _ => {}
            }
        }
    }
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, leaf);
    let fingerprint: Vec<String> = digest.as_ref().iter().map(|b| format!("{b:02X}")).collect();
    Ok(CertificateFacts {
        subject: parsed.subject().to_string(),
        issuer: parsed.issuer().to_string(),
        names,
        serial: parsed.raw_serial_as_string(),
        date_start: moment(parsed.validity().not_before),
        date_expired: moment(parsed.validity().not_after),
        fingerprint: fingerprint.join(":"),
        self_signed: parsed.subject() == parsed.issuer(),
        chain: pem.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_key_garbage_and_an_expired_certificate_are_refused() {
        let now = Utc::now();
        let one = self_signed(&["a.example".into(), "192.0.2.1".into()], now).unwrap();
        let other = self_signed(&["b.example".into()], now).unwrap();
        assert!(certified(&one.chain, &one.key).is_ok());
        assert!(matches!(certified(&one.chain, &other.key), Err(TlsError::Mismatch)));
        assert!(matches!(certified("nonsense", &one.key), Err(TlsError::Certificate(_))));
        assert!(matches!(certified(&one.chain, "nonsense"), Err(TlsError::Key(_))));
        let facts = facts_of(&one.chain).unwrap();
        assert_eq!(facts.names, vec!["a.example", "192.0.2.1"]);
        assert!(facts.self_signed && facts.fingerprint.len() == 95);
    }
}
