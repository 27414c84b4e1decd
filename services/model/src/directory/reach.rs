//! What a user reaches: all assets of one organization with what may be done on them, computed from the grants and kept
//! until one of its causes changes or the earliest of its grants starts or ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Directory;
use super::assets::Slots;
use crate::common::org_ids;
use crate::grant::Actions;
use crate::user::User;

/// One asset that a user reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    pub asset: Uuid,
    /// The union over all grants, accounts and protocols; `decide` says what holds for one choice of them.
    pub actions: Actions,
    /// Through a node; `false`: only because the asset itself is granted.
    pub by_node: bool,
}

/// The assets of one organization that a user reaches, sorted by id.
#[derive(Debug, Default)]
pub struct Reach {
    pub user: Uuid,
    pub org: Uuid,
    /// The next start or end of a grant or of the user; `None`: nothing ends by itself.
    pub until: Option<DateTime<Utc>>,
    entries: Vec<Reached>,
    pub(super) slots: Slots,
    pub(super) counts: OnceLock<HashMap<Uuid, u32>>,
    built: DateTime<Utc>,
    stamp: (u64, u64),
}

impl Reach {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Reached> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn get(&self, asset: Uuid) -> Option<&Reached> {
        self.entries.binary_search_by_key(&asset, |r| r.asset).ok().and_then(|at| self.entries.get(at))
    }

    fn holds(&self, stamp: (u64, u64), now: DateTime<Utc>) -> bool {
        self.stamp == stamp && self.built <= now && self.until.is_none_or(|until| now < until)
    }
}

/// Assets in all kept reaches together: about 60 MiB.
const KEPT_ASSETS: usize = 2_000_000;
/// Kept reaches: an empty one takes room as well.
const KEPT_REACHES: usize = 20_000;

struct Kept {
    reach: Arc<Reach>,
    used: u64,
}

#[derive(Default)]
struct Shelf {
    reaches: HashMap<(Uuid, Uuid), Kept>,
    by_use: BTreeMap<u64, (Uuid, Uuid)>,
    assets: usize,
    clock: u64,
}

impl Shelf {
    fn get(&mut self, key: (Uuid, Uuid)) -> Option<Arc<Reach>> {
        let kept = self.reaches.get_mut(&key)?;
        self.clock += 1;
        self.by_use.remove(&kept.used);
        kept.used = self.clock;
        self.by_use.insert(self.clock, key);
        Some(Arc::clone(&kept.reach))
    }

    fn put(&mut self, reach: &Arc<Reach>) {
        let key = (reach.user, reach.org);
        self.drop_key(key);
        self.clock += 1;
        self.assets += reach.len();
        self.by_use.insert(self.clock, key);
        self.reaches.insert(key, Kept { reach: Arc::clone(reach), used: self.clock });
        // The newest always stays, however large it is.
        while (self.assets > KEPT_ASSETS || self.reaches.len() > KEPT_REACHES) && self.reaches.len() > 1 {
            let Some((_, oldest)) = self.by_use.first_key_value() else { break };
            self.drop_key(*oldest);
        }
    }

    fn drop_key(&mut self, key: (Uuid, Uuid)) {
        if let Some(old) = self.reaches.remove(&key) {
            self.by_use.remove(&old.used);
            self.assets = self.assets.saturating_sub(old.reach.len());
        }
    }
}

/// Generations of the causes, and the reaches computed from them.
#[derive(Default)]
pub(super) struct Cache {
    orgs: HashMap<Uuid, u64>,
    users: HashMap<Uuid, u64>,
    shelf: Mutex<Shelf>,
}

impl Cache {
    /// The tree, or what is where in it, changed.
    pub(super) fn org_changed(&mut self, org: Uuid) {
        *self.orgs.entry(org).or_default() += 1;
    }

    /// The user, their groups or their grants changed.
    pub(super) fn user_changed(&mut self, user: Uuid) {
        *self.users.entry(user).or_default() += 1;
    }

    fn stamp(&self, user: Uuid, org: Uuid) -> (u64, u64) {
        let of = |map: &HashMap<Uuid, u64>, id| map.get(&id).copied().unwrap_or(0);
        (of(&self.users, user), of(&self.orgs, org))
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        // Nothing that holds the lock can leave the shelf half-changed in a way that gives wrong answers: each reach
        // carries its own stamp.
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Above the action bits: reached through a node.
const BY_NODE: u16 = 1 << 15;

impl Directory {
    /// What the user reaches in the organization now. Nothing for unknown, disabled or expired users, for those who are not
    /// members, and in the global organization (it has no assets).
    pub fn reach(&self, user: Uuid, org: Uuid, now: DateTime<Utc>) -> Arc<Reach> {
        let stamp = self.reaches.stamp(user, org);
        if let Some(kept) = self.reaches.shelf().get((user, org)).filter(|r| r.holds(stamp, now)) {
            return kept;
        }
        let reach = Arc::new(self.compute(user, org, now, stamp));
        // Identifiers that nobody has must not fill the shelf.
        if self.users.contains_key(&user) {
            self.reaches.shelf().put(&reach);
        }
        reach
    }

    fn compute(&self, user: Uuid, org: Uuid, now: DateTime<Utc>, stamp: (u64, u64)) -> Reach {
        let mut reach = Reach { user, org, built: now, stamp, ..Reach::default() };
        let Some(user) = self.users.get(&user).filter(|u| may_reach(u, org, now)) else { return reach };
        reach.until = Some(user.date_expired);
        let mut sooner = |at: DateTime<Utc>| reach.until = Some(reach.until.map_or(at, |u| u.min(at)));
        let mut of_slot = vec![0u16; self.assets.slots()];
        let mut of_node: HashMap<Uuid, Actions> = HashMap::new();
        for grant in self.grants_of(user.id, org).iter().filter(|g| g.is_active && g.is_effective()) {
            if now < grant.date_start {
                sooner(grant.date_start);
            }
            if !grant.is_valid(now) {
                continue;
            }
            sooner(grant.date_expired);
            for entry in grant.assets.iter().filter_map(|id| self.assets.get(*id)) {
                if let Some(bits) = of_slot.get_mut(entry.slot as usize) {
                    *bits |= grant.actions.bits();
                }
            }
            for node in &grant.nodes {
                let actions = of_node.entry(*node).or_default();
                *actions = actions.union(grant.actions);
            }
        }
        // Grants on the same node are one; a node hands its actions down; each asset is then looked at once per node.
        let mut inherited: HashMap<Uuid, Actions> = HashMap::new();
        for (node, actions) in of_node {
            let Some(node) = self.nodes.get(node).filter(|n| n.org_id == org) else { continue };
            for below in self.nodes.subtree(org, &node.key) {
                let all = inherited.entry(below).or_default();
                *all = all.union(actions);
            }
        }
        for (node, actions) in inherited {
            for slot in self.nodes.direct(node) {
                if let Some(bits) = of_slot.get_mut(slot as usize) {
                    *bits |= actions.bits() | BY_NODE;
                }
            }
        }
        reach.slots = Slots::with_room(of_slot.len());
        for (slot, bits) in (0u32..).zip(of_slot) {
            let actions = Actions::from_bits(bits);
            if !actions.contains(Actions::CONNECT) {
                continue;
            }
            if let Some(entry) = self.assets.at(slot).filter(|e| e.asset.is_active && e.asset.org_id == org) {
                reach.slots.insert(slot);
                reach.entries.push(Reached { asset: entry.asset.id, actions, by_node: bits & BY_NODE != 0 });
            }
        }
        reach.entries.sort_unstable_by_key(|r| r.asset);
        reach
    }

    /// The reached assets in a node, sorted by id.
    pub fn reach_node(&self, user: Uuid, node: Uuid, descendants: bool, now: DateTime<Utc>) -> Vec<Reached> {
        let Some(node) = self.nodes.get(node) else { return Vec::new() };
        let reach = self.reach(user, node.org_id, now);
        let inside = self.node_slots(node, descendants);
        let within = |r: &&Reached| self.assets.get(r.asset).is_some_and(|e| inside.contains(e.slot));
        reach.iter().filter(within).copied().collect()
    }

    /// Who reaches the asset now, with what (S11, perm-users), by user name.
    pub fn who_reaches(&self, asset: Uuid, now: DateTime<Utc>) -> Vec<(Arc<User>, Actions)> {
        let Some(asset) = self.asset(asset).filter(|a| a.is_active) else { return Vec::new() };
        let above = self.nodes.with_ancestors(asset);
        let mut found: HashMap<Uuid, Actions> = HashMap::new();
        let valid = self.grants.values().filter(|g| g.org_id == asset.org_id && g.is_valid(now) && g.is_effective());
        for grant in valid.filter(|g| g.covers_asset(asset, &above)) {
            let groups = grant.user_groups.iter().filter_map(|g| self.groups.get(g));
            let members = groups.filter(|g| g.org_id == grant.org_id).flat_map(|g| g.users.iter());
            // A user named twice by one grant is one user.
            for user in grant.users.iter().chain(members).collect::<BTreeSet<_>>() {
                let actions = found.entry(*user).or_default();
                *actions = actions.union(grant.actions);
            }
        }
        let mut found: Vec<(Arc<User>, Actions)> = found
            .into_iter()
            .filter(|(_, actions)| actions.contains(Actions::CONNECT))
            .filter_map(|(id, actions)| Some((Arc::clone(self.users.get(&id)?), actions)))
            .filter(|(user, _)| may_reach(user, asset.org_id, now))
            .collect();
        found.sort_by(|a, b| a.0.username.cmp(&b.0.username));
        found
    }
}

fn may_reach(user: &User, org: Uuid, now: DateTime<Utc>) -> bool {
    org != org_ids::ROOT && user.is_valid(now) && user.is_member_of(org)
}
