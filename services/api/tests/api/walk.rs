//! Every route, as strangers and as people without the right.

use axum::http::Method;
use gatehouse_api::{Need, PUBLIC};
use gatehouse_model::builtin;
use gatehouse_model::common::org_ids;
use gatehouse_model::permission;
use serde_json::json;
use uuid::Uuid;

use crate::world::{OTHER, World};

/// A path with an id of nothing for each parameter.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|p| if p.starts_with('{') { "01900000-0000-7000-8000-000000000001" } else { p });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn public_routes_are_those_of_the_list_and_no_others() {
    let world = World::start().await;
    let mut open: Vec<(String, String)> =
        world.routes.iter().filter(|r| r.need.is_none()).map(|r| (r.method.clone(), r.path.clone())).collect();
    open.sort();
    let mut listed: Vec<(String, String)> = PUBLIC.iter().map(|(m, p)| ((*m).to_owned(), (*p).to_owned())).collect();
    listed.sort();
    assert_eq!(open, listed);
}

#[tokio::test]
async fn every_declared_permission_exists() {
    let world = World::start().await;
    for route in &world.routes {
        if let Some(Need::Point(point) | Need::System(point)) = route.need {
            assert!(permission::is_known(point), "{} {} needs {point}, which does not exist", route.method, route.path);
        }
    }
}

/// CVE-2021-3169, CVE-2023-42442, CVE-2025-62795: routes that nobody had guarded.
#[tokio::test]
async fn cve_2021_3169_and_2023_42442_and_2025_62795_no_route_answers_a_stranger() {
    let world = World::start().await;
    let anonymous = world.anonymous();
    let mut walked = 0;
    for route in world.routes.iter().filter(|r| r.need.is_some()) {
        let method: Method = route.method.parse().unwrap();
        let answer = anonymous.ask(method, &filled(&route.path), Some(json!({}))).await;
        assert_eq!(answer.status, 401, "{} {}: {}", route.method, route.path, answer.text());
        walked += 1;
    }
    assert!(walked > 200, "only {walked} routes were walked");
}

#[tokio::test]
async fn a_user_without_roles_is_refused_everywhere_but_at_the_own_things() {
    let world = World::start().await;
    world.add_user("nobody", &[], &[]).await;
    let nobody = world.login("nobody").await;
    for route in &world.routes {
        let Some(need) = route.need else { continue };
        let method: Method = route.method.parse().unwrap();
        if need == Need::Me {
            continue;
        }
        let answer = nobody.ask(method, &filled(&route.path), Some(json!({}))).await;
        assert_eq!(answer.status, 403, "{} {}: {}", route.method, route.path, answer.text());
    }
}

/// An administrator of one organization in another one: refused as if it did not exist, with every method.
#[tokio::test]
async fn an_administrator_of_another_organization_is_refused_everywhere() {
    let world = World::start().await;
    world.add_other_org().await;
    world.add_user("olga", &[], &[(OTHER, builtin::ORG_ADMIN)]).await;
    let olga = world.login("olga").await;
    for foreign in [org_ids::DEFAULT, org_ids::ROOT, Uuid::from_u128(0xDEAD)] {
        let client = olga.in_org(foreign);
        for route in world.routes.iter().filter(|r| r.need.is_some()) {
            let method: Method = route.method.parse().unwrap();
            let answer = client.ask(method, &filled(&route.path), Some(json!({}))).await;
            assert_eq!(answer.status, 403, "{} {}: {}", route.method, route.path, answer.text());
        }
    }
}

/// In the own organization, points of the whole system stay closed to its administrator.
#[tokio::test]
async fn an_organization_administrator_does_not_reach_what_is_of_the_whole_system() {
    let world = World::start().await;
    world.add_user("olga", &[], &[(org_ids::DEFAULT, builtin::ORG_ADMIN)]).await;
    let olga = world.login("olga").await;
    let mut walked = 0;
    for route in &world.routes {
        if let Some(Need::System(_)) = route.need {
            let answer = olga.ask(route.method.parse().unwrap(), &filled(&route.path), Some(json!({}))).await;
            assert_eq!(answer.status, 403, "{} {}: {}", route.method, route.path, answer.text());
            walked += 1;
        }
    }
    assert!(walked > 20, "only {walked} routes were walked");
}

/// Whatever is sent to whatever route, the daemon answers and does not fail.
#[tokio::test]
async fn odd_bodies_and_parameters_never_make_the_server_fail() {
    let world = World::start().await;
    let bodies = [json!(null), json!([]), json!("x"), json!([[1]]), json!({"name": {"a": []}, "id": 7, "users": "x"})];
    for route in world.routes.iter().filter(|r| r.need.is_some() && !r.path.contains("auth/")) {
        let method: Method = route.method.parse().unwrap();
        for (n, body) in bodies.iter().enumerate() {
            let path =
                format!("{}?limit=3&offset=1&order=-name&search=x&date_from=2020-01-01&n={n}", filled(&route.path));
            let answer = world.admin.ask(method.clone(), &path, Some(body.clone())).await;
            let status = answer.status.as_u16();
            assert!(status < 500 || status == 503, "{} {path} {body}: {status} {}", route.method, answer.text());
        }
        let answer = world
            .admin
            .raw(method, &filled(&route.path).replace("01900000", "%2e%2e"), "application/json", b"{".to_vec())
            .await;
        assert!(answer.status.as_u16() < 500 || answer.status == 503, "{} {}", route.path, answer.text());
    }
}
