//! Between a record's stored form and what the API shows and reads (JumpServer's shapes).

use chrono::{DateTime, NaiveDateTime, Utc};
use gatehouse_model::grant::Actions;
use gatehouse_store::StoreError;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::field::{Choices, Field, Kind};
use super::reader::Reader;
use super::related::Target;

/// JumpServer's form of a moment, always UTC.
pub(crate) const DATE_FORMAT: &str = "%Y/%m/%d %H:%M:%S %z";

pub(crate) fn show_date(at: DateTime<Utc>) -> String {
    at.format(DATE_FORMAT).to_string()
}

/// JumpServer's form, RFC 3339, or a date and time without offset, which is UTC.
pub(crate) fn read_date(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.with_timezone(&Utc));
    }
    if let Ok(at) = DateTime::parse_from_str(text, DATE_FORMAT) {
        return Some(at.with_timezone(&Utc));
    }
    ["%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y/%m/%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|naive| naive.and_utc())
        .or_else(|| {
            let day = chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
            Some(day.and_time(chrono::NaiveTime::MIN).and_utc())
        })
}

fn label_of(choices: Choices, value: &str) -> String {
    choices.iter().find(|(v, _)| *v == value).map_or_else(|| value.to_owned(), |(_, l)| (*l).to_owned())
}

pub(crate) fn show_choice(choices: Choices, value: &str) -> Value {
    json!({"value": value, "label": label_of(choices, value)})
}

pub(crate) fn show_choice_int(choices: Choices, value: &str) -> Value {
    let number = value.parse::<i64>().map_or_else(|_| Value::from(value), Value::from);
    json!({"value": number, "label": label_of(choices, value)})
}

/// Stored form to shown form.
pub(crate) fn show(reader: &Reader, kind: Kind, stored: &Value) -> Result<Value, StoreError> {
    Ok(match kind {
        Kind::Secret => Value::Null,
        Kind::DateTime => match stored.as_str().and_then(read_date) {
            Some(at) => Value::from(show_date(at)),
            None => Value::Null,
        },
        Kind::Choice(choices) => stored.as_str().map_or(Value::Null, |v| show_choice(choices, v)),
        Kind::ChoiceInt(choices) => stored.as_str().map_or(Value::Null, |v| show_choice_int(choices, v)),
        Kind::Related(target) => match as_id(stored) {
            Some(id) => target.show(reader, id)?,
            None => Value::Null,
        },
        Kind::ManyRelated(target) => {
            let mut out = Vec::new();
            for id in ids(stored) {
                out.push(target.show(reader, id)?);
            }
            Value::Array(out)
        }
        Kind::Labels => {
            let mut out = Vec::new();
            for id in ids(stored) {
                if let Some(name) = Target::Label.name(reader, id)? {
                    out.push(Value::from(name));
                }
            }
            Value::Array(out)
        }
        Kind::Actions => {
            let bits = stored.as_u64().and_then(|b| u16::try_from(b).ok()).unwrap_or(0);
            Actions::from_bits(bits).names().map(|(value, label)| json!({"value": value, "label": label})).collect()
        }
        Kind::Text if stored.is_null() => Value::from(""),
        Kind::Strings if stored.is_null() => json!([]),
        Kind::Text | Kind::Int { .. } | Kind::Bool | Kind::Uuid | Kind::Strings | Kind::Json | Kind::ManyFilter(_) => {
            stored.clone()
        }
    })
}

pub(crate) fn as_id(value: &Value) -> Option<Uuid> {
    value.as_str().and_then(|s| s.parse().ok())
}

fn ids(value: &Value) -> impl Iterator<Item = Uuid> + '_ {
    value.as_array().into_iter().flatten().filter_map(as_id)
}

/// Why a value was refused; the sentence goes beside the field.
pub(crate) type Refused = String;

/// Shown form (or any of the other accepted forms) to stored form. The error is about the value; the outer one is ours.
pub(crate) fn read(reader: &Reader, field: &Field, given: &Value) -> Result<Result<Value, Refused>, StoreError> {
    if given.is_null() {
        return Ok(if field.nullable {
            Ok(Value::Null)
        } else {
            match (field.kind, field.default) {
                (_, Some(default)) => Ok(default()),
                (Kind::Text | Kind::Secret, None) if !field.required => Ok(Value::from("")),
                (Kind::Strings | Kind::ManyRelated(_) | Kind::Labels, None) if !field.required => Ok(json!([])),
                _ => Err("this field may not be null".into()),
            }
        });
    }
    Ok(match field.kind {
        Kind::Text | Kind::Secret => read_text(field, given),
        Kind::Int { min, max } => read_int(given, min, max),
        Kind::Bool => read_bool(given),
        Kind::Uuid => as_id(given).map(|id| json!(id)).ok_or_else(|| "must be a valid UUID".into()),
        Kind::DateTime => match given.as_str().and_then(read_date) {
            Some(at) => Ok(json!(at)),
            None if field.nullable && given.as_str() == Some("") => Ok(Value::Null),
            None => Err("enter a date and time, for example 2026/01/31 12:00:00 +0000".into()),
        },
        Kind::Choice(choices) | Kind::ChoiceInt(choices) => {
            if field.nullable && given.as_str() == Some("") {
                Ok(Value::Null)
            } else {
                read_choice(choices, given)
            }
        }
        Kind::Related(target) => {
            if field.nullable && given.as_str() == Some("") {
                Ok(Value::Null)
            } else {
                read_related(reader, target, given)?
            }
        }
        Kind::ManyRelated(target) => read_many(reader, target, given)?,
        Kind::Labels => read_labels(reader, given)?,
        Kind::Strings => read_strings(given),
        Kind::Json => Ok(given.clone()),
        Kind::ManyFilter(target) => read_filter(reader, target, given)?,
        Kind::Actions => read_actions(given),
    })
}

fn read_text(field: &Field, given: &Value) -> Result<Value, Refused> {
    let text = match given {
        Value::String(s) => s.clone(),
        Value::Number(n) => n.to_string(),
        _ => return Err("not a valid string".into()),
    };
    if text.len() > 64 * 1024 {
        return Err("ensure this field has no more than 65536 bytes".into());
    }
    if field.required && text.trim().is_empty() {
        return Err("this field may not be blank".into());
    }
    Ok(Value::String(text))
}

fn read_int(given: &Value, min: i64, max: i64) -> Result<Value, Refused> {
    let number = given.as_i64().or_else(|| given.as_str().and_then(|s| s.trim().parse().ok()));
    match number {
        Some(n) if (min..=max).contains(&n) => Ok(Value::from(n)),
        Some(_) => Err(format!("ensure this value is between {min} and {max}")),
        None => Err("a valid integer is required".into()),
    }
}

fn read_bool(given: &Value) -> Result<Value, Refused> {
    let flag = match given {
        Value::Bool(b) => Some(*b),
        Value::Number(n) => match n.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::String(s) => match s.trim().to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Some(true),
            "false" | "0" | "no" | "off" | "" => Some(false),
            _ => None,
        },
        _ => None,
    };
    flag.map(Value::Bool).ok_or_else(|| "must be a valid boolean".into())
}

/// The value; an object with `value`; `label(value)`; a label.
fn read_choice(choices: Choices, given: &Value) -> Result<Value, Refused> {
    let given = given.get("value").unwrap_or(given);
    let text = match given {
        Value::String(s) => s.trim().to_owned(),
        Value::Number(n) => n.to_string(),
        _ => return Err("not a valid choice".into()),
    };
    let inside = text.rsplit_once('(').map(|(_, v)| v.trim_end_matches(')'));
    choices
        .iter()
        .find(|(v, _)| *v == text)
        .or_else(|| choices.iter().find(|(v, _)| Some(*v) == inside))
        .or_else(|| choices.iter().find(|(_, l)| *l == text))
        .map(|(v, _)| Value::from(*v))
        .ok_or_else(|| format!("\"{text}\" is not a valid choice"))
}

/// An id, an object with `id` or `pk` (or `name`), `name(id)`, or a unique name.
fn read_related(reader: &Reader, target: Target, given: &Value) -> Result<Result<Value, Refused>, StoreError> {
    let inner = ["id", "pk", "name"].iter().find_map(|key| given.get(key)).unwrap_or(given);
    let Some(text) = inner.as_str().map(str::trim) else {
        return Ok(Err("give an id or an object with an id".into()));
    };
    let inside = text.rsplit_once('(').and_then(|(_, v)| v.trim_end_matches(')').parse::<Uuid>().ok());
    if let Some(id) = text.parse::<Uuid>().ok().or(inside) {
        return Ok(match target.name(reader, id)? {
            Some(_) => Ok(json!(id)),
            None => Err(format!("invalid pk \"{id}\" - object does not exist")),
        });
    }
    Ok(match target.by_name(reader, text)? {
        Some(id) => Ok(json!(id)),
        None => Err(format!("object with name \"{text}\" does not exist")),
    })
}

/// Relations and lists are bounded so that one request cannot hold the store for long.
const MAX_LIST: usize = 10_000;

fn as_list(given: &Value) -> Result<Vec<Value>, Refused> {
    let list = match given {
        Value::Array(items) => items.clone(),
        Value::String(s) if s.trim().is_empty() => Vec::new(),
        // A cell of a spreadsheet: a JSON list, or items separated by commas.
        Value::String(s) => match serde_json::from_str::<Value>(s) {
            Ok(Value::Array(items)) => items,
            _ => s.split(',').map(|item| Value::from(item.trim())).collect(),
        },
        _ => return Err("expected a list of items".into()),
    };
    if list.len() > MAX_LIST {
        return Err(format!("ensure this field has no more than {MAX_LIST} elements"));
    }
    Ok(list)
}

fn read_many(reader: &Reader, target: Target, given: &Value) -> Result<Result<Value, Refused>, StoreError> {
    let items = match as_list(given) {
        Ok(items) => items,
        Err(why) => return Ok(Err(why)),
    };
    let mut out: Vec<Value> = Vec::with_capacity(items.len());
    let mut seen = std::collections::HashSet::new();
    for item in &items {
        match read_related(reader, target, item)? {
            Ok(id) => {
                if seen.insert(id.to_string()) {
                    out.push(id);
                }
            }
            Err(why) => return Ok(Err(why)),
        }
    }
    Ok(Ok(Value::Array(out)))
}

fn read_labels(reader: &Reader, given: &Value) -> Result<Result<Value, Refused>, StoreError> {
    let items = match as_list(given) {
        Ok(items) => items,
        Err(why) => return Ok(Err(why)),
    };
    let mut out = Vec::with_capacity(items.len());
    for item in &items {
        match read_related(reader, Target::Label, item)? {
            Ok(id) if out.contains(&id) => {}
            Ok(id) => out.push(id),
            Err(_) => {
                return Ok(Err(format!("label {item} does not exist; create it under /api/v1/labels/labels/ first")));
            }
        }
    }
    Ok(Ok(Value::Array(out)))
}

fn read_strings(given: &Value) -> Result<Value, Refused> {
    let mut out = Vec::new();
    for item in as_list(given)? {
        match item.get("value").unwrap_or(&item) {
            Value::String(s) => out.push(Value::from(s.trim())),
            Value::Number(n) => out.push(Value::from(n.to_string())),
            _ => return Err("expected a list of strings".into()),
        }
    }
    Ok(Value::Array(out))
}

fn read_actions(given: &Value) -> Result<Value, Refused> {
    if let Some(bits) = given.as_u64() {
        let bits = u16::try_from(bits).ok().filter(|b| *b <= Actions::ALL.bits());
        return bits.map(Value::from).ok_or_else(|| "unknown action bits".into());
    }
    let mut actions = Actions::NONE;
    for item in as_list(given)? {
        let name = item.get("value").unwrap_or(&item);
        let Some(action) = name.as_str().and_then(Actions::from_name) else {
            return Err(format!("{name} is not an action"));
        };
        actions = actions.union(action);
    }
    Ok(Value::from(actions.bits()))
}

fn read_filter(reader: &Reader, target: Target, given: &Value) -> Result<Result<Value, Refused>, StoreError> {
    let parsed;
    let given = match given {
        Value::String(s) => match serde_json::from_str::<Value>(s) {
            Ok(value) => {
                parsed = value;
                &parsed
            }
            Err(_) => return Ok(Err("expected {\"type\": \"all\"|\"ids\"|\"attrs\", ...}".into())),
        },
        other => other,
    };
    Ok(match given.get("type").and_then(Value::as_str) {
        Some("all") => Ok(json!({"type": "all"})),
        Some("ids") => {
            let empty = json!([]);
            read_many(reader, target, given.get("ids").unwrap_or(&empty))?.map(|ids| json!({"type": "ids", "ids": ids}))
        }
        Some("attrs") => match given.get("attrs") {
            Some(Value::Array(attrs)) if attrs.len() <= 100 => Ok(json!({"type": "attrs", "attrs": attrs})),
            _ => Err("attrs: expected a list of at most 100 {\"name\", \"match\", \"value\"}".into()),
        },
        _ => Err("type must be all, ids or attrs".into()),
    })
}

/// The shown form of a whole record. `computed` fields are the hooks'.
pub(crate) fn show_record(
    reader: &Reader,
    fields: &[Field],
    stored: &Map<String, Value>,
    detail: bool,
) -> Result<Map<String, Value>, StoreError> {
    let mut out = Map::new();
    for field in fields.iter().filter(|f| f.readable() && (detail || !f.detail_only)) {
        if field.computed {
            // Keeps the table's order; the hooks put the value here.
            out.insert(field.name.to_owned(), Value::Null);
        } else {
            let shown = match (stored.get(field.source), field.kind, field.default) {
                // Left out of the stored form when empty.
                (None, Kind::Json, Some(default)) => default(),
                (value, kind, _) => show(reader, kind, value.unwrap_or(&Value::Null))?,
            };
            out.insert(field.name.to_owned(), shown);
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_both_forms_and_shown_in_jumpservers() {
        let at = read_date("2026/11/21 10:00:00 +0800").unwrap();
        assert_eq!(show_date(at), "2026/11/21 02:00:00 +0000");
        assert_eq!(read_date("2026-11-21T02:00:00Z"), Some(at));
        assert_eq!(read_date("2026-11-21 02:00:00"), Some(at));
        assert_eq!(read_date("yesterday"), None);
    }

    #[test]
    fn a_choice_is_read_as_value_object_or_label_with_value() {
        const C: Choices = &[("ssh_key", "SSH key"), ("password", "Password")];
        for given in [json!("password"), json!({"value": "password", "label": "x"}), json!("Password(password)")] {
            assert_eq!(read_choice(C, &given), Ok(json!("password")));
        }
        assert!(read_choice(C, &json!("nothing")).is_err());
    }

    #[test]
    fn actions_are_names_objects_or_bits_and_unknown_ones_are_refused() {
        assert_eq!(read_actions(&json!(["connect", {"value": "upload"}])), Ok(json!(3)));
        assert_eq!(read_actions(&json!(127)), Ok(json!(127)));
        assert!(read_actions(&json!(128)).is_err());
        assert!(read_actions(&json!(["fly"])).is_err());
    }
}
