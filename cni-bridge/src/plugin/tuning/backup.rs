//! What an interface was like before ADD changed it: a file an attachment.
//!
//! It is the reference's file, so that either plugin's DEL takes back the other's ADD. The members the reference
//! does not know, which it skips, say whose it is: its name alone does not (`a_b_c.json`), and has no network.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{property_now, settings};
use crate::netlink::tune::Property;
use crate::netlink::{Link, Mac};
use crate::plugin::Call;
use crate::small_file;
use crate::spec::{Attachment, Error, code};

/// The properties that were changed, with their old values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Backup {
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    promisc: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    allmulti: Option<bool>,
    #[serde(rename = "txQLen", skip_serializing_if = "Option::is_none")]
    queue_length: Option<u32>,
    #[serde(skip_serializing_if = "String::is_empty")]
    network: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    attachment: Option<Attachment>,
}

impl Backup {
    /// The interface's values of the properties that are to be changed.
    pub fn of(link: &Link, wanted: &[Property], call: &Call<'_>) -> Backup {
        let network = call.config.name.clone();
        let mut backup = Backup { network, attachment: Some(call.attachment()), ..Backup::default() };
        for property in wanted.iter().filter_map(|wanted| property_now(link, *wanted)) {
            match property {
                Property::Mac(mac) => backup.mac = Some(mac.to_string()),
                Property::Promiscuous(on) => backup.promisc = Some(on),
                Property::Mtu(mtu) => backup.mtu = Some(mtu),
                Property::AllMulticast(on) => backup.allmulti = Some(on),
                Property::QueueLength(length) => backup.queue_length = Some(length),
            }
        }
        backup
    }

    /// Whether it says that it is another attachment's: the file of `a_b` and `c` is that of `a` and `b_c`. The
    /// reference's says nothing.
    pub fn is_of_another(&self, call: &Call<'_>) -> bool {
        let is_other = |attachment: &Attachment| *attachment != call.attachment() || self.network != call.config.name;
        self.attachment.as_ref().is_some_and(is_other)
    }

    /// This backup beneath an earlier one, of another plugin in the list or of an ADD that was killed: what that
    /// one saw is the older truth.
    pub fn under(self, earlier: Option<Backup>) -> Backup {
        let earlier = earlier.unwrap_or_default();
        Backup {
            mac: earlier.mac.or(self.mac),
            promisc: earlier.promisc.or(self.promisc),
            mtu: earlier.mtu.or(self.mtu),
            allmulti: earlier.allmulti.or(self.allmulti),
            queue_length: earlier.queue_length.or(self.queue_length),
            ..self
        }
    }

    /// What is to be given back. The MTU comes first: nothing else depends on it, and it fails most easily.
    pub fn properties(&self) -> Vec<Property> {
        let mac: Option<Mac> = self.mac.as_deref().and_then(|text| text.parse().ok());
        let old = [
            self.mtu.filter(|mtu| *mtu != 0).map(Property::Mtu),
            mac.map(Property::Mac),
            self.promisc.map(Property::Promiscuous),
            self.allmulti.map(Property::AllMulticast),
            self.queue_length.map(Property::QueueLength),
        ];
        old.into_iter().flatten().collect()
    }
}

/// The file of an attachment.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    /// Where it is written before it is whole. A name that no attachment's file has, and one each.
    aside: PathBuf,
}

/// What the names of files that are being written begin with. Networks' names have no such sign.
fn aside_prefix(network: &str) -> String {
    format!("@{network}@")
}

impl File {
    /// Where the reference looks for it too.
    pub fn of(data_dir: &Path, call: &Call<'_>) -> File {
        let Attachment { container_id, ifname } = call.attachment();
        let name = format!("{container_id}_{ifname}.json");
        let aside = data_dir.join(aside_prefix(&call.config.name) + &name);
        File { path: data_dir.join(name), aside }
    }

    fn failed(&self, doing: &str, error: &std::io::Error) -> Error {
        Error::new(code::IO, format!("cannot {doing} {}: {error}", self.path.display()))
    }

    /// What it holds; none without a file.
    ///
    /// # Errors
    /// [`code::IO`] when it cannot be read, [`code::DECODE`] when it is no backup.
    pub fn read(&self) -> Result<Option<Backup>, Error> {
        let text = match small_file::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.failed("read", &error)),
        };
        let malformed = |error| Error::new(code::DECODE, format!("{} is no backup: {error}", self.path.display()));
        serde_json::from_str(&text).map(Some).map_err(malformed)
    }

    /// Writes it, whole or not at all.
    ///
    /// # Errors
    /// [`code::IO`].
    pub fn write(&self, backup: &Backup) -> Result<(), Error> {
        let text = serde_json::to_vec(backup).map_err(|error| self.failed("write", &error.into()))?;
        if let Some(directory) = self.path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(directory)
                .map_err(|e| self.failed("make room for", &e))?;
        }
        let mut options = OpenOptions::new();
        // What is there already was left by one that was killed, or is a link that leads elsewhere.
        let _ = fs::remove_file(&self.aside);
        let opened = options.write(true).create_new(true).mode(0o600).open(&self.aside);
        let written =
            opened.and_then(|mut file| file.write_all(&text)).and_then(|()| fs::rename(&self.aside, &self.path));
        written.map_err(|error| {
            let _ = fs::remove_file(&self.aside);
            self.failed("write", &error)
        })
    }

    /// Whether it says that it is of this network and of nobody on the list.
    fn is_stale(&self, network: &str, valid: &[Attachment]) -> bool {
        let Ok(Some(backup)) = self.read() else { return false };
        backup.network == network && backup.attachment.is_some_and(|attachment| !valid.contains(&attachment))
    }

    /// Removes it, and what an ADD that was killed may have left of it; that there is none is no error.
    ///
    /// # Errors
    /// [`code::IO`].
    pub fn remove(&self) -> Result<(), Error> {
        for path in [&self.aside, &self.path] {
            match fs::remove_file(path) {
                Ok(()) => {}
                // A name too long for a file is that of none.
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidFilename) => {}
                Err(error) => return Err(self.failed("remove", &error)),
            }
        }
        Ok(())
    }
}

/// Removes the backups of this network that belong to nobody on the list. One that does not say its network, the
/// reference's, stays: whose it is can only be guessed, and it is gone with the next boot.
///
/// # Errors
/// All that failed, as one, after all that could be done.
pub fn gc(call: &Call<'_>) -> Result<(), Error> {
    let Some(valid) = call.config.valid_attachments()? else { return Ok(()) };
    let Ok(entries) = fs::read_dir(settings::data_dir(call.config)) else { return Ok(()) };
    let mut failures = Vec::new();
    for entry in entries.flatten() {
        let file = File { path: entry.path(), aside: entry.path() };
        // While a network's GC runs, none of its ADDs does.
        let is_aside = entry.file_name().to_string_lossy().starts_with(&aside_prefix(&call.config.name));
        if is_aside || file.is_stale(&call.config.name, &valid) {
            failures.extend(file.remove().err());
        }
    }
    Error::all(failures).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    // What the reference (1.1.1) writes and reads.
    #[test]
    fn the_references_file_is_read_and_ours_has_its_members() {
        let text = "{\n \"mac\": \"02:00:00:00:00:01\",\n \"promisc\": false,\n \"mtu\": 1500,\n \"txQLen\": 1000\n}";
        let backup: Backup = serde_json::from_str(text).unwrap();
        let expected = [
            Property::Mtu(1500),
            Property::Mac("02:00:00:00:00:01".parse().unwrap()),
            Property::Promiscuous(false),
            Property::QueueLength(1000),
        ];
        assert_eq!(backup.properties(), expected);
        let again: serde_json::Value = serde_json::to_value(&backup).unwrap();
        assert_eq!(again, serde_json::from_str::<serde_json::Value>(text).unwrap());
    }

    #[test]
    fn the_oldest_values_are_kept() {
        let old = Backup { mtu: Some(1500), ..Backup::default() };
        let new = Backup { mtu: Some(1400), promisc: Some(false), network: "n".into(), ..Backup::default() };
        let both = new.clone().under(Some(old));
        assert_eq!((both.mtu, both.promisc, both.network.as_str()), (Some(1500), Some(false), "n"));
        assert_eq!(new.clone().under(None), new);
    }
}
