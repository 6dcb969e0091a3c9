//! The steps of [`super::Root`] in a mount namespace of the test's own.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::pipe2;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{Context, Plan, Root};
use crate::sys::process::{self, Fork};

/// Does `work` in a child with namespaces of its own; a panic there is the test's.
fn in_namespaces(work: impl FnOnce()) {
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    match process::fork().expect("fork") {
        Fork::Child => {
            drop(read);
            let done = catch_unwind(AssertUnwindSafe(|| {
                unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)
                    .expect("namespaces");
                work();
            }));
            let text = done.err().map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or("panic".to_owned()));
            let _ = std::io::Write::write_all(&mut fs::File::from(write), text.unwrap_or_default().as_bytes());
            process::exit_now(0);
        }
        Fork::Parent(pid) => {
            drop(write);
            let mut text = String::new();
            fs::File::from(read).read_to_string(&mut text).expect("the child's words");
            process::wait(pid, true).expect("the child");
            assert!(text.is_empty(), "{text}");
        }
    }
}

struct Bundle(tempfile::TempDir);

impl Bundle {
    fn new() -> Self {
        let bundle = Self(tempfile::tempdir().expect("a bundle"));
        for name in ["proc", "sys", "dev", "etc"] {
            fs::create_dir_all(bundle.rootfs().join(name)).expect("a directory");
        }
        bundle
    }

    fn rootfs(&self) -> PathBuf {
        self.0.path().join("rootfs")
    }

    /// Builds and enters the default specification with some of its values changed (JSON pointers).
    fn build(&self, changes: &[(&str, Value)]) -> Result<(), crate::Error> {
        let mut spec = crate::spec::default_spec();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').expect("a JSON pointer");
            match spec.pointer_mut(parent).expect("a place") {
                Value::Array(list) => list.push(value.clone()),
                place => place[key] = value.clone(),
            }
        }
        let spec: Spec = serde_json::from_value(spec).expect("a specification");
        let plan = Plan::new(&spec, self.0.path(), false)?;
        let sources = plan.open()?;
        let context = Context { no_pivot: false, user_namespace: false, cgroup_namespace: false, cgroup: "/".into() };
        let mut root = Root::enter(plan, sources, context)?;
        root.mount(&mut || Ok(()))?;
        root.pivot()?;
        root.finish()
    }
}

fn mountinfo(path: &str) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default().to_owned()
}

#[test]
fn the_default_specification_is_built() {
    let bundle = Bundle::new();
    in_namespaces(|| {
        let masks = ("/linux/maskedPaths", json!(["/proc/interrupts", "/etc", "/proc/no-such-file", "/sys/kernel"]));
        bundle.build(&[masks]).unwrap_or_else(|error| panic!("{error}"));
        let null = fs::metadata("/dev/null").expect("null");
        assert!(null.file_type().is_char_device() && null.rdev() == 0x103 && null.mode() & 0o777 == 0o666);
        assert_eq!(fs::read_link("/dev/fd").expect("a link"), Path::new("/proc/self/fd"));
        assert_eq!(fs::read("/proc/interrupts").expect("masked"), b"");
        for directory in ["/etc", "/sys/kernel"] {
            assert_eq!(fs::read_dir(directory).expect("masked").count(), 0);
        }
        assert!(mountinfo("/proc/sys").contains(" ro,"), "{}", mountinfo("/proc/sys"));
        assert!(mountinfo("/").contains(" ro,"), "{}", mountinfo("/"));
        assert!(fs::write("/x", "").is_err());
        assert!(fs::metadata("/sys/fs/cgroup/cgroup.procs").is_ok() || fs::metadata("/sys/fs/cgroup/memory").is_ok());
        let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
        assert!(!table.contains("shared:"), "{table}");
    });
    assert!(fs::read_dir(bundle.rootfs().join("dev")).expect("dev").next().is_none());
}

#[test]
fn links_of_the_image_lead_nowhere_outside() {
    for name in ["dev", "proc", "sys"] {
        let bundle = Bundle::new();
        let outside = bundle.0.path().join("outside");
        fs::create_dir(&outside).expect("outside");
        fs::remove_dir(bundle.rootfs().join(name)).expect("the directory");
        symlink(&outside, bundle.rootfs().join(name)).expect("a link");
        in_namespaces(|| {
            let error = bundle.build(&[]).expect_err("refused").to_string();
            assert!(error.contains(&format!("/{name} is a symbolic link to")), "{error}");
        });
        assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0);
    }
}
