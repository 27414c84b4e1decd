//! Spreadsheets as changes: each row is an element of a bulk create or update, and all of it happens or none.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use super::change::Change;
use super::field::{Field, Kind};
use super::sheet::{self, Format, Sheet, XLSX_TYPE};
use super::{Resource, export, list, values};
use crate::guard::{Answer, Call, IMPORT_LIMIT, Need};
use crate::problem::Problem;

pub(crate) fn format_of(content_type: Option<&str>) -> Option<Format> {
    let kind = content_type?.split(';').next()?.trim();
    match kind {
        "text/csv" => Some(Format::Csv),
        XLSX_TYPE | "text/xlsx" => Some(Format::Xlsx),
        _ => None,
    }
}

pub(crate) async fn import(resource: &Resource, call: &Call, format: Format, updating: bool) -> Answer {
    let bytes = call.bytes(IMPORT_LIMIT).await?;
    let sheet = tokio::task::spawn_blocking(move || sheet::read(format, &bytes)).await;
    let sheet = sheet.map_err(|e| Problem::internal(&e))??;
    let rows = objects(resource, &sheet)?;
    // Rows of an update without an id are new ones, and to make those is another permission.
    if updating && rows.iter().any(|row| !row.contains_key("id")) {
        match resource.need("add") {
            _ if !resource.methods.create => return Err(Problem::field("id", "each row needs its id")),
            Need::Me => {}
            Need::Point(point) => call.require(point)?,
            Need::System(point) => crate::auth::require_system(call, point)?,
        }
    }
    let _turn = resource.one_at_a_time(call).await;
    let mut change = Change::new(call);
    let mut outcomes = Vec::with_capacity(rows.len());
    let mut done = Vec::with_capacity(rows.len());
    for row in &rows {
        let id = row.get("id").and_then(values::as_id);
        let outcome = match (updating, id, row.contains_key("id")) {
            (true, Some(id), _) => match resource.update_one(&mut change, id, row, false).await {
                Ok(Some(row)) => Ok(row),
                Ok(None) => Err(Problem::field("id", "object does not exist")),
                Err(problem) => Err(problem),
            },
            (true, None, true) => Err(Problem::field("id", "must be a valid UUID")),
            _ => resource.create_one(&mut change, row).await,
        };
        outcomes.push(outcome.map(|row| done.push(row)));
    }
    if outcomes.iter().any(Result::is_err) {
        return Err(Problem::bulk(outcomes));
    }
    change.commit().await?;
    let shown: Result<Vec<Value>, Problem> =
        done.iter().map(|row| Ok(Value::Object(list::show(resource, call, row.as_ref(), true)?))).collect();
    Ok(list::json_response(if updating { StatusCode::OK } else { StatusCode::CREATED }, &Value::Array(shown?)))
}

/// Finds the field of a column: by heading (`*Name(name)`), by label, or by the field's own name.
fn field_of<'r>(resource: &'r Resource, heading: &str) -> Option<&'r Field> {
    let heading = heading.trim().trim_start_matches('*');
    let inside = heading.rsplit_once('(').map(|(_, name)| name.trim_end_matches(')'));
    let by_name = |name: &str| resource.fields.iter().find(|f| f.name == name);
    by_name(heading).or_else(|| inside.and_then(by_name)).or_else(|| {
        resource.fields.iter().find(|f| f.label == heading || export::heading(f).trim_start_matches('*') == heading)
    })
}

fn objects(resource: &Resource, sheet: &Sheet) -> Result<Vec<Map<String, Value>>, Problem> {
    let mut columns = Vec::with_capacity(sheet.header.len());
    for heading in &sheet.header {
        match field_of(resource, heading) {
            Some(field) => columns.push(field),
            None => return Err(Problem::field(heading, "this column is not a field; see the template")),
        }
    }
    let mut out = Vec::with_capacity(sheet.rows.len());
    for row in &sheet.rows {
        let mut object = Map::new();
        for (field, cell) in columns.iter().zip(row).filter(|(_, cell)| !cell.is_empty()) {
            let value = match field.kind {
                Kind::Json => serde_json::from_str(cell).unwrap_or_else(|_| Value::from(cell.as_str())),
                _ => Value::from(cell.as_str()),
            };
            object.insert(field.name.to_owned(), value);
        }
        out.push(object);
    }
    Ok(out)
}
