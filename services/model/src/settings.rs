//! Settings that are changed live. One record, typed, with a default for every field; JumpServer's names.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::choices;
use crate::common::{Invalid, Validate};
use crate::net::IpGroup;
use crate::record::{Record, SystemRecord, system_record};

choices! {
    /// Who must use a second factor.
    pub enum MfaPolicy {
        Off = "0", "Disabled";
        All = "1", "All users";
        Admins = "2", "Only administrators";
    }
}

choices! {
    pub enum SortAssets {
        Name = "name", "Host name";
        Ip = "ip", "IP";
    }
}

/// The only record of its kind.
pub const SETTINGS_ID: Uuid = Uuid::from_u128(1);

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $t:ty = $default:expr;)+) => {
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "SCREAMING_SNAKE_CASE", default)]
        pub struct Settings { $($(#[$doc])* pub $name: $t,)+ }

        impl Default for Settings {
            fn default() -> Self { Self { $($name: $default,)+ } }
        }
    };
}

settings! {
    // Basic (Y02)
    site_url: String = "https://127.0.0.1:8443".into();
    announcement_enabled: bool = false;
    announcement: String = String::new();
    // Second factor (A22, A27, A28)
    security_mfa_auth: MfaPolicy = MfaPolicy::Off;
    otp_issuer_name: String = "Gatehouse".into();
    /// Steps of 30 s accepted before and after now, 0 to 10.
    otp_valid_window: u8 = 1;
    /// Seconds for which a verified second factor opens secrets.
    security_mfa_verify_ttl: u32 = 600;
    security_view_auth_need_mfa: bool = true;
    // Lock-out (A33-A35)
    /// Failures of one user before the lock, 3 to 100.
    security_login_limit_count: u32 = 7;
    /// Minutes, 5 to 99999.
    security_login_limit_time: u32 = 30;
    security_login_ip_limit_count: u32 = 50;
    security_login_ip_limit_time: u32 = 30;
    security_login_ip_white_list: IpGroup = IpGroup::default();
    security_login_ip_black_list: IpGroup = IpGroup::default();
    /// A new browser log-in ends the earlier one (A36).
    user_login_single_machine_enabled: bool = false;
    only_allow_exist_user_auth: bool = false;
    only_allow_auth_from_source: bool = true;
    /// Days without log-in after which a user is disabled; 999 and more is never (A31).
    security_uncommon_users_ttl: u32 = 90;
    // Passwords (A39)
    /// Days; 0 is never.
    security_password_expiration_time: u32 = 0;
    security_password_min_length: u16 = 12;
    security_admin_user_password_min_length: u16 = 14;
    security_password_upper_case: bool = true;
    security_password_lower_case: bool = true;
    security_password_number: bool = true;
    security_password_special_char: bool = false;
    old_password_history_limit_count: u16 = 5;
    // Temporary password and tokens (A44, X10)
    auth_temp_token: bool = false;
    /// Seconds.
    auth_temp_token_ttl: u32 = 300;
    /// Seconds a one-time connection token lives.
    connection_token_onetime_expiration: u32 = 300;
    connection_token_reusable: bool = false;
    /// Seconds a reusable connection token lives.
    connection_token_reusable_expiration: u32 = 2_592_000;
    /// Seconds a browser session lives.
    session_cookie_age: u32 = 86_400;
    /// Seconds a bearer token lives.
    token_expiration: u32 = 3_600;
    // SSH door (A42, Y22, P07)
    terminal_password_auth: bool = true;
    terminal_public_key_auth: bool = true;
    /// Key and then password, both (koko: FORCE_MULTI_AUTH).
    terminal_force_multi_auth: bool = false;
    terminal_asset_list_sort_by: SortAssets = SortAssets::Name;
    /// Rows per page of the menu; 0 follows the terminal's height.
    terminal_asset_list_page_size: u16 = 0;
    enable_local_port_forward: bool = false;
    // Session limits (P73)
    /// Minutes without input, 1 to 99999.
    security_max_idle_time: u32 = 30;
    /// Hours, 1 to 99999.
    security_max_session_time: u32 = 24;
    // Recording and files (U09)
    /// MiB of a file's content kept for audit; 0 keeps none.
    ftp_file_max_store: u32 = 100;
    /// KiB of a command's output kept in its row; the recording always holds all.
    command_output_limit: u32 = 64;
    // Retention in days (Y40); 0 keeps for ever
    login_log_keep_days: u32 = 365;
    operate_log_keep_days: u32 = 365;
    ftp_log_keep_days: u32 = 365;
    terminal_session_keep_duration: u32 = 365;
    password_change_log_keep_days: u32 = 999;
    // Mail (N02)
    email_host: String = String::new();
    email_port: u16 = 587;
    email_host_user: String = String::new();
    email_from: String = String::new();
    email_security_protocol: String = "starttls".into();
    // Accounts
    /// Addresses of proxies in front of the web door whose X-Forwarded-For is believed (CVE-2023-46123).
    trusted_proxies: IpGroup = IpGroup::default();
}

impl Record for Settings {
    const KIND: &'static str = "settings";
    fn id(&self) -> Uuid {
        SETTINGS_ID
    }
}
impl SystemRecord for Settings {}

impl Validate for Settings {
    fn validate(&self) -> Result<(), Invalid> {
        let mut i = Invalid::default();
        i.check(self.otp_valid_window <= 10, "OTP_VALID_WINDOW", "between 0 and 10 steps");
        i.check(
            (3..=100).contains(&self.security_login_limit_count),
            "SECURITY_LOGIN_LIMIT_COUNT",
            "between 3 and 100",
        );
        i.check(
            (5..=99_999).contains(&self.security_login_limit_time),
            "SECURITY_LOGIN_LIMIT_TIME",
            "between 5 and 99999 minutes",
        );
        i.check(self.security_login_ip_limit_count >= 3, "SECURITY_LOGIN_IP_LIMIT_COUNT", "at least 3");
        i.check(
            (5..=99_999).contains(&self.security_login_ip_limit_time),
            "SECURITY_LOGIN_IP_LIMIT_TIME",
            "between 5 and 99999 minutes",
        );
        for (field, length) in [
            ("SECURITY_PASSWORD_MIN_LENGTH", self.security_password_min_length),
            ("SECURITY_ADMIN_USER_PASSWORD_MIN_LENGTH", self.security_admin_user_password_min_length),
        ] {
            i.check((8..=64).contains(&length), field, "between 8 and 64 characters");
        }
        i.check(self.old_password_history_limit_count <= 24, "OLD_PASSWORD_HISTORY_LIMIT_COUNT", "at most 24");
        i.check(
            (1..=99_999).contains(&self.security_max_idle_time),
            "SECURITY_MAX_IDLE_TIME",
            "between 1 and 99999 minutes",
        );
        i.check(
            (1..=99_999).contains(&self.security_max_session_time),
            "SECURITY_MAX_SESSION_TIME",
            "between 1 and 99999 hours",
        );
        i.check((60..=3_600).contains(&self.auth_temp_token_ttl), "AUTH_TEMP_TOKEN_TTL", "between 60 and 3600 seconds");
        i.check(
            (30..=86_400).contains(&self.connection_token_onetime_expiration),
            "CONNECTION_TOKEN_ONETIME_EXPIRATION",
            "between 30 and 86400 seconds",
        );
        i.check(
            (300..=31_536_000).contains(&self.session_cookie_age),
            "SESSION_COOKIE_AGE",
            "between 300 seconds and a year",
        );
        i.check((60..=86_400).contains(&self.token_expiration), "TOKEN_EXPIRATION", "between 60 and 86400 seconds");
        i.check(
            ["none", "starttls", "tls"].contains(&self.email_security_protocol.as_str()),
            "EMAIL_SECURITY_PROTOCOL",
            "none, starttls or tls",
        );
        i.into_result()
    }
}

/// The password of the mail account; apart so that settings can be cached and shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct MailSecret {
    pub id: Uuid,
    pub password: String,
}

system_record!(MailSecret, "mail_secret", uncached);
