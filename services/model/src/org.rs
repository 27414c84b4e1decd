//! Organizations, roles and labels.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::choices;
use crate::common::{Invalid, Meta, Validate, check_name};
use crate::record::{Index, org_record, system_record};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Organization {
    pub id: Uuid,
    pub name: String,
    #[serde(default)]
    pub builtin: bool,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(Organization, "organization", |record| vec![Index::unique("name", record.name.to_lowercase())]);

impl Validate for Organization {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        invalid.into_result()
    }
}

choices! {
    /// Where a role applies.
    pub enum RoleScope {
        System = "system", "System";
        Org = "org", "Organization";
    }
}

/// A named set of permission points (`app.action_model`). Built-in roles have fixed ids …0001-0007 and cannot change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Role {
    pub id: Uuid,
    pub name: String,
    pub scope: RoleScope,
    #[serde(default)]
    pub builtin: bool,
    /// Points such as `assets.view_asset`; `*` is all. No other wildcard exists.
    #[serde(default)]
    pub permissions: Vec<String>,
    #[serde(flatten)]
    pub meta: Meta,
}

system_record!(Role, "role", |record| vec![Index::unique(
    "name",
    Index::compound(&[record.scope.as_str().as_bytes(), record.name.to_lowercase().as_bytes()]),
)]);

impl Validate for Role {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        if !self.builtin {
            crate::permission::check_points(&mut invalid, self.scope, &self.permissions);
        }
        invalid.into_result()
    }
}

/// `name:value` tags on assets, users, accounts and others (S14). Names may repeat, the pair may not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Label {
    pub id: Uuid,
    pub org_id: Uuid,
    pub name: String,
    pub value: String,
    #[serde(default)]
    pub color: String,
    #[serde(flatten)]
    pub meta: Meta,
}

org_record!(Label, "label", |record| {
    let pair = Index::compound(&[record.org_id.as_bytes(), record.name.as_bytes(), record.value.as_bytes()]);
    vec![Index::unique("pair", pair)]
});

impl Validate for Label {
    fn validate(&self) -> Result<(), Invalid> {
        let mut invalid = Invalid::default();
        check_name(&mut invalid, "name", &self.name);
        check_name(&mut invalid, "value", &self.value);
        invalid.check(!self.name.contains(':'), "name", "a colon separates name and value and is not allowed here");
        invalid.into_result()
    }
}
