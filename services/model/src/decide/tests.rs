//! The laws of the decision, by example and by property.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::builtin;
use crate::command::CompiledGroup;
use crate::fixture::{self, ORG, id, now};
use crate::rules::{AttrMatch, AttrRule, TimePeriod};
use crate::user::OrgRole;

const ASSET: u128 = 10;
const ROOT_ACCOUNT: u128 = 20;

fn linux() -> Arc<Platform> {
    Arc::new(builtin::platforms().into_iter().find(|p| p.name == "Linux").unwrap())
}

/// ann, in group 2, and host 10 in node 1:1 with the accounts root (20), deploy (21) and ann (22); nothing granted.
fn facts() -> Facts {
    let asset = Arc::new(fixture::asset(ASSET, &[id(31)]));
    let account = |n, name| Arc::new(fixture::account(n, asset.id, name));
    Facts {
        user: Arc::new(fixture::user(1, "ann")),
        groups: vec![Arc::new(fixture::group(2, &[id(1)]))],
        platform: Some(linux()),
        nodes: vec![Arc::new(fixture::node(30, "1")), Arc::new(fixture::node(31, "1:1"))],
        labels: Vec::new(),
        accounts: vec![account(ROOT_ACCOUNT, "root"), account(21, "deploy"), account(22, "ann")],
        grants: Vec::new(),
        asset_rules: Vec::new(),
        connect_rules: Vec::new(),
        command_filters: Vec::new(),
        limits: Limits::default(),
        asset,
    }
}

fn to_asset(n: u128) -> AssetPermission {
    AssetPermission { users: vec![id(1)], assets: vec![id(ASSET)], ..fixture::grant(n) }
}

fn granted(grants: impl IntoIterator<Item = AssetPermission>) -> Facts {
    Facts { grants: grants.into_iter().map(Arc::new).collect(), ..facts() }
}

fn ask(account: AccountChoice) -> Request {
    Request {
        account,
        protocol: "ssh".into(),
        connect_method: "ssh_client".into(),
        source: "192.0.2.7".parse().unwrap(),
        moment: Moment::utc(now()),
    }
}

fn as_root() -> Request {
    ask(AccountChoice::Stored(id(ROOT_ACCOUNT)))
}

fn manual(username: &str) -> Request {
    ask(AccountChoice::Manual { username: username.into() })
}

fn allowed(request: &Request, facts: &Facts) -> Allow {
    decide(request, facts).allow().unwrap()
}

fn denied(request: &Request, facts: &Facts) -> &'static str {
    decide(request, facts).allow().unwrap_err().code()
}

#[test]
fn a_grant_allows_and_without_one_nothing_is() {
    assert_eq!(denied(&as_root(), &facts()), "perm_account_invalid");
    let allow = allowed(&as_root(), &granted([to_asset(1)]));
    assert_eq!((allow.actions, allow.account.username()), (Actions::ALL, "root"));
    assert_eq!(allow.limits, Limits { idle: Duration::from_secs(1_800), max: Duration::from_secs(86_400) });
}

#[test]
fn the_user_must_be_valid_and_a_member() {
    let with = |change: fn(&mut User)| {
        let mut facts = granted([to_asset(1)]);
        change(Arc::make_mut(&mut facts.user));
        denied(&as_root(), &facts)
    };
    assert_eq!(with(|u| u.is_active = false), "user_inactive");
    assert_eq!(with(|u| u.date_expired = now()), "user_expired");
    assert_eq!(with(|u| u.org_roles.clear()), "perm_user_invalid");
    assert_eq!(with(|u| u.org_roles = vec![OrgRole { org: id(99), role: builtin::ORG_ADMIN }]), "perm_user_invalid");
}

#[test]
fn the_asset_must_be_there_and_offer_the_protocol() {
    let mut facts = granted([to_asset(1)]);
    Arc::make_mut(&mut facts.asset).is_active = false;
    assert_eq!(denied(&as_root(), &facts), "asset_inactive");
    let facts = granted([to_asset(1)]);
    let over = |protocol: &str| Request { protocol: protocol.into(), ..as_root() };
    assert_eq!(denied(&over("telnet"), &facts), "asset_protocol_invalid");
    assert!(decide(&over("sftp"), &facts).allow().is_ok());
    assert_eq!(denied(&as_root(), &Facts { platform: None, ..facts.clone() }), "asset_platform_invalid");
    // Protocols that only automation uses are nobody's door.
    let mut facts = facts;
    Arc::make_mut(facts.platform.as_mut().unwrap()).protocols[0].public = false;
    assert_eq!(denied(&as_root(), &facts), "asset_protocol_invalid");
}

#[test]
fn the_grant_must_cover_the_protocol() {
    let facts = granted([AssetPermission { protocols: vec!["sftp".into()], ..to_asset(1) }]);
    assert_eq!(denied(&as_root(), &facts), "perm_protocol_invalid");
    assert!(decide(&Request { protocol: "sftp".into(), ..as_root() }, &facts).allow().is_ok());
}

#[test]
fn a_grant_holds_from_its_start_to_before_its_end() {
    let between = |from: i64, to: i64| AssetPermission {
        date_start: now() + TimeDelta::seconds(from),
        date_expired: now() + TimeDelta::seconds(to),
        ..to_asset(1)
    };
    assert_eq!(denied(&as_root(), &granted([between(-9, 0)])), "perm_expired");
    assert_eq!(denied(&as_root(), &granted([between(1, 9)])), "perm_not_started");
    assert!(decide(&as_root(), &granted([between(0, 1)])).allow().is_ok());
    let off = AssetPermission { is_active: false, ..to_asset(1) };
    assert_eq!(denied(&as_root(), &granted([off])), "perm_account_invalid");
}

#[test]
fn groups_and_nodes_grant_as_well() {
    let base = || AssetPermission { users: Vec::new(), assets: Vec::new(), ..to_asset(1) };
    for nodes in [vec![id(31)], vec![id(30)]] {
        let facts = granted([AssetPermission { user_groups: vec![id(2)], nodes, ..base() }]);
        assert!(decide(&as_root(), &facts).allow().is_ok());
    }
    let other = granted([AssetPermission { user_groups: vec![id(3)], nodes: vec![id(30)], ..base() }]);
    assert_eq!(denied(&as_root(), &other), "perm_account_invalid");
    // A node below or beside the asset's grants nothing, and 1:1 is not above 1:10.
    let mut beside = granted([AssetPermission { user_groups: vec![id(2)], nodes: vec![id(32)], ..base() }]);
    for key in ["1:1:1", "1:2", "1:10", "2"] {
        beside.nodes.truncate(2);
        beside.nodes.push(Arc::new(fixture::node(32, key)));
        assert_eq!(denied(&as_root(), &beside), "perm_account_invalid", "{key}");
    }
}

#[test]
fn account_scopes() {
    let with = |accounts: &[&str]| {
        granted([AssetPermission { accounts: accounts.iter().map(|a| (*a).to_owned()).collect(), ..to_asset(1) }])
    };
    let ok = |request: &Request, accounts: &[&str]| decide(request, &with(accounts)).allow().is_ok();
    let deploy = ask(AccountChoice::Stored(id(21)));
    let ann = ask(AccountChoice::Stored(id(22)));
    let same = ask(AccountChoice::SameName);
    assert!(ok(&as_root(), &["@ALL"]) && ok(&same, &["@ALL"]));
    assert!(!ok(&manual("bob"), &["@ALL"]));
    assert!(ok(&as_root(), &["@SPEC", "root"]) && !ok(&deploy, &["@SPEC", "root"]) && !ok(&as_root(), &["@SPEC"]));
    assert!(ok(&manual("bob"), &["@INPUT"]) && !ok(&as_root(), &["@INPUT"]));
    assert!(ok(&same, &["@USER"]) && ok(&ann, &["@USER"]) && !ok(&as_root(), &["@USER"]));
    assert!(!ok(&as_root(), &["@ALL", "!root"]) && ok(&deploy, &["@ALL", "!root"]));
    assert!(!ok(&manual("Root"), &["@INPUT", "!root"]) && !ok(&same, &["@USER", "!ann"]));
    assert!(!ok(&as_root(), &["!deploy"]) && !ok(&as_root(), &["root", "!ROOT"]));
    assert_eq!(denied(&manual("a;b"), &with(&["@INPUT"])), "account_username_invalid");
    // Names of aliases and exclusions are never account names.
    let mut odd = with(&["@SPEC", "!x"]);
    for (account, name) in odd.accounts.iter_mut().zip(["@SPEC", "!x"]) {
        Arc::make_mut(account).username = name.into();
    }
    assert_eq!(denied(&as_root(), &odd), "perm_account_invalid");
    assert_eq!(denied(&deploy, &odd), "perm_account_invalid");
}

#[test]
fn same_name_is_the_stored_account_or_asks() {
    let facts = granted([AssetPermission { accounts: vec!["@USER".into()], ..to_asset(1) }]);
    let request = ask(AccountChoice::SameName);
    assert!(
        matches!(allowed(&request, &facts).account, AllowedAccount::Stored { account, .. } if account.id == id(22))
    );
    let mut without = facts;
    without.accounts.truncate(2);
    assert_eq!(allowed(&request, &without).account, AllowedAccount::SameName { username: "ann".into() });
}

#[test]
fn anonymous_is_for_web_and_custom_assets() {
    let mut facts = granted([AssetPermission { accounts: vec!["@ANON".into()], ..to_asset(1) }]);
    let request = ask(AccountChoice::Anonymous);
    assert_eq!(denied(&request, &facts), "account_anonymous_unsupported");
    Arc::make_mut(facts.platform.as_mut().unwrap()).category = Category::Web;
    assert_eq!(allowed(&request, &facts).account, AllowedAccount::Anonymous);
    Arc::make_mut(&mut facts.grants[0]).accounts = vec!["@ALL".into()];
    assert_eq!(denied(&request, &facts), "perm_account_invalid");
}

#[test]
fn accounts_must_be_active_and_of_this_asset() {
    let mut facts = granted([to_asset(1)]);
    Arc::make_mut(&mut facts.accounts[0]).is_active = false;
    assert_eq!(denied(&as_root(), &facts), "account_inactive");
    // Without a permission nobody learns that it is there and disabled.
    assert_eq!(denied(&as_root(), &Facts { grants: Vec::new(), ..facts }), "perm_account_invalid");
    for change in [(|a| a.asset = id(11)) as fn(&mut Account), |a| a.org_id = id(99)] {
        let mut facts = granted([to_asset(1)]);
        change(Arc::make_mut(&mut facts.accounts[0]));
        assert_eq!(denied(&as_root(), &facts), "perm_account_invalid");
    }
    assert_eq!(denied(&ask(AccountChoice::Stored(id(77))), &granted([to_asset(1)])), "perm_account_invalid");
}

#[test]
fn switching_needs_its_source() {
    let mut facts = granted([to_asset(1)]);
    Arc::make_mut(&mut facts.accounts[0]).su_from = Some(id(21));
    let source = |facts: &Facts, request: &Request| match allowed(request, facts).account {
        AllowedAccount::Stored { su_from, .. } => su_from.map(|a| a.id),
        other => panic!("{other:?}"),
    };
    assert_eq!(source(&facts, &as_root()), Some(id(21)));
    assert_eq!(source(&facts, &Request { protocol: "sftp".into(), ..as_root() }), None);
    for change in [(|a| a.is_active = false) as fn(&mut Account), |a| a.asset = id(11), |a| a.org_id = id(99)] {
        let mut broken = facts.clone();
        change(Arc::make_mut(&mut broken.accounts[1]));
        assert_eq!(denied(&as_root(), &broken), "account_su_from_invalid");
    }
    Arc::make_mut(facts.platform.as_mut().unwrap()).su_enabled = false;
    assert_eq!(source(&facts, &as_root()), None);
}

#[test]
fn actions_are_the_union_of_what_covers_and_need_connect() {
    let one = AssetPermission { actions: Actions::CONNECT, ..to_asset(1) };
    let two = AssetPermission { actions: Actions::UPLOAD, ..to_asset(2) };
    let elsewhere = AssetPermission { actions: Actions::ALL, assets: vec![id(11)], ..to_asset(3) };
    let other_account = AssetPermission { actions: Actions::ALL, accounts: vec!["deploy".into()], ..to_asset(4) };
    let allow = allowed(&as_root(), &granted([one, two.clone(), elsewhere, other_account]));
    assert_eq!(allow.actions, Actions::CONNECT.union(Actions::UPLOAD));
    assert_eq!(denied(&as_root(), &granted([two])), "perm_action_invalid");
}

fn with_rules(rules: impl IntoIterator<Item = AssetLoginRule>) -> Facts {
    Facts { asset_rules: rules.into_iter().map(Arc::new).collect(), ..granted([to_asset(1)]) }
}

#[test]
fn the_first_asset_rule_acts() {
    use RuleAction::{Accept, FaceOnline, FaceVerify, Notice, NotifyAndWarn, Reject, Review};
    let rule = |n, priority, action| AssetLoginRule { priority, ..fixture::asset_rule(n, action) };
    let codes = [
        (Reject, "acl_reject"),
        (Review, "acl_review"),
        (FaceVerify, "acl_face_verify"),
        (FaceOnline, "acl_face_online"),
    ];
    for (action, code) in codes {
        assert_eq!(denied(&as_root(), &with_rules([rule(1, 50, action)])), code);
    }
    assert!(decide(&as_root(), &with_rules([rule(1, 10, Accept), rule(2, 50, Reject)])).allow().is_ok());
    assert_eq!(denied(&as_root(), &with_rules([rule(1, 50, Accept), rule(2, 10, Reject)])), "acl_reject");
    // Same priority: by name.
    assert_eq!(denied(&as_root(), &with_rules([rule(2, 50, Accept), rule(1, 50, Reject)])), "acl_reject");
    let notices = |action| {
        allowed(&as_root(), &with_rules([AssetLoginRule { reviewers: vec![id(5)], ..rule(1, 50, action) }])).notices
    };
    assert_eq!(notices(Notice)[0].recipients, vec![id(5)]);
    assert!(!notices(Notice)[0].warn_user && notices(NotifyAndWarn)[0].warn_user);
}

#[test]
fn asset_rules_hold_for_whom_what_where_and_when_they_say() {
    let reject = || fixture::asset_rule(1, RuleAction::Reject);
    let period = |id, value: &str| TimePeriod { id, value: value.into() };
    let conditions = |ip: &str, time_period| RuleConditions {
        ip_group: IpGroup::try_from(vec![ip.to_owned()]).unwrap(),
        time_period,
    };
    let attr =
        |name: &str, r#match, value| ManyFilter::Attrs { attrs: vec![AttrRule { name: name.into(), r#match, value }] };
    // Saturday noon, from 192.0.2.7.
    let holds = [
        AssetLoginRule { users: ManyFilter::Ids { ids: vec![id(1)] }, ..reject() },
        AssetLoginRule { users: attr("groups", AttrMatch::M2m, json!([id(2)])), ..reject() },
        AssetLoginRule { assets: attr("nodes", AttrMatch::M2m, json!([id(30)])), ..reject() },
        AssetLoginRule { assets: attr("address", AttrMatch::IpIn, json!("10.0.0.0/8")), ..reject() },
        AssetLoginRule { assets: attr("type", AttrMatch::In, json!(["linux"])), ..reject() },
        AssetLoginRule { accounts: vec!["ROOT".into()], ..reject() },
        AssetLoginRule { rules: conditions("192.0.2.0/24", vec![]), ..reject() },
        AssetLoginRule { rules: conditions("*", vec![period(6, "00:00~12:01")]), ..reject() },
    ];
    for rule in holds {
        assert_eq!(denied(&as_root(), &with_rules([rule.clone()])), "acl_reject", "{rule:?}");
    }
    let does_not = [
        AssetLoginRule { is_active: false, ..reject() },
        AssetLoginRule { org_id: id(99), ..reject() },
        AssetLoginRule { users: ManyFilter::Ids { ids: vec![id(4)] }, ..reject() },
        AssetLoginRule { assets: ManyFilter::Ids { ids: vec![id(11)] }, ..reject() },
        AssetLoginRule { accounts: vec!["deploy".into(), "@INPUT".into()], ..reject() },
        AssetLoginRule { rules: conditions("198.51.100.0/24", vec![]), ..reject() },
        AssetLoginRule { rules: conditions("*", vec![period(6, "00:00~12:00"), period(0, "12:00~13:00")]), ..reject() },
    ];
    for rule in does_not {
        assert!(decide(&as_root(), &with_rules([rule.clone()])).allow().is_ok(), "{rule:?}");
    }
}

#[test]
fn connect_methods_by_precedence() {
    let rule = |n, priority, action| {
        Arc::new(ConnectMethodRule { priority, ..fixture::connect_rule(n, action, &["ssh_client"]) })
    };
    let with = |rules: Vec<Arc<ConnectMethodRule>>| Facts { connect_rules: rules, ..granted([to_asset(1)]) };
    let reject = || rule(1, 50, RuleAction::Reject);
    assert_eq!(denied(&as_root(), &with(vec![reject()])), "acl_connect_method_reject");
    assert!(decide(&as_root(), &with(vec![reject(), rule(2, 10, RuleAction::Accept)])).allow().is_ok());
    assert_eq!(denied(&as_root(), &with(vec![reject(), rule(2, 90, RuleAction::Accept)])), "acl_connect_method_reject");
    let other = Request { connect_method: "web_cli".into(), ..as_root() };
    assert!(decide(&other, &with(vec![reject()])).allow().is_ok());
}

#[test]
fn filters_are_those_of_the_session_in_order() {
    let group = Arc::new(CompiledGroup::new(&fixture::command_group(900, "rm")));
    let bound = |filter| BoundFilter { filter: Arc::new(filter), groups: vec![Arc::clone(&group)] };
    let filter = |n, priority| CommandFilter { priority, ..fixture::command_filter(n) };
    let facts = Facts {
        command_filters: vec![
            bound(filter(1, 60)),
            bound(filter(2, 40)),
            bound(CommandFilter { accounts: vec!["deploy".into()], ..filter(3, 1) }),
            bound(CommandFilter { org_id: id(99), ..filter(4, 1) }),
            bound(CommandFilter { is_active: false, ..filter(5, 1) }),
            bound(CommandFilter { users: ManyFilter::Ids { ids: vec![] }, ..filter(6, 1) }),
        ],
        ..granted([to_asset(1)])
    };
    let order: Vec<Uuid> = allowed(&as_root(), &facts).filters.iter().map(|f| f.filter.id).collect();
    assert_eq!(order, [id(2), id(1)]);
}

#[test]
fn until_is_the_next_possible_change() {
    let at = |seconds| now() + TimeDelta::seconds(seconds);
    let ends = |n, seconds| AssetPermission { date_expired: at(seconds), ..to_asset(n) };
    let starts = |n, seconds| AssetPermission { date_start: at(seconds), ..to_asset(n) };
    let until = |facts: &Facts| allowed(&as_root(), facts).until;
    assert_eq!(until(&granted([ends(1, 500), ends(2, 300)])), at(300));
    assert_eq!(until(&granted([ends(1, 500), starts(2, 200)])), at(200));
    let mut facts = granted([ends(1, 500)]);
    Arc::make_mut(&mut facts.user).date_expired = at(100);
    assert_eq!(until(&facts), at(100));
    // A rule that rejects from one o'clock on.
    let mut rule = fixture::asset_rule(1, RuleAction::Reject);
    rule.rules.time_period = vec![TimePeriod { id: 6, value: "13:00~14:00".into() }];
    let facts = Facts { asset_rules: vec![Arc::new(rule)], ..granted([to_asset(1)]) };
    assert_eq!(until(&facts), at(3_600));
    let later = Request { moment: Moment::utc(at(3_600)), ..as_root() };
    assert_eq!(denied(&later, &facts), "acl_reject");
}

fn login_facts(rules: impl IntoIterator<Item = LoginRule>) -> LoginFacts {
    LoginFacts {
        user: Arc::new(fixture::user(1, "ann")),
        groups: Vec::new(),
        rules: rules.into_iter().map(Arc::new).collect(),
        white_list: IpGroup::default(),
        black_list: IpGroup::default(),
    }
}

#[test]
fn log_ins_follow_the_rules() {
    let source: IpAddr = "192.0.2.7".parse().unwrap();
    let code = |facts: &LoginFacts| match decide_login(facts, source, Moment::utc(now())) {
        LoginDecision::Allow { notices } => format!("allow {}", notices.len()),
        LoginDecision::Deny { reason } => reason.code().to_owned(),
    };
    let rule = |n, priority, action| LoginRule { priority, ..fixture::login_rule(n, action) };
    use RuleAction::{Accept, Notice, Reject, Review};
    assert_eq!(code(&login_facts([])), "allow 0");
    assert_eq!(code(&login_facts([rule(1, 50, Reject)])), "acl_reject");
    assert_eq!(code(&login_facts([rule(1, 50, Reject), rule(2, 1, Accept)])), "allow 0");
    assert_eq!(code(&login_facts([rule(1, 50, Notice)])), "allow 1");
    assert_eq!(code(&login_facts([rule(1, 50, Review)])), "acl_review");
    let elsewhere =
        RuleConditions { ip_group: IpGroup::try_from(vec!["10.0.0.0/8".into()]).unwrap(), time_period: vec![] };
    assert_eq!(code(&login_facts([LoginRule { rules: elsewhere, ..rule(1, 50, Reject) }])), "allow 0");
    let list = || IpGroup::try_from(vec!["192.0.2.0/24".to_owned()]).unwrap();
    let black = LoginFacts { black_list: list(), ..login_facts([]) };
    assert_eq!(code(&black), "block_ip_login");
    assert_eq!(code(&LoginFacts { white_list: list(), ..black }), "allow 0");
    let mut off = login_facts([]);
    Arc::make_mut(&mut off.user).is_active = false;
    assert_eq!(code(&off), "user_inactive");
}

fn any_ids(pool: &'static [u128]) -> impl Strategy<Value = Vec<Uuid>> {
    proptest::sample::subsequence(pool, 0..=pool.len()).prop_map(|ns| ns.into_iter().map(id).collect())
}

fn names(pool: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    proptest::sample::subsequence(pool, 0..=pool.len()).prop_map(|ns| ns.into_iter().map(str::to_owned).collect())
}

prop_compose! {
    fn any_grant()(
        users in any_ids(&[1, 3]),
        user_groups in any_ids(&[2, 4]),
        assets in any_ids(&[10, 11]),
        nodes in any_ids(&[30, 31, 32]),
        accounts in names(&["@ALL", "@SPEC", "root", "deploy", "@INPUT", "@USER", "!root", "!ann"]),
        protocols in names(&["all", "ssh", "sftp"]),
        bits in 0u16..128,
        (start, length) in (-100i64..100, 1i64..200),
        (is_active, foreign) in (prop::bool::weighted(0.9), prop::bool::weighted(0.1)),
        n in 100u128..1_000_000,
    ) -> AssetPermission {
        AssetPermission {
            org_id: if foreign { id(99) } else { ORG },
            users, user_groups, assets, nodes, accounts, protocols, is_active,
            actions: Actions::from_bits(bits | 1),
            date_start: now() + TimeDelta::seconds(start),
            date_expired: now() + TimeDelta::seconds(start + length),
            ..fixture::grant(n)
        }
    }
}

prop_compose! {
    fn any_rule()(
        n in 100u128..1_000_000,
        priority in 1u8..=90,
        action in proptest::sample::select(RuleAction::ALL),
        everybody in any::<bool>(),
        accounts in names(&["@ALL", "root", "Deploy", "@INPUT"]),
        is_active in prop::bool::weighted(0.8),
        here in prop::bool::weighted(0.8),
    ) -> AssetLoginRule {
        AssetLoginRule {
            priority, accounts, is_active,
            users: if everybody { ManyFilter::All } else { ManyFilter::Ids { ids: vec![id(1)] } },
            rules: RuleConditions {
                ip_group: IpGroup::try_from(vec![if here { "*".to_owned() } else { "10.1.1.1".to_owned() }]).unwrap(),
                time_period: Vec::new(),
            },
            ..fixture::asset_rule(n, action)
        }
    }
}

fn any_request() -> impl Strategy<Value = Request> {
    let account = prop_oneof![
        (20u128..23).prop_map(|n| AccountChoice::Stored(id(n))),
        Just(AccountChoice::SameName),
        "[a-z]{1,3}|root".prop_map(|username| AccountChoice::Manual { username }),
        Just(AccountChoice::Anonymous),
    ];
    (account, proptest::sample::select(vec!["ssh", "sftp", "telnet"]))
        .prop_map(|(account, protocol)| Request { protocol: protocol.into(), ..ask(account) })
}

prop_compose! {
    fn any_facts()(
        grants in prop::collection::vec(any_grant(), 0..6),
        rules in prop::collection::vec(any_rule(), 0..4),
    ) -> Facts {
        Facts {
            grants: grants.into_iter().map(Arc::new).collect(),
            asset_rules: rules.into_iter().map(Arc::new).collect(),
            ..facts()
        }
    }
}

/// What can be compared of an answer.
fn answer(
    request: &Request,
    facts: &Facts,
) -> Result<(Actions, AllowedAccount, DateTime<Utc>, Vec<RuleNotice>), DenyReason> {
    decide(request, facts).allow().map(|a| (a.actions, a.account, a.until, a.notices))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn adding_a_grant_never_takes_away(facts in any_facts(), more in any_grant(), request in any_request()) {
        let before = decide(&request, &facts);
        let mut grants = facts.grants.clone();
        grants.push(Arc::new(more));
        let after = decide(&request, &Facts { grants, ..facts });
        prop_assert!(after.actions().contains(before.actions()));
    }

    #[test]
    fn a_rule_of_lower_priority_never_widens_a_denial(facts in any_facts(), more in any_rule(), request in any_request()) {
        let before = decide(&request, &facts);
        let mut asset_rules = facts.asset_rules.clone();
        asset_rules.push(Arc::new(AssetLoginRule { priority: 100, ..more }));
        let after = decide(&request, &Facts { asset_rules, ..facts });
        if let Decision::Deny { reason } = before {
            prop_assert_eq!(after.allow().err(), Some(reason));
        }
    }

    #[test]
    fn an_empty_dimension_grants_nothing(grant in any_grant(), which in 0..4, request in any_request()) {
        let mut grant = grant;
        match which {
            0 => { grant.users.clear(); grant.user_groups.clear(); }
            1 => { grant.assets.clear(); grant.nodes.clear(); }
            2 => grant.accounts.clear(),
            _ => grant.protocols.clear(),
        }
        prop_assert!(decide(&request, &granted([grant])).allow().is_err());
    }

    #[test]
    fn what_is_over_gives_nothing(facts in any_facts(), request in any_request(), seconds in 300i64..100_000) {
        let later = Request { moment: Moment::utc(now() + TimeDelta::seconds(seconds)), ..request };
        prop_assert!(decide(&later, &facts).allow().is_err());
    }

    #[test]
    fn the_order_of_facts_does_not_matter(facts in any_facts(), request in any_request(), turn in 0usize..6) {
        let mut turned = facts.clone();
        turned.grants.reverse();
        turned.asset_rules.reverse();
        turned.accounts.reverse();
        turned.nodes.reverse();
        let middle = turn.min(turned.grants.len());
        turned.grants.rotate_left(middle);
        prop_assert_eq!(answer(&request, &facts), answer(&request, &turned));
    }

    #[test]
    fn what_belongs_to_another_organization_changes_nothing(
        facts in any_facts(), foreign in any_grant(), rule in any_rule(), request in any_request(),
    ) {
        let mut more = facts.clone();
        more.grants.push(Arc::new(AssetPermission { org_id: id(99), ..foreign.clone() }));
        more.grants.push(Arc::new(AssetPermission { org_id: crate::common::org_ids::ROOT, ..foreign }));
        more.asset_rules.push(Arc::new(AssetLoginRule { org_id: id(99), priority: 1, ..rule }));
        more.groups.push(Arc::new(UserGroup { org_id: id(99), ..fixture::group(4, &[id(1)]) }));
        more.nodes.push(Arc::new(Node { org_id: id(99), ..fixture::node(32, "1") }));
        more.accounts.push(Arc::new(Account { org_id: id(99), ..fixture::account(23, id(ASSET), "ann") }));
        prop_assert_eq!(answer(&request, &facts), answer(&request, &more));
    }

    #[test]
    fn an_answer_holds_until_it_says(facts in any_facts(), request in any_request(), part in 0i64..100) {
        if let Ok(allow) = decide(&request, &facts).allow() {
            prop_assert!(allow.until > now());
            let length = (allow.until - now()).num_milliseconds();
            let between = now() + TimeDelta::milliseconds(length * part / 100);
            let later = decide(&Request { moment: Moment::utc(between), ..request }, &facts);
            prop_assert_eq!(later.actions(), allow.actions);
        }
    }
}

#[test]
fn codes_are_distinct() {
    let text = String::new;
    let all = [
        DenyReason::UserInactive,
        DenyReason::UserExpired,
        DenyReason::NotMember,
        DenyReason::AssetInactive,
        DenyReason::PlatformMissing,
        DenyReason::ProtocolMissing { protocol: text() },
        DenyReason::ConnectMethod { method: text(), rule: text() },
        DenyReason::AccountInvalid,
        DenyReason::AccountInactive,
        DenyReason::UsernameInvalid { why: text() },
        DenyReason::AnonymousUnsupported,
        DenyReason::SuFromInvalid,
        DenyReason::ProtocolNotGranted { protocol: text() },
        DenyReason::ActionNotGranted,
        DenyReason::PermExpired,
        DenyReason::PermNotStarted,
        DenyReason::AclReject { rule: text() },
        DenyReason::AclReview { rule: text() },
        DenyReason::AclFace { rule: text(), online: false },
        DenyReason::AclFace { rule: text(), online: true },
        DenyReason::IpBlocked,
    ];
    let codes: BTreeSet<_> = all.iter().map(DenyReason::code).collect();
    assert_eq!(codes.len(), all.len());
}
