//! `assets/platforms`, `categories`, `protocols` (S16). Built-in platforms are cloned, not changed.

use async_trait::async_trait;
use gatehouse_model::account::AccountTemplate;
use gatehouse_model::asset::{Asset, Category, Charset, Platform, PlatformType, SuMethod};
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate};
use serde_json::{Map, Value, json};

use crate::engine::change::{Change, Input};
use crate::engine::field::{self, boolean, choice, int, json as json_field, text};
use crate::engine::table::Hooks;
use crate::engine::{Guarding, Resource, list};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

struct Platforms;

fn internal_refused(platform: &Platform) -> Result<(), Problem> {
    if platform.internal {
        return Err(Problem::bad_request(
            "builtin",
            "built-in platforms cannot be changed or deleted; clone one instead",
        ));
    }
    Ok(())
}

#[async_trait]
impl Hooks<Platform> for Platforms {
    fn validate(&self, row: &Platform) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Platform) -> String {
        row.name.clone()
    }

    fn show(&self, call: &Call, row: &Platform, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        if detail {
            let assets = call.reader().list::<Asset>()?;
            let count = assets.iter().filter(|a| a.platform == row.id).count();
            out.insert("assets_amount".into(), json!(count));
        }
        Ok(())
    }

    async fn before_save(
        &self,
        _: &mut Change<'_>,
        new: &mut Platform,
        old: Option<&Platform>,
        _: &Input,
    ) -> Result<(), Problem> {
        if let Some(old) = old {
            internal_refused(old)?;
        }
        new.internal = false;
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Platform) -> Result<(), Problem> {
        internal_refused(row)?;
        let id = row.id;
        let assets = change.everywhere(|c| Ok(c.list::<Asset>()?.iter().filter(|a| a.platform == id).count()))?;
        if assets > 0 {
            return Err(Problem::bad_request("platform_in_use", format!("{assets} assets are of this platform")));
        }
        change.everywhere(|change| {
            for template in change.list::<AccountTemplate>()?.iter().filter(|t| t.platforms.contains(&id)) {
                change.edit::<AccountTemplate>(template.id, |t| t.platforms.retain(|p| *p != id))?;
            }
            Ok(())
        })
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        choice("category", "Category", Category::CHOICES).required(),
        choice("type", "Type", PlatformType::CHOICES).required(),
        boolean("internal", "Internal").read_only(),
        choice("charset", "Charset", Charset::CHOICES).default(|| json!("utf-8")),
        boolean("gateway_enabled", "Gateway enabled").default(|| json!(true)),
        boolean("ds_enabled", "Directory service enabled").default(|| json!(false)),
        boolean("su_enabled", "Su enabled").default(|| json!(false)),
        choice("su_method", "Su method", SuMethod::CHOICES).nullable(),
        json_field("protocols", "Protocols").required(),
        json_field("automation", "Automation").default(|| json!({})).detail_only(),
        json_field("custom_fields", "Custom fields").default(|| json!([])).detail_only(),
        int("assets_amount", "Assets amount", 0, i64::MAX).computed().detail_only(),
    ];
    fields.extend(field::labelled_meta());
    vec![
        Resource::new::<Platform, Platforms>("assets", "platforms", "platform", "Platform", fields, Platforms)
            .guarding(Guarding::SystemWrite),
    ]
}

pub(crate) fn routes(routes: &mut Routes) {
    routes.get(
        "/api/v1/assets/categories/",
        Need::Point("assets.view_category"),
        Doc::new("Categories and types"),
        categories,
    );
    routes.get(
        "/api/v1/assets/protocols/",
        Need::Point("assets.view_protocol"),
        Doc::new("Protocols and default ports"),
        protocols,
    );
}

async fn categories(call: Call) -> Answer {
    let platforms = call.reader().list::<Platform>()?;
    let rows: Vec<Value> = Category::ALL
        .iter()
        .map(|category| {
            let mut types: Vec<PlatformType> =
                platforms.iter().filter(|p| p.category == *category).map(|p| p.r#type).collect();
            types.sort();
            types.dedup();
            let types: Vec<Value> = types.iter().map(|t| json!({"value": t.as_str(), "label": t.label()})).collect();
            json!({"value": category.as_str(), "label": category.label(), "types": types})
        })
        .collect();
    Ok(list::ok(&json!(rows)))
}

async fn protocols(_: Call) -> Answer {
    let rows: Vec<Value> = builtin::PROTOCOL_NAMES
        .iter()
        .filter_map(|name| Some(json!({"name": name, "port": builtin::protocol(name)?.port})))
        .collect();
    Ok(list::ok(&json!(rows)))
}
