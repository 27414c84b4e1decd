//! Changes of the asset tree (S05) as pure functions: the nodes of one organization in, the changed nodes out. The caller
//! writes them in one batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::asset::{Asset, Node, key_contains};
use crate::common::{Invalid, Meta, Validate};

/// Levels of a tree, the root included.
pub const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("this node does not exist")]
    Missing,
    #[error("a node named \"{name}\" is already there; choose another name")]
    NameTaken { name: String },
    #[error("the root carries the name of the organization; rename the organization")]
    RootRename,
    #[error("the root cannot be moved or deleted")]
    RootFixed,
    #[error("a node cannot be moved into itself or below itself")]
    IntoItself,
    #[error("the tree would be deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the node still has child nodes; move or delete them first")]
    HasChildren,
    #[error("the node still has {count} assets; move them to another node first")]
    HasAssets { count: usize },
    #[error("no more child nodes can be numbered here")]
    Exhausted,
    #[error(transparent)]
    Invalid(#[from] Invalid),
}

/// Who changes the tree, and when.
#[derive(Debug, Clone, Copy)]
pub struct Author<'a> {
    pub by: &'a str,
    pub now: DateTime<Utc>,
}

impl Author<'_> {
    fn sign(self, mut node: Node) -> Node {
        self.by.clone_into(&mut node.meta.updated_by);
        node.meta.date_updated = self.now;
        node
    }
}

fn get(tree: &[Arc<Node>], id: Uuid) -> Result<&Node, NodeError> {
    tree.iter().find(|n| n.id == id).map(AsRef::as_ref).ok_or(NodeError::Missing)
}

fn depth(key: &str) -> usize {
    key.split(':').count()
}

/// The parent with its mark moved on, and the key for its next child. Marks never go back, and a key that is there all the
/// same (an import, a repaired mark) is stepped over.
fn next_key(tree: &[Arc<Node>], parent: &Node) -> Result<(Node, String), NodeError> {
    let taken = tree.iter().filter(|n| n.parent_key() == Some(parent.key.as_str()));
    let highest = taken.filter_map(|n| n.key.rsplit(':').next()?.parse::<u32>().ok()).max().unwrap_or(0);
    let mark = parent.child_mark.max(highest).checked_add(1).ok_or(NodeError::Exhausted)?;
    Ok((Node { child_mark: mark, ..parent.clone() }, format!("{}:{mark}", parent.key)))
}

fn check_sibling(tree: &[Arc<Node>], parent_key: &str, value: &str, except: Option<Uuid>) -> Result<(), NodeError> {
    let taken = tree.iter().any(|n| n.parent_key() == Some(parent_key) && n.value == value && Some(n.id) != except);
    if taken { Err(NodeError::NameTaken { name: value.to_owned() }) } else { Ok(()) }
}

/// The parent (first) and the new child.
pub fn create_child(
    tree: &[Arc<Node>],
    parent: Uuid,
    id: Uuid,
    value: &str,
    author: Author<'_>,
) -> Result<Vec<Node>, NodeError> {
    let parent = get(tree, parent)?;
    check_sibling(tree, &parent.key, value, None)?;
    if depth(&parent.key) >= MAX_DEPTH {
        return Err(NodeError::TooDeep);
    }
    let (marked, key) = next_key(tree, parent)?;
    let child = Node {
        id,
        org_id: parent.org_id,
        key,
        value: value.to_owned(),
        full_value: format!("{}/{value}", parent.full_value),
        child_mark: 0,
        meta: Meta::new(author.by, author.now),
    };
    child.validate()?;
    Ok(vec![author.sign(marked), child])
}

/// The node and everything below it under a new path.
fn replace_path(tree: &[Arc<Node>], node: &Node, key: &str, full_value: &str, author: Author<'_>) -> Vec<Node> {
    tree.iter()
        .filter(|n| n.org_id == node.org_id && node.contains(&n.key))
        .map(|n| {
            let mut changed = Node::clone(n);
            changed.key = format!("{key}{}", n.key.strip_prefix(&node.key).unwrap_or_default());
            changed.full_value =
                format!("{full_value}{}", n.full_value.strip_prefix(&node.full_value).unwrap_or_default());
            author.sign(changed)
        })
        .collect()
}

/// The node with its new name and everything below it with the new path.
pub fn rename(tree: &[Arc<Node>], id: Uuid, value: &str, author: Author<'_>) -> Result<Vec<Node>, NodeError> {
    let node = get(tree, id)?;
    let parent_key = node.parent_key().ok_or(NodeError::RootRename)?;
    check_sibling(tree, parent_key, value, Some(id))?;
    renamed(tree, node, value, author)
}

/// What follows from a new name of the organization.
pub fn rename_root(tree: &[Arc<Node>], org_name: &str, author: Author<'_>) -> Result<Vec<Node>, NodeError> {
    let root = tree.iter().find(|n| n.is_root()).ok_or(NodeError::Missing)?;
    // Organizations may have a slash in their names; a path may not.
    renamed(tree, root, &org_name.replace('/', "-"), author)
}

fn renamed(tree: &[Arc<Node>], node: &Node, value: &str, author: Author<'_>) -> Result<Vec<Node>, NodeError> {
    Node { value: value.to_owned(), ..node.clone() }.validate()?;
    let above = node.full_value.strip_suffix(&node.value).unwrap_or("/");
    let mut changed = replace_path(tree, node, &node.key, &format!("{above}{value}"), author);
    for own in changed.iter_mut().filter(|n| n.id == node.id) {
        value.clone_into(&mut own.value);
    }
    Ok(changed)
}

/// The new parent (first) and the moved subtree. Already there: nothing changes.
pub fn move_to(tree: &[Arc<Node>], id: Uuid, parent: Uuid, author: Author<'_>) -> Result<Vec<Node>, NodeError> {
    let (node, parent) = (get(tree, id)?, get(tree, parent)?);
    let old_parent = node.parent_key().ok_or(NodeError::RootFixed)?;
    if node.org_id != parent.org_id {
        return Err(NodeError::Missing);
    }
    if node.contains(&parent.key) {
        return Err(NodeError::IntoItself);
    }
    if old_parent == parent.key {
        return Ok(Vec::new());
    }
    check_sibling(tree, &parent.key, &node.value, None)?;
    let deepest = tree.iter().filter(|n| node.contains(&n.key)).map(|n| depth(&n.key)).max().unwrap_or(0);
    if deepest + depth(&parent.key) - depth(old_parent) > MAX_DEPTH {
        return Err(NodeError::TooDeep);
    }
    let (marked, key) = next_key(tree, parent)?;
    let full_value = format!("{}/{}", parent.full_value, node.value);
    let mut changed = vec![author.sign(marked)];
    changed.extend(replace_path(tree, node, &key, &full_value, author));
    Ok(changed)
}

/// Whether the node may go: only when nothing is in it or below it. `assets` is how many are directly in it.
pub fn check_delete(tree: &[Arc<Node>], id: Uuid, assets: usize) -> Result<(), NodeError> {
    let node = get(tree, id)?;
    if node.is_root() {
        return Err(NodeError::RootFixed);
    }
    if tree.iter().any(|n| n.id != id && n.org_id == node.org_id && node.contains(&n.key)) {
        return Err(NodeError::HasChildren);
    }
    if assets > 0 { Err(NodeError::HasAssets { count: assets }) } else { Ok(()) }
}

/// Counted anew: how many different assets are in each node or below it (S07).
pub fn count_assets<'a>(tree: &[Arc<Node>], assets: impl IntoIterator<Item = &'a Asset>) -> BTreeMap<Uuid, u32> {
    let keys: BTreeMap<(Uuid, &str), Uuid> = tree.iter().map(|n| ((n.org_id, n.key.as_str()), n.id)).collect();
    let by_id: BTreeMap<Uuid, &Node> = tree.iter().map(|n| (n.id, &**n)).collect();
    let mut counts: BTreeMap<Uuid, u32> = tree.iter().map(|n| (n.id, 0)).collect();
    for asset in assets {
        let mut above = BTreeSet::new();
        for node in asset.nodes.iter().filter_map(|id| by_id.get(id)).filter(|n| n.org_id == asset.org_id) {
            above.extend(path(&node.key).filter_map(|key| keys.get(&(node.org_id, key))));
        }
        for id in above {
            *counts.entry(id).or_default() += 1;
        }
    }
    counts
}

/// The keys from the node itself up to the root.
pub(crate) fn path(key: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(key), |key| key.rsplit_once(':').map(|(parent, _)| parent))
}

/// The nodes that are `key` or below it.
pub fn subtree<'a>(tree: &'a [Arc<Node>], key: &'a str) -> impl Iterator<Item = &'a Arc<Node>> {
    tree.iter().filter(move |n| key_contains(key, &n.key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, id};

    const ME: Author<'static> = Author { by: "ann", now: DateTime::<Utc>::UNIX_EPOCH };

    /// Default > (web > eu, db)
    fn tree() -> Vec<Arc<Node>> {
        let org = crate::builtin::default_organization();
        let mut tree = vec![Arc::new(crate::builtin::root_node(&org))];
        let root = tree[0].id;
        for (n, parent, name) in [(1, root, "web"), (2, root, "db"), (3, id(1), "eu")] {
            let changed = create_child(&tree, parent, id(n), name, ME).unwrap();
            apply(&mut tree, changed);
        }
        tree
    }

    fn apply(tree: &mut Vec<Arc<Node>>, changed: Vec<Node>) {
        for node in changed {
            tree.retain(|n| n.id != node.id);
            tree.push(Arc::new(node));
        }
    }

    fn shown(tree: &[Arc<Node>], n: u128) -> (&str, &str) {
        let node = get(tree, id(n)).unwrap();
        (&node.key, &node.full_value)
    }

    #[test]
    fn children_are_numbered_and_named_below_their_parent() {
        let tree = tree();
        assert_eq!(shown(&tree, 1), ("1:1", "/Default/web"));
        assert_eq!(shown(&tree, 2), ("1:2", "/Default/db"));
        assert_eq!(shown(&tree, 3), ("1:1:1", "/Default/web/eu"));
        let root = tree.iter().find(|n| n.is_root()).unwrap();
        assert_eq!(root.child_mark, 2);
        assert_eq!(create_child(&tree, root.id, id(9), "web", ME), Err(NodeError::NameTaken { name: "web".into() }));
        assert!(matches!(create_child(&tree, root.id, id(9), "a/b", ME), Err(NodeError::Invalid(_))));
        assert_eq!(create_child(&tree, id(99), id(9), "x", ME), Err(NodeError::Missing));
    }

    #[test]
    fn a_rename_reaches_everything_below() {
        let mut tree = tree();
        let changed = rename(&tree, id(1), "front", ME).unwrap();
        assert_eq!(changed.len(), 2);
        apply(&mut tree, changed);
        assert_eq!(shown(&tree, 1), ("1:1", "/Default/front"));
        assert_eq!(shown(&tree, 3), ("1:1:1", "/Default/front/eu"));
        assert_eq!(rename(&tree, id(1), "db", ME), Err(NodeError::NameTaken { name: "db".into() }));
        let root = tree.iter().find(|n| n.is_root()).unwrap().id;
        assert_eq!(rename(&tree, root, "x", ME), Err(NodeError::RootRename));
        let changed = rename_root(&tree, "Acme", ME).unwrap();
        apply(&mut tree, changed);
        assert_eq!(shown(&tree, 3), ("1:1:1", "/Acme/front/eu"));
    }

    #[test]
    fn a_moved_subtree_gets_a_fresh_key() {
        let mut tree = tree();
        let changed = move_to(&tree, id(1), id(2), ME).unwrap();
        apply(&mut tree, changed);
        assert_eq!(shown(&tree, 1), ("1:2:1", "/Default/db/web"));
        assert_eq!(shown(&tree, 3), ("1:2:1:1", "/Default/db/web/eu"));
        // Back again: the old key is not used a second time.
        let root = tree.iter().find(|n| n.is_root()).unwrap().id;
        let changed = move_to(&tree, id(1), root, ME).unwrap();
        apply(&mut tree, changed);
        assert_eq!(shown(&tree, 1), ("1:3", "/Default/web"));
        assert_eq!(move_to(&tree, id(1), id(3), ME), Err(NodeError::IntoItself));
        assert_eq!(move_to(&tree, root, id(3), ME), Err(NodeError::RootFixed));
        assert_eq!(move_to(&tree, id(1), root, ME), Ok(Vec::new()));
    }

    #[test]
    fn only_empty_nodes_go() {
        let tree = tree();
        assert_eq!(check_delete(&tree, id(1), 0), Err(NodeError::HasChildren));
        assert_eq!(check_delete(&tree, id(3), 2), Err(NodeError::HasAssets { count: 2 }));
        assert_eq!(check_delete(&tree, id(3), 0), Ok(()));
        let root = tree.iter().find(|n| n.is_root()).unwrap().id;
        assert_eq!(check_delete(&tree, root, 0), Err(NodeError::RootFixed));
    }

    #[test]
    fn depth_is_bounded() {
        let mut tree = tree();
        let mut parent = id(3);
        for n in 100.. {
            match create_child(&tree, parent, id(n), "deeper", ME) {
                Ok(changed) => apply(&mut tree, changed),
                Err(e) => {
                    assert_eq!(e, NodeError::TooDeep);
                    break;
                }
            }
            parent = id(n);
        }
        assert_eq!(tree.iter().map(|n| depth(&n.key)).max(), Some(MAX_DEPTH));
        assert_eq!(move_to(&tree, id(1), id(2), ME), Err(NodeError::TooDeep));
    }

    #[test]
    fn an_asset_in_two_nodes_counts_once_above_them() {
        let tree = tree();
        let root = tree.iter().find(|n| n.is_root()).unwrap().id;
        let assets = [fixture::asset(50, &[id(3), id(2)]), fixture::asset(51, &[id(1)]), fixture::asset(52, &[id(77)])];
        let counts = count_assets(&tree, &assets);
        assert_eq!(counts, [(root, 2), (id(1), 2), (id(2), 1), (id(3), 1)].into_iter().collect());
    }
}
