//! Audit views, settings, health, the certificate.

use axum::http::Method;
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use serde_json::json;

use crate::world::{OTHER, World, id};

#[tokio::test]
async fn operation_log_shows_fields_before_and_after_with_secrets_masked() {
    let world = World::start().await;
    let host = world.add_host(&world.admin, "h").await;
    world.admin.patch(&format!("assets/hosts/{host}/"), json!({"address": "192.0.2.51"})).await;
    let rows = world.admin.get(&format!("audits/operate-logs/?resource_id={host}&action=update&limit=10")).await;
    assert_eq!(rows["count"], 1);
    let row = &rows["results"][0];
    assert_eq!(row["user"], "admin the tester(admin)");
    assert_eq!(row["remote_addr"], "192.0.2.10");
    assert_eq!(row["diff"], json!([{"field": "address", "before": "192.0.2.50", "after": "192.0.2.51"}]));
    let account = json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"});
    let account = id(&world.admin.post("accounts/accounts/", account).await);
    let made = world.admin.get(&format!("audits/operate-logs/?resource_id={account}")).await;
    assert!(made.to_string().contains("******") && !made.to_string().contains("pw-of-root-1"), "{made}");
    let activities = world.admin.get(&format!("audits/activities/?resource_id={host}")).await;
    assert!(activities.as_array().unwrap().len() >= 2, "{activities}");
}

#[tokio::test]
async fn auditors_of_an_organization_see_log_ins_of_its_members_only() {
    let world = World::start().await;
    world.add_other_org().await;
    world.add_user("olga", &[], &[(OTHER, builtin::ORG_AUDITOR)]).await;
    let olga = world.login("olga").await;
    let rows = olga.get("audits/login-logs/?limit=100").await;
    assert_eq!(rows["count"], 1, "{rows}");
    assert_eq!(rows["results"][0]["username"], "olga");
    let all = world.admin.in_org(org_ids::ROOT).get("audits/login-logs/?limit=100").await;
    assert_eq!(all["count"], 2);
    let foreign = all["results"].as_array().unwrap().iter().find(|r| r["username"] == "admin").unwrap();
    olga.ask(Method::GET, &format!("audits/login-logs/{}/", id(foreign)), None).await.expect(404);
    let csv = world.admin.in_org(org_ids::ROOT).ask(Method::GET, "audits/login-logs/?format=csv", None).await;
    assert!(csv.text().contains("olga"));
}

#[tokio::test]
async fn settings_are_typed_checked_and_live() {
    let world = World::start().await;
    let admin = &world.admin;
    let shown = admin.get("settings/setting/?category=security_password").await;
    assert!(shown.get("SECURITY_PASSWORD_MIN_LENGTH").is_some() && shown.get("SITE_URL").is_none(), "{shown}");
    for (body, field) in [
        (json!({"NO_SUCH": 1}), "NO_SUCH"),
        (json!({"SECURITY_LOGIN_LIMIT_COUNT": 1}), "SECURITY_LOGIN_LIMIT_COUNT"),
        (json!({"SECURITY_MAX_IDLE_TIME": "soon"}), "SECURITY_MAX_IDLE_TIME"),
        (json!({"SITE_URL": "javascript:alert(1)"}), "SITE_URL"),
    ] {
        let refused = admin.ask(Method::PATCH, "settings/setting/", Some(body)).await.expect(400);
        assert!(refused[field].is_array(), "{refused}");
    }
    admin.patch("settings/setting/?category=security_password", json!({"SECURITY_PASSWORD_MIN_LENGTH": "20"})).await;
    let weak = json!({"name": "x", "username": "x", "email": "x@example.com", "password_strategy": "custom", "password": "Short-1-Pass"});
    let refused = admin.ask(Method::POST, "users/users/", Some(weak)).await.expect(400);
    assert!(refused["password"].is_array(), "{refused}");
    admin.patch("settings/setting/", json!({"EMAIL_HOST_PASSWORD": "mail-secret-1"})).await;
    assert!(!admin.get("settings/setting/").await.to_string().contains("mail-secret-1"));
    let log = admin.in_org(org_ids::ROOT).get("audits/operate-logs/?resource_type=Setting").await;
    assert!(!log.to_string().contains("mail-secret-1"));
}

#[tokio::test]
async fn health_answers_strangers_metrics_do_not_and_the_ledger_shows_its_head() {
    let world = World::start().await;
    assert_eq!(world.anonymous().get("/api/health/").await["status"], true);
    world.anonymous().ask(Method::GET, "/metrics", None).await.expect(401);
    let metrics = world.admin.ask(Method::GET, "/metrics", None).await;
    assert!(metrics.text().contains("gatehouse_sessions 0") && metrics.text().contains("gatehouse_store_healthy 1"));
    let before = world.admin.get("gatehouse/ledger/").await["seq"].as_u64().unwrap();
    world.admin.post("users/groups/", json!({"name": "g"})).await;
    assert!(world.admin.get("gatehouse/ledger/").await["seq"].as_u64().unwrap() > before);
}

#[tokio::test]
async fn the_certificate_is_replaced_live_and_its_key_never_shown() {
    let world = World::start().await;
    let before = world.admin.get("gatehouse/certificate/").await;
    assert_eq!(before["names"], json!(["box.example"]));
    let pair = rcgen::generate_simple_self_signed(vec!["new.example".to_owned()]).unwrap();
    let (chain, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let wrong = json!({"certificate": before["certificate"], "key": key});
    let refused = world.admin.ask(Method::PUT, "gatehouse/certificate/", Some(wrong)).await.expect(400);
    assert!(refused["key"].is_array(), "{refused}");
    let answer =
        world.admin.ask(Method::PUT, "gatehouse/certificate/", Some(json!({"certificate": chain, "key": key}))).await;
    assert!(!answer.text().contains("PRIVATE KEY"));
    assert_eq!(answer.expect(200)["names"], json!(["new.example"]));
    assert_eq!(world.tls.facts().unwrap().names, ["new.example"]);
    let log = world.admin.in_org(org_ids::ROOT).get("audits/operate-logs/?resource_type=Certificate").await;
    assert!(!log.to_string().contains("PRIVATE KEY") && log[0]["diff"].to_string().contains("fingerprint"));
}
