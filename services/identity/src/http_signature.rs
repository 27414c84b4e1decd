//! HTTP Signatures (draft-cavage-http-signatures) with `hmac-sha256`, as JumpServer's SDKs send them. Pure: parsing the
//! header and checking a MAC. What must not be here: whose key it is, and whether that person may come in.

use aws_lc_rs::hmac;
use chrono::{DateTime, TimeDelta, Utc};
use data_encoding::BASE64;
use http::HeaderMap;
use uuid::Uuid;

/// How far the sender's clock may be from ours, either way (seconds).
const MAX_SKEW: i64 = 300;
/// Longer headers are refused unread (bytes), and so are longer lists of signed headers.
const MAX_HEADER: usize = 4_096;
const MAX_SIGNED: usize = 32;

/// A parsed `Authorization: Signature ...` header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) key_id: Uuid,
    /// Lower-case names, in the order in which they were signed.
    pub(crate) headers: Vec<String>,
    pub(crate) mac: Vec<u8>,
}

/// Why a signature is not accepted. The sender's own client is what shows it, so it may be exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the Authorization header is not a signature: keyId, headers and signature are needed")]
    Malformed,
    #[error("only the algorithm hmac-sha256 is accepted")]
    Algorithm,
    #[error("the signature must cover (request-target) and date")]
    NotCovered,
    #[error("a signed header is missing from the request")]
    HeaderMissing,
    #[error("the Date header is not a date of the form \"Sun, 06 Nov 1994 08:49:37 GMT\"")]
    Date,
    #[error("the Date header is more than 5 minutes away from our time; set the clock")]
    Skew,
    #[error("the signature does not match the request")]
    Mismatch,
}

impl Signature {
    /// Parses what stands after `Signature `. Unknown parameters are skipped, a repeated one is refused.
    pub(crate) fn parse(parameters: &str) -> Result<Self, SignatureError> {
        if parameters.len() > MAX_HEADER {
            return Err(SignatureError::Malformed);
        }
        let (mut key_id, mut algorithm, mut headers, mut mac) = (None, None, None, None);
        let mut rest = parameters.trim();
        while !rest.is_empty() {
            let (name, after) = rest.split_once('=').ok_or(SignatureError::Malformed)?;
            let (value, after) = value(after.trim_start()).ok_or(SignatureError::Malformed)?;
            let slot = match name.trim().to_ascii_lowercase().as_str() {
                "keyid" => Some(&mut key_id),
                "algorithm" => Some(&mut algorithm),
                "headers" => Some(&mut headers),
                "signature" => Some(&mut mac),
                _ => None,
            };
            if let Some(slot) = slot
                && slot.replace(value).is_some()
            {
                return Err(SignatureError::Malformed);
            }
            rest = match after.trim_start() {
                "" => "",
                more => more.strip_prefix(',').ok_or(SignatureError::Malformed)?.trim_start(),
            };
        }
        if algorithm.is_some_and(|a| !a.eq_ignore_ascii_case("hmac-sha256")) {
            return Err(SignatureError::Algorithm);
        }
        let headers: Vec<String> =
            headers.unwrap_or_default().split_ascii_whitespace().map(str::to_ascii_lowercase).collect();
        if headers.len() > MAX_SIGNED {
            return Err(SignatureError::Malformed);
        }
        let covered = |name: &str| headers.iter().any(|h| h == name);
        if !covered("(request-target)") || !covered("date") {
            return Err(SignatureError::NotCovered);
        }
        let key_id = key_id.and_then(|k| Uuid::try_parse(k).ok()).ok_or(SignatureError::Malformed)?;
        let mac = mac.and_then(|m| BASE64.decode(m.as_bytes()).ok()).ok_or(SignatureError::Malformed)?;
        Ok(Self { key_id, headers, mac })
    }

    /// The bytes that were signed: one line per header, in the sender's order (draft section 2.3).
    fn signing_string(
        &self,
        method: &str,
        path_and_query: &str,
        request: &HeaderMap,
    ) -> Result<Vec<u8>, SignatureError> {
        let mut out = Vec::with_capacity(256);
        for (i, name) in self.headers.iter().enumerate() {
            if i > 0 {
                out.push(b'\n');
            }
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            if name == "(request-target)" {
                out.extend_from_slice(method.to_ascii_lowercase().as_bytes());
                out.push(b' ');
                out.extend_from_slice(path_and_query.as_bytes());
                continue;
            }
            let mut values = request.get_all(name.as_str()).iter();
            let first = values.next().ok_or(SignatureError::HeaderMissing)?;
            out.extend_from_slice(first.as_bytes().trim_ascii());
            for value in values {
                out.extend_from_slice(b", ");
                out.extend_from_slice(value.as_bytes().trim_ascii());
            }
        }
        Ok(out)
    }

    /// Checks the MAC over the request with the key's secret, and that the request was made about now.
    pub(crate) fn verify(
        &self,
        secret: &str,
        method: &str,
        path_and_query: &str,
        request: &HeaderMap,
        now: DateTime<Utc>,
    ) -> Result<(), SignatureError> {
        let signed = self.signing_string(method, path_and_query, request)?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        // Constant in time.
        hmac::verify(&key, &signed, &self.mac).map_err(|_| SignatureError::Mismatch)?;
        let mut dates = request.get_all(http::header::DATE).iter();
        let date = dates.next().and_then(|d| d.to_str().ok()).ok_or(SignatureError::Date)?;
        if dates.next().is_some() {
            return Err(SignatureError::Date);
        }
        let sent = DateTime::parse_from_rfc2822(date.trim()).map_err(|_| SignatureError::Date)?;
        if (now - sent.with_timezone(&Utc)).abs() > TimeDelta::seconds(MAX_SKEW) {
            return Err(SignatureError::Skew);
        }
        Ok(())
    }
}

/// A quoted or bare value at the start of `text`, and what follows it. Escapes do not occur in these parameters.
fn value(text: &str) -> Option<(&str, &str)> {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split_once('"');
    }
    let end = text.find(',').unwrap_or(text.len());
    let (bare, rest) = text.split_at_checked(end)?;
    let bare = bare.trim_end();
    (!bare.is_empty() && !bare.contains('"')).then_some((bare, rest))
}

/// What a client sends: for tests.
#[cfg(test)]
pub(crate) fn sign(secret: &str, key_id: Uuid, names: &str, method: &str, path: &str, request: &HeaderMap) -> String {
    let unsigned = Signature { key_id, headers: names.split(' ').map(str::to_owned).collect(), mac: Vec::new() };
    let bytes = unsigned.signing_string(method, path, request).unwrap();
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), &bytes);
    format!(
        "Signature keyId=\"{key_id}\",algorithm=\"hmac-sha256\",headers=\"{names}\",signature=\"{}\"",
        BASE64.encode(tag.as_ref())
    )
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "0190a7b2-0000-7000-8000-000000000001";

    fn now() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    fn request() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("accept", HeaderValue::from_static("application/json"));
        headers.insert("date", HeaderValue::from_static("Sat, 21 Nov 2026 12:00:00 GMT"));
        headers
    }

    fn parse(header: &str) -> Result<Signature, SignatureError> {
        Signature::parse(header.strip_prefix("Signature ").unwrap())
    }

    /// Computed with Python: hmac.new(b"my-secret", b"(request-target): get /api/v1/users/users/?limit=1\naccept:
    /// application/json\ndate: Sat, 21 Nov 2026 12:00:00 GMT", sha256), base64: what `drf-httpsig` sends.
    #[test]
    fn a_signature_made_by_another_implementation_is_accepted() {
        let header = format!(
            "Signature keyId=\"{ID}\",algorithm=\"hmac-sha256\",headers=\"(request-target) accept \
             date\",signature=\"cImEqPJ3ENIf80TRt51TR5hp8iol9/fl3UdqQmeReb8=\""
        );
        let signature = parse(&header).unwrap();
        let path = "/api/v1/users/users/?limit=1";
        signature.verify("my-secret", "GET", path, &request(), now()).unwrap();
        for (secret, method, path) in [
            ("my-secreT", "GET", path),
            ("my-secret", "POST", path),
            ("my-secret", "GET", "/api/v1/users/users/?limit=2"),
        ] {
            assert_eq!(signature.verify(secret, method, path, &request(), now()), Err(SignatureError::Mismatch));
        }
        let mut changed = request();
        changed.insert("accept", HeaderValue::from_static("text/csv"));
        assert_eq!(signature.verify("my-secret", "GET", path, &changed, now()), Err(SignatureError::Mismatch));
        changed.remove("accept");
        assert_eq!(signature.verify("my-secret", "GET", path, &changed, now()), Err(SignatureError::HeaderMissing));
    }

    #[test]
    fn the_date_must_be_near_and_single() {
        let id = ID.parse().unwrap();
        let names = "(request-target) date";
        let header = sign("s", id, names, "GET", "/", &request());
        let signature = parse(&header).unwrap();
        for (shift, good) in [(299, true), (-299, true), (301, false), (-301, false)] {
            let result = signature.verify("s", "GET", "/", &request(), now() + TimeDelta::seconds(shift));
            assert_eq!(result.is_ok(), good, "{shift}");
        }
        let mut twice = request();
        twice.append("date", HeaderValue::from_static("Sat, 21 Nov 2026 12:00:01 GMT"));
        let header = sign("s", id, names, "GET", "/", &twice);
        assert_eq!(parse(&header).unwrap().verify("s", "GET", "/", &twice, now()), Err(SignatureError::Date));
        let mut odd = request();
        odd.insert("date", HeaderValue::from_static("yesterday"));
        let header = sign("s", id, names, "GET", "/", &odd);
        assert_eq!(parse(&header).unwrap().verify("s", "GET", "/", &odd, now()), Err(SignatureError::Date));
    }

    #[test]
    fn target_and_date_must_be_covered() {
        for names in ["accept date", "(request-target) accept", "", "accept"] {
            let header = format!("Signature keyId=\"{ID}\",headers=\"{names}\",signature=\"AAAA\"");
            assert_eq!(parse(&header), Err(SignatureError::NotCovered), "{names}");
        }
        let none = format!("Signature keyId=\"{ID}\",signature=\"AAAA\"");
        assert_eq!(parse(&none), Err(SignatureError::NotCovered), "the draft's default is date alone");
    }

    #[test]
    fn other_algorithms_and_broken_headers_are_refused() {
        let good = format!("keyId=\"{ID}\",headers=\"(request-target) date\",signature=\"AAAA\"");
        assert!(Signature::parse(&good).is_ok());
        assert!(Signature::parse(&format!("keyId={ID}, headers=\"(request-target) date\" , signature=AAAA")).is_ok());
        for algorithm in ["rsa-sha256", "hs2019", "none", "hmac-sha1", ""] {
            let header = format!("{good},algorithm=\"{algorithm}\"");
            assert_eq!(Signature::parse(&header), Err(SignatureError::Algorithm), "{algorithm}");
        }
        for broken in [
            "",
            "keyId",
            "keyId=",
            "keyId=\"",
            &format!("{good},keyId=\"{ID}\""),
            &good.replace(ID, "root"),
            &good.replace("AAAA", "!!!!"),
            &format!("{good} x"),
            &"a=b,".repeat(2_000),
        ] {
            assert!(Signature::parse(broken).is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn any_header_is_answered(text in ".{0,300}") {
            let _ = Signature::parse(&text);
        }

        #[test]
        fn any_parameters_are_answered(id in "[0-9a-f-]{0,40}", names in "[a-z() -]{0,60}", mac in "[A-Za-z0-9+/=]{0,60}", tail in ".{0,20}") {
            let text = format!("keyId=\"{id}\",headers=\"(request-target) date {names}\",signature=\"{mac}\"{tail}");
            if let Ok(signature) = Signature::parse(&text) {
                let _ = signature.verify("secret", "GET", "/", &request(), now());
            }
        }

        #[test]
        fn what_was_signed_verifies(secret in "[ -~]{1,60}", path in "/[a-z0-9/?=&%]{0,60}", accept in "[a-z/*+]{1,30}") {
            let mut headers = request();
            headers.insert("accept", HeaderValue::from_str(&accept).unwrap());
            let header = sign(&secret, ID.parse().unwrap(), "(request-target) accept date", "POST", &path, &headers);
            prop_assert!(parse(&header).unwrap().verify(&secret, "POST", &path, &headers, now()).is_ok());
            prop_assert!(parse(&header).unwrap().verify(&secret, "PUT", &path, &headers, now()).is_err());
        }
    }
}
