//! `acls/*`: log-in, asset log-in, command and connect-method rules (Z20-Z26). Rules whose action this version cannot
//! carry out are refused by the model.

use async_trait::async_trait;
use gatehouse_model::common::{Invalid, Validate};
use gatehouse_model::rules::{
    AssetLoginRule, CommandFilter, CommandGroup, CommandGroupType, ConnectMethodRule, LoginRule, RuleAction,
};
use serde_json::json;

use crate::engine::change::Change;
use crate::engine::field::{self, Field, Kind, boolean, choice, int, json as json_field, many, strings, text};
use crate::engine::related::Target;
use crate::engine::table::Hooks;
use crate::engine::{Guarding, Resource};
use crate::problem::Problem;

struct Rules;

macro_rules! plain_rule {
    ($($t:ty),+) => { $(
        #[async_trait]
        impl Hooks<$t> for Rules {
            fn validate(&self, row: &$t) -> Result<(), Invalid> {
                row.validate()
            }
            fn name(&self, row: &$t) -> String {
                row.name.clone()
            }
        }
    )+ };
}
plain_rule!(LoginRule, AssetLoginRule, CommandFilter, ConnectMethodRule);

#[async_trait]
impl Hooks<CommandGroup> for Rules {
    fn validate(&self, row: &CommandGroup) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &CommandGroup) -> String {
        row.name.clone()
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &CommandGroup) -> Result<(), Problem> {
        let filters = change.list::<CommandFilter>()?;
        match filters.iter().filter(|f| f.command_groups.contains(&row.id)).count() {
            0 => Ok(()),
            // A filter without its group would let pass what it is there to stop.
            n => Err(Problem::bad_request("command_group_in_use", format!("{n} command filters use this group"))),
        }
    }
}

fn rule(extra: Vec<Field>) -> Vec<Field> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        int("priority", "Priority", 1, 100).default(|| json!(50)).help("1-100, smaller first"),
        Field::new("users", "Users", Kind::ManyFilter(Target::User)).required(),
    ];
    fields.extend(extra);
    fields.push(boolean("is_active", "Active").default(|| json!(true)));
    fields
}

fn action(default: fn() -> serde_json::Value) -> Field {
    choice("action", "Action", RuleAction::CHOICES).default(default)
}

fn reviewers() -> Field {
    many("reviewers", "Reviewers", Target::User).default(|| json!([]))
}

fn conditions() -> Field {
    json_field("rules", "Rules")
        .default(|| json!({"ip_group": ["*"], "time_period": []}))
        .help("{\"ip_group\": [\"*\"], \"time_period\": [{\"id\": 0, \"value\": \"00:00~12:00\"}]}; 0 is Sunday")
}

fn assets() -> Field {
    Field::new("assets", "Assets", Kind::ManyFilter(Target::Asset)).required()
}

fn accounts() -> Field {
    strings("accounts", "Accounts").default(|| json!(["@ALL"]))
}

fn of_org(mut fields: Vec<Field>) -> Vec<Field> {
    fields.extend(field::org());
    fields.extend(field::meta());
    fields
}

fn of_system(mut fields: Vec<Field>) -> Vec<Field> {
    fields.extend(field::meta());
    fields
}

pub(crate) fn resources() -> Vec<Resource> {
    let reject = || json!("reject");
    let login = of_system(rule(vec![conditions(), action(reject), reviewers()]));
    let asset_login = of_org(rule(vec![assets(), accounts(), conditions(), action(reject), reviewers()]));
    let groups = many("command_groups", "Command groups", Target::CommandGroup).required();
    let command = of_org(rule(vec![assets(), accounts(), groups, action(reject), reviewers()]));
    let methods = strings("connect_methods", "Connect methods").required();
    let connect = of_system(rule(vec![methods, action(reject)]));
    let group = of_org(vec![
        field::id(),
        text("name", "Name").required(),
        choice("type", "Type", CommandGroupType::CHOICES).default(|| json!("command")),
        text("content", "Content").required().help("one command or expression per line"),
        boolean("ignore_case", "Ignore case").default(|| json!(true)),
    ]);
    vec![
        Resource::new::<LoginRule, Rules>("acls", "login-acls", "loginacl", "Login rule", login, Rules)
            .guarding(Guarding::System),
        Resource::new::<AssetLoginRule, Rules>(
            "acls",
            "login-asset-acls",
            "loginassetacl",
            "Asset login rule",
            asset_login,
            Rules,
        ),
        Resource::new::<CommandFilter, Rules>(
            "acls",
            "command-filter-acls",
            "commandfilteracl",
            "Command filter",
            command,
            Rules,
        ),
        Resource::new::<CommandGroup, Rules>("acls", "command-groups", "commandgroup", "Command group", group, Rules),
        Resource::new::<ConnectMethodRule, Rules>(
            "acls",
            "connect-method-acls",
            "connectmethodacl",
            "Connect method rule",
            connect,
            Rules,
        )
        .guarding(Guarding::System),
    ]
}
