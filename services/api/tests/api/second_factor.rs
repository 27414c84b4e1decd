//! The second factor over HTTP: setting it up, the steps of a log-in, the window in which it counts (A22, A27).

use axum::http::Method;
use chrono::Utc;
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use gatehouse_model::user::{MfaLevel, User};
use serde_json::{Value, json};

use crate::world::{Client, PASSWORD, World, id};

/// RFC 6238 with the defaults of authenticator apps; `ahead` in steps of 30 s.
fn code(secret: &str, ahead: i64) -> String {
    let key = data_encoding::BASE32_NOPAD.decode(secret.as_bytes()).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &key);
    let mac = aws_lc_rs::hmac::sign(&key, &(Utc::now().timestamp() / 30 + ahead).to_be_bytes());
    let mac = mac.as_ref();
    let at = usize::from(mac[mac.len() - 1] & 15);
    let number = u32::from_be_bytes(mac[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

async fn log_in(world: &World, name: &str) -> Value {
    let body = json!({"username": name, "password": PASSWORD});
    world.anonymous().ask(Method::POST, "authentication/auth/", Some(body)).await.expect(400)
}

async fn challenge(world: &World, status: u16, body: Value) -> Value {
    world.anonymous().ask(Method::POST, "authentication/mfa/challenge/", Some(body)).await.expect(status)
}

fn bearer(world: &World, answer: &Value) -> Client {
    Client { token: format!("Bearer {}", answer["token"].as_str().unwrap()), ..world.anonymous() }
}

#[tokio::test]
async fn enrolled_by_api_asked_for_at_the_next_log_in_and_good_for_secrets() {
    let world = World::start().await;
    world.admin.patch("settings/setting/", json!({"OTP_VALID_WINDOW": 10})).await;
    let host = world.add_host(&world.admin, "h").await;
    let account = json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"});
    let account = id(&world.admin.post("accounts/accounts/", account).await);

    let started = world.admin.post("users/profile/mfa/otp/", json!({})).await;
    let secret = started["secret"].as_str().unwrap().to_owned();
    assert!(started["uri"].as_str().unwrap().starts_with("otpauth://totp/"));
    let put = |code: &str| world.admin.ask(Method::PUT, "users/profile/mfa/otp/", Some(json!({"code": code})));
    assert!(put("000000x").await.expect(400).get("code").is_some());
    // Nothing counts before it is confirmed.
    world.login("admin").await;
    put(&code(&secret, -3)).await.expect(200);

    let asked = log_in(&world, "admin").await;
    assert_eq!(asked["code"], "mfa_required");
    let ticket = asked["data"]["ticket"].as_str().unwrap();
    let wrong = challenge(&world, 400, json!({"ticket": ticket, "code": "12"})).await;
    assert!(wrong["token"].is_null());
    // The ticket was used; a wrong answer comes with the next one.
    challenge(&world, 400, json!({"ticket": ticket, "code": code(&secret, 0)})).await;
    let ticket = wrong["ticket"].as_str().unwrap();
    let done = challenge(&world, 201, json!({"ticket": ticket, "code": code(&secret, 0)})).await;
    let client = bearer(&world, &done);
    assert_eq!(client.get("users/profile/").await["username"], "admin");
    // The code that was used does not work again.
    let again = log_in(&world, "admin").await;
    let ticket = again["data"]["ticket"].as_str().unwrap();
    challenge(&world, 400, json!({"ticket": ticket, "code": code(&secret, 0)})).await;

    // A27: an old proof does not open secrets, a fresh one does, for this token only.
    let path = format!("accounts/account-secrets/{account}/");
    let verify = json!({"code": code(&secret, 2)});
    let answer = client.ask(Method::POST, "authentication/mfa/verify/", Some(verify.clone())).await.expect(200);
    assert!(answer["mfa_until"].is_string());
    assert_eq!(client.get(&path).await["secret"], "pw-of-root-1");
    assert_eq!(client.get("authentication/mfa/verify/").await["confirmed"], true);
    client.ask(Method::POST, "authentication/mfa/verify/", Some(verify)).await.expect(400);
    let refused = world.admin.ask(Method::GET, &path, None).await;
    assert!(refused.status == 412 || refused.status == 401, "{}", refused.text());
}

#[tokio::test]
async fn who_must_have_a_second_factor_sets_it_up_during_the_log_in() {
    let world = World::start().await;
    let ann = world.add_user("ann", &[], &[(org_ids::DEFAULT, builtin::ORG_USER)]).await;
    world.admin.patch(&format!("users/users/{ann}/"), json!({"mfa_level": 2})).await;
    let user = world.store.system().get::<User>(ann).unwrap().unwrap();
    assert_eq!(user.mfa_level, MfaLevel::Forced);
    let asked = log_in(&world, "ann").await;
    assert_eq!(asked["code"], "mfa_unset");
    let (secret, ticket) = (asked["data"]["secret"].as_str().unwrap(), asked["data"]["ticket"].as_str().unwrap());
    let done = challenge(&world, 201, json!({"ticket": ticket, "code": code(secret, 0)})).await;
    bearer(&world, &done).get("users/profile/").await;
    assert_eq!(log_in(&world, "ann").await["code"], "mfa_required");
}
