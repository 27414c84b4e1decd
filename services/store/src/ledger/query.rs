//! Reading the ledger while it runs: every audit log is one of these queries.

use std::{iter::Peekable, ops::Bound};

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::{LedgerEntry, LedgerKind};
use uuid::Uuid;

use super::{
    core::{Core, hour_of},
    entry::StoredEntry,
};
use crate::{
    engine::scan_prefix,
    error::{Result, StoreError},
    view::AllOrgs,
};

/// Whose entries. System entries carry the nil organization.
#[derive(Debug, Clone)]
pub enum OrgFilter {
    One(Uuid),
    Several(Vec<Uuid>),
    All(AllOrgs),
}

impl OrgFilter {
    fn admits(&self, org: Uuid) -> bool {
        match self {
            Self::One(one) => *one == org,
            Self::Several(several) => several.contains(&org),
            Self::All(_) => true,
        }
    }
}

/// A question to the ledger. Newest first unless `ascending`.
#[derive(Debug, Clone)]
pub struct Query {
    pub org: OrgFilter,
    /// Empty: all kinds.
    pub kinds: Vec<LedgerKind>,
    /// Only entries that concern this object, its actor included.
    pub reference: Option<Uuid>,
    /// Inclusive, in milliseconds.
    pub from: Option<DateTime<Utc>>,
    /// Exclusive.
    pub to: Option<DateTime<Utc>>,
    /// Only entries before this number: the last one of the previous page, descending.
    pub before: Option<u64>,
    /// Only entries after this number: the last one of the previous page, ascending.
    pub after: Option<u64>,
    pub limit: usize,
    pub ascending: bool,
}

impl Query {
    pub fn new(org: OrgFilter) -> Self {
        Self {
            org,
            kinds: Vec::new(),
            reference: None,
            from: None,
            to: None,
            before: None,
            after: None,
            limit: 100,
            ascending: false,
        }
    }

    #[must_use]
    pub fn kinds(mut self, kinds: &[LedgerKind]) -> Self {
        self.kinds = kinds.to_vec();
        self
    }

    #[must_use]
    pub fn reference(mut self, id: Uuid) -> Self {
        self.reference = Some(id);
        self
    }

    #[must_use]
    pub fn between(mut self, from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Self {
        (self.from, self.to) = (from, to);
        self
    }

    #[must_use]
    pub fn before(mut self, seq: Option<u64>) -> Self {
        self.before = seq;
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    #[must_use]
    pub fn ascending(mut self) -> Self {
        self.ascending = true;
        self
    }

    fn in_time(&self, millis: i64) -> bool {
        self.from.is_none_or(|from| millis >= from.timestamp_millis())
            && self.to.is_none_or(|to| millis < to.timestamp_millis())
    }
}

/// What the index knows of an entry.
struct Hit {
    seq: u64,
    millis: i64,
    kind: u8,
}

fn parse_hit((key, value): &(Vec<u8>, Vec<u8>)) -> Option<Hit> {
    let seq = u64::from_be_bytes(*key.last_chunk()?);
    let (millis, kind) = value.split_first_chunk::<8>()?;
    Some(Hit { seq, millis: i64::from_be_bytes(*millis), kind: *kind.first()? })
}

type Hits<'a> = Box<dyn Iterator<Item = Result<Hit>> + Send + 'a>;

/// Several ascending (or descending) sequences as one.
struct Merge<'a> {
    sources: Vec<Peekable<Hits<'a>>>,
    ascending: bool,
}

impl Iterator for Merge<'_> {
    type Item = Result<Hit>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut best: Option<(usize, u64)> = None;
        for (n, source) in self.sources.iter_mut().enumerate() {
            match source.peek() {
                None => {}
                Some(Err(_)) => return source.next(),
                Some(Ok(hit)) => {
                    let better = |seq: u64| if self.ascending { hit.seq < seq } else { hit.seq > seq };
                    if best.is_none_or(|(_, seq)| better(seq)) {
                        best = Some((n, hit.seq));
                    }
                }
            }
        }
        self.sources.get_mut(best?.0)?.next()
    }
}

/// The numbers that can possibly match, from the query's cursors and times.
fn bounds(core: &Core, query: &Query) -> (u64, u64) {
    let visible = core.visible.read();
    let mut first = visible.first.max(query.after.map_or(0, |after| after.saturating_add(1)));
    let mut last = visible.head.seq.min(query.before.map_or(u64::MAX, |before| before.saturating_sub(1)));
    if query.from.is_some() || query.to.is_some() {
        let from = query.from.map_or(i64::MIN, |t| hour_of(t.timestamp_millis()));
        let to = query.to.map_or(i64::MAX, |t| hour_of(t.timestamp_millis()));
        let (mut low, mut high) = (u64::MAX, 0);
        if from <= to {
            for (a, b) in visible.hours.range(from..=to).map(|(_, range)| *range) {
                low = low.min(a);
                high = high.max(b);
            }
        }
        first = first.max(low);
        last = last.min(high);
    }
    (first, last)
}

fn hits<'a>(core: &'a Core, query: &Query) -> Merge<'a> {
    let (first, last) = bounds(core, query);
    let ascending = query.ascending;
    if first > last {
        return Merge { sources: Vec::new(), ascending };
    }
    let source = |prefix: [u8; 16]| -> Peekable<Hits<'a>> {
        let key = |seq: u64| [prefix.as_slice(), &seq.to_be_bytes()].concat();
        let (from, to) = (key(first), key(last));
        let scan = core.engine.scan(core.trees.index, Bound::Included(&from), Bound::Included(&to), !ascending);
        let parse = |pair: Result<(Vec<u8>, Vec<u8>)>| {
            parse_hit(&pair?).ok_or_else(|| StoreError::corrupt("the index of the ledger", "an item cannot be decoded"))
        };
        let hits: Hits<'a> = Box::new(scan.map(parse));
        hits.peekable()
    };
    let mut kinds = if query.kinds.is_empty() { LedgerKind::ALL.to_vec() } else { query.kinds.clone() };
    kinds.sort_unstable();
    kinds.dedup();
    let sources = match (query.reference, &query.org) {
        (Some(id), _) => vec![source(core.by_reference(id))],
        (None, OrgFilter::All(_)) => kinds.into_iter().map(|kind| source(core.by_kind(kind))).collect(),
        (None, OrgFilter::One(org)) => kinds.into_iter().map(|kind| source(core.by_kind_and_org(kind, *org))).collect(),
        (None, OrgFilter::Several(orgs)) => {
            let mut orgs = orgs.clone();
            orgs.sort_unstable();
            orgs.dedup();
            let pairs = orgs.iter().flat_map(|org| kinds.iter().map(move |kind| (*kind, *org)));
            pairs.map(|(kind, org)| source(core.by_kind_and_org(kind, org))).collect()
        }
    };
    Merge { sources, ascending }
}

/// Hits that match in all that the index knows.
fn matching<'a>(core: &'a Core, query: &'a Query) -> impl Iterator<Item = Result<Hit>> + 'a {
    hits(core, query).filter(move |hit| {
        let Ok(hit) = hit else { return true };
        let kind = query.kinds.is_empty() || query.kinds.iter().any(|kind| *kind as u8 == hit.kind);
        kind && query.in_time(hit.millis)
    })
}

pub(crate) fn run(
    core: &Core,
    query: &Query,
    mut wanted: impl FnMut(&LedgerEntry) -> bool,
) -> Result<Vec<StoredEntry>> {
    let mut out = Vec::new();
    if query.limit == 0 {
        return Ok(out);
    }
    for hit in matching(core, query) {
        // Not there: not acknowledged yet, or expired since.
        let Some(found) = core.load(hit?.seq)? else { continue };
        if query.org.admits(found.entry.org) && wanted(&found.entry) {
            out.push(found);
            if out.len() >= query.limit {
                break;
            }
        }
    }
    Ok(out)
}

pub(crate) fn count(core: &Core, query: &Query) -> Result<u64> {
    // The index of an object does not know organizations; all other indexes answer alone.
    let look = query.reference.is_some() && !matches!(query.org, OrgFilter::All(_));
    let mut count = 0;
    for hit in matching(core, query) {
        let hit = hit?;
        if !look || core.load(hit.seq)?.is_some_and(|found| query.org.admits(found.entry.org)) {
            count += 1;
        }
    }
    Ok(count)
}

pub(crate) fn by_id(core: &Core, id: Uuid) -> Result<Option<StoredEntry>> {
    let prefix = core.by_id(id);
    let Some(pair) = scan_prefix(&*core.engine, core.trees.index, &prefix, false).next() else { return Ok(None) };
    let hit =
        parse_hit(&pair?).ok_or_else(|| StoreError::corrupt("the index of the ledger", "an item cannot be decoded"))?;
    // In the engine, but not flushed yet: nobody was told of it, so it is not there.
    if hit.seq > core.visible.read().head.seq {
        return Ok(None);
    }
    core.load(hit.seq)
}
