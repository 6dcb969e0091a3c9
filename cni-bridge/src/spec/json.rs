//! JSON read the way Go's `encoding/json` reads it.
//!
//! Every other CNI program is written in Go, and runtimes lean on its habits:
//! keys match whatever their case (containerd sends `HostPort`, test suites send
//! `RuntimeConfig`), of duplicate keys the last one counts, and `null` is as if
//! there were nothing. serde does none of this, so the text is first read into
//! a [`Folded`] tree, and typed values are taken from it through [`Node`], which
//! knows its path for the error message.
//!
//! The tree keeps the spelling of keys: some name things of the machine (`sysctl`),
//! others are of a version yet to come and are passed on.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::error::{Error, code};

/// A JSON value whose objects have no null members and no two keys that differ in case only.
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
        let mut list = Vec::new();
        while let Some((key, Folded(value))) = members.next_entry::<String, Folded>()? {
            if !value.is_null() {
                list.push((key, value));
            }
        }
        // From the end of the text, so that of duplicates the last one stays.
        let mut seen = HashSet::new();
        let last = |(key, _): &(String, Value)| seen.insert(key.to_ascii_lowercase());
        Ok(Value::Object(list.into_iter().rev().filter(last).collect()))
    }
}

impl Folded {
    /// Reads one JSON object.
    ///
    /// # Errors
    /// [`code::DECODE`] when the text is not one JSON object.
    pub fn parse(text: &[u8], what: &str) -> Result<Folded, Error> {
        let folded: Folded = serde_json::from_slice(text)
            .map_err(|error| Error::new(code::DECODE, format!("{what} is not JSON: {error}")))?;
        match folded.0 {
            Value::Object(_) => Ok(folded),
            _ => Err(Error::new(code::DECODE, format!("{what} is not a JSON object"))),
        }
    }

    /// The root, for reading.
    pub fn root(&self) -> Node<'_> {
        Node { path: String::new(), value: Some(&self.0) }
    }
}

/// The member of that name, whatever its case. Most are spelled as documented, and looked up at once.
fn member<'a>(members: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    let alike = || members.iter().find(|(name, _)| name.eq_ignore_ascii_case(key)).map(|(_, value)| value);
    members.get(key).or_else(alike)
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
        let value = self.value.and_then(Value::as_object).and_then(|members| member(members, key));
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

    /// This, when it is an object or absent: one that has members is not to be taken for one that has none.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn object(self) -> Result<Node<'a>, Error> {
        match self.value {
            None | Some(Value::Object(_)) => Ok(self),
            Some(_) => Err(self.wrong("an object")),
        }
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

    /// A whole number of either sign.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn integer(&self) -> Result<Option<i64>, Error> {
        let Some(value) = self.value else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.wrong("a whole number"))
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
                .map(|(index, item)| Node {
                    path: format!("{}[{index}]", self.path),
                    value: Some(item).filter(|item| !item.is_null()),
                })
                .collect()),
            Some(_) => Err(self.wrong("an array")),
        }
    }

    /// The members of an object with their own spelling; none when absent.
    ///
    /// # Errors
    /// [`code::DECODE`] when something else is here.
    pub fn members(&self) -> Result<Vec<(&'a str, Node<'a>)>, Error> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Object(members)) => Ok(members
                .iter()
                .map(|(key, value)| (key.as_str(), Node { path: format!("{}.{key}", self.path), value: Some(value) }))
                .collect()),
            Some(_) => Err(self.wrong("an object")),
        }
    }

    /// The members of an object that are not `known`, with their own spelling: of a later version of the
    /// specification, to be passed on as they are.
    pub(super) fn unknown(&self, known: &[&str]) -> Map<String, Value> {
        let is_known = |key: &str| known.iter().any(|known| known.eq_ignore_ascii_case(key));
        let members = self.value.and_then(Value::as_object).into_iter().flatten();
        members.filter(|(key, _)| !is_known(key)).map(|(key, value)| (key.clone(), value.clone())).collect()
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
        Folded::parse(text.as_bytes(), "it").unwrap()
    }

    #[test]
    fn keys_match_whatever_their_case_and_the_last_duplicate_counts() {
        let folded = read(r#"{"isGateway": true, "ISGATEWAY": false, "IPAM": {"Type": "host-local"}}"#);
        assert!(!folded.root().get("isGateway").flag().unwrap());
        assert_eq!(folded.root().get("ipam").get("type").text().unwrap(), Some("host-local"));
    }

    #[test]
    fn null_is_as_good_as_absent() {
        let folded = read(r#"{"mtu": null, "bridge": "br0", "BRIDGE": null, "list": ["a", null]}"#);
        assert_eq!(folded.root().get("mtu").number().unwrap(), None);
        assert_eq!(folded.root().get("bridge").text().unwrap(), Some("br0"), "a null after a value changes nothing");
        assert_eq!(folded.root().get("list").texts().unwrap(), ["a", ""]);
        assert!(!folded.root().get("list").items().unwrap()[1].exists());
    }

    #[test]
    fn keys_that_are_names_keep_their_spelling() {
        let folded = read(r#"{"Sysctl": {"net.ipv4.conf.IFNAME.arp_filter": "1", "a": "0", "A": "2"}}"#);
        let sysctl = folded.root().get("sysctl").members().unwrap();
        let pairs: Vec<_> = sysctl.iter().map(|(key, node)| (*key, node.text().unwrap().unwrap())).collect();
        assert_eq!(pairs, [("A", "2"), ("net.ipv4.conf.IFNAME.arp_filter", "1")]);
        assert!(folded.root().get("sysctl").get("a").members().is_err());
    }

    #[test]
    fn numbers_of_either_sign_are_read_and_fractions_are_not() {
        let folded = read(r#"{"vlan": -1, "mtu": 1.5}"#);
        assert_eq!(folded.root().get("vlan").integer().unwrap(), Some(-1));
        assert!(folded.root().get("vlan").number().is_err());
        assert!(folded.root().get("mtu").integer().is_err() && folded.root().get("mtu").number().is_err());
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
