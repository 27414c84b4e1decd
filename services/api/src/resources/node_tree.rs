//! What the asset tree's menu does: children, trees for the UI, assets into and out of nodes, counts (S05-S07).

use std::collections::{BTreeSet, HashMap, HashSet};

use axum::http::StatusCode;
use gatehouse_model::asset::{Asset, Category, Node, Platform};
use gatehouse_model::builtin;
use gatehouse_model::directory::{AssetQuery, CountDrift, Place};
use gatehouse_model::nodes::{self, Author};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::{Action, Operation};
use crate::engine::change::Change;
use crate::engine::list;
use crate::engine::plan::MAX_PAGE;
use crate::engine::reader::Scope;
use crate::engine::values::as_id;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let view = Need::Point("assets.view_node");
    routes.get("/api/v1/assets/nodes/{id}/children/", view, Doc::new("Child nodes; ?all=1 for all below"), children);
    routes.post(
        "/api/v1/assets/nodes/{id}/children/",
        Need::Point("assets.add_node"),
        Doc::new("Create a child node").request(json!({"type": "object", "properties": {"value": {"type": "string"}}})),
        create_child,
    );
    let query: &[(&'static str, &'static str)] =
        &[("key", "children of this node; the root without it"), ("assets", "1: with the assets of the node")];
    routes.get(
        "/api/v1/assets/nodes/children/tree/",
        view,
        Doc::new("Nodes as a tree, level by level").query(query),
        tree,
    );
    routes.get("/api/v1/assets/nodes/category/tree/", view, Doc::new("Assets by category, type and platform"), by_type);
    routes.put(
        "/api/v1/assets/nodes/{id}/move/",
        Need::Point("assets.change_node"),
        Doc::new("Move a node below another one")
            .request(json!({"type": "object", "required": ["parent"], "properties": {
            "parent": {"type": "string", "format": "uuid"}}})),
        move_node,
    );
    let assets = json!({"type": "object", "required": ["assets"], "properties": {
        "assets": {"type": "array", "items": {"type": "string", "format": "uuid"}}}});
    for (what, point, summary) in [
        ("add", "assets.add_assettonode", "Put assets into a node; they stay in their other nodes"),
        ("replace", "assets.move_assettonode", "Move assets into a node, out of all others"),
        ("remove", "assets.remove_assettonode", "Take assets out of a node; what is in none is in the root"),
    ] {
        routes.put(
            format!("/api/v1/assets/nodes/{{id}}/assets/{what}/"),
            Need::Point(point),
            Doc::new(summary).request(assets.clone()),
            move |call| place(call, what),
        );
    }
    routes.post(
        "/api/v1/assets/nodes/check_assets_amount/",
        Need::Point("assets.check_nodeassets"),
        Doc::new("Count the assets of every node anew, put right and say what differs"),
        check_amounts,
    );
}

fn shown(call: &Call, node: &Node) -> Value {
    json!({
        "id": node.id,
        "key": node.key,
        "value": node.value,
        "name": node.value,
        "full_value": node.full_value,
        "org_id": node.org_id,
        "assets_amount": call.app.with_directory(|d| d.node_count(node.id)),
    })
}

fn node(call: &Call) -> Result<std::sync::Arc<Node>, Problem> {
    call.reader().get::<Node>(call.id()?)?.ok_or_else(Problem::not_found)
}

async fn children(call: Call) -> Answer {
    let parent = node(&call)?;
    let all = call.query.flag("all");
    let mut below = call.reader().list::<Node>()?;
    below.retain(|n| {
        n.org_id == parent.org_id
            && n.id != parent.id
            && if all { parent.contains(&n.key) } else { n.parent_key() == Some(parent.key.as_str()) }
    });
    below.sort_by_cached_key(|n| n.value.to_lowercase());
    Ok(list::ok(&below.iter().map(|n| shown(&call, n)).collect()))
}

async fn create_child(call: Call) -> Answer {
    let body = call.json().await?;
    let parent = node(&call)?;
    let _turn = call.app.serial().await;
    let mut change = Change::new(&call);
    let value = match body.get("value").or_else(|| body.get("name")).and_then(Value::as_str) {
        Some(value) => value.trim().to_owned(),
        None => {
            let names: Vec<String> = super::nodes::tree(&change, parent.org_id)?
                .iter()
                .filter(|n| n.parent_key() == Some(parent.key.as_str()))
                .map(|n| n.value.clone())
                .collect();
            (1..).map(|n| format!("New node {n}")).find(|n| !names.contains(n)).unwrap_or_default()
        }
    };
    let child = super::nodes::create_child(&mut change, &parent, Uuid::now_v7(), &value)?;
    change.audit(Operation::new(Action::Create, "Node", &child.full_value, child.id).org(child.org_id));
    change.commit().await?;
    Ok(list::json_response(StatusCode::CREATED, &shown(&call, &child)))
}

async fn move_node(call: Call) -> Answer {
    let body = call.json().await?;
    let moved = node(&call)?;
    let parent = body.get("parent").map(|p| p.get("id").unwrap_or(p)).and_then(as_id);
    let parent = parent.ok_or_else(|| Problem::field("parent", "this field is required"))?;
    let _turn = call.app.serial().await;
    let mut change = Change::new(&call);
    let by = call.user.display();
    let author = Author { by: &by, now: change.now };
    let changed = nodes::move_to(&super::nodes::tree(&change, moved.org_id)?, moved.id, parent, author)?;
    let new =
        changed.iter().find(|n| n.id == moved.id).map_or_else(|| moved.full_value.clone(), |n| n.full_value.clone());
    super::nodes::apply(&mut change, changed)?;
    change.audit(Operation::new(Action::Update, "Node", &new, moved.id).org(moved.org_id).changed(
        "full_value",
        &json!(moved.full_value),
        &json!(new),
    ));
    change.commit().await?;
    Ok(list::ok(&shown(&call, &*node(&call)?)))
}

async fn place(call: Call, what: &'static str) -> Answer {
    let body = call.json().await?;
    let node = node(&call)?;
    let given = body
        .get("assets")
        .and_then(Value::as_array)
        .ok_or_else(|| Problem::field("assets", "this field is required"))?;
    if given.len() > crate::engine::write::MAX_BULK {
        return Err(Problem::field("assets", format!("at most {} at once", crate::engine::write::MAX_BULK)));
    }
    let _turn = call.app.serial().await;
    let mut change = Change::new(&call);
    let root = builtin::root_node_id(node.org_id);
    let mut moved = Vec::new();
    for id in given {
        let id = as_id(id.get("id").unwrap_or(id)).ok_or_else(|| Problem::field("assets", "must be valid UUIDs"))?;
        let asset = change.get::<Asset>(id)?.filter(|a| a.org_id == node.org_id);
        let asset =
            asset.ok_or_else(|| Problem::field("assets", format!("invalid pk \"{id}\" - object does not exist")))?;
        change.edit::<Asset>(asset.id, |a| match what {
            "add" if !a.nodes.contains(&node.id) => a.nodes.push(node.id),
            "replace" => a.nodes = vec![node.id],
            "remove" => {
                a.nodes.retain(|n| *n != node.id);
                // An asset in no node could not be found again.
                if a.nodes.is_empty() {
                    a.nodes.push(root);
                }
            }
            _ => {}
        })?;
        moved.push(asset);
    }
    let names: Vec<&str> = moved.iter().map(|a| a.name.as_str()).collect();
    change.audit(
        Operation::new(Action::Update, "Node", &node.full_value, node.id)
            .org(node.org_id)
            .refs(moved.iter().map(|a| a.id))
            .changed("assets", &json!(what), &json!(names)),
    );
    change.commit().await?;
    Ok(list::ok(&shown(&call, &node)))
}

/// A node as the UI's tree wants it (zTree, as in JumpServer).
pub(crate) fn tree_row(
    id: &str,
    parent: &str,
    name: &str,
    count: Option<u32>,
    is_parent: bool,
    kind: &str,
    data: &Value,
) -> Value {
    let title = count.map_or_else(|| name.to_owned(), |n| format!("{name} ({n})"));
    json!({
        "id": id, "pId": parent, "name": title, "title": name, "isParent": is_parent, "open": parent.is_empty(),
        "iconSkin": "", "meta": {"type": kind, "data": data}
    })
}

pub(crate) fn asset_row(asset: &Asset, platform: Option<&Platform>, parent: &str) -> Value {
    let data = json!({
        "id": asset.id, "name": asset.name, "address": asset.address, "org_id": asset.org_id,
        "protocols": asset.protocols,
        "platform": platform.map(|p| json!({"id": p.id, "name": p.name})),
        "type": platform.map(|p| p.r#type.as_str()), "category": platform.map(|p| p.category.as_str()),
    });
    tree_row(&asset.id.to_string(), parent, &asset.name, None, false, "asset", &data)
}

async fn tree(call: Call) -> Answer {
    let reader = call.reader();
    let nodes = reader.list::<Node>()?;
    let key = call.query.filled("key");
    let parents: HashSet<(Uuid, &str)> = nodes.iter().filter_map(|n| Some((n.org_id, n.parent_key()?))).collect();
    let is_parent = |n: &Node| parents.contains(&(n.org_id, n.key.as_str()));
    let mut level: Vec<_> = nodes
        .iter()
        .filter(|n| match key {
            None => n.is_root() || (n.parent_key() == Some("1") && matches!(call.scope, Scope::Org(_))),
            Some(key) => n.parent_key() == Some(key),
        })
        .collect();
    level.sort_by_cached_key(|n| (!n.is_root(), n.value.to_lowercase()));
    let mut rows: Vec<Value> = level
        .iter()
        .map(|n| {
            let count = call.app.with_directory(|d| d.node_count(n.id));
            let data = json!({"id": n.id, "key": n.key, "value": n.value, "org_id": n.org_id});
            tree_row(&n.key, n.parent_key().unwrap_or(""), &n.value, Some(count), is_parent(n), "node", &data)
        })
        .collect();
    if call.query.flag("assets")
        && let Some(key) = key
        && let Some(node) = nodes.iter().find(|n| n.key == key && call.scope.contains(n.org_id))
    {
        let query = AssetQuery {
            place: Place::Node { node: node.id, descendants: false },
            limit: MAX_PAGE,
            ..AssetQuery::default()
        };
        let page = call.app.with_directory(|d| d.all_assets(node.org_id, &query));
        for listed in &page.items {
            rows.push(asset_row(&listed.asset, reader.get::<Platform>(listed.asset.platform)?.as_deref(), key));
        }
    }
    Ok(list::ok(&json!(rows)))
}

async fn by_type(call: Call) -> Answer {
    let reader = call.reader();
    let platforms = reader.list::<Platform>()?;
    let counts: HashMap<Uuid, u32> = call
        .app
        .with_directory(|d| d.platform_counts(call.scope.id()))
        .into_iter()
        .map(|(platform, n)| (platform, u32::try_from(n).unwrap_or(u32::MAX)))
        .collect();
    let mut rows = Vec::new();
    for category in Category::ALL {
        let of_category: Vec<_> = platforms.iter().filter(|p| p.category == *category).collect();
        let total: u32 = of_category.iter().filter_map(|p| counts.get(&p.id)).sum();
        let id = category.as_str();
        rows.push(tree_row(id, "", category.label(), Some(total), true, "category", &json!({"value": id})));
        let mut types: Vec<_> = of_category.iter().map(|p| p.r#type).collect();
        types.sort();
        types.dedup();
        for kind in types {
            let of_type = || of_category.iter().filter(|p| p.r#type == kind);
            let total: u32 = of_type().filter_map(|p| counts.get(&p.id)).sum();
            let type_id = format!("{id}_{kind}");
            rows.push(tree_row(
                &type_id,
                id,
                kind.label(),
                Some(total),
                true,
                "type",
                &json!({"value": kind.as_str()}),
            ));
            for platform in of_type() {
                let count = counts.get(&platform.id).copied().unwrap_or(0);
                let data = json!({"id": platform.id, "name": platform.name});
                let row_id = platform.id.to_string();
                rows.push(tree_row(&row_id, &type_id, &platform.name, Some(count), false, "platform", &data));
            }
        }
    }
    Ok(list::ok(&json!(rows)))
}

/// Counts are kept in memory and change with every change of an asset; this counts anew, puts right what differs, and
/// says what did.
async fn check_amounts(call: Call) -> Answer {
    let nodes = call.reader().list::<Node>()?;
    let orgs: BTreeSet<Uuid> = nodes.iter().map(|n| n.org_id).collect();
    let drift: Vec<CountDrift> = orgs.into_iter().flat_map(|org| call.app.core().read().recount(org)).collect();
    if !drift.is_empty() {
        tracing::error!(nodes = drift.len(), "the read model had counted assets wrongly; that is put right, report it");
    }
    let differs: Vec<Value> =
        drift.iter().map(|d| json!({"node": d.node, "kept": d.kept, "counted": d.counted})).collect();
    Ok(list::ok(&json!({"nodes": nodes.len(), "differs": differs})))
}
