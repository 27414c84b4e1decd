//! `audits/*`: logs as views over the ledger (U08-U12, U14). A view is a description: which kinds, which permission, how a
//! row looks, by what it can be filtered. Rows cannot be changed, so there is nothing but reading here.

use gatehouse_model::common::org_ids;
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use gatehouse_model::user::User;
use gatehouse_store::{AllOrgs, OrgFilter, Query as LedgerQuery, StoredEntry};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::audit::{self, Action, Operation};
use crate::engine::list;
use crate::engine::plan::{DEFAULT_PAGE, MAX_PAGE};
use crate::engine::reader::Scope;
use crate::engine::sheet::{self, Format, Sheet};
use crate::engine::values::{read_date, show_date};
use crate::guard::{Answer, Call, Doc, Need, Routes};
use crate::problem::Problem;

/// Entries that one request with free filters looks at; a narrower time range reaches the rest.
const MAX_SCAN: usize = 100_000;
const CHUNK: usize = 256;
const MAX_EXPORT: usize = 10_000;

pub(crate) struct View {
    pub path: &'static str,
    pub need: Need,
    pub kinds: &'static [LedgerKind],
    pub label: &'static str,
    /// Entries of the whole system (log-ins) that an organization sees when they are about its members.
    pub by_member: bool,
    pub show: fn(&StoredEntry) -> Map<String, Value>,
    /// (query key, key of the body) compared for equality, or as part of the text.
    pub equal: &'static [(&'static str, &'static str)],
    pub part: &'static [(&'static str, &'static str)],
    /// Query keys that are ids of objects which the entry concerns.
    pub refs: &'static [&'static str],
}

fn base(stored: &StoredEntry) -> Map<String, Value> {
    let mut row = Map::new();
    row.insert("id".into(), json!(stored.entry.id));
    if let Some(body) = stored.entry.body.as_object() {
        row.extend(body.iter().filter(|(k, _)| *k != "id").map(|(k, v)| (k.clone(), v.clone())));
    }
    row.insert("org_id".into(), json!(stored.entry.org));
    row.insert("ledger_seq".into(), json!(stored.seq));
    row
}

fn choice(row: &mut Map<String, Value>, key: &str, label: impl FnOnce(&str) -> String) {
    if let Some(value) = row.get(key).and_then(Value::as_str).map(str::to_owned) {
        row.insert(key.into(), json!({"value": value, "label": label(&value)}));
    }
}

fn show_login(stored: &StoredEntry) -> Map<String, Value> {
    let mut row = base(stored);
    row.insert("datetime".into(), json!(show_date(stored.entry.at)));
    choice(&mut row, "type", |v| match v {
        "W" => "Web".into(),
        "T" => "Terminal".into(),
        _ => "API".into(),
    });
    let mfa = row.get("mfa").and_then(Value::as_i64).unwrap_or(2);
    let label = match mfa {
        0 => "Disabled",
        1 => "Enabled",
        _ => "-",
    };
    row.insert("mfa".into(), json!({"value": mfa, "label": label}));
    let ok = row.get("status").and_then(Value::as_bool).unwrap_or(false);
    row.insert("status".into(), json!({"value": ok, "label": if ok { "Success" } else { "Failed" }}));
    row.insert("reason_display".into(), row.get("reason").cloned().unwrap_or_default());
    row
}

fn show_operate(stored: &StoredEntry) -> Map<String, Value> {
    let mut row = base(stored);
    row.insert("datetime".into(), json!(show_date(stored.entry.at)));
    choice(&mut row, "action", |v| v.parse::<Action>().map_or_else(|_| v.to_owned(), |a| a.label().to_owned()));
    row
}

fn show_password(stored: &StoredEntry) -> Map<String, Value> {
    let mut row = base(stored);
    row.insert("datetime".into(), json!(show_date(stored.entry.at)));
    row
}

pub(crate) const OPERATE: View = View {
    path: "/api/v1/audits/operate-logs/",
    need: Need::Point("audits.view_operatelog"),
    kinds: &[LedgerKind::Operate],
    label: "Operate log",
    by_member: false,
    show: show_operate,
    equal: &[("action", "action"), ("resource_type", "resource_type"), ("user_id", "user_id")],
    part: &[("user", "user"), ("resource", "resource"), ("remote_addr", "remote_addr")],
    refs: &["resource_id"],
};

const LOGIN: View = View {
    path: "/api/v1/audits/login-logs/",
    need: Need::Point("audits.view_userloginlog"),
    kinds: &[LedgerKind::Login],
    label: "Login log",
    by_member: true,
    show: show_login,
    equal: &[
        ("username", "username"),
        ("type", "type"),
        ("ip", "ip"),
        ("status", "status"),
        ("reason_code", "reason_code"),
    ],
    part: &[("city", "city"), ("user_agent", "user_agent")],
    refs: &["user_id"],
};

const PASSWORD: View = View {
    path: "/api/v1/audits/password-change-logs/",
    need: Need::Point("audits.view_passwordchangelog"),
    kinds: &[LedgerKind::PasswordChange],
    label: "Password change log",
    by_member: true,
    show: show_password,
    equal: &[("remote_addr", "remote_addr")],
    part: &[("user", "user"), ("change_by", "change_by")],
    refs: &["user_id"],
};

pub(crate) const QUERY: &[(&str, &str)] = &[
    ("limit", "rows of a page"),
    ("offset", "rows to skip"),
    ("date_from", "not earlier"),
    ("date_to", "not later"),
    ("search", "text in the row"),
    ("order", "datetime: oldest first; newest first without it"),
    ("format", "csv or xlsx"),
];

pub(crate) fn routes(routes: &mut Routes) {
    for view in [&OPERATE, &LOGIN, &PASSWORD] {
        mount(routes, view);
    }
    let doc = Doc::new("Own log-ins, newest first").query(QUERY);
    routes.get("/api/v1/audits/my-login-logs/", Need::Me, doc, my_logins);
}

pub(crate) fn mount(routes: &mut Routes, view: &'static View) {
    let doc = || Doc::new(view.label).query(QUERY);
    routes.get(view.path, view.need, doc(), move |call| index(call, view));
    routes.get(format!("{}{{id}}/", view.path), view.need, Doc::new(format!("{}: one row", view.label)), move |call| {
        one(call, view)
    });
}

/// Names and ids of the organization's users, to see which system-wide entries are about them.
struct Members {
    ids: std::collections::HashSet<Uuid>,
    names: std::collections::HashSet<String>,
}

impl Members {
    fn of(call: &Call, org: Uuid) -> Result<Self, Problem> {
        let users = call.reader().list::<User>()?;
        let inside = users.iter().filter(|u| u.is_member_of(org));
        let (ids, names) = inside.map(|u| (u.id, u.username.to_lowercase())).unzip();
        Ok(Self { ids, names })
    }

    fn concerns(&self, entry: &LedgerEntry) -> bool {
        entry.refs.iter().chain(&entry.actor).any(|id| self.ids.contains(id))
            || entry
                .body
                .get("username")
                .and_then(Value::as_str)
                .is_some_and(|name| self.names.contains(&name.to_lowercase()))
    }
}

/// The organizations of a view in this request, and who its system-wide entries must be about.
fn walls(call: &Call, view: &View) -> Result<(OrgFilter, Option<Members>), Problem> {
    Ok(match call.scope {
        Scope::Global => (OrgFilter::All(AllOrgs::crossing_organizations()), None),
        Scope::Org(org) if view.by_member => {
            (OrgFilter::Several(vec![org, org_ids::ROOT]), Some(Members::of(call, org)?))
        }
        Scope::Org(org) => (OrgFilter::One(org), None),
    })
}

fn same(value: Option<&Value>, wanted: &str) -> bool {
    match value {
        Some(Value::String(s)) => s == wanted,
        Some(Value::Bool(b)) => matches!((b, wanted), (true, "1" | "true" | "True") | (false, "0" | "false" | "False")),
        Some(Value::Number(n)) => n.to_string() == wanted,
        _ => false,
    }
}

struct Wanted {
    equal: Vec<(&'static str, String)>,
    part: Vec<(&'static str, String)>,
    search: String,
    members: Option<Members>,
    refs: Vec<Uuid>,
}

impl Wanted {
    fn is_free(&self) -> bool {
        self.equal.is_empty()
            && self.part.is_empty()
            && self.search.is_empty()
            && self.members.is_none()
            && self.refs.len() < 2
    }

    fn holds(&self, entry: &LedgerEntry) -> bool {
        let lower = |key: &str| entry.body.get(key).and_then(Value::as_str).unwrap_or("").to_lowercase();
        self.members.as_ref().is_none_or(|m| entry.org != org_ids::ROOT || m.concerns(entry))
            && self.refs.iter().all(|id| entry.refs.contains(id) || entry.actor == Some(*id))
            && self.equal.iter().all(|(key, wanted)| same(entry.body.get(*key), wanted))
            && self.part.iter().all(|(key, wanted)| lower(key).contains(wanted))
            && (self.search.is_empty() || texts_contain(&entry.body, &self.search))
    }
}

fn texts_contain(value: &Value, needle: &str) -> bool {
    match value {
        Value::String(s) => s.to_lowercase().contains(needle),
        Value::Array(items) => items.iter().any(|v| texts_contain(v, needle)),
        Value::Object(map) => map.values().any(|v| texts_contain(v, needle)),
        _ => false,
    }
}

pub(crate) struct Found {
    pub rows: Vec<StoredEntry>,
    pub count: u64,
    /// The bound on looked-at entries was reached; there may be more.
    pub truncated: bool,
}

fn question(call: &Call, view: &View) -> Result<(LedgerQuery, Wanted), Problem> {
    let q = &call.query;
    let date = |key: &'static str| match q.filled(key).map(|v| read_date(v).ok_or(key)) {
        None => Ok(None),
        Some(Ok(at)) => Ok(Some(at)),
        Some(Err(key)) => Err(Problem::field(key, "enter a valid date and time")),
    };
    let (org, members) = walls(call, view)?;
    let to = date("date_to")?.map(|to| to + chrono::TimeDelta::milliseconds(1));
    let mut query = LedgerQuery::new(org).kinds(view.kinds).between(date("date_from")?, to);
    if q.filled("order").is_some_and(|o| matches!(o, "datetime" | "timestamp" | "date_start")) {
        query = query.ascending();
    }
    let refs: Vec<Uuid> =
        view.refs.iter().filter_map(|key| q.filled(key)).map(|id| id.parse().unwrap_or_else(|_| Uuid::max())).collect();
    if let Some(first) = refs.first() {
        query = query.reference(*first);
    }
    let given = |pairs: &'static [(&'static str, &'static str)]| -> Vec<(&'static str, String)> {
        pairs.iter().filter_map(|(key, field)| Some((*field, q.filled(key)?.to_owned()))).collect()
    };
    let part = given(view.part).into_iter().map(|(k, v)| (k, v.to_lowercase())).collect();
    let search = q.filled("search").or_else(|| q.filled("q")).unwrap_or("").to_lowercase();
    Ok((query, Wanted { equal: given(view.equal), part, search, members, refs }))
}

/// The window of matching rows. Reads the ledger in chunks, on a blocking thread.
pub(crate) async fn find(call: &Call, view: &View, offset: usize, limit: usize) -> Result<Found, Problem> {
    let (query, wanted) = question(call, view)?;
    let ledger = call.app.store().ledger();
    let work = move || -> Result<Found, Problem> {
        if wanted.is_free() {
            let count = ledger.count(&query)?;
            if offset > MAX_SCAN {
                return Err(Problem::field("offset", format!("at most {MAX_SCAN}; use date_from and date_to")));
            }
            let rows = window(&ledger, query, offset, limit)?;
            return Ok(Found { rows, count, truncated: false });
        }
        let (mut rows, mut count, mut seen, mut query) = (Vec::new(), 0_u64, 0_usize, query.limit(CHUNK));
        loop {
            let chunk = ledger.query(&query)?;
            let full = chunk.len() == CHUNK;
            let last = chunk.last().map(|s| s.seq);
            for stored in chunk {
                seen += 1;
                if wanted.holds(&stored.entry) {
                    let at = usize::try_from(count).unwrap_or(usize::MAX);
                    if at >= offset && rows.len() < limit {
                        rows.push(stored);
                    }
                    count += 1;
                }
            }
            if !full || seen >= MAX_SCAN {
                return Ok(Found { rows, count, truncated: full });
            }
            if query.ascending { query.after = last } else { query.before = last }
        }
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| Problem::internal(&e))?
}

fn window(
    ledger: &gatehouse_store::Ledger,
    mut query: LedgerQuery,
    offset: usize,
    limit: usize,
) -> Result<Vec<StoredEntry>, Problem> {
    let mut skip = offset;
    while skip > 0 {
        // Skipped rows are not kept: many commands with their output are a lot of memory.
        let chunk = ledger.query(&query.clone().limit(skip.min(CHUNK)))?;
        let Some(last) = chunk.last().map(|s| s.seq) else { return Ok(Vec::new()) };
        skip -= chunk.len();
        if query.ascending { query.after = Some(last) } else { query.before = Some(last) }
    }
    Ok(ledger.query(&query.limit(limit))?)
}

pub(crate) async fn index(call: Call, view: &'static View) -> Answer {
    let number = |key: &str| match call.query.filled(key) {
        None => Ok(None),
        Some(text) => text.parse::<usize>().map(Some).map_err(|_| Problem::field(key, "a whole number is required")),
    };
    let (limit, offset) = (number("limit")?, number("offset")?);
    let paged = limit.is_some() || offset.is_some();
    let offset = offset.unwrap_or(0);
    if let Some(format) = call.query.filled("format").filter(|f| *f != "json") {
        return export(&call, view, Format::named(format)?, offset, limit.unwrap_or(MAX_EXPORT).min(MAX_EXPORT)).await;
    }
    let limit = limit.filter(|l| *l > 0).unwrap_or(DEFAULT_PAGE).min(MAX_PAGE);
    let found = find(&call, view, offset, limit).await?;
    let rows: Vec<Value> = found.rows.iter().map(|s| Value::Object((view.show)(s))).collect();
    if !paged {
        return Ok(list::ok(&json!(rows)));
    }
    let count = usize::try_from(found.count).unwrap_or(usize::MAX);
    let mut body = list::envelope(&call, limit, offset, count, &rows);
    if let (true, Some(body)) = (found.truncated, body.as_object_mut()) {
        body.insert("truncated".into(), json!(true));
    }
    Ok(list::ok(&body))
}

async fn export(call: &Call, view: &'static View, format: Format, offset: usize, limit: usize) -> Answer {
    let found = find(call, view, offset, limit).await?;
    let mut header: Vec<String> = Vec::new();
    let shown: Vec<Map<String, Value>> = found.rows.iter().map(view.show).collect();
    for row in &shown {
        for key in row.keys() {
            if !header.contains(key) {
                header.push(key.clone());
            }
        }
    }
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(s)) => s.clone(),
        Some(other) => other.get("label").and_then(Value::as_str).map_or_else(|| other.to_string(), str::to_owned),
    };
    let rows = shown.iter().map(|row| header.iter().map(|key| text(row.get(key))).collect()).collect();
    let sheet = Sheet { header, rows };
    let what = format!("{} rows", sheet.rows.len());
    let bytes = tokio::task::spawn_blocking(move || sheet::write(format, &sheet)).await;
    let bytes = bytes.map_err(|e| Problem::internal(&e))??;
    audit::record(call, Operation::new(Action::Export, view.label, what, call.user.id)).await?;
    sheet::response(format, &view.label.to_lowercase().replace(' ', "-"), bytes)
}

pub(crate) fn fetch(call: &Call, view: &View) -> Result<StoredEntry, Problem> {
    let found = call.app.store().ledger().get(call.id()?)?.ok_or_else(Problem::not_found)?;
    let (_, members) = walls(call, view)?;
    let entry = &found.entry;
    let visible = match (call.scope, &members) {
        (Scope::Global, _) => true,
        (Scope::Org(org), _) if entry.org == org => true,
        (Scope::Org(_), Some(members)) => entry.org == org_ids::ROOT && members.concerns(entry),
        _ => false,
    };
    if visible && view.kinds.contains(&entry.kind) { Ok(found) } else { Err(Problem::not_found()) }
}

async fn one(call: Call, view: &'static View) -> Answer {
    let found = fetch(&call, view)?;
    Ok(list::ok(&Value::Object((view.show)(&found))))
}

async fn my_logins(call: Call) -> Answer {
    let query = LedgerQuery::new(OrgFilter::All(AllOrgs::crossing_organizations()))
        .kinds(&[LedgerKind::Login])
        .reference(call.user.id)
        .limit(200);
    let rows = call.app.store().ledger().query(&query)?;
    Ok(list::ok(&rows.iter().map(|s| Value::Object(show_login(s))).collect()))
}
