//! Assets that are reached through the SSH gateways of their zone (S15): fail-over between two real sshd, a zone whose
//! gateways are all dead, and a gateway that dies under a session.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use gatehouse_tests::api::id;
use gatehouse_tests::interactive::Interactive;
use gatehouse_tests::peers::Sshd;
use gatehouse_tests::world::World;
use gatehouse_tests::{free_port, run_limited};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

async fn gateway(world: &World, zone: &str, name: &str, port: u16, sshd: &Sshd) -> String {
    let platforms = world.admin.list("assets/platforms/?name=Gateway").await;
    let platform = platforms.iter().find(|p| p["name"] == "Gateway").map(id).unwrap();
    let gateway = json!({"name": name, "address": "127.0.0.1", "platform": platform, "zone": zone,
        "protocols": [{"name": "ssh", "port": port}]});
    let gateway = id(&world.admin.post("assets/gateways/", gateway).await);
    world.add_key_account(&gateway, &sshd.user, &sshd.private_key).await;
    gateway
}

struct Stage {
    world: World,
    zone: String,
    sshd: Sshd,
    asset: String,
    login: String,
}

async fn stage() -> Stage {
    let world = World::start().await;
    let zone = id(&world.admin.post("assets/zones/", json!({"name": "factory"})).await);
    let sshd = Sshd::start_with("LogLevel VERBOSE");
    let (asset, _) = world.add_host("plc1", &sshd).await;
    world.admin.patch(&format!("assets/hosts/{asset}/"), json!({"zone": zone})).await;
    let user = world.add_user("alice").await;
    world.grant(&user, &asset).await;
    let login = format!("alice@{}@plc1", sshd.user);
    Stage { world, zone, sshd, asset, login }
}

fn log(sshd: &Sshd) -> String {
    std::fs::read_to_string(sshd.dir.path().join("sshd.log")).unwrap()
}

async fn commands(world: &World, session: &Value) -> Vec<Value> {
    world.admin.list(&format!("terminal/commands/?session={}", id(session))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_gateway_is_passed_over_and_the_working_one_carries_everything() {
    let s = stage().await;
    let mut way = Sshd::start_with("LogLevel VERBOSE");
    gateway(&s.world, &s.zone, "gw-a-dead", free_port(), &way).await;
    gateway(&s.world, &s.zone, "gw-b-works", way.port, &way).await;
    let zone = s.world.admin.get(&format!("assets/zones/{}/", s.zone)).await;
    assert_eq!(zone["gateways"].as_array().map(Vec::len), Some(2), "{zone}");

    let done = run_limited(&mut s.world.ssh(&s.login, &["echo through; exit 3"]), b"", LIMIT);
    assert_eq!((done.code, done.text().as_str()), (Some(3), "through\n"), "{}", done.stderr);
    assert!(log(&way).contains("Accepted publickey"), "the gateway was not used: {}", log(&way));
    // Files go the same way, and the terminal.
    let dir = tempfile::tempdir().unwrap();
    let name = format!("gh-zone-{}", s.world.ssh);
    std::fs::write(dir.path().join("f"), vec![7; 1 << 20]).unwrap();
    let script = format!("put {0}/f {name}\nget {name} {0}/back\nrm {name}\n", dir.path().display());
    run_limited(&mut s.world.sftp(&s.login), script.as_bytes(), LIMIT).ok();
    assert_eq!(std::fs::read(dir.path().join("back")).unwrap(), vec![7; 1 << 20]);

    let mut shell = Interactive::start(s.world.client("ssh").args(["-tt", "-l", &s.login, "127.0.0.1"]));
    shell.send("echo al''ive\r");
    shell.expect("alive");
    // The way is cut: the session ends at once with a reason, for the user and in the row.
    way.cut();
    shell.expect("The session was ended: the connection to the asset was lost");
    shell.wait_end(Duration::from_secs(10));
    let sessions = s.world.ended_sessions(&s.asset, 3).await;
    assert!(sessions.iter().all(|row| row["is_success"] == true), "{sessions:#?}");
    let exec = sessions.iter().find(|row| row["type"]["value"] == "command").unwrap_or_else(|| panic!("{sessions:#?}"));
    assert_eq!(commands(&s.world, exec).await[0]["input"], "echo through; exit 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_gateway_is_dead_the_asset_is_not_dialled_directly_and_each_reason_is_told() {
    let s = stage().await;
    let way = Sshd::start();
    let closed = Sshd::start_with("AllowTcpForwarding no");
    gateway(&s.world, &s.zone, "gw-a-dead", free_port(), &way).await;
    gateway(&s.world, &s.zone, "gw-b-closed", closed.port, &closed).await;
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo in"]), b"", LIMIT);
    assert!(done.code != Some(0) && done.stdout.is_empty(), "{done:?}");
    for part in ["gw-a-dead", "gw-b-closed"] {
        assert!(done.stderr.contains(part), "{part}: {}", done.stderr);
    }
    assert!(!log(&s.sshd).contains("Accepted"), "the asset was dialled past its zone: {}", log(&s.sshd));
    let sessions = s.world.ended_sessions(&s.asset, 1).await;
    assert_eq!(sessions[0]["is_success"], false, "{}", sessions[0]);
    assert_eq!(sessions[0]["error_reason"]["value"], "connect_failed", "{}", sessions[0]);
    assert!(sessions[0]["end_reason"].as_str().unwrap().contains("gw-a-dead"), "{}", sessions[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_without_gateways_is_no_way_around_it() {
    let s = stage().await;
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo in"]), b"", LIMIT);
    assert!(done.code != Some(0) && done.stdout.is_empty(), "{done:?}");
    assert!(done.stderr.contains("has no gateway in use"), "{}", done.stderr);
    // A gateway that is switched off is as good as none.
    let way = Sshd::start();
    let off = gateway(&s.world, &s.zone, "gw", way.port, &way).await;
    s.world.admin.patch(&format!("assets/gateways/{off}/"), json!({"is_active": false})).await;
    let done = run_limited(&mut s.world.ssh(&s.login, &["echo in"]), b"", LIMIT);
    assert!(done.code != Some(0) && done.stdout.is_empty(), "{done:?}");
    assert!(!log(&s.sshd).contains("Accepted"), "{}", log(&s.sshd));
    s.world.admin.patch(&format!("assets/gateways/{off}/"), json!({"is_active": true})).await;
    run_limited(&mut s.world.ssh(&s.login, &["echo in"]), b"", LIMIT).ok();
}
