//! `assets/zones`: networks that are reached through gateways (S15).

use async_trait::async_trait;
use gatehouse_model::asset::{Asset, Zone};
use gatehouse_model::builtin;
use gatehouse_model::common::{Invalid, Validate};
use serde_json::{Map, Value, json};

use crate::engine::Resource;
use crate::engine::change::{Change, Input};
use crate::engine::field::{self, int, many, text};
use crate::engine::related::Target;
use crate::engine::table::Hooks;
use crate::guard::Call;
use crate::problem::Problem;

struct Zones;

#[async_trait]
impl Hooks<Zone> for Zones {
    fn validate(&self, row: &Zone) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Zone) -> String {
        row.name.clone()
    }

    fn show(&self, call: &Call, row: &Zone, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        let assets = call.reader().list::<Asset>()?;
        let gateway = builtin::gateway_platform_id();
        let inside = || assets.iter().filter(|a| a.zone == Some(row.id));
        let named = |a: &std::sync::Arc<Asset>| json!({"id": a.id, "name": a.name});
        let gateways: Vec<Value> = inside().filter(|a| a.platform == gateway).map(named).collect();
        out.insert("assets_amount".into(), json!(inside().count() - gateways.len()));
        out.insert("gateways".into(), json!(gateways));
        if detail {
            let members: Vec<Value> = inside().filter(|a| a.platform != gateway).map(named).collect();
            out.insert("assets".into(), json!(members));
        }
        Ok(())
    }

    async fn before_save(
        &self,
        change: &mut Change<'_>,
        new: &mut Zone,
        _: Option<&Zone>,
        input: &Input,
    ) -> Result<(), Problem> {
        let Some(wanted) = input.ids("assets") else { return Ok(()) };
        change.call.require("assets.change_asset")?;
        let (zone, gateway) = (new.id, builtin::gateway_platform_id());
        for asset in change.list::<Asset>()? {
            let (is, should) = (asset.zone == Some(zone), wanted.contains(&asset.id));
            if should && !is {
                change.edit::<Asset>(asset.id, |a| a.zone = Some(zone))?;
            } else if is && !should && asset.platform != gateway {
                change.edit::<Asset>(asset.id, |a| a.zone = None)?;
            }
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Zone) -> Result<(), Problem> {
        let assets = change.list::<Asset>()?;
        match assets.iter().filter(|a| a.zone == Some(row.id)).count() {
            0 => Ok(()),
            // Without its gateways an asset would be dialled directly, which is not what its zone says.
            n => Err(Problem::bad_request("zone_in_use", format!("the zone still has {n} assets; move them first"))),
        }
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        many("assets", "Assets", Target::Asset).through_hooks().detail_only(),
        many("gateways", "Gateways", Target::Asset).computed().no_export(),
        int("assets_amount", "Assets amount", 0, i64::MAX).computed(),
    ];
    fields.extend(field::org());
    fields.extend(field::labelled_meta());
    vec![Resource::new::<Zone, Zones>("assets", "zones", "zone", "Zone", fields, Zones)]
}
