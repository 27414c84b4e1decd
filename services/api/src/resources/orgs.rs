//! `orgs/orgs`: organizations, which isolate everything (O12).

use async_trait::async_trait;
use gatehouse_model::asset::{Asset, Node};
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate, org_ids};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::org::{Organization, Role};
use gatehouse_model::user::{User, UserGroup};
use serde_json::{Map, Value, json};

use crate::engine::change::{Change, Input};
use crate::engine::field::{self, boolean, json as json_field, text};
use crate::engine::reader::{Reader, Scope};
use crate::engine::table::Hooks;
use crate::engine::{Guarding, Resource, list};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

struct Orgs;

#[async_trait]
impl Hooks<Organization> for Orgs {
    fn validate(&self, row: &Organization) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Organization) -> String {
        row.name.clone()
    }

    fn show(&self, call: &Call, row: &Organization, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        out.insert("is_root".into(), json!(row.id == org_ids::ROOT));
        out.insert("is_default".into(), json!(row.id == org_ids::DEFAULT));
        if detail {
            let reader = Reader::new(call.app.store(), Scope::Org(row.id));
            let users = reader.list::<User>()?.iter().filter(|u| u.is_member_of(row.id)).count();
            out.insert(
                "resource_statistics".into(),
                json!({
                    "users_amount": users,
                    "groups_amount": reader.list::<UserGroup>()?.len(),
                    "assets_amount": reader.list::<Asset>()?.len(),
                    "nodes_amount": reader.list::<Node>()?.len(),
                    "asset_perms_amount": reader.list::<AssetPermission>()?.len(),
                }),
            );
        }
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Organization,
        old: Option<&Organization>,
        _: &Input,
    ) -> Result<(), Problem> {
        match old {
            // The tree of an organization begins with its name.
            None => change.insert(builtin::root_node(new)),
            Some(old) if old.name != new.name => super::nodes::rename_root(change, new)?,
            Some(_) => {}
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Organization) -> Result<(), Problem> {
        let refuse = |why: String| Err(Problem::bad_request("organization_in_use", why));
        if row.builtin || [org_ids::ROOT, org_ids::DEFAULT, org_ids::SYSTEM].contains(&row.id) {
            return refuse("this organization is part of the system and cannot be deleted".into());
        }
        let reader = Reader::new(change.call.app.store(), Scope::Org(row.id));
        let members = reader.list::<User>()?.iter().filter(|u| u.is_member_of(row.id)).count();
        if members > 0 {
            return refuse(format!("the organization still has {members} users; remove them first"));
        }
        for (what, count) in [
            ("assets", reader.list::<Asset>()?.len()),
            ("user groups", reader.list::<UserGroup>()?.len()),
            ("asset permissions", reader.list::<AssetPermission>()?.len()),
            ("zones", reader.list::<gatehouse_model::asset::Zone>()?.len()),
            ("labels", reader.list::<gatehouse_model::org::Label>()?.len()),
            ("account templates", reader.list::<gatehouse_model::account::AccountTemplate>()?.len()),
            ("asset login rules", reader.list::<gatehouse_model::rules::AssetLoginRule>()?.len()),
            ("command filters", reader.list::<gatehouse_model::rules::CommandFilter>()?.len()),
            ("command groups", reader.list::<gatehouse_model::rules::CommandGroup>()?.len()),
        ] {
            if count > 0 {
                return refuse(format!("the organization still has {count} {what}; delete them first"));
            }
        }
        for node in reader.list::<Node>()? {
            change.everywhere(|change| change.delete::<Node>(node.id))?;
        }
        Ok(())
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        boolean("builtin", "Builtin").read_only(),
        boolean("is_root", "Is root").computed(),
        boolean("is_default", "Is default").computed(),
        json_field("resource_statistics", "Resource statistics").computed().detail_only().no_export(),
    ];
    fields.extend(field::meta());
    vec![
        Resource::new::<Organization, Orgs>("orgs", "orgs", "organization", "Organization", fields, Orgs)
            .guarding(Guarding::System)
            .serialised(),
    ]
}

pub(crate) fn routes(routes: &mut Routes) {
    routes.get("/api/v1/orgs/orgs/current/", Need::Me, Doc::new("Organization of this request"), current);
    routes.get("/api/v1/orgs/mine/", Need::Me, Doc::new("Organizations that the caller can choose"), mine);
}

async fn current(call: Call) -> Answer {
    let id = call.scope.id();
    let name = if id == org_ids::ROOT {
        "Global".to_owned()
    } else {
        call.reader().get::<Organization>(id)?.map_or_else(String::new, |o| o.name.clone())
    };
    let body = json!({"id": id, "name": name, "is_root": id == org_ids::ROOT, "is_default": id == org_ids::DEFAULT});
    Ok(list::ok(&body))
}

async fn mine(call: Call) -> Answer {
    let roles = call.reader().list::<Role>()?;
    let everywhere = gatehouse_model::permission::allowed(&call.user, &roles, org_ids::ROOT, "orgs.view_rootorg");
    let orgs = call.reader().list::<Organization>()?;
    let own = orgs.iter().filter(|o| everywhere || call.user.is_member_of(o.id));
    let mut rows: Vec<Value> = own.map(|o| json!({"id": o.id, "name": o.name})).collect();
    if everywhere {
        rows.insert(0, json!({"id": org_ids::ROOT, "name": "Global"}));
    }
    Ok(list::ok(&json!(rows)))
}
