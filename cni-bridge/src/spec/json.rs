//! JSON read the way Go's `encoding/json` reads it.
//!
//! Every other CNI program is written in Go, and runtimes lean on its habits:
//! keys match whatever their case (containerd sends `HostPort`, test suites send
//! `RuntimeConfig`), of duplicate keys the last one counts, and `null` is as if
//! the key were absent. serde does none of this, so the text is first read into
//! a [`Folded`] tree, and typed values are taken from it through [`Node`], which
//! knows its path for the error message.

use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::{Error, code};

/// A JSON value whose object keys are all lower-case, without null members.
#[derive(Debug, Clone, Default)]
pub struct Folded(pub Value);

impl<'de> Deserialize<'de> for Folded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Folded, D::Error> {
        deserializer.deserialize_any(Folder).map(Folded)
    }
}

struct Folder;

impl<'de> Visitor<'de> for Folder {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Folded(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        // In the order of the text, so that of duplicates the last one stays.
        while let Some((key, Folded(value))) = members.next_entry::<String, Folded>()? {
            if !value.is_null() {
                object.insert(key.to_lowercase(), value);
            }
        }
        Ok(Value::Object(object))
    }
}

impl Folded {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// [`code::DECODE`] when the text is not one JSON object.
    pub fn parse(text: &[u8]) -> Result<Folded, Error> {
        let folded: Folded = serde_json::from_slice(text)
            .map_err(|error| Error::new(code::DECODE, format!("the network configuration is not JSON: {error}")))?;
        match folded.0 {
            Value::Object(_) => Ok(folded),
            _ => Err(Error::new(code::DECODE, "the network configuration is not a JSON object")),
        }
    }

    /// The root, for reading.
    pub fn root(&self) -> Node<'_> {
        Node { path: String::new(), value: Some(&self.0) }
    }
}

/// A place in a [`Folded`] tree, where there may be nothing.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    path: String,
    value: Option<&'a Value>,
}

impl<'a> Node<'a> {
    /// The member `key`, spelled as the documentation spells it.
    pub fn get(&self, key: &str) -> Node<'a> {
        let value = self.value.and_then(|value| value.get(key.to_lowercase()));
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Node { path, value }
    }

    /// The path from the root, as an error names it.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether there is something here.
    pub fn exists(&self) -> bool {
        self.value.is_some()
    }

    /// The value itself.
    pub fn value(&self) -> Option<&'a Value> {
        self.value
    }

    fn wrong(&self, expected: &str) -> Error {
        let found = self.value.map_or_else(String::new, Value::to_string);
        Error::new(code::DECODE, format!("{}: expected {expected}, found {found}", self.path))
    }

    /// A boolean; false when absent.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn flag(&self) -> Result<bool, Error> {
        match self.value {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong("true or false")),
        }
    }

    /// A whole number from 0 to 2³²-1.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here (a number in a string too).
    pub fn number(&self) -> Result<Option<u32>, Error> {
        let Some(value) = self.value else { return Ok(None) };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        number.map(Some).ok_or_else(|| self.wrong("a whole number"))
    }

    /// A string; none when absent or empty, as Go cannot tell these apart.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn text(&self) -> Result<Option<&'a str>, Error> {
        match self.value {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong("a string")),
        }
    }

    /// A string of a certain form: an address, a subnet, a MAC address.
    ///
    /// # Errors
    /// [`code::DECODE`] when it is not a string, [`code::INVALID_CONFIG`] when it is not of that form.
    pub fn parsed<T: FromStr>(&self, expected: &str) -> Result<Option<T>, Error>
    where
        T::Err: fmt::Display,
    {
        let Some(text) = self.text()? else { return Ok(None) };
        text.parse()
            .map(Some)
            .map_err(|error| Error::config(format!("{}: {text:?} is not {expected}: {error}", self.path)))
    }

    /// The items of an array; none when absent.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn items(&self) -> Result<Vec<Node<'a>>, Error> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| Node { path: format!("{}[{index}]", self.path), value: Some(item) })
                .collect()),
            Some(_) => Err(self.wrong("an array")),
        }
    }

    /// The strings of an array; none when absent.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn texts(&self) -> Result<Vec<String>, Error> {
        self.items()?.iter().map(|item| Ok(item.text()?.unwrap_or_default().to_owned())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Folded {
        Folded::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn keys_match_whatever_their_case_and_the_last_duplicate_counts() {
        let folded = read(r#"{"isGateway": true, "ISGATEWAY": false, "IPAM": {"Type": "host-local"}}"#);
        assert!(!folded.root().get("isGateway").flag().unwrap());
        assert_eq!(folded.root().get("ipam").get("type").text().unwrap(), Some("host-local"));
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let folded = read(r#"{"mtu": null, "bridge": null}"#);
        assert_eq!(folded.root().get("mtu").number().unwrap(), None);
        assert_eq!(folded.root().get("bridge").text().unwrap(), None);
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named_with_its_path() {
        let folded = read(r#"{"ipam": {"ranges": [[{"subnet": 5}]]}, "mtu": "1500"}"#);
        let set = folded.root().get("ipam").get("ranges").items().unwrap();
        let range = set[0].items().unwrap();
        let refused = range[0].get("subnet").text().unwrap_err();
        assert_eq!(refused.code, code::DECODE);
        assert_eq!(refused.msg, "ipam.ranges[0][0].subnet: expected a string, found 5");
        assert!(folded.root().get("mtu").number().is_err(), "Go takes no number from a string");
    }
}
