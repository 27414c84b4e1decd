//! One engine for every resource. A resource is a description (names, permission points, a field table, filters) and a
//! few hooks; from it come list, detail, create, update, delete, bulk, form metadata, import, export and OpenAPI.
//!
//! What must not be here: anything that only one resource needs.

pub(crate) mod change;
pub(crate) mod export;
pub(crate) mod field;
pub(crate) mod import;
pub(crate) mod list;
pub(crate) mod openapi;
pub(crate) mod options;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod reader;
pub(crate) mod related;
pub(crate) mod sheet;
pub(crate) mod table;
pub(crate) mod values;
pub(crate) mod write;

use std::sync::Arc;

use axum::http::Method;
use field::Field;
use reader::Kept;
use serde_json::json;
use table::{Hooks, Table, Typed};

use crate::guard::{Call, Doc, Need, Routes};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Methods {
    pub create: bool,
    pub update: bool,
    pub delete: bool,
}

impl Methods {
    pub const ALL: Self = Self { create: true, update: true, delete: true };
    pub const READ: Self = Self { create: false, update: false, delete: false };
}

/// Who may use a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guarding {
    /// `app.action_model` in the request's organization.
    Org,
    /// Read in an organization, changed only by those who hold the point for the whole system.
    SystemWrite,
    /// Read and changed only with the point for the whole system.
    System,
}

pub(crate) struct Resource {
    /// First part of the path and of the permission point.
    pub app: &'static str,
    /// Second part of the path, plural.
    pub route: &'static str,
    /// The permission point is `app.action_model`.
    pub model: &'static str,
    /// How people and the operation log name one.
    pub label: &'static str,
    pub guarding: Guarding,
    /// Records have `org_id`: they cannot be made in the global organization.
    pub in_org: bool,
    pub methods: Methods,
    pub fields: Vec<Field>,
    pub search: Vec<&'static str>,
    /// Query keys that the hooks filter by.
    pub filters: Vec<&'static str>,
    /// (index of the record, field that its conflict is shown at).
    pub unique: Vec<(&'static str, &'static str)>,
    /// Changes of it are made one after another: their checks look at other records.
    pub serialised: bool,
    pub newest_first: bool,
    /// Set when the record keeps who changed it (`Meta`).
    pub has_meta: bool,
    pub table: Arc<dyn Table>,
}

impl Resource {
    pub fn new<T: Kept, H: Hooks<T>>(
        app: &'static str,
        route: &'static str,
        model: &'static str,
        label: &'static str,
        fields: Vec<Field>,
        hooks: H,
    ) -> Self {
        Self {
            app,
            route,
            model,
            label,
            guarding: Guarding::Org,
            in_org: fields.iter().any(|f| f.name == "org_id"),
            methods: Methods::ALL,
            has_meta: fields.iter().any(|f| f.name == "date_updated"),
            fields,
            search: vec!["name", "comment"],
            filters: Vec::new(),
            unique: vec![("name", "name")],
            serialised: false,
            newest_first: false,
            table: Arc::new(Typed::<T, H>::new(hooks)),
        }
    }

    #[must_use]
    pub fn guarding(mut self, guarding: Guarding) -> Self {
        self.guarding = guarding;
        self
    }
    #[must_use]
    pub fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }
    #[must_use]
    pub fn search(mut self, fields: &[&'static str]) -> Self {
        self.search = fields.to_vec();
        self
    }
    #[must_use]
    pub fn filters(mut self, filters: &[&'static str]) -> Self {
        self.filters = filters.to_vec();
        self
    }
    #[must_use]
    pub fn unique(mut self, unique: &[(&'static str, &'static str)]) -> Self {
        self.unique = unique.to_vec();
        self
    }
    #[must_use]
    pub fn serialised(mut self) -> Self {
        self.serialised = true;
        self
    }
    #[must_use]
    pub fn newest_first(mut self) -> Self {
        self.newest_first = true;
        self
    }

    pub fn path(&self) -> String {
        format!("/api/v1/{}/{}/", self.app, self.route)
    }

    pub fn item_path(&self) -> String {
        format!("/api/v1/{}/{}/{{id}}/", self.app, self.route)
    }

    /// The name of the row's schema in the OpenAPI document.
    pub fn schema(&self) -> String {
        let mut out = String::new();
        for part in [self.app, self.route].iter().flat_map(|p| p.split('-')) {
            let mut letters = part.chars();
            if let Some(first) = letters.next() {
                out.extend(first.to_uppercase());
                out.push_str(letters.as_str());
            }
        }
        out
    }

    pub fn need(&self, action: &str) -> Need {
        // Descriptions live as long as the program, and there are a few hundred points.
        let point: &'static str = Box::leak(format!("{}.{action}_{}", self.app, self.model).into_boxed_str());
        match self.guarding {
            Guarding::Org => Need::Point(point),
            Guarding::System => Need::System(point),
            Guarding::SystemWrite if action == "view" => Need::Point(point),
            Guarding::SystemWrite => Need::System(point),
        }
    }

    /// Adds the resource's routes. Each is guarded by the point of its action.
    pub fn mount(self: &Arc<Self>, routes: &mut Routes) {
        let schema = json!({"$ref": format!("#/components/schemas/{}", self.schema())});
        let doc = |what: &str| Doc::new(format!("{}: {what}", self.label));
        let (list, item) = (self.path(), self.item_path());
        let each = |handler: fn(Arc<Self>, Call) -> BoxedAnswer| {
            let resource = self.clone();
            move |call: Call| handler(resource.clone(), call)
        };
        let list_doc = doc("list").query(list::QUERY).response(openapi::page_of(&schema));
        routes.get(&list, self.need("view"), list_doc, each(|r, c| Box::pin(list::list(r, c))));
        routes.get(
            &item,
            self.need("view"),
            doc("read").response(schema.clone()),
            each(|r, c| Box::pin(list::retrieve(r, c))),
        );
        let options = each(|r, c| Box::pin(async move { options::options(&r, &c) }));
        routes.add(Method::OPTIONS, &list, self.need("view"), doc("fields of the form"), options);
        if self.methods.create {
            let create = doc("create one, or several from an array").request(schema.clone()).response(schema.clone());
            routes.post(&list, self.need("add"), create, each(|r, c| Box::pin(write::create(r, c))));
        }
        if self.methods.update {
            let change = |what: &str| doc(what).request(schema.clone()).response(schema.clone());
            routes.put(&item, self.need("change"), change("replace"), each(|r, c| Box::pin(write::update(r, c))));
            routes.patch(&item, self.need("change"), change("change"), each(|r, c| Box::pin(write::update(r, c))));
            let bulk = "change several: an array of objects with id; a spreadsheet updates or creates";
            routes.put(&list, self.need("change"), doc(bulk), each(|r, c| Box::pin(write::update_many(r, c))));
            routes.patch(&list, self.need("change"), doc(bulk), each(|r, c| Box::pin(write::update_many(r, c))));
        }
        if self.methods.delete {
            routes.delete(&item, self.need("delete"), doc("delete"), each(|r, c| Box::pin(write::delete(r, c))));
            let many = doc("delete several").query(&[("spm", "key from /api/v1/common/resources/cache/")]);
            routes.delete(&list, self.need("delete"), many, each(|r, c| Box::pin(write::delete_many(r, c))));
        }
    }
}

type BoxedAnswer = std::pin::Pin<Box<dyn std::future::Future<Output = crate::guard::Answer> + Send>>;
