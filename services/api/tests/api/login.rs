//! Every way to say who one is.

use axum::http::Method;
use base64::Engine as _;
use chrono::Utc;
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use serde_json::json;

use crate::world::{Client, PASSWORD, World, id};

#[tokio::test]
async fn a_bearer_token_and_logging_out_and_wrong_passwords_that_tell_nothing() {
    let world = World::start().await;
    let me = world.admin.get("users/profile/").await;
    assert_eq!(me["username"], "admin");
    let wrong = |name: &str| json!({"username": name, "password": "wrong-password"});
    let known = world.anonymous().ask(Method::POST, "authentication/auth/", Some(wrong("admin"))).await.expect(400);
    let unknown = world.anonymous().ask(Method::POST, "authentication/auth/", Some(wrong("nobody"))).await.expect(400);
    assert_eq!((&known["code"], &known["detail"]), (&unknown["code"], &unknown["detail"]));
    world.admin.delete("authentication/auth/").await;
    world.admin.ask(Method::GET, "users/profile/", None).await.expect(401);
}

#[tokio::test]
async fn a_browser_session_needs_its_csrf_token_for_changes() {
    let world = World::start().await;
    let body = json!({"username": "admin", "password": PASSWORD, "session": true});
    let answer = world.anonymous().ask(Method::POST, "authentication/auth/", Some(body)).await;
    assert_eq!(answer.status, 201);
    let cookies: Vec<String> =
        answer.headers.get_all("set-cookie").iter().map(|c| c.to_str().unwrap().to_owned()).collect();
    let session = cookies.iter().find(|c| c.starts_with("jms_sessionid=")).unwrap();
    assert!(session.contains("HttpOnly") && session.contains("Secure") && session.contains("SameSite"), "{session}");
    let csrf = answer.json()["csrf"].as_str().unwrap().to_owned();
    let browser = world.anonymous().with("cookie", session.split(';').next().unwrap());
    browser.get("users/profile/").await;
    let group = json!({"name": "g"});
    let refused = browser.ask(Method::POST, "users/groups/", Some(group.clone())).await.expect(403);
    assert_eq!(refused["code"], "csrf_failed");
    browser.with("x-csrftoken", "0000").ask(Method::POST, "users/groups/", Some(group.clone())).await.expect(403);
    browser.with("x-csrftoken", &csrf).ask(Method::POST, "users/groups/", Some(group)).await.expect(201);
}

fn signed(client: &Client, key: &str, secret: &str, target: &str, date: &str) -> Client {
    let text = format!("(request-target): get {target}\naccept: application/json\ndate: {date}");
    let hmac = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret.as_bytes());
    let signature = base64::engine::general_purpose::STANDARD.encode(aws_lc_rs::hmac::sign(&hmac, text.as_bytes()));
    let header = format!(
        "Signature keyId=\"{key}\",algorithm=\"hmac-sha256\",headers=\"(request-target) accept date\",signature=\"{signature}\""
    );
    let client = client.with("accept", "application/json").with("date", date);
    Client { token: header, ..client }
}

/// X02: the manual's example, and what must not pass for it.
#[tokio::test]
async fn http_signature_as_the_manual_shows_it() {
    let world = World::start().await;
    let made = world.admin.post("authentication/access-keys/", json!({"ip_group": ["192.0.2.0/24"]})).await;
    let (key, secret) = (id(&made), made["secret"].as_str().unwrap().to_owned());
    let now = Utc::now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let target = "/api/v1/users/users/";
    let anonymous = world.anonymous().in_org(org_ids::DEFAULT);
    let rows = signed(&anonymous, &key, &secret, target, &now).get(target).await;
    assert_eq!(rows[0]["username"], "admin");
    // The path is signed as it was sent, also without the slash at its end.
    signed(&anonymous, &key, &secret, "/api/v1/users/users", &now).get("/api/v1/users/users").await;
    let refused =
        |client: Client, path: &'static str| async move { client.ask(Method::GET, path, None).await.expect(401) };
    refused(signed(&anonymous, &key, "another-secret", target, &now), target).await;
    refused(signed(&anonymous, &key, &secret, target, &now), "/api/v1/users/groups/").await;
    refused(signed(&anonymous, &key, &secret, target, "Mon, 02 Jan 2006 15:04:05 GMT"), target).await;
    signed(&anonymous.from("203.0.113.1"), &key, &secret, target, &now)
        .ask(Method::GET, target, None)
        .await
        .expect(403);
    assert!(!world.admin.get("authentication/access-keys/").await.to_string().contains(&secret));
    world.admin.patch(&format!("authentication/access-keys/{key}/"), json!({"is_active": false})).await;
    refused(signed(&anonymous, &key, &secret, target, &now), target).await;
}

#[tokio::test]
async fn private_tokens_work_and_a_disabled_user_is_out_at_once() {
    let world = World::start().await;
    let ann = world.add_user("ann", &[], &[(org_ids::DEFAULT, builtin::ORG_USER)]).await;
    let client = world.login("ann").await;
    let made = client.post("authentication/private-token/", json!({})).await;
    let by_token = Client { token: format!("Token {}", made["token"].as_str().unwrap()), ..world.anonymous() };
    by_token.get("users/profile/").await;
    world.admin.patch(&format!("users/users/{ann}/"), json!({"is_active": false})).await;
    by_token.ask(Method::GET, "users/profile/", None).await.expect(401);
    client.ask(Method::GET, "users/profile/", None).await.expect(401);
}

/// A27, A28: secrets are shown after a fresh second factor only, and the ledger says who looked.
#[tokio::test]
async fn secrets_need_a_fresh_second_factor_and_are_logged() {
    let world = World::start().await;
    let host = world.add_host(&world.admin, "h").await;
    let account = json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"});
    let made = world.admin.post("accounts/accounts/", account).await;
    assert!(!made.to_string().contains("pw-of-root-1"));
    let path = format!("accounts/account-secrets/{}/", id(&made));
    let refused = world.admin.ask(Method::GET, &path, None).await.expect(412);
    assert_eq!(refused["code"], "user_confirm_required");

    world.admin.patch("settings/setting/", json!({"SECURITY_VIEW_AUTH_NEED_MFA": false})).await;
    assert_eq!(world.admin.get(&path).await["secret"], "pw-of-root-1");
    let log = world.admin.get(&format!("audits/operate-logs/?resource_id={}&action=view", id(&made))).await;
    assert_eq!(log[0]["resource_type"], "Account secret");
    assert!(!world.admin.get("audits/operate-logs/?limit=1000").await.to_string().contains("pw-of-root-1"));
}

#[tokio::test]
async fn addresses_from_headers_count_only_behind_a_trusted_proxy() {
    let world = World::start().await;
    let forged = world.anonymous().with("x-forwarded-for", "198.51.100.99");
    let body = json!({"username": "admin", "password": PASSWORD});
    forged.post("authentication/auth/", body.clone()).await;
    let ip = |rows: &serde_json::Value| rows[0]["ip"].as_str().unwrap().to_owned();
    assert_eq!(ip(&world.admin.get("audits/my-login-logs/").await), "192.0.2.10");
    world.admin.patch("settings/setting/", json!({"TRUSTED_PROXIES": ["192.0.2.10"]})).await;
    forged.post("authentication/auth/", body).await;
    assert_eq!(ip(&world.admin.get("audits/my-login-logs/").await), "198.51.100.99");
}
