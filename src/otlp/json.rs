//! Messages in protobuf's JSON encoding.
//!
//! `opentelemetry-proto` serializes its messages with serde. The result of `serde_json` differs
//! from protobuf's JSON in two points: numbers that are not finite become `null`, and unset fields
//! become `null`, which the OpenTelemetry Collector refuses. This module writes `"NaN"`,
//! `"Infinity"` and `"-Infinity"`, and omits unset fields.

use serde::ser::{
    Serialize, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::Value;

/// Serializes a message. Fails only if a map has keys that are not strings.
pub(crate) fn to_vec(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut value = message.serialize(Finite(serde_json::value::Serializer))?;
    leave_out_unset(&mut value);
    serde_json::to_vec(&value)
}

fn leave_out_unset(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(leave_out_unset);
        }
        Value::Array(elements) => elements.iter_mut().for_each(leave_out_unset),
        _ => {}
    }
}

/// A serializer that writes numbers that are not finite as protobuf does.
struct Finite<S>(S);

/// A part of a message, serialized with [`Finite`].
struct Inner<'a, T: ?Sized>(&'a T);

impl<T: Serialize + ?Sized> Serialize for Inner<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(Finite(serializer))
    }
}

macro_rules! pass_on {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method(self, $($argument: $type),*) -> Result<S::Ok, S::Error> {
            self.0.$method($($argument),*)
        })*
    };
}

macro_rules! begin {
    ($($method:ident -> $compound:ident($($argument:ident: $type:ty),*);)*) => {
        $(fn $method(self, $($argument: $type),*) -> Result<Self::$compound, S::Error> {
            self.0.$method($($argument),*).map(Finite)
        })*
    };
}

impl<S: Serializer> Serializer for Finite<S> {
    type Ok = S::Ok;
    type Error = S::Error;
    type SerializeSeq = Finite<S::SerializeSeq>;
    type SerializeTuple = Finite<S::SerializeTuple>;
    type SerializeTupleStruct = Finite<S::SerializeTupleStruct>;
    type SerializeTupleVariant = Finite<S::SerializeTupleVariant>;
    type SerializeMap = Finite<S::SerializeMap>;
    type SerializeStruct = Finite<S::SerializeStruct>;
    type SerializeStructVariant = Finite<S::SerializeStructVariant>;

    fn serialize_f64(self, value: f64) -> Result<S::Ok, S::Error> {
        if value.is_nan() {
            self.0.serialize_str("NaN")
        } else if value == f64::INFINITY {
            self.0.serialize_str("Infinity")
        } else if value == f64::NEG_INFINITY {
            self.0.serialize_str("-Infinity")
        } else {
            self.0.serialize_f64(value)
        }
    }

    fn serialize_f32(self, value: f32) -> Result<S::Ok, S::Error> {
        self.serialize_f64(value.into())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<S::Ok, S::Error> {
        self.0.serialize_some(&Inner(value))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0.serialize_newtype_struct(name, &Inner(value))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<S::Ok, S::Error> {
        self.0
            .serialize_newtype_variant(name, index, variant, &Inner(value))
    }

    pass_on! {
        serialize_bool(value: bool);
        serialize_i8(value: i8);
        serialize_i16(value: i16);
        serialize_i32(value: i32);
        serialize_i64(value: i64);
        serialize_i128(value: i128);
        serialize_u8(value: u8);
        serialize_u16(value: u16);
        serialize_u32(value: u32);
        serialize_u64(value: u64);
        serialize_u128(value: u128);
        serialize_char(value: char);
        serialize_str(value: &str);
        serialize_bytes(value: &[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(name: &'static str);
        serialize_unit_variant(name: &'static str, index: u32, variant: &'static str);
    }

    begin! {
        serialize_seq -> SerializeSeq(length: Option<usize>);
        serialize_tuple -> SerializeTuple(length: usize);
        serialize_tuple_struct -> SerializeTupleStruct(name: &'static str, length: usize);
        serialize_tuple_variant -> SerializeTupleVariant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        );
        serialize_map -> SerializeMap(length: Option<usize>);
        serialize_struct -> SerializeStruct(name: &'static str, length: usize);
        serialize_struct_variant -> SerializeStructVariant(
            name: &'static str, index: u32, variant: &'static str, length: usize
        );
    }
}

macro_rules! compound {
    ($($compound:ident: $($method:ident($($key:ident)?)),+;)*) => {
        $(impl<S: $compound> $compound for Finite<S> {
            type Ok = S::Ok;
            type Error = S::Error;

            $(fn $method<T: Serialize + ?Sized>(
                &mut self,
                $($key: &'static str,)?
                value: &T,
            ) -> Result<(), S::Error> {
                self.0.$method($($key,)? &Inner(value))
            })+

            fn end(self) -> Result<S::Ok, S::Error> {
                self.0.end()
            }
        })*
    };
}

compound! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key(), serialize_value();
    SerializeStruct: serialize_field(key);
    SerializeStructVariant: serialize_field(key);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(value: &impl Serialize) -> Value {
        let json = to_vec(value).expect("the value can be serialized");
        serde_json::from_slice(&json).expect("the output is JSON")
    }

    fn number(value: f64) -> Value {
        match value {
            _ if value.is_nan() => json!("NaN"),
            f64::INFINITY => json!("Infinity"),
            f64::NEG_INFINITY => json!("-Infinity"),
            // Parsing the number may change the last digit.
            _ => serde_json::from_str(&json!(value).to_string()).expect("the output is JSON"),
        }
    }

    #[derive(serde::Serialize)]
    enum Kind {
        Newtype(f64),
        Tuple(f64, f64),
        Struct { value: f64 },
        Unit,
    }

    proptest! {
        #[test]
        fn numbers_follow_the_json_mapping_of_protobuf(
            value in prop_oneof![
                any::<f64>(),
                Just(f64::NAN),
                Just(f64::INFINITY),
                Just(f64::NEG_INFINITY),
            ],
        ) {
            let expected = number(value);
            prop_assert_eq!(written(&value), expected.clone());
            prop_assert_eq!(written(&Some(value)), expected.clone());
            prop_assert_eq!(written(&vec![value]), json!([expected]));
            prop_assert_eq!(written(&(value, 1)), json!([expected, 1]));
            let map = BTreeMap::from([("key", Some(value)), ("unset", None)]);
            prop_assert_eq!(written(&map), json!({"key": expected}));
            prop_assert_eq!(written(&Kind::Newtype(value)), json!({"Newtype": expected}));
            prop_assert_eq!(
                written(&Kind::Tuple(value, value)),
                json!({"Tuple": [expected, expected]})
            );
            prop_assert_eq!(
                written(&Kind::Struct { value }),
                json!({"Struct": {"value": expected}})
            );
        }
    }

    #[test]
    fn all_other_values_are_written_as_by_serde_json() {
        let value = json!({
            "text": "NaN", "flag": true, "number": -3, "large": u64::MAX, "list": ["a", [], {}],
        });
        assert_eq!(written(&value), value);
        assert_eq!(written(&Kind::Unit), json!("Unit"));
    }
}
