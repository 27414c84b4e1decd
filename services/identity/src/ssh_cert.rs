//! OpenSSH user certificates (PROTOCOL.certkeys): whether one, whose key was proven, lets a user in. The library checks
//! only that the certificate is signed by the key that it names itself; trust, purpose, principals, validity and options
//! are checked here.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use gatehouse_model::user::TrustedUserCa;
use gatehouse_store::StoreError;
use ipnet::IpNet;
use russh::keys::ssh_key::certificate::CertType;
use russh::keys::ssh_key::public::KeyData;
use russh::keys::{Algorithm, Certificate, HashAlg};

use crate::Identity;
use crate::ssh_key::{accept, signed_with_sha1};

/// Why a certificate does not let somebody in. For the ledger.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("it is not signed by a trusted certificate authority")]
    Untrusted,
    #[error("its signature is wrong or made with SHA-1")]
    Signature,
    #[error("it is a host certificate")]
    HostCertificate,
    #[error("it is not valid at this time")]
    Time,
    #[error("the user name is not among its principals")]
    Principal,
    #[error("its option source-address does not allow this address")]
    SourceAddress,
    #[error("it carries the critical option {0:?}, which is not known here")]
    CriticalOption(String),
    #[error("its key is of a type that is not accepted")]
    Key,
}

/// All checks, with the trusted authorities, the log-in name, the client's address and the time given.
pub(crate) fn check<'a>(
    certificate: &Certificate,
    authorities: impl IntoIterator<Item = &'a TrustedUserCa>,
    username: &str,
    ip: IpAddr,
    now: DateTime<Utc>,
) -> Result<(), CertificateError> {
    let signer = certificate.signature_key().fingerprint(HashAlg::Sha256).to_string();
    if !authorities.into_iter().any(|ca| ca.is_active && ca.fingerprint == signer) {
        return Err(CertificateError::Untrusted);
    }
    if certificate.cert_type() != CertType::User {
        return Err(CertificateError::HostCertificate);
    }
    check_signature(certificate)?;
    accept(certificate.public_key()).map_err(|_| CertificateError::Key)?;
    // "valid after <= current time < valid before"
    let seconds = u64::try_from(now.timestamp()).map_err(|_| CertificateError::Time)?;
    if seconds < certificate.valid_after() || seconds >= certificate.valid_before() {
        return Err(CertificateError::Time);
    }
    // A certificate without principals would be valid for everybody; OpenSSH refuses it for TrustedUserCAKeys too.
    if !certificate.valid_principals().iter().any(|p| p.to_lowercase() == username.to_lowercase()) {
        return Err(CertificateError::Principal);
    }
    for (name, value) in certificate.critical_options().iter() {
        match name.as_str() {
            "source-address" => source_address(value, ip)?,
            // `force-command` and `verify-required` cannot be honoured here, and what is unknown must be refused.
            other => return Err(CertificateError::CriticalOption(other.chars().take(64).collect())),
        }
    }
    Ok(())
}

fn check_signature(certificate: &Certificate) -> Result<(), CertificateError> {
    let signature = certificate.signature();
    if signed_with_sha1(&signature.algorithm()) || accept(certificate.signature_key()).is_err() {
        return Err(CertificateError::Signature);
    }
    // A FIDO key of an authority must have been touched: flag 1 of the five trailing bytes (PROTOCOL.u2f).
    if matches!(certificate.signature_key(), KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_)) {
        let bytes = signature.as_bytes();
        let flags = bytes.len().checked_sub(5).and_then(|at| bytes.get(at)).copied().unwrap_or(0);
        if flags & 1 == 0 {
            return Err(CertificateError::Signature);
        }
    }
    if matches!(signature.algorithm(), Algorithm::Other(_)) {
        return Err(CertificateError::Signature);
    }
    certificate.verify_signature().map_err(|_| CertificateError::Signature)
}

/// Comma-separated addresses and networks; anything else in it makes the certificate useless, as with OpenSSH.
fn source_address(list: &str, ip: IpAddr) -> Result<(), CertificateError> {
    let ip = ip.to_canonical();
    let mut allowed = false;
    for item in list.split(',') {
        let net = item.parse::<IpNet>().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
        let net = net.map_err(|_| CertificateError::SourceAddress)?;
        allowed |= net.contains(&ip);
    }
    if allowed { Ok(()) } else { Err(CertificateError::SourceAddress) }
}

impl Identity {
    pub(crate) fn check_certificate(
        &self,
        certificate: &Certificate,
        username: &str,
        ip: IpAddr,
    ) -> Result<Result<(), CertificateError>, StoreError> {
        let authorities = self.store().system().list::<TrustedUserCa>()?;
        Ok(check(certificate, authorities.iter().map(AsRef::as_ref), username, ip, self.now()))
    }
}
