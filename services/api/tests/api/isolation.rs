//! Organizations do not see one another, and nobody hands out what they do not hold.

use axum::http::Method;
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use serde_json::json;

use crate::world::{OTHER, PASSWORD, World, id};

#[tokio::test]
async fn objects_of_another_organization_cannot_be_seen_changed_or_pointed_at() {
    let world = World::start().await;
    world.add_other_org().await;
    let other = world.admin.in_org(OTHER);
    let default = world.admin.in_org(org_ids::DEFAULT);
    let host = world.add_host(&other, "secret-host").await;
    let group = id(&other.post("users/groups/", json!({"name": "g"})).await);
    let label = id(&other.post("labels/labels/", json!({"name": "env", "value": "prod"})).await);
    let node = id(&other.get("assets/nodes/").await[0]);
    for path in [
        format!("assets/hosts/{host}/"),
        format!("assets/assets/{host}/"),
        format!("users/groups/{group}/"),
        format!("labels/labels/{label}/"),
        format!("assets/nodes/{node}/"),
    ] {
        default.ask(Method::GET, &path, None).await.expect(404);
        default.ask(Method::PATCH, &path, Some(json!({"comment": "x"}))).await.expect(404);
        default.ask(Method::DELETE, &path, None).await.expect(404);
        world.admin.in_org(org_ids::ROOT).ask(Method::GET, &path, None).await.expect(200);
    }
    assert_eq!(default.get("assets/hosts/?search=secret-host").await, json!([]));
    for body in [json!({"assets": [host]}), json!({"nodes": [node]}), json!({"user_groups": [group]})] {
        let mut grant = json!({"name": "p", "accounts": ["@ALL"]});
        grant.as_object_mut().unwrap().extend(body.as_object().unwrap().clone());
        let refused = default.ask(Method::POST, "perms/asset-permissions/", Some(grant)).await.expect(400);
        assert!(refused.to_string().contains("does not exist"), "{refused}");
    }
    let account = json!({"asset": host, "name": "root", "username": "root"});
    default.ask(Method::POST, "accounts/accounts/", Some(account)).await.expect(400);
    let refused = world
        .admin
        .in_org(org_ids::ROOT)
        .ask(Method::POST, "users/groups/", Some(json!({"name": "x"})))
        .await
        .expect(400);
    assert_eq!(refused["code"], "global_organization");
}

#[tokio::test]
async fn the_organization_comes_from_header_cookie_or_query_and_defaults_to_the_users_own() {
    let world = World::start().await;
    world.add_other_org().await;
    world.add_user("olga", &[], &[(OTHER, builtin::ORG_ADMIN)]).await;
    let olga = world.login("olga").await;
    assert_eq!(olga.get("orgs/orgs/current/").await["id"], json!(OTHER));
    let admin = &world.admin;
    assert_eq!(admin.get("orgs/orgs/current/").await["id"], json!(org_ids::DEFAULT));
    assert_eq!(admin.get(&format!("orgs/orgs/current/?oid={OTHER}")).await["id"], json!(OTHER));
    let by_cookie = admin.with("cookie", &format!("a=b; X-JMS-ORG={OTHER}"));
    assert_eq!(by_cookie.get("orgs/orgs/current/").await["id"], json!(OTHER));
    for unknown in ["nonsense", "00000000-0000-0000-0000-0000000000aa"] {
        admin.with("x-jms-org", unknown).ask(Method::GET, "assets/hosts/", None).await.expect(403);
    }
}

#[tokio::test]
async fn nobody_gives_or_takes_a_role_or_permission_beyond_their_own() {
    let world = World::start().await;
    world.add_user("olga", &[], &[(org_ids::DEFAULT, builtin::ORG_ADMIN)]).await;
    let olga = world.login("olga").await;
    let body = |extra: serde_json::Value| {
        let mut body = json!({"name": "x", "username": "x", "email": "x@example.com", "password_strategy": "custom", "password": PASSWORD});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let up = body(json!({"system_roles": [builtin::SYSTEM_ADMIN]}));
    let refused = olga.ask(Method::POST, "users/users/", Some(up)).await.expect(403);
    assert_eq!(refused["code"], "role_escalation");
    // The administrator of the system is a member too: not for olga to touch, by any door.
    let admin = id(&world.admin.get("users/users/?username=admin").await[0]);
    for (method, path, body) in [
        (Method::PATCH, format!("users/users/{admin}/"), json!({"email": "olga@evil.example"})),
        (Method::PUT, format!("users/users/{admin}/password/reset/"), json!({})),
        (Method::PUT, format!("users/users/{admin}/mfa/reset/"), json!({})),
        (Method::PUT, format!("users/users/{admin}/pubkey/reset/"), json!({})),
        (Method::DELETE, format!("users/users/{admin}/"), json!({})),
    ] {
        let refused = olga.ask(method, &path, Some(body)).await.expect(403);
        assert_eq!(refused["code"], "beyond_authority", "{path}");
    }
    // A helper who may bind roles cannot make itself an administrator.
    let helper = json!({"name": "helper", "permissions": ["users.view_user", "users.change_user", "rbac.view_rolebinding",
        "rbac.add_rolebinding", "rbac.add_orgrolebinding"]});
    let helper = id(&world.admin.post("rbac/org-roles/", helper).await);
    let henry = world.add_user("henry", &[], &[(org_ids::DEFAULT, helper.parse().unwrap())]).await;
    let as_henry = world.login("henry").await;
    let body = json!({"user": henry, "role": builtin::ORG_ADMIN});
    as_henry.ask(Method::POST, "rbac/role-bindings/", Some(body)).await.expect(403);
    let body = json!({"org_roles": [helper, builtin::ORG_ADMIN]});
    as_henry.ask(Method::PATCH, &format!("users/users/{henry}/"), Some(body)).await.expect(403);
}
