//! What a field may point at: how the other record is named, found by name in an import, and whether the caller sees it.

use gatehouse_model::account::{Account, AccountTemplate};
use gatehouse_model::asset::{Asset, Node, Platform, Zone};
use gatehouse_model::org::{Label, Organization, Role};
use gatehouse_model::record::Index;
use gatehouse_model::rules::CommandGroup;
use gatehouse_model::user::{User, UserGroup};
use gatehouse_store::StoreError;
use serde_json::{Value, json};
use uuid::Uuid;

use super::reader::{Reader, Scope};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    User,
    UserGroup,
    Role,
    Organization,
    Asset,
    Node,
    Platform,
    Zone,
    Account,
    AccountTemplate,
    Label,
    CommandGroup,
}

impl Target {
    /// The list that forms offer, for OPTIONS and the OpenAPI document.
    pub fn url(self) -> &'static str {
        match self {
            Self::User => "/api/v1/users/users/",
            Self::UserGroup => "/api/v1/users/groups/",
            Self::Role => "/api/v1/rbac/roles/",
            Self::Organization => "/api/v1/orgs/orgs/",
            Self::Asset => "/api/v1/assets/assets/",
            Self::Node => "/api/v1/assets/nodes/",
            Self::Platform => "/api/v1/assets/platforms/",
            Self::Zone => "/api/v1/assets/zones/",
            Self::Account => "/api/v1/accounts/accounts/",
            Self::AccountTemplate => "/api/v1/accounts/account-templates/",
            Self::Label => "/api/v1/labels/labels/",
            Self::CommandGroup => "/api/v1/acls/command-groups/",
        }
    }

    /// The record's shown name, if it exists and the reader's scope sees it.
    pub fn name(self, reader: &Reader, id: Uuid) -> Result<Option<String>, StoreError> {
        Ok(match self {
            Self::User => reader
                .get::<User>(id)?
                .filter(|u| match reader.scope {
                    Scope::Org(org) => u.is_member_of(org) || !u.system_roles.is_empty(),
                    Scope::Global => true,
                })
                .map(|u| u.display()),
            Self::UserGroup => reader.get::<UserGroup>(id)?.map(|r| r.name.clone()),
            Self::Role => reader.get::<Role>(id)?.map(|r| r.name.clone()),
            Self::Organization => reader.get::<Organization>(id)?.map(|r| r.name.clone()),
            Self::Asset => reader.get::<Asset>(id)?.map(|r| r.name.clone()),
            Self::Node => reader.get::<Node>(id)?.map(|r| r.full_value.clone()),
            Self::Platform => reader.get::<Platform>(id)?.map(|r| r.name.clone()),
            Self::Zone => reader.get::<Zone>(id)?.map(|r| r.name.clone()),
            Self::Account => reader.get::<Account>(id)?.map(|r| format!("{}({})", r.name, r.username)),
            Self::AccountTemplate => reader.get::<AccountTemplate>(id)?.map(|r| r.name.clone()),
            Self::Label => reader.get::<Label>(id)?.map(|r| format!("{}:{}", r.name, r.value)),
            Self::CommandGroup => reader.get::<CommandGroup>(id)?.map(|r| r.name.clone()),
        })
    }

    /// `{"id","name"}`; a pointer to what is gone or hidden shows only its id.
    pub fn show(self, reader: &Reader, id: Uuid) -> Result<Value, StoreError> {
        Ok(match self.name(reader, id)? {
            Some(name) => json!({"id": id, "name": name}),
            None => json!({"id": id, "name": ""}),
        })
    }

    /// The record with that unique name, for spreadsheets filled in by people.
    pub fn by_name(self, reader: &Reader, name: &str) -> Result<Option<Uuid>, StoreError> {
        let org = reader.scope.id();
        let in_org = Index::compound(&[org.as_bytes(), name.as_bytes()]);
        let lower = name.to_lowercase();
        Ok(match self {
            Self::User => {
                // Shown as `Name(username)`; either part of it may be written.
                let username = name
                    .rsplit_once('(')
                    .map_or_else(|| lower.clone(), |(_, u)| u.trim_end_matches(')').to_lowercase());
                let found = reader.find::<User>("username", username.as_bytes())?;
                match found.first() {
                    Some(user) if self.name(reader, user.id)?.is_some() => Some(user.id),
                    _ => None,
                }
            }
            Self::UserGroup => reader.find::<UserGroup>("name", &in_org)?.first().map(|r| r.id),
            Self::Role => reader.list::<Role>()?.iter().find(|r| r.name.to_lowercase() == lower).map(|r| r.id),
            Self::Organization => reader.find::<Organization>("name", lower.as_bytes())?.first().map(|r| r.id),
            Self::Asset => reader.find::<Asset>("name", &in_org)?.first().map(|r| r.id),
            Self::Node => reader.list::<Node>()?.iter().find(|n| n.full_value == name || n.value == name).map(|n| n.id),
            Self::Platform => reader.find::<Platform>("name", lower.as_bytes())?.first().map(|r| r.id),
            Self::Zone => reader.find::<Zone>("name", &in_org)?.first().map(|r| r.id),
            // An account's name is unique only within its asset.
            Self::Account => None,
            Self::AccountTemplate => reader.find::<AccountTemplate>("name", &in_org)?.first().map(|r| r.id),
            Self::Label => match name.split_once(':') {
                Some((key, value)) => {
                    let pair = Index::compound(&[org.as_bytes(), key.trim().as_bytes(), value.trim().as_bytes()]);
                    reader.find::<Label>("pair", &pair)?.first().map(|r| r.id)
                }
                None => None,
            },
            Self::CommandGroup => reader.find::<CommandGroup>("name", &in_org)?.first().map(|r| r.id),
        })
    }
}
