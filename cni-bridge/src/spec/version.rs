//! The versions of the specification, and what each allows.

use std::fmt;

use super::error::{Error, code};

/// A version of the specification this plugin speaks, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0, also meant by a configuration without `cniVersion`.
    V0_1_0,
    /// 0.2.0
    V0_2_0,
    /// 0.3.0: results with interfaces and several addresses.
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK; `prevResult` given to DEL.
    V0_4_0,
    /// 1.0.0: addresses without `version`.
    V1_0_0,
    /// 1.1.0: GC, STATUS; `mtu` of interfaces.
    V1_1_0,
}

const NAMES: [(Version, &str); 7] = [
    (Version::V0_1_0, "0.1.0"),
    (Version::V0_2_0, "0.2.0"),
    (Version::V0_3_0, "0.3.0"),
    (Version::V0_3_1, "0.3.1"),
    (Version::V0_4_0, "0.4.0"),
    (Version::V1_0_0, "1.0.0"),
    (Version::V1_1_0, "1.1.0"),
];

impl Version {
    /// The newest version.
    pub const CURRENT: Version = Version::V1_1_0;

    /// All versions by name, oldest first.
    pub fn supported() -> impl Iterator<Item = &'static str> {
        NAMES.iter().map(|(_, name)| *name)
    }

    /// The names of `oldest` and all newer versions, oldest first.
    pub fn supported_since(oldest: Version) -> impl Iterator<Item = &'static str> {
        NAMES.iter().filter(move |(version, _)| *version >= oldest).map(|(_, name)| *name)
    }

    /// The version of that name; an empty name means 0.1.0.
    ///
    /// # Errors
    /// [`code::INCOMPATIBLE_VERSION`] with the supported versions in the details.
    pub fn parse(name: &str) -> Result<Version, Error> {
        if name.is_empty() {
            return Ok(Version::V0_1_0);
        }
        NAMES.iter().find(|(_, known)| *known == name).map(|(version, _)| *version).ok_or_else(|| {
            let supported: Vec<_> = Version::supported().collect();
            Error::new(code::INCOMPATIBLE_VERSION, format!("incompatible CNI versions: cniVersion {name:?}"))
                .with_details(format!("this plugin supports {}", supported.join(", ")))
        })
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(version, _)| *version == self).map_or("", |(_, name)| *name)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_supported_name_reads_back_as_itself() {
        for name in Version::supported() {
            assert_eq!(Version::parse(name).unwrap().name(), name);
        }
    }

    #[test]
    fn no_version_means_the_first_and_an_unknown_one_lists_the_known() {
        assert_eq!(Version::parse("").unwrap(), Version::V0_1_0);
        let refused = Version::parse("2.0.0").unwrap_err();
        assert_eq!(refused.code, code::INCOMPATIBLE_VERSION);
        assert!(refused.details.contains("0.1.0") && refused.details.contains("1.1.0"), "{refused}");
    }
}
