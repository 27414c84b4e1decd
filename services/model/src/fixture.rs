//! Plain records for the tests of this crate. Small numbers stand for identifiers.

use chrono::{DateTime, Utc};
use serde_json::Map;
use uuid::Uuid;

use crate::account::{Account, SecretType};
use crate::asset::{Asset, AssetProtocol, Connectivity, Node};
use crate::builtin;
use crate::common::{Meta, far_future, org_ids};
use crate::grant::{Actions, AssetPermission};
use crate::net::IpGroup;
use crate::rules::{
    AssetLoginRule, CommandFilter, CommandGroup, CommandGroupType, ConnectMethodRule, LoginRule, ManyFilter,
    RuleAction, RuleConditions,
};
use crate::user::{MfaLevel, OrgRole, User, UserGroup, UserSource};

pub(crate) const ORG: Uuid = org_ids::DEFAULT;

pub(crate) fn id(n: u128) -> Uuid {
    Uuid::from_u128(0x1000 + n)
}

/// Saturday 21 November 2026, noon.
pub(crate) fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_262_400, 0).unwrap()
}

pub(crate) fn meta() -> Meta {
    Meta::new("test", DateTime::<Utc>::UNIX_EPOCH)
}

pub(crate) fn user(n: u128, username: &str) -> User {
    User {
        id: id(n),
        username: username.into(),
        name: username.to_uppercase(),
        email: format!("{username}@example.com"),
        phone: String::new(),
        wechat: String::new(),
        source: UserSource::Local,
        mfa_level: MfaLevel::Off,
        otp_enrolled: false,
        is_active: true,
        is_service_account: false,
        date_expired: far_future(now()),
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

pub(crate) fn group(n: u128, users: &[Uuid]) -> UserGroup {
    UserGroup { id: id(n), org_id: ORG, name: format!("group{n}"), users: users.to_vec(), meta: meta() }
}

pub(crate) fn node(n: u128, key: &str) -> Node {
    Node {
        id: id(n),
        org_id: ORG,
        key: key.into(),
        value: format!("n{n}"),
        full_value: format!("/{}", key.replace(':', "/")),
        child_mark: 0,
        meta: meta(),
    }
}

pub(crate) fn asset(n: u128, nodes: &[Uuid]) -> Asset {
    let protocol = |name: &str| AssetProtocol { name: name.into(), port: 22 };
    Asset {
        id: id(n),
        org_id: ORG,
        name: format!("host{n}"),
        address: format!("10.0.0.{}", n % 250),
        platform: builtin::platform_id("Linux"),
        zone: None,
        nodes: nodes.to_vec(),
        protocols: vec![protocol("ssh"), protocol("sftp")],
        is_active: true,
        connectivity: Connectivity::Unknown,
        date_verified: None,
        gathered_info: Map::new(),
        custom_info: Map::new(),
        spec_info: Map::new(),
        meta: meta(),
    }
}

pub(crate) fn account(n: u128, asset: Uuid, username: &str) -> Account {
    Account {
        id: id(n),
        org_id: ORG,
        asset,
        name: username.into(),
        username: username.into(),
        secret_type: SecretType::Password,
        has_secret: true,
        privileged: false,
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

pub(crate) fn grant(n: u128) -> AssetPermission {
    AssetPermission {
        id: id(n),
        org_id: ORG,
        name: format!("grant{n}"),
        users: Vec::new(),
        user_groups: Vec::new(),
        assets: Vec::new(),
        nodes: Vec::new(),
        accounts: vec!["@ALL".into()],
        protocols: vec!["all".into()],
        actions: Actions::ALL,
        date_start: DateTime::<Utc>::UNIX_EPOCH,
        date_expired: far_future(now()),
        is_active: true,
        from_ticket: false,
        meta: meta(),
    }
}

pub(crate) fn everywhere() -> RuleConditions {
    RuleConditions { ip_group: IpGroup::any(), time_period: Vec::new() }
}

pub(crate) fn login_rule(n: u128, action: RuleAction) -> LoginRule {
    LoginRule {
        id: id(n),
        name: format!("login{n}"),
        priority: 50,
        users: ManyFilter::All,
        rules: everywhere(),
        action,
        reviewers: Vec::new(),
        is_active: true,
        meta: meta(),
    }
}

pub(crate) fn asset_rule(n: u128, action: RuleAction) -> AssetLoginRule {
    AssetLoginRule {
        id: id(n),
        org_id: ORG,
        name: format!("rule{n}"),
        priority: 50,
        users: ManyFilter::All,
        assets: ManyFilter::All,
        accounts: vec!["@ALL".into()],
        rules: everywhere(),
        action,
        reviewers: Vec::new(),
        is_active: true,
        meta: meta(),
    }
}

pub(crate) fn connect_rule(n: u128, action: RuleAction, methods: &[&str]) -> ConnectMethodRule {
    ConnectMethodRule {
        id: id(n),
        name: format!("method{n}"),
        priority: 50,
        users: ManyFilter::All,
        connect_methods: methods.iter().map(|m| (*m).to_owned()).collect(),
        action,
        is_active: true,
        meta: meta(),
    }
}

pub(crate) fn command_filter(n: u128) -> CommandFilter {
    CommandFilter {
        id: id(n),
        org_id: ORG,
        name: format!("filter{n}"),
        priority: 50,
        users: ManyFilter::All,
        assets: ManyFilter::All,
        accounts: vec!["@ALL".into()],
        command_groups: vec![id(900)],
        action: RuleAction::Reject,
        reviewers: Vec::new(),
        is_active: true,
        meta: meta(),
    }
}

pub(crate) fn command_group(n: u128, content: &str) -> CommandGroup {
    CommandGroup {
        id: id(n),
        org_id: ORG,
        name: format!("commands{n}"),
        r#type: CommandGroupType::Command,
        content: content.into(),
        ignore_case: true,
        meta: meta(),
    }
}
