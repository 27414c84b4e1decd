//! Prints how long the directory takes at 100,000 assets, 1,000 grants and 1,000 users. It asserts nothing: machines differ.
//! Run with `cargo run --release -p gatehouse-model --example scale [ASSETS]`.
#![allow(clippy::print_stdout, reason = "a measuring program prints what it measured")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use gatehouse_model::account::{Account, SecretType};
use gatehouse_model::asset::{Asset, AssetProtocol, Connectivity, Node};
use gatehouse_model::builtin;
use gatehouse_model::common::{Meta, far_future, org_ids};
use gatehouse_model::decide::{AccountChoice, Request, decide};
use gatehouse_model::directory::{AssetOrder, AssetQuery, Directory, Place};
use gatehouse_model::grant::{Actions, AssetPermission};
use gatehouse_model::time_period::Moment;
use gatehouse_model::user::{MfaLevel, OrgRole, User, UserSource};
use serde_json::Map;
use uuid::Uuid;

const ORG: Uuid = org_ids::DEFAULT;
const NODES: u128 = 1_000;
const USERS: u128 = 1_000;
const GRANTS: u128 = 1_000;

/// Kind in the high half, spread so that neighbours in number are not neighbours in order.
fn id(kind: u128, n: u128) -> Uuid {
    Uuid::from_u128(kind << 120 | n.wrapping_mul(0x9e37_79b9_7f4a_7c15) & u128::from(u64::MAX) | n << 64)
}

fn meta() -> Meta {
    Meta::new("scale", DateTime::<Utc>::UNIX_EPOCH)
}

fn user(n: u128) -> User {
    User {
        id: id(1, n),
        username: format!("user{n}"),
        name: format!("User {n}"),
        email: format!("user{n}@example.com"),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(DateTime::<Utc>::UNIX_EPOCH),
        date_password_last_updated: None,
        need_update_password: false,
        is_first_login: false,
        last_login: None,
        lang: None,
        system_roles: Vec::new(),
        org_roles: vec![OrgRole { org: ORG, role: builtin::ORG_USER }],
        meta: meta(),
    }
}

/// A root with ten children, each with ten, each with nine or so.
fn node_key(n: u128) -> String {
    match n {
        0 => "1".into(),
        n => format!("{}:{n}", node_key((n - 1) / 10)),
    }
}

fn asset(n: u128) -> Asset {
    Asset {
        id: id(3, n),
        org_id: ORG,
        name: format!(
            "srv-{:05}-{}",
            n * 7_919 % 100_000,
            ["web", "db", "cache"].get((n % 3) as usize).unwrap_or(&"app")
        ),
        address: format!("10.{}.{}.{}", n / 65_536 % 256, n / 256 % 256, n % 256),
        platform: builtin::platform_id("Linux"),
        zone: None,
        nodes: if n.is_multiple_of(10) { vec![id(2, n % NODES), id(2, n / 7 % NODES)] } else { vec![id(2, n % NODES)] },
        protocols: vec![
            AssetProtocol { name: "ssh".into(), port: 22 },
            AssetProtocol { name: "sftp".into(), port: 22 },
        ],
        is_active: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        gathered_info: Map::new(),
        custom_info: Map::new(),
        spec_info: Map::new(),
        meta: meta(),
    }
}

fn account(n: u128, asset: Uuid) -> Account {
    Account {
        id: id(4, n),
        org_id: ORG,
        asset,
        name: "root".into(),
        username: "root".into(),
        secret_type: SecretType::Password,
        has_secret: true,
        privileged: true,
        is_active: true,
        su_from: None,
        source: None,
        source_id: None,
        version: 1,
        secret_reset: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        date_last_login: None,
        login_by: None,
        meta: meta(),
    }
}

/// User 0 has all grants (the worst case), the others one each; a few grants are on the root.
fn grant(n: u128, now: DateTime<Utc>) -> AssetPermission {
    AssetPermission {
        id: id(5, n),
        org_id: ORG,
        name: format!("grant {n}"),
        users: vec![id(1, 0), id(1, n % USERS)],
        user_groups: Vec::new(),
        assets: (0..10).map(|k| id(3, (n * 97 + k * 13) % 100_000)).collect(),
        nodes: vec![id(2, n * 31 % NODES)],
        accounts: vec!["@ALL".into()],
        protocols: vec!["all".into()],
        actions: Actions::ALL,
        date_start: DateTime::<Utc>::UNIX_EPOCH,
        date_expired: far_future(now),
        is_active: true,
        from_ticket: false,
        meta: meta(),
    }
}

fn measure(what: &str, rounds: usize, mut run: impl FnMut(usize)) {
    let mut times: Vec<Duration> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            run(round);
            start.elapsed()
        })
        .collect();
    times.sort();
    let at = |percent: usize| times.get((rounds * percent / 100).min(rounds - 1)).copied().unwrap_or_default();
    println!("{what:<52} p50 {:>10.3?}  p99 {:>10.3?}  max {:>10.3?}", at(50), at(99), at(100));
}

fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

fn main() {
    let assets: u128 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(100_000);
    let now = DateTime::<Utc>::UNIX_EPOCH + chrono::TimeDelta::days(1);
    let mut d = Directory::new();
    builtin::platforms().into_iter().for_each(|p| d.upsert_platform(Arc::new(p)));
    for n in 0..USERS {
        d.upsert_user(Arc::new(user(n)));
    }
    for n in 0..NODES {
        let key = node_key(n);
        let node = Node {
            id: id(2, n),
            org_id: ORG,
            full_value: format!("/{}", key.replace(':', "/")),
            key,
            value: format!("node {n}"),
            child_mark: 0,
            meta: meta(),
        };
        d.upsert_node(Arc::new(node));
    }
    let records: Vec<Arc<Asset>> = (0..assets).map(|n| Arc::new(asset(n))).collect();
    let before = resident_kib();
    let start = Instant::now();
    records.iter().for_each(|a| d.upsert_asset(Arc::clone(a)));
    println!("{:<52} {:?}", format!("index {assets} assets"), start.elapsed());
    if let (Some(before), Some(after)) = (before, resident_kib()) {
        let each = after.saturating_sub(before) * 1_024 / u64::try_from(assets.max(1)).unwrap_or(1);
        println!("{:<52} {each} bytes", "index memory per asset, beside the record");
    }
    (0..assets).for_each(|n| d.upsert_account(Arc::new(account(n, id(3, n)))));
    (0..GRANTS).for_each(|n| d.upsert_grant(Arc::new(grant(n, now))));
    let everything = id(1, 0);
    println!("{:<52} {}", "the user with all grants reaches", d.reach(everything, ORG, now).len());

    measure("my assets, nothing kept (user changed before each)", 100, |_| {
        d.upsert_user(Arc::new(user(0)));
        let _ = d.reach(everything, ORG, now);
    });
    measure("my assets, kept", 1_000, |_| drop(d.reach(everything, ORG, now)));
    measure("tree, nothing kept", 100, |_| {
        d.upsert_user(Arc::new(user(0)));
        drop(d.tree(everything, ORG, now));
    });
    measure("tree, kept", 200, |_| drop(d.tree(everything, ORG, now)));
    measure("children of a node, kept", 200, |_| drop(d.tree_children(everything, ORG, Some("1:1"), now)));
    let query = |text: &str, place, offset, order| AssetQuery {
        text: text.into(),
        place,
        offset,
        order,
        limit: 50,
        ..AssetQuery::default()
    };
    let mine = |what: &str, q: AssetQuery| {
        measure(what, 200, |_| drop(d.my_assets(everything, None, &q, now)));
    };
    mine("list, first page by name", query("", Place::Anywhere, 0, AssetOrder::Name));
    mine("list, last page by address", query("", Place::Anywhere, 99_900, AssetOrder::Address));
    mine("search, rare text", query("srv-12345", Place::Anywhere, 0, AssetOrder::Name));
    mine("search, no match", query("nothing like it", Place::Anywhere, 0, AssetOrder::Name));
    mine("search, common text, late page", query("web", Place::Anywhere, 30_000, AssetOrder::Name));
    let place = Place::Node { node: id(2, 1), descendants: true };
    mine("list of a node with descendants", query("", place, 0, AssetOrder::Name));
    let all = query("db", Place::Anywhere, 0, AssetOrder::Name);
    measure("search over all assets (administrator)", 200, |_| drop(d.all_assets(ORG, &all)));
    measure("granted accounts of an asset", 1_000, |n| {
        drop(d.granted_accounts(everything, id(3, n as u128), now));
    });
    measure("facts and decision", 1_000, |n| {
        let request = Request {
            account: AccountChoice::Stored(id(4, n as u128)),
            protocol: "ssh".into(),
            connect_method: "ssh_client".into(),
            source: std::net::IpAddr::from([192, 0, 2, 1]),
            moment: Moment::utc(now),
        };
        let facts = d.facts(everything, id(3, n as u128));
        drop(facts.map(|f| decide(&request, &f)));
    });
    measure("who reaches an asset", 200, |n| drop(d.who_reaches(id(3, n as u128), now)));
    measure("change one asset (moves to another node)", 1_000, |n| {
        let n = n as u128;
        d.upsert_asset(Arc::new(Asset { nodes: vec![id(2, (n + 1) % NODES)], ..asset(n) }));
    });
}
