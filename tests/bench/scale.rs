//! 100,000 assets and 1,000 grants: what lists, trees and searches take.

use std::time::Instant;

use gatehouse_tests::api::{Api, id};
use gatehouse_tests::world::{USER_PASSWORD, World};
use serde_json::{Value, json};

use crate::figures::{Better, Report, median, quantile, rss_kib};

const ASSETS: usize = 100_000;
const GRANTS: usize = 1_000;
const NODES: usize = 500;
const BATCH: usize = 1_000;

pub(crate) async fn run(world: &World, report: &mut Report) {
    let idle = rss_kib(world.pid()) / 1024.0;
    report.judge("idle daemon", idle, "MiB", 60.0, Better::Lower);
    let admin = &world.admin;
    let platforms = admin.list("assets/platforms/?name=Linux").await;
    let linux = id(platforms.iter().find(|p| p["name"] == "Linux").unwrap());
    let user = world.add_user("alice").await;
    let root = admin.list("assets/nodes/?limit=10").await.swap_remove(0);
    let (root, root_key) = (id(&root), root["key"].as_str().unwrap().to_owned());
    let mut nodes = Vec::new();
    for n in 0..NODES {
        let node = admin.post(&format!("assets/nodes/{root}/children/"), json!({"value": format!("node-{n}")})).await;
        nodes.push(id(&node));
    }
    let begin = Instant::now();
    let mut assets = Vec::new();
    for from in (0..ASSETS).step_by(BATCH) {
        let rows: Vec<Value> = (from..from + BATCH)
            .map(|n| {
                json!({
                    "name": format!("host-{n:06}"), "address": format!("10.{}.{}.{}", n >> 16, n >> 8 & 255, n & 255),
                    "platform": linux, "nodes": [nodes[n % NODES]],
                    "protocols": [{"name": "ssh", "port": 22}, {"name": "sftp", "port": 22}],
                })
            })
            .collect();
        let made = admin.post("assets/hosts/", Value::Array(rows)).await;
        assets.extend(made.as_array().unwrap().iter().step_by(100).map(id));
    }
    report.note(
        "created assets per second, over the API with audit",
        ASSETS as f64 / begin.elapsed().as_secs_f64(),
        "/s",
    );
    for from in (0..GRANTS).step_by(100) {
        let rows: Vec<Value> = (from..from + 100)
            .map(|n| {
                let places = if n % 2 == 0 { "nodes" } else { "assets" };
                let place = if n % 2 == 0 { &nodes[n % NODES] } else { &assets[n % assets.len()] };
                json!({
                    "name": format!("grant-{n}"), "users": [user], places: [place], "accounts": ["@ALL"],
                    "protocols": ["all"], "actions": ["connect"],
                })
            })
            .collect();
        admin.post("perms/asset-permissions/", Value::Array(rows)).await;
    }
    report.note("memory with 100,000 assets", rss_kib(world.pid()) / 1024.0, "MiB");
    let alice = Api::login(&world.base(), "alice", USER_PASSWORD).await;
    for (what, api, path) in [
        ("my assets, a page of 100", &alice, "perms/users/self/assets/?limit=100&offset=20000".to_owned()),
        ("my tree, the root's children", &alice, "perms/users/self/nodes/children/tree/".to_owned()),
        ("my assets, search", &alice, "perms/users/self/assets/?limit=50&search=host-0512".to_owned()),
        ("asset list, a page of 100", admin, "assets/hosts/?limit=100&offset=70000".to_owned()),
        ("asset list, search", admin, "assets/hosts/?limit=50&search=10.1.77".to_owned()),
        ("tree node, children", admin, format!("assets/nodes/children/tree/?key={root_key}")),
        ("assets of a node", admin, format!("assets/hosts/?limit=100&node={}", nodes[7])),
    ] {
        let mut times = Vec::new();
        for n in 0..210 {
            let begin = Instant::now();
            let answer = api.get(&path).await;
            if n >= 10 {
                times.push(begin.elapsed().as_secs_f64() * 1000.0);
            }
            assert!(!answer.is_null());
        }
        report.note(&format!("{what}: p50"), median(&mut times), "ms");
        report.judge(&format!("{what}: p99"), quantile(&mut times, 0.99), "ms", 50.0, Better::Lower);
    }
}
