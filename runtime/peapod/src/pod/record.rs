//! The record of a pod: what was asked for. It is what makes a pod exist.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::SETTINGS;
use super::{Key, Places, PodLock};
use crate::error::{Error, IoContext, Result};
use crate::files::{make_dir, read_json, write_json};
use crate::manifest::Pod;
use crate::settings::Settings;
use crate::volume::remove_tree;

/// What the person last asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// The pod is to run, until it is finished.
    Running,
    /// The pod is to stay down.
    Stopped,
}

/// What was asked for, and what was settled before anything was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Unique for ever, unlike the name.
    pub uid: String,
    /// When the pod was made.
    pub created: Timestamp,
    /// Running or not.
    pub desired: Desired,
    /// The digest of each image by the name the manifest has for it: a tag that moves does not change a pod.
    pub images: BTreeMap<String, String>,
    /// The manifest.
    pub pod: Pod,
}

/// A new pod's directory begins with this; so does that of a pod on its way out.
/// No key does: a namespace does not begin with a full stop.
const UNBORN: &str = ".new-";
const DYING: &str = ".gone-";

impl Record {
    /// A record for a pod that is to run, with a uid of its own.
    pub fn new(pod: Pod, images: BTreeMap<String, String>) -> Result<Record> {
        let source = Path::new("/proc/sys/kernel/random/uuid");
        let uid = fs::read_to_string(source).context("reading", source)?.trim().to_owned();
        Ok(Record { uid, created: Timestamp::now(), desired: Desired::Running, images, pod })
    }

    /// The pod's name.
    pub fn key(&self) -> Key {
        Key::new(&self.pod.namespace, &self.pod.name)
    }

    /// Writes the record of a pod that does not exist yet and takes its lock: all of it, or nothing.
    ///
    /// The directory is filled under another name and then renamed; renaming onto a pod's directory is refused by
    /// the kernel, so a name is never given twice.
    pub fn create(&self, settings: &Settings, _registry: &Registry) -> Result<(Places, PodLock)> {
        let places = Places::new(settings, self.key())?;
        let unborn = settings.pods().join(format!("{UNBORN}{}", self.uid));
        let made = self.fill(&unborn, &places);
        if made.is_err() {
            remove_tree(&unborn)?;
        }
        made.map(|lock| (places, lock))
    }

    fn fill(&self, unborn: &Path, places: &Places) -> Result<PodLock> {
        make_dir(unborn)?;
        let lock = PodLock::create(&unborn.join("lock"))?;
        write_json(&unborn.join("pod.json"), self)?;
        write_json(&unborn.join(SETTINGS), &places.settings)?;
        match fs::rename(unborn, &places.dir) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                Err(Error::NameTaken(self.key()))
            }
            renamed => renamed.context("making", &places.dir).map(|()| lock),
        }
    }

    /// Reads the record of a pod.
    pub fn load(places: &Places) -> Result<Record> {
        read_json(&places.record())?.ok_or_else(|| Error::NoSuchPod(places.key.clone()))
    }

    /// Changes what is desired. The keeper never writes the record, so this needs no lock of the pod's; that of the
    /// registry keeps the name from going over to another pod, whose record would be overwritten.
    pub fn set_desired(&mut self, places: &Places, desired: Desired) -> Result<()> {
        let _registry = Registry::open(&places.settings)?;
        if Record::load(places)?.uid != self.uid {
            return Err(Error::NoSuchPod(places.key.clone()));
        }
        self.desired = desired;
        write_json(&places.record(), self)
    }
}

/// All pods, by name.
pub fn list(settings: &Settings) -> Result<Vec<Places>> {
    let mut keys: Vec<Key> = entries(settings)?.iter().filter_map(|name| Key::parse(name)).collect();
    keys.sort();
    keys.into_iter().map(|key| Places::new(settings, key)).collect()
}

/// The right to add a pod to the directory of pods, or to take one away. Held for moments only.
#[derive(Debug)]
pub struct Registry {
    _lock: PodLock,
}

impl Registry {
    /// Waits for the right, and removes what a killed command left unborn or half gone.
    pub fn open(settings: &Settings) -> Result<Registry> {
        make_dir(&settings.pods())?;
        let registry = Registry { _lock: PodLock::take_shared(&settings.state.join("lock"), REGISTRY_DEADLINE)? };
        // Whoever fills or empties a directory holds the lock: with it in our hands, these are abandoned.
        for name in entries(settings)?.iter().filter(|name| name.starts_with(UNBORN) || name.starts_with(DYING)) {
            remove_tree(&settings.pods().join(name))?;
        }
        Ok(registry)
    }

    /// Takes a pod's directory away, whole: nobody sees half of one.
    pub fn erase(&self, places: &Places, uid: &str) -> Result<()> {
        let dying = places.settings.pods().join(format!("{DYING}{uid}"));
        match fs::rename(&places.dir, &dying) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            renamed => renamed.context("removing", &places.dir)?,
        }
        Ok(remove_tree(&dying)?)
    }
}

/// How long to wait for another command to add or remove its pod.
const REGISTRY_DEADLINE: Duration = Duration::from_secs(30);

fn entries(settings: &Settings) -> Result<Vec<String>> {
    let dir = settings.pods();
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context("reading", &dir)?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
