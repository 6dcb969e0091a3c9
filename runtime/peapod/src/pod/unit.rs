//! A pod outlives the command that started it, and so the service or login session that the command ran in.

use std::fs::File;
use std::io::Write;
use std::path::Path;

/// Exists where systemd is the machine's init (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// The roots of the hierarchies by which systemd tells what belongs to a unit: v2, hybrid, v1.
const ROOTS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"];

/// Takes the calling process, with the children it will have, out of the systemd unit it was started in. That one
/// would wait for them at its end and kill them then (systemd.kill(5), `KillMode`).
///
/// The root cgroup rather than one of our own: nobody has to remove it afterwards, which no process could do for the
/// cgroup it is in. Where it may not be entered, as inside a container, the pod ends with its unit.
pub fn leave() {
    leave_at(Path::new(BOOTED), &ROOTS.map(Path::new));
}

fn leave_at(booted: &Path, roots: &[&Path]) {
    if !booted.is_dir() {
        return;
    }
    for root in roots {
        // Opened and not created: where it is missing, this is no hierarchy.
        let file = File::options().write(true).open(root.join("cgroup.procs"));
        let _ = file.and_then(|mut file| file.write_all(b"0"));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_unit_is_left_in_the_hierarchies_there_are_and_under_systemd_only() {
        let scratch = testkit::scratch();
        let [booted, there, missing] = ["system", "unified", "none"].map(|name| scratch.path().join(name));
        for dir in [&there, &missing] {
            fs::create_dir(dir).unwrap();
        }
        let procs = there.join("cgroup.procs");
        fs::write(&procs, "").unwrap();

        leave_at(&booted, &[&there, &missing]);
        assert_eq!(fs::read_to_string(&procs).unwrap(), "");

        fs::create_dir(&booted).unwrap();
        leave_at(&booted, &[&missing, &there]);
        assert_eq!(fs::read_to_string(&procs).unwrap(), "0");
        assert!(!missing.join("cgroup.procs").exists());
    }
}
