//! Rules (JumpServer: ACLs): log-in, asset log-in, command filters, connect methods, and what they share.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::choices;
use crate::common::{Invalid, Meta, Validate, check_name};
use crate::filter::{ASSET_ATTRIBUTES, USER_ATTRIBUTES};
use crate::net::IpGroup;
use crate::record::{Index, org_record, system_record};

choices! {
    pub enum RuleAction {
        Reject = "reject", "Reject";
        Accept = "accept", "Accept";
        Review = "review", "Review";
        Warning = "warning", "Warn";
        Notice = "notice", "Notify";
        NotifyAndWarn = "notify_and_warn", "Notify and warn";
        FaceVerify = "face_verify", "Face verify";
        FaceOnline = "face_online", "Face online";
    }
}

choices! {
    pub enum AttrMatch {
        Exact = "exact", "Equals";
        Not = "not", "Not equals";
        In = "in", "In";
        Contains = "contains", "Contains";
        StartsWith = "startswith", "Starts with";
        EndsWith = "endswith", "Ends with";
        Regex = "regex", "Regex";
        Gt = "gt", "Greater than";
        Gte = "gte", "Greater than or equal to";
        Lt = "lt", "Less than";
        Lte = "lte", "Less than or equal to";
        IpIn = "ip_in", "IP in";
        M2m = "m2m", "Any of";
        M2mAll = "m2m_all", "All of";
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttrRule {
    pub name: String,
    pub r#match: AttrMatch,
    pub value: Value,
}

/// Which users or assets a rule is about: all, these ids, or those whose attributes match every line (Z26).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum ManyFilter {
    All,
    Ids {
        #[serde(default)]
        ids: Vec<Uuid>,
    },
    Attrs {
        #[serde(default)]
        attrs: Vec<AttrRule>,
    },
}

impl Default for ManyFilter {
    fn default() -> Self {
        Self::Ids { ids: Vec::new() }
    }
}

/// Hours of one weekday in which a rule holds: `{"id": 0, "value": "00:00~12:00、14:00~24:00"}`. 0 is Sunday. The text is
/// kept as users write it; parsing is in `decide`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimePeriod {
    pub id: u8,
    pub value: String,
}

/// When and from where a rule holds. An empty `time_period` is always; `ip_group` must say `*` for everywhere.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RuleConditions {
    #[serde(default)]
    pub ip_group: IpGroup,
    #[serde(default)]
    pub time_period: Vec<TimePeriod>,
}

/// An accounts list of a rule names somebody: an empty one would be a rule that silently does nothing.
fn check_accounts(invalid: &mut Invalid, accounts: &[String]) {
    invalid.check(!accounts.is_empty(), "accounts", "choose at least one account, or @ALL");
}

fn check_rule(invalid: &mut Invalid, name: &str, priority: u8) {
    check_name(invalid, "name", name);
    invalid.check((1..=100).contains(&priority), "priority", "priority is between 1 and 100");
}

/// Z20. System-wide, as in JumpServer (set in the global organization).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoginRule {
    pub id: Uuid,
    pub name: String,
    pub priority: u8,
    pub users: ManyFilter,
    pub rules: RuleConditions,
    pub action: RuleAction,
    #[serde(default)]
    pub reviewers: Vec<Uuid>,
    pub is_active: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(LoginRule, "login_rule", |record| vec![Index::unique("name", record.name.as_bytes())]);

/// Z24: who may log in to which asset with which account, from where and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AssetLoginRule {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    pub priority: u8,
    pub users: ManyFilter,
    pub assets: ManyFilter,
    /// User names; `@ALL` (or `*`) is every account.
    pub accounts: Vec<String>,
    pub rules: RuleConditions,
    pub action: RuleAction,
    #[serde(default)]
    pub reviewers: Vec<Uuid>,
    pub is_active: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

/// Z21.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandFilter {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    pub priority: u8,
    pub users: ManyFilter,
    pub assets: ManyFilter,
    pub accounts: Vec<String>,
    pub command_groups: Vec<Uuid>,
    pub action: RuleAction,
    #[serde(default)]
    pub reviewers: Vec<Uuid>,
    pub is_active: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

/// Z25: methods (`ssh_client`, `sftp_client`, `web_cli`...) that some users may not use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConnectMethodRule {
    pub id: Uuid,
    pub name: String,
    pub priority: u8,
    pub users: ManyFilter,
    pub connect_methods: Vec<String>,
    pub action: RuleAction,
    pub is_active: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(ConnectMethodRule, "connect_method_rule", |record| vec![Index::unique("name", record.name.as_bytes())]);

choices! {
    pub enum CommandGroupType {
        Command = "command", "Command";
        Regex = "regex", "Regex";
    }
}

/// Z22: lines that a filter looks for in a command.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommandGroup {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    pub r#type: CommandGroupType,
    /// One command or expression per line.
    pub content: String,
    pub ignore_case: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(AssetLoginRule, "asset_login_rule", |record| vec![Index::named(record.org_id, &record.name)]);
org_record!(CommandFilter, "command_filter", |record| vec![Index::named(record.org_id, &record.name)]);
org_record!(CommandGroup, "command_group", |record| vec![Index::named(record.org_id, &record.name)]);

impl Validate for LoginRule {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_rule(&mut invalid, &self.name, self.priority);
        use RuleAction::{Accept, Notice, NotifyAndWarn, Reject};
        check_action(&mut invalid, self.action, &[Accept, Reject, Notice, NotifyAndWarn]);
        check_periods(&mut invalid, &self.rules);
        self.users.check(&mut invalid, "users", USER_ATTRIBUTES);
        invalid.into_result()
    }
}

impl Validate for AssetLoginRule {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_rule(&mut invalid, &self.name, self.priority);
        use RuleAction::{Accept, Notice, NotifyAndWarn, Reject};
        check_action(&mut invalid, self.action, &[Accept, Reject, Notice, NotifyAndWarn]);
        check_periods(&mut invalid, &self.rules);
        self.users.check(&mut invalid, "users", USER_ATTRIBUTES);
        self.assets.check(&mut invalid, "assets", ASSET_ATTRIBUTES);
        check_accounts(&mut invalid, &self.accounts);
        invalid.into_result()
    }
}

impl Validate for CommandFilter {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_rule(&mut invalid, &self.name, self.priority);
        use RuleAction::{Accept, NotifyAndWarn, Reject, Warning};
        check_action(&mut invalid, self.action, &[Accept, Reject, Warning, NotifyAndWarn]);
        invalid.check(!self.command_groups.is_empty(), "command_groups", "choose at least one command group");
        self.users.check(&mut invalid, "users", USER_ATTRIBUTES);
        self.assets.check(&mut invalid, "assets", ASSET_ATTRIBUTES);
        check_accounts(&mut invalid, &self.accounts);
        invalid.into_result()
    }
}

impl Validate for ConnectMethodRule {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_rule(&mut invalid, &self.name, self.priority);
        check_action(&mut invalid, self.action, &[RuleAction::Reject, RuleAction::Accept]);
        self.users.check(&mut invalid, "users", USER_ATTRIBUTES);
        invalid.check(!self.connect_methods.is_empty(), "connect_methods", "choose at least one connect method");
        invalid.into_result()
    }
}

impl Validate for CommandGroup {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        self.check_content(&mut invalid);
        invalid.into_result()
    }
}

/// Actions that this version cannot carry out are refused when the rule is made, never accepted and ignored.
fn check_action(invalid: &mut Invalid, action: RuleAction, known: &[RuleAction]) {
    match action {
        a if known.contains(&a) => {}
        RuleAction::Review => invalid.add("action", "review needs approvals, which this version does not have yet"),
        RuleAction::FaceVerify | RuleAction::FaceOnline => {
            invalid.add("action", "face verification is not available in this version");
        }
        other => invalid.add("action", format!("{other} is not an action of this kind of rule")),
    }
}

fn check_periods(invalid: &mut Invalid, rules: &RuleConditions) {
    if rules.ip_group.0.is_empty() {
        invalid.add("rules", "ip_group is empty and matches nothing; use * for every address");
    }
    for period in &rules.time_period {
        if let Err(why) = crate::time_period::parse(period) {
            invalid.add("rules", why);
        }
    }
}
