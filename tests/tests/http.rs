//! The web door: JumpServer's authentication schemes with foreign clients, and what must not be possible.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use gatehouse_tests::api::{Api, ROOT_ORG, id};
use gatehouse_tests::run_limited;
use gatehouse_tests::world::{USER_PASSWORD, World};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn the_manuals_python_example_of_http_signature_works_unchanged() {
    let world = World::start().await;
    let key = world.admin.post("authentication/access-keys/", json!({"ip_group": ["*"]})).await;
    // The example of the JumpServer manual (section 3.4): only URL and keys differ; verify=False stands for the
    // certificate that a test box cannot have.
    let script = r#"
import requests, datetime, json, sys, functools
requests.get = functools.partial(requests.get, verify=False)
from httpsig.requests_auth import HTTPSignatureAuth
def get_auth(KeyID, SecretID):
    signature_headers = ['(request-target)', 'accept', 'date']
    auth = HTTPSignatureAuth(key_id=KeyID, secret=SecretID, algorithm='hmac-sha256', headers=signature_headers)
    return auth
def get_user_info(jms_url, auth):
    url = jms_url + '/api/v1/users/users/'
    gmt_form = '%a, %d %b %Y %H:%M:%S GMT'
    headers = {
        'Accept': 'application/json',
        'X-JMS-ORG': '00000000-0000-0000-0000-000000000002',
        'Date': datetime.datetime.utcnow().strftime(gmt_form)
    }
    response = requests.get(url, auth=auth, headers=headers)
    print(json.loads(response.text))
if __name__ == '__main__':
    jms_url = sys.argv[1]
    KeyID = sys.argv[2]
    SecretID = sys.argv[3]
    auth = get_auth(KeyID, SecretID)
    get_user_info(jms_url, auth)
"#;
    let python = gatehouse_tests::python();
    let run = |secret: &str| {
        let mut command = Command::new(&python);
        command.args(["-W", "ignore", "-c", script, &world.base(), key["id"].as_str().unwrap(), secret]);
        run_limited(&mut command, b"", Duration::from_secs(60))
    };
    let done = run(key["secret"].as_str().unwrap()).ok();
    assert!(done.text().contains("'username': 'admin'"), "{}", done.text());
    let wrong = run("00000000-0000-0000-0000-00000000dead");
    assert!(!wrong.text().contains("'username'"), "{}", wrong.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_roles_reaches_nothing_and_another_organization_is_invisible() {
    let world = World::start().await;
    let org = id(&world.admin.post("orgs/orgs/", json!({"name": "Other"})).await);
    let asset = world.add_bare_host("default-only", "10.9.8.7", 22).await;
    let in_other = world.admin.in_org(&org);
    let admin_of_other = json!({
        "name": "Olga", "username": "olga", "email": "olga@example.com", "password_strategy": "custom",
        "password": "Brave-Otter-77-Climbs-High", "need_update_password": false,
        "org_roles": ["00000000-0000-0000-0000-000000000005"],
    });
    in_other.post("users/users/", admin_of_other).await;
    let olga = Api::login(&world.base(), "olga", "Brave-Otter-77-Climbs-High").await;

    assert_eq!(olga.in_org(&org).list("assets/hosts/").await.len(), 0);
    let (status, _) = olga.in_org(&org).ask(reqwest::Method::GET, &format!("assets/hosts/{asset}/"), None).await;
    assert_eq!(status, 404);
    for foreign in [gatehouse_tests::api::DEFAULT_ORG, ROOT_ORG] {
        let (status, body) = olga.in_org(foreign).ask(reqwest::Method::GET, "assets/hosts/", None).await;
        assert!(status == 403 || status == 404, "{foreign}: {status} {body}");
    }
    let alice = world.add_user("alice").await;
    let alice_api = Api::login(&world.base(), "alice", USER_PASSWORD).await;
    for path in ["users/users/", "assets/hosts/", "accounts/accounts/", "audits/login-logs/", "terminal/sessions/"] {
        let (status, body) = alice_api.ask(reqwest::Method::GET, path, None).await;
        assert_eq!(status, 403, "{path}: {body}");
    }
    let (status, _) =
        alice_api.ask(reqwest::Method::PATCH, &format!("users/users/{alice}/"), Some(json!({"name": "x"}))).await;
    assert_eq!(status, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_failed_logins_lock_the_user_and_leave_every_attempt_in_the_log() {
    let world = World::start().await;
    let user = world.add_user("alice").await;
    let anonymous = Api::anonymous(&world.base());
    let try_login = |password: &'static str| {
        let body = json!({"username": "alice", "password": password});
        let anonymous = anonymous.clone();
        async move { anonymous.ask(reqwest::Method::POST, "authentication/auth/", Some(body)).await }
    };
    for _ in 0..7 {
        assert!(try_login("wrong-password").await.0 >= 400);
    }
    let (status, body) = try_login(USER_PASSWORD).await;
    assert!(status >= 400, "the right password opened a locked user: {body}");
    let rows = world.admin.list("audits/login-logs/?username=alice&limit=100").await;
    assert_eq!(rows.len(), 8, "{rows:#?}");
    world.admin.patch(&format!("users/users/{user}/unblock/"), json!({})).await;
    let (status, body) = try_login(USER_PASSWORD).await;
    assert_eq!(status / 100, 2, "{body}");
}
