//! JumpServer's shapes, as clients rely on them, and the OpenAPI document.

use std::collections::BTreeSet;

use axum::http::Method;
use serde_json::{Value, json};

use crate::world::{World, id};

/// What changes from run to run, replaced.
fn stable(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| {
                let v = match v {
                    Value::String(s) if s.parse::<uuid::Uuid>().is_ok() && !s.starts_with("00000000") => json!("UUID"),
                    Value::String(s) if s.len() == 25 && s.ends_with("+0000") => json!("DATE"),
                    other => stable(other),
                };
                (k.clone(), v)
            })
            .collect(),
        Value::Array(items) => items.iter().map(stable).collect(),
        other => other.clone(),
    }
}

#[tokio::test]
async fn rows_have_jumpservers_shapes() {
    let world = World::start().await;
    let admin = &world.admin;
    admin.post("labels/labels/", json!({"name": "env", "value": "prod"})).await;
    let host = json!({"name": "web1", "address": "10.0.0.1", "platform": {"pk": id(&admin.get("assets/platforms/?name=Linux").await[0])},
        "labels": ["env:prod"], "accounts": [{"username": "root", "secret": "pw-of-root-1", "privileged": true}]});
    let host = admin.post("assets/hosts/", host).await;
    insta::assert_json_snapshot!("host", stable(&host));
    let grant = json!({"name": "p", "assets": [host["id"]], "accounts": ["@ALL"], "actions": [{"value": "connect"}, "upload"],
        "date_start": "2026-01-01T00:00:00Z", "date_expired": "2030/01/01 08:00:00 +0800"});
    let grant = admin.post("perms/asset-permissions/", grant).await;
    assert_eq!(grant["date_expired"], "2030/01/01 00:00:00 +0000");
    insta::assert_json_snapshot!("grant", stable(&grant));
    let user = admin.get("users/users/?limit=1").await;
    insta::assert_json_snapshot!("users", stable(&user));
    let account = admin.get("accounts/accounts/").await;
    insta::assert_json_snapshot!("accounts", stable(&account));
    let error = admin.ask(Method::POST, "users/users/", Some(json!({"username": "a b", "name": "x"}))).await;
    insta::assert_json_snapshot!("field_errors", error.json());
    let error = admin.ask(Method::GET, "users/users/01900000-0000-7000-8000-000000000001/", None).await;
    insta::assert_json_snapshot!("not_found", error.json());
}

fn refs(value: &Value, out: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(r)) = map.get("$ref") {
                out.insert(r.clone());
            }
            map.values().for_each(|v| refs(v, out));
        }
        Value::Array(items) => items.iter().for_each(|v| refs(v, out)),
        _ => {}
    }
}

#[tokio::test]
async fn the_openapi_document_names_every_route_and_points_only_at_what_is_there() {
    let world = World::start().await;
    let document = world.admin.get("/api/docs/?format=openapi").await;
    assert_eq!(document, world.admin.get("/api/docs/openapi.json").await);
    assert_eq!(document["openapi"], "3.1.0");
    for route in &world.routes {
        let operation = &document["paths"][&route.path][route.method.to_lowercase()];
        assert!(operation["summary"].as_str().is_some_and(|s| !s.is_empty()), "{} {}", route.method, route.path);
        assert!(operation["responses"].is_object());
        let parameters = route.path.matches('{').count();
        let named = operation["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "path").count();
        assert_eq!(parameters, named, "{}", route.path);
    }
    let mut ids = BTreeSet::new();
    for methods in document["paths"].as_object().unwrap().values() {
        for operation in methods.as_object().unwrap().values() {
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{}", operation["operationId"]);
        }
    }
    let mut pointers = BTreeSet::new();
    refs(&document, &mut pointers);
    for pointer in pointers {
        assert!(document.pointer(pointer.trim_start_matches('#')).is_some(), "{pointer} is nowhere");
    }
    world.anonymous().ask(Method::GET, "/api/docs/", None).await.expect(401);
}
