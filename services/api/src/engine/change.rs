//! One change: what it does to the store and what the ledger says of it, committed together or not at all.
//!
//! Records touched twice by one request (two deleted users of the same group) are edited where the change holds them, so
//! that the second edit sees the first.

use std::any::Any;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use gatehouse_model::ledger::LedgerEntry;
use gatehouse_store::Batch;
use serde_json::Value;
use uuid::Uuid;

use super::reader::{Kept, Reader};
use crate::app::App;
use crate::audit::{self, Operation};
use crate::guard::Call;
use crate::problem::Problem;

/// A record without its type.
type Held = Box<dyn Any + Send + Sync>;
type Flush = fn(Option<Held>, Option<u64>, Uuid, &mut Batch);

struct Staged {
    id: Uuid,
    /// `None`: deleted.
    value: Option<Held>,
    /// `None`: new.
    version: Option<u64>,
    flush: Flush,
}

fn flush<T: Kept>(value: Option<Held>, version: Option<u64>, id: Uuid, batch: &mut Batch) {
    match value.map(Box::<dyn Any + Send + Sync>::downcast::<T>) {
        Some(Ok(record)) => record.stage(batch, version),
        // Made and deleted by the same change: nothing to do. A wrong type cannot happen: the key holds the kind.
        Some(Err(_)) => {}
        None if version.is_none() => {}
        None => T::unstage(batch, id),
    }
}

pub(crate) struct Change<'c> {
    pub call: &'c Call,
    pub reader: Reader,
    pub now: DateTime<Utc>,
    staged: Vec<Staged>,
    at: HashMap<(&'static str, Uuid), usize>,
    entries: Vec<LedgerEntry>,
    also: Vec<Also>,
    after: Vec<After>,
}

/// Adds to the batch what other services write there.
type Also = Box<dyn FnOnce(&App, &mut Batch) -> Result<(), Problem> + Send + Sync>;
type After = Box<dyn FnOnce(App) -> Pin<Box<dyn Future<Output = Result<(), Problem>> + Send>> + Send + Sync>;

impl<'c> Change<'c> {
    pub fn new(call: &'c Call) -> Self {
        let reader = call.reader();
        Self {
            call,
            reader,
            now: call.app.now(),
            staged: Vec::new(),
            at: HashMap::new(),
            entries: Vec::new(),
            also: Vec::new(),
            after: Vec::new(),
        }
    }

    /// The record as this change leaves it.
    pub fn get<T: Kept>(&self, id: Uuid) -> Result<Option<Arc<T>>, Problem> {
        match self.at.get(&(T::KIND, id)).and_then(|at| self.staged.get(*at)) {
            Some(staged) => Ok(staged.value.as_ref().and_then(|v| v.downcast_ref::<T>()).cloned().map(Arc::new)),
            None => Ok(self.reader.get::<T>(id)?),
        }
    }

    /// All records of the scope as this change leaves them.
    pub fn list<T: Kept>(&self) -> Result<Vec<Arc<T>>, Problem> {
        let mut out: Vec<Arc<T>> = Vec::new();
        for record in self.reader.list::<T>()? {
            if !self.at.contains_key(&(T::KIND, record.id())) {
                out.push(record);
            }
        }
        for staged in &self.staged {
            if let Some(record) = staged.value.as_ref().and_then(|v| v.downcast_ref::<T>()) {
                out.push(Arc::new(record.clone()));
            }
        }
        Ok(out)
    }

    pub fn insert<T: Kept>(&mut self, record: T) {
        self.put(record.id(), Some(Box::new(record)), None, flush::<T>, T::KIND);
    }

    pub fn update<T: Kept>(&mut self, record: T, version: u64) {
        self.put(record.id(), Some(Box::new(record)), Some(version), flush::<T>, T::KIND);
    }

    fn put(&mut self, id: Uuid, value: Option<Held>, version: Option<u64>, flush: Flush, kind: &'static str) {
        match self.at.get(&(kind, id)).and_then(|at| self.staged.get_mut(*at)) {
            // The first version is the one that the store holds.
            Some(staged) => staged.value = value,
            None => {
                self.at.insert((kind, id), self.staged.len());
                self.staged.push(Staged { id, value, version, flush });
            }
        }
    }

    /// Changes a record that exists; `false` when it does not.
    pub fn edit<T: Kept>(&mut self, id: Uuid, edit: impl FnOnce(&mut T)) -> Result<bool, Problem> {
        if let Some(at) = self.at.get(&(T::KIND, id)) {
            let record = self.staged.get_mut(*at).and_then(|s| s.value.as_mut()).and_then(|v| v.downcast_mut::<T>());
            return Ok(record.map(edit).is_some());
        }
        let Some((record, version)) = self.reader.versioned::<T>(id)? else { return Ok(false) };
        let mut record = T::clone(&record);
        edit(&mut record);
        self.update(record, version);
        Ok(true)
    }

    /// Makes or replaces a record that belongs to another one (secrets, settings).
    pub fn upsert<T: Kept>(&mut self, record: T) -> Result<(), Problem> {
        match self.reader.versioned::<T>(record.id())? {
            Some((_, version)) => self.update(record, version),
            None => self.insert(record),
        }
        Ok(())
    }

    /// Nothing happens when it does not exist.
    pub fn delete<T: Kept>(&mut self, id: Uuid) -> Result<(), Problem> {
        if let Some(staged) = self.at.get(&(T::KIND, id)).and_then(|at| self.staged.get_mut(*at)) {
            staged.value = None;
        } else if let Some((_, version)) = self.reader.versioned::<T>(id)? {
            self.put(id, None, Some(version), flush::<T>, T::KIND);
        }
        Ok(())
    }

    pub fn audit(&mut self, operation: Operation) {
        let entry = audit::entry(self.call, self.now, operation);
        self.entries.push(entry);
    }

    /// Lets another service add to the batch.
    pub fn also(&mut self, write: impl FnOnce(&App, &mut Batch) -> Result<(), Problem> + Send + Sync + 'static) {
        self.also.push(Box::new(write));
    }

    /// Done when the change is durable. For work of other services that keep their own batches; whatever can be refused
    /// is checked before the commit.
    pub fn after<F, Fut>(&mut self, work: F)
    where
        F: FnOnce(App) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Problem>> + Send + 'static,
    {
        self.after.push(Box::new(move |app| Box::pin(work(app))));
    }

    /// Does `work` without the walls between organizations: for what follows a user or a platform everywhere.
    pub fn everywhere<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Problem>) -> Result<T, Problem> {
        let global = self.reader.global();
        let scoped = std::mem::replace(&mut self.reader, global);
        let result = work(self);
        self.reader = scoped;
        result
    }

    pub fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.entries.is_empty() && self.also.is_empty() && self.after.is_empty()
    }

    pub async fn commit(self) -> Result<(), Problem> {
        if self.is_empty() {
            return Ok(());
        }
        let store = self.call.app.store().clone();
        let mut batch = store.batch();
        for staged in self.staged {
            (staged.flush)(staged.value, staged.version, staged.id, &mut batch);
        }
        for entry in self.entries {
            batch.audit(entry);
        }
        for write in self.also {
            write(&self.call.app, &mut batch)?;
        }
        store.commit(batch).await?;
        // Whoever is told that a change is done finds it done: decisions ask the read model.
        self.call.app.core().read().settled().await;
        for work in self.after {
            work(self.call.app.clone()).await?;
        }
        Ok(())
    }
}

/// What a request gave, in stored form, by field name. Holds only fields that the description lets be written.
#[derive(Default)]
pub(crate) struct Input {
    pub values: serde_json::Map<String, Value>,
    pub creating: bool,
}

impl Input {
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(name)
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.values.get(name).and_then(Value::as_str)
    }

    /// A text that is there and not blank.
    pub fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).filter(|s| !s.is_empty())
    }

    pub fn flag(&self, name: &str) -> Option<bool> {
        self.values.get(name).and_then(Value::as_bool)
    }

    pub fn ids(&self, name: &str) -> Option<Vec<Uuid>> {
        let items = self.values.get(name)?.as_array()?;
        Some(items.iter().filter_map(super::values::as_id).collect())
    }
}
