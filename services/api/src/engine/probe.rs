//! Reads a few top-level fields of any record without building the whole JSON value.
//!
//! Lists filter, search and sort on two or three fields of up to 100,000 records; turning each record into a JSON tree for
//! that would cost a hundred times more than the answer. A `Serializer` that keeps the wanted fields and skips the rest
//! works for every noun, so no resource needs accessors of its own.

use std::fmt::Display;

use serde::ser::{Impossible, SerializeMap, SerializeStruct};
use serde::{Serialize, Serializer};
use serde_json::Value;

/// The values of `names` in `record`; `Null` for what it does not have.
pub(crate) fn fields<T: Serialize>(record: &T, names: &[&str]) -> Vec<Value> {
    let mut out = vec![Value::Null; names.len()];
    // A record that does not serialise (it never happens: they come from the store) has no fields.
    if record.serialize(Pick { names, out: &mut out }).is_err() {
        out.fill(Value::Null);
    }
    out
}

#[derive(Debug)]
struct Skip(String);

impl Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Skip {}
impl serde::ser::Error for Skip {
    fn custom<M: Display>(msg: M) -> Self {
        Self(msg.to_string())
    }
}

struct Pick<'a> {
    names: &'a [&'a str],
    out: &'a mut [Value],
}

impl Pick<'_> {
    fn take<V: ?Sized + Serialize>(&mut self, at: usize, value: &V) -> Result<(), Skip> {
        let value = serde_json::to_value(value).map_err(|e| Skip(e.to_string()))?;
        let name = self.names.get(at);
        // A field may be wanted twice: to search in and to sort by.
        for (slot, _) in self.out.iter_mut().zip(self.names).filter(|(_, n)| Some(*n) == name) {
            slot.clone_from(&value);
        }
        Ok(())
    }
}

impl SerializeStruct for Pick<'_> {
    type Ok = ();
    type Error = Skip;
    fn serialize_field<V: ?Sized + Serialize>(&mut self, key: &'static str, value: &V) -> Result<(), Skip> {
        match self.names.iter().position(|n| *n == key) {
            Some(at) => self.take(at, value),
            None => Ok(()),
        }
    }
    fn end(self) -> Result<(), Skip> {
        Ok(())
    }
}

impl SerializeMap for Pick<'_> {
    type Ok = ();
    type Error = Skip;
    fn serialize_key<K: ?Sized + Serialize>(&mut self, _: &K) -> Result<(), Skip> {
        Err(Skip("a record is written entry by entry".into()))
    }
    fn serialize_value<V: ?Sized + Serialize>(&mut self, _: &V) -> Result<(), Skip> {
        Err(Skip("a record is written entry by entry".into()))
    }
    fn serialize_entry<K: ?Sized + Serialize, V: ?Sized + Serialize>(&mut self, k: &K, v: &V) -> Result<(), Skip> {
        match k.serialize(Position(self.names))? {
            Some(at) => self.take(at, v),
            None => Ok(()),
        }
    }
    fn end(self) -> Result<(), Skip> {
        Ok(())
    }
}

macro_rules! refuse {
    ($ok:ty; $($name:ident($($t:ty),*);)+) => { $(
        fn $name(self, $(_: $t),*) -> Result<$ok, Skip> { Err(Skip(concat!("not expected here: ", stringify!($name)).into())) }
    )+ };
}

macro_rules! refuse_scalars {
    ($ok:ty) => {
        refuse! { $ok;
            serialize_bool(bool); serialize_i8(i8); serialize_i16(i16); serialize_i32(i32); serialize_i64(i64);
            serialize_u8(u8); serialize_u16(u16); serialize_u32(u32); serialize_u64(u64);
            serialize_f32(f32); serialize_f64(f64); serialize_char(char); serialize_bytes(&[u8]);
            serialize_none(); serialize_unit(); serialize_unit_struct(&'static str);
            serialize_unit_variant(&'static str, u32, &'static str);
        }
        fn serialize_some<V: ?Sized + Serialize>(self, value: &V) -> Result<$ok, Skip> {
            value.serialize(self)
        }
        fn serialize_newtype_struct<V: ?Sized + Serialize>(self, _: &'static str, value: &V) -> Result<$ok, Skip> {
            value.serialize(self)
        }
        fn serialize_newtype_variant<V: ?Sized + Serialize>(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: &V,
        ) -> Result<$ok, Skip> {
            Err(Skip("a variant is not a record".into()))
        }
    };
}

macro_rules! refuse_sequences {
    ($ok:ty) => {
        type SerializeSeq = Impossible<$ok, Skip>;
        type SerializeTuple = Impossible<$ok, Skip>;
        type SerializeTupleStruct = Impossible<$ok, Skip>;
        type SerializeTupleVariant = Impossible<$ok, Skip>;
        type SerializeStructVariant = Impossible<$ok, Skip>;
        fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Skip> {
            Err(Skip("a sequence is not a record".into()))
        }
        fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Skip> {
            Err(Skip("a tuple is not a record".into()))
        }
        fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Skip> {
            Err(Skip("a tuple is not a record".into()))
        }
        fn serialize_tuple_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeTupleVariant, Skip> {
            Err(Skip("a variant is not a record".into()))
        }
        fn serialize_struct_variant(
            self,
            _: &'static str,
            _: u32,
            _: &'static str,
            _: usize,
        ) -> Result<Self::SerializeStructVariant, Skip> {
            Err(Skip("a variant is not a record".into()))
        }
    };
}

impl Serializer for Pick<'_> {
    type Ok = ();
    type Error = Skip;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    refuse_scalars!(());
    refuse_sequences!(());
    fn serialize_str(self, _: &str) -> Result<(), Skip> {
        Err(Skip("a string is not a record".into()))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self, Skip> {
        Ok(self)
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, Skip> {
        Ok(self)
    }
}

/// Where a map key stands in the list of wanted names.
struct Position<'a>(&'a [&'a str]);

impl Serializer for Position<'_> {
    type Ok = Option<usize>;
    type Error = Skip;
    type SerializeMap = Impossible<Option<usize>, Skip>;
    type SerializeStruct = Impossible<Option<usize>, Skip>;
    refuse_scalars!(Option<usize>);
    refuse_sequences!(Option<usize>);
    fn serialize_str(self, key: &str) -> Result<Option<usize>, Skip> {
        Ok(self.0.iter().position(|n| *n == key))
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Skip> {
        Err(Skip("a key is a string".into()))
    }
    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Skip> {
        Err(Skip("a key is a string".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatehouse_model::common::Meta;
    use gatehouse_model::org::Label;

    #[test]
    fn reads_own_and_flattened_fields_and_nothing_else() {
        let now = chrono::Utc::now();
        let mut meta = Meta::new("admin", now);
        meta.comment = "hello".into();
        let id = uuid::Uuid::now_v7();
        let label = Label { id, org_id: id, name: "env".into(), value: "prod".into(), color: String::new(), meta };
        assert_eq!(
            fields(&label, &["value", "comment", "missing", "id", "value"]),
            vec!["prod".into(), "hello".into(), Value::Null, id.to_string().into(), Value::from("prod")]
        );
    }
}
