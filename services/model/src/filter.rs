//! Selecting users and assets by their attributes (Z26): the matches of JumpServer's "JSONManyToMany" filters.
//!
//! A filter sees a record as names and JSON values. What it cannot read (an unknown attribute, a broken expression, a value
//! of the wrong kind) matches nothing; validation refuses such a filter when it is made.

use std::cmp::Ordering;
use std::net::IpAddr;

use chrono::{DateTime, Utc};
use regex::{Regex, RegexBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::asset::{Asset, Node, Platform};
use crate::common::{Invalid, org_ids};
use crate::net::IpGroup;
use crate::org::Label;
use crate::rules::{AttrMatch, AttrRule, ManyFilter};
use crate::user::{User, UserGroup};

/// Bytes that one compiled expression may take.
pub(crate) const REGEX_SIZE: usize = 256 * 1024;
/// Bytes of its lazily built automaton, per thread that searches.
pub(crate) const REGEX_DFA_SIZE: usize = 1024 * 1024;
/// Characters of an expression's text.
pub(crate) const REGEX_TEXT: usize = 2_048;

/// Compiles an expression that a user wrote: linear time by construction, memory by these limits.
pub fn compile(expression: &str, ignore_case: bool) -> Result<Regex, String> {
    if expression.chars().count() > REGEX_TEXT {
        return Err(format!("an expression is at most {REGEX_TEXT} characters long"));
    }
    RegexBuilder::new(expression)
        .case_insensitive(ignore_case)
        .size_limit(REGEX_SIZE)
        .dfa_size_limit(REGEX_DFA_SIZE)
        .nest_limit(50)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => "the expression is too large; use smaller repetitions".to_owned(),
            _ => "the expression cannot be read; check brackets and escapes (look-around and back-references do not exist)"
                .to_owned(),
        })
}

/// A record as filters see it.
pub trait Subject {
    fn id(&self) -> Uuid;
    /// `None`: there is no such attribute.
    fn attribute(&self, name: &str) -> Option<Value>;
}

/// Attributes of users that filters may name.
pub const USER_ATTRIBUTES: &[&str] = &[
    "id",
    "name",
    "username",
    "email",
    "phone",
    "wechat",
    "comment",
    "source",
    "mfa_level",
    "is_active",
    "is_service_account",
    "date_expired",
    "date_joined",
    "date_created",
    "groups",
    "system_roles",
    "org_roles",
    "orgs",
    "labels",
];

/// Attributes of assets that filters may name.
pub const ASSET_ATTRIBUTES: &[&str] = &[
    "id",
    "name",
    "address",
    "comment",
    "category",
    "type",
    "platform",
    "zone",
    "domain",
    "nodes",
    "protocols",
    "is_active",
    "connectivity",
    "labels",
    "date_created",
];

/// A user with the groups that hold for the question. `org` bounds what is seen of them.
pub struct UserSubject<'a> {
    pub user: &'a User,
    pub groups: &'a [std::sync::Arc<UserGroup>],
    pub org: Uuid,
}

impl Subject for UserSubject<'_> {
    fn id(&self) -> Uuid {
        self.user.id
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let u = self.user;
        let everywhere = self.org == org_ids::ROOT;
        Some(match name {
            "id" => json!(u.id),
            "name" => json!(u.name),
            "username" => json!(u.username),
            "email" => json!(u.email),
            "phone" => json!(u.phone),
            "wechat" => json!(u.wechat),
            "comment" => json!(u.meta.comment),
            "source" => json!(u.source.as_str()),
            "mfa_level" => json!(u.mfa_level.as_str()),
            "is_active" => json!(u.is_active),
            "is_service_account" => json!(u.is_service_account),
            "date_expired" => json!(u.date_expired),
            "date_joined" | "date_created" => json!(u.meta.date_created),
            "groups" => json!(self.groups.iter().filter(|g| g.users.contains(&u.id)).map(|g| g.id).collect::<Vec<_>>()),
            "system_roles" => json!(u.system_roles),
            "org_roles" => {
                json!(
                    u.org_roles.iter().filter(|r| everywhere || r.org == self.org).map(|r| r.role).collect::<Vec<_>>()
                )
            }
            "orgs" => json!(u.orgs()),
            "labels" => json!(u.meta.labels),
            _ => return None,
        })
    }
}

/// An asset with what it refers to. `nodes` are the nodes it is in and everything above them.
pub struct AssetSubject<'a> {
    pub asset: &'a Asset,
    pub platform: Option<&'a Platform>,
    pub nodes: &'a [std::sync::Arc<Node>],
    /// The `Label` records of the asset; a filter may name them by id or as `name:value`.
    pub labels: &'a [std::sync::Arc<Label>],
}

impl Subject for AssetSubject<'_> {
    fn id(&self) -> Uuid {
        self.asset.id
    }

    fn attribute(&self, name: &str) -> Option<Value> {
        let a = self.asset;
        Some(match name {
            "id" => json!(a.id),
            "name" => json!(a.name),
            "address" => json!(a.address),
            "comment" => json!(a.meta.comment),
            "category" => json!(self.platform.map(|p| p.category.as_str())),
            "type" => json!(self.platform.map(|p| p.r#type.as_str())),
            "platform" => json!(a.platform),
            "zone" | "domain" => json!(a.zone),
            "nodes" => {
                let above = self.nodes.iter().filter(|n| n.org_id == a.org_id).map(|n| n.id);
                json!(a.nodes.iter().copied().chain(above).collect::<Vec<_>>())
            }
            "protocols" => json!(a.protocols.iter().map(|p| p.name.as_str()).collect::<Vec<_>>()),
            "is_active" => json!(a.is_active),
            "connectivity" => json!(a.connectivity.as_str()),
            "labels" => {
                let named = self.labels.iter().filter(|l| a.meta.labels.contains(&l.id));
                let names = named.map(|l| json!(format!("{}:{}", l.name, l.value)));
                Value::Array(a.meta.labels.iter().map(|id| json!(id)).chain(names).collect())
            }
            "date_created" => json!(a.meta.date_created),
            _ => return None,
        })
    }
}

impl ManyFilter {
    /// Whether the record is one of those that the filter is about.
    pub fn matches(&self, subject: &impl Subject) -> bool {
        match self {
            Self::All => true,
            Self::Ids { ids } => ids.contains(&subject.id()),
            // No line at all is a filter that nobody finished, not "everybody".
            Self::Attrs { attrs } => !attrs.is_empty() && attrs.iter().all(|rule| rule.matches(subject)),
        }
    }

    /// Refuses lines that could never match as meant. `known` are the attributes of the filtered kind.
    pub fn check(&self, invalid: &mut Invalid, field: &str, known: &[&str]) {
        let Self::Attrs { attrs } = self else { return };
        invalid.check(!attrs.is_empty(), field, "give at least one attribute, or choose all");
        for rule in attrs {
            if !known.contains(&rule.name.as_str()) {
                invalid.add(field, format!("there is no attribute \"{}\"", rule.name));
            }
            if let Err(why) = rule.check() {
                invalid.add(field, format!("{}: {why}", rule.name));
            }
        }
    }
}

impl AttrRule {
    fn check(&self) -> Result<(), String> {
        match self.r#match {
            AttrMatch::Regex => {
                let text = self.value.as_str().ok_or("the expression must be a text")?;
                compile(text, false).map(|_| ())
            }
            AttrMatch::IpIn => {
                let items = strings(&self.value);
                if items.is_empty() {
                    return Err("give at least one address, network or range".into());
                }
                IpGroup::try_from(items).map(|_| ()).map_err(|e| e.to_string())
            }
            AttrMatch::In | AttrMatch::M2m | AttrMatch::M2mAll if items(&self.value).is_empty() => {
                Err("give at least one value".into())
            }
            _ if self.value.is_object() => Err("the value must be a text, a number, true or false, or a list".into()),
            _ => Ok(()),
        }
    }

    fn matches(&self, subject: &impl Subject) -> bool {
        let Some(attribute) = subject.attribute(&self.name) else { return false };
        let have = items(&attribute);
        let any = |test: &dyn Fn(&Value) -> bool| have.iter().any(|v| test(v));
        match self.r#match {
            AttrMatch::Exact => any(&|v| same(v, &self.value)),
            AttrMatch::Not => !any(&|v| same(v, &self.value)),
            AttrMatch::In | AttrMatch::M2m => {
                let wanted = items(&self.value);
                any(&|v| wanted.iter().any(|w| same(v, w)))
            }
            AttrMatch::M2mAll => {
                let wanted = items(&self.value);
                !wanted.is_empty() && wanted.iter().all(|w| have.iter().any(|v| same(v, w)))
            }
            AttrMatch::Contains => any(&|v| texts(v, &self.value).is_some_and(|(v, w)| v.contains(&w))),
            AttrMatch::StartsWith => any(&|v| texts(v, &self.value).is_some_and(|(v, w)| v.starts_with(&w))),
            AttrMatch::EndsWith => any(&|v| texts(v, &self.value).is_some_and(|(v, w)| v.ends_with(&w))),
            AttrMatch::Regex => {
                let Some(Ok(regex)) = self.value.as_str().map(|e| compile(e, false)) else { return false };
                any(&|v| text(v).is_some_and(|t| regex.is_match(&t)))
            }
            AttrMatch::Gt => any(&|v| order(v, &self.value) == Some(Ordering::Greater)),
            AttrMatch::Gte => any(&|v| order(v, &self.value).is_some_and(Ordering::is_ge)),
            AttrMatch::Lt => any(&|v| order(v, &self.value) == Some(Ordering::Less)),
            AttrMatch::Lte => any(&|v| order(v, &self.value).is_some_and(Ordering::is_le)),
            AttrMatch::IpIn => {
                let Ok(group) = IpGroup::try_from(strings(&self.value)) else { return false };
                any(&|v| text(v).and_then(|t| t.parse::<IpAddr>().ok()).is_some_and(|ip| group.contains(ip)))
            }
        }
    }
}

/// The values of a list, or the one value; `null` is no value. A text of several, as forms send it, is split at commas
/// only by `ip_in`.
fn items(value: &Value) -> Vec<&Value> {
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => list.iter().collect(),
        one => vec![one],
    }
}

fn strings(value: &Value) -> Vec<String> {
    items(value)
        .into_iter()
        .flat_map(|v| v.as_str().unwrap_or_default().split(',').map(|s| s.trim().to_owned()).collect::<Vec<_>>())
        .filter(|s| !s.is_empty())
        .collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

fn texts(have: &Value, wanted: &Value) -> Option<(String, String)> {
    Some((text(have)?, text(wanted)?))
}

/// Equal, where forms and scripts may write a number, a truth value or an identifier as a text or as `{"id"}`/`{"value"}`.
fn same(have: &Value, wanted: &Value) -> bool {
    if have == wanted {
        return true;
    }
    let wanted = match wanted {
        Value::Object(map) => map.get("id").or_else(|| map.get("value")).unwrap_or(wanted),
        other => other,
    };
    match (have, wanted) {
        (Value::Bool(b), Value::String(s)) => s.eq_ignore_ascii_case(if *b { "true" } else { "false" }),
        (Value::Bool(b), Value::Number(n)) => n.as_u64() == Some(u64::from(*b)),
        _ => texts(have, wanted).is_some_and(|(v, w)| v == w),
    }
}

/// Numbers by value, instants by time, texts by letter; `None` when the two cannot be compared.
fn order(have: &Value, wanted: &Value) -> Option<Ordering> {
    let number = |v: &Value| v.as_f64().or_else(|| v.as_str().and_then(|s| s.trim().parse().ok()));
    if let (Some(a), Some(b)) = (number(have), number(wanted)) {
        return a.partial_cmp(&b);
    }
    if let (Some(a), Some(b)) = (instant(have), instant(wanted)) {
        return Some(a.cmp(&b));
    }
    match (have, wanted) {
        (Value::String(a), Value::String(b)) if instant(have).is_none() => Some(a.cmp(b)),
        _ => None,
    }
}

fn instant(value: &Value) -> Option<DateTime<Utc>> {
    let text = value.as_str()?;
    DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_str(text, "%Y/%m/%d %H:%M:%S %z"))
        .map(|t| t.to_utc())
        .ok()
}
