//! The asset tree: nodes by key, which assets are in them, and how many are in each subtree. Counts change in the same step
//! as what they count, so that they are never stale.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::assets::{Assets, Slots};
use super::{Directory, Reach};
use crate::asset::{Asset, Node};
use crate::nodes::{count_assets, path};

#[derive(Default)]
pub(super) struct Nodes {
    by_id: HashMap<Uuid, Arc<Node>>,
    by_key: HashMap<Uuid, BTreeMap<String, Uuid>>,
    /// Slots of the assets directly in a node, whether the node is known yet or not.
    direct: HashMap<Uuid, BTreeSet<u32>>,
    /// Different assets in the node or below it.
    counts: HashMap<Uuid, u32>,
}

impl Nodes {
    pub(super) fn get(&self, id: Uuid) -> Option<&Arc<Node>> {
        self.by_id.get(&id)
    }

    pub(super) fn of_org(&self, org: Uuid) -> Vec<Arc<Node>> {
        let keys = self.by_key.get(&org).into_iter().flat_map(BTreeMap::values);
        keys.filter_map(|id| self.by_id.get(id)).cloned().collect()
    }

    /// The node of that key and all below it.
    pub(super) fn subtree<'a>(&'a self, org: Uuid, key: &'a str) -> impl Iterator<Item = Uuid> + 'a {
        let keys = self.by_key.get(&org);
        let own = keys.and_then(|k| k.get(key)).copied();
        // `;` is the character after `:`, so these are exactly the keys that start with `key:`.
        let (from, to) = (format!("{key}:"), format!("{key};"));
        let range = (Bound::Included(from), Bound::Excluded(to));
        own.into_iter().chain(keys.into_iter().flat_map(move |k| k.range(range.clone()).map(|(_, id)| *id)))
    }

    pub(super) fn direct(&self, node: Uuid) -> impl Iterator<Item = u32> + '_ {
        self.direct.get(&node).into_iter().flatten().copied()
    }

    fn ancestors<'a>(&'a self, node: &'a Node) -> impl Iterator<Item = Uuid> + 'a {
        let keys = self.by_key.get(&node.org_id);
        path(&node.key).filter_map(move |key| keys?.get(key)).copied()
    }

    /// The node and all above it; nothing when it is not one of that organization.
    fn path_of(&self, node: Uuid, org: Uuid) -> Vec<Uuid> {
        self.get(node).filter(|n| n.org_id == org).map(|n| self.ancestors(n).collect()).unwrap_or_default()
    }

    /// The asset's nodes of its own organization.
    fn homes<'a>(&'a self, asset: &'a Asset) -> impl Iterator<Item = &'a Arc<Node>> {
        asset.nodes.iter().filter_map(|id| self.by_id.get(id)).filter(|n| n.org_id == asset.org_id)
    }

    fn above(&self, asset: &Asset) -> BTreeSet<Uuid> {
        self.homes(asset).flat_map(|node| self.ancestors(node)).collect()
    }

    pub(super) fn with_ancestors(&self, asset: &Asset) -> Vec<Arc<Node>> {
        self.above(asset).iter().filter_map(|id| self.by_id.get(id)).cloned().collect()
    }

    fn count(&mut self, asset: &Asset, more: bool) {
        for id in self.above(asset) {
            let count = self.counts.entry(id).or_default();
            *count = if more { count.saturating_add(1) } else { count.saturating_sub(1) };
        }
    }

    pub(super) fn enter(&mut self, asset: &Asset, slot: u32) {
        for node in &asset.nodes {
            self.direct.entry(*node).or_default().insert(slot);
        }
        self.count(asset, true);
    }

    pub(super) fn leave(&mut self, asset: &Asset, slot: u32) {
        self.count(asset, false);
        for node in &asset.nodes {
            if let Some(slots) = self.direct.get_mut(node) {
                slots.remove(&slot);
                if slots.is_empty() {
                    self.direct.remove(node);
                }
            }
        }
    }

    pub(super) fn upsert(&mut self, node: Arc<Node>, assets: &Assets) {
        let old = self.by_id.get(&node.id).cloned();
        if old.as_ref().is_some_and(|o| o.key == node.key && o.org_id == node.org_id) {
            self.by_id.insert(node.id, node);
            return;
        }
        // The key changes: everything in or below the old and the new place is counted out, and in again.
        let mut touched: BTreeSet<u32> = self.direct(node.id).collect();
        for place in old.iter().chain([&node]) {
            let subtree: Vec<Uuid> = self.subtree(place.org_id, &place.key).collect();
            touched.extend(subtree.into_iter().flat_map(|id| self.direct(id)));
        }
        self.recount(&touched, assets, false);
        if let Some(old) = old {
            self.forget_key(&old);
        }
        self.by_key.entry(node.org_id).or_default().insert(node.key.clone(), node.id);
        self.by_id.insert(node.id, node);
        self.recount(&touched, assets, true);
    }

    pub(super) fn remove(&mut self, old: &Arc<Node>, assets: &Assets) {
        let subtree: Vec<Uuid> = self.subtree(old.org_id, &old.key).chain([old.id]).collect();
        let touched: BTreeSet<u32> = subtree.into_iter().flat_map(|id| self.direct(id)).collect();
        self.recount(&touched, assets, false);
        self.forget_key(old);
        self.by_id.remove(&old.id);
        self.counts.remove(&old.id);
        self.recount(&touched, assets, true);
    }

    fn recount(&mut self, slots: &BTreeSet<u32>, assets: &Assets, more: bool) {
        for entry in slots.iter().filter_map(|slot| assets.at(*slot)) {
            self.count(&entry.asset, more);
        }
    }

    /// In the middle of a move another node may have taken the key already; it keeps it.
    fn forget_key(&mut self, node: &Node) {
        if let Some(keys) = self.by_key.get_mut(&node.org_id)
            && keys.get(&node.key) == Some(&node.id)
        {
            keys.remove(&node.key);
        }
    }
}

/// What stands in a user's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TreeNodeKind {
    Node,
    /// Assets that are granted by themselves and through no node.
    Ungrouped,
    /// Assets that the user keeps at hand, as far as they still reach them.
    Favorite,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeNode {
    pub kind: TreeNodeKind,
    /// `None` for the special nodes.
    pub id: Option<Uuid>,
    /// The node's key; `ungrouped` and `favorite` for the special ones.
    pub key: String,
    pub parent_key: Option<String>,
    pub name: String,
    /// Different assets in it and below it that the user reaches.
    pub assets: u32,
    pub has_children: bool,
}

/// A node whose kept count was not what counting anew gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CountDrift {
    pub node: Uuid,
    pub kept: u32,
    pub counted: u32,
}

impl Directory {
    /// Different assets in the node or below it.
    pub fn node_count(&self, node: Uuid) -> u32 {
        self.nodes.counts.get(&node).copied().unwrap_or(0)
    }

    /// Assets directly in the node.
    pub fn node_direct_count(&self, node: Uuid) -> usize {
        self.nodes.direct.get(&node).map_or(0, BTreeSet::len)
    }

    /// The assets in a node, by id.
    pub fn node_assets(&self, node: Uuid, descendants: bool) -> Vec<Arc<Asset>> {
        let Some(node) = self.nodes.get(node) else { return Vec::new() };
        let nodes: Vec<Uuid> =
            if descendants { self.nodes.subtree(node.org_id, &node.key).collect() } else { vec![node.id] };
        let slots: BTreeSet<u32> = nodes.into_iter().flat_map(|id| self.nodes.direct(id)).collect();
        let entries = slots.into_iter().filter_map(|slot| self.assets.at(slot));
        let found: BTreeMap<Uuid, Arc<Asset>> =
            entries.filter(|e| e.asset.org_id == node.org_id).map(|e| (e.asset.id, Arc::clone(&e.asset))).collect();
        found.into_values().collect()
    }

    /// "Check asset amount": counts the organization's assets anew, puts right what differs and says what did.
    pub fn recount(&mut self, org: Uuid) -> Vec<CountDrift> {
        let nodes = self.nodes.of_org(org);
        let entries = self.assets.by_name.iter().map(|e| &*e.0.asset).filter(|a| a.org_id == org);
        let counted = count_assets(&nodes, entries);
        let mut drift = Vec::new();
        for (node, counted) in counted {
            let kept = self.nodes.counts.insert(node, counted).unwrap_or(0);
            if kept != counted {
                drift.push(CountDrift { node, kept, counted });
            }
        }
        drift
    }

    pub(super) fn node_slots(&self, node: &Node, descendants: bool) -> Slots {
        let mut slots = Slots::with_room(self.assets.slots());
        let mut add = |id: Uuid| self.nodes.direct(id).for_each(|slot| slots.insert(slot));
        if descendants {
            self.nodes.subtree(node.org_id, &node.key).for_each(add);
        } else {
            add(node.id);
        }
        slots
    }

    /// How many of the assets of a reach are in or below each node; nodes with none are left out.
    pub(super) fn counts_of<'r>(&self, reach: &'r Reach) -> &'r HashMap<Uuid, u32> {
        reach.counts.get_or_init(|| {
            let mut single: HashMap<Uuid, u32> = HashMap::new();
            let mut counts: HashMap<Uuid, u32> = HashMap::new();
            let mut ancestors: HashMap<Uuid, Vec<Uuid>> = HashMap::new();
            let mut above: Vec<Uuid> = Vec::new();
            for entry in reach.slots.iter().filter_map(|slot| self.assets.at(slot)) {
                if let [one] = entry.asset.nodes.as_slice() {
                    *single.entry(*one).or_default() += 1;
                    continue;
                }
                above.clear();
                for node in &entry.asset.nodes {
                    above.extend_from_slice(
                        ancestors.entry(*node).or_insert_with(|| self.nodes.path_of(*node, reach.org)),
                    );
                }
                above.sort_unstable();
                above.dedup();
                for id in &above {
                    *counts.entry(*id).or_default() += 1;
                }
            }
            // Most assets are in one node: these go up the tree together.
            for (node, amount) in single {
                for id in self.nodes.path_of(node, reach.org) {
                    *counts.entry(id).or_default() += amount;
                }
            }
            counts
        })
    }

    /// How many of the assets in or below the node the user reaches.
    pub fn my_node_count(&self, user: Uuid, node: Uuid, now: DateTime<Utc>) -> u32 {
        let Some(node) = self.nodes.get(node) else { return 0 };
        let reach = self.reach(user, node.org_id, now);
        self.counts_of(&reach).get(&node.id).copied().unwrap_or(0)
    }

    /// The tree that a user sees: the nodes above what they reach, then the special nodes that are not empty. Parents
    /// come before children, children by name.
    pub fn tree(&self, user: Uuid, org: Uuid, now: DateTime<Utc>) -> Vec<TreeNode> {
        let reach = self.reach(user, org, now);
        let shown = self.counts_of(&reach);
        let nodes: Vec<&Arc<Node>> = shown.keys().filter_map(|id| self.nodes.get(*id)).collect();
        let parents: HashSet<&str> = nodes.iter().filter_map(|n| n.parent_key()).collect();
        let mut tree: Vec<TreeNode> = nodes
            .iter()
            .map(|n| tree_node(n, shown.get(&n.id).copied().unwrap_or(0), parents.contains(n.key.as_str())))
            .collect();
        tree.sort_by_cached_key(|n| (n.key.split(':').count(), n.name.to_lowercase(), n.key.clone()));
        let special = |kind, key: &str, name: &str, assets: usize| TreeNode {
            kind,
            id: None,
            key: key.to_owned(),
            parent_key: None,
            name: name.to_owned(),
            assets: u32::try_from(assets).unwrap_or(u32::MAX),
            has_children: false,
        };
        let ungrouped = reach.iter().filter(|r| !r.by_node).count();
        if ungrouped > 0 {
            tree.push(special(TreeNodeKind::Ungrouped, "ungrouped", "Ungrouped", ungrouped));
        }
        let favorites = self.favorites(user).filter(|asset| reach.get(*asset).is_some()).count();
        if favorites > 0 {
            tree.push(special(TreeNodeKind::Favorite, "favorite", "Favorite", favorites));
        }
        tree
    }

    /// The children of a node that the user sees, by name; `None` is the level of the root.
    pub fn tree_children(&self, user: Uuid, org: Uuid, parent_key: Option<&str>, now: DateTime<Utc>) -> Vec<TreeNode> {
        let mut tree = self.tree(user, org, now);
        tree.retain(|n| n.parent_key.as_deref() == parent_key);
        tree
    }

    /// The assets that a user keeps at hand.
    pub fn favorites(&self, user: Uuid) -> impl Iterator<Item = Uuid> + '_ {
        let ids = self.favorites_of_user.get(&user).into_iter().flatten();
        ids.filter_map(|id| self.favorites.get(id)).map(|f| f.asset)
    }
}

fn tree_node(node: &Node, assets: u32, has_children: bool) -> TreeNode {
    TreeNode {
        kind: TreeNodeKind::Node,
        id: Some(node.id),
        key: node.key.clone(),
        parent_key: node.parent_key().map(str::to_owned),
        name: node.value.clone(),
        assets,
        has_children,
    }
}
