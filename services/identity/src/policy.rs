//! What a password must be like (A39). Pure.

use chrono::{DateTime, TimeDelta, Utc};
use gatehouse_model::common::Invalid;
use gatehouse_model::settings::Settings;
use gatehouse_model::user::{User, UserSource};

use crate::hash::MAX_PASSWORD_BYTES;

/// The rules for one user, also to be shown beside a password field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordPolicy {
    /// Characters.
    pub min_length: u16,
    pub upper_case: bool,
    pub lower_case: bool,
    pub number: bool,
    pub special_char: bool,
    /// So many earlier passwords may not come back.
    pub history: u16,
    /// Days until it expires; 0 is never.
    pub expires_after_days: u32,
}

impl PasswordPolicy {
    pub(crate) fn new(settings: &Settings, is_admin: bool) -> Self {
        let min_length = if is_admin {
            settings.security_admin_user_password_min_length.max(settings.security_password_min_length)
        } else {
            settings.security_password_min_length
        };
        Self {
            min_length,
            upper_case: settings.security_password_upper_case,
            lower_case: settings.security_password_lower_case,
            number: settings.security_password_number,
            special_char: settings.security_password_special_char,
            history: settings.old_password_history_limit_count,
            expires_after_days: settings.security_password_expiration_time,
        }
    }

    /// Everything that is wrong with a new password, as errors of the field `password`. History is checked elsewhere.
    pub fn check(&self, password: &str, user: &User) -> Result<(), Invalid> {
        const FIELD: &str = "password";
        let mut invalid = Invalid::default();
        let length = password.chars().count();
        invalid.check(
            length >= usize::from(self.min_length),
            FIELD,
            format!("at least {} characters are needed", self.min_length),
        );
        invalid.check(
            password.len() <= MAX_PASSWORD_BYTES,
            FIELD,
            format!("no more than {MAX_PASSWORD_BYTES} bytes are allowed"),
        );
        let has = |class: fn(char) -> bool| password.chars().any(class);
        invalid.check(!self.upper_case || has(char::is_uppercase), FIELD, "an upper-case letter is needed");
        invalid.check(!self.lower_case || has(char::is_lowercase), FIELD, "a lower-case letter is needed");
        invalid.check(!self.number || has(char::is_numeric), FIELD, "a digit is needed");
        let special = |c: char| !c.is_alphanumeric() && !c.is_whitespace();
        invalid.check(!self.special_char || has(special), FIELD, "a special character is needed");
        invalid.check(!has(char::is_control), FIELD, "control characters are not allowed");
        let lower = password.to_lowercase();
        for own in [&user.username, &user.email] {
            let own = own.to_lowercase();
            invalid.check(own.is_empty() || lower != own, FIELD, "it must not be the user name or the mail address");
        }
        invalid.into_result()
    }
}

/// When the password stops to be valid; `None`: never, or it is not ours.
pub(crate) fn expires(user: &User, settings: &Settings) -> Option<DateTime<Utc>> {
    let days = settings.security_password_expiration_time;
    if days == 0 || user.source != UserSource::Local {
        return None;
    }
    // One whose change nobody noted (imported users) is as old as its user.
    let since = user.date_password_last_updated.unwrap_or(user.meta.date_created);
    since.checked_add_signed(TimeDelta::days(i64::from(days)))
}

pub(crate) fn is_expired(user: &User, settings: &Settings, now: DateTime<Utc>) -> bool {
    expires(user, settings).is_some_and(|end| end <= now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    fn strict() -> PasswordPolicy {
        let settings = Settings { security_password_special_char: true, ..Settings::default() };
        PasswordPolicy::new(&settings, false)
    }

    fn complaints(password: &str) -> Vec<String> {
        let user = testing::user("alice");
        strict()
            .check(password, &user)
            .err()
            .map(|i| i.fields.into_iter().map(|(_, w)| w).collect())
            .unwrap_or_default()
    }

    #[test]
    fn every_missing_class_is_named() {
        assert_eq!(complaints("Correct-Horse-1"), Vec::<String>::new());
        assert_eq!(complaints("short-A1").len(), 1);
        assert_eq!(complaints("nouppercase-11"), ["an upper-case letter is needed"]);
        assert_eq!(complaints("NOLOWERCASE-11"), ["a lower-case letter is needed"]);
        assert_eq!(complaints("No-Digit-At-All"), ["a digit is needed"]);
        assert_eq!(complaints("NoSpecial1111x"), ["a special character is needed"]);
        assert_eq!(complaints("").len(), 5);
        assert_eq!(complaints(&format!("Aa1-{}", "x".repeat(2_000))).len(), 1);
        assert!(complaints("Alice@Example.com").iter().any(|w| w.contains("mail address")));
    }

    #[test]
    fn administrators_need_longer_ones_and_never_shorter() {
        let settings = Settings::default();
        assert_eq!(PasswordPolicy::new(&settings, false).min_length, 12);
        assert_eq!(PasswordPolicy::new(&settings, true).min_length, 14);
        let odd = Settings { security_password_min_length: 20, ..settings };
        assert_eq!(PasswordPolicy::new(&odd, true).min_length, 20);
    }

    #[test]
    fn expiry_counts_from_the_last_change_and_zero_is_never() {
        let now = testing::start();
        let mut user = testing::user("alice");
        user.date_password_last_updated = Some(now - TimeDelta::days(30));
        let mut settings = Settings::default();
        assert!(!is_expired(&user, &settings, now));
        settings.security_password_expiration_time = 31;
        assert!(!is_expired(&user, &settings, now));
        settings.security_password_expiration_time = 30;
        assert!(is_expired(&user, &settings, now));
        user.date_password_last_updated = None;
        assert!(is_expired(&user, &settings, now + TimeDelta::days(30)), "counted from the user's making");
        user.source = UserSource::Ldap;
        assert!(!is_expired(&user, &settings, now), "passwords of other systems expire there");
    }
}
