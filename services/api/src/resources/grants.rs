//! `perms/asset-permissions` (Z01-Z11).

use async_trait::async_trait;
use gatehouse_model::asset::Node;
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate, far_future};
use gatehouse_model::grant::{Actions, AssetPermission};
use gatehouse_model::user::UserGroup;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::engine::Resource;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, Field, Kind, boolean, datetime, many, strings, text};
use crate::engine::related::Target;
use crate::engine::table::{Hooks, Predicate};
use crate::guard::Call;
use crate::problem::Problem;

struct Grants;

#[async_trait]
impl Hooks<AssetPermission> for Grants {
    fn validate(&self, row: &AssetPermission) -> Result<(), Invalid> {
        let mut invalid = row.validate().err().unwrap_or_default();
        for protocol in &row.protocols {
            let known = protocol == "all" || builtin::PROTOCOL_NAMES.contains(&protocol.as_str());
            invalid.check(known, "protocols", format!("there is no protocol \"{protocol}\""));
        }
        invalid.into_result()
    }

    fn name(&self, row: &AssetPermission) -> String {
        row.name.clone()
    }

    fn filter(&self, call: &Call, name: &str, value: &str) -> Result<Option<Predicate<AssetPermission>>, Problem> {
        let id = value.parse::<Uuid>().unwrap_or_else(|_| Uuid::max());
        Ok(match name {
            "user_id" | "user" => {
                let groups: Vec<Uuid> = if call.query.flag("all") || call.query.get("all").is_none() {
                    call.reader().list::<UserGroup>()?.iter().filter(|g| g.users.contains(&id)).map(|g| g.id).collect()
                } else {
                    Vec::new()
                };
                Some(Box::new(move |p| p.users.contains(&id) || p.user_groups.iter().any(|g| groups.contains(g))))
            }
            "user_group_id" | "user_group" => Some(Box::new(move |p| p.user_groups.contains(&id))),
            "asset_id" | "asset" => {
                let mut above: Vec<Uuid> = Vec::new();
                if let Some(asset) = call.reader().get::<gatehouse_model::asset::Asset>(id)? {
                    let nodes = call.reader().list::<Node>()?;
                    let own: Vec<_> = nodes.iter().filter(|n| asset.nodes.contains(&n.id)).collect();
                    above.extend(nodes.iter().filter(|n| own.iter().any(|o| n.contains(&o.key))).map(|n| n.id));
                }
                Some(Box::new(move |p| p.assets.contains(&id) || p.nodes.iter().any(|n| above.contains(n))))
            }
            "node_id" | "node" => Some(Box::new(move |p| p.nodes.contains(&id))),
            "is_valid" => {
                let (now, wanted) = (call.app.now(), matches!(value, "1" | "true" | "True"));
                Some(Box::new(move |p| p.is_valid(now) == wanted))
            }
            "is_expired" => {
                let (now, wanted) = (call.app.now(), matches!(value, "1" | "true" | "True"));
                Some(Box::new(move |p| (p.date_expired <= now) == wanted))
            }
            _ => None,
        })
    }

    fn show(&self, call: &Call, row: &AssetPermission, out: &mut Map<String, Value>, _: bool) -> Result<(), Problem> {
        let now = call.app.now();
        out.insert("is_valid".into(), json!(row.is_valid(now)));
        out.insert("is_expired".into(), json!(row.date_expired <= now));
        for (key, count) in [
            ("users_amount", row.users.len()),
            ("user_groups_amount", row.user_groups.len()),
            ("assets_amount", row.assets.len()),
            ("nodes_amount", row.nodes.len()),
        ] {
            out.insert(key.into(), json!(count));
        }
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut AssetPermission,
        old: Option<&AssetPermission>,
        _: &Input,
    ) -> Result<(), Problem> {
        if old.is_none() && new.date_start < change.now - chrono::TimeDelta::days(36_500) {
            return Err(Problem::field("date_start", "this is more than a hundred years ago"));
        }
        Ok(())
    }
}

fn amount(name: &'static str, label: &'static str) -> Field {
    field::int(name, label, 0, i64::MAX).computed().no_export()
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        many("users", "Users", Target::User).default(|| json!([])),
        many("user_groups", "User groups", Target::UserGroup).default(|| json!([])),
        many("assets", "Assets", Target::Asset).default(|| json!([])),
        many("nodes", "Nodes", Target::Node).default(|| json!([])),
        strings("accounts", "Accounts")
            .default(|| json!([]))
            .help("user names and @ALL, @SPEC, @INPUT, @USER, @ANON; !name excludes"),
        strings("protocols", "Protocols").default(|| json!(["all"])),
        Field::new("actions", "Actions", Kind::Actions).default(|| json!(Actions::CONNECT.bits())),
        datetime("date_start", "Date start").default(|| json!(chrono::Utc::now())),
        datetime("date_expired", "Date expired").default(|| json!(far_future(chrono::Utc::now()))),
        boolean("is_active", "Active").default(|| json!(true)),
        boolean("is_valid", "Valid").computed(),
        boolean("is_expired", "Expired").computed(),
        boolean("from_ticket", "From ticket").read_only(),
        amount("users_amount", "Users amount"),
        amount("user_groups_amount", "User groups amount"),
        amount("assets_amount", "Assets amount"),
        amount("nodes_amount", "Nodes amount"),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    vec![
        Resource::new::<AssetPermission, Grants>(
            "perms",
            "asset-permissions",
            "assetpermission",
            "Asset permission",
            fields,
            Grants,
        )
        .filters(&[
            "user_id",
            "user",
            "user_group_id",
            "user_group",
            "asset_id",
            "asset",
            "node_id",
            "node",
            "is_valid",
            "is_expired",
            "all",
        ]),
    ]
}
