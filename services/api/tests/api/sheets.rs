//! Spreadsheets out and in.

use axum::http::Method;
use gatehouse_model::common::org_ids;
use serde_json::json;

use crate::world::{World, id};

const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";

#[tokio::test]
async fn users_groups_assets_and_accounts_round_trip_through_both_formats() {
    let world = World::start().await;
    let admin = world.admin.in_org(org_ids::DEFAULT);
    let host = world.add_host(&admin, "h1").await;
    admin
        .post(
            "accounts/accounts/",
            json!({"asset": host, "name": "root", "username": "root", "secret": "pw-of-root-1"}),
        )
        .await;
    let user = json!({"name": "Ann, \"the\" one", "username": "ann", "email": "ann@example.com", "comment": "=1+1"});
    let ann = id(&admin.post("users/users/", user).await);
    admin.post("users/groups/", json!({"name": "ops", "users": [ann]})).await;
    for path in [
        "users/users/",
        "users/groups/",
        "assets/hosts/",
        "assets/assets/",
        "accounts/accounts/",
        "perms/asset-permissions/",
    ] {
        for (format, kind) in [("csv", "text/csv"), ("xlsx", XLSX)] {
            let before = admin.get(path).await;
            let exported = admin.ask(Method::GET, &format!("{path}?format={format}"), None).await;
            assert_eq!(exported.status, 200, "{path} {format}: {}", exported.text());
            assert!(!exported.text().contains("pw-of-root-1"), "{path}: a secret was exported");
            assert!(format != "csv" || !exported.text().contains(",=1"), "{path}: a formula was exported");
            // What was exported and not changed changes nothing when it comes back.
            let back = admin.raw(Method::PUT, path, kind, exported.bytes).await;
            assert_eq!(back.status, 200, "{path} {format}: {}", back.text());
            let after = admin.get(path).await;
            let plain = |rows: &serde_json::Value| {
                let mut rows = rows.as_array().unwrap().clone();
                for row in &mut rows {
                    row.as_object_mut().unwrap().remove("date_updated");
                }
                rows
            };
            assert_eq!(plain(&before), plain(&after), "{path} {format}");
        }
    }
}

#[tokio::test]
async fn imports_create_and_update_all_rows_or_none() {
    let world = World::start().await;
    let admin = &world.admin;
    let template = admin.ask(Method::GET, "assets/hosts/?format=csv&template=import", None).await.text();
    assert!(template.contains("*Name(name)") && template.contains("*Platform(platform)"), "{template}");
    let sheet = b"*Name,*Address,*Platform,Protocols\nw1,10.0.0.1,Linux,\nw2,10.0.0.2,Linux,\"[{\"\"name\"\":\"\"ssh\"\",\"\"port\"\":2222}]\"\n";
    let made = admin.raw(Method::POST, "assets/hosts/", "text/csv", sheet.to_vec()).await.expect(201);
    assert_eq!(made[1]["protocols"], json!([{"name": "ssh", "port": 2222}]));
    let bad = b"name,address,platform\nw3,10.0.0.3,Linux\nw4,10.0.0.4,NoSuchPlatform\n";
    let refused = admin.raw(Method::POST, "assets/hosts/", "text/csv", bad.to_vec()).await.expect(400);
    assert_eq!(refused[0], json!({}));
    assert!(refused[1]["platform"][0].as_str().unwrap().contains("NoSuchPlatform"), "{refused}");
    assert_eq!(admin.get("assets/hosts/").await.as_array().unwrap().len(), 2);
    let update = format!("id,comment,name,address,platform\n{},changed,,,\n,,w5,10.0.0.5,Linux\n", id(&made[0]));
    admin.raw(Method::PUT, "assets/hosts/", "text/csv", update.into_bytes()).await.expect(200);
    let rows = admin.get("assets/hosts/?order=name").await;
    assert_eq!((&rows[0]["comment"], &rows[2]["name"]), (&json!("changed"), &json!("w5")));
    admin.raw(Method::POST, "assets/hosts/", "text/csv", b"nonsense\n1\n".to_vec()).await.expect(400);
}
