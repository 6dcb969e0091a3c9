//! Tests of the store.

use std::net::IpAddr;

use super::*;
use crate::ipam::Leases;
use crate::spec::Attachment;

fn owner(id: &str) -> Attachment {
    Attachment { container_id: id.into(), ifname: "eth0".into() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

const SOON: Duration = Duration::from_millis(50);

// Behaviours 73, 74, 75.
#[test]
fn the_files_are_those_of_host_local() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let mut locked = store.lock(SOON).unwrap();
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    assert!(locked.take(ip("fd00::2"), &owner("a")).unwrap());
    locked.set_last(0, ip("10.0.0.2")).unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join("net").join(name)).unwrap();
    assert_eq!(read("10.0.0.2"), "a\r\neth0");
    assert_eq!(read("fd00::2"), "a\r\neth0");
    assert_eq!(read("last_reserved_ip.0"), "10.0.0.2");
    let mut names: Vec<_> =
        fs::read_dir(dir.path().join("net")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["10.0.0.2", "fd00::2", "last_reserved_ip.0", "lock"]);
    assert_eq!(locked.last(0).unwrap(), Some(ip("10.0.0.2")));
    for address in ["10.0.0.200", "10.0.0.9"] {
        locked.set_last(0, ip(address)).unwrap();
        assert_eq!(read("last_reserved_ip.0"), address, "nothing stays of a longer one");
    }
}

#[test]
fn a_lease_is_exclusive_and_an_empty_file_is_none() {
    let dir = testkit::scratch();
    let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    assert!(!locked.take(ip("10.0.0.2"), &owner("b")).unwrap());
    fs::write(dir.path().join("net/10.0.0.3"), "").unwrap();
    assert!(locked.take(ip("10.0.0.3"), &owner("b")).unwrap(), "what a crash left is free");
}

// Behaviours 79, 80.
#[test]
fn leases_are_found_whoever_wrote_them_and_in_the_old_form() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let mut locked = store.lock(SOON).unwrap();
    for (address, id) in [("10.0.0.2", "a"), ("10.0.0.3", "b"), ("fd00::3", "b")] {
        assert!(locked.take(ip(address), &owner(id)).unwrap());
    }
    locked.note(&owner("a"), &[ip("10.0.0.2")], None);
    drop(locked);
    fs::write(dir.path().join("net/10.0.0.9"), "old").unwrap();
    let no_ip = Vec::<IpAddr>::new();
    let lock = || store.lock(SOON).unwrap();
    for indexed in [false, true] {
        let mut locked = lock();
        assert_eq!(locked.indexed, indexed, "somebody else wrote one, and that is known then");
        let mut held = locked.held_by(&owner("b")).unwrap();
        held.sort();
        assert_eq!(held, [ip("10.0.0.3"), ip("fd00::3")]);
    }
    assert_eq!(lock().release(&owner("a")).unwrap(), [ip("10.0.0.2")]);
    assert_eq!(lock().release(&owner("old")).unwrap(), [ip("10.0.0.9")]);
    assert_eq!(lock().release(&owner("unknown")).unwrap(), no_ip);
    assert_eq!(lock().release(&owner("b")).unwrap().len(), 2);
    assert!(lock().is_empty().unwrap());
}

/// How many leases a search has read so far: an access time is no measure (`noatime`), so they are made unreadable.
fn poison(dir: &Path, name: &str) {
    fs::remove_file(dir.join(name)).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", dir.join(name)).unwrap();
}

#[test]
fn a_known_attachment_and_an_unknown_one_are_looked_up_without_reading_the_others() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    for number in 2..9 {
        let (address, id) = (ip(&format!("10.0.0.{number}")), owner(&format!("pod{number}")));
        let mut locked = store.lock(SOON).unwrap();
        assert_eq!(locked.held_by(&id).unwrap(), Vec::<IpAddr>::new());
        assert!(locked.take(address, &id).unwrap());
        locked.note(&id, &[address], None);
    }
    let mut locked = store.lock(SOON).unwrap();
    // Under the lock nobody notices. The first bytes of memory can be read by nobody.
    poison(&dir.path().join("net"), "10.0.0.5");
    assert!(locked.all().is_err(), "to read all of them fails");
    assert_eq!(locked.held_by(&owner("pod3")).unwrap(), [ip("10.0.0.3")]);
    assert_eq!(locked.held_by(&owner("unknown")).unwrap(), Vec::<IpAddr>::new());
    assert_eq!(locked.release(&owner("pod4")).unwrap(), [ip("10.0.0.4")]);
    drop(locked);
    fs::remove_file(dir.path().join("net/10.0.0.5")).unwrap();
    assert!(!store.lock(SOON).unwrap().indexed, "somebody else removed one");
}

#[test]
fn what_the_reference_writes_and_removes_in_between_is_noticed() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let net = dir.path().join("net");
    let lock = || store.lock(SOON).unwrap();
    let take = |address: &str, id: &str| {
        let mut locked = lock();
        assert!(locked.take(ip(address), &owner(id)).unwrap());
        let mut held = locked.held_by(&owner(id)).unwrap();
        held.push(ip(address));
        locked.note(&owner(id), &held, None);
    };
    take("10.0.0.2", "a");
    take("10.0.0.3", "b");
    fs::write(net.join("10.0.0.4"), "a\r\neth0").unwrap();
    let mut held = lock().held_by(&owner("a")).unwrap();
    held.sort();
    assert_eq!(held, [ip("10.0.0.2"), ip("10.0.0.4")]);
    fs::remove_file(net.join("10.0.0.2")).unwrap();
    assert_eq!(lock().held_by(&owner("a")).unwrap(), [ip("10.0.0.4")]);
    fs::remove_file(net.join("10.0.0.4")).unwrap();
    fs::write(net.join("10.0.0.4"), "b\r\neth0").unwrap();
    assert_eq!(lock().held_by(&owner("a")).unwrap(), Vec::<IpAddr>::new());
    assert_eq!(lock().release(&owner("b")).unwrap().len(), 2);
    assert!(lock().is_empty().unwrap());
}

#[test]
fn an_index_that_cannot_be_written_costs_time_and_nothing_else() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    fs::write(dir.path().join(".net"), "in the way").unwrap();
    let mut locked = store.lock(SOON).unwrap();
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    locked.note(&owner("a"), &[ip("10.0.0.2")], None);
    assert_eq!(locked.held_by(&owner("a")).unwrap(), [ip("10.0.0.2")]);
    drop(locked);
    assert_eq!(store.lock(SOON).unwrap().release(&owner("a")).unwrap(), [ip("10.0.0.2")]);
}

#[test]
fn an_index_that_lies_frees_nobody_elses_lease() {
    let dir = testkit::scratch();
    let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    locked.note(&owner("b"), &[ip("10.0.0.2")], None);
    locked.indexed = true;
    assert_eq!(locked.release(&owner("b")).unwrap(), Vec::<IpAddr>::new());
    assert!(!locked.is_empty().unwrap());
}

#[test]
fn collecting_keeps_the_valid_ones_and_goes_on_after_failures() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let mut locked = store.lock(SOON).unwrap();
    for (address, id) in [("10.0.0.2", "a"), ("10.0.0.3", "b"), ("10.0.0.4", "c")] {
        assert!(locked.take(ip(address), &owner(id)).unwrap());
    }
    for (name, text) in [("10.0.0.5", "old"), ("10.0.0.6", "kept"), ("10.0.0.7", "")] {
        fs::write(dir.path().join("net").join(name), text).unwrap();
    }
    let valid = [owner("a"), owner("kept")];
    let mut told = Vec::new();
    let failures = locked.collect(
        |holder| valid.iter().any(|valid| is_held_by(holder, valid)),
        |holder| {
            told.push(holder.container_id.clone());
            Err(StoreError::Io { doing: "try", path: "x".into(), source: ErrorKind::Other.into() })
        },
    );
    assert_eq!(failures.unwrap().len(), told.len());
    told.sort();
    assert_eq!(told, ["b", "c", "old"], "an empty file is nobody's");
    let mut left = locked.leased().unwrap();
    left.sort();
    assert_eq!(left, [ip("10.0.0.2"), ip("10.0.0.6")]);
    assert_eq!(locked.held_by(&owner("a")).unwrap(), [ip("10.0.0.2")]);
}

// Behaviour 92.
#[test]
fn a_lock_that_stays_taken_is_given_up_at_the_deadline() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let held = store.lock(SOON).unwrap();
    assert!(matches!(store.lock(SOON), Err(StoreError::Locked { .. })));
    drop(held);
    assert!(store.lock(Duration::from_secs(10)).is_ok(), "the thread left waiting gives the lock back");
}

#[test]
fn whoever_waited_for_the_lock_of_a_directory_that_was_removed_takes_the_new_one() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    let held = store.lock(SOON).unwrap();
    let waiting = std::thread::spawn({
        let store = store.clone();
        move || store.lock(Duration::from_secs(20))
    });
    // It has opened the lock when the kernel lists it as waiting.
    let inode = std::os::unix::fs::MetadataExt::ino(&held._file.metadata().unwrap()).to_string();
    let waits = |line: &str| line.contains("->") && line.contains(&format!(":{inode} "));
    while !fs::read_to_string("/proc/locks").unwrap().lines().any(waits) {
        std::thread::yield_now();
    }
    fs::remove_dir_all(dir.path().join("net")).unwrap();
    let mut other = store.lock(SOON).unwrap();
    drop(held);
    assert!(other.take(ip("10.0.0.2"), &owner("a")).unwrap());
    drop(other);
    assert!(!waiting.join().unwrap().unwrap().take(ip("10.0.0.2"), &owner("b")).unwrap());
}

#[test]
fn what_no_plugin_made_stands_in_nobodys_way() {
    let dir = testkit::scratch();
    let mut locked = Store::new(dir.path(), "net").lock(SOON).unwrap();
    fs::create_dir(dir.path().join("net/10.0.0.8")).unwrap();
    std::os::unix::fs::symlink("/nonexistent", dir.path().join("net/10.0.0.9")).unwrap();
    assert!(!locked.take(ip("10.0.0.8"), &owner("a")).unwrap());
    assert!(!locked.take(ip("10.0.0.9"), &owner("a")).unwrap());
    std::os::unix::fs::symlink("10.0.0.10", dir.path().join("net/10.0.0.10")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("net/10.0.0.11")).unwrap());
    for address in ["10.0.0.10", "10.0.0.11"] {
        assert!(!locked.take(ip(address), &owner("a")).unwrap());
    }
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    assert_eq!(locked.release(&owner("a")).unwrap(), [ip("10.0.0.2")], "found among the others");
}

#[test]
fn a_network_whose_name_is_too_long_for_a_file_has_no_lease_to_free() {
    let dir = testkit::scratch();
    for (length, works) in [(255, true), (256, false)] {
        let store = Store::new(dir.path(), &"n".repeat(length));
        let taken = store.lock(SOON).and_then(|mut locked| locked.take(ip("10.0.0.2"), &owner("a")));
        assert_eq!(taken.is_ok(), works);
        let freed = store.lock_existing(SOON).unwrap().map(|mut locked| locked.release(&owner("a")).unwrap());
        assert_eq!(freed.unwrap_or_default().len(), usize::from(works));
    }
}

#[test]
fn a_network_that_never_was_has_no_lock_and_none_is_made() {
    let dir = testkit::scratch();
    assert!(Store::new(dir.path(), "net").lock_existing(SOON).unwrap().is_none());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// What a hand or a disk may have made of the files beside the leases.
#[test]
fn a_pipe_or_a_link_in_place_of_a_file_holds_nobody_and_what_it_leads_to_stays() {
    let dir = testkit::scratch();
    let (net, elsewhere) = (dir.path().join("net"), dir.path().join("elsewhere"));
    fs::create_dir(&net).unwrap();
    fs::write(&elsewhere, "10.0.0.7").unwrap();
    let pipe = |name: &str| testkit::run(std::process::Command::new("mkfifo").arg(net.join(name)));
    pipe("lock");
    pipe("last_reserved_ip.0");
    std::os::unix::fs::symlink(&elsewhere, net.join("last_reserved_ip.1")).unwrap();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn({
        let store = Store::new(dir.path(), "net");
        move || {
            let mut locked = store.lock(SOON).unwrap();
            assert_eq!(locked.last(0).unwrap(), None);
            for set in [0, 1] {
                locked.set_last(set, ip("10.0.0.9")).unwrap();
                assert_eq!(locked.last(set).unwrap(), Some(ip("10.0.0.9")));
            }
            sender.send(()).unwrap();
        }
    });
    receiver.recv_timeout(Duration::from_secs(20)).expect("it waits for a pipe, or was refused");
    assert_eq!(fs::read_to_string(elsewhere).unwrap(), "10.0.0.7");
}

#[test]
fn a_lease_that_has_a_path_in_place_of_an_id_makes_no_file_there() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "net");
    fs::create_dir(dir.path().join("net")).unwrap();
    let path = dir.path().join("made");
    for (address, id) in [("10.0.0.2", path.to_str().unwrap()), ("10.0.0.3", "../made"), ("10.0.0.4", "a\0b")] {
        fs::write(dir.path().join("net").join(address), format!("{id}\r\neth0")).unwrap();
    }
    assert_eq!(store.lock(SOON).unwrap().held_by(&owner("a")).unwrap(), Vec::<IpAddr>::new());
    let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".net", "net"]);
    let mut locked = store.lock(SOON).unwrap();
    assert!(locked.indexed, "and the index is whole");
    assert_eq!(locked.release(&owner("../made")).unwrap(), [ip("10.0.0.3")]);
}

#[test]
fn what_was_in_the_indexs_directory_before_stays() {
    let dir = testkit::scratch();
    let store = Store::new(dir.path(), "ssh");
    fs::create_dir_all(dir.path().join(".ssh/deeper")).unwrap();
    fs::write(dir.path().join(".ssh/authorized_keys"), "precious").unwrap();
    let mut locked = store.lock(SOON).unwrap();
    assert!(locked.take(ip("10.0.0.2"), &owner("a")).unwrap());
    assert_eq!(locked.held_by(&owner("a")).unwrap(), [ip("10.0.0.2")]);
    locked.release(&owner("a")).unwrap();
    locked.forget_network();
    let names = fs::read_dir(dir.path().join(".ssh")).unwrap().count();
    assert_eq!((names, fs::read_to_string(dir.path().join(".ssh/authorized_keys")).unwrap()), (2, "precious".into()));
}
