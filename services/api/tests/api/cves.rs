//! JumpServer's published CVEs that touch routes: why each cannot happen here.

use axum::http::Method;
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use serde_json::json;

use crate::world::{OTHER, World, id};

/// The organization invite overwrote the roles of the invited user.
#[tokio::test]
async fn cve_2026_44846_an_invitation_adds_roles_here_and_changes_nothing_else() {
    let world = World::start().await;
    world.add_other_org().await;
    let ann = world.add_user("ann", &[builtin::SYSTEM_AUDITOR], &[(org_ids::DEFAULT, builtin::ORG_ADMIN)]).await;
    world.add_user("olga", &[], &[(OTHER, builtin::ORG_ADMIN)]).await;
    let olga = world.login("olga").await;
    let body = json!({"users": [ann], "org_roles": [builtin::ORG_USER]});
    olga.ask(Method::POST, "users/users/invite/", Some(body)).await.expect(201);
    let user = world.store.system().get::<gatehouse_model::user::User>(ann).unwrap().unwrap();
    assert_eq!(user.system_roles, [builtin::SYSTEM_AUDITOR]);
    let mut roles: Vec<_> = user.org_roles.iter().map(|r| (r.org, r.role)).collect();
    roles.sort();
    assert_eq!(roles, [(org_ids::DEFAULT, builtin::ORG_ADMIN), (OTHER, builtin::ORG_USER)]);
    // Nor can an invitation give what the inviter does not hold.
    let body = json!({"users": [ann], "org_roles": [builtin::SYSTEM_ADMIN]});
    olga.ask(Method::POST, "users/users/invite/", Some(body)).await.expect(400);
}

/// Super-connection tokens of others could be listed, and tokens were shown with their values.
#[tokio::test]
async fn cve_2025_62712_connection_tokens_are_the_owners_and_never_listed_with_their_value() {
    let world = World::start().await;
    let host = world.add_host(&world.admin, "h").await;
    let account = json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"});
    world.admin.post("accounts/accounts/", account).await;
    let ann = world.add_user("ann", &[], &[(org_ids::DEFAULT, builtin::ORG_USER)]).await;
    let grant = json!({"name": "p", "users": [ann], "assets": [host], "accounts": ["@ALL"]});
    world.admin.post("perms/asset-permissions/", grant).await;
    let client = world.login("ann").await;
    let body = json!({"asset": host, "account": "root", "protocol": "ssh", "connect_method": "ssh_client"});
    let token = client.post("authentication/connection-token/", body.clone()).await;
    let value = token["value"].as_str().unwrap().to_owned();
    assert!(value.len() >= 16);
    let listed = client.get("authentication/connection-token/").await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
    assert!(!listed.to_string().contains(&value));
    assert_eq!(world.admin.get("authentication/connection-token/").await, json!([]));
    let item = format!("authentication/connection-token/{}/", id(&token));
    world.admin.ask(Method::GET, &item, None).await.expect(404);
    world.admin.ask(Method::PATCH, &format!("{item}expire/"), Some(json!({}))).await.expect(404);
    let ended = client.patch(&format!("{item}expire/"), json!({})).await;
    assert_eq!(ended["is_active"], false);
    // Without a grant there is no token, and the answer does not say whether the asset exists.
    world.add_user("bob", &[], &[(org_ids::DEFAULT, builtin::ORG_USER)]).await;
    let refused =
        world.login("bob").await.ask(Method::POST, "authentication/connection-token/", Some(body)).await.expect(400);
    assert_eq!(refused["code"], "perm_account_invalid");
}

/// Open redirects by `next`, `Referer` or a path that begins with two slashes.
#[tokio::test]
async fn cve_2024_24763_and_2025_58044_nothing_redirects_to_where_a_request_says() {
    let world = World::start().await;
    let client = world.anonymous().with("referer", "https://evil.example/");
    for path in ["//evil.example/x", "/core/i18n/en/", "/?next=https://evil.example", "/api/v1/users/users"] {
        let answer = client.ask(Method::GET, path, None).await;
        assert!(!answer.status.is_redirection(), "{path}: {}", answer.status);
        assert!(answer.headers.get("location").is_none());
    }
}

/// Script in stored texts: nothing the API answers may run as script in a browser.
#[tokio::test]
async fn cve_2022_42225_answers_are_never_run_as_script() {
    let world = World::start().await;
    let name = "<script>alert(1)</script>";
    world.admin.post("users/groups/", json!({"name": name})).await;
    let answer = world.admin.ask(Method::GET, "users/groups/", None).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(answer.headers["x-content-type-options"], "nosniff");
    assert!(answer.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
    let page = world.admin.ask(Method::GET, "/api/docs/", None).await;
    assert!(!page.text().contains("<script"));
}

/// Template injection through an address; a path through a file name or an id.
#[tokio::test]
async fn cve_2026_44845_and_2023_42819_addresses_are_hosts_and_ids_are_ids() {
    let world = World::start().await;
    for address in ["{{ 7*7 }}", "10.0.0.1; id", "$(id)", "-oProxyCommand=id", "a b", ""] {
        let body = json!({"name": "h", "address": address, "platform": "Linux"});
        let refused = world.admin.ask(Method::POST, "assets/hosts/", Some(body)).await.expect(400);
        assert!(refused["address"].is_array(), "{address}: {refused}");
    }
    for path in ["terminal/sessions/..%2f..%2fetc%2fpasswd/replay/download/", "audits/ftp-logs/..%2f..%2fx/file/"] {
        world.admin.ask(Method::GET, path, None).await.expect(404);
    }
}

/// Other people's objects by guessing ids.
#[tokio::test]
async fn cve_2024_29020_and_29024_own_things_are_only_the_owners() {
    let world = World::start().await;
    let mine = world.admin.post("authentication/access-keys/", json!({})).await;
    let key = world.admin.post("authentication/ssh-key/", json!({"name": "k"})).await;
    assert!(key["private_key"].as_str().unwrap().contains("OPENSSH PRIVATE KEY"));
    world.add_user("mallory", &[builtin::SYSTEM_ADMIN], &[]).await;
    let mallory = world.login("mallory").await;
    for path in [format!("authentication/access-keys/{}/", id(&mine)), format!("authentication/ssh-key/{}/", id(&key))]
    {
        mallory.ask(Method::DELETE, &path, None).await.expect(404);
    }
    assert_eq!(mallory.get("authentication/access-keys/").await, json!([]));
}

/// Sockets that nobody guarded, and sockets that a foreign page opens with the browser's cookies.
#[tokio::test]
async fn cve_2021_3169_and_2025_62795_a_socket_needs_a_ticket_and_a_page_of_this_box() {
    let world = World::start().await;
    let path = "terminal/sessions/01900000-0000-7000-8000-000000000001/watch/ws/";
    let socket = world.anonymous().with("upgrade", "websocket").with("connection", "upgrade");
    socket.ask(Method::GET, path, None).await.expect(401);
    socket.ask(Method::GET, &format!("{path}?ticket=guessed"), None).await.expect(401);
    let foreign = socket.with("origin", "https://evil.example");
    assert_eq!(foreign.ask(Method::GET, path, None).await.expect(403)["code"], "origin");
    socket.with("origin", "https://box.example").ask(Method::GET, path, None).await.expect(401);
    world.admin.ask(Method::POST, &path.replace("watch/ws/", "watch-ticket/"), None).await.expect(404);
    world.admin.ask(Method::GET, &path.replace("ws/", ""), None).await.expect(404);
}
