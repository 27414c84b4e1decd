//! `assets/assets` and its categories (`hosts`, `devices`, ...), `gateways`, favourites (S01-S11, S15, S21).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use axum::http::StatusCode;
use gatehouse_model::account::Account;
use gatehouse_model::asset::{
    Asset, AssetProtocol, Category, Connectivity, FavoriteAsset, Node, PinnedHostKey, Platform, key_contains,
};
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate};
use gatehouse_model::directory::{AssetOrder, AssetQuery, Place};
use gatehouse_model::record::Index;
use gatehouse_model::session::ConnectionToken;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{accounts, forget};
use crate::engine::change::{Change, Input};
use crate::engine::field::{
    self, Field, boolean, choice, datetime, int, json as json_field, many, related, strings, text,
};
use crate::engine::plan::Plan;
use crate::engine::reader::Reader;
use crate::engine::related::Target;
use crate::engine::table::{Hooks, Page, Predicate};
use crate::engine::values::{as_id, show_choice};
use crate::engine::{Resource, list};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// Which assets a route is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Any,
    Of(Category),
    Gateway,
}

struct Assets(Kind);

impl Assets {
    fn is_mine(&self, platform: &Platform) -> bool {
        match self.0 {
            Kind::Any => true,
            Kind::Of(category) => platform.category == category && platform.id != builtin::gateway_platform_id(),
            Kind::Gateway => platform.id == builtin::gateway_platform_id(),
        }
    }
}

fn platforms(reader: &Reader) -> Result<HashMap<Uuid, Arc<Platform>>, Problem> {
    Ok(reader.list::<Platform>()?.into_iter().map(|p| (p.id, p)).collect())
}

/// Node ids in which an asset counts as being in `node`.
pub(crate) fn nodes_under(reader: &Reader, node: Uuid, descendants: bool) -> Result<Vec<Uuid>, Problem> {
    let Some(top) = reader.get::<Node>(node)? else { return Ok(Vec::new()) };
    if !descendants {
        return Ok(vec![top.id]);
    }
    let nodes = reader.list::<Node>()?;
    Ok(nodes.iter().filter(|n| n.org_id == top.org_id && key_contains(&top.key, &n.key)).map(|n| n.id).collect())
}

#[async_trait]
impl Hooks<Asset> for Assets {
    fn validate(&self, row: &Asset) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Asset) -> String {
        format!("{}({})", row.name, row.address)
    }

    fn visible(&self, call: &Call, row: &Asset) -> Result<bool, Problem> {
        if self.0 == Kind::Any {
            return Ok(true);
        }
        Ok(call.reader().get::<Platform>(row.platform)?.is_some_and(|p| self.is_mine(&p)))
    }

    fn candidates(&self, call: &Call) -> Result<Option<Vec<Arc<Asset>>>, Problem> {
        let reader = call.reader();
        let node = call.query.filled("node").or_else(|| call.query.filled("node_id"));
        if node.is_none() && self.0 == Kind::Any {
            return Ok(None);
        }
        let mut rows = reader.list::<Asset>()?;
        if self.0 != Kind::Any {
            // Platforms are few and assets many: which platforms count is asked once, not for every asset.
            let platforms = reader.list::<Platform>()?;
            let mine: HashSet<Uuid> = platforms.iter().filter(|p| self.is_mine(p)).map(|p| p.id).collect();
            rows.retain(|a| mine.contains(&a.platform));
        }
        if let Some(node) = node {
            let node = node.parse().unwrap_or_else(|_| Uuid::max());
            let inside = nodes_under(&reader, node, !call.query.flag("show_current_asset"))?;
            rows.retain(|a| a.nodes.iter().any(|n| inside.contains(n)));
        }
        Ok(Some(rows))
    }

    /// From the read model, which keeps assets in the orders that lists are shown in: 100,000 of them are not copied for
    /// a page of 100.
    fn page(&self, call: &Call, plan: &Plan) -> Result<Option<Page<Asset>>, Problem> {
        let order = match plan.single_order() {
            None if plan.order.is_empty() => AssetOrder::Name,
            Some(("name", false)) => AssetOrder::Name,
            Some(("name", true)) => AssetOrder::NameDown,
            Some(("address", false)) => AssetOrder::Address,
            Some(("address", true)) => AssetOrder::AddressDown,
            _ => return Ok(None),
        };
        if plan.ids.is_some() {
            return Ok(None);
        }
        let mut own: Vec<Predicate<Asset>> = Vec::new();
        for (name, value) in &plan.own {
            own.extend(self.filter(call, name, value)?);
        }
        let mine = |all: Vec<Arc<Platform>>| all.iter().filter(|p| self.is_mine(p)).map(|p| p.id).collect();
        let node = call.query.filled("node").or_else(|| call.query.filled("node_id"));
        let query = AssetQuery {
            words: plan.terms().iter().cloned().chain(plan.hints(&["name", "address"])).collect(),
            place: node.map_or(Place::Anywhere, |node| Place::Node {
                // What is not an id is no node.
                node: node.parse().unwrap_or_else(|_| Uuid::max()),
                descendants: !call.query.flag("show_current_asset"),
            }),
            platforms: if self.0 == Kind::Any { None } else { Some(mine(call.reader().list::<Platform>()?)) },
            order,
            offset: plan.offset,
            limit: plan.limit,
            ..AssetQuery::default()
        };
        let keep = |asset: &Asset| own.iter().all(|p| p(asset)) && plan.admits(asset);
        let keep: Option<&dyn Fn(&Asset) -> bool> =
            if own.is_empty() && !plan.has_conditions() { None } else { Some(&keep) };
        let page = call.app.with_directory(|d| d.assets_where(call.scope.id(), &query, keep));
        Ok(Some((page.total, page.items.into_iter().map(|listed| listed.asset).collect())))
    }

    fn filter(&self, call: &Call, name: &str, value: &str) -> Result<Option<Predicate<Asset>>, Problem> {
        let platforms = platforms(&call.reader())?;
        let wanted: Vec<String> = value.split(',').map(|v| v.trim().to_owned()).collect();
        let by_platform = |keep: fn(&Platform) -> &str| -> Predicate<Asset> {
            let ids: Vec<Uuid> =
                platforms.values().filter(|p| wanted.iter().any(|w| w == keep(p))).map(|p| p.id).collect();
            Box::new(move |a| ids.contains(&a.platform))
        };
        Ok(match name {
            "category" => Some(by_platform(|p| p.category.as_str())),
            "type" => Some(by_platform(|p| p.r#type.as_str())),
            "platform" => {
                let ids: Vec<Uuid> = platforms
                    .values()
                    .filter(|p| wanted.iter().any(|w| w.parse() == Ok(p.id) || *w == p.name))
                    .map(|p| p.id)
                    .collect();
                Some(Box::new(move |a| ids.contains(&a.platform)))
            }
            "is_gateway" => {
                let (gateway, is) = (builtin::gateway_platform_id(), matches!(value, "1" | "true" | "True"));
                Some(Box::new(move |a| (a.platform == gateway) == is))
            }
            "protocols" => Some(Box::new(move |a| wanted.iter().any(|w| a.protocol(w).is_some()))),
            _ => None,
        })
    }

    fn show(&self, call: &Call, row: &Asset, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        let reader = call.reader();
        if let Some(platform) = reader.get::<Platform>(row.platform)? {
            let category = platform.category.as_str();
            out.insert("category".into(), show_choice(Category::CHOICES, category));
            let kind = show_choice(gatehouse_model::asset::PlatformType::CHOICES, platform.r#type.as_str());
            out.insert("type".into(), kind);
        }
        let mut paths = Vec::new();
        for node in &row.nodes {
            if let Some(node) = reader.get::<Node>(*node)? {
                paths.push(node.full_value.clone());
            }
        }
        out.insert("nodes_display".into(), json!(paths));
        let accounts = reader.find::<Account>("asset", row.id.as_bytes())?;
        out.insert("accounts_amount".into(), json!(accounts.len()));
        if detail {
            let rows: Vec<Value> = accounts
                .iter()
                .map(|a| {
                    json!({"id": a.id, "name": a.name, "username": a.username, "privileged": a.privileged,
                        "is_active": a.is_active, "has_secret": a.has_secret,
                        "secret_type": show_choice(gatehouse_model::account::SecretType::CHOICES, a.secret_type.as_str())})
                })
                .collect();
            out.insert("accounts".into(), json!(rows));
        }
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Asset,
        old: Option<&Asset>,
        input: &Input,
    ) -> Result<(), Problem> {
        let platform = change.get::<Platform>(new.platform)?;
        let platform = platform.ok_or_else(|| Problem::field("platform", "object does not exist"))?;
        if !self.is_mine(&platform) {
            let why = format!("{} is not a platform of this kind of asset", platform.name);
            return Err(Problem::field("platform", why));
        }
        if self.0 == Kind::Gateway && new.zone.is_none() {
            return Err(Problem::field("zone", "a gateway is the way into a zone; choose one"));
        }
        if new.zone.is_some() && !platform.gateway_enabled && platform.id != builtin::gateway_platform_id() {
            return Err(Problem::field("zone", format!("the platform {} does not go through gateways", platform.name)));
        }
        check_protocols(new, &platform)?;
        if new.nodes.is_empty() {
            let asked = change.call.query.filled("node_id").or_else(|| change.call.query.filled("node"));
            let node = asked.and_then(|n| n.parse().ok()).unwrap_or_else(|| builtin::root_node_id(new.org_id));
            if change.get::<Node>(node)?.is_none_or(|n| n.org_id != new.org_id) {
                return Err(Problem::field("nodes", "object does not exist"));
            }
            new.nodes.push(node);
        }
        if old.is_some_and(|o| o.address != new.address || o.platform != new.platform) {
            // What was found out about the old place says nothing about the new one.
            new.connectivity = Connectivity::Unknown;
            new.date_verified = None;
        }
        if let Some(given) = input.get("accounts").and_then(Value::as_array) {
            change.call.require("accounts.add_account")?;
            accounts::stage_with_asset(change, new, given)?;
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Asset) -> Result<(), Problem> {
        for account in change.reader.find::<Account>("asset", row.id.as_bytes())? {
            accounts::stage_delete(change, &account)?;
        }
        for key in change.reader.find::<PinnedHostKey>("asset", row.id.as_bytes())? {
            change.delete::<PinnedHostKey>(key.id)?;
        }
        for token in change.reader.list::<ConnectionToken>()?.iter().filter(|t| t.asset == row.id) {
            change.delete::<ConnectionToken>(token.id)?;
        }
        for favorite in change.reader.list::<FavoriteAsset>()?.iter().filter(|f| f.asset == row.id) {
            change.delete::<FavoriteAsset>(favorite.id)?;
        }
        forget::asset(change, row.id)
    }
}

fn check_protocols(asset: &mut Asset, platform: &Platform) -> Result<(), Problem> {
    if asset.protocols.is_empty() {
        let chosen = platform.protocols.iter().filter(|p| p.default || p.required || p.primary);
        asset.protocols = chosen.map(|p| AssetProtocol { name: p.name.clone(), port: p.port }).collect();
    }
    for protocol in &asset.protocols {
        if platform.protocol(&protocol.name).is_none() {
            let why = format!("the platform {} does not speak {}", platform.name, protocol.name);
            return Err(Problem::field("protocols", why));
        }
    }
    match platform.protocols.iter().find(|p| p.required && asset.protocol(&p.name).is_none()) {
        Some(missing) => Err(Problem::field("protocols", format!("{} is required by the platform", missing.name))),
        None => Ok(()),
    }
}

fn fields(kind: Kind) -> Vec<Field> {
    let zone = related("zone", "Zone", Target::Zone);
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        text("address", "Address").required(),
        related("platform", "Platform", Target::Platform).required(),
        if kind == Kind::Gateway { zone.required() } else { zone.nullable() },
        many("nodes", "Nodes", Target::Node).default(|| json!([])),
        strings("nodes_display", "Nodes").computed().no_export(),
        json_field("protocols", "Protocols")
            .default(|| json!([]))
            .help("[{\"name\": \"ssh\", \"port\": 22}]; the platform's when absent"),
        json_field("accounts", "Accounts").through_hooks().detail_only().no_export(),
        int("accounts_amount", "Accounts amount", 0, i64::MAX).computed(),
        choice("category", "Category", Category::CHOICES).computed().no_export(),
        choice("type", "Type", gatehouse_model::asset::PlatformType::CHOICES).computed().no_export(),
        choice("connectivity", "Connectivity", Connectivity::CHOICES).read_only().default(|| json!("-")),
        datetime("date_verified", "Date verified").read_only(),
        boolean("is_active", "Active").default(|| json!(true)),
        json_field("spec_info", "Specific info").default(|| json!({})).detail_only(),
        json_field("custom_info", "Custom info").default(|| json!({})).detail_only(),
        json_field("gathered_info", "Gathered info").default(|| json!({})).read_only().detail_only().no_export(),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    fields
}

pub(crate) fn resources() -> Vec<Resource> {
    [
        ("assets", "asset", "Asset", Kind::Any),
        ("hosts", "host", "Host", Kind::Of(Category::Host)),
        ("devices", "device", "Device", Kind::Of(Category::Device)),
        ("databases", "database", "Database", Kind::Of(Category::Database)),
        ("webs", "web", "Web", Kind::Of(Category::Web)),
        ("clouds", "cloud", "Cloud", Kind::Of(Category::Cloud)),
        ("customs", "custom", "Custom asset", Kind::Of(Category::Custom)),
        ("gateways", "gateway", "Gateway", Kind::Gateway),
    ]
    .into_iter()
    .map(|(route, model, label, kind)| {
        Resource::new::<Asset, Assets>("assets", route, model, label, fields(kind), Assets(kind))
            .search(&["name", "address", "comment"])
            .filters(&[
                "node",
                "node_id",
                "show_current_asset",
                "category",
                "type",
                "platform",
                "is_gateway",
                "protocols",
            ])
    })
    .collect()
}

pub(crate) fn routes(routes: &mut Routes) {
    let me = Need::Point("perms.view_myassets");
    routes.get("/api/v1/assets/favorite-assets/", me, Doc::new("Starred assets"), favorites);
    routes.post(
        "/api/v1/assets/favorite-assets/",
        me,
        Doc::new("Star an asset").request(json!({"type": "object", "required": ["asset"], "properties": {
            "asset": {"type": "string", "format": "uuid"}}})),
        star,
    );
    routes.delete("/api/v1/assets/favorite-assets/", me, Doc::new("Unstar (?asset=id)"), unstar);
    routes.get(
        "/api/v1/assets/assets/{id}/perm-users/",
        Need::Point("assets.view_asset"),
        Doc::new("Users who can reach the asset"),
        perm_users,
    );
    routes.get(
        "/api/v1/gatehouse/host-keys/",
        Need::Point("assets.view_hostkey"),
        Doc::new("Pinned host keys"),
        host_keys,
    );
    routes.delete(
        "/api/v1/gatehouse/host-keys/{id}/",
        Need::Point("assets.delete_hostkey"),
        Doc::new("Forget a host key: the next one that the asset shows is accepted and pinned"),
        forget_host_key,
    );
}

async fn favorites(call: Call) -> Answer {
    let rows = call.reader().find::<FavoriteAsset>("user", call.user.id.as_bytes())?;
    let rows: Vec<Value> = rows.iter().map(|f| json!({"id": f.id, "asset": f.asset})).collect();
    Ok(list::ok(&json!(rows)))
}

async fn star(call: Call) -> Answer {
    let body = call.json().await?;
    let asset = body.get("asset").map(|a| a.get("id").unwrap_or(a)).and_then(as_id);
    let asset = asset.ok_or_else(|| Problem::field("asset", "this field is required"))?;
    // Only what the caller reaches can be starred; anything else looks the same as what is not there.
    let found = call.reader().get::<Asset>(asset)?.filter(|a| super::perm_tree::reaches(&call, a.id));
    let found = found.ok_or_else(|| Problem::field("asset", "object does not exist"))?;
    let pair = Index::compound(&[call.user.id.as_bytes(), asset.as_bytes()]);
    let id = match call.reader().find::<FavoriteAsset>("pair", &pair)?.first() {
        Some(existing) => existing.id,
        None => {
            let id = Uuid::now_v7();
            let mut change = Change::new(&call);
            change.insert(FavoriteAsset {
                id,
                org_id: found.org_id,
                user: call.user.id,
                asset,
                date_created: call.app.now(),
            });
            change.commit().await?;
            id
        }
    };
    Ok(list::json_response(StatusCode::CREATED, &json!({"id": id, "asset": asset})))
}

async fn unstar(call: Call) -> Answer {
    let asset: Option<Uuid> = call.query.filled("asset").and_then(|a| a.parse().ok());
    let asset = asset.ok_or_else(|| Problem::field("asset", "give ?asset=id"))?;
    let pair = Index::compound(&[call.user.id.as_bytes(), asset.as_bytes()]);
    let mut change = Change::new(&call);
    for found in call.reader().find::<FavoriteAsset>("pair", &pair)? {
        change.delete::<FavoriteAsset>(found.id)?;
    }
    change.commit().await?;
    Ok(list::no_content())
}

async fn perm_users(call: Call) -> Answer {
    let asset = call.reader().get::<Asset>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let users = super::perm_tree::users_of(&call, asset.id)?;
    let rows: Vec<Value> = users.iter().map(|u| json!({"id": u.id, "name": u.name, "username": u.username})).collect();
    Ok(list::ok(&json!(rows)))
}

async fn host_keys(call: Call) -> Answer {
    let reader = call.reader();
    let asset = call.query.filled("asset").map(|a| a.parse::<Uuid>().unwrap_or(Uuid::max()));
    let mut rows = Vec::new();
    for key in reader.list::<PinnedHostKey>()?.iter().filter(|k| asset.is_none_or(|a| k.asset == a)) {
        rows.push(json!({
            "id": key.id,
            "asset": Target::Asset.show(&reader, key.asset)?,
            "port": key.port,
            "algorithm": key.algorithm,
            "fingerprint": key.fingerprint,
            "public_key": key.public_key,
            "date_pinned": crate::engine::values::show_date(key.date_pinned),
            "org_id": key.org_id,
        }));
    }
    Ok(list::ok(&json!(rows)))
}

async fn forget_host_key(call: Call) -> Answer {
    use crate::audit::{Action, Operation};
    let key = call.reader().get::<PinnedHostKey>(call.id()?)?.ok_or_else(Problem::not_found)?;
    let mut change = Change::new(&call);
    let asset = Target::Asset.name(&call.reader(), key.asset)?.unwrap_or_default();
    change.delete::<PinnedHostKey>(key.id)?;
    change.audit(
        Operation::new(Action::Delete, "Host key", format!("{asset}:{} {}", key.port, key.fingerprint), key.id)
            .org(key.org_id)
            .refs([key.asset]),
    );
    change.commit().await?;
    Ok(list::no_content())
}
