//! The indexes say what the records say: compared with `decide`, with counting anew, and with a directory built at once.

use chrono::TimeDelta;
use proptest::prelude::*;

use super::*;
use crate::builtin;
use crate::common::org_ids;
use crate::decide::{AccountChoice, Request, decide};
use crate::fixture::{self, ORG, id, now};
use crate::grant::Actions;
use crate::nodes::count_assets;
use crate::time_period::Moment;

/// Root (30) > web (31) > eu (33), db (32); hosts 10-13; ann (1) in group 2, bob (3).
fn world() -> Directory {
    let mut d = Directory::new();
    builtin::platforms().into_iter().for_each(|p| d.upsert_platform(Arc::new(p)));
    d.upsert_user(Arc::new(fixture::user(1, "ann")));
    d.upsert_user(Arc::new(fixture::user(3, "bob")));
    d.upsert_group(Arc::new(fixture::group(2, &[id(1)])));
    for (n, key) in [(30, "1"), (31, "1:1"), (32, "1:2"), (33, "1:1:1")] {
        d.upsert_node(Arc::new(fixture::node(n, key)));
    }
    for (n, nodes) in [(10, vec![31]), (11, vec![33, 32]), (12, vec![32]), (13, vec![30])] {
        let nodes: Vec<Uuid> = nodes.into_iter().map(id).collect();
        d.upsert_asset(Arc::new(fixture::asset(n, &nodes)));
        d.upsert_account(Arc::new(fixture::account(100 + n, id(n), "root")));
        d.upsert_account(Arc::new(fixture::account(200 + n, id(n), "app")));
    }
    d
}

fn ids(reach: &Reach) -> Vec<Uuid> {
    reach.iter().map(|r| r.asset).collect()
}

fn grant(n: u128) -> AssetPermission {
    AssetPermission { users: vec![id(1)], ..fixture::grant(n) }
}

fn counts(d: &Directory) -> [u32; 4] {
    [30, 31, 32, 33].map(|n| d.node_count(id(n)))
}

#[test]
fn counts_follow_every_change() {
    let mut d = world();
    assert_eq!(counts(&d), [4, 2, 2, 1]);
    d.upsert_asset(Arc::new(fixture::asset(12, &[id(33)])));
    assert_eq!(counts(&d), [4, 3, 1, 2]);
    // web moves below db.
    d.upsert_node(Arc::new(fixture::node(31, "1:2:1")));
    d.upsert_node(Arc::new(fixture::node(33, "1:2:1:1")));
    assert_eq!(counts(&d), [4, 3, 3, 2]);
    assert!(d.remove(Asset::KIND, id(11)));
    assert_eq!(counts(&d), [3, 2, 2, 1]);
    assert!(!d.remove(Asset::KIND, id(11)));
    assert!(d.recount(ORG).is_empty());
}

#[test]
fn a_node_grants_what_is_below_it_also_later() {
    let mut d = world();
    d.upsert_grant(Arc::new(AssetPermission { nodes: vec![id(31)], ..grant(50) }));
    assert_eq!(ids(&d.reach(id(1), ORG, now())), [id(10), id(11)]);
    d.upsert_asset(Arc::new(fixture::asset(14, &[id(33)])));
    assert_eq!(ids(&d.reach(id(1), ORG, now())), [id(10), id(11), id(14)]);
    assert!(d.reach(id(3), ORG, now()).is_empty());
    assert!(d.reach(id(1), org_ids::ROOT, now()).is_empty());
    assert_eq!(d.who_reaches(id(11), now()).iter().map(|(u, _)| u.id).collect::<Vec<_>>(), [id(1)]);
    assert!(d.who_reaches(id(12), now()).is_empty());
}

#[test]
fn a_kept_reach_ends_with_its_causes() {
    let mut d = world();
    let by_group = AssetPermission { users: vec![], user_groups: vec![id(2)], assets: vec![id(10)], ..grant(50) };
    d.upsert_grant(Arc::new(by_group.clone()));
    let first = d.reach(id(1), ORG, now());
    assert_eq!(first.len(), 1);
    // Nothing that matters changed: the same one again.
    d.upsert_grant(Arc::new(AssetPermission { users: vec![id(3)], assets: vec![id(12)], ..grant(51) }));
    d.upsert_asset(Arc::new(Asset { name: "renamed".into(), ..fixture::asset(10, &[id(31)]) }));
    assert!(Arc::ptr_eq(&first, &d.reach(id(1), ORG, now())));
    d.upsert_group(Arc::new(fixture::group(2, &[])));
    assert!(d.reach(id(1), ORG, now()).is_empty());
    d.upsert_group(Arc::new(fixture::group(2, &[id(1)])));
    assert_eq!(d.reach(id(1), ORG, now()).len(), 1);
    d.upsert_asset(Arc::new(Asset { is_active: false, ..fixture::asset(10, &[id(31)]) }));
    assert!(d.reach(id(1), ORG, now()).is_empty());
    d.upsert_asset(Arc::new(fixture::asset(10, &[id(31)])));
    assert_eq!(d.reach(id(1), ORG, now()).len(), 1);
    d.upsert_user(Arc::new(User { is_active: false, ..fixture::user(1, "ann") }));
    assert!(d.reach(id(1), ORG, now()).is_empty());
    d.upsert_user(Arc::new(fixture::user(1, "ann")));
    d.upsert_grant(Arc::new(AssetPermission { date_expired: now() + TimeDelta::seconds(60), ..by_group }));
    assert_eq!(d.reach(id(1), ORG, now()).until, Some(now() + TimeDelta::seconds(60)));
    assert_eq!(d.reach(id(1), ORG, now()).len(), 1);
    assert!(d.reach(id(1), ORG, now() + TimeDelta::seconds(60)).is_empty());
    assert_eq!(d.reach(id(1), ORG, now()).len(), 1, "a clock that goes back");
    assert!(d.remove(AssetPermission::KIND, id(50)));
    assert!(d.reach(id(1), ORG, now()).is_empty());
}

#[test]
fn the_tree_shows_what_is_above_the_reached() {
    let mut d = world();
    d.upsert_grant(Arc::new(AssetPermission { nodes: vec![id(33)], assets: vec![id(12)], ..grant(50) }));
    let tree = d.tree(id(1), ORG, now());
    let shown: Vec<(&str, u32, bool)> = tree.iter().map(|n| (n.key.as_str(), n.assets, n.has_children)).collect();
    let expected = [("1", 2, true), ("1:1", 1, true), ("1:2", 2, false), ("1:1:1", 1, false), ("ungrouped", 1, false)];
    assert_eq!(shown, expected);
    let favorite = FavoriteAsset { id: id(70), org_id: ORG, user: id(1), asset: id(12), date_created: now() };
    d.upsert_favorite(Arc::new(favorite.clone()));
    d.upsert_favorite(Arc::new(FavoriteAsset { id: id(71), asset: id(13), ..favorite }));
    let last = d.tree(id(1), ORG, now()).pop().unwrap();
    assert_eq!((last.kind, last.assets), (TreeNodeKind::Favorite, 1));
    assert_eq!(d.tree_children(id(1), ORG, Some("1"), now()).len(), 2);
    assert_eq!(d.my_node_count(id(1), id(32), now()), 2);
    assert_eq!(d.reach_node(id(1), id(31), true, now()).len(), 1);
    assert!(d.reach_node(id(1), id(31), false, now()).is_empty());
    assert!(d.tree(id(3), ORG, now()).is_empty());
    let query = |place| AssetQuery { place, limit: 10, ..AssetQuery::default() };
    let mine = |place| {
        d.my_assets(id(1), Some(ORG), &query(place), now()).items.iter().map(|i| i.asset.id).collect::<Vec<_>>()
    };
    assert_eq!(mine(Place::Ungrouped), [id(12)]);
    assert_eq!(mine(Place::Favorite), [id(12)]);
    assert_eq!(mine(Place::Node { node: id(31), descendants: true }), [id(11)]);
    assert!(mine(Place::Node { node: id(99), descendants: true }).is_empty());
}

#[test]
fn lists_are_searched_ordered_and_paged() {
    let mut d = world();
    let named = |n, name: &str, address: &str, comment: &str| {
        let mut asset = Asset { name: name.into(), address: address.into(), ..fixture::asset(n, &[id(30)]) };
        asset.meta.comment = comment.into();
        Arc::new(asset)
    };
    for n in 10..14 {
        d.remove(Asset::KIND, id(n));
    }
    d.upsert_asset(named(20, "Beta", "10.0.0.9", "Büro"));
    d.upsert_asset(named(21, "alpha", "10.0.0.10", "two\nlines"));
    d.upsert_asset(named(22, "Gamma", "db.example.com", ""));
    d.upsert_grant(Arc::new(AssetPermission { nodes: vec![id(30)], actions: Actions::CONNECT, ..grant(50) }));
    let query = |text: &str, order, offset, limit| AssetQuery {
        text: text.into(),
        order,
        offset,
        limit,
        ..AssetQuery::default()
    };
    let run = |q: AssetQuery| {
        let page = d.my_assets(id(1), None, &q, now());
        let all = d.all_assets(ORG, &q);
        assert_eq!(page.total, all.total);
        assert!(page.items.iter().all(|i| i.actions == Actions::CONNECT));
        (page.total, page.items.iter().map(|i| i.asset.name.clone()).collect::<Vec<_>>())
    };
    use AssetOrder::{Address, AddressDown, Name, NameDown};
    let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    assert_eq!(run(query("", Name, 0, 9)), (3, names(&["alpha", "Beta", "Gamma"])));
    assert_eq!(run(query("", NameDown, 0, 1)), (3, names(&["Gamma"])));
    assert_eq!(run(query("", Address, 0, 2)), (3, names(&["Beta", "alpha"])));
    assert_eq!(run(query("", AddressDown, 0, 1)), (3, names(&["Gamma"])));
    assert_eq!(run(query("", Name, 1, 1)), (3, names(&["Beta"])));
    assert_eq!(run(query("", Name, 9, 9)), (3, names(&[])));
    assert_eq!(run(query("", Name, 0, 0)), (3, names(&[])));
    assert_eq!(run(query("ALPHA", Name, 0, 9)), (1, names(&["alpha"])));
    assert_eq!(run(query("10.0.0.", Name, 0, 1)), (2, names(&["alpha"])));
    assert_eq!(run(query("BÜRO", Name, 0, 9)), (1, names(&["Beta"])));
    assert_eq!(run(query("o l", Name, 0, 9)), (1, names(&["alpha"])));
    assert_eq!(run(query("alpha\n10", Name, 0, 9)), (0, names(&[])));
    assert_eq!(d.my_assets(id(3), None, &query("", Name, 0, 9), now()).total, 0);
    assert_eq!(d.my_assets(id(77), None, &query("", Name, 0, 9), now()).total, 0);
    assert_eq!(d.all_assets(id(99), &query("", Name, 0, 9)).total, 0);
    assert_eq!(d.all_assets(org_ids::ROOT, &query("", Name, 0, 9)).total, 3);
    let telnet = AssetQuery { protocol: Some("telnet".into()), ..query("", Name, 0, 9) };
    assert_eq!(run(telnet), (0, names(&[])));
    let both = |a: &str, b: &str| AssetQuery { words: vec![a.into(), b.into()], ..query("", Name, 0, 9) };
    assert_eq!(run(both("10.0", "LINES")), (1, names(&["alpha"])));
    assert_eq!(run(both("beta", "lines")), (0, names(&[])));
    let platform = d.asset(id(20)).unwrap().platform;
    let of = |platforms: Vec<Uuid>| AssetQuery { platforms: Some(platforms), ..query("", Name, 1, 1) };
    assert_eq!(run(of(vec![platform, id(99)])), (3, names(&["Beta"])));
    assert_eq!(run(of(vec![id(99)])).0, 0);
    assert_eq!(d.platform_counts(ORG).get(&platform), Some(&3));
    let mut moved = Asset::clone(d.asset(id(22)).unwrap());
    moved.platform = id(99);
    d.upsert_asset(Arc::new(moved));
    assert_eq!(d.all_assets(ORG, &of(vec![id(99)])).total, 1);
    assert_eq!(d.platform_counts(ORG).get(&platform), Some(&2));
    let with_b = |a: &Asset| a.name.contains('B');
    assert_eq!(d.assets_where(ORG, &query("", Name, 0, 9), Some(&with_b)).total, 1);
    d.remove(Asset::KIND, id(22));
    assert!(!d.platform_counts(ORG).contains_key(&id(99)));
    assert_eq!(d.all_assets(ORG, &query("", Name, 0, 9)).total, 2);
}

#[test]
fn accounts_that_may_be_chosen() {
    let mut d = world();
    let accounts = ["@SPEC", "root", "@INPUT", "@USER", "@ANON"].map(str::to_owned).to_vec();
    let soon = now() + TimeDelta::seconds(60);
    let base = || AssetPermission { assets: vec![id(10)], actions: Actions::CONNECT, ..grant(0) };
    d.upsert_grant(Arc::new(AssetPermission { id: id(50), accounts, date_expired: soon, ..base() }));
    let more = AssetPermission { id: id(51), accounts: vec!["root".into()], protocols: vec!["sftp".into()], ..base() };
    d.upsert_grant(Arc::new(AssetPermission { actions: Actions::ALL, ..more.clone() }));
    let found = d.granted_accounts(id(1), id(10), now());
    let shown: Vec<_> = found.iter().map(|g| (g.alias.as_str(), g.username.as_str(), g.secret_known)).collect();
    assert_eq!(shown, [("root", "root", true), ("@INPUT", "", false), ("@USER", "ann", false)]);
    assert_eq!((found[0].actions, found[0].date_expired), (Actions::ALL, more.date_expired));
    assert_eq!((found[1].actions, found[1].date_expired), (Actions::CONNECT, soon));
    assert_eq!(found[0].protocols, ["ssh", "sftp"]);
    // A stored account of the person's name stands for the same-name one.
    d.upsert_account(Arc::new(fixture::account(300, id(10), "ann")));
    let names: Vec<String> = d.granted_accounts(id(1), id(10), now()).into_iter().map(|g| g.alias).collect();
    assert_eq!(names, ["ann", "root", "@INPUT"]);
    assert!(d.granted_accounts(id(3), id(10), now()).is_empty());
    assert!(d.granted_accounts(id(1), id(12), now()).is_empty());
    let after = d.granted_accounts(id(1), id(10), soon);
    assert_eq!(after.iter().map(|g| g.alias.as_str()).collect::<Vec<_>>(), ["root"]);
    assert_eq!(after[0].protocols, ["sftp"]);
}

/// One change to a directory.
#[derive(Debug, Clone)]
enum Change {
    Asset(Asset),
    Node(Node),
    Group(UserGroup),
    Grant(AssetPermission),
    Remove(&'static str, Uuid),
}

fn apply(d: &mut Directory, change: Change) {
    match change {
        Change::Asset(a) => d.upsert_asset(Arc::new(a)),
        Change::Node(n) => d.upsert_node(Arc::new(n)),
        Change::Group(g) => d.upsert_group(Arc::new(g)),
        Change::Grant(g) => d.upsert_grant(Arc::new(g)),
        Change::Remove(kind, id) => drop(d.remove(kind, id)),
    }
}

fn some(pool: &'static [u128]) -> impl Strategy<Value = Vec<Uuid>> {
    proptest::sample::subsequence(pool, 0..=pool.len()).prop_map(|ns| ns.into_iter().map(id).collect())
}

fn any_change() -> impl Strategy<Value = Change> {
    // Keys are unique per node at any time: the node's number is in its own part.
    let node = (31u128..34, prop_oneof![Just(String::from("1")), (31u128..34).prop_map(|p| format!("1:{p}"))]);
    let node = node.prop_map(|(n, parent)| Change::Node(fixture::node(n, &format!("{parent}:{n}"))));
    let asset = (10u128..16, some(&[30, 31, 32, 33]), prop::bool::weighted(0.8))
        .prop_map(|(n, nodes, is_active)| Change::Asset(Asset { is_active, ..fixture::asset(n, &nodes) }));
    let group = some(&[1, 3]).prop_map(|users| Change::Group(fixture::group(2, &users)));
    let grant =
        (50u128..53, some(&[1, 3]), some(&[2]), some(&[10, 11, 14]), some(&[30, 31, 32, 33]), 0u16..128, any::<bool>());
    let grant = grant.prop_map(|(n, users, user_groups, assets, nodes, bits, whole)| {
        let accounts = vec![if whole { "@ALL" } else { "root" }.to_owned()];
        let actions = Actions::from_bits(bits);
        Change::Grant(AssetPermission { users, user_groups, assets, nodes, actions, accounts, ..fixture::grant(n) })
    });
    let remove = prop_oneof![
        (10u128..16).prop_map(|n| Change::Remove(Asset::KIND, id(n))),
        (31u128..34).prop_map(|n| Change::Remove(Node::KIND, id(n))),
        (50u128..53).prop_map(|n| Change::Remove(AssetPermission::KIND, id(n))),
        Just(Change::Remove(UserGroup::KIND, id(2))),
    ];
    prop_oneof![3 => asset, 2 => node, 1 => group, 3 => grant, 2 => remove]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn after_any_changes_the_indexes_say_what_the_records_say(changes in prop::collection::vec(any_change(), 1..25)) {
        let mut d = world();
        for change in changes {
            apply(&mut d, change);
            // Filling the cache in between shows what it fails to forget.
            for user in [1, 3] {
                let _ = d.tree(id(user), ORG, now());
            }
        }
        let nodes = d.nodes_of(ORG);
        let assets: Vec<Arc<Asset>> = (10..16).filter_map(|n| d.asset(id(n))).cloned().collect();
        for (node, counted) in count_assets(&nodes, assets.iter().map(|a| &**a)) {
            prop_assert_eq!(d.node_count(node), counted);
        }
        for user in [id(1), id(3)] {
            let reach = d.reach(user, ORG, now());
            for asset in &assets {
                let facts = d.facts(user, asset.id).unwrap();
                let chosen = d.granted_accounts(user, asset.id, now());
                let mut actions = Actions::NONE;
                for account in d.accounts_of(asset.id) {
                    let request = Request {
                        account: AccountChoice::Stored(account.id),
                        protocol: "ssh".into(),
                        connect_method: "ssh_client".into(),
                        source: "192.0.2.1".parse().unwrap(),
                        moment: Moment::utc(now()),
                    };
                    let decided = decide(&request, &facts).actions();
                    let listed = chosen.iter().find(|g| g.account.as_ref().is_some_and(|a| a.id == account.id));
                    prop_assert_eq!(listed.map_or(Actions::NONE, |g| g.actions), decided);
                    actions = actions.union(decided);
                }
                let has_accounts = !d.accounts_of(asset.id).is_empty();
                let reached = reach.get(asset.id).map_or(Actions::NONE, |r| r.actions);
                // Actions of a reach are over all accounts; what can be decided is never more.
                prop_assert!(reached.contains(actions));
                prop_assert!(!has_accounts || reached.is_empty() || !actions.is_empty() || chosen.is_empty());
                let who = d.who_reaches(asset.id, now());
                let seen = who.iter().find(|(u, _)| u.id == user).map_or(Actions::NONE, |(_, a)| *a);
                prop_assert_eq!(seen, reached);
            }
            // The per-user counts are those of the reached assets.
            let reached = assets.iter().filter(|a| reach.get(a.id).is_some()).map(|a| &**a);
            for (node, counted) in count_assets(&nodes, reached) {
                prop_assert_eq!(d.my_node_count(user, node, now()), counted);
            }
        }
    }
}
