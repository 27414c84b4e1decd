//! `assets/nodes`: the asset tree (S05-S07). What changes follow from a change is the model's `nodes`; here it is stored.

use std::sync::Arc;

use async_trait::async_trait;
use gatehouse_model::asset::{Asset, Node};
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate};
use gatehouse_model::nodes::{self, Author, NodeError};
use gatehouse_model::org::Organization;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::forget;
use crate::engine::Resource;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, Field, Kind, int, text};
use crate::engine::table::Hooks;
use crate::guard::Call;
use crate::problem::Problem;

struct Nodes;

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::Missing => Self::not_found(),
            NodeError::NameTaken { .. } => Self::field("value", error.to_string()),
            NodeError::Invalid(invalid) => invalid.into(),
            other => Self::bad_request("node_refused", other.to_string()),
        }
    }
}

/// The nodes of one organization as the change leaves them.
pub(crate) fn tree(change: &Change<'_>, org: Uuid) -> Result<Vec<Arc<Node>>, Problem> {
    let mut nodes = change.list::<Node>()?;
    nodes.retain(|n| n.org_id == org);
    Ok(nodes)
}

/// Stores changed nodes, new ones included.
pub(crate) fn apply(change: &mut Change<'_>, changed: Vec<Node>) -> Result<(), Problem> {
    for node in changed {
        let id = node.id;
        let copy = node.clone();
        if !change.edit::<Node>(id, |n| *n = copy)? {
            change.insert(node);
        }
    }
    Ok(())
}

pub(crate) fn create_child(change: &mut Change<'_>, parent: &Node, id: Uuid, value: &str) -> Result<Node, Problem> {
    let by = change.call.user.display();
    let author = Author { by: &by, now: change.now };
    let changed = nodes::create_child(&tree(change, parent.org_id)?, parent.id, id, value, author)?;
    let child = changed.iter().find(|n| n.id == id).cloned();
    apply(change, changed)?;
    child.ok_or_else(|| Problem::internal(&"a new node is not among the changed ones"))
}

/// The tree of a renamed organization.
pub(crate) fn rename_root(change: &mut Change<'_>, org: &Organization) -> Result<(), Problem> {
    let by = change.call.user.display();
    let author = Author { by: &by, now: change.now };
    change.everywhere(|change| {
        let changed = nodes::rename_root(&tree(change, org.id)?, &org.name, author)?;
        apply(change, changed)
    })
}

#[async_trait]
impl Hooks<Node> for Nodes {
    fn validate(&self, row: &Node) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Node) -> String {
        row.full_value.clone()
    }

    fn show(&self, call: &Call, row: &Node, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        out.insert("name".into(), json!(row.value));
        out.insert("parent_key".into(), json!(row.parent_key().unwrap_or("")));
        let count = call.app.with_directory(|d| d.node_count(row.id));
        out.insert("assets_amount".into(), json!(count));
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Node,
        old: Option<&Node>,
        input: &Input,
    ) -> Result<(), Problem> {
        let by = change.call.user.display();
        let author = Author { by: &by, now: change.now };
        if let Some(old) = old {
            if old.value != new.value {
                let changed = nodes::rename(&tree(change, old.org_id)?, old.id, &new.value, author)?;
                if let Some(own) = changed.iter().find(|n| n.id == old.id) {
                    new.full_value.clone_from(&own.full_value);
                }
                apply(change, changed.into_iter().filter(|n| n.id != old.id).collect())?;
            }
            return Ok(());
        }
        let parent = input.get("parent").and_then(crate::engine::values::as_id);
        let parent = parent.unwrap_or_else(|| builtin::root_node_id(new.org_id));
        let parent = change.get::<Node>(parent)?.ok_or_else(|| Problem::field("parent", "object does not exist"))?;
        let child = create_child(change, &parent, new.id, &new.value)?;
        let meta = new.meta.clone();
        *new = Node { meta, ..child };
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Node) -> Result<(), Problem> {
        let inside = change.list::<Asset>()?.iter().filter(|a| a.nodes.contains(&row.id)).count();
        nodes::check_delete(&tree(change, row.org_id)?, row.id, inside)?;
        forget::node(change, row.id)
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("key", "Key").read_only().default(|| json!("")),
        text("value", "Value").required(),
        text("name", "Name").computed().no_export(),
        text("full_value", "Full value").read_only().default(|| json!("")),
        field::related("parent", "Parent", crate::engine::related::Target::Node).virtual_input().nullable(),
        text("parent_key", "Parent key").computed().no_export(),
        Field::new("child_mark", "Child mark", Kind::Int { min: 0, max: i64::from(u32::MAX) }).read_only().no_export(),
        int("assets_amount", "Assets amount", 0, i64::MAX).computed().no_export(),
    ];
    fields.extend(field::org());
    fields.extend(field::meta());
    vec![
        Resource::new::<Node, Nodes>("assets", "nodes", "node", "Node", fields, Nodes)
            .search(&["value", "full_value"])
            .unique(&[("sibling", "value"), ("key", "value")])
            .serialised(),
    ]
}
