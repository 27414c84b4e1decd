//! The bridge between the engine, which knows only descriptions, and a record type with its hooks.

use std::cmp::Ordering;
use std::sync::Arc;

use async_trait::async_trait;
use gatehouse_model::common::Invalid;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::change::{Change, Input};
use super::plan::{Plan, SortKey};
use super::probe;
use super::reader::Kept;
use crate::guard::Call;
use crate::problem::Problem;

pub(crate) type Predicate<T> = Box<dyn Fn(&T) -> bool + Send>;

/// How many rows there are, and those of the page.
pub(crate) type Page<T> = (usize, Vec<Arc<T>>);

/// What is particular to a resource. Everything has a default except the checks of a whole record.
#[async_trait]
pub(crate) trait Hooks<T: Kept>: Send + Sync + 'static {
    /// Checks of a record by itself.
    fn validate(&self, row: &T) -> Result<(), Invalid>;

    /// How the operation log names it.
    fn name(&self, row: &T) -> String;

    /// Whether the caller's scope sees the record; the organization wall has been checked already.
    fn visible(&self, _call: &Call, _row: &T) -> Result<bool, Problem> {
        Ok(true)
    }

    /// Rows to start from, when there is something better than all of them. They are not asked for `visible` again.
    fn candidates(&self, _call: &Call) -> Result<Option<Vec<Arc<T>>>, Problem> {
        Ok(None)
    }

    /// How many rows there are, and those of the page, when something keeps them in that order already; nothing is asked
    /// of them again. `None`: the rows are gone through.
    fn page(&self, _call: &Call, _plan: &Plan) -> Result<Option<Page<T>>, Problem> {
        Ok(None)
    }

    /// One of the resource's own filters. `None`: not a filter of this resource.
    fn filter(&self, _call: &Call, _name: &str, _value: &str) -> Result<Option<Predicate<T>>, Problem> {
        Ok(None)
    }

    /// Fills the computed fields of a shown row.
    fn show(&self, _call: &Call, _row: &T, _out: &mut Map<String, Value>, _detail: bool) -> Result<(), Problem> {
        Ok(())
    }

    /// Checks across records and everything that is saved along with this one.
    async fn before_save(
        &self,
        _change: &mut Change<'_>,
        _new: &mut T,
        _old: Option<&T>,
        _input: &Input,
    ) -> Result<(), Problem> {
        Ok(())
    }

    /// Refuses, or removes what points at the record.
    async fn before_delete(&self, _change: &mut Change<'_>, _row: &T) -> Result<(), Problem> {
        Ok(())
    }
}

/// A row without its type.
pub(crate) trait Row: Send + Sync {
    fn id(&self) -> Uuid;
    fn org(&self) -> Option<Uuid>;
    fn name(&self) -> String;
    fn stored(&self) -> Result<Map<String, Value>, Problem>;
    fn show(&self, call: &Call, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem>;
}

pub(crate) struct Selection {
    pub count: usize,
    pub rows: Vec<Box<dyn Row>>,
}

#[async_trait]
pub(crate) trait Table: Send + Sync {
    fn select(&self, call: &Call, plan: &Plan) -> Result<Selection, Problem>;
    fn load(&self, call: &Call, id: Uuid) -> Result<Option<Box<dyn Row>>, Problem>;
    async fn create(
        &self,
        change: &mut Change<'_>,
        stored: Map<String, Value>,
        input: &Input,
    ) -> Result<Box<dyn Row>, Problem>;
    /// The row before and after; `None` when it does not exist or is not visible.
    async fn update(
        &self,
        change: &mut Change<'_>,
        id: Uuid,
        patch: Map<String, Value>,
        input: &Input,
    ) -> Result<Option<(Box<dyn Row>, Box<dyn Row>)>, Problem>;
    async fn delete(&self, change: &mut Change<'_>, id: Uuid) -> Result<Option<Box<dyn Row>>, Problem>;
}

pub(crate) struct Typed<T: Kept, H: Hooks<T>> {
    hooks: Arc<H>,
    record: std::marker::PhantomData<fn() -> T>,
}

impl<T: Kept, H: Hooks<T>> Typed<T, H> {
    pub fn new(hooks: H) -> Self {
        Self { hooks: Arc::new(hooks), record: std::marker::PhantomData }
    }

    fn row(&self, record: Arc<T>) -> Box<dyn Row> {
        Box::new(TypedRow { record, hooks: self.hooks.clone() })
    }
}

struct TypedRow<T: Kept, H: Hooks<T>> {
    record: Arc<T>,
    hooks: Arc<H>,
}

impl<T: Kept, H: Hooks<T>> Row for TypedRow<T, H> {
    fn id(&self) -> Uuid {
        self.record.id()
    }
    fn org(&self) -> Option<Uuid> {
        self.record.org()
    }
    fn name(&self) -> String {
        self.hooks.name(&self.record)
    }
    fn stored(&self) -> Result<Map<String, Value>, Problem> {
        to_map(&*self.record)
    }
    fn show(&self, call: &Call, out: &mut Map<String, Value>, detail: bool) -> Result<(), Problem> {
        self.hooks.show(call, &self.record, out, detail)
    }
}

pub(crate) fn to_map<T: Kept>(record: &T) -> Result<Map<String, Value>, Problem> {
    match serde_json::to_value(record) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Problem::internal(&format!("a {} is not an object", T::KIND))),
        Err(e) => Err(Problem::internal(&e)),
    }
}

fn from_map<T: Kept>(stored: Map<String, Value>) -> Result<T, Problem> {
    // What reaches this has been read field by field; what the type still refuses is the shape of a JSON field.
    serde_json::from_value(Value::Object(stored))
        .map_err(|e| Problem::bad_request("invalid", format!("the record is not well formed: {e}")))
}

#[async_trait]
impl<T: Kept, H: Hooks<T>> Table for Typed<T, H> {
    fn select(&self, call: &Call, plan: &Plan) -> Result<Selection, Problem> {
        if let Some((count, page)) = self.hooks.page(call, plan)? {
            return Ok(Selection { count, rows: page.into_iter().map(|record| self.row(record)).collect() });
        }
        let (all, checked) = match self.hooks.candidates(call)? {
            Some(rows) => (rows, true),
            None => (call.reader().list::<T>()?, false),
        };
        let mut own: Vec<Predicate<T>> = Vec::new();
        for (name, value) in &plan.own {
            if let Some(predicate) = self.hooks.filter(call, name, value)? {
                own.push(predicate);
            }
        }
        let names = plan.probed();
        let mut kept: Vec<(SortKey, Arc<T>)> = Vec::new();
        for record in all {
            if plan.ids.as_ref().is_some_and(|ids| !ids.contains(&record.id())) {
                continue;
            }
            if !own.iter().all(|p| p(&record)) || !(checked || self.hooks.visible(call, &record)?) {
                continue;
            }
            let key = if names.is_empty() {
                SortKey::default()
            } else {
                let values = probe::fields(&*record, &names);
                if !plan.matches(&values) {
                    continue;
                }
                plan.sort_key(&values)
            };
            kept.push((key, record));
        }
        if !plan.order.is_empty() {
            kept.sort_by(|(a, ra), (b, rb)| plan.compare(a, b).then_with(|| ra.id().cmp(&rb.id())));
        } else if plan.newest_first {
            kept.sort_by(|(_, a), (_, b)| match b.id().cmp(&a.id()) {
                Ordering::Equal => Ordering::Equal,
                other => other,
            });
        }
        let count = kept.len();
        let rows = kept.into_iter().skip(plan.offset).take(plan.limit).map(|(_, record)| self.row(record)).collect();
        Ok(Selection { count, rows })
    }

    fn load(&self, call: &Call, id: Uuid) -> Result<Option<Box<dyn Row>>, Problem> {
        match call.reader().get::<T>(id)? {
            Some(record) if self.hooks.visible(call, &record)? => Ok(Some(self.row(record))),
            _ => Ok(None),
        }
    }

    async fn create(
        &self,
        change: &mut Change<'_>,
        stored: Map<String, Value>,
        input: &Input,
    ) -> Result<Box<dyn Row>, Problem> {
        let mut record: T = from_map(stored)?;
        self.hooks.before_save(change, &mut record, None, input).await?;
        self.hooks.validate(&record)?;
        change.insert(record.clone());
        Ok(self.row(Arc::new(record)))
    }

    async fn update(
        &self,
        change: &mut Change<'_>,
        id: Uuid,
        patch: Map<String, Value>,
        input: &Input,
    ) -> Result<Option<(Box<dyn Row>, Box<dyn Row>)>, Problem> {
        let Some((stored, version)) = change.reader.versioned::<T>(id)? else { return Ok(None) };
        let Some(old) = change.get::<T>(id)? else { return Ok(None) };
        drop(stored);
        if !self.hooks.visible(change.call, &old)? {
            return Ok(None);
        }
        let mut map = to_map(&*old)?;
        map.extend(patch);
        let mut new: T = from_map(map)?;
        self.hooks.before_save(change, &mut new, Some(&old), input).await?;
        self.hooks.validate(&new)?;
        change.update(new.clone(), version);
        Ok(Some((self.row(old), self.row(Arc::new(new)))))
    }

    async fn delete(&self, change: &mut Change<'_>, id: Uuid) -> Result<Option<Box<dyn Row>>, Problem> {
        let Some(old) = change.get::<T>(id)? else { return Ok(None) };
        if !self.hooks.visible(change.call, &old)? {
            return Ok(None);
        }
        self.hooks.before_delete(change, &old).await?;
        change.delete::<T>(id)?;
        Ok(Some(self.row(old)))
    }
}
