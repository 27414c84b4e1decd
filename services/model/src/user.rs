//! Users, their groups and keys. Password hashes and TOTP secrets are records of their own that are never cached.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::choices;
use crate::common::{Invalid, Meta, Validate, check_name};
use crate::net::IpGroup;
use crate::record::{Index, org_record, system_record};

choices! {
    /// Where the user's password is checked.
    pub enum UserSource {
        Local = "local", "Database";
        Ldap = "ldap", "LDAP/AD";
        LdapHa = "ldap_ha", "LDAP/AD (HA)";
        Openid = "openid", "OpenID";
        Radius = "radius", "Radius";
        Cas = "cas", "CAS";
        Saml2 = "saml2", "SAML2";
        Oauth2 = "oauth2", "OAuth2";
        Wecom = "wecom", "WeCom";
        Dingtalk = "dingtalk", "DingTalk";
        Feishu = "feishu", "FeiShu";
        Lark = "lark", "Lark";
        Slack = "slack", "Slack";
        Custom = "custom", "Custom";
    }
}

choices! {
    /// The user's own second-factor setting: 0 off, 1 on, 2 forced by an administrator.
    pub enum MfaLevel {
        Off = "0", "Disabled";
        On = "1", "Enabled";
        Forced = "2", "Force enabled";
    }
}

choices! {
    pub enum Lang {
        En = "en", "English";
        ZhHans = "zh-hans", "中文(简体)";
        Ja = "ja", "日本語";
    }
}

/// Membership of an organization with one role; several make several entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct OrgRole {
    pub org: Uuid,
    pub role: Uuid,
}

/// A person (or service account) of the whole system; organizations see the users that hold a role in them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct User {
    pub id: Uuid,
    /// Log-in name: unique without regard to case.
    pub username: String,
    /// Shown name; may repeat.
    pub name: String,
    pub email: String,
    #[serde(default)]
    pub phone: String,
    #[serde(default)]
    pub wechat: String,
    pub source: UserSource,
    pub mfa_level: MfaLevel,
    /// A TOTP secret is enrolled (the secret itself is in `UserSecret`).
    #[serde(default)]
    pub otp_enrolled: bool,
    pub is_active: bool,
    #[serde(default)]
    pub is_service_account: bool,
    pub date_expired: DateTime<Utc>,
    #[serde(default)]
    pub date_password_last_updated: Option<DateTime<Utc>>,
    #[serde(default)]
    pub need_update_password: bool,
    #[serde(default)]
    pub is_first_login: bool,
    #[serde(default)]
    pub last_login: Option<DateTime<Utc>>,
    #[serde(default)]
    pub lang: Option<Lang>,
    #[serde(default)]
    pub system_roles: Vec<Uuid>,
    #[serde(default)]
    pub org_roles: Vec<OrgRole>,
    #[serde(flatten)]
    pub meta: Meta,
}

impl User {
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.date_expired <= now
    }

    /// May act now: neither disabled nor past its end.
    pub fn is_valid(&self, now: DateTime<Utc>) -> bool {
        self.is_active && !self.is_expired(now)
    }

    pub fn orgs(&self) -> BTreeSet<Uuid> {
        self.org_roles.iter().map(|r| r.org).collect()
    }

    pub fn is_member_of(&self, org: Uuid) -> bool {
        self.org_roles.iter().any(|r| r.org == org)
    }

    /// How logs and JumpServer's session rows name a user: `Name(username)`.
    pub fn display(&self) -> String {
        format!("{}({})", self.name, self.username)
    }
}

system_record!(User, "user", |record| vec![
    Index::unique("username", record.username.to_lowercase()),
    Index::unique("email", record.email.to_lowercase())
]);

impl Validate for User {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        check_name(&mut invalid, "username", &self.username);
        // `@` and `#` separate the parts of a direct log-in, and `JMS-` announces a connection token.
        let reserved = |c: char| matches!(c, '@' | '#' | '/' | '\\' | ':') || c.is_whitespace();
        invalid.check(
            !self.username.contains(reserved)
                || self.source != UserSource::Local && !self.username.contains(char::is_whitespace),
            "username",
            "blanks and the characters @ # / \\ : are not allowed",
        );
        invalid.check(!self.username.starts_with("JMS-"), "username", "JMS- announces a connection token");
        let mail_ok =
            self.email.split_once('@').is_some_and(|(l, d)| !l.is_empty() && d.contains('.') || d == "localhost");
        invalid.check(
            mail_ok && self.email.len() <= 254 && !self.email.contains(|c: char| c.is_whitespace() || c.is_control()),
            "email",
            "enter a valid email address",
        );
        invalid.into_result()
    }
}

/// What proves a user to us. Encrypted like everything, and decoded only while a log-in is checked.
#[derive(Clone, Serialize, Deserialize)]
pub struct UserSecret {
    /// The user's id.
    pub id: Uuid,
    /// PHC string, Argon2id. `None`: no password log-in until one is set.
    pub password_hash: Option<String>,
    /// Hashes of earlier passwords, newest first, for the "last N not reusable" rule.
    #[serde(default)]
    pub password_history: Vec<String>,
    /// Base32 TOTP secret; enrolled only when the user has proven a code (`User::otp_enrolled`).
    #[serde(default)]
    pub otp_secret: Option<String>,
    /// The last accepted TOTP step: a code works once.
    #[serde(default)]
    pub otp_last_step: u64,
}

system_record!(UserSecret, "user_secret", uncached);

/// A public key with which a user logs in over SSH.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SshKey {
    pub id: Uuid,
    pub user: Uuid,
    pub name: String,
    /// One line in OpenSSH form: algorithm, base64.
    pub public_key: String,
    /// `SHA256:…`
    pub fingerprint: String,
    pub is_active: bool,
    #[serde(default)]
    pub date_last_used: Option<DateTime<Utc>>,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(SshKey, "ssh_key", |record| vec![
    Index::many("user", *record.user.as_bytes()),
    // Two users with one key cannot be told apart.
    Index::unique("fingerprint", record.fingerprint.as_bytes()),
]);

/// An SSH certificate authority whose user certificates are accepted for log-in to Gatehouse.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrustedUserCa {
    pub id: Uuid,
    pub name: String,
    pub public_key: String,
    pub fingerprint: String,
    pub is_active: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(TrustedUserCa, "trusted_user_ca", |record| vec![Index::unique(
    "fingerprint",
    record.fingerprint.as_bytes()
)]);

/// A set of users of one organization that grants and rules name together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserGroup {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    #[serde(default)]
    pub users: Vec<Uuid>,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(UserGroup, "user_group", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for UserGroup {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        invalid.into_result()
    }
}

/// Key pair for HTTP Signature (X02). The secret must be known in clear to check an HMAC, so the record is never cached.
#[derive(Clone, Serialize, Deserialize)]
pub struct AccessKey {
    /// The key id.
    pub id: Uuid,
    pub user: Uuid,
    pub secret: String,
    pub is_active: bool,
    /// Addresses that may use it; `*` is everywhere.
    pub ip_group: IpGroup,
    pub date_created: DateTime<Utc>,
    #[serde(default)]
    pub date_last_used: Option<DateTime<Utc>>,
}

system_record!(AccessKey, "access_key", uncached, |record| vec![Index::many("user", *record.user.as_bytes())]);

choices! {
    /// What kind of bearer secret a stored hash stands for.
    pub enum ApiTokenKind {
        Private = "private", "Private token";
        Bearer = "bearer", "Bearer token";
        Cookie = "cookie", "Browser session";
    }
}

/// A bearer secret, kept as its SHA-256 only: nobody can list or replay it (CVE-2025-62712).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ApiToken {
    pub id: Uuid,
    pub user: Uuid,
    pub kind: ApiTokenKind,
    /// SHA-256 of a secret of 256 random bits; such a secret needs no slow hash.
    pub hash: [u8; 32],
    pub date_created: DateTime<Utc>,
    /// `None` for private tokens, which live until replaced.
    pub date_expired: Option<DateTime<Utc>>,
    #[serde(default)]
    pub remote_addr: String,
    #[serde(default)]
    pub user_agent: String,
    /// Until when secrets may be shown without a new second factor (A27).
    #[serde(default)]
    pub mfa_until: Option<DateTime<Utc>>,
}

system_record!(ApiToken, "api_token", |record| vec![
    Index::unique("hash", record.hash),
    Index::many("user", *record.user.as_bytes())
]);

/// A password that works once and for a short time (A44), kept as its Argon2id hash.
#[derive(Clone, Serialize, Deserialize)]
pub struct TempPassword {
    pub id: Uuid,
    pub user: Uuid,
    pub username: String,
    pub hash: String,
    pub verified: bool,
    pub date_created: DateTime<Utc>,
    pub date_expired: DateTime<Utc>,
    #[serde(default)]
    pub date_verified: Option<DateTime<Utc>>,
}

system_record!(TempPassword, "temp_password", uncached, |record| vec![Index::many("user", *record.user.as_bytes())]);

/// Failed log-ins of a user name or an address. Kept in the store so that a restart does not lift a lock.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoginFailures {
    pub id: Uuid,
    /// `user:<name in lower case>` or `ip:<address>`.
    pub subject: String,
    pub count: u32,
    pub first: DateTime<Utc>,
    pub blocked_until: Option<DateTime<Utc>>,
}

system_record!(LoginFailures, "login_failures", |record| vec![Index::unique("subject", record.subject.as_bytes())]);
