//! `accounts/account-templates` (C05): one log-in definition that many accounts are made from.

use async_trait::async_trait;
use gatehouse_model::account::{AccountTemplate, PasswordRules, Secret, SecretStrategy, SecretType};
use gatehouse_model::common::{Invalid, Validate};
use serde_json::json;

use crate::engine::Resource;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, boolean, choice, json as json_field, many, related, secret, text};
use crate::engine::related::Target;
use crate::engine::table::Hooks;
use crate::problem::Problem;

struct Templates;

#[async_trait]
impl Hooks<AccountTemplate> for Templates {
    fn validate(&self, row: &AccountTemplate) -> Result<(), Invalid> {
        let mut invalid = row.validate().err().unwrap_or_default();
        let rules = &row.password_rules;
        invalid.check((8..=128).contains(&rules.length), "password_rules", "length: between 8 and 128");
        invalid.check(
            rules.uppercase || rules.lowercase || rules.digit || rules.symbol,
            "password_rules",
            "choose at least one class of characters",
        );
        invalid.check(row.su_from != Some(row.id), "su_from", "a template cannot switch from itself");
        invalid.check(!row.auto_push, "auto_push", "pushing accounts to assets is not part of this version");
        invalid.into_result()
    }

    fn name(&self, row: &AccountTemplate) -> String {
        row.name.clone()
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut AccountTemplate,
        old: Option<&AccountTemplate>,
        input: &Input,
    ) -> Result<(), Problem> {
        if old.is_some_and(|o| o.secret_type != new.secret_type && o.has_secret) && input.filled("secret").is_none() {
            return Err(Problem::field("secret", "give a secret of the new type"));
        }
        if let Some(text) = input.filled("secret") {
            let passphrase = input.filled("passphrase").map(str::to_owned);
            super::accounts::check_secret(new.secret_type, text, passphrase.as_deref())?;
            new.has_secret = true;
            change.upsert(Secret { id: new.id, org_id: new.org_id, secret: text.to_owned(), passphrase })?;
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &AccountTemplate) -> Result<(), Problem> {
        for other in change.list::<AccountTemplate>()?.iter().filter(|t| t.su_from == Some(row.id)) {
            change.edit::<AccountTemplate>(other.id, |t| t.su_from = None)?;
        }
        change.delete::<Secret>(row.id)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        text("username", "Username").default(|| json!("")),
        choice("secret_type", "Secret type", SecretType::CHOICES).default(|| json!("password")),
        choice("secret_strategy", "Secret strategy", SecretStrategy::CHOICES).default(|| json!("specific")),
        json_field("password_rules", "Password rules").default(|| json!(PasswordRules::default())),
        secret("secret", "Secret"),
        secret("passphrase", "Passphrase"),
        boolean("has_secret", "Has secret").read_only(),
        boolean("privileged", "Privileged").default(|| json!(false)),
        boolean("is_active", "Active").default(|| json!(true)),
        related("su_from", "Su from", Target::AccountTemplate).nullable(),
        boolean("auto_push", "Auto push").default(|| json!(false)),
        many("platforms", "Platforms", Target::Platform).default(|| json!([])),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    vec![
        Resource::new::<AccountTemplate, Templates>(
            "accounts",
            "account-templates",
            "accounttemplate",
            "Account template",
            fields,
            Templates,
        )
        .search(&["name", "username", "comment"]),
    ]
}
