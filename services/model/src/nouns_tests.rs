//! Every noun keeps its meaning through its stored form, and the checks refuse what they are for.

use std::net::IpAddr;

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::account::{AccountTemplate, PasswordRules, Secret, SecretStrategy, SecretType, check_account_username};
use crate::asset::{AssetProtocol, FavoriteAsset, PinnedHostKey, Zone, check_address};
use crate::builtin;
use crate::common::{Invalid, Validate};
use crate::filter::{AssetSubject, UserSubject};
use crate::fixture::{self, ORG, id, meta, now};
use crate::grant::{Actions, AssetPermission};
use crate::net::{IpGroup, IpItem};
use crate::org::{Label, Organization, Role, RoleScope};
use crate::rules::{AttrMatch, AttrRule, ManyFilter, RuleAction, TimePeriod};
use crate::session::{ConnectionToken, LoginFrom, Replay, Session, SessionError, SessionType};
use crate::settings::Settings;
use crate::time_period::{Moment, contains, parse};
use crate::user::{
    AccessKey, ApiToken, ApiTokenKind, LoginFailures, SshKey, TempPassword, TrustedUserCa, User, UserSecret,
};

/// Through text and back, twice the same text: works for secrets too, which have neither `Debug` nor `PartialEq`.
fn round<T: Serialize + DeserializeOwned>(noun: &T) -> T {
    let text = serde_json::to_string(noun).unwrap();
    let back: T = serde_json::from_str(&text).unwrap();
    assert_eq!(serde_json::to_string(&back).unwrap(), text);
    back
}

fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(noun: &T) {
    assert_eq!(&round(noun), noun);
}

#[test]
fn nouns_survive_their_stored_form() {
    let mut user = fixture::user(1, "ann");
    user.meta.labels = vec![id(5)];
    user.meta.comment = "with a comment\n\"quoted\"".into();
    same(&user);
    same(&fixture::group(2, &[id(1)]));
    same(&fixture::node(3, "1:2"));
    let mut asset = fixture::asset(4, &[id(3)]);
    asset.spec_info.insert("db_name".into(), json!("x"));
    same(&asset);
    let mut account = fixture::account(5, id(4), "root");
    account.su_from = Some(id(6));
    account.date_verified = Some(now());
    same(&account);
    same(&fixture::grant(6));
    same(&fixture::login_rule(7, RuleAction::Reject));
    let mut rule = fixture::asset_rule(8, RuleAction::Notice);
    rule.rules.time_period = vec![TimePeriod { id: 1, value: "08:00~18:00".into() }];
    rule.users = ManyFilter::Attrs {
        attrs: vec![AttrRule { name: "name".into(), r#match: AttrMatch::StartsWith, value: json!("a") }],
    };
    rule.assets = ManyFilter::Ids { ids: vec![id(4)] };
    same(&rule);
    same(&fixture::connect_rule(9, RuleAction::Reject, &["web_cli"]));
    same(&fixture::command_filter(10));
    same(&fixture::command_group(11, "rm\ndd"));
    builtin::roles().iter().for_each(same);
    builtin::platforms().iter().for_each(same);
    let org = builtin::default_organization();
    same(&builtin::root_node(&org));
    same(&org);
    same(&Settings::default());
    same(&Zone { id: id(1), org_id: ORG, name: "z".into(), meta: meta() });
    same(&Label {
        id: id(1),
        org_id: ORG,
        name: "env".into(),
        value: "prod".into(),
        color: String::new(),
        meta: meta(),
    });
    same(&FavoriteAsset { id: id(1), org_id: ORG, user: id(2), asset: id(3), date_created: now() });
    same(&template());
}

fn template() -> AccountTemplate {
    AccountTemplate {
        id: id(1),
        org_id: ORG,
        name: "t".into(),
        username: "root".into(),
        secret_type: SecretType::SshKey,
        secret_strategy: SecretStrategy::Random,
        password_rules: PasswordRules::default(),
        has_secret: true,
        privileged: false,
        is_active: true,
        su_from: None,
        auto_push: false,
        platforms: vec![id(2)],
        meta: meta(),
    }
}

#[test]
fn records_of_identity_survive_their_stored_form() {
    let text = |s: &str| s.to_owned();
    round(&UserSecret {
        id: id(1),
        password_hash: Some(text("h")),
        password_history: vec![text("a")],
        otp_secret: None,
        otp_last_step: 7,
    });
    round(&Secret { id: id(1), org_id: ORG, secret: text("s"), passphrase: Some(text("p")) });
    same(&SshKey {
        id: id(1),
        user: id(2),
        name: text("k"),
        public_key: text("ssh-ed25519 AAAA"),
        fingerprint: text("SHA256:x"),
        is_active: true,
        date_last_used: Some(now()),
        meta: meta(),
    });
    same(&TrustedUserCa {
        id: id(1),
        name: text("ca"),
        public_key: text("ssh-ed25519 AAAA"),
        fingerprint: text("SHA256:x"),
        is_active: true,
        meta: meta(),
    });
    round(&AccessKey {
        id: id(1),
        user: id(2),
        secret: text("s"),
        is_active: true,
        ip_group: IpGroup::any(),
        date_created: now(),
        date_last_used: None,
    });
    same(&ApiToken {
        id: id(1),
        user: id(2),
        kind: ApiTokenKind::Bearer,
        hash: [7; 32],
        date_created: now(),
        date_expired: Some(now()),
        remote_addr: text("192.0.2.1"),
        user_agent: String::new(),
        mfa_until: None,
    });
    round(&TempPassword {
        id: id(1),
        user: id(2),
        username: text("ann"),
        hash: text("h"),
        verified: false,
        date_created: now(),
        date_expired: now(),
        date_verified: None,
    });
    same(&LoginFailures {
        id: id(1),
        subject: text("ip:192.0.2.1"),
        count: 3,
        first: now(),
        blocked_until: Some(now()),
    });
    same(&PinnedHostKey {
        id: id(1),
        org_id: ORG,
        asset: id(2),
        port: 22,
        algorithm: text("ssh-ed25519"),
        fingerprint: text("SHA256:x"),
        public_key: text("AAAA"),
        date_pinned: now(),
    });
}

#[test]
fn records_of_sessions_survive_their_stored_form() {
    let text = |s: &str| s.to_owned();
    same(&Session {
        id: id(1),
        org_id: ORG,
        user: text("Ann(ann)"),
        user_id: id(2),
        asset: text("host(10.0.0.1)"),
        asset_id: id(3),
        account: text("root(root)"),
        account_id: Uuid::nil(),
        protocol: text("ssh"),
        login_from: LoginFrom::Ssh,
        r#type: SessionType::Normal,
        remote_addr: text("192.0.2.1"),
        is_success: true,
        is_finished: true,
        has_replay: true,
        has_command: false,
        date_start: now(),
        date_end: Some(now()),
        comment: String::new(),
        cmd_amount: 3,
        error_reason: Some(SessionError::ConnectFailed),
        end_reason: text("closed"),
        replay: Some(Replay { file: text("f"), digest: text("d"), size: 1, duration_ms: 2, complete: true }),
        bytes_in: 1,
        bytes_out: 2,
    });
    same(&ConnectionToken {
        id: id(1),
        org_id: ORG,
        value_hash: [1; 32],
        user: id(2),
        user_display: text("Ann(ann)"),
        asset: id(3),
        asset_display: text("host"),
        account: text("@INPUT"),
        protocol: text("ssh"),
        connect_method: text("ssh_client"),
        input_username: text("bob"),
        has_input_secret: true,
        connect_options: Map::new(),
        remote_addr: text("192.0.2.1"),
        is_active: true,
        is_reusable: false,
        used: 0,
        date_created: now(),
        date_expired: now(),
    });
}

fn fields(noun: &impl Validate) -> Vec<String> {
    noun.validate().err().map(|i| i.fields.into_iter().map(|(f, _)| f).collect()).unwrap_or_default()
}

#[test]
fn users_are_checked() {
    let with = |change: fn(&mut User)| {
        let mut user = fixture::user(1, "ann");
        change(&mut user);
        fields(&user)
    };
    assert!(with(|_| {}).is_empty());
    let bad: [fn(&mut User); 6] = [
        |u| u.username = "a@b".into(),
        |u| u.username = "a#b".into(),
        |u| u.username = "JMS-1".into(),
        |u| u.username = String::new(),
        |u| u.username = "a\nb".into(),
        |u| u.username = "x".repeat(129),
    ];
    for change in bad {
        assert!(with(change).iter().all(|f| f == "username") && !with(change).is_empty());
    }
    for email in ["", "ann", "@example.com", "ann@", "ann@example", "a b@example.com", "a@b.c\r\nBcc: x@y.z"] {
        let user = User { email: email.into(), ..fixture::user(1, "ann") };
        assert_eq!(fields(&user), ["email"], "{email}");
    }
}

#[test]
fn assets_grants_and_rules_are_checked() {
    let mut asset = fixture::asset(1, &[id(2)]);
    assert!(fields(&asset).is_empty());
    asset.protocols.push(AssetProtocol { name: "ssh".into(), port: 0 });
    assert_eq!(fields(&asset), ["protocols", "protocols"]);
    for (address, ok) in [
        ("10.0.0.1", true),
        ("fe80::1%eth0", true),
        ("db.example.com", true),
        ("https://example.com/x", true),
        ("", false),
        ("-oProxyCommand=x", false),
        ("a b", false),
        ("a;reboot", false),
        ("{{ x }}", false),
        ("$(id)", false),
    ] {
        let mut invalid = Invalid::default();
        check_address(&mut invalid, "address", address);
        assert_eq!(invalid.fields.is_empty(), ok, "{address}");
    }
    for (username, ok) in
        [("root", true), ("DOM\\ann", true), ("ann@dom", true), ("a;b", false), ("-x", false), ("@ALL", false)]
    {
        let mut invalid = Invalid::default();
        check_account_username(&mut invalid, username);
        assert_eq!(invalid.fields.is_empty(), ok, "{username}");
    }
    let grant = |change: fn(&mut AssetPermission)| {
        let mut grant = fixture::grant(1);
        change(&mut grant);
        fields(&grant)
    };
    assert!(grant(|g| g.accounts = vec!["@SPEC".into(), "root".into(), "!x".into()]).is_empty());
    assert_eq!(grant(|g| g.accounts = vec!["*".into()]), ["accounts"]);
    assert_eq!(grant(|g| g.accounts = vec!["@OTHER".into()]), ["accounts"]);
    assert_eq!(grant(|g| g.actions = Actions::NONE), ["actions"]);
    assert_eq!(grant(|g| g.date_expired = g.date_start), ["date_expired"]);
    for action in [RuleAction::Review, RuleAction::FaceVerify, RuleAction::FaceOnline] {
        assert_eq!(fields(&fixture::login_rule(1, action)), ["action"]);
        assert_eq!(fields(&fixture::asset_rule(1, action)), ["action"]);
    }
    let mut rule = fixture::asset_rule(1, RuleAction::Reject);
    rule.priority = 0;
    rule.accounts.clear();
    rule.rules.ip_group = IpGroup::default();
    rule.rules.time_period = vec![TimePeriod { id: 7, value: "00:00~24:00".into() }];
    assert_eq!(fields(&rule), ["priority", "rules", "rules", "accounts"]);
    assert_eq!(fields(&fixture::connect_rule(1, RuleAction::Reject, &[])), ["connect_methods"]);
    let role = |points: &[&str]| Role {
        id: id(1),
        name: "r".into(),
        scope: RoleScope::Org,
        builtin: false,
        permissions: points.iter().map(|p| (*p).to_owned()).collect(),
        meta: meta(),
    };
    assert!(fields(&role(&["assets.view_asset"])).is_empty());
    assert_eq!(fields(&role(&["assets.view_everything", "settings.change_setting"])), ["permissions", "permissions"]);
    let blank = Organization { name: " ".into(), ..builtin::default_organization() };
    assert_eq!(fields(&blank), ["name"]);
}

#[test]
fn filters_match_as_they_say() {
    let mut asset = fixture::asset(1, &[id(31)]);
    asset.name = "web-01".into();
    asset.address = "10.1.2.3".into();
    asset.meta.labels = vec![id(60), id(61)];
    let label = |n, name: &str, value: &str| {
        let (name, value) = (name.to_owned(), value.to_owned());
        std::sync::Arc::new(Label { id: id(n), org_id: ORG, name, value, color: String::new(), meta: meta() })
    };
    let nodes = [std::sync::Arc::new(fixture::node(30, "1"))];
    let labels = [label(60, "env", "prod"), label(61, "team", "a")];
    let platforms = builtin::platforms();
    let subject = AssetSubject { asset: &asset, platform: platforms.first(), nodes: &nodes, labels: &labels };
    let hit = |name: &str, r#match, value: Value| {
        ManyFilter::Attrs { attrs: vec![AttrRule { name: name.into(), r#match, value }] }.matches(&subject)
    };
    use AttrMatch::{Contains, EndsWith, Exact, Gt, Gte, In, IpIn, Lt, Lte, M2m, M2mAll, Not, Regex, StartsWith};
    let yes = [
        ("name", Exact, json!("web-01")),
        ("name", Not, json!("web-02")),
        ("name", In, json!(["x", "web-01"])),
        ("name", Contains, json!("b-0")),
        ("name", StartsWith, json!("web")),
        ("name", EndsWith, json!("01")),
        ("name", Regex, json!("^web-\\d+$")),
        ("name", Gt, json!("web-00")),
        ("name", Lte, json!("web-01")),
        ("date_created", Lt, json!("2020-01-01T00:00:00Z")),
        ("date_created", Gte, json!("1970/01/01 00:00:00 +0000")),
        ("address", IpIn, json!(["192.0.2.1", "10.1.0.0-10.1.255.255"])),
        ("address", IpIn, json!("192.0.2.1, 10.0.0.0/8")),
        ("address", IpIn, json!("*")),
        ("nodes", M2m, json!([id(31)])),
        ("nodes", M2m, json!([{"id": id(30), "name": "root"}])),
        ("labels", M2m, json!(["env:prod", "env:test"])),
        ("labels", M2mAll, json!(["env:prod", id(61)])),
        ("platform", M2m, json!([builtin::platform_id("Linux")])),
        ("category", In, json!(["host"])),
        ("protocols", M2m, json!(["ssh"])),
        ("is_active", Exact, json!("True")),
        ("is_active", Exact, json!(1)),
    ];
    for (name, r#match, value) in yes {
        assert!(hit(name, r#match, value.clone()), "{name} {match} {value}");
    }
    let no = [
        ("name", Exact, json!("WEB-01")),
        ("name", Not, json!("web-01")),
        ("name", In, json!([])),
        ("name", Regex, json!("(")),
        ("name", Regex, json!(7)),
        ("name", Gt, json!({})),
        ("name", IpIn, json!("*")),
        ("address", IpIn, json!("10.0.0.0/99")),
        ("address", IpIn, json!([])),
        ("nodes", M2m, json!([id(32)])),
        ("labels", M2mAll, json!(["env:prod", "env:test"])),
        ("labels", M2mAll, json!([])),
        ("zone", Exact, json!("")),
        ("no_such", Not, json!("x")),
        ("is_active", Exact, json!(false)),
    ];
    for (name, r#match, value) in no {
        assert!(!hit(name, r#match, value.clone()), "{name} {match} {value}");
    }
    assert!(!ManyFilter::Attrs { attrs: vec![] }.matches(&subject));
    assert!(!ManyFilter::default().matches(&subject) && ManyFilter::All.matches(&subject));
}

#[test]
fn a_filter_sees_only_roles_and_groups_that_hold() {
    let user = fixture::user(1, "ann");
    let groups = [std::sync::Arc::new(fixture::group(2, &[id(1)])), std::sync::Arc::new(fixture::group(3, &[]))];
    let hit = |org, name: &str, value: Value| {
        let attrs = vec![AttrRule { name: name.into(), r#match: AttrMatch::M2m, value }];
        ManyFilter::Attrs { attrs }.matches(&UserSubject { user: &user, groups: &groups, org })
    };
    assert!(hit(ORG, "groups", json!([id(2)])) && !hit(ORG, "groups", json!([id(3)])));
    assert!(hit(ORG, "org_roles", json!([builtin::ORG_USER])));
    assert!(!hit(id(99), "org_roles", json!([builtin::ORG_USER])));
    assert!(hit(Uuid::nil(), "org_roles", json!([builtin::ORG_USER])));
}

#[test]
fn filters_that_cannot_match_are_refused() {
    let check = |name: &str, r#match, value: Value| {
        let mut rule = fixture::asset_rule(1, RuleAction::Reject);
        rule.assets = ManyFilter::Attrs { attrs: vec![AttrRule { name: name.into(), r#match, value }] };
        fields(&rule)
    };
    assert!(check("name", AttrMatch::Regex, json!("^a")).is_empty());
    for (name, r#match, value) in [
        ("name", AttrMatch::Regex, json!("(")),
        ("name", AttrMatch::Regex, json!("(a{1000}){1000}")),
        ("name", AttrMatch::In, json!([])),
        ("address", AttrMatch::IpIn, json!("10.0.0.0/40")),
        ("password", AttrMatch::Exact, json!("x")),
        ("name", AttrMatch::Exact, json!({"a": 1})),
    ] {
        assert_eq!(check(name, r#match, value.clone()), ["assets"], "{name} {match} {value}");
    }
    let mut empty = fixture::login_rule(1, RuleAction::Reject);
    empty.users = ManyFilter::Attrs { attrs: vec![] };
    assert_eq!(fields(&empty), ["users"]);
}

#[test]
fn address_lists() {
    let group = |items: &[&str]| IpGroup::try_from(items.iter().map(|i| (*i).to_owned()).collect::<Vec<_>>());
    let holds = |items: &[&str], ip: &str| group(items).unwrap().contains(ip.parse().unwrap());
    assert!(holds(&["*"], "2001:db8::1") && !holds(&[], "192.0.2.1"));
    assert!(holds(&["192.0.2.1"], "192.0.2.1") && !holds(&["192.0.2.1"], "192.0.2.2"));
    assert!(holds(&["192.0.2.0/24"], "192.0.2.255") && !holds(&["192.0.2.0/24"], "192.0.3.0"));
    assert!(holds(&["10.0.0.5 - 10.0.0.9"], "10.0.0.9") && !holds(&["10.0.0.5-10.0.0.9"], "10.0.0.10"));
    assert!(holds(&["2001:db8::/32"], "2001:db8::5") && holds(&["::1-::9"], "::4"));
    // A dual-stack socket shows IPv4 clients like this.
    assert!(holds(&["192.0.2.0/24"], "::ffff:192.0.2.7"));
    // And some people write them like this.
    for item in ["::ffff:192.0.2.7", "::ffff:192.0.2.0/120", "::ffff:192.0.2.1-::ffff:192.0.2.9"] {
        assert!(holds(&[item], "192.0.2.7") && !holds(&[item], "192.0.3.7"), "{item}");
    }
    for bad in ["", "x", "10.0.0.0/33", "10.0.0.9-10.0.0.5", "10.0.0.1-::5", "10.0.0", "10.0.0.1-", "*.1", "1/2/3"] {
        assert!(group(&[bad]).is_err(), "{bad}");
    }
}

#[test]
fn hours_of_the_week() {
    let period = |id, value: &str| TimePeriod { id, value: value.into() };
    assert_eq!(parse(&period(0, "00:00~12:00、14:00~24:00")), Ok(vec![(0, 720), (840, 1_440)]));
    assert_eq!(parse(&period(0, " 01:30 ~ 02:00 , ")), Ok(vec![(90, 120)]));
    assert_eq!(parse(&period(0, "")), Ok(vec![]));
    for bad in [
        "1",
        "12:00",
        "12:00~11:00",
        "12:00~12:00",
        "24:01~25:00",
        "00:60~01:00",
        "-1:00~2:00",
        "a:b~c:d",
        "99999:0~1:0",
    ] {
        assert!(parse(&period(0, bad)).is_err(), "{bad}");
    }
    assert!(parse(&period(7, "00:00~24:00")).is_err());
    // Saturday noon in London is Saturday evening in Tokyo, and Sunday is near.
    let noon = Moment::utc(now());
    let tokyo = Moment::new(now(), 9 * 3_600);
    assert!(noon.is_within(&[period(6, "12:00~12:01")]) && !noon.is_within(&[period(6, "11:00~12:00")]));
    assert!(tokyo.is_within(&[period(6, "21:00~21:01")]));
    assert!(Moment::new(now(), 13 * 3_600).is_within(&[period(0, "01:00~02:00")]));
    assert_eq!(tokyo.next_edge(&[period(0, "00:00~01:00")]), Some(now() + TimeDelta::hours(3)));
    assert_eq!(noon.next_edge(&[period(6, "12:00~13:00")]), Some(now() + TimeDelta::hours(1)));
    assert_eq!(noon.next_edge(&[period(6, "11:00~12:00")]), Some(now() + TimeDelta::hours(7 * 24 - 1)));
    assert_eq!((noon.next_edge(&[]), noon.next_edge(&[period(6, "")])), (None, None));
    let last = Moment::utc(DateTime::<Utc>::MAX_UTC);
    let _ = (last.next_edge(&[period(1, "00:00~24:00")]), last.is_within(&[period(1, "00:00~24:00")]));
}

proptest! {
    #[test]
    fn periods_survive_any_text(id in any::<u8>(), value in "\\PC{0,40}", weekday in 0u8..8, minute in 0u16..1_500) {
        let period = TimePeriod { id, value };
        let spans = parse(&period);
        if let Ok(spans) = &spans {
            prop_assert!(id <= 6 && spans.iter().all(|(from, to)| from < to && *to <= 1_440));
        }
        let inside = spans.is_ok_and(|s| s.iter().any(|(from, to)| (*from..*to).contains(&minute)));
        prop_assert_eq!(contains(&[period], weekday, minute), inside && id == weekday);
    }

    #[test]
    fn what_is_written_is_read_again(times in prop::collection::vec((0u16..1_439, 1u16..600), 1..4), id in 0u8..7) {
        let spans: Vec<(u16, u16)> = times.iter().map(|(from, len)| (*from, (from + len).min(1_440))).collect();
        let hm = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
        let value = spans.iter().map(|(a, b)| format!("{}~{}", hm(*a), hm(*b))).collect::<Vec<_>>().join("、");
        prop_assert_eq!(parse(&TimePeriod { id, value }), Ok(spans));
    }

    #[test]
    fn nothing_changes_before_the_next_edge(
        times in prop::collection::vec((0u8..7, 0u16..1_439, 1u16..600), 0..4),
        start in 0i64..604_800, offset in -50_000i32..50_000, part in 0i64..100,
    ) {
        let hm = |m: u16| format!("{:02}:{:02}", m / 60, m % 60);
        let periods: Vec<TimePeriod> = times
            .iter()
            .map(|(id, from, len)| TimePeriod { id: *id, value: format!("{}~{}", hm(*from), hm((from + len).min(1_440))) })
            .collect();
        let moment = Moment::new(now() + TimeDelta::seconds(start), offset);
        let end = moment.next_edge(&periods).unwrap_or(moment.at + TimeDelta::days(8));
        prop_assert!(end > moment.at);
        let between = moment.at + TimeDelta::milliseconds((end - moment.at).num_milliseconds() * part / 100);
        prop_assert_eq!(Moment::new(between, offset).is_within(&periods), moment.is_within(&periods));
    }

    #[test]
    fn address_items_survive_any_text(text in "\\PC{0,40}") {
        let _ = text.parse::<IpItem>();
    }

    #[test]
    fn address_items_are_written_as_they_are_read(a in any::<IpAddr>(), b in any::<IpAddr>(), bits in 0u8..=32) {
        let mut items = vec!["*".to_owned(), a.to_string()];
        if a.is_ipv4() {
            items.push(format!("{a}/{bits}"));
        }
        let (a, b) = (a.to_canonical(), b.to_canonical());
        if a.is_ipv4() == b.is_ipv4() {
            items.push(format!("{}-{}", a.min(b), a.max(b)));
        }
        for item in items {
            let read: IpItem = item.parse().unwrap();
            prop_assert_eq!(read.to_string().parse::<IpItem>().unwrap(), read.clone());
            prop_assert!(IpGroup(vec![read]).contains(a));
        }
    }

    #[test]
    fn action_bits_that_nobody_knows_grant_nothing(bits in any::<u16>()) {
        let actions: Actions = serde_json::from_value(json!(bits)).unwrap();
        prop_assert_eq!(actions.bits(), bits & 127);
        let again = actions.names().filter_map(|(n, _)| Actions::from_name(n)).fold(Actions::NONE, Actions::union);
        prop_assert_eq!(again, actions);
    }
}
