//! The OpenAPI 3.1 document, made from the route registry and the field tables: what is documented is what is there.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::Resource;
use super::field::{Choices, Field, Kind};
use crate::guard::{Need, Route};

pub(crate) fn page_of(schema: &Value) -> Value {
    json!({
        "oneOf": [
            {
                "type": "object",
                "required": ["count", "results"],
                "properties": {
                    "count": {"type": "integer"},
                    "next": {"type": ["string", "null"], "format": "uri"},
                    "previous": {"type": ["string", "null"], "format": "uri"},
                    "results": {"type": "array", "items": schema}
                }
            },
            {"type": "array", "items": schema}
        ]
    })
}

fn choice(choices: Choices, number: bool) -> Value {
    let value = if number {
        json!({"type": "integer", "enum": choices.iter().filter_map(|(v, _)| v.parse::<i64>().ok()).collect::<Vec<_>>()})
    } else {
        json!({"type": "string", "enum": choices.iter().map(|(v, _)| *v).collect::<Vec<_>>()})
    };
    json!({"type": "object", "properties": {"value": value, "label": {"type": "string"}}, "required": ["value"]})
}

fn schema_of(field: &Field) -> Value {
    let named = || json!({"$ref": "#/components/schemas/Named"});
    let mut schema = match field.kind {
        Kind::Text => json!({"type": "string"}),
        Kind::Secret => json!({"type": "string", "format": "password"}),
        Kind::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::DateTime => json!({"type": "string", "examples": ["2026/01/31 12:00:00 +0000"]}),
        Kind::Uuid => json!({"type": "string", "format": "uuid"}),
        Kind::Choice(choices) => choice(choices, false),
        Kind::ChoiceInt(choices) => choice(choices, true),
        Kind::Related(_) => named(),
        Kind::ManyRelated(_) => json!({"type": "array", "items": named()}),
        Kind::Labels | Kind::Strings => json!({"type": "array", "items": {"type": "string"}}),
        Kind::Json => json!({}),
        Kind::ManyFilter(_) => json!({"$ref": "#/components/schemas/ManyFilter"}),
        Kind::Actions => json!({"type": "array", "items": {"$ref": "#/components/schemas/Choice"}}),
    };
    if field.nullable {
        schema = json!({"anyOf": [schema, {"type": "null"}]});
    }
    if let Some(map) = schema.as_object_mut() {
        map.insert("title".into(), json!(field.label));
        if !field.help.is_empty() {
            map.insert("description".into(), json!(field.help));
        }
        if !field.readable() {
            map.insert("writeOnly".into(), json!(true));
        } else if !field.writable(true) {
            map.insert("readOnly".into(), json!(true));
        }
    }
    schema
}

fn resource_schema(resource: &Resource) -> Value {
    let properties: Map<String, Value> = resource.fields.iter().map(|f| (f.name.to_owned(), schema_of(f))).collect();
    let required: Vec<&str> = resource.fields.iter().filter(|f| f.required).map(|f| f.name).collect();
    json!({"type": "object", "title": resource.label, "properties": properties, "required": required})
}

fn operation(route: &Route) -> Value {
    let mut parameters: Vec<Value> = route
        .path
        .split('/')
        .filter_map(|part| part.strip_prefix('{').and_then(|p| p.strip_suffix('}')))
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
        .collect();
    for (name, what) in &route.doc.query {
        parameters.push(json!({"name": name, "in": "query", "description": what, "schema": {"type": "string"}}));
    }
    if matches!(route.need(), Some(Need::Point(_) | Need::System(_))) {
        parameters.push(json!({"$ref": "#/components/parameters/Organization"}));
    }
    let media = if route.doc.media.is_empty() { "application/json" } else { route.doc.media };
    let schema = route.doc.response.clone().unwrap_or_else(|| json!({}));
    let mut out = Map::new();
    out.insert("operationId".into(), json!(operation_id(route)));
    out.insert("summary".into(), json!(route.doc.summary));
    out.insert("tags".into(), json!([tag(&route.path)]));
    if !parameters.is_empty() {
        out.insert("parameters".into(), json!(parameters));
    }
    if let Some(request) = &route.doc.request {
        let body = json!({"required": true, "content": {"application/json": {"schema": request}}});
        out.insert("requestBody".into(), body);
    }
    let error = json!({"$ref": "#/components/responses/Error"});
    let mut responses = Map::new();
    responses.insert("2XX".into(), json!({"description": "done", "content": {media: {"schema": schema}}}));
    if route.method == axum::http::Method::DELETE {
        responses.insert("204".into(), json!({"description": "done; there is nothing to say"}));
    }
    responses.insert("4XX".into(), error);
    out.insert("responses".into(), Value::Object(responses));
    match route.need() {
        None => {
            out.insert("security".into(), json!([]));
        }
        Some(Need::Me) => {
            out.insert("description".into(), json!("Any authenticated user, on what is the user's own."));
        }
        Some(Need::Point(point)) => {
            out.insert("description".into(), json!(format!("Needs `{point}` in the organization.")));
        }
        Some(Need::System(point)) => {
            out.insert("description".into(), json!(format!("Needs `{point}` for the whole system.")));
        }
    }
    Value::Object(out)
}

fn tag(path: &str) -> &str {
    path.trim_start_matches("/api/").trim_start_matches("v1/").split('/').next().unwrap_or("api")
}

fn operation_id(route: &Route) -> String {
    let path: Vec<String> = route
        .path
        .trim_start_matches("/api/")
        .split('/')
        .filter(|p| !p.is_empty())
        .map(|p| p.trim_matches(['{', '}']).replace('-', "_"))
        .collect();
    format!("{}_{}", route.method.as_str().to_lowercase(), path.join("_"))
}

pub(crate) fn document(routes: &[Route], resources: &[Arc<Resource>]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes {
        let method = route.method.as_str().to_lowercase();
        let entry = paths.entry(route.path.clone()).or_insert_with(|| json!({}));
        if let Some(methods) = entry.as_object_mut() {
            methods.insert(method, operation(route));
        }
    }
    let tags: BTreeSet<&str> = routes.iter().map(|r| tag(&r.path)).collect();
    let mut schemas: Map<String, Value> = resources.iter().map(|r| (r.schema(), resource_schema(r))).collect();
    schemas.insert(
        "Named".into(),
        json!({"type": "object", "required": ["id"], "description": "An id, or an object with id or pk, is read as well.",
               "properties": {"id": {"type": "string", "format": "uuid"}, "name": {"type": "string"}}}),
    );
    schemas.insert(
        "Choice".into(),
        json!({"type": "object", "required": ["value"], "description": "The value alone is read as well.",
               "properties": {"value": {"type": "string"}, "label": {"type": "string"}}}),
    );
    schemas.insert(
        "ManyFilter".into(),
        json!({"type": "object", "required": ["type"], "properties": {
            "type": {"type": "string", "enum": ["all", "ids", "attrs"]},
            "ids": {"type": "array", "items": {"type": "string", "format": "uuid"}},
            "attrs": {"type": "array", "items": {"type": "object", "required": ["name", "match", "value"], "properties": {
                "name": {"type": "string"}, "match": {"type": "string"}, "value": {}}}}}}),
    );
    schemas.insert(
        "Error".into(),
        json!({
            "description": "Code and detail, or a list of sentences per field; for several elements one of these each.",
            "anyOf": [
                {"type": "object", "required": ["code", "detail"], "additionalProperties": true, "properties": {
                    "code": {"type": "string", "description": "stable"}, "detail": {"type": "string"}}},
                {"type": "object", "additionalProperties": true, "not": {"required": ["code", "detail"]}},
                {"type": "array", "items": {"type": "object"}}
            ]
        }),
    );
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gatehouse API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            "description": "The REST interface of Gatehouse, with JumpServer's names and shapes."
        },
        "servers": [{"url": "/"}],
        "tags": tags.iter().map(|t| json!({"name": t})).collect::<Vec<_>>(),
        "security": [{"signature": []}, {"token": []}, {"bearer": []}, {"session": []}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": {"Error": {"description": "refused", "content": {"application/json": {
                "schema": {"$ref": "#/components/schemas/Error"}}}}},
            "parameters": {"Organization": {"name": "X-JMS-ORG", "in": "header", "required": false,
                "description": "Id of the organization; the caller's first one when absent.",
                "schema": {"type": "string", "format": "uuid"}}},
            "securitySchemes": {
                "signature": {"type": "http", "scheme": "signature",
                    "description": "Access key: HTTP Signature, hmac-sha256 over (request-target), accept and date."},
                "token": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token <private token>"},
                "bearer": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "jms_sessionid",
                    "description": "Browser session; changes need the X-CSRFToken header."}
            }
        }
    })
}

/// A page for people: no script, nothing from elsewhere.
pub(crate) fn page(routes: &[Route]) -> String {
    let mut out = String::from(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>Gatehouse API</title><style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;\
         padding:0 1rem;color-scheme:light dark}td{padding:.1rem .8rem .1rem 0;vertical-align:top}code{font-size:.9em}\
         </style><h1>Gatehouse API</h1><p>The machine-readable form is <a href=\"openapi.json\">openapi.json</a>.</p>",
    );
    let tags: BTreeSet<&str> = routes.iter().map(|r| tag(&r.path)).collect();
    for name in tags {
        out.push_str(&format!("<h2>{}</h2><table>", escape(name)));
        for route in routes.iter().filter(|r| tag(&r.path) == name && r.method != axum::http::Method::OPTIONS) {
            let need = match route.need() {
                None => "anybody".to_owned(),
                Some(Need::Me) => "own".to_owned(),
                Some(Need::Point(point) | Need::System(point)) => point.to_owned(),
            };
            out.push_str(&format!(
                "<tr><td><code>{}</code><td><code>{}</code><td>{}<td><code>{}</code>",
                route.method,
                escape(&route.path),
                escape(&route.doc.summary),
                escape(&need)
            ));
        }
        out.push_str("</table>");
    }
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
