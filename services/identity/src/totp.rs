//! Time-based one-time passwords (RFC 6238 with HMAC-SHA-1, 6 digits, 30 s: what every authenticator app knows). Pure:
//! time and the last accepted step come in. What must not be here: who must have one, and where the secret lies.

use aws_lc_rs::hmac;
use chrono::{DateTime, Utc};
use data_encoding::BASE32_NOPAD_NOCASE;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// Seconds of one step.
const STEP: u64 = 30;
const DIGITS: u32 = 6;

/// The step of an instant; times before 1970 are step 0.
fn step_at(at: DateTime<Utc>) -> u64 {
    u64::try_from(at.timestamp()).unwrap_or(0) / STEP
}

/// RFC 4226 section 5.3.
fn code(key: &hmac::Key, step: u64) -> [u8; 6] {
    let tag = hmac::sign(key, &step.to_be_bytes());
    let tag = tag.as_ref();
    let offset = usize::from(tag.last().copied().unwrap_or(0) & 0x0f);
    let mut word = [0_u8; 4];
    for (to, from) in word.iter_mut().zip(tag.iter().skip(offset)) {
        *to = *from;
    }
    let mut number = (u32::from_be_bytes(word) & 0x7fff_ffff) % 10_u32.pow(DIGITS);
    let mut text = [b'0'; 6];
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    text
}

fn key(secret_base32: &str) -> Option<hmac::Key> {
    let raw = Zeroizing::new(BASE32_NOPAD_NOCASE.decode(secret_base32.trim_end_matches('=').as_bytes()).ok()?);
    // RFC 4226 section 4, R6: at least 128 bits.
    (raw.len() >= 16).then(|| hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &raw))
}

/// The step that `typed` is the code of, if it lies within `window` steps of now and after `last_step`: a step is
/// accepted once, and never an older one after it (RFC 6238 section 5.2). Blanks that apps show inside a code are
/// ignored. All steps of the window are computed and compared in constant time, whichever matches.
pub(crate) fn accept(secret_base32: &str, typed: &str, now: DateTime<Utc>, window: u8, last_step: u64) -> Option<u64> {
    // An unbounded window would make every code right; settings are checked, the stored value is not trusted.
    let window = u64::from(window.min(10));
    let typed: Vec<u8> = typed.bytes().filter(|b| !b.is_ascii_whitespace()).take(7).collect();
    let key = key(secret_base32)?;
    let current = step_at(now);
    let mut found = None;
    for step in current.saturating_sub(window)..=current.saturating_add(window) {
        let matches: bool = typed.as_slice().ct_eq(code(&key, step).as_slice()).into();
        if matches && step > last_step {
            found = Some(step);
        }
    }
    found
}

/// `otpauth://` URI for the QR code of an authenticator app (Key URI Format). Carries the secret.
pub(crate) fn uri(issuer: &str, account: &str, secret_base32: &str) -> Zeroizing<String> {
    let (issuer, account) = (percent(issuer), percent(account));
    Zeroizing::new(format!(
        "otpauth://totp/{issuer}:{account}?secret={secret_base32}&issuer={issuer}&algorithm=SHA1&digits={DIGITS}\
         &period={STEP}"
    ))
}

/// RFC 3986 percent-encoding of everything but unreserved characters.
fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The code that an app would show: for tests of everything that asks for one.
#[cfg(test)]
pub(crate) fn code_at(secret_base32: &str, at: DateTime<Utc>) -> String {
    String::from_utf8(code(&key(secret_base32).unwrap(), step_at(at)).to_vec()).unwrap()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The key of RFC 6238 appendix B, `12345678901234567890`.
    const RFC_SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn the_vectors_of_rfc_6238_hold() {
        for (time, eight) in [
            (59, "94287082"),
            (1_111_111_109, "07081804"),
            (1_111_111_111, "14050471"),
            (1_234_567_890, "89005924"),
            (2_000_000_000, "69279037"),
            (20_000_000_000, "65353130"),
        ] {
            assert_eq!(code_at(RFC_SECRET, at(time)), &eight[2..]);
        }
    }

    #[test]
    fn a_step_is_accepted_once_and_no_older_one_after_it() {
        let now = at(1_111_111_111);
        let code = code_at(RFC_SECRET, now);
        let step = accept(RFC_SECRET, &code, now, 1, 0).unwrap();
        assert_eq!(accept(RFC_SECRET, &code, now, 1, step), None);
        let before = code_at(RFC_SECRET, at(1_111_111_111 - 30));
        assert!(accept(RFC_SECRET, &before, now, 1, 0).is_some());
        assert_eq!(accept(RFC_SECRET, &before, now, 1, step), None);
    }

    #[test]
    fn the_window_is_what_the_setting_says_and_at_most_ten() {
        let now = at(1_111_111_111);
        let old = code_at(RFC_SECRET, at(1_111_111_111 - 60));
        assert_eq!(accept(RFC_SECRET, &old, now, 1, 0), None);
        assert!(accept(RFC_SECRET, &old, now, 2, 0).is_some());
        let ancient = code_at(RFC_SECRET, at(1_111_111_111 - 30 * 11));
        assert_eq!(accept(RFC_SECRET, &ancient, now, 255, 0), None);
    }

    #[test]
    fn blanks_are_ignored_and_anything_else_is_wrong() {
        let now = at(1_111_111_111);
        let code = code_at(RFC_SECRET, now);
        let spaced = format!(" {} {} ", &code[..3], &code[3..]);
        assert!(accept(RFC_SECRET, &spaced, now, 0, 0).is_some());
        for wrong in ["", "1", "0000000", "abcdef", &format!("{code}0"), "００００００"] {
            assert_eq!(accept(RFC_SECRET, wrong, now, 0, 0), None, "{wrong}");
        }
        assert_eq!(accept("", &code, now, 0, 0), None);
        assert_eq!(accept("MFRGG", &code, now, 0, 0), None, "a short secret is refused");
    }

    #[test]
    fn the_uri_is_encoded() {
        let uri = uri("Gate house", "a&b@x", "ABC");
        assert!(uri.starts_with("otpauth://totp/Gate%20house:a%26b%40x?secret=ABC&issuer=Gate%20house&"), "{}", *uri);
    }

    proptest! {
        #[test]
        fn any_input_is_answered(secret in ".{0,80}", typed in ".{0,20}", seconds in any::<i32>(), window: u8, last: u64) {
            let _ = accept(&secret, &typed, at(i64::from(seconds)), window, last);
        }
    }
}
