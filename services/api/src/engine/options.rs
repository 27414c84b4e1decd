//! Form metadata (`OPTIONS`), from the field table. JumpServer's UI builds its forms from this shape.

use axum::http::StatusCode;
use serde_json::{Map, Value, json};

use super::Resource;
use super::field::{Field, Kind};
use super::list::json_response;
use crate::guard::{Answer, Call};

fn type_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Secret => "string",
        Kind::Int { .. } => "integer",
        Kind::Bool => "boolean",
        Kind::DateTime => "datetime",
        Kind::Uuid => "uuid",
        Kind::Choice(_) | Kind::ChoiceInt(_) => "labeled_choice",
        Kind::Related(_) => "object_related_field",
        Kind::ManyRelated(_) => "m2m_related_field",
        Kind::Labels => "labels",
        Kind::Strings => "list",
        Kind::Json => "json",
        Kind::ManyFilter(_) => "json_m2m_field",
        Kind::Actions => "bit_choice",
    }
}

pub(crate) fn describe(field: &Field) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), json!(type_name(field.kind)));
    out.insert("required".into(), json!(field.required));
    out.insert("read_only".into(), json!(!field.writable(true)));
    out.insert("write_only".into(), json!(!field.readable()));
    out.insert("label".into(), json!(field.label));
    if !field.help.is_empty() {
        out.insert("help_text".into(), json!(field.help));
    }
    if let Some(default) = field.default {
        out.insert("default".into(), default());
    }
    match field.kind {
        Kind::Int { min, max } => {
            out.insert("min_value".into(), json!(min));
            out.insert("max_value".into(), json!(max));
        }
        Kind::Choice(choices) => {
            let choices: Vec<Value> = choices.iter().map(|(v, l)| json!({"value": v, "label": l})).collect();
            out.insert("choices".into(), Value::Array(choices));
        }
        Kind::ChoiceInt(choices) => {
            let choices: Vec<Value> =
                choices.iter().map(|(v, l)| json!({"value": v.parse::<i64>().unwrap_or(0), "label": l})).collect();
            out.insert("choices".into(), Value::Array(choices));
        }
        Kind::Actions => {
            let names = gatehouse_model::grant::Actions::NAMES;
            let choices: Vec<Value> = names.iter().map(|(_, v, l)| json!({"value": v, "label": l})).collect();
            out.insert("choices".into(), Value::Array(choices));
        }
        Kind::Related(target) | Kind::ManyRelated(target) | Kind::ManyFilter(target) => {
            out.insert("url".into(), json!(target.url()));
        }
        _ => {}
    }
    Value::Object(out)
}

pub(crate) fn options(resource: &Resource, _call: &Call) -> Answer {
    let fields = |creating: bool| -> Value {
        let chosen = resource.fields.iter().filter(|f| f.writable(creating) || f.readable());
        Value::Object(chosen.map(|f| (f.name.to_owned(), describe(f))).collect())
    };
    let mut actions = Map::new();
    actions.insert("GET".into(), fields(false));
    if resource.methods.create {
        actions.insert("POST".into(), fields(true));
    }
    if resource.methods.update {
        actions.insert("PUT".into(), fields(false));
    }
    let body = json!({
        "name": resource.label,
        "description": "",
        "renders": ["application/json", "text/csv", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"],
        "parses": ["application/json", "text/csv", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"],
        "actions": actions,
    });
    Ok(json_response(StatusCode::OK, &body))
}
