//! `settings/setting`, `settings/public`, locked addresses, mail test. Settings are one typed record, changed live.

use std::net::IpAddr;

use gatehouse_identity::{By, LockedSubject};
use gatehouse_model::common::Validate as _;
use gatehouse_model::settings::{MailSecret, SETTINGS_ID, Settings};
use serde_json::{Map, Value, json};

use crate::audit::{self, Action, MASK, Operation};
use crate::engine::change::Change;
use crate::engine::list;
use crate::engine::reader::{Reader, Scope};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes, Stranger};
use crate::problem::Problem;

/// Beginnings of setting names by JumpServer's categories; a name of no category belongs to `basic`.
const CATEGORIES: &[(&str, &[&str])] = &[
    (
        "security_auth",
        &["SECURITY_MFA", "OTP_", "ONLY_ALLOW", "USER_LOGIN_SINGLE", "AUTH_TEMP", "SECURITY_UNCOMMON", "SECURITY_VIEW"],
    ),
    ("security_login_limit", &["SECURITY_LOGIN_"]),
    ("security_password", &["SECURITY_PASSWORD", "SECURITY_ADMIN_USER_PASSWORD", "OLD_PASSWORD"]),
    ("security_session", &["SECURITY_MAX_", "SESSION_COOKIE", "TOKEN_", "CONNECTION_TOKEN_"]),
    ("terminal", &["TERMINAL_", "ENABLE_", "FTP_FILE_MAX", "COMMAND_OUTPUT"]),
    (
        "clean",
        &["LOGIN_LOG_KEEP", "OPERATE_LOG_KEEP", "FTP_LOG_KEEP", "TERMINAL_SESSION_KEEP", "PASSWORD_CHANGE_LOG_KEEP"],
    ),
    ("email", &["EMAIL_"]),
];

pub(crate) fn routes(routes: &mut Routes) {
    let (view, change) = (Need::System("settings.view_setting"), Need::System("settings.change_setting"));
    let category: &[(&'static str, &'static str)] = &[(
        "category",
        "basic, security, security_auth, security_login_limit, security_password, security_session, terminal, clean, email",
    )];
    routes.get("/api/v1/settings/setting/", view, Doc::new("Settings").query(category), show);
    for method in [axum::http::Method::PATCH, axum::http::Method::PUT] {
        let doc = Doc::new("Change settings; effective at once").query(category);
        routes.add(method, "/api/v1/settings/setting/", change, doc, update);
    }
    routes.public(axum::http::Method::GET, "/api/v1/settings/public/", Doc::new("What a log-in page needs"), public);
    routes.post("/api/v1/settings/mail/testing/", change, Doc::new("Send a test mail to the caller"), test_mail);
    let block = Need::System("settings.view_blockip");
    routes.get("/api/v1/settings/security/block-ip/", block, Doc::new("Users and addresses that are locked"), locked);
    let change = Need::System("settings.change_blockip");
    let body = || json!({"type": "object", "required": ["ips"], "properties": {"ips": {"type": "array", "items": {"type": "string"}}}});
    let doc = Doc::new("Lift the lock of addresses").request(body());
    routes.post("/api/v1/settings/security/unlock-ip/", change, doc, unlock);
    let doc = Doc::new("Lock addresses").request(body());
    routes.post("/api/v1/settings/security/block-ip/", change, doc, block_ip);
}

fn category_of(name: &str) -> &'static str {
    let found = CATEGORIES.iter().filter_map(|(category, starts)| {
        let longest = starts.iter().filter(|s| name.starts_with(**s)).map(|s| s.len()).max()?;
        Some((longest, *category))
    });
    found.max_by_key(|(length, _)| *length).map_or("basic", |(_, category)| category)
}

fn wanted(category: Option<&str>, name: &str) -> bool {
    match category {
        None | Some("all") => true,
        Some("security") => category_of(name).starts_with("security"),
        Some(category) => category_of(name) == category,
    }
}

fn shown(settings: &Settings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

async fn show(call: Call) -> Answer {
    let settings = call.reader().settings()?;
    let category = call.query.filled("category");
    let mut out: Map<String, Value> = shown(&settings).into_iter().filter(|(k, _)| wanted(category, k)).collect();
    if wanted(category, "EMAIL_") {
        let has = call.reader().get::<MailSecret>(SETTINGS_ID)?.is_some_and(|s| !s.password.is_empty());
        out.insert("EMAIL_HAS_PASSWORD".into(), json!(has));
    }
    Ok(list::ok(&Value::Object(out)))
}

async fn update(call: Call) -> Answer {
    let body = call.json().await?;
    let given = body.as_object().ok_or_else(|| Problem::field("non_field_errors", "expected an object"))?;
    let _turn = call.app.serial().await;
    let before = call.reader().settings()?;
    let old = shown(&before);
    let mut new = old.clone();
    let mut problem = Problem::bad_request("invalid", "the request has invalid fields");
    for (key, value) in
        given.iter().filter(|(k, _)| !matches!(k.as_str(), "EMAIL_HOST_PASSWORD" | "EMAIL_HAS_PASSWORD"))
    {
        if !old.contains_key(key) {
            problem.fields.push((key.clone(), vec!["there is no such setting".into()]));
            continue;
        }
        // Choices come back as objects from forms.
        let value = value.get("value").unwrap_or(value).clone();
        let one = Map::from_iter([(key.clone(), coerce(old.get(key), value))]);
        match serde_json::from_value::<Settings>(Value::Object(one.clone())) {
            Ok(_) => new.extend(one),
            Err(e) => problem.fields.push((key.clone(), vec![e.to_string()])),
        }
    }
    if !problem.fields.is_empty() {
        return Err(problem);
    }
    let after: Settings =
        serde_json::from_value(Value::Object(new)).map_err(|e| Problem::bad_request("invalid", e.to_string()))?;
    after.validate()?;
    check_site(&after)?;
    let mut change = Change::new(&call);
    let mut operation =
        Operation::new(Action::Update, "Setting", call.query.filled("category").unwrap_or("all"), SETTINGS_ID)
            .org(gatehouse_model::common::org_ids::ROOT)
            .diff(audit::diff(&old, &shown(&after)));
    if let Some(password) = given.get("EMAIL_HOST_PASSWORD").and_then(Value::as_str) {
        operation = operation.changed("EMAIL_HOST_PASSWORD", &json!(MASK), &json!(MASK));
        change.upsert(MailSecret { id: SETTINGS_ID, password: password.to_owned() })?;
    }
    change.upsert(after)?;
    change.audit(operation);
    change.commit().await?;
    show(call).await
}

/// Numbers and flags that forms send as text.
fn coerce(old: Option<&Value>, new: Value) -> Value {
    match (old, &new) {
        (Some(Value::Number(_)), Value::String(text)) => {
            text.trim().parse::<i64>().map_or_else(|_| new.clone(), Value::from)
        }
        (Some(Value::Bool(_)), Value::String(text)) => match text.as_str() {
            "true" | "True" | "1" => json!(true),
            "false" | "False" | "0" => json!(false),
            _ => new,
        },
        (Some(Value::String(_)), Value::Number(n)) => json!(n.to_string()),
        _ => new,
    }
}

/// Links in mails and redirects go there.
fn check_site(settings: &Settings) -> Result<(), Problem> {
    let uri = settings.site_url.parse::<axum::http::Uri>().ok();
    let ok = uri.is_some_and(|u| u.scheme_str() == Some("https") && u.host().is_some() && u.query().is_none());
    if ok { Ok(()) } else { Err(Problem::field("SITE_URL", "enter an https:// address")) }
}

async fn public(stranger: Stranger) -> Answer {
    let settings = Reader::new(stranger.app.store(), Scope::Global).settings()?;
    let announcement = if settings.announcement_enabled { settings.announcement.as_str() } else { "" };
    Ok(list::ok(&json!({
        "INTERFACE": {"login_title": "Gatehouse"},
        "ANNOUNCEMENT_ENABLED": settings.announcement_enabled,
        "ANNOUNCEMENT": announcement,
        "SECURITY_MFA_AUTH": settings.security_mfa_auth.as_str(),
        "PASSWORD_RULE": {
            "SECURITY_PASSWORD_MIN_LENGTH": settings.security_password_min_length,
            "SECURITY_PASSWORD_UPPER_CASE": settings.security_password_upper_case,
            "SECURITY_PASSWORD_LOWER_CASE": settings.security_password_lower_case,
            "SECURITY_PASSWORD_NUMBER": settings.security_password_number,
            "SECURITY_PASSWORD_SPECIAL_CHAR": settings.security_password_special_char,
        },
    })))
}

async fn test_mail(call: Call) -> Answer {
    let sent = call.app.notify().send_test(&call.user.email).await;
    let operation =
        Operation::new(Action::Test, "Setting", "mail", SETTINGS_ID).org(gatehouse_model::common::org_ids::ROOT);
    audit::record(&call, operation).await?;
    match sent {
        Ok(()) => Ok(list::ok(&json!({"msg": format!("sent to {}", call.user.email)}))),
        Err(error) => Err(Problem::bad_request("mail_failed", error.to_string())),
    }
}

async fn locked(call: Call) -> Answer {
    let rows: Vec<Value> = call
        .app
        .identity()
        .locked()?
        .iter()
        .map(|l| {
            let (kind, subject) = match &l.subject {
                LockedSubject::User(name) => ("user", name.clone()),
                LockedSubject::Mfa(name) => ("mfa", name.clone()),
                LockedSubject::Ip(ip) => ("ip", ip.to_string()),
            };
            json!({"id": format!("{kind}:{subject}"), "type": kind, "ip": (kind == "ip").then_some(subject.as_str()),
                "subject": subject, "failures": l.failures, "since": show_date(l.since), "until": show_date(l.until)})
        })
        .collect();
    Ok(list::ok(&json!(rows)))
}

fn addresses(body: &Value) -> Result<Vec<IpAddr>, Problem> {
    let items = body.get("ips").and_then(Value::as_array).filter(|i| !i.is_empty() && i.len() <= 1_000);
    let items = items.ok_or_else(|| Problem::field("ips", "expected a list of addresses"))?;
    let one = |v: &Value| v.as_str().and_then(|t| t.parse().ok());
    items.iter().map(|v| one(v).ok_or_else(|| Problem::field("ips", format!("{v} is not an address")))).collect()
}

fn by(call: &Call, action: Action, ip: IpAddr) -> By {
    let operation = Operation::new(action, "Locked address", ip.to_string(), SETTINGS_ID)
        .org(gatehouse_model::common::org_ids::ROOT);
    By::user(&call.user, call.ip).with_audit(audit::entry(call, call.app.now(), operation))
}

async fn unlock(call: Call) -> Answer {
    let body = call.json().await?;
    for ip in addresses(&body)? {
        call.app.identity().unlock_ip(ip, &by(&call, Action::Unlock, ip)).await?;
    }
    Ok(list::ok(&json!({"msg": "success"})))
}

async fn block_ip(call: Call) -> Answer {
    let body = call.json().await?;
    let ips = addresses(&body)?;
    if ips.contains(&call.ip) {
        return Err(Problem::field("ips", "this would lock your own address"));
    }
    for ip in ips {
        call.app.identity().lock_ip(ip, &by(&call, Action::Create, ip)).await?;
    }
    Ok(list::ok(&json!({"msg": "success"})))
}
