//! From a query string to what a list shows: filters, search, order, page.

use std::cmp::Ordering;
use std::collections::HashSet;

use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::Resource;
use super::field::{Field, Kind};
use super::probe;
use super::related::Target;
use super::values::{as_id, read_date};
use crate::guard::Call;
use crate::problem::Problem;

/// JumpServer: rows of a list without `limit`, and the most that a page has.
pub(crate) const DEFAULT_PAGE: usize = 200;
pub(crate) const MAX_PAGE: usize = 1_000;

/// Query keys that are never filters.
const RESERVED: &[&str] = &[
    "limit",
    "offset",
    "order",
    "search",
    "q",
    "format",
    "template",
    "spm",
    "oid",
    "fields_size",
    "display",
    "_",
    "ids",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lookup {
    Exact,
    IExact,
    Contains,
    StartsWith,
    EndsWith,
    In,
    Gt,
    Gte,
    Lt,
    Lte,
    IsNull,
}

impl Lookup {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "exact" => Self::Exact,
            "iexact" => Self::IExact,
            "contains" | "icontains" => Self::Contains,
            "startswith" | "istartswith" => Self::StartsWith,
            "endswith" | "iendswith" => Self::EndsWith,
            "in" => Self::In,
            "gt" => Self::Gt,
            "gte" => Self::Gte,
            "lt" => Self::Lt,
            "lte" => Self::Lte,
            "isnull" => Self::IsNull,
            _ => return None,
        })
    }
}

struct Condition {
    source: &'static str,
    date: bool,
    lookup: Lookup,
    value: String,
    lower: String,
    /// Items of `in`.
    items: Vec<String>,
}

pub(crate) struct Order {
    source: &'static str,
    date: bool,
    descending: bool,
}

#[derive(Default)]
pub(crate) struct SortKey(Vec<Key>);

#[derive(PartialEq, PartialOrd)]
enum Key {
    Nothing,
    Flag(bool),
    Number(f64),
    Text(String),
}

#[derive(Default)]
pub(crate) struct Plan {
    conditions: Vec<Condition>,
    /// Lower-case terms; each must be in one of the search fields.
    terms: Vec<String>,
    search: Vec<&'static str>,
    pub order: Vec<Order>,
    pub newest_first: bool,
    /// Filters that the resource's hooks know.
    pub own: Vec<(String, String)>,
    pub ids: Option<HashSet<Uuid>>,
    pub offset: usize,
    pub limit: usize,
    /// The client asked for pages, so the answer is an envelope.
    pub paged: bool,
}

impl Plan {
    pub fn parse(call: &Call, resource: &Resource) -> Result<Self, Problem> {
        let query = &call.query;
        let mut plan = Self { limit: DEFAULT_PAGE, newest_first: resource.newest_first, ..Self::default() };
        plan.page(query.filled("limit"), query.filled("offset"))?;
        if let Some(terms) = query.filled("search").or_else(|| query.filled("q")) {
            plan.terms = words(terms);
            plan.search.clone_from(&resource.search);
        }
        for name in query.filled("order").into_iter().flat_map(|o| o.split(',')).take(4) {
            let (name, descending) = name.trim().strip_prefix('-').map_or((name.trim(), false), |n| (n, true));
            if let Some(field) = resource.fields.iter().find(|f| f.name == name && f.readable() && !f.computed) {
                plan.order.push(Order { source: field.source, date: field.kind == Kind::DateTime, descending });
            }
        }
        if let Some(ids) = query.filled("ids") {
            plan.ids = Some(ids.split(',').filter_map(|id| id.trim().parse().ok()).collect());
        }
        if let Some(key) = query.filled("spm") {
            let cached = call.app.spm(key, call.user.id).unwrap_or_default();
            plan.ids = Some(cached.into_iter().collect());
        }
        for (key, value) in query.iter().filter(|(k, v)| !RESERVED.contains(k) && !v.is_empty()) {
            if resource.filters.contains(&key) {
                plan.own.push((key.to_owned(), value.to_owned()));
            } else if let Some(condition) = condition(call, resource, key, value)? {
                plan.conditions.push(condition);
            }
        }
        Ok(plan)
    }

    pub fn page(&mut self, limit: Option<&str>, offset: Option<&str>) -> Result<(), Problem> {
        let number = |name: &str, text: &str| {
            text.parse::<usize>().map_err(|_| Problem::field(name, "a whole number of 0 or more is required"))
        };
        if let Some(text) = limit {
            self.paged = true;
            self.limit = match number("limit", text)? {
                // As in DRF: 0 is no limit of the client's own.
                0 => DEFAULT_PAGE,
                n => n.min(MAX_PAGE),
            };
        }
        if let Some(text) = offset {
            self.paged = true;
            self.offset = number("offset", text)?;
        }
        Ok(())
    }

    /// Lower-case words that each must be in one of the search fields.
    pub fn terms(&self) -> &[String] {
        &self.terms
    }

    /// The field to sort by and whether downwards; `None` when there are several.
    pub fn single_order(&self) -> Option<(&'static str, bool)> {
        match self.order.as_slice() {
            [one] => Some((one.source, one.descending)),
            _ => None,
        }
    }

    /// Whether a record meets the field conditions; search and the hooks' own filters are not asked.
    pub fn admits<T: Serialize>(&self, record: &T) -> bool {
        if self.conditions.is_empty() {
            return true;
        }
        let names: Vec<&str> = self.conditions.iter().map(|c| c.source).collect();
        self.conditions.iter().zip(&probe::fields(record, &names)).all(|(c, v)| c.holds(v))
    }

    pub fn has_conditions(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Texts that every matching record has in one of these fields, without regard to case: for a cheap first look.
    pub fn hints<'p>(&'p self, fields: &'p [&str]) -> impl Iterator<Item = String> + 'p {
        use Lookup::{Contains, EndsWith, Exact, IExact, StartsWith};
        let textual = |c: &&Condition| matches!(c.lookup, Exact | IExact | Contains | StartsWith | EndsWith);
        self.conditions.iter().filter(textual).filter(|c| fields.contains(&c.source)).map(|c| c.lower.clone())
    }

    /// Stored keys that matching and sorting need, in the order of `fields`.
    pub fn probed(&self) -> Vec<&'static str> {
        let searched: &[&'static str] = if self.terms.is_empty() { &[] } else { &self.search };
        self.conditions
            .iter()
            .map(|c| c.source)
            .chain(self.order.iter().map(|o| o.source))
            .chain(searched.iter().copied())
            .collect()
    }

    pub fn matches(&self, values: &[Value]) -> bool {
        let conditions = self.conditions.iter().zip(values).all(|(c, v)| c.holds(v));
        if !conditions || self.terms.is_empty() {
            return conditions;
        }
        let searched = values.get(self.conditions.len() + self.order.len()..).unwrap_or(&[]);
        let texts: Vec<String> = searched.iter().filter_map(Value::as_str).map(str::to_lowercase).collect();
        self.terms.iter().all(|term| texts.iter().any(|text| text.contains(term.as_str())))
    }

    pub fn sort_key(&self, values: &[Value]) -> SortKey {
        let values = values.get(self.conditions.len()..).unwrap_or(&[]);
        SortKey(self.order.iter().zip(values).map(|(order, value)| key(value, order.date)).collect())
    }

    pub fn compare(&self, a: &SortKey, b: &SortKey) -> Ordering {
        for ((order, a), b) in self.order.iter().zip(&a.0).zip(&b.0) {
            let ordering = a.partial_cmp(b).unwrap_or(Ordering::Equal);
            let ordering = if order.descending { ordering.reverse() } else { ordering };
            if ordering != Ordering::Equal {
                return ordering;
            }
        }
        Ordering::Equal
    }
}

/// What a search asks for: words between blanks and commas, in lower case, at most eight.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split([',', ' ']).filter(|t| !t.is_empty()).take(8).map(str::to_lowercase).collect()
}

fn key(value: &Value, date: bool) -> Key {
    match value {
        Value::Bool(flag) => Key::Flag(*flag),
        Value::Number(n) => Key::Number(n.as_f64().unwrap_or(0.0)),
        Value::String(s) if date => read_date(s).map_or(Key::Nothing, |d| {
            #[expect(
                clippy::cast_precision_loss,
                reason = "microseconds since 1970 fit into 53 bits until the year 2255"
            )]
            let micros = d.timestamp_micros() as f64;
            Key::Number(micros)
        }),
        Value::String(s) => Key::Text(s.to_lowercase()),
        _ => Key::Nothing,
    }
}

fn condition(call: &Call, resource: &Resource, key: &str, value: &str) -> Result<Option<Condition>, Problem> {
    let known = |name: &str| resource.fields.iter().find(|f| f.name == name && f.readable() && !f.computed);
    let (field, lookup) = match known(key) {
        Some(field) => (field, Lookup::Exact),
        None => match key.rsplit_once("__").and_then(|(name, lookup)| Some((known(name)?, Lookup::named(lookup)))) {
            Some((field, Some(lookup))) => (field, lookup),
            // What is not a filter is ignored, as JumpServer does.
            _ => return Ok(None),
        },
    };
    let items: Vec<String> =
        if lookup == Lookup::In { value.split(',').map(|v| v.trim().to_owned()).collect() } else { Vec::new() };
    let value = normal(call, field, lookup, value)?;
    let lower = value.to_lowercase();
    Ok(Some(Condition { source: field.source, date: field.kind == Kind::DateTime, lookup, value, lower, items }))
}

/// The value in the form that is stored: labels by id, flags as `true`/`false`.
fn normal(call: &Call, field: &Field, lookup: Lookup, value: &str) -> Result<String, Problem> {
    if lookup == Lookup::IsNull || lookup == Lookup::In {
        return Ok(value.to_owned());
    }
    Ok(match field.kind {
        Kind::Bool => match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" => "true".into(),
            "0" | "false" | "no" => "false".into(),
            _ => return Err(Problem::field(field.name, "must be a valid boolean")),
        },
        Kind::Labels if value.parse::<Uuid>().is_err() => {
            // A label that does not exist is on nothing.
            Target::Label.by_name(&call.reader(), value)?.unwrap_or_else(Uuid::nil).to_string()
        }
        Kind::DateTime if read_date(value).is_none() => {
            return Err(Problem::field(field.name, "enter a valid date and time"));
        }
        _ => value.to_owned(),
    })
}

impl Condition {
    fn holds(&self, stored: &Value) -> bool {
        match (self.lookup, stored) {
            (Lookup::IsNull, stored) => stored.is_null() == matches!(self.value.as_str(), "1" | "true" | "True"),
            // A list holds when one of its items does.
            (_, Value::Array(items)) => items.iter().any(|item| self.holds(item)),
            (_, Value::Null) => false,
            (lookup @ (Lookup::Gt | Lookup::Gte | Lookup::Lt | Lookup::Lte), stored) => {
                let given = match stored {
                    Value::Number(_) => self.value.parse::<f64>().map_or(Key::Nothing, Key::Number),
                    _ => key(&Value::from(self.value.as_str()), self.date),
                };
                match key(stored, self.date).partial_cmp(&given) {
                    Some(Ordering::Greater) => matches!(lookup, Lookup::Gt | Lookup::Gte),
                    Some(Ordering::Less) => matches!(lookup, Lookup::Lt | Lookup::Lte),
                    Some(Ordering::Equal) => matches!(lookup, Lookup::Gte | Lookup::Lte),
                    None => false,
                }
            }
            (lookup, stored) => {
                let text = match stored {
                    Value::String(s) => s.clone(),
                    other => other.to_string(),
                };
                match lookup {
                    Lookup::Exact if self.date => {
                        read_date(&text).is_some() && read_date(&text) == read_date(&self.value)
                    }
                    Lookup::Exact => text == self.value,
                    Lookup::IExact => text.to_lowercase() == self.lower,
                    Lookup::Contains => text.to_lowercase().contains(&self.lower),
                    Lookup::StartsWith => text.to_lowercase().starts_with(&self.lower),
                    Lookup::EndsWith => text.to_lowercase().ends_with(&self.lower),
                    Lookup::In => self
                        .items
                        .iter()
                        .any(|item| *item == text || as_id(stored).is_some_and(|id| item.parse() == Ok(id))),
                    Lookup::Gt | Lookup::Gte | Lookup::Lt | Lookup::Lte | Lookup::IsNull => false,
                }
            }
        }
    }
}
