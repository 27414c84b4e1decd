//! The one decision: may this person reach that asset, with this account, over this protocol, now, and doing what?
//!
//! Pure and total: everything it knows is in its arguments, so the same question always has the same answer. Every door asks
//! it at connect time and again while the session lives. It trusts its facts to be true, not to be complete or bounded to
//! one organization: what belongs to another organization is left out here, whatever collected it.
//!
//! Precedence of rules: smaller priority first, then active, then name; the first that matches acts. Grants are additive.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::account::{Account, check_account_username};
use crate::asset::{Asset, Category, Node, Platform};
use crate::command::BoundFilter;
use crate::common::Invalid;
use crate::filter::{AssetSubject, UserSubject};
use crate::grant::{Actions, AssetPermission, alias};
use crate::net::IpGroup;
use crate::org::Label;
use crate::rules::{
    AssetLoginRule, CommandFilter, ConnectMethodRule, LoginRule, ManyFilter, RuleAction, RuleConditions,
};
use crate::settings::Settings;
use crate::time_period::Moment;
use crate::user::{User, UserGroup};

/// The account that a person chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccountChoice {
    /// A stored account by id.
    Stored(Uuid),
    /// `@USER`: the account named like the person; stored if there is one, else the secret is asked for.
    SameName,
    /// `@INPUT`: user name and secret are typed.
    Manual { username: String },
    /// `@ANON`: no log-in at all.
    Anonymous,
}

/// The question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub account: AccountChoice,
    /// `ssh`, `sftp`, `telnet`...
    pub protocol: String,
    /// `ssh_client`, `sftp_client`, `web_cli`...
    pub connect_method: String,
    /// Where the person comes from.
    pub source: IpAddr,
    pub moment: Moment,
}

/// How long a session may last (P73).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Without input.
    pub idle: Duration,
    /// In all.
    pub max: Duration,
}

impl Limits {
    pub fn of(settings: &Settings) -> Self {
        Self {
            idle: Duration::from_secs(u64::from(settings.security_max_idle_time) * 60),
            max: Duration::from_secs(u64::from(settings.security_max_session_time) * 3_600),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(&Settings::default())
    }
}

/// What the decision is made from: the records about one user and one asset. Superfluous ones do no harm.
#[derive(Debug, Clone)]
pub struct Facts {
    pub user: Arc<User>,
    pub groups: Vec<Arc<UserGroup>>,
    pub asset: Arc<Asset>,
    /// `None` (the platform is gone) denies.
    pub platform: Option<Arc<Platform>>,
    /// The nodes that the asset is in and all above them.
    pub nodes: Vec<Arc<Node>>,
    /// The labels of the asset.
    pub labels: Vec<Arc<Label>>,
    /// The accounts of the asset.
    pub accounts: Vec<Arc<Account>>,
    pub grants: Vec<Arc<AssetPermission>>,
    pub asset_rules: Vec<Arc<AssetLoginRule>>,
    pub connect_rules: Vec<Arc<ConnectMethodRule>>,
    pub command_filters: Vec<BoundFilter>,
    pub limits: Limits,
}

/// Somebody is to be told that a rule matched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleNotice {
    pub rule: Uuid,
    pub name: String,
    pub recipients: Vec<Uuid>,
    /// The person who connects is warned as well (`notify_and_warn`).
    pub warn_user: bool,
}

/// With which account the session logs in.
#[derive(Debug, Clone, PartialEq)]
pub enum AllowedAccount {
    Stored {
        account: Arc<Account>,
        /// Log in with this one and switch (C18); only over protocols with a shell.
        su_from: Option<Arc<Account>>,
    },
    /// The name is the person's own; the secret is asked for.
    SameName {
        username: String,
    },
    Manual {
        username: String,
    },
    Anonymous,
}

impl AllowedAccount {
    pub fn username(&self) -> &str {
        match self {
            Self::Stored { account, .. } => &account.username,
            Self::SameName { username } | Self::Manual { username } => username,
            Self::Anonymous => "",
        }
    }
}

#[derive(Debug, Clone)]
pub struct Allow {
    /// Contains `Actions::CONNECT`.
    pub actions: Actions,
    pub account: AllowedAccount,
    /// In the order in which they act; for `CommandMatcher::new`.
    pub filters: Vec<BoundFilter>,
    pub limits: Limits,
    /// The earliest instant at which the answer may differ without any record having changed: ask again then.
    pub until: DateTime<Utc>,
    pub notices: Vec<RuleNotice>,
}

/// Why not. `code` is for programs (JumpServer's where it has one), the text for the person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DenyReason {
    #[error("your user is disabled; ask an administrator")]
    UserInactive,
    #[error("your user has expired; ask an administrator")]
    UserExpired,
    #[error("you are not a member of the organization of this asset")]
    NotMember,
    #[error("this asset is disabled")]
    AssetInactive,
    #[error("the platform of this asset does not exist any more; ask an administrator to choose another")]
    PlatformMissing,
    #[error("this asset does not offer the protocol {protocol}")]
    ProtocolMissing { protocol: String },
    #[error("connecting with {method} is not allowed by the rule \"{rule}\"")]
    ConnectMethod { method: String, rule: String },
    #[error("you have no permission for this account on this asset")]
    AccountInvalid,
    #[error("this account is disabled")]
    AccountInactive,
    #[error("the user name cannot be used: {why}")]
    UsernameInvalid { why: String },
    #[error("a log-in without an account exists only for web and custom assets")]
    AnonymousUnsupported,
    #[error("the account to switch from is missing or disabled; ask an administrator")]
    SuFromInvalid,
    #[error("your permission does not cover the protocol {protocol}")]
    ProtocolNotGranted { protocol: String },
    #[error("your permission does not include connecting")]
    ActionNotGranted,
    #[error("your permission has expired")]
    PermExpired,
    #[error("your permission has not started yet")]
    PermNotStarted,
    #[error("the rule \"{rule}\" rejects this log-in")]
    AclReject { rule: String },
    #[error("the rule \"{rule}\" asks for an approval, which this version cannot give; ask an administrator")]
    AclReview { rule: String },
    #[error("the rule \"{rule}\" asks for face verification, which this version does not have; ask an administrator")]
    AclFace { rule: String, online: bool },
    #[error("log-ins from this address are not allowed")]
    IpBlocked,
}

impl DenyReason {
    pub fn code(&self) -> &'static str {
        match self {
            Self::UserInactive => "user_inactive",
            Self::UserExpired => "user_expired",
            Self::NotMember => "perm_user_invalid",
            Self::AssetInactive => "asset_inactive",
            Self::PlatformMissing => "asset_platform_invalid",
            Self::ProtocolMissing { .. } => "asset_protocol_invalid",
            Self::ConnectMethod { .. } => "acl_connect_method_reject",
            Self::AccountInvalid => "perm_account_invalid",
            Self::AccountInactive => "account_inactive",
            Self::UsernameInvalid { .. } => "account_username_invalid",
            Self::AnonymousUnsupported => "account_anonymous_unsupported",
            Self::SuFromInvalid => "account_su_from_invalid",
            Self::ProtocolNotGranted { .. } => "perm_protocol_invalid",
            Self::ActionNotGranted => "perm_action_invalid",
            Self::PermExpired => "perm_expired",
            Self::PermNotStarted => "perm_not_started",
            Self::AclReject { .. } => "acl_reject",
            Self::AclReview { .. } => "acl_review",
            Self::AclFace { online: false, .. } => "acl_face_verify",
            Self::AclFace { online: true, .. } => "acl_face_online",
            Self::IpBlocked => "block_ip_login",
        }
    }
}

/// The answer. Reviews are denials with a code of their own until somebody can approve.
#[derive(Debug, Clone)]
pub enum Decision {
    Allow(Box<Allow>),
    Deny { reason: DenyReason },
}

impl Decision {
    pub fn allow(self) -> Result<Allow, DenyReason> {
        match self {
            Self::Allow(allow) => Ok(*allow),
            Self::Deny { reason } => Err(reason),
        }
    }

    pub fn actions(&self) -> Actions {
        match self {
            Self::Allow(allow) => allow.actions,
            Self::Deny { .. } => Actions::NONE,
        }
    }
}

/// The answer to the question, from these facts and nothing else.
pub fn decide(request: &Request, facts: &Facts) -> Decision {
    match judge(request, facts) {
        Ok(allow) => Decision::Allow(Box::new(allow)),
        Err(reason) => Decision::Deny { reason },
    }
}

fn judge(request: &Request, facts: &Facts) -> Result<Allow, DenyReason> {
    let now = request.moment.at;
    check_user(&facts.user, now)?;
    let asset = &*facts.asset;
    if !facts.user.is_member_of(asset.org_id) {
        return Err(DenyReason::NotMember);
    }
    // Before anything else is said about asset or account: what somebody has no permission for looks the same whether it
    // exists, is disabled or is misspelt.
    let account = choose_account(request, facts).ok_or(DenyReason::AccountInvalid)?;
    let (covering, until_grants) = covering_grants(facts, &request.protocol, &account, now)?;
    if !asset.is_active {
        return Err(DenyReason::AssetInactive);
    }
    let platform = facts.platform.as_deref().ok_or(DenyReason::PlatformMissing)?;
    let protocol = || request.protocol.clone();
    let offered =
        asset.protocol(&request.protocol).is_some() && platform.protocol(&request.protocol).is_none_or(|p| p.public);
    if !offered {
        return Err(DenyReason::ProtocolMissing { protocol: protocol() });
    }
    let account = ready_account(account, platform, facts, &request.protocol)?;
    check_connect_method(request, facts)?;
    let actions = covering.iter().fold(Actions::NONE, |all, g| all.union(g.actions));
    if !actions.contains(Actions::CONNECT) {
        return Err(DenyReason::ActionNotGranted);
    }
    let notices = check_asset_rules(request, facts, &account)?;
    let until_rules = matching_asset_rules(facts, &account)
        .filter(|r| r.rules.ip_group.contains(request.source))
        .filter_map(|r| request.moment.next_edge(&r.rules.time_period))
        .min();
    let until = [Some(facts.user.date_expired), until_grants, until_rules].into_iter().flatten().min();
    Ok(Allow {
        actions,
        filters: session_filters(facts, &account),
        account,
        limits: facts.limits,
        until: until.unwrap_or(facts.user.date_expired),
        notices,
    })
}

fn check_user(user: &User, now: DateTime<Utc>) -> Result<(), DenyReason> {
    if !user.is_active {
        return Err(DenyReason::UserInactive);
    }
    if user.is_expired(now) {
        return Err(DenyReason::UserExpired);
    }
    Ok(())
}

/// The account before it is known whether it may be used: stored or virtual.
#[derive(Clone, Copy)]
enum Chosen<'a> {
    Stored(&'a Arc<Account>),
    SameName(&'a str),
    Manual(&'a str),
    Anonymous,
}

fn choose_account<'a>(request: &'a Request, facts: &'a Facts) -> Option<Chosen<'a>> {
    let mut mine = facts.accounts.iter().filter(|a| a.asset == facts.asset.id && a.org_id == facts.asset.org_id);
    match &request.account {
        AccountChoice::Stored(id) => mine.find(|a| a.id == *id).map(Chosen::Stored),
        AccountChoice::SameName => {
            let username = &facts.user.username;
            Some(same_name(mine, username).map_or(Chosen::SameName(username), Chosen::Stored))
        }
        AccountChoice::Manual { username } => Some(Chosen::Manual(username)),
        AccountChoice::Anonymous => Some(Chosen::Anonymous),
    }
}

/// The stored account that stands for `@USER`: active before disabled, with a secret before without, then by kind and id.
pub(crate) fn same_name<'a>(
    accounts: impl Iterator<Item = &'a Arc<Account>>,
    username: &str,
) -> Option<&'a Arc<Account>> {
    accounts.filter(|a| a.username == username).min_by_key(|a| (!a.is_active, !a.has_secret, a.secret_type, a.id))
}

/// What an accounts list of a grant says about one account. Exclusions are read without regard to case (some systems do not
/// tell `Root` from `root`), inclusions exactly.
pub(crate) fn grants_account(list: &[String], account: GrantedName<'_>, user: &User) -> bool {
    let named = |name: &str| list.iter().any(|l| l == name);
    let username = match account {
        GrantedName::Stored(name) | GrantedName::Manual(name) => Some(name),
        GrantedName::SameName => Some(user.username.as_str()),
        GrantedName::Anonymous => None,
    };
    if let Some(username) = username {
        let lower = username.to_lowercase();
        if list.iter().filter_map(|l| l.strip_prefix('!')).any(|out| out.to_lowercase() == lower) {
            return false;
        }
    }
    match account {
        GrantedName::Stored(name) => {
            named(alias::ALL) || named(alias::USER) && name == user.username || !is_marker(name) && named(name)
        }
        GrantedName::SameName => named(alias::USER),
        GrantedName::Manual(_) => named(alias::INPUT),
        GrantedName::Anonymous => named(alias::ANON),
    }
}

fn is_marker(name: &str) -> bool {
    name.starts_with(['@', '!'])
}

/// An account as grants name it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum GrantedName<'a> {
    Stored(&'a str),
    SameName,
    Manual(&'a str),
    Anonymous,
}

impl Chosen<'_> {
    fn granted_name(&self) -> GrantedName<'_> {
        match self {
            Self::Stored(account) => GrantedName::Stored(&account.username),
            Self::SameName(_) => GrantedName::SameName,
            Self::Manual(username) => GrantedName::Manual(username),
            Self::Anonymous => GrantedName::Anonymous,
        }
    }
}

impl AssetPermission {
    /// The grant names this user, by themselves or through a group of the same organization.
    pub fn covers_user(&self, user: &User, groups: &[Arc<UserGroup>]) -> bool {
        self.users.contains(&user.id)
            || groups
                .iter()
                .any(|g| g.org_id == self.org_id && g.users.contains(&user.id) && self.user_groups.contains(&g.id))
    }

    /// The grant names this asset, by itself or through a node that it is in or below (Z05).
    pub fn covers_asset(&self, asset: &Asset, nodes: &[Arc<Node>]) -> bool {
        if self.org_id != asset.org_id {
            return false;
        }
        if self.assets.contains(&asset.id) {
            return true;
        }
        // By the node records alone: the id of a node that is gone, still written somewhere, grants nothing.
        let mut own = nodes.iter().filter(|n| n.org_id == asset.org_id && asset.nodes.contains(&n.id));
        own.any(|own| {
            nodes.iter().any(|n| n.org_id == asset.org_id && self.nodes.contains(&n.id) && n.contains(&own.key))
        })
    }

    /// A grant with an empty side does nothing (Z02): nobody, nothing, no account, no protocol or no action is named.
    pub fn is_effective(&self) -> bool {
        (!self.users.is_empty() || !self.user_groups.is_empty())
            && (!self.assets.is_empty() || !self.nodes.is_empty())
            && self.accounts.iter().any(|a| a != alias::SPEC && !a.starts_with('!'))
            && !self.protocols.is_empty()
            && !self.actions.is_empty()
    }
}

/// The grants that hold now for (user, asset, account, protocol), and when that set changes next. Otherwise the nearest
/// reason why there is none.
fn covering_grants<'a>(
    facts: &'a Facts,
    protocol: &str,
    account: &Chosen<'_>,
    now: DateTime<Utc>,
) -> Result<(Vec<&'a AssetPermission>, Option<DateTime<Utc>>), DenyReason> {
    let mine = |g: &&'a Arc<AssetPermission>| {
        g.is_active
            && g.is_effective()
            && g.covers_user(&facts.user, &facts.groups)
            && g.covers_asset(&facts.asset, &facts.nodes)
            && grants_account(&g.accounts, account.granted_name(), &facts.user)
    };
    let mut valid = Vec::new();
    let mut until: Option<DateTime<Utc>> = None;
    let (mut expired, mut future, mut other_protocol) = (false, false, false);
    let mut earliest = |at: DateTime<Utc>| until = Some(until.map_or(at, |u| u.min(at)));
    for grant in facts.grants.iter().filter(mine) {
        if !grant.allows_protocol(protocol) {
            other_protocol |= grant.is_valid(now);
        } else if grant.is_valid(now) {
            earliest(grant.date_expired);
            valid.push(&**grant);
        } else if now < grant.date_start {
            future = true;
            earliest(grant.date_start);
        } else {
            expired = true;
        }
    }
    match () {
        () if !valid.is_empty() => Ok((valid, until)),
        () if other_protocol => Err(DenyReason::ProtocolNotGranted { protocol: protocol.to_owned() }),
        () if expired => Err(DenyReason::PermExpired),
        () if future => Err(DenyReason::PermNotStarted),
        () => Err(DenyReason::AccountInvalid),
    }
}

/// Protocols in which a session can switch to another account after it has logged in.
fn has_shell(protocol: &str) -> bool {
    matches!(protocol, "ssh" | "telnet")
}

fn ready_account(
    chosen: Chosen<'_>,
    platform: &Platform,
    facts: &Facts,
    protocol: &str,
) -> Result<AllowedAccount, DenyReason> {
    match chosen {
        Chosen::Stored(account) if !account.is_active => Err(DenyReason::AccountInactive),
        Chosen::Stored(account) => {
            // A platform that does not switch, and a protocol that cannot, log in directly.
            let su_from = match account.su_from.filter(|_| platform.su_enabled && has_shell(protocol)) {
                None => None,
                Some(id) => Some(su_source(id, account, facts).ok_or(DenyReason::SuFromInvalid)?),
            };
            Ok(AllowedAccount::Stored { account: Arc::clone(account), su_from })
        }
        Chosen::SameName(username) => Ok(AllowedAccount::SameName { username: username.to_owned() }),
        Chosen::Manual(username) => {
            let mut invalid = Invalid::default();
            check_account_username(&mut invalid, username);
            match invalid.fields.into_iter().next() {
                Some((_, why)) => Err(DenyReason::UsernameInvalid { why }),
                None => Ok(AllowedAccount::Manual { username: username.to_owned() }),
            }
        }
        Chosen::Anonymous if matches!(platform.category, Category::Web | Category::Custom) => {
            Ok(AllowedAccount::Anonymous)
        }
        Chosen::Anonymous => Err(DenyReason::AnonymousUnsupported),
    }
}

fn su_source(id: Uuid, account: &Account, facts: &Facts) -> Option<Arc<Account>> {
    let fits = |a: &&Arc<Account>| {
        a.id == id && a.id != account.id && a.asset == account.asset && a.org_id == account.org_id && a.is_active
    };
    facts.accounts.iter().find(fits).cloned()
}

/// What orders rules: priority, then active before inactive, then name; the id makes the order total.
pub type Rank<'a> = (u8, bool, &'a str, Uuid);

macro_rules! ranked {
    ($($t:ty),+) => { $(
        impl $t {
            pub fn rank(&self) -> Rank<'_> {
                (self.priority, !self.is_active, &self.name, self.id)
            }
        }
    )+ };
}
ranked!(LoginRule, AssetLoginRule, CommandFilter, ConnectMethodRule);

impl Facts {
    fn user_subject(&self, org: Uuid) -> UserSubject<'_> {
        UserSubject { user: &self.user, groups: &self.groups, org }
    }

    fn asset_subject(&self) -> AssetSubject<'_> {
        AssetSubject {
            asset: &self.asset,
            platform: self.platform.as_deref(),
            nodes: &self.nodes,
            labels: &self.labels,
        }
    }

    fn rule_covers(&self, org: Uuid, users: &ManyFilter, assets: &ManyFilter) -> bool {
        org == self.asset.org_id && users.matches(&self.user_subject(org)) && assets.matches(&self.asset_subject())
    }
}

/// Whether a rule's accounts name this one. A rule that takes away is read without regard to case, one that gives exactly.
fn rule_names_account(list: &[String], account: &AllowedAccount, action: RuleAction) -> bool {
    let name = account.username();
    list.iter().any(|listed| match listed.as_str() {
        alias::ALL | "*" => true,
        alias::INPUT => matches!(account, AllowedAccount::Manual { .. }),
        alias::ANON => matches!(account, AllowedAccount::Anonymous),
        alias::USER => matches!(account, AllowedAccount::SameName { .. }),
        // An empty name is asked for later by the protocol: it could become any, so a rule that takes away holds.
        _ if name.is_empty() => action != RuleAction::Accept && matches!(account, AllowedAccount::Manual { .. }),
        listed if action == RuleAction::Accept => listed == name,
        listed => listed.to_lowercase() == name.to_lowercase(),
    })
}

/// Z25: for the method, the first rule by precedence that names it.
fn check_connect_method(request: &Request, facts: &Facts) -> Result<(), DenyReason> {
    let user = facts.user_subject(crate::common::org_ids::ROOT);
    let names = |r: &&Arc<ConnectMethodRule>| {
        r.is_active && r.connect_methods.contains(&request.connect_method) && r.users.matches(&user)
    };
    match facts.connect_rules.iter().filter(names).min_by_key(|r| r.rank()) {
        Some(rule) if rule.action != RuleAction::Accept => {
            Err(DenyReason::ConnectMethod { method: request.connect_method.clone(), rule: rule.name.clone() })
        }
        _ => Ok(()),
    }
}

fn matching_asset_rules<'a>(
    facts: &'a Facts,
    account: &'a AllowedAccount,
) -> impl Iterator<Item = &'a Arc<AssetLoginRule>> {
    facts.asset_rules.iter().filter(|r| {
        r.is_active
            && facts.rule_covers(r.org_id, &r.users, &r.assets)
            && rule_names_account(&r.accounts, account, r.action)
    })
}

impl RuleConditions {
    /// From that address at that time.
    pub fn hold(&self, source: IpAddr, moment: Moment) -> bool {
        self.ip_group.contains(source) && moment.is_within(&self.time_period)
    }
}

/// Z24.
fn check_asset_rules(
    request: &Request,
    facts: &Facts,
    account: &AllowedAccount,
) -> Result<Vec<RuleNotice>, DenyReason> {
    let first = matching_asset_rules(facts, account)
        .filter(|r| r.rules.hold(request.source, request.moment))
        .min_by_key(|r| r.rank());
    first.map_or(Ok(Vec::new()), |rule| outcome(rule.action, rule.id, &rule.name, &rule.reviewers))
}

/// What a matched rule about a log-in leads to.
fn outcome(action: RuleAction, rule: Uuid, name: &str, recipients: &[Uuid]) -> Result<Vec<RuleNotice>, DenyReason> {
    let notice =
        |warn_user| Ok(vec![RuleNotice { rule, name: name.to_owned(), recipients: recipients.to_vec(), warn_user }]);
    let rule = name.to_owned();
    match action {
        RuleAction::Accept => Ok(Vec::new()),
        RuleAction::Notice => notice(false),
        RuleAction::Warning | RuleAction::NotifyAndWarn => notice(true),
        RuleAction::Reject => Err(DenyReason::AclReject { rule }),
        RuleAction::Review => Err(DenyReason::AclReview { rule }),
        RuleAction::FaceVerify => Err(DenyReason::AclFace { rule, online: false }),
        RuleAction::FaceOnline => Err(DenyReason::AclFace { rule, online: true }),
    }
}

/// Z21: the filters that hold for this user, asset and account, in order.
fn session_filters(facts: &Facts, account: &AllowedAccount) -> Vec<BoundFilter> {
    let mut filters: Vec<BoundFilter> = facts
        .command_filters
        .iter()
        .filter(|b| {
            let f = &b.filter;
            f.is_active
                && facts.rule_covers(f.org_id, &f.users, &f.assets)
                && rule_names_account(&f.accounts, account, f.action)
        })
        .map(|b| BoundFilter {
            filter: Arc::clone(&b.filter),
            groups: b.groups.iter().filter(|g| g.org_id == b.filter.org_id).cloned().collect(),
        })
        .collect();
    filters.sort_by(|a, b| a.filter.rank().cmp(&b.filter.rank()));
    filters
}

/// What a log-in to Gatehouse itself is decided from (Z20, A35).
#[derive(Debug, Clone)]
pub struct LoginFacts {
    pub user: Arc<User>,
    /// In all organizations.
    pub groups: Vec<Arc<UserGroup>>,
    pub rules: Vec<Arc<LoginRule>>,
    /// Addresses that are never locked out and that the black list does not hold for.
    pub white_list: IpGroup,
    pub black_list: IpGroup,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoginDecision {
    Allow { notices: Vec<RuleNotice> },
    Deny { reason: DenyReason },
}

/// May this user log in to Gatehouse from there, now? No matching rule is yes.
pub fn decide_login(facts: &LoginFacts, source: IpAddr, moment: Moment) -> LoginDecision {
    match judge_login(facts, source, moment) {
        Ok(notices) => LoginDecision::Allow { notices },
        Err(reason) => LoginDecision::Deny { reason },
    }
}

fn judge_login(facts: &LoginFacts, source: IpAddr, moment: Moment) -> Result<Vec<RuleNotice>, DenyReason> {
    check_source(source, &facts.white_list, &facts.black_list)?;
    check_user(&facts.user, moment.at)?;
    let user = UserSubject { user: &facts.user, groups: &facts.groups, org: crate::common::org_ids::ROOT };
    let first = facts
        .rules
        .iter()
        .filter(|r| r.is_active && r.users.matches(&user) && r.rules.hold(source, moment))
        .min_by_key(|r| r.rank());
    first.map_or(Ok(Vec::new()), |rule| outcome(rule.action, rule.id, &rule.name, &rule.reviewers))
}

/// The global address lists, for doors that do not know the user yet.
pub fn check_source(source: IpAddr, white_list: &IpGroup, black_list: &IpGroup) -> Result<(), DenyReason> {
    if black_list.contains(source) && !white_list.contains(source) { Err(DenyReason::IpBlocked) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
