//! Accounts on assets, the templates they are made from, and their secrets (records of their own, never cached).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::asset::{Connectivity, unknown_connectivity, yes};
use crate::choices;
use crate::common::{Invalid, Meta, Validate, check_name};
use crate::record::{Index, org_record};

choices! {
    pub enum SecretType {
        Password = "password", "Password";
        SshKey = "ssh_key", "SSH key";
        AccessKey = "access_key", "Access key";
        Token = "token", "Token";
        ApiKey = "api_key", "API key";
    }
}

choices! {
    pub enum AccountSource {
        Local = "local", "Local";
        Collected = "collected", "Collected";
        Template = "template", "Template";
    }
}

choices! {
    pub enum SecretStrategy {
        Specific = "specific", "Specific secret";
        Random = "random", "Random generate";
    }
}

/// A log-in on one asset. Its secret is in `Secret` under the same id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub id: Uuid,
    pub org_id: Uuid,
    pub asset: Uuid,
    pub name: String,
    pub username: String,
    pub secret_type: SecretType,
    #[serde(default)]
    pub has_secret: bool,
    /// Used by automation to manage the asset's other accounts.
    #[serde(default)]
    pub privileged: bool,
    #[serde(default = "yes")]
    pub is_active: bool,
    /// Log in as that account and switch to this one with the platform's method.
    #[serde(default)]
    pub su_from: Option<Uuid>,
    #[serde(default)]
    pub source: Option<AccountSource>,
    /// The template it was made from.
    #[serde(default)]
    pub source_id: Option<Uuid>,
    /// Counts changes of the secret.
    #[serde(default)]
    pub version: u32,
    #[serde(default = "yes")]
    pub secret_reset: bool,
    #[serde(default = "unknown_connectivity")]
    pub connectivity: Connectivity,
    #[serde(default)]
    pub date_verified: Option<DateTime<Utc>>,
    #[serde(default)]
    pub date_last_login: Option<DateTime<Utc>>,
    #[serde(default)]
    pub login_by: Option<String>,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(Account, "account", |record| {
    let asset = record.asset.as_bytes();
    let login = Index::compound(&[asset, record.username.as_bytes(), record.secret_type.as_str().as_bytes()]);
    vec![
        Index::unique("login", login),
        Index::unique("name", Index::compound(&[asset, record.name.as_bytes()])),
        Index::many("asset", *asset),
    ]
});

impl Validate for Account {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        check_account_username(&mut invalid, &self.username);
        invalid.check(self.su_from != Some(self.id), "su_from", "an account cannot switch from itself");
        invalid.into_result()
    }
}

/// Account names are typed at prompts and in `su`: nothing that a shell or a line discipline would act on.
pub fn check_account_username(invalid: &mut Invalid, username: &str) {
    let forbidden = ['{', '[', '\'', '"', '`', ';', '|', '<', '>', '$', '&'];
    invalid.check(
        !username.contains(forbidden) && !username.chars().any(char::is_control) && !username.starts_with(['-', '@']),
        "username",
        "control characters, a leading - or @, and any of { [ ' \" ` ; | < > $ & are not allowed",
    );
    invalid.check(username.chars().count() <= 128, "username", "ensure this field has no more than 128 characters");
}

/// The secret of an account or of an account template, under the same id as its owner.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secret {
    pub id: Uuid,
    pub org_id: Uuid,
    pub secret: String,
    #[serde(default)]
    pub passphrase: Option<String>,
}

org_record!(Secret, "secret", uncached);

impl Drop for Secret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.secret);
        zeroize::Zeroize::zeroize(&mut self.passphrase);
    }
}

/// One log-in definition that many accounts are made from (C05).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountTemplate {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    pub username: String,
    pub secret_type: SecretType,
    pub secret_strategy: SecretStrategy,
    #[serde(default)]
    pub password_rules: PasswordRules,
    #[serde(default)]
    pub has_secret: bool,
    #[serde(default)]
    pub privileged: bool,
    #[serde(default = "yes")]
    pub is_active: bool,
    /// Another template whose account on the same asset is the one to switch from.
    #[serde(default)]
    pub su_from: Option<Uuid>,
    /// Push accounts made from it at once (needs the automation of a later release; kept for the API).
    #[serde(default)]
    pub auto_push: bool,
    /// Platforms it is pushed to.
    #[serde(default)]
    pub platforms: Vec<Uuid>,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(AccountTemplate, "account_template", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for AccountTemplate {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        check_account_username(&mut invalid, &self.username);
        invalid.into_result()
    }
}

/// How a random password is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordRules {
    /// Characters, 8 to 128.
    pub length: u16,
    pub uppercase: bool,
    pub lowercase: bool,
    pub digit: bool,
    pub symbol: bool,
    #[serde(default)]
    pub exclude_symbols: String,
}

impl Default for PasswordRules {
    fn default() -> Self {
        Self { length: 30, uppercase: true, lowercase: true, digit: true, symbol: true, exclude_symbols: String::new() }
    }
}
