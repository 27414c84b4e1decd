//! Lists and single rows, in JumpServer's envelope.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};

use super::plan::Plan;
use super::table::Row;
use super::{Resource, export, values};
use crate::guard::{Answer, Call};
use crate::problem::Problem;

pub(crate) const QUERY: &[(&str, &str)] = &[
    ("limit", "rows of a page, at most 1000; without it the answer is an array of at most 200 rows"),
    ("offset", "rows to skip"),
    ("order", "field to sort by; -field descends"),
    ("search", "words that the row must contain"),
    ("format", "csv or xlsx instead of JSON"),
];

pub(crate) fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn ok(value: &Value) -> Response<Body> {
    json_response(StatusCode::OK, value)
}

pub(crate) fn no_content() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

pub(crate) fn show(
    resource: &Resource,
    call: &Call,
    row: &dyn Row,
    detail: bool,
) -> Result<Map<String, Value>, Problem> {
    let stored = row.stored()?;
    let mut out = values::show_record(&call.reader(), &resource.fields, &stored, detail)?;
    if let Some(org) = row.org()
        && out.contains_key("org_name")
    {
        let name = super::related::Target::Organization.name(&call.reader(), org)?;
        out.insert("org_name".into(), Value::from(name.unwrap_or_default()));
    }
    row.show(call, &mut out, detail)?;
    Ok(out)
}

pub(crate) async fn list(resource: Arc<Resource>, call: Call) -> Answer {
    if let Some(format) = call.query.filled("format").filter(|f| *f != "json") {
        let format = super::sheet::Format::named(format)?;
        return match call.query.filled("template") {
            Some(template) => export::template(&resource, format, template),
            None => export::export(&resource, &call, format).await,
        };
    }
    let plan = Plan::parse(&call, &resource)?;
    let selection = resource.table.select(&call, &plan)?;
    let mut rows = Vec::with_capacity(selection.rows.len());
    for row in &selection.rows {
        rows.push(Value::Object(show(&resource, &call, row.as_ref(), false)?));
    }
    Ok(ok(&if plan.paged {
        envelope(&call, plan.limit, plan.offset, selection.count, &rows)
    } else {
        Value::Array(rows)
    }))
}

/// `{count, next, previous, results}`.
pub(crate) fn envelope(call: &Call, limit: usize, offset: usize, count: usize, rows: &[Value]) -> Value {
    let at = |offset: usize| {
        let query = call.query.with(&[("limit", limit.to_string()), ("offset", offset.to_string())]);
        format!("{}{}?{query}", base_url(call), call.uri.path())
    };
    let next = (offset.saturating_add(limit) < count).then(|| at(offset.saturating_add(limit)));
    let previous = (offset > 0).then(|| at(offset.saturating_sub(limit)));
    json!({"count": count, "next": next, "previous": previous, "results": rows})
}

/// Links go back to where the client came from. A `Host` that is not a host name is not repeated (the answer is the
/// caller's own and never cached, so an odd but well-formed one harms only its sender).
pub(crate) fn base_url(call: &Call) -> String {
    let host = call.header("host").or_else(|| call.uri.authority().map(axum::http::uri::Authority::as_str));
    match host {
        Some(h) if h.len() < 256 && h.chars().all(|c| c.is_ascii_alphanumeric() || "-._:[]".contains(c)) => {
            format!("https://{h}")
        }
        _ => String::new(),
    }
}

pub(crate) async fn retrieve(resource: Arc<Resource>, call: Call) -> Answer {
    let row = resource.table.load(&call, call.id()?)?.ok_or_else(Problem::not_found)?;
    Ok(ok(&Value::Object(show(&resource, &call, row.as_ref(), true)?)))
}
