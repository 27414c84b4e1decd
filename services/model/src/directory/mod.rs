//! The read model's data: everything that decisions and lists need, decoded once and indexed in memory.
//!
//! What lives here: the records behind `Arc` (shared with whoever decoded them), indexes kept current change by change, and
//! the cache of what users reach. What must not: secrets, IO, or a decision of its own: `decide` decides, from `facts`.
//!
//! Load order: any order gives the same answers; organizations' nodes before their assets is the fast one.

mod account;
mod assets;
mod query;
mod reach;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use uuid::Uuid;

pub use account::GrantedAccount;
pub use query::{AssetOrder, AssetQuery, Listed, Page, Place};
pub use reach::{Reach, Reached};
pub use tree::{CountDrift, TreeNode, TreeNodeKind};

use crate::account::Account;
use crate::asset::{Asset, FavoriteAsset, Node, Platform};
use crate::command::{BoundFilter, CompiledGroup};
use crate::decide::{Facts, Limits, LoginFacts};
use crate::grant::AssetPermission;
use crate::org::{Label, Organization, Role};
use crate::permission::RoleLookup;
use crate::record::Record;
use crate::rules::{AssetLoginRule, CommandFilter, CommandGroup, ConnectMethodRule, LoginRule};
use crate::settings::Settings;
use crate::user::{User, UserGroup};

type ById<T> = HashMap<Uuid, Arc<T>>;
type IdSets = HashMap<Uuid, BTreeSet<Uuid>>;

/// See the module's comment. Changes need `&mut self`; questions share `&self`.
#[derive(Default)]
pub struct Directory {
    users: ById<User>,
    groups: ById<UserGroup>,
    orgs: ById<Organization>,
    roles: ById<Role>,
    platforms: ById<Platform>,
    labels: ById<Label>,
    grants: ById<AssetPermission>,
    login_rules: ById<LoginRule>,
    asset_rules: ById<AssetLoginRule>,
    connect_rules: ById<ConnectMethodRule>,
    filters: ById<CommandFilter>,
    command_groups: ById<CompiledGroup>,
    favorites: ById<FavoriteAsset>,
    limits: Limits,

    nodes: tree::Nodes,
    assets: assets::Assets,
    accounts: account::Accounts,

    groups_of_user: IdSets,
    grants_of_user: IdSets,
    grants_of_group: IdSets,
    favorites_of_user: IdSets,
    reaches: reach::Cache,
}

fn link(sets: &mut IdSets, key: Uuid, value: Uuid) {
    sets.entry(key).or_default().insert(value);
}

fn unlink(sets: &mut IdSets, key: Uuid, value: Uuid) {
    if let Some(set) = sets.get_mut(&key) {
        set.remove(&value);
        if set.is_empty() {
            sets.remove(&key);
        }
    }
}

macro_rules! plain {
    ($($upsert:ident, $get:ident, $field:ident: $t:ty;)+) => {
        /// Records that no index depends on.
        impl Directory {
            $(
                pub fn $upsert(&mut self, record: Arc<$t>) {
                    self.$field.insert(record.id, record);
                }

                pub fn $get(&self, id: Uuid) -> Option<&Arc<$t>> {
                    self.$field.get(&id)
                }
            )+
        }
    };
}

plain! {
    upsert_organization, organization, orgs: Organization;
    upsert_role, role_record, roles: Role;
    upsert_platform, platform, platforms: Platform;
    upsert_label, label, labels: Label;
    upsert_login_rule, login_rule, login_rules: LoginRule;
    upsert_asset_rule, asset_rule, asset_rules: AssetLoginRule;
    upsert_connect_rule, connect_rule, connect_rules: ConnectMethodRule;
    upsert_command_filter, command_filter, filters: CommandFilter;
}

impl RoleLookup for Directory {
    fn role(&self, id: Uuid) -> Option<&Role> {
        self.roles.get(&id).map(AsRef::as_ref)
    }
}

impl Directory {
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits of sessions, from the settings; given out with every `facts`.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    pub fn upsert_user(&mut self, user: Arc<User>) {
        self.reaches.user_changed(user.id);
        self.users.insert(user.id, user);
    }

    pub fn upsert_group(&mut self, group: Arc<UserGroup>) {
        self.unlink_group(group.id);
        for user in &group.users {
            link(&mut self.groups_of_user, *user, group.id);
            self.reaches.user_changed(*user);
        }
        self.groups.insert(group.id, group);
    }

    fn unlink_group(&mut self, id: Uuid) -> bool {
        let Some(old) = self.groups.remove(&id) else { return false };
        for user in &old.users {
            unlink(&mut self.groups_of_user, *user, id);
            self.reaches.user_changed(*user);
        }
        true
    }

    pub fn upsert_grant(&mut self, grant: Arc<AssetPermission>) {
        self.unlink_grant(grant.id);
        for user in &grant.users {
            link(&mut self.grants_of_user, *user, grant.id);
        }
        for group in &grant.user_groups {
            link(&mut self.grants_of_group, *group, grant.id);
        }
        self.touch_granted(&grant);
        self.grants.insert(grant.id, grant);
    }

    fn unlink_grant(&mut self, id: Uuid) -> bool {
        let Some(old) = self.grants.remove(&id) else { return false };
        for user in &old.users {
            unlink(&mut self.grants_of_user, *user, id);
        }
        for group in &old.user_groups {
            unlink(&mut self.grants_of_group, *group, id);
        }
        self.touch_granted(&old);
        true
    }

    /// What these users reach is to be computed anew.
    fn touch_granted(&mut self, grant: &AssetPermission) {
        let members = grant.user_groups.iter().filter_map(|g| self.groups.get(g)).flat_map(|g| g.users.iter());
        for user in grant.users.iter().chain(members) {
            self.reaches.user_changed(*user);
        }
    }

    /// Compiles the group once for all sessions.
    pub fn upsert_command_group(&mut self, group: &CommandGroup) {
        self.command_groups.insert(group.id, Arc::new(CompiledGroup::new(group)));
    }

    pub fn upsert_favorite(&mut self, favorite: Arc<FavoriteAsset>) {
        self.remove_favorite(favorite.id);
        link(&mut self.favorites_of_user, favorite.user, favorite.id);
        self.favorites.insert(favorite.id, favorite);
    }

    fn remove_favorite(&mut self, id: Uuid) -> bool {
        let Some(old) = self.favorites.remove(&id) else { return false };
        unlink(&mut self.favorites_of_user, old.user, id);
        true
    }

    pub fn upsert_account(&mut self, account: Arc<Account>) {
        self.accounts.upsert(account);
    }

    pub fn upsert_asset(&mut self, asset: Arc<Asset>) {
        if let Some(old) = self.assets.get(asset.id).cloned() {
            if old.asset.nodes == asset.nodes && old.asset.org_id == asset.org_id {
                // Same place: what users reach changes only with whether it can be reached at all.
                if old.asset.is_active != asset.is_active {
                    self.reaches.org_changed(asset.org_id);
                }
                self.assets.replace(&old, asset);
                return;
            }
            self.nodes.leave(&old.asset, old.slot);
            self.reaches.org_changed(old.asset.org_id);
        }
        self.reaches.org_changed(asset.org_id);
        let slot = self.assets.upsert(Arc::clone(&asset));
        self.nodes.enter(&asset, slot);
    }

    fn remove_asset(&mut self, id: Uuid) -> bool {
        let Some(old) = self.assets.get(id).cloned() else { return false };
        self.nodes.leave(&old.asset, old.slot);
        self.assets.remove(&old);
        self.reaches.org_changed(old.asset.org_id);
        true
    }

    pub fn upsert_node(&mut self, node: Arc<Node>) {
        self.reaches.org_changed(node.org_id);
        if let Some(old) = self.nodes.get(node.id) {
            self.reaches.org_changed(old.org_id);
        }
        self.nodes.upsert(node, &self.assets);
    }

    fn remove_node(&mut self, id: Uuid) -> bool {
        let Some(old) = self.nodes.get(id).cloned() else { return false };
        self.reaches.org_changed(old.org_id);
        self.nodes.remove(&old, &self.assets);
        true
    }

    /// Forgets a record by `Record::KIND` and id; `false` when it was not here (or its kind is not kept here).
    pub fn remove(&mut self, kind: &str, id: Uuid) -> bool {
        match kind {
            User::KIND => {
                self.reaches.user_changed(id);
                self.users.remove(&id).is_some()
            }
            UserGroup::KIND => self.unlink_group(id),
            Organization::KIND => self.orgs.remove(&id).is_some(),
            Role::KIND => self.roles.remove(&id).is_some(),
            Node::KIND => self.remove_node(id),
            Platform::KIND => self.platforms.remove(&id).is_some(),
            Label::KIND => self.labels.remove(&id).is_some(),
            Asset::KIND => self.remove_asset(id),
            Account::KIND => self.accounts.remove(id),
            AssetPermission::KIND => self.unlink_grant(id),
            LoginRule::KIND => self.login_rules.remove(&id).is_some(),
            AssetLoginRule::KIND => self.asset_rules.remove(&id).is_some(),
            ConnectMethodRule::KIND => self.connect_rules.remove(&id).is_some(),
            CommandFilter::KIND => self.filters.remove(&id).is_some(),
            CommandGroup::KIND => self.command_groups.remove(&id).is_some(),
            FavoriteAsset::KIND => self.remove_favorite(id),
            _ => false,
        }
    }

    pub fn user(&self, id: Uuid) -> Option<&Arc<User>> {
        self.users.get(&id)
    }

    pub fn group(&self, id: Uuid) -> Option<&Arc<UserGroup>> {
        self.groups.get(&id)
    }

    pub fn grant(&self, id: Uuid) -> Option<&Arc<AssetPermission>> {
        self.grants.get(&id)
    }

    pub fn asset(&self, id: Uuid) -> Option<&Arc<Asset>> {
        self.assets.get(id).map(|e| &e.asset)
    }

    pub fn account(&self, id: Uuid) -> Option<&Arc<Account>> {
        self.accounts.get(id)
    }

    pub fn node(&self, id: Uuid) -> Option<&Arc<Node>> {
        self.nodes.get(id)
    }

    pub fn compiled_group(&self, id: Uuid) -> Option<&Arc<CompiledGroup>> {
        self.command_groups.get(&id)
    }

    pub fn asset_count(&self) -> usize {
        self.assets.len()
    }

    /// The groups of a user in all organizations.
    pub fn groups_of(&self, user: Uuid) -> Vec<Arc<UserGroup>> {
        let ids = self.groups_of_user.get(&user).into_iter().flatten();
        ids.filter_map(|id| self.groups.get(id)).cloned().collect()
    }

    /// The accounts of an asset, by name.
    pub fn accounts_of(&self, asset: Uuid) -> &[Arc<Account>] {
        self.accounts.of(asset)
    }

    /// Grants of that organization that name the user or one of their groups, by id; valid or not.
    pub fn grants_of(&self, user: Uuid, org: Uuid) -> Vec<Arc<AssetPermission>> {
        let by_user = self.grants_of_user.get(&user).into_iter().flatten();
        let groups = self.groups_of_user.get(&user).into_iter().flatten();
        let by_group = groups.filter_map(|g| self.grants_of_group.get(g)).flatten();
        let ids: BTreeSet<&Uuid> = by_user.chain(by_group).collect();
        ids.into_iter().filter_map(|id| self.grants.get(id)).filter(|g| g.org_id == org).cloned().collect()
    }

    /// The command filter with its groups.
    pub fn bind(&self, filter: &Arc<CommandFilter>) -> BoundFilter {
        let groups = filter.command_groups.iter().filter_map(|g| self.command_groups.get(g));
        BoundFilter {
            filter: Arc::clone(filter),
            groups: groups.filter(|g| g.org_id == filter.org_id).cloned().collect(),
        }
    }

    /// What `decide` needs to know about this user and this asset; `None` when one of them does not exist.
    pub fn facts(&self, user: Uuid, asset: Uuid) -> Option<Facts> {
        let user = Arc::clone(self.users.get(&user)?);
        let asset = Arc::clone(self.asset(asset)?);
        let org = asset.org_id;
        let labels = asset.meta.labels.iter().filter_map(|id| self.labels.get(id)).filter(|l| l.org_id == org);
        Some(Facts {
            groups: self.groups_of(user.id).into_iter().filter(|g| g.org_id == org).collect(),
            platform: self.platforms.get(&asset.platform).cloned(),
            nodes: self.nodes.with_ancestors(&asset),
            labels: labels.cloned().collect(),
            accounts: self.accounts.of(asset.id).to_vec(),
            grants: self.grants_of(user.id, org),
            asset_rules: self.asset_rules.values().filter(|r| r.is_active && r.org_id == org).cloned().collect(),
            connect_rules: self.connect_rules.values().filter(|r| r.is_active).cloned().collect(),
            command_filters: {
                let mine = self.filters.values().filter(|f| f.is_active && f.org_id == org);
                mine.map(|f| self.bind(f)).collect()
            },
            limits: self.limits,
            user,
            asset,
        })
    }

    /// What `decide_login` needs to know.
    pub fn login_facts(&self, user: Uuid, settings: &Settings) -> Option<LoginFacts> {
        Some(LoginFacts {
            user: Arc::clone(self.users.get(&user)?),
            groups: self.groups_of(user),
            rules: self.login_rules.values().filter(|r| r.is_active).cloned().collect(),
            white_list: settings.security_login_ip_white_list.clone(),
            black_list: settings.security_login_ip_black_list.clone(),
        })
    }

    /// The nodes of an organization, in the order of their keys.
    pub fn nodes_of(&self, org: Uuid) -> Vec<Arc<Node>> {
        self.nodes.of_org(org)
    }

    /// Every organization that is known here, by name.
    pub fn organizations(&self) -> Vec<Arc<Organization>> {
        let sorted: BTreeMap<_, _> = self.orgs.values().map(|o| ((o.name.to_lowercase(), o.id), o)).collect();
        sorted.into_values().cloned().collect()
    }
}
