//! Kernel parameters of the pod's network namespace.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use regex_lite::Regex;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::plugin::Call;
use crate::small_file;
use crate::spec::{Error, code};

/// The parameters that may be set: a regular expression a line. Without the file, all of the network's.
const ALLOWLIST: &str = "/etc/cni/tuning/allowlist.conf";
/// What a parameter's name has in place of the interface's.
const IFNAME: &str = "IFNAME";

/// A parameter with the value it is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// As the configuration names it: `net.ipv4.conf.IFNAME.arp_filter`.
    pub key: String,
    /// As it is written.
    pub value: String,
    path: PathBuf,
}

impl Sysctl {
    fn new(key: &str, value: String, ifname: &str) -> Result<Sysctl, Error> {
        let relative = key.replace('.', "/").replacen(IFNAME, ifname, 1);
        // Every dot of the key is a slash now, and no interface is called "..": nothing leads up again.
        let parts: Vec<_> = relative.split('/').filter(|part| !part.is_empty()).collect();
        match parts.as_slice() {
            ["net", _, ..] => Ok(Sysctl { key: key.into(), value, path: Path::new("/proc/sys").join(parts.join("/")) }),
            _ => Err(Error::config(format!("sysctl: invalid net sysctl key: {key:?}"))
                .with_details("only parameters of the network, net.*, belong to a pod's namespace")),
        }
    }

    fn now(&self) -> Result<String, Error> {
        fs::read_to_string(&self.path).map_err(|error| self.failed("read", &error))
    }

    fn failed(&self, doing: &str, error: &std::io::Error) -> Error {
        let failed =
            Error::new(code::IO, format!("sysctl {}: cannot {doing} {}: {error}", self.key, self.path.display()));
        match error.kind() {
            ErrorKind::NotFound => failed.with_details("the kernel has no such parameter in a pod's namespace"),
            ErrorKind::InvalidInput => failed.with_details(format!("the kernel does not take {:?}", self.value)),
            _ => failed,
        }
    }

    /// Writes the value. The thread is in the pod's namespace.
    ///
    /// # Errors
    /// When there is no such parameter, or the kernel refuses the value.
    pub fn write(&self) -> Result<(), Error> {
        // Not created where there is none: the directory is the kernel's.
        let mut options = fs::OpenOptions::new();
        let write = |mut file: fs::File| std::io::Write::write_all(&mut file, self.value.as_bytes());
        options.write(true).open(&self.path).and_then(write).map_err(|error| self.failed("write", &error))
    }

    /// Writes the value and returns the parameter with the value it had.
    ///
    /// # Errors
    /// As [`Sysctl::write`].
    pub fn replace(&self) -> Result<Sysctl, Error> {
        // Some can only be written (`net.ipv4.route.flush`): these have no value to go back to.
        let old = self.now().map_or_else(|_| self.value.clone(), |now| now.trim_end().to_owned());
        self.write()?;
        Ok(Sysctl { value: old, ..self.clone() })
    }

    /// Compares. Several numbers are read with tabs between them, whatever they were written with.
    ///
    /// # Errors
    /// [`code::CHECK_FAILED`] when it has another value.
    pub fn check(&self) -> Result<(), Error> {
        let now = self.now()?;
        if now.split_whitespace().eq(self.value.split_whitespace()) {
            return Ok(());
        }
        let msg = format!("sysctl {} is configured to be {:?} and is {:?}", self.key, self.value, now.trim_end());
        Err(Error::new(code::CHECK_FAILED, msg))
    }
}

/// `sysctl`, in the order of the text, and `args.cni.sysctl` over it.
///
/// # Errors
/// [`code::DECODE`] for a value that is no string, [`code::INVALID_CONFIG`] for a key that is there twice or is not
/// the network's.
pub fn read(call: &Call<'_>) -> Result<Vec<Sysctl>, Error> {
    let mut wanted: Vec<(String, String)> = Vec::new();
    for (key, value) in pairs(call.stdin, &["sysctl"])? {
        if wanted.iter().any(|(other, _)| *other == key) {
            return Err(Error::config(format!("sysctl: duplicated sysctl keys are not allowed: {key:?}")));
        }
        wanted.push((key, value));
    }
    for (key, value) in pairs(call.stdin, &["args", "cni", "sysctl"])? {
        wanted.retain(|(other, _)| *other != key);
        wanted.push((key, value));
    }
    wanted.into_iter().map(|(key, value)| Sysctl::new(&key, value, &call.environment.ifname)).collect()
}

/// Refuses parameters that are not on the administrator's list, if there is one.
///
/// # Errors
/// [`code::INVALID_CONFIG`] with the first that is not on it; [`code::IO`] when the list cannot be read.
pub fn allowed(sysctls: &[Sysctl]) -> Result<(), Error> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let text = match small_file::read(Path::new(ALLOWLIST)) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::new(code::IO, format!("cannot read {ALLOWLIST}: {error}"))),
    };
    let patterns: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let compile = |line: &&str| {
        Regex::new(line)
            .map_err(|error| Error::config(format!("{ALLOWLIST}: {line:?} is no regular expression: {error}")))
    };
    let list: Vec<Regex> = patterns.iter().map(compile).collect::<Result<_, _>>()?;
    match sysctls.iter().find(|sysctl| !list.iter().any(|pattern| pattern.is_match(&sysctl.key))) {
        None => Ok(()),
        Some(sysctl) => Err(Error::config(format!("Sysctl {} is not allowed", sysctl.key))
            .with_details(format!("{ALLOWLIST} allows only {}", patterns.join(" ")))),
    }
}

/// The members of the object at `path`, duplicates and all, which a tree of values would hide.
fn pairs(text: &[u8], path: &[&str]) -> Result<Vec<(String, String)>, Error> {
    let mut found = Vec::new();
    let seed = Descent { path, found: &mut found };
    seed.deserialize(&mut serde_json::Deserializer::from_slice(text))
        .map_err(|error| Error::new(code::DECODE, format!("{}: {error}", path.join("."))))?;
    Ok(found)
}

/// Goes down a path of keys, whatever their case, and collects the members of the object there.
struct Descent<'a, 'p> {
    path: &'p [&'p str],
    found: &'a mut Vec<(String, String)>,
}

impl<'de> DeserializeSeed<'de> for Descent<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Descent<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Descent { path, found } = self;
        while let Some(key) = members.next_key::<String>()? {
            match path {
                [] => found.push((key, members.next_value::<Option<String>>()?.unwrap_or_default())),
                [next, rest @ ..] if key.eq_ignore_ascii_case(next) => {
                    members.next_value_seed(Descent { path: rest, found: &mut *found })?;
                }
                _ => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Behaviour 104: only the network's, and never through a path.
    #[test]
    fn a_key_leads_to_a_file_of_the_network_or_is_refused() {
        let path = |key: &str| Sysctl::new(key, "1".into(), "eth0.5").map(|sysctl| sysctl.path.display().to_string());
        assert_eq!(path("net.core.somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net/core/somaxconn").unwrap(), "/proc/sys/net/core/somaxconn");
        assert_eq!(path("net.ipv4.conf.IFNAME.arp_filter").unwrap(), "/proc/sys/net/ipv4/conf/eth0.5/arp_filter");
        assert_eq!(path("net.ipv4...conf.all.arp_filter").unwrap(), "/proc/sys/net/ipv4/conf/all/arp_filter");
        for key in
            ["kernel.hostname", "net", "net.", "", "/etc/passwd", "../net/x", "net/../kernel/hostname/x", "nets.a"]
        {
            let refused = path(key);
            assert!(
                refused.as_ref().is_err_and(|error| error.msg.contains("invalid net sysctl key"))
                    || refused.as_ref().is_ok_and(|path| path.starts_with("/proc/sys/net/") && !path.contains("..")),
                "{key}: {refused:?}"
            );
        }
        assert!(path("kernel.hostname").is_err() && path("net").is_err());
    }

    #[test]
    fn members_are_found_with_duplicates_in_order_and_with_their_own_spelling() {
        let text = br#"{"x": [1], "SysCtl": {"net.B": "1", "net.A": "2", "net.B": "3"}, "args": {"cni": {"sysctl": {"c": null}}}}"#;
        let found = pairs(text, &["sysctl"]).unwrap();
        assert_eq!(found, [("net.B", "1"), ("net.A", "2"), ("net.B", "3")].map(|(k, v)| (k.into(), v.into())));
        assert_eq!(pairs(text, &["args", "cni", "sysctl"]).unwrap(), [("c".into(), String::new())]);
        assert_eq!(pairs(br#"{"args": null}"#, &["args", "cni", "sysctl"]).unwrap(), []);
        for text in [r#"{"sysctl": {"a": 1}}"#, r#"{"sysctl": ["a"]}"#, r#"{"sysctl": "a"}"#] {
            assert_eq!(pairs(text.as_bytes(), &["sysctl"]).unwrap_err().code, code::DECODE, "{text}");
        }
    }
}
