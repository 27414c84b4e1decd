//! Tests of everything that stands for a person between requests: tokens, browser sessions, access keys, connection
//! tokens, and their end.

use gatehouse_model::account::Secret;
use gatehouse_model::ledger::LedgerKind;
use gatehouse_model::net::IpGroup;
use gatehouse_model::session::ConnectionToken;
use gatehouse_model::user::{AccessKey, ApiToken, User};
use gatehouse_store::AllOrgs;
use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::testing::{IP, PASSWORD, World, ip};
use crate::{
    AuthError, Authenticated, By, ConnectionTokenRequest, Door, HowAuthenticated, LoginCode, RequestParts, Step,
    http_signature,
};

const PATH: &str = "/api/v1/users/users/?limit=1";

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    map
}

fn ask(world: &World, method: &str, pairs: &[(&str, &str)]) -> Result<Authenticated, AuthError> {
    let headers = headers(pairs);
    world.identity.authenticate_http(&RequestParts {
        method,
        path_and_query: PATH,
        headers: &headers,
        remote_ip: ip(IP),
    })
}

fn bearer(world: &World, token: &str) -> Result<Authenticated, AuthError> {
    ask(world, "GET", &[("authorization", &format!("Bearer {token}"))])
}

fn signed(world: &World, id: Uuid, secret: &str, from: &str) -> Result<Authenticated, AuthError> {
    let date = world.now().format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let mut headers = headers(&[("accept", "application/json"), ("date", &date)]);
    let line = http_signature::sign(secret, id, "(request-target) accept date", "GET", PATH, &headers);
    headers.insert("authorization", HeaderValue::try_from(line).unwrap());
    world.identity.authenticate_http(&RequestParts {
        method: "GET",
        path_and_query: PATH,
        headers: &headers,
        remote_ip: ip(from),
    })
}

#[tokio::test]
async fn a_bearer_token_names_its_user_until_it_expires() {
    let world = World::new();
    let user = world.add("alice").await;
    let proof = world.proof("alice", Door::Api).await;
    let token = world.identity.create_bearer(&proof, "curl").await.unwrap();
    let who = bearer(&world, &token.token).unwrap();
    assert_eq!((who.user.id, who.how, who.token_id), (user.id, HowAuthenticated::Bearer, token.id));
    assert_eq!(who.mfa_until, None, "no second factor was proven");
    assert!(world.identity.still_valid(&who));
    // The scheme is part of it: a bearer token is no private token and no cookie.
    assert!(ask(&world, "GET", &[("authorization", &format!("Token {}", *token.token))]).is_err());
    assert!(ask(&world, "GET", &[("cookie", &format!("jms_sessionid={}", *token.token))]).is_err());
    world.wait(3_600);
    assert!(matches!(bearer(&world, &token.token), Err(AuthError::Token)));
    assert!(!world.identity.still_valid(&who));
    assert_eq!(world.identity.sweep().await.unwrap().tokens, 1);
}

#[tokio::test]
async fn without_credentials_or_with_odd_ones_a_request_is_nobodys() {
    let world = World::new();
    assert!(matches!(ask(&world, "GET", &[]), Err(AuthError::Missing)));
    for header in ["", "Bearer", "Bearer ", "Basic YWxpY2U6eA==", "Token  ", "Signature", "Signature x", "bearer \t"] {
        let error = ask(&world, "GET", &[("authorization", header)]).unwrap_err();
        assert_eq!(error.status(), 401, "{header:?}: {error}");
    }
    let long = format!("Bearer {}", "x".repeat(100_000));
    assert!(ask(&world, "GET", &[("authorization", &long)]).is_err());
}

#[tokio::test]
async fn one_scheme_decides_and_nothing_is_tried_after_it() {
    let world = World::new();
    world.add("alice").await;
    let proof = world.proof("alice", Door::Api).await;
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    let session = world.identity.create_session(&proof, "").await.unwrap();
    let good = format!("Bearer {}", *token.token);
    let cookie = format!("jms_sessionid={}", *session.cookie);
    assert!(ask(&world, "GET", &[("authorization", "Bearer wrong"), ("cookie", &cookie)]).is_err());
    assert!(ask(&world, "GET", &[("authorization", &good), ("authorization", "Bearer wrong")]).is_err());
    assert!(ask(&world, "GET", &[("cookie", &cookie), ("cookie", "jms_sessionid=other")]).is_err());
    assert!(ask(&world, "GET", &[("authorization", &good)]).is_ok());
}

#[tokio::test]
async fn a_browser_session_changes_things_only_with_its_own_csrf_token() {
    let world = World::new();
    world.add("alice").await;
    world.add("mallory").await;
    let session = world.identity.create_session(&world.proof("alice", Door::Web).await, "Firefox").await.unwrap();
    let other = world.identity.create_session(&world.proof("mallory", Door::Web).await, "Firefox").await.unwrap();
    let cookie = format!("theme=dark; jms_sessionid={}; lang=en", *session.cookie);
    for method in ["GET", "HEAD", "OPTIONS", "get"] {
        assert_eq!(ask(&world, method, &[("cookie", &cookie)]).unwrap().how, HowAuthenticated::Cookie);
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "post", "ANYTHING"] {
        for wrong in ["", "00", &other.csrf, &session.csrf[2..]] {
            let error = ask(&world, method, &[("cookie", &cookie), ("x-csrftoken", wrong)]).unwrap_err();
            assert!(matches!(error, AuthError::Csrf) && error.status() == 403, "{method} {wrong}");
        }
        assert!(ask(&world, method, &[("cookie", &cookie), ("x-csrftoken", &session.csrf)]).is_ok());
    }
}

#[tokio::test]
async fn a_new_browser_log_in_ends_the_earlier_one_when_the_setting_says_so() {
    let world = World::new();
    world.add("alice").await;
    let proof = world.proof("alice", Door::Web).await;
    let first = world.identity.create_session(&proof, "").await.unwrap();
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    let cookie = |c: &str| format!("jms_sessionid={c}");
    let second = world.identity.create_session(&proof, "").await.unwrap();
    assert!(ask(&world, "GET", &[("cookie", &cookie(&first.cookie))]).is_ok());
    world.settings(|s| s.user_login_single_machine_enabled = true).await;
    let third = world.identity.create_session(&proof, "").await.unwrap();
    for ended in [&first, &second] {
        assert!(ask(&world, "GET", &[("cookie", &cookie(&ended.cookie))]).is_err());
    }
    assert!(ask(&world, "GET", &[("cookie", &cookie(&third.cookie))]).is_ok());
    assert!(bearer(&world, &token.token).is_ok(), "only browsers are meant");
}

#[tokio::test]
async fn the_number_of_tokens_of_a_user_is_bounded() {
    let world = World::new();
    let user = world.add("alice").await;
    let proof = world.proof("alice", Door::Api).await;
    for _ in 0..140 {
        world.identity.create_bearer(&proof, "").await.unwrap();
    }
    assert_eq!(world.identity.user_tokens(user.id).unwrap().len(), 128);
}

/// CVE-2023-43652: a public key alone was exchanged for an API token. A proof of the SSH door gives none, and no
/// function takes a key.
#[tokio::test]
async fn cve_2023_43652_a_log_in_over_ssh_gives_no_api_token() {
    let world = World::new();
    world.add("alice").await;
    let proof = world.proof("alice", Door::Ssh).await;
    assert_eq!(world.identity.create_bearer(&proof, "").await.err().unwrap().code(), "token_invalid");
    assert_eq!(world.identity.create_session(&proof, "").await.err().unwrap().code(), "token_invalid");
}

/// CVE-2025-62712: a list showed tokens of others. No record, list or ledger entry holds what would be needed to use
/// one.
#[tokio::test]
async fn cve_2025_62712_no_list_holds_a_usable_secret() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let proof = world.proof("alice", Door::Api).await;
    let (token, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
    let secrets = [
        world.identity.create_bearer(&proof, "").await.unwrap().token,
        world.identity.create_session(&proof, "").await.unwrap().cookie,
        world.identity.create_private_token(user.id, &by).await.unwrap(),
        world.identity.create_access_key(user.id, IpGroup::any(), &by).await.unwrap().secret,
        value,
    ];
    let mut shown = serde_json::to_string(&token).unwrap();
    for record in world.store.system().list::<ApiToken>().unwrap() {
        shown.push_str(&serde_json::to_string(record.as_ref()).unwrap());
    }
    for record in world.identity.access_keys(user.id).unwrap() {
        shown.push_str(&serde_json::to_string(&record).unwrap());
    }
    for record in world.store.all_orgs(AllOrgs::crossing_organizations()).list::<ConnectionToken>().unwrap() {
        shown.push_str(&serde_json::to_string(record.as_ref()).unwrap());
    }
    for entry in world.ledger(LedgerKind::Login) {
        shown.push_str(&entry.body.to_string());
    }
    for secret in &secrets {
        assert!(!shown.contains(secret.as_str()));
    }
}

#[tokio::test]
async fn a_private_token_is_replaced_by_the_next() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let first = world.identity.create_private_token(user.id, &by).await.unwrap();
    let use_it = |t: &str| ask(&world, "POST", &[("authorization", &format!("Token {t}"))]);
    assert_eq!(use_it(&first).unwrap().how, HowAuthenticated::PrivateToken);
    let second = world.identity.create_private_token(user.id, &by).await.unwrap();
    assert!(use_it(&first).is_err());
    assert!(use_it(&second).is_ok());
}

#[tokio::test]
async fn an_access_key_signs_requests_from_where_it_may() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let from = IpGroup::try_from(vec!["192.0.2.0/24".into()]).unwrap();
    assert!(world.identity.create_access_key(user.id, IpGroup::default(), &by).await.is_err(), "an empty list");
    let key = world.identity.create_access_key(user.id, from, &by).await.unwrap();
    assert!(key.record.secret.is_empty());
    let who = signed(&world, key.record.id, &key.secret, IP).unwrap();
    assert_eq!((who.user.id, who.how, who.token_id), (user.id, HowAuthenticated::AccessKey, key.record.id));
    assert!(matches!(signed(&world, key.record.id, &key.secret, "198.51.100.1"), Err(AuthError::Address)));
    assert!(matches!(signed(&world, key.record.id, "wrong", IP), Err(AuthError::Signature(_))));
    assert!(
        matches!(signed(&world, Uuid::now_v7(), "", IP), Err(AuthError::AccessKey)),
        "an unknown key, empty secret"
    );

    // The use is noted soon, beside the request.
    for _ in 0..200 {
        if world.identity.access_keys(user.id).unwrap()[0].date_last_used.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(world.identity.access_keys(user.id).unwrap()[0].date_last_used, Some(world.now()));

    let stranger = world.add("bob").await;
    assert!(world.identity.delete_access_key(stranger.id, key.record.id, &by).await.is_err());
    world.identity.change_access_key(user.id, key.record.id, Some(false), None, &by).await.unwrap();
    assert!(matches!(signed(&world, key.record.id, &key.secret, IP), Err(AuthError::AccessKey)));
    world.identity.change_access_key(user.id, key.record.id, Some(true), None, &by).await.unwrap();
    assert!(signed(&world, key.record.id, &key.secret, IP).is_ok(), "changing keeps the secret");
    world.identity.delete_access_key(user.id, key.record.id, &by).await.unwrap();
    assert!(world.store.system().get::<AccessKey>(key.record.id).unwrap().is_none());
    assert!(signed(&world, key.record.id, &key.secret, IP).is_err());
}

#[tokio::test]
async fn a_disabled_or_expired_user_is_nobody_whatever_it_holds() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let proof = world.proof("alice", Door::Api).await;
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    let key = world.identity.create_access_key(user.id, IpGroup::any(), &by).await.unwrap();
    let who = bearer(&world, &token.token).unwrap();
    for (active, expired) in [(false, false), (true, true)] {
        world
            .change(user.id, |u| {
                u.is_active = active;
                u.date_expired = if expired { world.now() } else { user.date_expired };
            })
            .await;
        assert!(matches!(bearer(&world, &token.token), Err(AuthError::User)));
        assert!(matches!(signed(&world, key.record.id, &key.secret, IP), Err(AuthError::User)));
        assert!(!world.identity.still_valid(&who) && !world.identity.proof_holds(&proof));
        assert!(world.identity.create_bearer(&proof, "").await.is_err());
        assert!(world.identity.create_connection_token(request(&user), &by).await.is_err());
    }
    // And after a sweep its tokens stay dead when the user comes back.
    assert_eq!(world.identity.sweep().await.unwrap().tokens, 1);
    world.change(user.id, |u| u.date_expired = user.date_expired).await;
    assert!(matches!(bearer(&world, &token.token), Err(AuthError::Token)));
    assert!(signed(&world, key.record.id, &key.secret, IP).is_ok(), "an access key is not a log-in");
}

#[tokio::test]
async fn a_changed_password_ends_everything_but_what_changed_it() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    world.settings(|s| s.auth_temp_token = true).await;
    let proof = world.proof("alice", Door::Web).await;
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    let kept = world.identity.create_session(&proof, "").await.unwrap();
    let private = world.identity.create_private_token(user.id, &by).await.unwrap();
    let (_, temporary) = world.identity.create_temp_password(user.id, &by).await.unwrap();
    let (connection, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
    world.wait(1);
    let wrong = world.identity.change_password(user.id, "wrong", "Another-Horse-43", None, &by).await.unwrap_err();
    assert_eq!(wrong.code(), "password_failed");
    world.identity.change_password(user.id, PASSWORD, "Another-Horse-43", Some(kept.id), &by).await.unwrap();

    assert!(bearer(&world, &token.token).is_err());
    assert!(ask(&world, "GET", &[("authorization", &format!("Token {}", *private))]).is_err());
    assert!(world.begin("alice", Door::Ssh).password(&temporary).await.is_err());
    let told = world.identity.redeem(connection.id, &value, ip(IP), Door::Ssh, "").await.err().unwrap();
    assert_eq!(told.code, LoginCode::TokenInvalid);
    assert!(ask(&world, "GET", &[("cookie", &format!("jms_sessionid={}", *kept.cookie))]).is_ok());
    assert!(world.identity.create_bearer(&proof, "").await.is_err(), "a proof of before is out of date");
    let row = world.ledger(LedgerKind::PasswordChange).pop().unwrap();
    assert_eq!((row.actor, row.body["change_by"].as_str()), (Some(user.id), Some("alice(alice)")));
}

#[tokio::test]
async fn guessing_the_old_password_locks_as_well() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    for _ in 0..7 {
        world.identity.change_password(user.id, "wrong", "Another-Horse-43", None, &by).await.unwrap_err();
    }
    let told = world.identity.change_password(user.id, PASSWORD, "Another-Horse-43", None, &by).await.unwrap_err();
    assert_eq!(told.code(), "block_user_login");
}

#[tokio::test]
async fn earlier_passwords_do_not_come_back_and_two_changes_at_once_do_not_mix() {
    let world = World::new();
    let user = world.add("alice").await;
    world.settings(|s| s.old_password_history_limit_count = 3).await;
    let by = By::system();
    for n in 1..=3 {
        world.identity.reset_password(user.id, &format!("Horse-Number-{n}"), false, &by).await.unwrap();
    }
    for used in [PASSWORD, "Horse-Number-1", "Horse-Number-3"] {
        let error = world.identity.reset_password(user.id, used, false, &by).await.unwrap_err();
        assert!(error.to_string().contains("last 3 passwords"), "{used}: {error}");
    }
    world.identity.reset_password(user.id, "Horse-Number-4", true, &by).await.unwrap();
    world.identity.reset_password(user.id, PASSWORD, true, &by).await.unwrap();
    let step = world.begin("alice", Door::Web).password(PASSWORD).await.unwrap();
    assert!(matches!(step, Step::ChangePassword(_)));

    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..4 {
        let identity = world.identity.clone();
        tasks.spawn(async move {
            identity.reset_password(user.id, &format!("Parallel-Horse-{n}"), false, &By::system()).await
        });
    }
    let mut changed = 0;
    while let Some(result) = tasks.join_next().await {
        match result.unwrap() {
            Ok(()) => changed += 1,
            Err(error) => assert_eq!(error.code(), "conflict"),
        }
    }
    assert!(changed >= 1);
    assert_eq!(world.ledger(LedgerKind::PasswordChange).len(), 6 + changed, "one row for each that happened");
}

#[tokio::test]
async fn a_second_factor_opens_secrets_for_a_while_and_for_this_token_only() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let proof = world.proof("alice", Door::Api).await;
    let one = world.identity.create_bearer(&proof, "").await.unwrap();
    let two = world.identity.create_bearer(&proof, "").await.unwrap();
    let key = world.identity.create_access_key(user.id, IpGroup::any(), &by).await.unwrap();
    let unset = world.identity.verify_mfa(&bearer(&world, &one.token).unwrap(), "000000", &by).await.unwrap_err();
    assert_eq!(unset.code(), "mfa_unset");
    let secret = world.enrol(&user).await;

    let who = bearer(&world, &one.token).unwrap();
    assert!(!world.identity.may_see_secrets(&who).unwrap());
    assert!(world.identity.verify_mfa(&who, "000000", &by).await.is_err());
    let code = world.code(&secret);
    world.identity.verify_mfa(&who, &code, &by).await.unwrap();
    assert!(world.identity.may_see_secrets(&bearer(&world, &one.token).unwrap()).unwrap());
    assert!(!world.identity.may_see_secrets(&bearer(&world, &two.token).unwrap()).unwrap());
    assert!(world.identity.verify_mfa(&bearer(&world, &two.token).unwrap(), &code, &by).await.is_err(), "used");

    world.wait(30);
    let who = signed(&world, key.record.id, &key.secret, IP).unwrap();
    world.identity.verify_mfa(&who, &world.code(&secret), &by).await.unwrap();
    assert!(world.identity.may_see_secrets(&signed(&world, key.record.id, &key.secret, IP).unwrap()).unwrap());
    world.wait(600);
    assert!(!world.identity.may_see_secrets(&bearer(&world, &one.token).unwrap()).unwrap());
    assert!(!world.identity.may_see_secrets(&signed(&world, key.record.id, &key.secret, IP).unwrap()).unwrap());
    world.settings(|s| s.security_view_auth_need_mfa = false).await;
    assert!(world.identity.may_see_secrets(&bearer(&world, &one.token).unwrap()).unwrap());
}

#[tokio::test]
async fn a_log_in_with_two_factors_opens_secrets_at_once() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let Step::Mfa(mut second) = world.begin("alice", Door::Api).password(PASSWORD).await.unwrap() else { panic!() };
    let Step::Done(proof) = second.verify(&world.code(&secret)).await.unwrap() else { panic!() };
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    assert!(world.identity.may_see_secrets(&bearer(&world, &token.token).unwrap()).unwrap());
}

#[tokio::test]
async fn a_required_second_factor_cannot_be_removed_by_its_user_and_an_administrator_can_reset_it() {
    let world = World::new();
    let user = world.add("alice").await;
    let secret = world.enrol(&user).await;
    let by = By::user(&user, ip(IP));
    let Step::Mfa(mut second) = world.begin("alice", Door::Api).password(PASSWORD).await.unwrap() else { panic!() };
    let Step::Done(proof) = second.verify(&world.code(&secret)).await.unwrap() else { panic!() };
    let token = world.identity.create_bearer(&proof, "").await.unwrap();
    let who = bearer(&world, &token.token).unwrap();
    world.wait(30);
    world.settings(|s| s.security_mfa_auth = gatehouse_model::settings::MfaPolicy::All).await;
    assert_eq!(world.identity.disable_mfa(&who, &world.code(&secret), &by).await.unwrap_err().code(), "mfa_required");
    world.settings(|s| s.security_mfa_auth = gatehouse_model::settings::MfaPolicy::Off).await;
    assert!(world.identity.disable_mfa(&who, "000000", &by).await.is_err());
    world.identity.disable_mfa(&who, &world.code(&secret), &by).await.unwrap();
    assert!(matches!(world.begin("alice", Door::Web).password(PASSWORD).await.unwrap(), Step::Done(_)));

    world.enrol(&user).await;
    world.identity.reset_mfa(user.id, &By::system()).await.unwrap();
    assert!(bearer(&world, &token.token).is_err(), "signed out");
    assert!(!world.store.system().get::<User>(user.id).unwrap().unwrap().otp_enrolled);
}

fn request(user: &User) -> ConnectionTokenRequest {
    ConnectionTokenRequest {
        org: gatehouse_model::common::org_ids::DEFAULT,
        user: user.id,
        asset: Uuid::now_v7(),
        asset_display: "web1(10.0.0.1)".into(),
        account: "root".into(),
        protocol: "ssh".into(),
        connect_method: "ssh_client".into(),
        input_username: String::new(),
        input_secret: Some(Zeroizing::new("typed".into())),
        connect_options: serde_json::Map::new(),
        reusable: false,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_one_time_connection_token_starts_one_session_also_when_asked_for_twice_at_once() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    for round in 1..=20 {
        let (token, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
        assert!(value.len() >= 16);
        let together = std::sync::Arc::new(tokio::sync::Barrier::new(4));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (identity, value, together) = (world.identity.clone(), value.clone(), together.clone());
            tasks.spawn(async move {
                together.wait().await;
                identity.redeem(token.id, &value, ip(IP), Door::Ssh, "OpenSSH").await
            });
        }
        let mut won = Vec::new();
        while let Some(result) = tasks.join_next().await {
            match result.unwrap() {
                Ok(redeemed) => won.push(redeemed),
                Err(told) => assert_eq!(told.code, LoginCode::TokenInvalid),
            }
        }
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].proof.user().id, user.id);
        assert_eq!(won[0].input_secret.as_deref().map(String::as_str), Some("typed"));
        assert_eq!((won[0].token.used, won[0].token.is_active), (1, false));
        let left = world.store.in_org(token.org_id).get::<Secret>(token.id).unwrap();
        assert!(left.is_none(), "the typed secret is gone with the token");
        let rows = world.logins();
        assert_eq!(rows.iter().filter(|(_, success)| *success).count(), round);
        assert_eq!(rows.len(), 4 * round);
    }
}

#[tokio::test]
async fn wrong_values_and_unknown_tokens_are_the_same_and_lock_the_address() {
    let world = World::new();
    let user = world.add("alice").await;
    world.settings(|s| s.security_login_ip_limit_count = 6).await;
    let (token, value) = world.identity.create_connection_token(request(&user), &By::system()).await.unwrap();
    let mut told = Vec::new();
    for id in [token.id, Uuid::now_v7()] {
        for typed in ["", "wrong"] {
            told.push(world.identity.redeem(id, typed, ip(IP), Door::Ssh, "").await.err().unwrap().message);
        }
    }
    told.dedup();
    assert_eq!(told.len(), 1, "{told:?}");
    for _ in 0..2 {
        assert!(world.identity.redeem(Uuid::now_v7(), "x", ip(IP), Door::Ssh, "").await.is_err());
    }
    let locked = world.identity.redeem(token.id, &value, ip(IP), Door::Ssh, "").await.err().unwrap();
    assert_eq!(locked.code, LoginCode::BlockIpLogin);
    assert!(world.identity.redeem(token.id, &value, ip("198.51.100.1"), Door::Ssh, "").await.is_ok());
}

#[tokio::test]
async fn connection_tokens_end_by_time_by_hand_and_with_their_user() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let redeem =
        async |id, value: &str| world.identity.redeem(id, value, ip(IP), Door::Ssh, "").await.err().map(|e| e.code);
    let (old, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
    world.wait(300);
    assert_eq!(redeem(old.id, &value).await, Some(LoginCode::TokenInvalid));
    let (token, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
    let org = token.org_id;
    let stranger = world.add("bob").await;
    assert!(world.identity.expire_connection_token(org, stranger.id, token.id, &by).await.is_err());
    assert!(world.identity.expire_connection_token(Uuid::now_v7(), user.id, token.id, &by).await.is_err());
    world.identity.expire_connection_token(org, user.id, token.id, &by).await.unwrap();
    assert_eq!(redeem(token.id, &value).await, Some(LoginCode::TokenInvalid));
    let (token, value) = world.identity.create_connection_token(request(&user), &by).await.unwrap();
    world.change(user.id, |u| u.is_active = false).await;
    assert_eq!(redeem(token.id, &value).await, Some(LoginCode::UserInactive));
    world.wait(2 * 86_400);
    assert_eq!(world.identity.sweep().await.unwrap().connection_tokens, 3);
    assert!(world.identity.connection_tokens(org, user.id).unwrap().is_empty());
}

#[tokio::test]
async fn a_reusable_connection_token_needs_the_setting_and_can_be_made_one_time_again() {
    let world = World::new();
    let user = world.add("alice").await;
    let by = By::user(&user, ip(IP));
    let reusable = || ConnectionTokenRequest { reusable: true, ..request(&user) };
    let refused = world.identity.create_connection_token(reusable(), &by).await.err().unwrap();
    assert_eq!(refused.code(), "reusable_disabled");
    world.settings(|s| s.connection_token_reusable = true).await;
    let (token, value) = world.identity.create_connection_token(reusable(), &by).await.unwrap();
    for n in 1..=3 {
        let redeemed = world.identity.redeem(token.id, &value, ip(IP), Door::Ssh, "").await.ok().unwrap();
        assert_eq!(redeemed.token.used, n);
        assert!(redeemed.input_secret.is_some());
    }
    world.settings(|s| s.connection_token_reusable = false).await;
    assert!(world.identity.redeem(token.id, &value, ip(IP), Door::Ssh, "").await.is_err(), "the setting went off");
    world.settings(|s| s.connection_token_reusable = true).await;
    let changed =
        world.identity.set_connection_token_reusable(token.org_id, user.id, token.id, false, &by).await.unwrap();
    assert!(!changed.is_active, "it was used already");
    assert!(world.identity.redeem(token.id, &value, ip(IP), Door::Ssh, "").await.is_err());
}

#[tokio::test]
async fn entries_of_the_caller_commit_with_the_change_or_not_at_all() {
    let world = World::new();
    let user = world.add("alice").await;
    let entry = || {
        gatehouse_model::ledger::LedgerEntry::new(
            Uuid::now_v7(),
            world.now(),
            Uuid::nil(),
            LedgerKind::Operate,
            serde_json::json!({"action": "create"}),
        )
    };
    let by = By::user(&user, ip(IP)).with_audit(entry());
    world.identity.create_private_token(user.id, &by).await.unwrap();
    assert_eq!(world.ledger(LedgerKind::Operate).len(), 1);
    let by = By::user(&user, ip(IP)).with_audit(entry());
    assert!(world.identity.reset_password(user.id, "short", false, &by).await.is_err());
    assert_eq!(world.ledger(LedgerKind::Operate).len(), 1);
}

#[tokio::test]
async fn a_mailed_set_up_code_goes_by_mail_only_and_works() {
    let world = World::new();
    let user = world.add("alice").await;
    world.identity.mail_set_up_code(user.id, &By::system()).await.unwrap();
    let notice = world.inbox.0.lock().iter().find(|n| n.subject == "Set your password").cloned().unwrap();
    assert_eq!(notice.kind, gatehouse_model::notice::NoticeKind::Credential);
    assert_eq!(notice.recipients, [user.id]);
    let code = notice.text.lines().find(|l| l.starts_with("setup-")).unwrap();
    let step = world.begin("alice", Door::Web).password(code).await.unwrap();
    assert!(matches!(step, Step::ChangePassword(_)));
}

#[tokio::test]
async fn users_are_reminded_once_a_day_of_a_password_that_ends_soon() {
    let world = World::new();
    world.add("alice").await;
    world.settings(|s| s.security_password_expiration_time = 30).await;
    world.wait(24 * 86_400);
    assert_eq!(world.identity.sweep().await.unwrap().reminders, 0);
    world.wait(86_400 + 60);
    assert_eq!(world.identity.sweep().await.unwrap().reminders, 1);
    assert_eq!(world.identity.sweep().await.unwrap().reminders, 0);
    world.wait(86_400);
    assert_eq!(world.identity.sweep().await.unwrap().reminders, 1);
    world.wait(4 * 86_400);
    assert_eq!(world.identity.sweep().await.unwrap().reminders, 0, "over");
}
