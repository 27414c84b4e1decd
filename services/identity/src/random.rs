//! Random values: tokens, codes, ids and passwords made by `PasswordRules`. All of them come from the operating system
//! (CVE-2023-42820: a predictable generator made reset codes guessable). What must not be here: any generator that can
//! be seeded.

use std::collections::BTreeSet;

use data_encoding::BASE32_NOPAD;
use gatehouse_model::account::PasswordRules;
use gatehouse_model::common::Invalid;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::error::IdentityError;

const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
const DIGIT: &str = "0123456789";
/// Printable ASCII that neither quotes nor separates in shells, CSV or connection strings of common clients.
const SYMBOL: &str = "!#$%&()*+,-./:;<=>?@[]^_{}~";
const ALPHANUMERIC: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Fills `buffer` from the operating system's generator.
pub(crate) fn fill(buffer: &mut [u8]) -> Result<(), IdentityError> {
    aws_lc_rs::rand::fill(buffer).map_err(|_| IdentityError::Random)
}

/// `N` random bytes.
pub(crate) fn bytes<const N: usize>() -> Result<Zeroizing<[u8; N]>, IdentityError> {
    let mut out = Zeroizing::new([0_u8; N]);
    fill(out.as_mut())?;
    Ok(out)
}

/// A bearer secret: 256 random bits in hex.
pub(crate) fn token() -> Result<Zeroizing<String>, IdentityError> {
    let raw = bytes::<32>()?;
    Ok(Zeroizing::new(data_encoding::HEXLOWER.encode(raw.as_ref())))
}

/// A secret that a person may have to type: `length` characters of A-Z, a-z, 0-9 (5.95 bits each).
pub(crate) fn alphanumeric(length: usize) -> Result<Zeroizing<String>, IdentityError> {
    let set: Vec<char> = ALPHANUMERIC.chars().collect();
    let mut out = Zeroizing::new(String::with_capacity(length));
    for _ in 0..length {
        out.push(pick(&set)?);
    }
    Ok(out)
}

/// A TOTP secret: 160 random bits, the length that RFC 4226 section 4 recommends, in base32.
pub(crate) fn totp_secret() -> Result<Zeroizing<String>, IdentityError> {
    let raw = bytes::<20>()?;
    Ok(Zeroizing::new(BASE32_NOPAD.encode(raw.as_ref())))
}

/// A version 7 identifier for a record made at `now`.
pub(crate) fn id(now: chrono::DateTime<chrono::Utc>) -> Result<Uuid, IdentityError> {
    let random = bytes::<10>()?;
    let millis = u64::try_from(now.timestamp_millis()).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}

/// A password by the rules: every chosen class occurs at least once, each character is drawn without bias, and no
/// symbol of `exclude_symbols` is in it. Errors name the field of the rules that cannot be satisfied.
pub fn password(rules: &PasswordRules) -> Result<Zeroizing<String>, IdentityError> {
    let excluded: BTreeSet<char> = rules.exclude_symbols.chars().collect();
    let classes: Vec<Vec<char>> =
        [(rules.uppercase, UPPER), (rules.lowercase, LOWER), (rules.digit, DIGIT), (rules.symbol, SYMBOL)]
            .into_iter()
            .filter(|(wanted, _)| *wanted)
            .map(|(_, set)| set.chars().filter(|c| !excluded.contains(c)).collect())
            .collect();
    let mut invalid = Invalid::default();
    invalid.check((8..=128).contains(&rules.length), "length", "between 8 and 128 characters");
    invalid.check(!classes.is_empty(), "password_rules", "choose at least one kind of character");
    invalid.check(classes.iter().all(|c| !c.is_empty()), "exclude_symbols", "nothing is left of one kind of character");
    invalid.into_result()?;

    let all: Vec<char> = classes.iter().flatten().copied().collect();
    let length = usize::from(rules.length);
    let mut chars = Zeroizing::new(Vec::with_capacity(length));
    for class in &classes {
        chars.push(pick(class)?);
    }
    while chars.len() < length {
        chars.push(pick(&all)?);
    }
    // Fisher-Yates, so that the obligatory characters are not always in front.
    for i in (1..chars.len()).rev() {
        chars.swap(i, below(i + 1)?);
    }
    Ok(Zeroizing::new(chars.iter().collect()))
}

fn pick(set: &[char]) -> Result<char, IdentityError> {
    set.get(below(set.len())?).copied().ok_or(IdentityError::Random)
}

/// A number below `limit` (1 to 256) without modulo bias: bytes above the largest multiple are drawn again.
fn below(limit: usize) -> Result<usize, IdentityError> {
    if limit == 0 || limit > 256 {
        return Err(IdentityError::Random);
    }
    let usable = 256 - 256 % limit;
    loop {
        let [byte] = *bytes::<1>()?;
        if usize::from(byte) < usable {
            return Ok(usize::from(byte) % limit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_follow_their_rules() {
        let rules = PasswordRules { length: 12, exclude_symbols: "!#$%&".into(), ..PasswordRules::default() };
        for _ in 0..500 {
            let made = password(&rules).unwrap();
            assert_eq!(made.chars().count(), 12);
            assert!(made.chars().any(|c| c.is_ascii_uppercase()));
            assert!(made.chars().any(|c| c.is_ascii_lowercase()));
            assert!(made.chars().any(|c| c.is_ascii_digit()));
            assert!(made.chars().any(|c| SYMBOL.contains(c)));
            assert!(!made.contains(['!', '#', '$', '%', '&']));
        }
    }

    #[test]
    fn digits_only_uses_every_digit_about_equally() {
        let rules = PasswordRules {
            length: 100,
            uppercase: false,
            lowercase: false,
            symbol: false,
            ..PasswordRules::default()
        };
        let mut counts = [0_u32; 10];
        for _ in 0..200 {
            for c in password(&rules).unwrap().chars() {
                counts[c.to_digit(10).unwrap() as usize] += 1;
            }
        }
        // 2,000 expected each; seven standard deviations either side.
        assert!(counts.iter().all(|n| (1_700..2_300).contains(n)), "{counts:?}");
    }

    #[test]
    fn impossible_rules_are_named() {
        let none = PasswordRules {
            uppercase: false,
            lowercase: false,
            digit: false,
            symbol: false,
            ..PasswordRules::default()
        };
        assert!(password(&none).unwrap_err().to_string().contains("password_rules"));
        let short = PasswordRules { length: 3, ..PasswordRules::default() };
        assert!(password(&short).unwrap_err().to_string().contains("length"));
        let nothing_left = PasswordRules { exclude_symbols: SYMBOL.into(), ..PasswordRules::default() };
        assert!(password(&nothing_left).unwrap_err().to_string().contains("exclude_symbols"));
    }

    /// CVE-2023-42820: codes came from a generator whose seed had leaked. Ours come from the operating system only: no
    /// source file of this crate names another generator, and a sample holds no repetition.
    #[test]
    fn cve_2023_42820_codes_come_from_the_operating_system_only() {
        let seedable = ["rand", "::"].concat();
        let own = ["aws_lc_rs::", "rand", "::"].concat();
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = vec![dir];
        let mut seen = 0;
        while let Some(path) = files.pop() {
            if path.is_dir() {
                files.extend(std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap().replace(&own, "");
            assert!(!text.contains(&seedable), "{} uses another generator", path.display());
            seen += 1;
        }
        assert!(seen > 10, "the sources were found");
        let sample: BTreeSet<String> = (0..2_000).map(|_| token().unwrap().to_string()).collect();
        assert_eq!(sample.len(), 2_000);
        let codes: BTreeSet<String> = (0..2_000).map(|_| alphanumeric(24).unwrap().to_string()).collect();
        assert_eq!(codes.len(), 2_000);
    }
}
