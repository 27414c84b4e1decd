//! `gatehouse/*`: what JumpServer has no name for. The ledger's head, check and export; the certificate of the HTTPS door.

use gatehouse_model::common::org_ids;
use serde_json::{Value, json};
use uuid::Uuid;

use super::replays::{attachment, piped};
use crate::audit::{self, Action, MASK, Operation};
use crate::engine::list;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;
use crate::tls::{CertificateFacts, TlsError, TlsStore};

pub(crate) fn routes(routes: &mut Routes) {
    let path = |what: &str| format!("/api/v1/gatehouse/{what}/");
    let view = Need::System("gatehouse.view_ledger");
    routes.get(path("ledger"), view, Doc::new("Head of the audit ledger and the key that signs it"), head);
    let doc = Doc::new("Check the whole ledger now: chain, signatures, recordings");
    routes.post(path("ledger/verify"), Need::System("gatehouse.verify_ledger"), doc, verify);
    let doc = Doc::new("The whole ledger as JSON lines with a signed end").media("application/x-ndjson");
    routes.get(path("ledger/export"), Need::System("gatehouse.export_ledger"), doc, export);
    let doc = Doc::new("The certificate of the HTTPS door");
    routes.get(path("certificate"), Need::System("gatehouse.view_certificate"), doc, certificate);
    let body = json!({"type": "object", "properties": {
        "certificate": {"type": "string", "description": "PEM, leaf first"},
        "key": {"type": "string", "format": "password", "description": "PEM"},
        "self_signed_names": {"type": "array", "items": {"type": "string"},
            "description": "instead of a pair: make a new self-signed one for these names"}}});
    for method in [axum::http::Method::PUT, axum::http::Method::POST] {
        let doc = Doc::new("Replace the certificate; new connections get it at once").request(body.clone());
        routes.add(method, path("certificate"), Need::System("gatehouse.change_certificate"), doc, replace);
    }
}

fn operation(action: Action, what: &'static str, name: impl Into<String>) -> Operation {
    Operation::new(action, what, name, Uuid::nil()).org(org_ids::ROOT)
}

async fn head(call: Call) -> Answer {
    let ledger = call.app.store().ledger();
    let head = ledger.head();
    Ok(list::ok(&json!({
        "seq": head.seq,
        "hash": data_encoding::HEXLOWER.encode(&head.hash),
        "public_key": data_encoding::HEXLOWER.encode(&ledger.public_key()),
        "healthy": call.app.store().health().is_healthy(),
    })))
}

fn files(call: &Call) -> Result<std::sync::Arc<dyn crate::app::LedgerFiles>, Problem> {
    call.app.ledger_files().ok_or_else(|| Problem::unavailable("this instance keeps its ledger in memory"))
}

async fn verify(call: Call) -> Answer {
    let files = files(&call)?;
    let _turn = call.app.heavy().await?;
    let report = tokio::task::spawn_blocking(move || files.verify()).await.map_err(|e| Problem::internal(&e))?;
    let report = report.map_err(|e| Problem::internal(&e))?;
    let mut body = serde_json::to_value(&report).map_err(|e| Problem::internal(&e))?;
    if let Some(body) = body.as_object_mut() {
        body.insert("ok".into(), json!(report.is_ok()));
    }
    let outcome = if report.is_ok() { "ok" } else { "damaged" };
    let operation = operation(Action::Test, "Ledger", "verify").changed("result", &Value::Null, &json!(outcome));
    audit::record(&call, operation).await?;
    Ok(list::ok(&body))
}

async fn export(call: Call) -> Answer {
    let files = files(&call)?;
    audit::record(&call, operation(Action::Export, "Ledger", "export")).await?;
    attachment(piped(move |out| files.export(out).map(drop)), "application/x-ndjson", "ledger.jsonl")
}

fn tls_problem(error: TlsError) -> Problem {
    match error {
        TlsError::Certificate(_) | TlsError::NotNow { .. } => Problem::field("certificate", error.to_string()),
        TlsError::Key(_) | TlsError::Mismatch => Problem::field("key", error.to_string()),
        TlsError::SelfSigned(_) => Problem::field("self_signed_names", error.to_string()),
        TlsError::Store(error) => error.into(),
        TlsError::Config(_) => Problem::internal(&error),
    }
}

fn shown(facts: &CertificateFacts) -> Value {
    json!({
        "subject": facts.subject,
        "issuer": facts.issuer,
        "names": facts.names,
        "serial": facts.serial,
        "fingerprint": facts.fingerprint,
        "self_signed": facts.self_signed,
        "date_start": crate::engine::values::show_date(facts.date_start),
        "date_expired": crate::engine::values::show_date(facts.date_expired),
        "certificate": facts.chain,
    })
}

async fn certificate(call: Call) -> Answer {
    Ok(list::ok(&shown(&call.app.tls().facts().map_err(tls_problem)?)))
}

async fn replace(call: Call) -> Answer {
    let body = call.json().await?;
    let text = |key: &str| body.get(key).and_then(Value::as_str).filter(|s| !s.trim().is_empty());
    let now = call.app.now();
    let (chain, key) = match (text("certificate"), text("key"), body.get("self_signed_names").and_then(Value::as_array))
    {
        (Some(chain), Some(key), None) => (chain.to_owned(), zeroize::Zeroizing::new(key.to_owned())),
        (None, None, Some(names)) => {
            let names: Vec<String> = names.iter().filter_map(Value::as_str).map(str::to_owned).take(32).collect();
            if names.is_empty() {
                return Err(Problem::field("self_signed_names", "give at least one host name or address"));
            }
            TlsStore::make_self_signed(&names, now).map_err(tls_problem)?
        }
        (Some(_), None, _) => return Err(Problem::field("key", "this field is required")),
        _ => return Err(Problem::field("certificate", "give certificate and key, or self_signed_names")),
    };
    let _turn = call.app.serial().await;
    let before = call.app.tls().facts().map(|f| f.fingerprint).unwrap_or_default();
    let mut batch = call.app.store().batch();
    let staged = call.app.tls().stage(&mut batch, &chain, &key, now).map_err(tls_problem)?;
    let operation = operation(Action::Update, "Certificate", &staged.facts.subject)
        .changed("fingerprint", &json!(before), &json!(staged.facts.fingerprint))
        .changed("key", &json!(MASK), &json!(MASK));
    batch.audit(audit::entry(&call, now, operation));
    call.app.store().commit(batch).await?;
    call.app.tls().activate(&staged);
    Ok(list::ok(&shown(&staged.facts)))
}
