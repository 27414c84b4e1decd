//! What a resource says about each of its fields. Lists, forms, imports, exports and the OpenAPI document are all read
//! from these tables, so a field is declared once.

use serde_json::Value;

use super::related::Target;

pub(crate) type Choices = &'static [(&'static str, &'static str)];

/// How a field is kept, shown and read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Text,
    Int {
        min: i64,
        max: i64,
    },
    Bool,
    /// Shown as `%Y/%m/%d %H:%M:%S %z`; that form and RFC 3339 are read.
    DateTime,
    Uuid,
    /// Shown as `{"value","label"}`; the value, the object, or `label(value)` is read.
    Choice(Choices),
    /// As `Choice`, but JumpServer's value is a number.
    ChoiceInt(Choices),
    /// Shown as `{"id","name"}`; an id, `{"id"}` or `{"pk"}` is read.
    Related(Target),
    ManyRelated(Target),
    /// Identifiers of labels; shown and read as `name:value`.
    Labels,
    Strings,
    /// Passed through; the record's type checks it.
    Json,
    /// `{"type":"all"|"ids"|"attrs"}` (JumpServer: JSONManyToMany).
    ManyFilter(Target),
    /// A set of bits; shown as a list of `{"value","label"}`, names or objects are read.
    Actions,
    /// Read, never shown, never in a log.
    Secret,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    ReadWrite,
    ReadOnly,
    WriteOnly,
    /// Given when the record is made; later values are ignored.
    CreateOnly,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub name: &'static str,
    /// The key in the record's stored form.
    pub source: &'static str,
    pub label: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub access: Access,
    pub required: bool,
    pub nullable: bool,
    /// Made by the resource's hooks; not in the record.
    pub computed: bool,
    pub default: Option<fn() -> Value>,
    /// Left out of list rows (large or costly).
    pub detail_only: bool,
    pub export: bool,
}

impl Field {
    pub fn new(name: &'static str, label: &'static str, kind: Kind) -> Self {
        let secret = matches!(kind, Kind::Secret);
        Self {
            name,
            source: name,
            label,
            help: "",
            kind,
            access: if secret { Access::WriteOnly } else { Access::ReadWrite },
            required: false,
            nullable: false,
            computed: false,
            default: None,
            detail_only: false,
            export: !secret,
        }
    }

    #[must_use]
    pub fn required(mut self) -> Self {
        self.required = true;
        self
    }
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.access = Access::ReadOnly;
        self
    }
    #[must_use]
    pub fn create_only(mut self) -> Self {
        self.access = Access::CreateOnly;
        self
    }
    /// Read-only and made by the hooks.
    #[must_use]
    pub fn computed(mut self) -> Self {
        self.computed = true;
        self.access = Access::ReadOnly;
        self
    }
    /// Read by the hooks, which put it where it belongs; not a key of the record.
    #[must_use]
    pub fn virtual_input(mut self) -> Self {
        self.computed = true;
        self.access = Access::WriteOnly;
        self.export = false;
        self
    }
    /// Shown by the hooks and read by the hooks.
    #[must_use]
    pub fn through_hooks(mut self) -> Self {
        self.computed = true;
        self.access = Access::ReadWrite;
        self
    }
    #[must_use]
    pub fn source(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }
    #[must_use]
    pub fn help(mut self, help: &'static str) -> Self {
        self.help = help;
        self
    }
    #[must_use]
    pub fn default(mut self, value: fn() -> Value) -> Self {
        self.default = Some(value);
        self
    }
    #[must_use]
    pub fn detail_only(mut self) -> Self {
        self.detail_only = true;
        self
    }
    #[must_use]
    pub fn no_export(mut self) -> Self {
        self.export = false;
        self
    }

    pub fn readable(&self) -> bool {
        self.access != Access::WriteOnly && !matches!(self.kind, Kind::Secret)
    }

    pub fn writable(&self, creating: bool) -> bool {
        match self.access {
            Access::ReadWrite | Access::WriteOnly => true,
            Access::CreateOnly => creating,
            Access::ReadOnly => false,
        }
    }
}

pub(crate) fn text(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::Text)
}
pub(crate) fn int(name: &'static str, label: &'static str, min: i64, max: i64) -> Field {
    Field::new(name, label, Kind::Int { min, max })
}
pub(crate) fn boolean(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::Bool)
}
pub(crate) fn datetime(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::DateTime)
}
pub(crate) fn choice(name: &'static str, label: &'static str, choices: Choices) -> Field {
    Field::new(name, label, Kind::Choice(choices))
}
pub(crate) fn related(name: &'static str, label: &'static str, target: Target) -> Field {
    Field::new(name, label, Kind::Related(target))
}
pub(crate) fn many(name: &'static str, label: &'static str, target: Target) -> Field {
    Field::new(name, label, Kind::ManyRelated(target))
}
pub(crate) fn strings(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::Strings)
}
pub(crate) fn json(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::Json)
}
pub(crate) fn secret(name: &'static str, label: &'static str) -> Field {
    Field::new(name, label, Kind::Secret)
}

/// `id`, first in every table.
pub(crate) fn id() -> Field {
    Field::new("id", "ID", Kind::Uuid).read_only()
}

/// What `Meta` adds to every noun.
pub(crate) fn meta() -> Vec<Field> {
    let mut fields = labelled_meta();
    fields.retain(|f| f.name != "labels");
    fields
}

/// `meta` of nouns that carry labels.
pub(crate) fn labelled_meta() -> Vec<Field> {
    vec![
        text("comment", "Comment").default(|| Value::from("")),
        Field::new("labels", "Labels", Kind::Labels).default(|| Value::Array(Vec::new())),
        text("created_by", "Created by").read_only(),
        text("updated_by", "Updated by").read_only().detail_only(),
        datetime("date_created", "Date created").read_only(),
        datetime("date_updated", "Date updated").read_only(),
    ]
}

/// `org_id` and `org_name`.
pub(crate) fn org() -> Vec<Field> {
    vec![
        Field::new("org_id", "Organization ID", Kind::Uuid).read_only().no_export(),
        text("org_name", "Organization").computed(),
    ]
}
