//! Users come with everything that was given for them, or not at all.

use axum::http::Method;
use serde_json::{Value, json};

use crate::world::{PASSWORD, World};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl laptop";

fn user(name: &str, more: &[(&str, &str)]) -> Value {
    let mut user = json!({"name": name, "username": name, "email": format!("{name}@example.com")});
    for (key, value) in more {
        user[*key] = json!(value);
    }
    user
}

#[tokio::test]
async fn a_user_has_password_and_key_from_the_first_moment() {
    let world = World::start().await;
    let given = [("password_strategy", "custom"), ("password", PASSWORD), ("public_key", KEY)];
    let made = world.admin.post("users/users/", user("ann", &given)).await;
    assert!(made["date_password_last_updated"].is_string(), "{made}");
    let ann = world.login("ann").await;
    assert_eq!(ann.get("users/profile/public-key/").await.as_array().unwrap().len(), 1);
    let log = world.admin.get("audits/password-change-logs/?limit=5").await;
    assert!(log["results"].to_string().contains("ann(ann)"), "{log}");
}

#[tokio::test]
async fn a_user_whose_key_or_password_is_refused_is_not_there() {
    let world = World::start().await;
    world.admin.post("users/users/", user("ann", &[("public_key", KEY)])).await;
    let create = |body: Value| world.admin.ask(Method::POST, "users/users/", Some(body));
    let taken = create(user("bob", &[("password", PASSWORD), ("public_key", KEY)])).await.expect(400);
    assert!(taken["public_key"].is_array(), "{taken}");
    let weak = create(user("bob", &[("password_strategy", "custom"), ("password", "short")])).await.expect(400);
    assert!(weak["password"].is_array(), "{weak}");
    assert_eq!(world.admin.get("users/users/?username=bob").await, json!([]));
    // Nothing of the refused ones is in the way.
    create(user("bob", &[("password", PASSWORD)])).await.expect(201);
    world.login("bob").await;
}
