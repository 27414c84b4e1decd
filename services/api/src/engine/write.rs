//! Create, update, delete: one or many, each request one atomic change with its entries in the operation log.

use std::sync::Arc;

use axum::http::{Method, StatusCode, header};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::change::{Change, Input};
use super::field::{Field, Kind};
use super::reader::{Reader, Scope};
use super::table::Row;
use super::{Guarding, Resource, import, list, values};
use crate::audit::{self, Action, MASK, Operation};
use crate::guard::{Answer, Call};
use crate::problem::Problem;

/// Elements of one bulk request.
pub(crate) const MAX_BULK: usize = 5_000;
/// Attempts when somebody else changes the same record at the same time.
const ATTEMPTS: usize = 4;

/// Reads what was given into stored form. `complete`: required fields must be there, absent ones get their default.
pub(crate) fn read_input(
    reader: &Reader,
    fields: &[Field],
    given: &Map<String, Value>,
    creating: bool,
    complete: bool,
) -> Result<Input, Problem> {
    let mut input = Input { values: Map::new(), creating };
    let mut problem = Problem::bad_request("invalid", "the request has invalid fields");
    for field in fields.iter().filter(|f| f.writable(creating)) {
        match given.get(field.name) {
            Some(value) => match values::read(reader, field, value)? {
                Ok(value) => {
                    input.values.insert(field.name.to_owned(), value);
                }
                Err(why) => problem.fields.push((field.name.to_owned(), vec![why])),
            },
            None if complete && field.required => {
                problem.fields.push((field.name.to_owned(), vec!["this field is required".into()]));
            }
            None if creating => {
                if let Some(default) = field.default {
                    input.values.insert(field.name.to_owned(), default());
                }
            }
            None => {}
        }
    }
    if problem.fields.is_empty() { Ok(input) } else { Err(problem) }
}

/// The part of the input that is keys of the record.
fn stored_part(fields: &[Field], input: &Input) -> Map<String, Value> {
    fields
        .iter()
        .filter(|f| !f.computed && f.kind != Kind::Secret)
        .filter_map(|f| Some((f.source.to_owned(), input.values.get(f.name)?.clone())))
        .collect()
}

/// Puts stars into the diff for secrets that were given.
fn secret_lines(fields: &[Field], input: &Input) -> Vec<Value> {
    fields
        .iter()
        .filter(|f| {
            f.kind == Kind::Secret && input.values.get(f.name).and_then(Value::as_str).is_some_and(|s| !s.is_empty())
        })
        .map(|f| json!({"field": f.name, "before": MASK, "after": MASK}))
        .collect()
}

fn object(value: &Value) -> Result<&Map<String, Value>, Problem> {
    value.as_object().ok_or_else(|| Problem::field("non_field_errors", "invalid data; expected an object"))
}

fn elements(value: &Value) -> Result<&Vec<Value>, Problem> {
    let items = value.as_array().ok_or_else(|| Problem::field("non_field_errors", "expected a list of objects"))?;
    if items.len() > MAX_BULK {
        return Err(Problem::bad_request("too_many", format!("at most {MAX_BULK} elements per request")));
    }
    Ok(items)
}

impl Resource {
    /// A conflict of an index is shown at the field that people know.
    fn explain(&self, mut problem: Problem) -> Problem {
        for (field, _) in &mut problem.fields {
            if let Some((_, shown)) = self.unique.iter().find(|(index, _)| index == field) {
                *field = (*shown).to_owned();
            }
        }
        problem
    }

    pub async fn create_one(
        &self,
        change: &mut Change<'_>,
        given: &Map<String, Value>,
    ) -> Result<Box<dyn Row>, Problem> {
        let call = change.call;
        let input = read_input(&change.reader, &self.fields, given, true, true)?;
        let id = Uuid::now_v7();
        let mut stored = stored_part(&self.fields, &input);
        // What nobody may give still begins somewhere.
        for field in self.fields.iter().filter(|f| !f.computed && !f.writable(true)) {
            if let Some(default) = field.default {
                stored.insert(field.source.to_owned(), default());
            }
        }
        stored.insert("id".into(), json!(id));
        if self.in_org {
            match call.scope {
                Scope::Org(org) => stored.insert("org_id".into(), json!(org)),
                Scope::Global => {
                    return Err(Problem::bad_request(
                        "global_organization",
                        "nothing can be created in the global organization; choose one with X-JMS-ORG",
                    ));
                }
            };
        }
        if self.has_meta {
            let by = call.user.display();
            stored.insert("created_by".into(), json!(by));
            stored.insert("updated_by".into(), json!(by));
            stored.insert("date_created".into(), json!(change.now));
            stored.insert("date_updated".into(), json!(change.now));
        }
        let row = self.table.create(change, stored, &input).await?;
        let shown = self.plain(change, row.as_ref())?;
        let mut diff = audit::diff(&Map::new(), &shown);
        diff.extend(secret_lines(&self.fields, &input));
        self.log(change, Action::Create, row.as_ref(), diff);
        Ok(row)
    }

    /// `None`: not there or not visible.
    pub async fn update_one(
        &self,
        change: &mut Change<'_>,
        id: Uuid,
        given: &Map<String, Value>,
        complete: bool,
    ) -> Result<Option<Box<dyn Row>>, Problem> {
        let mut input = read_input(&change.reader, &self.fields, given, false, complete)?;
        input.creating = false;
        let mut patch = stored_part(&self.fields, &input);
        if self.has_meta {
            patch.insert("updated_by".into(), json!(change.call.user.display()));
            patch.insert("date_updated".into(), json!(change.now));
        }
        let Some((old, new)) = self.table.update(change, id, patch, &input).await? else { return Ok(None) };
        let mut diff = audit::diff(&self.plain(change, old.as_ref())?, &self.plain(change, new.as_ref())?);
        diff.extend(secret_lines(&self.fields, &input));
        self.log(change, Action::Update, new.as_ref(), diff);
        Ok(Some(new))
    }

    pub async fn delete_one(&self, change: &mut Change<'_>, id: Uuid) -> Result<bool, Problem> {
        let Some(old) = self.table.delete(change, id).await? else { return Ok(false) };
        self.log(change, Action::Delete, old.as_ref(), Vec::new());
        Ok(true)
    }

    /// The row as shown, without computed fields: what a diff compares.
    fn plain(&self, change: &Change<'_>, row: &dyn Row) -> Result<Map<String, Value>, Problem> {
        let fields: Vec<Field> = self.fields.iter().filter(|f| !f.computed).cloned().collect();
        Ok(values::show_record(&change.reader, &fields, &row.stored()?, true)?)
    }

    fn log(&self, change: &mut Change<'_>, action: Action, row: &dyn Row, diff: Vec<Value>) {
        let mut operation = Operation::new(action, self.label, row.name(), row.id()).diff(diff);
        // Changes of the whole system are seen by system auditors, not by those of the organization in the header.
        operation.org = row.org().or_else(|| {
            (self.guarding == Guarding::SystemWrite || self.guarding == Guarding::System)
                .then_some(gatehouse_model::common::org_ids::ROOT)
        });
        change.audit(operation);
    }

    pub async fn one_at_a_time(&self, call: &Call) -> Option<tokio::sync::OwnedMutexGuard<()>> {
        if self.serialised { Some(call.app.serial().await) } else { None }
    }
}

pub(crate) async fn create(resource: Arc<Resource>, call: Call) -> Answer {
    if let Some(format) = import::format_of(call.header(header::CONTENT_TYPE.as_str())) {
        return import::import(&resource, &call, format, false).await;
    }
    let body = call.json().await?;
    let _turn = resource.one_at_a_time(&call).await;
    let created = match &body {
        Value::Array(_) => Value::Array(create_many(&resource, &call, elements(&body)?).await?),
        _ => {
            let mut change = Change::new(&call);
            let row = resource.create_one(&mut change, object(&body)?).await?;
            change.commit().await.map_err(|p| resource.explain(p))?;
            let row = resource.table.load(&call, row.id())?.unwrap_or(row);
            Value::Object(list::show(&resource, &call, row.as_ref(), true)?)
        }
    };
    Ok(list::json_response(StatusCode::CREATED, &created))
}

/// All or nothing.
pub(crate) async fn create_many(resource: &Resource, call: &Call, items: &[Value]) -> Result<Vec<Value>, Problem> {
    let mut change = Change::new(call);
    let mut outcomes = Vec::with_capacity(items.len());
    let mut rows = Vec::with_capacity(items.len());
    for item in items {
        let outcome = match object(item) {
            Ok(given) => resource.create_one(&mut change, given).await,
            Err(problem) => Err(problem),
        };
        outcomes.push(outcome.map(|row| rows.push(row)));
    }
    if outcomes.iter().any(Result::is_err) {
        return Err(Problem::bulk(outcomes));
    }
    change.commit().await.map_err(|p| resource.explain(p))?;
    rows.iter().map(|row| Ok(Value::Object(list::show(resource, call, row.as_ref(), true)?))).collect()
}

pub(crate) async fn update(resource: Arc<Resource>, call: Call) -> Answer {
    let id = call.id()?;
    let body = call.json().await?;
    let given = object(&body)?;
    let complete = call.method == Method::PUT;
    let _turn = resource.one_at_a_time(&call).await;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut change = Change::new(&call);
        let Some(row) = resource.update_one(&mut change, id, given, complete).await? else {
            return Err(Problem::not_found());
        };
        match change.commit().await {
            Ok(()) => {
                let row = resource.table.load(&call, row.id())?.unwrap_or(row);
                return Ok(list::ok(&Value::Object(list::show(&resource, &call, row.as_ref(), true)?)));
            }
            Err(problem) if problem.code == "stale" && attempt < ATTEMPTS => {}
            Err(problem) => return Err(resource.explain(problem)),
        }
    }
}

pub(crate) async fn update_many(resource: Arc<Resource>, call: Call) -> Answer {
    if let Some(format) = import::format_of(call.header(header::CONTENT_TYPE.as_str())) {
        return import::import(&resource, &call, format, true).await;
    }
    let body = call.json().await?;
    let items = elements(&body)?;
    let complete = call.method == Method::PUT;
    let _turn = resource.one_at_a_time(&call).await;
    let mut change = Change::new(&call);
    let mut rows = Vec::new();
    let mut outcomes = Vec::new();
    for item in items {
        outcomes.push(match update_element(&resource, &mut change, item, complete).await {
            Ok(row) => {
                rows.push(row);
                Ok(())
            }
            Err(problem) => Err(problem),
        });
    }
    if outcomes.iter().any(Result::is_err) {
        return Err(Problem::bulk(outcomes));
    }
    change.commit().await.map_err(|p| resource.explain(p))?;
    let shown: Result<Vec<Value>, Problem> =
        rows.iter().map(|row| Ok(Value::Object(list::show(&resource, &call, row.as_ref(), true)?))).collect();
    Ok(list::ok(&Value::Array(shown?)))
}

async fn update_element(
    resource: &Resource,
    change: &mut Change<'_>,
    item: &Value,
    complete: bool,
) -> Result<Box<dyn Row>, Problem> {
    let given = object(item)?;
    let id = ["id", "pk"].iter().find_map(|key| given.get(*key).and_then(values::as_id));
    let id = id.ok_or_else(|| Problem::field("id", "this field is required"))?;
    let updated = resource.update_one(change, id, given, complete).await?;
    updated.ok_or_else(|| Problem::field("id", "object does not exist"))
}

pub(crate) async fn delete(resource: Arc<Resource>, call: Call) -> Answer {
    let id = call.id()?;
    let _turn = resource.one_at_a_time(&call).await;
    let mut change = Change::new(&call);
    if !resource.delete_one(&mut change, id).await? {
        return Err(Problem::not_found());
    }
    change.commit().await?;
    Ok(list::no_content())
}

/// Only with `?spm=`: a list without a filter is never deleted by accident.
pub(crate) async fn delete_many(resource: Arc<Resource>, call: Call) -> Answer {
    let Some(key) = call.query.filled("spm") else {
        return Err(Problem::bad_request(
            "spm_required",
            "post the ids to /api/v1/common/resources/cache/ and give its spm key here",
        ));
    };
    let Some(ids) = call.app.spm(key, call.user.id) else {
        return Err(Problem::bad_request("spm_expired", "this spm key is not known any more; post the ids again"));
    };
    let _turn = resource.one_at_a_time(&call).await;
    let mut change = Change::new(&call);
    for id in ids {
        // What is gone already is what was asked for.
        resource.delete_one(&mut change, id).await?;
    }
    change.commit().await?;
    Ok(list::no_content())
}
