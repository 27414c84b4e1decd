//! Rows as spreadsheets, and the empty spreadsheets that people fill in for an import.

use serde_json::{Map, Value};

use super::field::{Field, Kind};
use super::plan::Plan;
use super::sheet::{self, Format, Sheet};
use super::{Resource, list};
use crate::audit::{self, Action, Operation};
use crate::guard::{Answer, Call};
use crate::problem::Problem;

/// Rows of one export.
const MAX_EXPORT: usize = 50_000;

/// How a column is headed; imports read it back. Required fields carry a star, as in JumpServer.
pub(crate) fn heading(field: &Field) -> String {
    format!("{}{}({})", if field.required { "*" } else { "" }, field.label, field.name)
}

/// The text of a shown value, in a form that an import reads.
pub(crate) fn cell(kind: Kind, shown: &Value) -> String {
    let name_and_id = |v: &Value| match (v.get("name").and_then(Value::as_str), v.get("id").and_then(Value::as_str)) {
        (Some(name), Some(id)) => format!("{name}({id})"),
        _ => plain(v),
    };
    match kind {
        Kind::Choice(_) | Kind::ChoiceInt(_) => match (shown.get("label"), shown.get("value")) {
            (Some(label), Some(value)) => format!("{}({})", plain(label), plain(value)),
            _ => plain(shown),
        },
        Kind::Related(_) => name_and_id(shown),
        Kind::ManyRelated(_) => {
            let items: Vec<Value> =
                shown.as_array().into_iter().flatten().map(|v| Value::from(name_and_id(v))).collect();
            Value::Array(items).to_string()
        }
        Kind::Actions => {
            let items = shown.as_array().into_iter().flatten();
            Value::Array(items.filter_map(|v| v.get("value").cloned()).collect()).to_string()
        }
        _ => plain(shown),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

fn columns(resource: &Resource) -> Vec<&Field> {
    resource.fields.iter().filter(|f| f.readable() && f.export).collect()
}

pub(crate) async fn export(resource: &Resource, call: &Call, format: Format) -> Answer {
    let mut plan = Plan::parse(call, resource)?;
    if !plan.paged {
        plan.limit = MAX_EXPORT;
    }
    let selection = resource.table.select(call, &plan)?;
    if !plan.paged && selection.count > MAX_EXPORT {
        return Err(Problem::bad_request(
            "too_many",
            format!(
                "{} rows match, an export has at most {MAX_EXPORT}; filter, or use limit and offset",
                selection.count
            ),
        ));
    }
    let columns = columns(resource);
    let mut rows = Vec::with_capacity(selection.rows.len());
    for row in &selection.rows {
        let shown: Map<String, Value> = list::show(resource, call, row.as_ref(), true)?;
        rows.push(columns.iter().map(|f| cell(f.kind, shown.get(f.name).unwrap_or(&Value::Null))).collect());
    }
    let sheet = Sheet { header: columns.iter().map(|f| heading(f)).collect(), rows };
    let rows = sheet.rows.len();
    let bytes = tokio::task::spawn_blocking(move || sheet::write(format, &sheet)).await;
    let bytes = bytes.map_err(|e| Problem::internal(&e))??;
    let what = format!("{} {rows} rows", resource.route);
    audit::record(call, Operation::new(Action::Export, resource.label, what, call.user.id)).await?;
    sheet::response(format, resource.route, bytes)
}

/// `import`: what can be given for a new row. `update`: the same with the id first.
pub(crate) fn template(resource: &Resource, format: Format, template: &str) -> Answer {
    let creating = match template {
        "import" => true,
        "update" => false,
        _ => return Err(Problem::field("template", "import or update")),
    };
    let id = resource.fields.iter().filter(|f| f.name == "id" && !creating);
    let writable = resource.fields.iter().filter(|f| f.writable(creating) && f.name != "id");
    let header = id.chain(writable).map(heading).collect();
    let bytes = sheet::write(format, &Sheet { header, rows: Vec::new() })?;
    sheet::response(format, &format!("{}-{template}", resource.route), bytes)
}
