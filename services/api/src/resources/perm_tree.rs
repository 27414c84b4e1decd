//! `perms/users/...`: what a user reaches, as lists and trees (Z11, W03, W06), from the session service's read model.

use std::sync::Arc;

use gatehouse_model::asset::{Asset, Platform};
use gatehouse_model::directory::{AssetOrder, AssetQuery, GrantedAccount, Listed, Page, Place, TreeNode, TreeNodeKind};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::user::{User, UserGroup};
use serde_json::{Value, json};
use uuid::Uuid;

use super::node_tree::{asset_row, tree_row};
use crate::engine::list;
use crate::engine::plan::{DEFAULT_PAGE, MAX_PAGE, words};
use crate::engine::values::show_date;
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

pub(crate) fn routes(routes: &mut Routes) {
    let own = Need::Point("perms.view_myassets");
    let other = Need::Point("perms.view_userassetpermission");
    let query: &[(&'static str, &'static str)] = &[
        ("search", "in name, address and comment"),
        ("limit", "rows of a page"),
        ("offset", "rows to skip"),
        ("order", "name or address; - before it descends"),
    ];
    // The same routes twice: about oneself, and about somebody for those who may look.
    for (who, need) in [("self", own), ("{user}", other)] {
        let base = format!("/api/v1/perms/users/{who}");
        routes.get(format!("{base}/assets/"), need, Doc::new("Assets that the user reaches").query(query), assets);
        routes.get(
            format!("{base}/assets/{{id}}/"),
            need,
            Doc::new("One reachable asset with the accounts, protocols and actions that are granted"),
            asset,
        );
        routes.get(format!("{base}/nodes/"), need, Doc::new("Nodes above what the user reaches"), nodes);
        routes.get(
            format!("{base}/nodes/{{id}}/assets/"),
            need,
            Doc::new("Reachable assets in a node and below (?show_current_asset=1: only in it)").query(query),
            node_assets,
        );
        let doc = |what: &str| Doc::new(what).query(query);
        routes.get(format!("{base}/nodes/ungrouped/assets/"), need, doc("Assets granted by themselves"), ungrouped);
        routes.get(format!("{base}/nodes/favorite/assets/"), need, doc("Reachable starred assets"), favorite);
        routes.get(format!("{base}/nodes/children/tree/"), need, Doc::new("Tree of nodes, by ?key="), children_tree);
        routes.get(
            format!("{base}/nodes/children-with-assets/tree/"),
            need,
            Doc::new("Tree of nodes and their assets, by ?key="),
            children_with_assets,
        );
    }
    let view = Need::Point("perms.view_assetpermission");
    let doc = Doc::new("All users of a permission, those of its groups included");
    routes.get("/api/v1/perms/asset-permissions/{id}/users/all/", view, doc, grant_users);
    let doc = Doc::new("All assets of a permission, those of its nodes included");
    routes.get("/api/v1/perms/asset-permissions/{id}/assets/all/", view, doc, grant_assets);
}

pub(crate) fn reaches(call: &Call, asset: Uuid) -> bool {
    let now = call.app.now();
    call.app
        .with_directory(|d| d.asset(asset).is_some_and(|a| d.reach(call.user.id, a.org_id, now).get(asset).is_some()))
}

pub(crate) fn users_of(call: &Call, asset: Uuid) -> Result<Vec<Arc<User>>, Problem> {
    let now = call.app.now();
    Ok(call.app.with_directory(|d| d.who_reaches(asset, now)).into_iter().map(|(user, _)| user).collect())
}

/// Whose view it is. Another user must be of the request's organization.
fn subject(call: &Call) -> Result<Uuid, Problem> {
    let Some(text) = call.params.get("user") else { return Ok(call.user.id) };
    let id: Uuid = text.parse().map_err(|_| Problem::not_found())?;
    let user = call.reader().get::<User>(id)?.ok_or_else(Problem::not_found)?;
    let here = match call.scope {
        crate::engine::reader::Scope::Org(org) => user.is_member_of(org),
        crate::engine::reader::Scope::Global => true,
    };
    if here { Ok(id) } else { Err(Problem::not_found()) }
}

/// `None`: all organizations of the user.
fn org(call: &Call) -> Option<Uuid> {
    match call.scope {
        crate::engine::reader::Scope::Org(org) => Some(org),
        crate::engine::reader::Scope::Global => None,
    }
}

fn number(call: &Call, key: &str) -> Option<usize> {
    call.query.filled(key).and_then(|v| v.parse().ok())
}

fn page(call: &Call, place: Place) -> Result<Page, Problem> {
    let user = subject(call)?;
    let query = AssetQuery {
        words: words(call.query.filled("search").or_else(|| call.query.filled("q")).unwrap_or("")),
        place,
        category: call.query.filled("category").and_then(|c| c.parse().ok()),
        protocol: call.query.filled("protocol").map(str::to_owned),
        order: match call.query.filled("order") {
            Some("address") => AssetOrder::Address,
            Some("-address") => AssetOrder::AddressDown,
            Some("-name") => AssetOrder::NameDown,
            _ => AssetOrder::Name,
        },
        offset: number(call, "offset").unwrap_or(0),
        limit: number(call, "limit").unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE),
        ..AssetQuery::default()
    };
    let now = call.app.now();
    Ok(call.app.with_directory(|d| d.my_assets(user, org(call), &query, now)))
}

fn row(call: &Call, listed: &Listed) -> Result<Value, Problem> {
    let asset = &listed.asset;
    let platform = call.reader().global().get::<Platform>(asset.platform)?;
    let actions: Vec<Value> = listed.actions.names().map(|(v, l)| json!({"value": v, "label": l})).collect();
    Ok(json!({
        "id": asset.id,
        "name": asset.name,
        "address": asset.address,
        "org_id": asset.org_id,
        "platform": platform.as_ref().map(|p| json!({"id": p.id, "name": p.name})),
        "category": platform.as_ref().map(|p| json!({"value": p.category.as_str(), "label": p.category.label()})),
        "type": platform.as_ref().map(|p| json!({"value": p.r#type.as_str(), "label": p.r#type.label()})),
        "protocols": asset.protocols,
        "connectivity": {"value": asset.connectivity.as_str(), "label": asset.connectivity.label()},
        "is_active": asset.is_active,
        "actions": actions,
        "comment": asset.meta.comment,
    }))
}

fn listed(call: &Call, place: Place) -> Answer {
    let page = page(call, place)?;
    let rows: Result<Vec<Value>, Problem> = page.items.iter().map(|l| row(call, l)).collect();
    let paged = call.query.get("limit").is_some() || call.query.get("offset").is_some();
    if !paged {
        return Ok(list::ok(&json!(rows?)));
    }
    let limit = number(call, "limit").unwrap_or(DEFAULT_PAGE).clamp(1, MAX_PAGE);
    Ok(list::ok(&list::envelope(call, limit, number(call, "offset").unwrap_or(0), page.total, &rows?)))
}

async fn assets(call: Call) -> Answer {
    listed(&call, Place::Anywhere)
}

async fn ungrouped(call: Call) -> Answer {
    listed(&call, Place::Ungrouped)
}

async fn favorite(call: Call) -> Answer {
    listed(&call, Place::Favorite)
}

async fn node_assets(call: Call) -> Answer {
    let node = call.id()?;
    let descendants = !call.query.flag("show_current_asset");
    listed(&call, Place::Node { node, descendants })
}

fn account_row(account: &GrantedAccount) -> Value {
    let actions: Vec<Value> = account.actions.names().map(|(v, l)| json!({"value": v, "label": l})).collect();
    let stored = account.account.as_ref();
    json!({
        "id": stored.map(|a| a.id),
        "alias": stored.map_or_else(|| account.alias.clone(), |a| a.id.to_string()),
        "name": stored.map_or(account.alias.as_str(), |a| a.name.as_str()),
        "username": account.username,
        "has_username": !account.username.is_empty(),
        "has_secret": account.secret_known,
        "secret_type": stored.map(|a| json!({"value": a.secret_type.as_str(), "label": a.secret_type.label()})),
        "actions": actions,
        "protocols": account.protocols,
        "date_expired": show_date(account.date_expired),
    })
}

async fn asset(call: Call) -> Answer {
    let (user, id, now) = (subject(&call)?, call.id()?, call.app.now());
    let found = call.app.with_directory(|d| {
        let asset = d.asset(id)?.clone();
        let actions = d.reach(user, asset.org_id, now).get(id)?.actions;
        Some((Listed { asset, actions }, d.granted_accounts(user, id, now)))
    });
    let (listed, accounts) =
        found.filter(|(l, _)| call.scope.contains(l.asset.org_id)).ok_or_else(Problem::not_found)?;
    let mut shown = row(&call, &listed)?;
    if let Some(shown) = shown.as_object_mut() {
        shown.insert("permed_accounts".into(), accounts.iter().map(account_row).collect());
        shown.insert("permed_protocols".into(), json!(listed.asset.protocols));
    }
    Ok(list::ok(&shown))
}

fn tree_of(call: &Call) -> Result<Vec<TreeNode>, Problem> {
    let (user, now) = (subject(call)?, call.app.now());
    match org(call) {
        Some(org) => Ok(call.app.with_directory(|d| d.tree(user, org, now))),
        None => {
            Err(Problem::bad_request("global_organization", "a tree is of one organization; choose it with X-JMS-ORG"))
        }
    }
}

async fn nodes(call: Call) -> Answer {
    let rows: Vec<Value> = tree_of(&call)?
        .iter()
        .filter(|n| n.kind == TreeNodeKind::Node)
        .map(|n| json!({"id": n.id, "key": n.key, "name": n.name, "value": n.name, "assets_amount": n.assets}))
        .collect();
    Ok(list::ok(&json!(rows)))
}

/// Children of `?key=`; without it the roots and the level below them.
fn level(call: &Call) -> Result<Vec<Value>, Problem> {
    let tree = tree_of(call)?;
    let key = call.query.filled("key");
    let roots: Vec<&str> = tree.iter().filter(|n| n.parent_key.is_none()).map(|n| n.key.as_str()).collect();
    Ok(tree
        .iter()
        .filter(|n| match key {
            Some(key) => n.parent_key.as_deref() == Some(key),
            None => n.parent_key.as_deref().is_none_or(|p| roots.contains(&p)),
        })
        .map(|n| {
            let data = json!({"id": n.id, "key": n.key, "value": n.name});
            let parent = n.parent_key.as_deref().unwrap_or("");
            tree_row(&n.key, parent, &n.name, Some(n.assets), n.has_children || n.assets > 0, "node", &data)
        })
        .collect())
}

async fn children_tree(call: Call) -> Answer {
    Ok(list::ok(&json!(level(&call)?)))
}

async fn children_with_assets(call: Call) -> Answer {
    let mut rows = level(&call)?;
    let tree = tree_of(&call)?;
    let key = call.query.filled("key");
    let here = tree.iter().find(|n| Some(n.key.as_str()) == key);
    if let Some(here) = here {
        let place = match (here.kind, here.id) {
            (TreeNodeKind::Node, Some(node)) => Place::Node { node, descendants: false },
            (TreeNodeKind::Ungrouped, _) => Place::Ungrouped,
            _ => Place::Favorite,
        };
        let query = AssetQuery { place, limit: MAX_PAGE, ..AssetQuery::default() };
        let (user, now) = (subject(&call)?, call.app.now());
        let page = call.app.with_directory(|d| d.my_assets(user, org(&call), &query, now));
        for listed in &page.items {
            let platform = call.reader().global().get::<Platform>(listed.asset.platform)?;
            rows.push(asset_row(&listed.asset, platform.as_deref(), &here.key));
        }
    }
    Ok(list::ok(&json!(rows)))
}

fn grant(call: &Call) -> Result<Arc<AssetPermission>, Problem> {
    call.reader().get::<AssetPermission>(call.id()?)?.ok_or_else(Problem::not_found)
}

async fn grant_users(call: Call) -> Answer {
    let grant = grant(&call)?;
    let mut ids = grant.users.clone();
    for group in &grant.user_groups {
        if let Some(group) = call.reader().get::<UserGroup>(*group)? {
            ids.extend(&group.users);
        }
    }
    ids.sort();
    ids.dedup();
    let mut rows = Vec::new();
    for id in ids {
        if let Some(user) = call.reader().get::<User>(id)?.filter(|u| u.is_member_of(grant.org_id)) {
            rows.push(json!({"user": user.id, "user_display": user.display()}));
        }
    }
    Ok(list::ok(&json!(rows)))
}

async fn grant_assets(call: Call) -> Answer {
    let grant = grant(&call)?;
    let assets = call.app.with_directory(|d| {
        let direct = grant.assets.iter().filter_map(|id| d.asset(*id)).cloned();
        let mut found: Vec<Arc<Asset>> =
            grant.nodes.iter().flat_map(|node| d.node_assets(*node, true)).chain(direct).collect();
        found.sort_by_key(|a| a.id);
        found.dedup_by_key(|a| a.id);
        found
    });
    let rows: Vec<Value> = assets
        .iter()
        .filter(|a| a.org_id == grant.org_id)
        .take(10_000)
        .map(|a| json!({"asset": a.id, "asset_display": format!("{}({})", a.name, a.address)}))
        .collect();
    Ok(list::ok(&json!(rows)))
}
