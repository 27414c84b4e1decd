//! `labels/labels` (S14). Deleting a label takes it off everything.

use async_trait::async_trait;
use gatehouse_model::account::{Account, AccountTemplate};
use gatehouse_model::asset::{Asset, Zone};
use gatehouse_model::common::{Invalid, Validate};
use gatehouse_model::grant::AssetPermission;
use gatehouse_model::org::Label;
use gatehouse_model::user::{User, UserGroup};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::engine::Resource;
use crate::engine::change::Change;
use crate::engine::field::{self, int, text};
use crate::engine::table::Hooks;
use crate::guard::Call;
use crate::problem::Problem;

struct Labels;

macro_rules! each_labelled {
    ($do:ident!($($arg:tt)*)) => {
        $do!(Account, $($arg)*); $do!(AccountTemplate, $($arg)*); $do!(Asset, $($arg)*); $do!(AssetPermission, $($arg)*);
        $do!(User, $($arg)*); $do!(UserGroup, $($arg)*); $do!(Zone, $($arg)*);
    };
}

#[async_trait]
impl Hooks<Label> for Labels {
    fn validate(&self, row: &Label) -> Result<(), Invalid> {
        row.validate()
    }

    fn name(&self, row: &Label) -> String {
        format!("{}:{}", row.name, row.value)
    }

    fn show(&self, call: &Call, row: &Label, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        if detail {
            let reader = call.reader();
            let mut count = 0;
            macro_rules! tally {
                ($t:ty, $id:expr) => {
                    count += reader.list::<$t>()?.iter().filter(|r| r.meta.labels.contains(&$id)).count();
                };
            }
            each_labelled!(tally!(row.id));
            out.insert("res_count".into(), json!(count));
        }
        Ok(())
    }

    async fn before_delete(&self, change: &mut Change<'_>, row: &Label) -> Result<(), Problem> {
        let id: Uuid = row.id;
        macro_rules! take_off {
            ($t:ty, $change:expr) => {
                for record in $change.list::<$t>()?.iter().filter(|r| r.meta.labels.contains(&id)) {
                    $change.edit::<$t>(record.id, |r| r.meta.labels.retain(|l| *l != id))?;
                }
            };
        }
        each_labelled!(take_off!(change));
        Ok(())
    }
}

pub(crate) fn resources() -> Vec<Resource> {
    let mut fields = vec![
        field::id(),
        text("name", "Name").required(),
        text("value", "Value").required(),
        text("color", "Color").default(|| json!("")),
        int("res_count", "Resource count", 0, i64::MAX).computed().detail_only(),
    ];
    fields.extend(field::org());
    fields.extend(field::meta());
    vec![
        Resource::new::<Label, Labels>("labels", "labels", "label", "Label", fields, Labels)
            .search(&["name", "value", "comment"])
            .unique(&[("pair", "value")]),
    ]
}
