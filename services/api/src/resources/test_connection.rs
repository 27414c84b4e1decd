//! Connection tests behind `connectivity` (S05, S18, C17, S15): of an asset (its port answers), of an account (its log-in
//! works), of a gateway. The session service makes the test, on the way that a session would go; what it finds is written
//! to the record here.

use axum::http::StatusCode;
use gatehouse_model::account::Account;
use gatehouse_model::asset::Asset;
use gatehouse_model::builtin;
use gatehouse_session::{Probed, Prober};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{Action, Operation};
use crate::engine::change::Change;
use crate::engine::list::json_response;
use crate::engine::values::as_id;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// Tests of one request; they run one after another.
const MAX_TESTS: usize = 50;

pub(crate) fn routes(routes: &mut Routes) {
    let test = Need::Point("assets.test_asset");
    routes.post(
        "/api/v1/assets/assets/{id}/tasks/",
        test,
        Doc::new("Test whether the asset's port answers"),
        asset_task,
    );
    let body = json!({"type": "object", "properties": {"accounts": {"type": "array", "items": {"type": "string"}}}});
    let doc = Doc::new("Test the log-in of accounts").request(body);
    routes.post("/api/v1/accounts/accounts/tasks/", Need::Point("accounts.verify_account"), doc, account_tasks);
    let doc = Doc::new("Test the log-in of a gateway");
    routes.post("/api/v1/assets/gateways/{id}/test-connective/", Need::Point("assets.test_gateway"), doc, gateway_test);
}

fn prober(call: &Call) -> Prober {
    Prober { user: call.user.id, source: call.ip }
}

async fn note_asset(call: &Call, asset: &Asset, probed: &Probed) -> Result<(), Problem> {
    let mut change = Change::new(call);
    let (now, found) = (change.now, probed.connectivity);
    change.edit::<Asset>(asset.id, |a| {
        a.connectivity = found;
        a.date_verified = Some(now);
    })?;
    let name = format!("{}({})", asset.name, asset.address);
    change.audit(Operation::new(Action::Test, "Asset", name, asset.id).org(asset.org_id).changed(
        "connectivity",
        &json!(asset.connectivity.as_str()),
        &json!(probed.detail),
    ));
    change.commit().await
}

fn answer(task: &[(Uuid, Probed)]) -> Answer {
    let rows: Vec<Value> = task
        .iter()
        .map(|(id, probed)| {
            let found = probed.connectivity;
            json!({"id": id, "connectivity": {"value": found.as_str(), "label": found.label()}, "detail": probed.detail})
        })
        .collect();
    Ok(json_response(StatusCode::CREATED, &json!({"task": Uuid::now_v7(), "results": rows})))
}

async fn asset_task(call: Call) -> Answer {
    let body = call.json().await?;
    let action = body.get("action").and_then(Value::as_str).unwrap_or("test");
    if action != "test" {
        return Err(Problem::field("action", "test is the only task of this version"));
    }
    let asset = call.reader().get::<Asset>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let found = call.app.core().probe_asset(&asset, prober(&call)).await;
    note_asset(&call, &asset, &found).await?;
    answer(&[(asset.id, found)])
}

async fn account_tasks(call: Call) -> Answer {
    let body = call.json().await?;
    let action = body.get("action").and_then(Value::as_str).unwrap_or("verify");
    if action != "verify" {
        return Err(Problem::field("action", "verify is the only task of this version"));
    }
    let ids: Vec<Uuid> = body
        .get("accounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|v| as_id(v.get("id").unwrap_or(v)))
        .collect();
    if ids.is_empty() || ids.len() > MAX_TESTS {
        return Err(Problem::field("accounts", format!("between 1 and {MAX_TESTS} ids")));
    }
    let mut done = Vec::new();
    for id in ids {
        let account = call.reader().get::<Account>(id)?.ok_or_else(Problem::not_found)?;
        let outcome = call.app.core().probe_account(&account, prober(&call)).await;
        note_account(&call, &account, &outcome).await?;
        done.push((id, outcome));
    }
    answer(&done)
}

async fn note_account(call: &Call, account: &Account, probed: &Probed) -> Result<(), Problem> {
    let mut change = Change::new(call);
    let (now, found) = (change.now, probed.connectivity);
    change.edit::<Account>(account.id, |a| {
        a.connectivity = found;
        a.date_verified = Some(now);
    })?;
    let name = format!("{}({})", account.name, account.username);
    change.audit(
        Operation::new(Action::Test, "Account", name, account.id).org(account.org_id).refs([account.asset]).changed(
            "connectivity",
            &json!(account.connectivity.as_str()),
            &json!(probed.detail),
        ),
    );
    change.commit().await
}

async fn gateway_test(call: Call) -> Answer {
    let gateway = call.reader().get::<Asset>(call.id()?)?.filter(|a| a.platform == builtin::gateway_platform_id());
    let gateway = gateway.ok_or_else(Problem::not_found)?;
    let found = call.app.core().probe_gateway(&gateway, prober(&call)).await;
    note_asset(&call, &gateway, &found).await?;
    answer(&[(gateway.id, found)])
}
