//! The same life for every resource: made, listed, read, changed, described, deleted, and each step in the operation log.

use axum::http::Method;
use gatehouse_model::common::org_ids;
use serde_json::{Value, json};

use crate::world::{PASSWORD, World, id};

/// (path, a whole body, a change, the field that tells it)
fn lives() -> Vec<(&'static str, Value, Value)> {
    let any = json!({"type": "all"});
    vec![
        (
            "users/users/",
            json!({"name": "Ann", "username": "ann", "email": "ann@example.com", "password_strategy": "custom",
                "password": PASSWORD}),
            json!({"name": "Ann B."}),
        ),
        ("users/groups/", json!({"name": "ops"}), json!({"comment": "on call"})),
        ("orgs/orgs/", json!({"name": "Branch"}), json!({"name": "Branch 2"})),
        (
            "rbac/org-roles/",
            json!({"name": "viewer", "permissions": ["assets.view_asset"]}),
            json!({"name": "viewers"}),
        ),
        (
            "rbac/system-roles/",
            json!({"name": "auditors", "permissions": ["audits.view_operatelog"]}),
            json!({"comment": "x"}),
        ),
        ("labels/labels/", json!({"name": "env", "value": "prod"}), json!({"color": "red"})),
        (
            "assets/platforms/",
            json!({"name": "My Linux", "category": "host", "type": {"value": "linux"},
                "protocols": [{"name": "ssh", "port": 2022, "default": true}]}),
            json!({"charset": "gbk"}),
        ),
        ("assets/zones/", json!({"name": "dmz"}), json!({"comment": "outside"})),
        ("assets/nodes/", json!({"value": "web"}), json!({"value": "front"})),
        (
            "assets/assets/",
            json!({"name": "a1", "address": "10.0.0.1", "platform": "Linux"}),
            json!({"address": "10.0.0.2"}),
        ),
        (
            "assets/hosts/",
            json!({"name": "h1", "address": "10.0.0.1", "platform": "Linux"}),
            json!({"is_active": false}),
        ),
        (
            "assets/devices/",
            json!({"name": "d1", "address": "10.0.0.9", "platform": "Cisco"}),
            json!({"comment": "core"}),
        ),
        (
            "accounts/account-templates/",
            json!({"name": "t", "username": "root", "secret": "s3cret-of-t"}),
            json!({"privileged": true}),
        ),
        (
            "perms/asset-permissions/",
            json!({"name": "all", "accounts": ["@ALL"], "actions": ["connect", "upload"]}),
            json!({"is_active": false}),
        ),
        ("acls/login-acls/", json!({"name": "night", "users": any}), json!({"priority": 7})),
        ("acls/login-asset-acls/", json!({"name": "prod", "users": any, "assets": any}), json!({"action": "accept"})),
        (
            "acls/command-groups/",
            json!({"name": "danger", "content": "rm -rf /\nreboot"}),
            json!({"ignore_case": false}),
        ),
        (
            "acls/connect-method-acls/",
            json!({"name": "nosftp", "users": any, "connect_methods": ["sftp_client"]}),
            json!({"priority": 3}),
        ),
    ]
}

#[tokio::test]
async fn every_resource_lives_from_creation_to_deletion_and_the_log_knows() {
    let world = World::start().await;
    let admin = world.admin.in_org(org_ids::DEFAULT);
    for (path, body, change) in lives() {
        let made = admin.post(path, body).await;
        let item = format!("{path}{}/", id(&made));
        let read = admin.get(&item).await;
        assert_eq!(id(&read), id(&made), "{path}");

        let page = admin.get(&format!("{path}?limit=1000")).await;
        let rows = page["results"].as_array().unwrap();
        assert_eq!(page["count"].as_u64().unwrap(), rows.len() as u64, "{path}");
        assert!(rows.iter().any(|r| r["id"] == made["id"]), "{path}: not in the list");
        assert!(admin.get(path).await.is_array(), "{path}: without limit it is an array");

        let (field, value) = change.as_object().unwrap().iter().next().unwrap();
        let changed = admin.patch(&item, change.clone()).await;
        let shown = changed[field].get("value").unwrap_or(&changed[field]);
        assert_eq!(shown, value, "{path}");
        assert_eq!(admin.get(&item).await[field], changed[field], "{path}");

        let options = admin.ask(Method::OPTIONS, path, None).await.expect(200);
        assert!(options["actions"]["POST"].as_object().unwrap().contains_key(field), "{path}: {options}");

        let missing = admin.ask(Method::POST, path, Some(json!({}))).await.expect(400);
        assert!(missing.as_object().unwrap().values().all(Value::is_array), "{path}: {missing}");

        admin.delete(&item).await;
        admin.ask(Method::GET, &item, None).await.expect(404);

        let log =
            world.admin.in_org(org_ids::ROOT).get(&format!("audits/operate-logs/?resource_id={}", id(&made))).await;
        let actions: Vec<&str> =
            log.as_array().unwrap().iter().map(|e| e["action"]["value"].as_str().unwrap()).collect();
        for action in ["create", "update", "delete"] {
            assert!(actions.contains(&action), "{path}: {actions:?}");
        }
    }
}

#[tokio::test]
async fn unique_names_filters_search_order_and_pages() {
    let world = World::start().await;
    let admin = &world.admin;
    for (n, name) in ["web1", "web2", "db1"].iter().enumerate() {
        let body = json!({"name": name, "address": format!("10.0.{n}.1"), "platform": "Linux", "comment": "Rack A"});
        admin.post("assets/hosts/", body).await;
    }
    let again = json!({"name": "web1", "address": "10.9.9.9", "platform": "Linux"});
    let refused = admin.ask(Method::POST, "assets/hosts/", Some(again)).await.expect(400);
    assert!(refused["name"].is_array(), "{refused}");

    let names = |rows: Value| -> Vec<String> {
        rows.as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(admin.get("assets/hosts/?order=-name").await), ["web2", "web1", "db1"]);
    assert_eq!(names(admin.get("assets/hosts/?search=WEB&order=name").await), ["web1", "web2"]);
    assert_eq!(names(admin.get("assets/hosts/?search=rack,10.0.2&order=name").await), ["db1"]);
    assert_eq!(names(admin.get("assets/hosts/?name=db1").await), ["db1"]);
    assert_eq!(names(admin.get("assets/hosts/?name__startswith=web&order=name").await), ["web1", "web2"]);
    assert_eq!(names(admin.get("assets/hosts/?name__in=db1,web2&order=name").await), ["db1", "web2"]);
    assert_eq!(names(admin.get("assets/hosts/?is_active=0").await), Vec::<String>::new());
    assert_eq!(names(admin.get("assets/hosts/?category=host&type=linux&order=name&address=10.0.0.1").await), ["web1"]);
    let page = admin.get("assets/hosts/?limit=2&offset=1&order=name").await;
    assert_eq!(page["count"], 3);
    assert_eq!(page["next"], Value::Null);
    assert_eq!(page["previous"], "https://box.example/api/v1/assets/hosts/?order=name&limit=2&offset=0");
    assert_eq!(names(page["results"].clone()), ["web1", "web2"]);
}

#[tokio::test]
async fn bulk_is_all_or_nothing_and_deletes_need_a_key() {
    let world = World::start().await;
    let admin = &world.admin;
    let good = |n: u8| json!({"name": format!("h{n}"), "address": "10.0.0.1", "platform": "Linux"});
    let refused = admin.ask(Method::POST, "assets/hosts/", Some(json!([good(1), {"name": "h2"}]))).await.expect(400);
    assert_eq!(refused[0], json!({}));
    assert!(refused[1]["platform"].is_array(), "{refused}");
    assert_eq!(admin.get("assets/hosts/").await, json!([]));

    let made = admin.post("assets/hosts/", json!([good(1), good(2), good(3)])).await;
    let ids: Vec<String> = made.as_array().unwrap().iter().map(id).collect();
    let changes: Vec<Value> = ids.iter().map(|i| json!({"id": i, "comment": "all"})).collect();
    admin.patch("assets/hosts/", json!(changes)).await;
    assert_eq!(admin.get("assets/hosts/?comment=all").await.as_array().unwrap().len(), 3);

    admin.ask(Method::DELETE, "assets/hosts/", None).await.expect(400);
    let key = admin.post("common/resources/cache/", json!({"resources": ids[..2]})).await;
    let path = format!("assets/hosts/?spm={}", key["spm"].as_str().unwrap());
    // Somebody else's key opens nothing.
    world.add_user("second", &[gatehouse_model::builtin::SYSTEM_ADMIN], &[]).await;
    world.login("second").await.ask(Method::DELETE, &path, None).await.expect(400);
    admin.delete(&path).await;
    assert_eq!(admin.get("assets/hosts/").await.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn deleting_takes_an_object_out_of_grants_groups_and_rules() {
    let world = World::start().await;
    let admin = &world.admin;
    let user = |n: u8| {
        json!({"name": "u", "username": format!("u{n}"), "email": format!("u{n}@example.com"),
        "password_strategy": "custom", "password": PASSWORD})
    };
    let (a, b) = (id(&admin.post("users/users/", user(1)).await), id(&admin.post("users/users/", user(2)).await));
    let group = id(&admin.post("users/groups/", json!({"name": "g", "users": [a, b]})).await);
    let host = world.add_host(admin, "h").await;
    let account = json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"});
    let account = id(&admin.post("accounts/accounts/", account).await);
    let grant = json!({"name": "p", "users": [a, b], "user_groups": [group], "assets": [host], "accounts": ["@ALL"]});
    let grant = id(&admin.post("perms/asset-permissions/", grant).await);
    let rule = json!({"name": "r", "users": {"type": "ids", "ids": [a]}, "assets": {"type": "ids", "ids": [host]}});
    let rule = id(&admin.post("acls/login-asset-acls/", rule).await);

    let key = admin.post("common/resources/cache/", json!({"resources": [a, b]})).await;
    admin.delete(&format!("users/users/?spm={}", key["spm"].as_str().unwrap())).await;
    admin.delete(&format!("assets/hosts/{host}/")).await;

    assert_eq!(admin.get(&format!("users/groups/{group}/")).await["users"], json!([]));
    let left = admin.get(&format!("perms/asset-permissions/{grant}/")).await;
    assert_eq!((&left["users"], &left["assets"]), (&json!([]), &json!([])));
    let left = admin.get(&format!("acls/login-asset-acls/{rule}/")).await;
    assert_eq!(left["users"], json!({"type": "ids", "ids": []}));
    assert_eq!(left["assets"], json!({"type": "ids", "ids": []}));
    admin.ask(Method::GET, &format!("accounts/accounts/{account}/"), None).await.expect(404);
    admin.ask(Method::GET, &format!("accounts/account-secrets/{account}/"), None).await;
}

#[tokio::test]
async fn what_the_system_needs_cannot_be_deleted_or_changed() {
    let world = World::start().await;
    let admin = &world.admin;
    let own = id(&admin.get("users/users/?username=admin").await[0]);
    let refused = admin.ask(Method::DELETE, &format!("users/users/{own}/"), None).await.expect(400);
    assert_eq!(refused["code"], "own_account");
    admin.ask(Method::PATCH, &format!("users/users/{own}/"), Some(json!({"is_active": false}))).await.expect(400);
    // The last administrator stays one, whoever asks and by whatever door.
    let body = json!({"system_roles": ["00000000-0000-0000-0000-000000000003"]});
    let refused = admin.ask(Method::PATCH, &format!("users/users/{own}/"), Some(body)).await.expect(400);
    assert_eq!(refused["code"], "last_administrator");
    let linux = id(&admin.get("assets/platforms/?name=Linux").await[0]);
    admin.ask(Method::PATCH, &format!("assets/platforms/{linux}/"), Some(json!({"name": "x"}))).await.expect(400);
    admin.ask(Method::DELETE, &format!("assets/platforms/{linux}/"), None).await.expect(400);
    let role = "rbac/system-roles/00000000-0000-0000-0000-000000000001/";
    admin.ask(Method::DELETE, role, None).await.expect(400);
    admin.ask(Method::PATCH, role, Some(json!({"permissions": []}))).await.expect(400);
    let nodes = admin.get("assets/nodes/").await;
    let root = id(&nodes[0]);
    admin.ask(Method::DELETE, &format!("assets/nodes/{root}/"), None).await.expect(400);
    admin.ask(Method::DELETE, "orgs/orgs/00000000-0000-0000-0000-000000000002/", None).await.expect(400);
    let rule = json!({"name": "r", "users": {"type": "all"}, "assets": {"type": "all"}, "action": "review"});
    let refused = admin.ask(Method::POST, "acls/login-asset-acls/", Some(rule)).await.expect(400);
    assert!(refused["action"][0].as_str().unwrap().contains("approvals"), "{refused}");
}

#[tokio::test]
async fn the_asset_tree_grows_moves_and_holds_assets() {
    let world = World::start().await;
    let admin = &world.admin;
    let root = id(&admin.get("assets/nodes/").await[0]);
    let child = |parent: &str, name: &str| {
        let (admin, path, body) = (admin.clone(), format!("assets/nodes/{parent}/children/"), json!({"value": name}));
        async move { admin.post(&path, body).await }
    };
    let web = child(&root, "web").await;
    assert_eq!((&web["key"], &web["full_value"]), (&json!("1:1"), &json!("/Default/web")));
    let db = id(&child(&root, "db").await);
    let eu = id(&child(&id(&web), "eu").await);
    let taken = admin
        .ask(Method::POST, &format!("assets/nodes/{root}/children/"), Some(json!({"value": "web"})))
        .await
        .expect(400);
    assert!(taken["value"].is_array(), "{taken}");

    let host = world.add_host(admin, "h1").await;
    let place = |node: &str, what: &str| {
        let (admin, path, body) =
            (admin.clone(), format!("assets/nodes/{node}/assets/{what}/"), json!({"assets": [host]}));
        async move { admin.ask(Method::PUT, &path, Some(body)).await.expect(200) }
    };
    assert_eq!(place(&eu, "replace").await["assets_amount"], 1);
    place(&db, "add").await;
    let count = |node: String| {
        let admin = admin.clone();
        async move { admin.get(&format!("assets/nodes/{node}/")).await["assets_amount"].clone() }
    };
    // In two nodes, counted once above them.
    assert_eq!(
        (count(root.clone()).await, count(id(&web)).await, count(db.clone()).await),
        (json!(1), json!(1), json!(1))
    );
    assert_eq!(admin.get(&format!("assets/hosts/?node={}", id(&web))).await.as_array().unwrap().len(), 1);
    assert_eq!(
        admin.get(&format!("assets/hosts/?node={}&show_current_asset=1", id(&web))).await.as_array().unwrap().len(),
        0
    );
    admin.ask(Method::DELETE, &format!("assets/nodes/{eu}/"), None).await.expect(400);

    admin.ask(Method::PUT, &format!("assets/nodes/{eu}/move/"), Some(json!({"parent": db}))).await.expect(200);
    assert_eq!(admin.get(&format!("assets/nodes/{eu}/")).await["full_value"], "/Default/db/eu");
    place(&eu, "remove").await;
    place(&db, "remove").await;
    // Never in no node at all.
    let nodes = admin.get(&format!("assets/hosts/{host}/")).await["nodes"].clone();
    assert_eq!(id(&nodes[0]), root);
    let tree = admin.get("assets/nodes/children/tree/").await;
    assert!(tree.as_array().unwrap().iter().any(|n| n["id"] == "1" && n["meta"]["type"] == "node"), "{tree}");
    assert_eq!(admin.post("assets/nodes/check_assets_amount/", json!({})).await["differs"], json!([]));
}
