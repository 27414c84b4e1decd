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

#[cfg(test)]
mod tests {
    use gatehouse_model::common::Meta;
    use proptest::prelude::*;
    use russh::keys::ssh_key::certificate::Builder;
    use russh::keys::ssh_key::private::{Ed25519Keypair, KeypairData};
    use russh::keys::{PrivateKey, PublicKey};
    use uuid::Uuid;

    use super::*;
    use crate::testing::start;

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
    }

    fn trusted(key: &PublicKey) -> TrustedUserCa {
        TrustedUserCa {
            id: Uuid::now_v7(),
            name: "ca".into(),
            public_key: key.to_openssh().unwrap(),
            fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
            is_active: true,
            meta: Meta::new("test", start()),
        }
    }

    fn certificate(change: impl FnOnce(&mut Builder)) -> Certificate {
        certificate_for(CertType::User, change)
    }

    fn certificate_for(purpose: CertType, change: impl FnOnce(&mut Builder)) -> Certificate {
        let now = u64::try_from(start().timestamp()).unwrap();
        let subject = key(1).public_key().key_data().clone();
        let mut builder = Builder::new([7; 16], subject, now - 60, now + 60).unwrap();
        builder.cert_type(purpose).unwrap();
        builder.key_id("test").unwrap();
        change(&mut builder);
        builder.sign(&key(9)).unwrap()
    }

    fn for_alice(builder: &mut Builder) {
        builder.valid_principal("alice").unwrap();
    }

    fn ask(certificate: &Certificate) -> Result<(), CertificateError> {
        ask_as(certificate, "alice", "192.0.2.10", start())
    }

    fn ask_as(certificate: &Certificate, name: &str, ip: &str, at: DateTime<Utc>) -> Result<(), CertificateError> {
        let ca = trusted(key(9).public_key());
        check(certificate, [&ca], name, ip.parse().unwrap(), at)
    }

    #[test]
    fn a_certificate_lets_in_whom_it_names_while_it_is_valid() {
        let good = certificate(for_alice);
        assert_eq!(ask(&good), Ok(()));
        assert_eq!(ask_as(&good, "ALICE", "192.0.2.10", start()), Ok(()));
        assert_eq!(ask_as(&good, "bob", "192.0.2.10", start()), Err(CertificateError::Principal));
        for (seconds, answer) in
            [(-61, Err(CertificateError::Time)), (-60, Ok(())), (59, Ok(())), (60, Err(CertificateError::Time))]
        {
            let at = start() + chrono::TimeDelta::seconds(seconds);
            assert_eq!(ask_as(&good, "alice", "192.0.2.10", at), answer, "{seconds}");
        }
    }

    #[test]
    fn a_certificate_for_everybody_is_for_nobody() {
        let anybody = certificate(|b| {
            b.all_principals_valid().unwrap();
        });
        assert_eq!(ask(&anybody), Err(CertificateError::Principal));
    }

    #[test]
    fn only_active_trusted_authorities_count() {
        let good = certificate(for_alice);
        let (ip, at) = ("192.0.2.10".parse().unwrap(), start());
        assert_eq!(check(&good, [], "alice", ip, at), Err(CertificateError::Untrusted));
        let other = trusted(key(8).public_key());
        assert_eq!(check(&good, [&other], "alice", ip, at), Err(CertificateError::Untrusted));
        let off = TrustedUserCa { is_active: false, ..trusted(key(9).public_key()) };
        assert_eq!(check(&good, [&off], "alice", ip, at), Err(CertificateError::Untrusted));
    }

    #[test]
    fn a_host_certificate_is_no_user_certificate() {
        let host = certificate_for(CertType::Host, for_alice);
        assert_eq!(ask(&host), Err(CertificateError::HostCertificate));
    }

    #[test]
    fn source_address_is_honoured_and_a_broken_one_opens_nothing() {
        let from = |list: &str| {
            certificate(|b| {
                for_alice(b);
                b.critical_option("source-address", list).unwrap();
            })
        };
        for (list, good) in [
            ("192.0.2.0/24", true),
            ("10.0.0.0/8,192.0.2.10", true),
            ("10.0.0.0/8", false),
            ("192.0.2.0/24,nonsense", false),
            ("", false),
            ("!192.0.2.1,192.0.2.0/24", false),
        ] {
            assert_eq!(ask(&from(list)).is_ok(), good, "{list}");
        }
        assert_eq!(ask_as(&from("192.0.2.0/24"), "alice", "::ffff:192.0.2.10", start()), Ok(()));
    }

    #[test]
    fn a_critical_option_that_is_not_known_refuses() {
        for option in ["force-command", "verify-required", "anything@example.com"] {
            let odd = certificate(|b| {
                for_alice(b);
                b.critical_option(option, "x").unwrap();
            });
            assert_eq!(ask(&odd), Err(CertificateError::CriticalOption(option.into())));
        }
        let extension = certificate(|b| {
            for_alice(b);
            b.extension("permit-anything", "").unwrap();
        });
        assert_eq!(ask(&extension), Ok(()), "extensions are not critical");
    }

    #[test]
    fn no_changed_byte_of_a_certificate_lets_somebody_in() {
        let bytes = certificate(for_alice).to_bytes().unwrap();
        let mut read = 0;
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            if let Ok(odd) = Certificate::from_bytes(&changed) {
                read += 1;
                assert!(ask(&odd).is_err(), "byte {at}");
            }
        }
        assert!(read > 50, "the loop checked something: {read}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(mut tail in prop::collection::vec(any::<u8>(), 0..400), framed: bool) {
            if framed {
                let name = b"ssh-ed25519-cert-v01@openssh.com";
                let mut whole = u32::try_from(name.len()).unwrap().to_be_bytes().to_vec();
                whole.extend_from_slice(name);
                whole.append(&mut tail);
                tail = whole;
            }
            if let Ok(odd) = Certificate::from_bytes(&tail) {
                prop_assert!(ask(&odd).is_err());
            }
        }
    }
}
