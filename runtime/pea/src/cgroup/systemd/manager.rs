//! The systemd that manages units: as much of org.freedesktop.systemd1(5) as a container takes.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bus::{Bus, Failure};
use super::datum::Datum;
use super::property::Property;
use super::wire::{Call, Message};
use crate::error::{Error, ErrorKind};

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";

const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// How long a whole conversation may last.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where the system's bus is when nothing else is said (D-Bus Specification, "System message bus").
const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket;unix:path=/var/run/dbus/system_bus_socket";

/// A connection to it.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
    subscribed: bool,
}

impl Manager {
    /// To that of the machine, or of the calling user.
    pub fn connect(user: bool) -> Result<Self, Error> {
        Ok(Self { bus: Bus::connect(&address(user)?, DEADLINE)?, subscribed: false })
    }

    fn call(&mut self, member: &str, body: Vec<Datum>) -> Result<Message, Failure> {
        self.bus.call(&Call { destination: SERVICE, path: PATH, interface: INTERFACE, member, body })
    }

    /// A string of one of its objects.
    fn get(&mut self, path: &str, interface: &str, property: &str) -> Result<String, Error> {
        let call = Call {
            destination: SERVICE,
            path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            body: vec![Datum::text(interface), Datum::text(property)],
        };
        let what = || format!("ask for its {property}");
        let answer = self.bus.call(&call).map_err(|failure| failure.doing(&what()))?;
        let value = answer.arguments().and_then(|all| all.first()?.as_text().map(str::to_owned));
        value.ok_or_else(|| Error::internal(format!("systemd: {}: the answer is not a string", what())))
    }

    /// The cgroup of which the slices are children.
    pub fn cgroup(&mut self) -> Result<PathBuf, Error> {
        Ok(PathBuf::from("/").join(self.get(PATH, INTERFACE, "ControlGroup")?))
    }

    /// The number at the beginning of its version, such as 257 of "257.9-1".
    fn version(&mut self) -> Result<u32, Error> {
        let text = self.get(PATH, INTERFACE, "Version")?;
        let digits = text.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().map_err(|_| Error::internal(format!("systemd: {text:?} is not a version")))
    }

    /// Those that this systemd has, as it takes them.
    fn known(&mut self, properties: &[Property]) -> Result<Vec<Datum>, Error> {
        let newest = properties.iter().map(|property| property.since).max().unwrap_or(0);
        // It is only asked where the answer may matter.
        let version = if newest > 0 { self.version()? } else { 0 };
        let pair =
            |property: &Property| Datum::Struct(vec![Datum::text(&property.name), property.value.clone().variant()]);
        Ok(properties.iter().filter(|property| property.since <= version).map(pair).collect())
    }

    /// Starts a transient unit, and waits until it has started.
    pub fn start(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let what = format!("start unit {unit}");
        self.subscribe()?;
        let properties = Datum::Array("(sv)", self.known(properties)?);
        let arguments =
            vec![Datum::text(unit), Datum::text("replace"), properties, Datum::Array("(sa(sv))", Vec::new())];
        let answer = match self.call("StartTransientUnit", arguments.clone()) {
            // One of that name that has failed is in nobody's way but ours.
            Err(failure) if failure.is(UNIT_EXISTS) => {
                self.reset(unit);
                self.call("StartTransientUnit", arguments)
            }
            answer => answer,
        };
        let answer = answer.map_err(|failure| failure.doing(&what))?;
        self.wait_for(&answer, &what)
    }

    /// Changes properties of a unit, until it ends.
    pub fn set(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let known = self.known(properties)?;
        if known.is_empty() {
            return Ok(());
        }
        const RUNTIME_ONLY: Datum = Datum::Bool(true);
        let arguments = vec![Datum::text(unit), RUNTIME_ONLY, Datum::Array("(sv)", known)];
        let done = self.call("SetUnitProperties", arguments);
        done.map_err(|failure| failure.doing(&format!("change the limits of unit {unit}")))?;
        // It answers before it has written them, and takes the next call after that.
        self.version().map(drop)
    }

    /// The cgroup of a unit; `None` when there is no such unit, or it is in none.
    fn cgroup_of(&mut self, unit: &str) -> Result<Option<PathBuf>, Error> {
        let what = format!("find unit {unit}");
        let answer = match self.call("GetUnit", vec![Datum::text(unit)]) {
            Err(failure) if failure.is(NO_SUCH_UNIT) => return Ok(None),
            answer => answer.map_err(|failure| failure.doing(&what))?,
        };
        let object = answer.arguments().and_then(|all| all.first()?.as_text().map(str::to_owned)).unwrap_or_default();
        let path = self.get(&object, "org.freedesktop.systemd1.Scope", "ControlGroup")?;
        Ok(Some(PathBuf::from(path)).filter(|path| !path.as_os_str().is_empty()))
    }

    /// Stops the unit of that cgroup, waits until it has stopped and has it forgotten. Content with there being none,
    /// and with its name being that of another's.
    pub fn stop(&mut self, unit: &str, cgroup: &Path) -> Result<(), Error> {
        let what = format!("stop unit {unit}");
        if self.cgroup_of(unit)?.is_some_and(|found| found != cgroup) {
            return Ok(());
        }
        self.subscribe()?;
        match self.call("StopUnit", vec![Datum::text(unit), Datum::text("replace")]) {
            Ok(answer) => self.wait_for(&answer, &what)?,
            Err(failure) if failure.is(NO_SUCH_UNIT) => return Ok(()),
            Err(failure) => return Err(failure.doing(&what)),
        }
        self.reset(unit);
        Ok(())
    }

    /// Moves a process into a cgroup below that of a unit (`subgroup` begins with a slash).
    pub fn attach(&mut self, unit: &str, subgroup: &str, pid: u32) -> Result<(), Error> {
        let pids = Datum::Array("u", vec![Datum::U32(pid)]);
        let attached = self.call("AttachProcessesToUnit", vec![Datum::text(unit), Datum::text(subgroup), pids]);
        attached.map(drop).map_err(|failure| failure.doing(&format!("move process {pid} into unit {unit}")))
    }

    /// Has a failed unit forgotten.
    fn reset(&mut self, unit: &str) {
        // It refuses when there is none, which is the aim.
        let _ = self.call("ResetFailedUnit", vec![Datum::text(unit)]);
    }

    /// Has systemd tell how its jobs end, and the bus pass it on.
    fn subscribe(&mut self) -> Result<(), Error> {
        if self.subscribed {
            return Ok(());
        }
        let rule =
            format!("type='signal',sender='{SERVICE}',path='{PATH}',interface='{INTERFACE}',member='JobRemoved'");
        let asked = self.bus.own("AddMatch", vec![Datum::text(rule)]).and_then(|_| self.call("Subscribe", Vec::new()));
        asked.map_err(|failure| failure.doing("ask to be told of its jobs"))?;
        self.subscribed = true;
        Ok(())
    }

    /// Waits for the job that an answer names.
    fn wait_for(&mut self, answer: &Message, what: &str) -> Result<(), Error> {
        let arguments = answer.arguments().unwrap_or_default();
        let Some(job) = arguments.first().and_then(Datum::as_text) else {
            return Err(Error::internal(format!("systemd: {what}: the answer names no job")));
        };
        let result = self.bus.signal("JobRemoved", |signal| {
            // Its number, its path, the unit, and how it ended.
            let arguments = signal.arguments()?;
            (arguments.get(1)?.as_text()? == job).then(|| arguments.get(3)?.as_text().map(str::to_owned))
        });
        match result.map_err(|failure| failure.doing(what))?.as_deref() {
            Some("done") => Ok(()),
            result => {
                let result = result.unwrap_or("unknown");
                Err(Error::internal(format!("systemd: {what}: the job's result is \"{result}\" (see the journal)")))
            }
        }
    }
}

/// Where the bus is on which systemd is to be found.
fn address(user: bool) -> Result<String, Error> {
    let said = |name| env::var(name).ok().filter(|value| !value.is_empty());
    if !user {
        return Ok(said("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|| SYSTEM_BUS.to_owned()));
    }
    if let Some(address) = said("DBUS_SESSION_BUS_ADDRESS") {
        return Ok(address);
    }
    match said("XDG_RUNTIME_DIR") {
        Some(dir) => Ok(format!("unix:path={dir}/bus")),
        None => {
            let text = "connect to the user's systemd: neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set \
                        (log in with a session of systemd's, or use --cgroup-manager cgroupfs)";
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

/// Whether the systemd to be asked is that of the user: who is not the machine's root may not ask the machine's.
pub fn is_of_user() -> bool {
    // Only the machine's own user namespace maps every user to itself.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !nix::unistd::geteuid().is_root() || !map.split_whitespace().eq(["0", "0", "4294967295"])
}
