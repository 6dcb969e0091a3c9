//! From plain values to the Kubernetes API's types, strictly.
//!
//! The generated types skip a field they do not know, and their errors name no place. Each of them
//! does, however, tell its deserializer the names of all its fields; so this deserializer walks the
//! values, knows the path it is at, refuses what no field is called, and asks the table of
//! [`super::fields`] about what one is.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::Problem;
use super::fields;

/// Reads `value` as a `T`. Everything wrong that can be told at once is in the error.
pub(super) fn read<'de, T: Deserialize<'de>>(value: &'de Value) -> Result<T, Vec<Problem>> {
    let problems = RefCell::new(Vec::new());
    let result = T::deserialize(Strict { value, path: String::new(), problems: &problems });
    let mut problems = problems.into_inner();
    match result {
        Ok(read) if problems.is_empty() => Ok(read),
        Ok(_) => Err(problems),
        Err(stop) => {
            problems.push(Problem::new(stop.path.unwrap_or_default(), stop.reason));
            Err(problems)
        }
    }
}

/// What ends the reading: a value of the wrong type. The path is that of the innermost value.
#[derive(Debug)]
struct Stop {
    path: Option<String>,
    reason: String,
}

impl de::Error for Stop {
    fn custom<T: fmt::Display>(message: T) -> Stop {
        Stop { path: None, reason: message.to_string() }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Stop {}

/// A value, the path that leads to it, and where problems are gathered.
struct Strict<'de, 'p> {
    value: &'de Value,
    path: String,
    problems: &'p RefCell<Vec<Problem>>,
}

impl<'de, 'p> Strict<'de, 'p> {
    fn child(&self, value: &'de Value, path: String) -> Strict<'de, 'p> {
        Strict { value, path, problems: self.problems }
    }

    fn wanted<T>(&self, what: &str) -> Result<T, Stop> {
        let hint = match (what, self.value) {
            ("a string", Value::Number(_) | Value::Bool(_)) => "; put it in quotes",
            _ => "",
        };
        let reason = format!("{what} is expected here, not {}{hint}", describe(self.value));
        Err(Stop { path: Some(self.path.clone()), reason })
    }

    /// Runs a visitor and gives the error it may return the path of this value, unless it has one.
    fn visit<T>(self, visit: impl FnOnce(Strict<'de, 'p>) -> Result<T, Stop>) -> Result<T, Stop> {
        let path = self.path.clone();
        visit(self).map_err(|stop| Stop { path: stop.path.or(Some(path)), reason: stop.reason })
    }

    /// Judges the keys of an object whose fields are known.
    fn judge(&self, object: &serde_json::Map<String, Value>, fields: &'static [&'static str]) {
        for (key, value) in object {
            let path = join(&self.path, key);
            let reason = if fields.contains(&key.as_str()) {
                fields::refusal(&path, value)
            } else {
                Some(fields::unknown(key, fields))
            };
            let mut problems = self.problems.borrow_mut();
            // One problem for a field that is refused, none for each of its own fields.
            let told = problems.iter().any(|other| fields::below(&path, &other.path));
            if let Some(reason) = reason.filter(|_| !told) {
                problems.push(Problem::new(path, reason));
            }
        }
    }

    fn object<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Value::Object(object) = self.value else { return self.wanted("a mapping of keys to values") };
        self.visit(|this| visitor.visit_map(Entries { at: &this, entries: object.iter(), value: None }))
    }
}

/// `a.b`, or `a[b.c]` for a key that itself has dots.
fn join(path: &str, key: &str) -> String {
    match (path.is_empty(), key.contains('.')) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}[{key}]"),
        (false, false) => format!("{path}.{key}"),
    }
}

fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(value) => format!("the boolean {value}"),
        Value::Number(value) => format!("the number {value}"),
        Value::String(value) => format!("the string {value:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// The methods that only say which kind of value they want.
macro_rules! wants {
    ($what:literal, $kind:pat => $($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
            match self.value {
                $kind => self.deserialize_any(visitor),
                _ => self.wanted($what),
            }
        }
    )*};
}

impl<'de> Deserializer<'de> for Strict<'de, '_> {
    type Error = Stop;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        match self.value {
            Value::Object(_) => self.object(visitor),
            Value::Array(list) => self.visit(|this| visitor.visit_seq(Items { at: &this, items: list, next: 0 })),
            Value::Null => self.visit(|_| visitor.visit_unit()),
            Value::Bool(value) => self.visit(|_| visitor.visit_bool(*value)),
            Value::String(value) => self.visit(|_| visitor.visit_borrowed_str(value)),
            Value::Number(number) => self.visit(|_| match (number.as_u64(), number.as_i64(), number.as_f64()) {
                (Some(value), _, _) => visitor.visit_u64(value),
                (_, Some(value), _) => visitor.visit_i64(value),
                (_, _, Some(value)) => visitor.visit_f64(value),
                _ => Err(de::Error::custom(format!("the number {number} is out of range"))),
            }),
        }
    }

    wants! { "a boolean (true or false)", Value::Bool(_) => deserialize_bool }
    wants! { "a whole number", Value::Number(_) =>
    deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
    deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 }
    wants! { "a number", Value::Number(_) => deserialize_f32 deserialize_f64 }
    wants! { "a string", Value::String(_) =>
    deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_identifier }
    wants! { "a list", Value::Array(_) => deserialize_seq }
    wants! { "nothing", Value::Null => deserialize_unit }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        if self.value.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_unit(visitor)
    }

    /// A quantity given as a number keeps the digits it was written with, rather than pass through
    /// a binary fraction.
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Stop> {
        match (name, self.value) {
            ("Quantity", Value::Number(number)) => {
                let digits = number.to_string();
                let digits: StrDeserializer<'_, Stop> = digits.as_str().into_deserializer();
                self.visit(|_| visitor.visit_newtype_struct(digits))
            }
            ("Quantity", Value::String(_)) => visitor.visit_newtype_struct(self),
            ("Quantity", _) => self.wanted("a quantity such as 500m or 64Mi"),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.object(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if let Value::Object(object) = self.value {
            self.judge(object, fields);
        }
        self.object(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.deserialize_any(visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Stop> {
        visitor.visit_unit()
    }
}

/// The entries of an object.
struct Entries<'a, 'de, 'p> {
    at: &'a Strict<'de, 'p>,
    entries: serde_json::map::Iter<'de>,
    value: Option<(&'de str, &'de Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_, 'de, '_> {
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Stop> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        self.value = Some((key, value));
        let key: StrDeserializer<'de, Stop> = key.as_str().into_deserializer();
        seed.deserialize(key).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Stop> {
        let (key, value) = self.value.take().ok_or_else(|| de::Error::custom("a value was read before its key"))?;
        seed.deserialize(self.at.child(value, join(&self.at.path, key)))
    }
}

/// The items of a list.
struct Items<'a, 'de, 'p> {
    at: &'a Strict<'de, 'p>,
    items: &'de [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'_, 'de, '_> {
    type Error = Stop;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Stop> {
        let Some(item) = self.items.get(self.next) else { return Ok(None) };
        let path = format!("{}[{}]", self.at.path, self.next);
        self.next += 1;
        seed.deserialize(self.at.child(item, path)).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, Pod};
    use serde_json::json;

    use super::*;

    fn problems(value: Value) -> Vec<String> {
        read::<Pod>(&value).unwrap_err().iter().map(Problem::to_string).collect()
    }

    fn pod(container: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}})
    }

    #[test]
    fn unknown_fields_are_named_with_their_path_and_the_likely_name() {
        let found = problems(pod(json!({"name": "c", "imgae": "x", "Args": [], "wobble": 1})));
        assert_eq!(found.len(), 3, "{found:?}");
        let says = |text: &str| found.iter().any(|problem| problem == text);
        assert!(says("spec.containers[0].imgae: no such field; did you mean image?"), "{found:?}");
        assert!(says("spec.containers[0].Args: no such field; did you mean args?"), "{found:?}");
        assert!(says("spec.containers[0].wobble: no such field"), "{found:?}");
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_path() {
        let found = problems(pod(json!({"name": "c", "command": ["sleep", 5]})));
        assert_eq!(
            found,
            ["spec.containers[0].command[1]: a string is expected here, not the number 5; put it in quotes"]
        );
        let found = problems(pod(json!({"name": "c", "ports": [{"containerPort": "80"}]})));
        assert_eq!(
            found,
            ["spec.containers[0].ports[0].containerPort: a whole number is expected here, not the string \"80\""]
        );
        let found = problems(pod(json!({"name": "c", "tty": "no"})));
        assert!(found[0].starts_with("spec.containers[0].tty: a boolean"), "{found:?}");
        let found = problems(pod(json!({"name": "c", "args": "x"})));
        assert_eq!(found, ["spec.containers[0].args: a list is expected here, not the string \"x\""]);
        let found = problems(pod(json!({"name": "c", "ports": [{"containerPort": 99_999_999_999_u64}]})));
        assert!(found[0].starts_with("spec.containers[0].ports[0].containerPort: "), "{found:?}");
    }

    #[test]
    fn quantities_keep_their_digits() {
        let value = json!({"name": "c", "resources": {"limits": {"cpu": 0.1, "memory": 1024}}});
        let container: Container = serde_json::from_value(value.clone()).unwrap();
        let pod: Pod = read(&pod(value)).unwrap();
        assert_eq!(pod.spec.unwrap().containers[0].resources, container.resources);
    }

    #[test]
    fn reading_gives_what_the_generated_types_give() {
        let value = pod(json!({
            "name": "c", "image": "i", "env": [{"name": "A", "value": "1"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}], "tty": false, "stdin": null,
        }));
        assert_eq!(read::<Pod>(&value).unwrap(), serde_json::from_value::<Pod>(value).unwrap());
    }
}
