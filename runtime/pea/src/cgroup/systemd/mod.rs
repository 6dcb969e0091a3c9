//! A container's cgroup as a unit of systemd: a transient scope, which systemd is asked for over D-Bus.
//!
//! systemd makes the scope around a process that is there already, so the init is placed after the clone. The scope's
//! cgroup is delegated to us (<https://systemd.io/CGROUP_DELEGATION>): what there is no property for is written there
//! directly, and the container may have cgroups of its own below.

mod annotation;
mod bus;
mod datum;
mod manager;
mod property;
mod unit;
mod wire;

use std::cell::Cell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

pub use self::unit::Unit;

use self::datum::Datum;
use self::manager::Manager;
use self::property::Property;
use super::devices::Rules;
use super::value::Value;
use crate::error::{Error, ErrorKind};

/// A scope to be made.
#[derive(Clone, Debug)]
pub struct Scope {
    unit: Unit,
    path: PathBuf,
    id: String,
    /// What the specification says of it.
    given: Vec<Property>,
    /// Whether it has been asked for.
    started: Cell<bool>,
}

impl Scope {
    /// From `cgroupsPath` in systemd's spelling, and the annotations.
    pub fn new(given: &str, id: &str, annotations: &HashMap<String, String>) -> Result<Self, Error> {
        let user = manager::is_of_user();
        let unit = Unit::parse(given, id, user)?;
        // The machine's own slices are below the root; those of a user where its systemd is.
        let base = if user { Manager::connect(user)?.cgroup()? } else { PathBuf::from("/") };
        let path = unit.path(&base)?;
        if !unit.name.ends_with(".scope") {
            let text =
                format!("linux.cgroupsPath: {:?} is no scope, and processes cannot be in another unit", unit.name);
            return Err(Error::spec(text));
        }
        let given = annotation::properties(annotations)?;
        let given = given.into_iter().map(|(name, value)| Property::new(name, value)).collect();
        Ok(Self { unit, path, id: id.to_owned(), given, started: Cell::new(false) })
    }

    /// The unit.
    pub fn unit(&self) -> &Unit {
        &self.unit
    }

    /// Its cgroup.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it around the init, with those of the limits that it has properties for.
    pub fn start(&self, init: i32, values: &[Value], devices: &Rules) -> Result<(), Error> {
        let init = u32::try_from(init).map_err(|_| Error::internal("not the number of a process"))?;
        let mut properties = vec![
            Property::new("Description", Datum::text(format!("pea container {}", self.id))),
            Property::new("Slice", Datum::text(&self.unit.slice)),
            Property::new("PIDs", Datum::Array("u", vec![Datum::U32(init)])),
            // Its cgroups are ours.
            Property::new("Delegate", Datum::Bool(true)),
            // It ends by itself, and its end means nothing to the machine's shutdown before that of its slice.
            Property::new("DefaultDependencies", Datum::Bool(false)),
            // Once ended, however that was, it is forgotten.
            Property::new("CollectMode", Datum::text("inactive-or-failed")),
        ];
        let accounting = ["CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting"];
        properties.extend(accounting.map(|name| Property::new(name, Datum::Bool(true))));
        properties.extend(property::properties(values));
        properties.extend(device_properties(devices));
        properties.extend(self.given.iter().cloned());
        let mut manager = Manager::connect(self.unit.user)?;
        self.started.set(true);
        manager.start(&self.unit.name, &properties).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                self.started.set(false);
                let text = format!("{error}; a container needs one of its own (linux.cgroupsPath)");
                Error::new(ErrorKind::InvalidState, text)
            }
            _ => error,
        })
    }

    /// Stops it if it was asked for: one of that name may be another's.
    pub fn undo(&self) {
        if self.started.get() {
            // What is left then is there for `delete` to report.
            let _ = self.unit.stop(&self.path);
        }
    }
}

/// Without them systemd would, on v1, open all devices whenever it sets up the cgroup anew.
fn device_properties(devices: &Rules) -> Vec<Property> {
    let Some(list) = devices.allow_list() else { return Vec::new() };
    let pair = |(which, access)| Datum::Struct(vec![Datum::Text(which), Datum::Text(access)]);
    vec![
        Property::new("DevicePolicy", Datum::text("strict")),
        Property::new("DeviceAllow", Datum::Array("(ss)", list.into_iter().map(pair).collect())),
    ]
}

impl Unit {
    /// Tells systemd of changed limits: those that the unit has properties for.
    pub fn update(&self, values: &[Value]) -> Result<(), Error> {
        let mut properties = property::properties(values);
        properties.retain(|property| !property.is_fixed());
        if properties.is_empty() {
            return Ok(());
        }
        Manager::connect(self.user)?.set(&self.name, &properties)
    }

    /// Has systemd stop and forget it, if that cgroup is its own, and with that remove the cgroup.
    pub fn stop(&self, cgroup: &Path) -> Result<(), Error> {
        Manager::connect(self.user)?.stop(&self.name, cgroup)
    }
}

/// A connection for who will have no way to the bus any more when a process is to be moved.
#[derive(Debug)]
pub struct Visit {
    manager: Manager,
    unit: String,
    /// The directory of the unit's cgroup.
    dir: PathBuf,
}

impl Visit {
    /// To the systemd of that unit.
    pub fn open(unit: &Unit, dir: PathBuf) -> Result<Self, Error> {
        Ok(Self { manager: Manager::connect(unit.user)?, unit: unit.name.clone(), dir })
    }

    /// Moves a process into the cgroup of that directory, the unit's own or one below.
    pub fn attach(&mut self, dir: &Path, pid: i32) -> Result<(), Error> {
        let subgroup = Path::new("/").join(dir.strip_prefix(&self.dir).unwrap_or(Path::new("")));
        let pid = u32::try_from(pid).map_err(|_| Error::internal("not the number of a process"))?;
        self.manager.attach(&self.unit, &subgroup.to_string_lossy(), pid)
    }
}
