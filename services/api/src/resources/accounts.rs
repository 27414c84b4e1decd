//! `accounts/accounts`, their secrets, bulk creation, virtual accounts (C01-C08).
//!
//! A secret is written here and shown by one route (`account-secrets/<id>/`), after a fresh second factor and with an
//! entry in the ledger. Earlier versions are not kept: a replaced secret is gone.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use gatehouse_model::account::{Account, AccountSource, AccountTemplate, Secret, SecretStrategy, SecretType};
use gatehouse_model::asset::{Asset, Connectivity, Platform};
use gatehouse_model::common::{Invalid, Meta, Validate};
use gatehouse_model::grant::alias;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_store::{AllOrgs, OrgFilter, Query as LedgerQuery};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::audit::{self, Action, MASK, Operation};
use crate::auth;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, boolean, choice, datetime, int, related, secret, text};
use crate::engine::related::Target;
use crate::engine::table::{Hooks, Predicate};
use crate::engine::{Resource, list};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

struct Accounts;

#[async_trait]
impl Hooks<Account> for Accounts {
    fn validate(&self, row: &Account) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Account) -> String {
        format!("{}({})", row.name, row.username)
    }

    fn candidates(&self, call: &Call) -> Result<Option<Vec<Arc<Account>>>, Problem> {
        match call.query.filled("asset").or_else(|| call.query.filled("asset_id")) {
            None => Ok(None),
            Some(asset) => {
                let asset: Uuid = asset.parse().unwrap_or_else(|_| Uuid::max());
                Ok(Some(call.reader().find::<Account>("asset", asset.as_bytes())?))
            }
        }
    }

    fn filter(&self, call: &Call, name: &str, value: &str) -> Result<Option<Predicate<Account>>, Problem> {
        let reader = call.reader();
        Ok(match name {
            "address" | "asset_name" => {
                let by_name = name == "asset_name";
                let assets: std::collections::HashSet<Uuid> = reader
                    .list::<Asset>()?
                    .iter()
                    .filter(|a| if by_name { a.name == value } else { a.address == value })
                    .map(|a| a.id)
                    .collect();
                Some(Box::new(move |a| assets.contains(&a.asset)))
            }
            "node" | "node_id" => {
                let node = value.parse().unwrap_or_else(|_| Uuid::max());
                let inside = super::assets::nodes_under(&reader, node, true)?;
                let assets: std::collections::HashSet<Uuid> = reader
                    .list::<Asset>()?
                    .iter()
                    .filter(|a| a.nodes.iter().any(|n| inside.contains(n)))
                    .map(|a| a.id)
                    .collect();
                Some(Box::new(move |a| assets.contains(&a.asset)))
            }
            _ => None,
        })
    }

    fn show(&self, call: &Call, row: &Account, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        if let Some(asset) = call.reader().get::<Asset>(row.asset)? {
            let platform = call.reader().get::<Platform>(asset.platform)?;
            out.insert(
                "asset".into(),
                json!({"id": asset.id, "name": asset.name, "address": asset.address,
                    "platform": platform.map(|p| json!({"id": p.id, "name": p.name}))}),
            );
        }
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Account,
        old: Option<&Account>,
        input: &Input,
    ) -> Result<(), Problem> {
        // Where an account belongs is what its secret is bound to.
        if old.is_some_and(|o| o.asset != new.asset) {
            return Err(Problem::field("asset", "an account stays on its asset; make another one there"));
        }
        if old.is_some_and(|o| o.secret_type != new.secret_type) && input.filled("secret").is_none() {
            return Err(Problem::field("secret", "give a secret of the new type"));
        }
        if let Some(template) = input.get("template").and_then(crate::engine::values::as_id) {
            from_template(change, new, template)?;
        }
        if new.name.is_empty() {
            new.name.clone_from(&new.username);
        }
        check_su_from(change, new)?;
        if let Some(text) = input.filled("secret") {
            let passphrase = input.filled("passphrase").map(str::to_owned);
            set_secret(change, new, text, passphrase)?;
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Account) -> Result<(), Problem> {
        let on_asset = change.reader.find::<Account>("asset", row.asset.as_bytes())?;
        for other in on_asset.iter().filter(|a| a.su_from == Some(row.id)) {
            change.edit::<Account>(other.id, |a| a.su_from = None)?;
        }
        change.delete::<Secret>(row.id)
    }
}

fn check_su_from(change: &Change<'_>, account: &Account) -> Result<(), Problem> {
    let Some(from) = account.su_from else { return Ok(()) };
    let mut seen = vec![account.id];
    let mut next = Some(from);
    // The chain must end, and stay on the asset.
    while let Some(id) = next {
        if seen.contains(&id) {
            return Err(Problem::field("su_from", "the accounts would switch from one another in a circle"));
        }
        seen.push(id);
        let found = change.get::<Account>(id)?.filter(|a| a.asset == account.asset);
        let found = found.ok_or_else(|| Problem::field("su_from", "choose another account of the same asset"))?;
        next = found.su_from;
    }
    Ok(())
}

/// A key is read before it is kept: one that cannot be used is refused where a person sees it.
pub(crate) fn check_secret(kind: SecretType, secret: &str, passphrase: Option<&str>) -> Result<(), Problem> {
    if secret.len() > 32 * 1024 {
        return Err(Problem::field("secret", "ensure this field has no more than 32768 bytes"));
    }
    match kind {
        SecretType::SshKey => {
            let key = russh::keys::decode_secret_key(secret, passphrase);
            key.map(drop).map_err(|e| Problem::field("secret", format!("this is not a usable private key: {e}")))
        }
        _ if secret.contains(['\n', '\r', '\0']) && kind == SecretType::Password => {
            Err(Problem::field("secret", "a password is one line"))
        }
        _ => Ok(()),
    }
}

pub(crate) fn set_secret(
    change: &mut Change<'_>,
    account: &mut Account,
    secret: &str,
    passphrase: Option<String>,
) -> Result<(), Problem> {
    check_secret(account.secret_type, secret, passphrase.as_deref())?;
    account.has_secret = true;
    account.version = account.version.saturating_add(1);
    account.connectivity = Connectivity::Unknown;
    account.date_verified = None;
    let (id, org_id) = (account.id, account.org_id);
    change.upsert(Secret { id, org_id, secret: secret.to_owned(), passphrase })
}

/// Takes user name, type and secret from a template (C04, C05).
fn from_template(change: &mut Change<'_>, account: &mut Account, template: Uuid) -> Result<(), Problem> {
    let found = change.get::<AccountTemplate>(template)?;
    let found = found.ok_or_else(|| Problem::field("template", "object does not exist"))?;
    account.username.clone_from(&found.username);
    account.secret_type = found.secret_type;
    account.privileged = found.privileged;
    account.source = Some(AccountSource::Template);
    account.source_id = Some(template);
    if account.name.is_empty() {
        account.name.clone_from(&found.name);
    }
    match found.secret_strategy {
        SecretStrategy::Random if found.secret_type == SecretType::Password => {
            let made = gatehouse_identity::random_password(&found.password_rules)?;
            set_secret(change, account, &made, None)
        }
        _ => match change.get::<Secret>(template)? {
            Some(kept) => set_secret(change, account, &kept.secret, kept.passphrase.clone()),
            None => Ok(()),
        },
    }
}

/// Accounts given inside an asset.
pub(crate) fn stage_with_asset(change: &mut Change<'_>, asset: &Asset, given: &[Value]) -> Result<(), Problem> {
    if given.len() > 200 {
        return Err(Problem::field("accounts", "at most 200 accounts at once"));
    }
    let fields = fields();
    for one in given {
        let Some(one) = one.as_object() else { return Err(Problem::field("accounts", "expected a list of objects")) };
        // An account that is shown in the asset comes back with the form; it is changed under accounts/accounts.
        if one.get("id").is_some() {
            continue;
        }
        let writable: Vec<field::Field> = fields.iter().filter(|f| f.name != "asset").cloned().collect();
        let input = crate::engine::write::read_input(&change.reader, &writable, one, true, false)
            .map_err(|p| Problem::field("accounts", p.sentence()))?;
        let mut account = blank(change, asset);
        if let Some(username) = input.text("username") {
            account.username = username.to_owned();
        }
        account.name = input.filled("name").unwrap_or(&account.username).to_owned();
        account.privileged = input.flag("privileged").unwrap_or(false);
        account.is_active = input.flag("is_active").unwrap_or(true);
        if let Some(kind) = input.text("secret_type").and_then(|t| t.parse().ok()) {
            account.secret_type = kind;
        }
        if let Some(template) = input.get("template").and_then(crate::engine::values::as_id) {
            from_template(change, &mut account, template)?;
        }
        if let Some(secret) = input.filled("secret") {
            set_secret(change, &mut account, secret, input.filled("passphrase").map(str::to_owned))?;
        }
        account.validate().map_err(|e| Problem::field("accounts", e.to_string()))?;
        stage_create(change, account);
    }
    Ok(())
}

fn blank(change: &Change<'_>, asset: &Asset) -> Account {
    Account {
        id: Uuid::now_v7(),
        org_id: asset.org_id,
        asset: asset.id,
        name: String::new(),
        username: String::new(),
        secret_type: SecretType::Password,
        has_secret: false,
        privileged: false,
        is_active: true,
        su_from: None,
        source: Some(AccountSource::Local),
        source_id: None,
        version: 0,
        secret_reset: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        date_last_login: None,
        login_by: None,
        meta: Meta::new(&change.call.user.display(), change.now),
    }
}

fn stage_create(change: &mut Change<'_>, account: Account) {
    let name = format!("{}({})", account.name, account.username);
    let mut operation =
        Operation::new(Action::Create, "Account", name, account.id).org(account.org_id).refs([account.asset]);
    if account.has_secret {
        operation = operation.changed("secret", &json!(MASK), &json!(MASK));
    }
    change.audit(operation);
    change.insert(account);
}

pub(crate) fn stage_delete(change: &mut Change<'_>, account: &Account) -> Result<(), Problem> {
    let name = format!("{}({})", account.name, account.username);
    change.audit(Operation::new(Action::Delete, "Account", name, account.id).org(account.org_id).refs([account.asset]));
    change.delete::<Secret>(account.id)?;
    change.delete::<Account>(account.id)
}

fn fields() -> Vec<field::Field> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").default(|| json!("")),
        text("username", "Username").default(|| json!("")),
        related("asset", "Asset", Target::Asset).required(),
        choice("secret_type", "Secret type", SecretType::CHOICES).default(|| json!("password")),
        secret("secret", "Secret"),
        secret("passphrase", "Passphrase"),
        related("template", "Template", Target::AccountTemplate).virtual_input().nullable(),
        boolean("has_secret", "Has secret").read_only(),
        boolean("privileged", "Privileged").default(|| json!(false)),
        boolean("is_active", "Active").default(|| json!(true)),
        related("su_from", "Su from", Target::Account).nullable(),
        boolean("secret_reset", "Secret reset").default(|| json!(true)),
        choice("source", "Source", AccountSource::CHOICES).read_only().default(|| json!("local")),
        field::Field::new("source_id", "Source ID", field::Kind::Uuid).read_only().no_export(),
        int("version", "Version", 0, i64::from(u32::MAX)).read_only(),
        choice("connectivity", "Connectivity", Connectivity::CHOICES).read_only(),
        datetime("date_verified", "Date verified").read_only(),
        datetime("date_last_login", "Date last login").read_only(),
        text("login_by", "Login by").read_only(),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    fields
}

pub(crate) fn resources() -> Vec<Resource> {
    vec![
        Resource::new::<Account, Accounts>("accounts", "accounts", "account", "Account", fields(), Accounts)
            .search(&["name", "username", "comment"])
            .filters(&["asset_id", "address", "asset_name", "node", "node_id"])
            .unique(&[("login", "username"), ("name", "name")]),
    ]
}

pub(crate) fn routes(routes: &mut Routes) {
    let add = Need::Point("accounts.add_account");
    routes.post(
        "/api/v1/accounts/accounts/bulk/",
        add,
        Doc::new("Make the same account on many assets, from fields or from templates").request(json!({
            "type": "object", "required": ["assets"], "properties": {
                "assets": {"type": "array", "items": {"type": "string", "format": "uuid"}},
                "templates": {"type": "array", "items": {"type": "string", "format": "uuid"}},
                "username": {"type": "string"}, "name": {"type": "string"}, "secret_type": {"type": "string"},
                "secret": {"type": "string"}, "on_invalid": {"type": "string", "enum": ["skip", "update", "error"]}}})),
        bulk,
    );
    let view = Need::Point("accounts.view_accountsecret");
    let shown = json!({"type": "object", "properties": {"id": {"type": "string"}, "secret": {"type": "string"}}});
    routes.get(
        "/api/v1/accounts/account-secrets/{id}/",
        view,
        Doc::new("The secret of an account; needs a fresh second factor and is written to the ledger").response(shown),
        show_secret,
    );
    routes.get(
        "/api/v1/accounts/account-secrets/{id}/histories/",
        view,
        Doc::new("When the secret was set, by whom; old secrets are not kept"),
        histories,
    );
    let doc = Doc::new("Accounts that stand for others: manual, same-name, anonymous");
    routes.get(
        "/api/v1/accounts/virtual-accounts/",
        Need::Point("accounts.view_virtualaccount"),
        doc,
        virtual_accounts,
    );
}

async fn show_secret(call: Call) -> Answer {
    auth::require_fresh_mfa(&call)?;
    let account = call.reader().get::<Account>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let asset = Target::Asset.name(&call.reader(), account.asset)?.unwrap_or_default();
    // The entry is durable before the secret leaves.
    let name = format!("{}({}) on {asset}", account.name, account.username);
    audit::record(
        &call,
        Operation::new(Action::View, "Account secret", name, account.id).org(account.org_id).refs([account.asset]),
    )
    .await?;
    let secret = call.reader().get::<Secret>(account.id)?;
    Ok(list::ok(&json!({
        "id": account.id,
        "name": account.name,
        "username": account.username,
        "asset": {"id": account.asset, "name": asset},
        "secret_type": {"value": account.secret_type.as_str(), "label": account.secret_type.label()},
        "version": account.version,
        "secret": secret.as_ref().map_or("", |s| s.secret.as_str()),
        "passphrase": secret.as_ref().and_then(|s| s.passphrase.as_deref()),
    })))
}

async fn histories(call: Call) -> Answer {
    let account = call.reader().get::<Account>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let query = LedgerQuery::new(OrgFilter::All(AllOrgs::crossing_organizations()))
        .kinds(&[LedgerKind::Operate])
        .reference(account.id)
        .limit(500);
    let mut rows = Vec::new();
    for stored in call.app.store().ledger().query(&query)? {
        let body = &stored.entry.body;
        let touched = body.get("diff").and_then(Value::as_array).into_iter().flatten();
        if body.get("resource_type") == Some(&json!("Account"))
            && touched.filter_map(|line| line.get("field")).any(|f| f == "secret")
        {
            rows.push(json!({
                "id": stored.entry.id,
                "history_date": crate::engine::values::show_date(stored.entry.at),
                "history_user": body.get("user"),
                "account": account.id,
            }));
        }
    }
    let total = rows.len();
    for (at, row) in rows.iter_mut().enumerate() {
        if let Some(row) = row.as_object_mut() {
            row.insert("version".into(), json!(total - at));
        }
    }
    Ok(list::ok(&json!({"version": account.version, "count": total, "results": rows})))
}

async fn bulk(call: Call) -> Answer {
    let body = call.json().await?;
    let reader = call.reader();
    let ids = |key: &'static str, target| -> Result<Vec<Uuid>, Problem> {
        let field = field::many(key, key, target);
        let read = crate::engine::values::read(&reader, &field, body.get(key).unwrap_or(&json!([])))?;
        let read = read.map_err(|why| Problem::field(key, why))?;
        Ok(read.as_array().into_iter().flatten().filter_map(crate::engine::values::as_id).collect())
    };
    let (assets, templates) = (ids("assets", Target::Asset)?, ids("templates", Target::AccountTemplate)?);
    if assets.is_empty() || assets.len().saturating_mul(templates.len().max(1)) > crate::engine::write::MAX_BULK {
        return Err(Problem::field("assets", format!("between 1 and {} accounts", crate::engine::write::MAX_BULK)));
    }
    let on_invalid =
        body.get("on_invalid").map(|v| v.get("value").unwrap_or(v)).and_then(Value::as_str).unwrap_or("error");
    if on_invalid == "update" {
        call.require("accounts.change_account")?;
    }
    let mut change = Change::new(&call);
    let mut results = Vec::new();
    for asset in &assets {
        let asset = reader.get::<Asset>(*asset)?.ok_or_else(Problem::not_found)?;
        let drafts: Vec<Option<Uuid>> =
            if templates.is_empty() { vec![None] } else { templates.iter().copied().map(Some).collect() };
        for template in drafts {
            let state = bulk_one(&mut change, &asset, template, &body, on_invalid)?;
            results.push(json!({"asset": {"id": asset.id, "name": asset.name}, "state": state}));
        }
    }
    change.commit().await?;
    Ok(list::json_response(StatusCode::CREATED, &json!(results)))
}

fn bulk_one(
    change: &mut Change<'_>,
    asset: &Asset,
    template: Option<Uuid>,
    body: &Value,
    on_invalid: &str,
) -> Result<&'static str, Problem> {
    let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|s| !s.is_empty());
    let mut account = blank(change, asset);
    account.username = text("username").unwrap_or("").to_owned();
    account.privileged = body.get("privileged").and_then(Value::as_bool).unwrap_or(false);
    let kind =
        body.get("secret_type").map(|v| v.get("value").unwrap_or(v)).and_then(Value::as_str).unwrap_or("password");
    account.secret_type = kind.parse().map_err(|_| Problem::field("secret_type", "not a valid choice"))?;
    let (username, secret_type) = match template {
        Some(id) => {
            let found = change
                .get::<AccountTemplate>(id)?
                .ok_or_else(|| Problem::field("templates", "object does not exist"))?;
            (found.username.clone(), found.secret_type)
        }
        None => (account.username.clone(), account.secret_type),
    };
    let there = change.reader.find::<Account>("asset", asset.id.as_bytes())?;
    let existing = there.iter().find(|a| a.username == username && a.secret_type == secret_type);
    match (existing, on_invalid) {
        (Some(_), "skip") => return Ok("skipped"),
        (Some(existing), "update") => {
            let mut updated = Account::clone(existing);
            match (template, text("secret")) {
                (Some(id), _) => from_template(change, &mut updated, id)?,
                (None, Some(secret)) => {
                    set_secret(change, &mut updated, secret, text("passphrase").map(str::to_owned))?;
                }
                (None, None) => {}
            }
            updated.meta.date_updated = change.now;
            updated.meta.updated_by = change.call.user.display();
            let name = format!("{}({})", updated.name, updated.username);
            change.audit(
                Operation::new(Action::Update, "Account", name, updated.id)
                    .org(updated.org_id)
                    .refs([updated.asset])
                    .changed("secret", &json!(MASK), &json!(MASK)),
            );
            change.edit::<Account>(existing.id, |a| *a = updated)?;
            return Ok("updated");
        }
        (Some(_), _) => {
            let why = format!("{} has an account {username} of this type already", asset.name);
            return Err(Problem::field("username", why));
        }
        (None, _) => {}
    }
    match template {
        Some(id) => from_template(change, &mut account, id)?,
        None => {
            if let Some(secret) = text("secret") {
                set_secret(change, &mut account, secret, text("passphrase").map(str::to_owned))?;
            }
        }
    }
    if account.name.is_empty() {
        account.name = text("name").unwrap_or(&account.username).to_owned();
    }
    account.validate()?;
    stage_create(change, account);
    Ok("created")
}

async fn virtual_accounts(_: Call) -> Answer {
    let rows = [
        (alias::INPUT, "Manual input", "user name and secret are typed when connecting"),
        (alias::USER, "Same name", "the account whose user name is the user's own"),
        (alias::ANON, "Anonymous", "no log-in; only web and custom assets"),
    ];
    let rows: Vec<Value> = rows
        .iter()
        .map(|(a, name, what)| json!({"id": a, "alias": a, "name": name, "username": a, "comment": what}))
        .collect();
    Ok(list::ok(&json!(rows)))
}
