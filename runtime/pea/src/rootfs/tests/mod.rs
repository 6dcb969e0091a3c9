//! The steps of [`super::Root`] in namespaces of the test's own: one child plays the machine, its child the init.

mod attributes;
mod hostile;
mod whole;

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::pipe2;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::{Context, Plan, Root};
use crate::Error;
use crate::sys::process::{self, Fork};

const MACHINE: i32 = libc::CLONE_NEWNS;
const INIT: i32 = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
const USER: i32 = INIT | libc::CLONE_NEWUSER;
/// The first id of the test's user namespaces.
const MAPPED: u32 = 100_000;

/// Does `work` in a child with those namespaces, after `prepare` was told its pid; a panic there is one here.
fn child(namespaces: i32, prepare: impl FnOnce(i32), work: impl FnOnce()) {
    let (wait, go) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
    match process::fork_into(namespaces).expect("fork") {
        Fork::Child => {
            drop((go, read));
            let done = catch_unwind(AssertUnwindSafe(|| {
                // A word, and not the end of the pipe: the children of two tests may each have the other's writing end.
                File::from(wait).read_exact(&mut [0]).expect("the word to go");
                work();
            }));
            let words = |panic: Box<dyn std::any::Any + Send>| match panic.downcast::<String>() {
                Ok(text) => *text,
                Err(panic) => (*panic.downcast_ref::<&str>().unwrap_or(&"panic")).to_owned(),
            };
            let _ = File::from(write).write_all(done.err().map(words).unwrap_or_default().as_bytes());
            process::exit_now(0);
        }
        Fork::Parent(pid) => {
            drop((wait, write));
            prepare(pid);
            File::from(go).write_all(&[0]).expect("a child that waits");
            let mut text = String::new();
            File::from(read).read_to_string(&mut text).expect("the child's words");
            process::wait(pid, true).expect("the child");
            assert!(text.is_empty(), "{text}");
        }
    }
}

/// Does `work` as on a machine of its own: what it mounts goes away with it.
fn on_a_machine(work: impl FnOnce()) {
    child(
        MACHINE,
        |_| (),
        || {
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
                .expect("private");
            work();
        },
    );
}

fn tmpfs(path: &Path, flags: MsFlags) {
    fs::create_dir_all(path).expect("a mount point");
    mount(Some("tmpfs"), path, Some("tmpfs"), flags, None::<&str>).expect("a tmpfs");
}

fn make_shared(path: &Path) {
    mount(None::<&str>, path, None::<&str>, MsFlags::MS_SHARED, None::<&str>).expect("shared");
}

struct Bundle {
    dir: tempfile::TempDir,
    spec: Value,
    no_pivot: bool,
}

impl Bundle {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a bundle");
        for name in ["proc", "sys", "dev", "etc"] {
            fs::create_dir_all(dir.path().join("rootfs").join(name)).expect("a directory");
        }
        let mut spec = crate::spec::default_spec();
        spec["root"]["readonly"] = json!(false);
        Self { dir, spec, no_pivot: false }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn mount(&mut self, mount: Value) -> &mut Self {
        self.spec["mounts"].as_array_mut().expect("mounts").push(mount);
        self
    }

    fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) -> &mut Self {
        let mount = json!({"destination": destination, "type": "bind", "source": source, "options": options});
        self.mount(mount)
    }

    /// For a user namespace, whose root must own the root file system.
    fn give_to_user(&mut self) {
        let mapping = json!([{"containerID": 0, "hostID": MAPPED, "size": 65536}]);
        self.spec["linux"]["uidMappings"] = mapping.clone();
        self.spec["linux"]["gidMappings"] = mapping;
        self.spec["linux"]["namespaces"].as_array_mut().expect("a list").push(json!({"type": "user"}));
        for name in ["rootfs", "rootfs/dev", "rootfs/etc"] {
            chown(self.path(name), Some(MAPPED), Some(MAPPED)).expect("chown");
        }
    }

    /// Builds the container in an init with those namespaces, where `work` gets the outcome.
    fn contain(&self, namespaces: i32, work: impl FnOnce(Result<(), Error>)) {
        let user_namespace = namespaces & libc::CLONE_NEWUSER != 0;
        let spec: Spec = serde_json::from_value(self.spec.clone()).expect("a specification");
        let opened = Plan::new(&spec, self.dir.path(), user_namespace).and_then(|plan| Ok((plan.open()?, plan)));
        let map = |pid| {
            for map in ["uid_map", "gid_map"].iter().filter(|_| user_namespace) {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {MAPPED} 65536")).expect("a mapping");
            }
        };
        child(namespaces, map, || {
            if user_namespace {
                process::become_root().expect("root");
            }
            let context =
                Context { no_pivot: self.no_pivot, user_namespace, cgroup_namespace: false, cgroup: "/".into() };
            work(opened.and_then(|(sources, plan)| {
                let mut root = Root::enter(plan, sources, context)?;
                root.mount(&mut || Ok(()))?;
                root.pivot()?;
                root.finish()
            }));
        });
    }

    /// The same, for a container that must be built.
    fn inside(&self, namespaces: i32, work: impl FnOnce()) {
        self.contain(namespaces, |built| {
            built.unwrap_or_else(|error| panic!("{error}"));
            work();
        });
    }

    fn error(&self) -> String {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).expect("a pipe");
        self.contain(INIT, |built| {
            let error = built.expect_err("it must be refused").to_string();
            (&File::from(write.try_clone().expect("a copy"))).write_all(error.as_bytes()).expect("a pipe");
        });
        drop(write);
        std::io::read_to_string(File::from(read)).expect("the error")
    }
}

/// The last line of the mount table about that mount point.
fn mounted(path: &str) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the mount table");
    table.lines().rfind(|line| line.split(' ').nth(4) == Some(path)).unwrap_or_default().to_owned()
}

/// The options of a mount itself.
fn options(path: &str) -> Vec<String> {
    let line = mounted(path);
    let options = line.split(' ').nth(5).unwrap_or_else(|| panic!("nothing is mounted at {path}"));
    options.split(',').map(str::to_owned).collect()
}

/// The peer group of a kind ("shared", "master") a mount is of.
fn peers(path: &str, kind: &str) -> Option<String> {
    let line = mounted(path);
    line.split(' ').take_while(|word| *word != "-").find_map(|word| word.strip_prefix(kind)).map(str::to_owned)
}

fn listed(path: &str) -> usize {
    fs::read_dir(path).unwrap_or_else(|error| panic!("{path}: {error}")).count()
}
