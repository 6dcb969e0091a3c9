//! `restore`: a container from what a checkpoint has left.

use std::env;
use std::fs::{self, File};
use std::mem;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{chroot, fchdir};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::criu::{Criu, Descriptors, Externals, Notice, RestoreOptions, make_dir};
use crate::engine::Hooks;
use crate::error::Error;
use crate::helper::{self, Kept};
use crate::options::CgroupDriver;
use crate::pending::Pending;
use crate::process;
use crate::rootfs;
use crate::socket;
use crate::spec;
use crate::state::{State, Status, Traits};
use crate::store::{Container, Init, Lock, Record, replace};
use crate::verb::create::check_console;

/// Begins the restoring in a helper child. The init becomes its child, and with its end the caller's.
pub fn restore(
    container: Container,
    driver: CgroupDriver,
    bundle: &Path,
    options: RestoreOptions,
) -> Result<Pending, Error> {
    let mut options = options;
    let stdio = [options.stdin.take(), options.stdout.take(), options.stderr.take()];
    let kept = Kept { stdio, preserve: 0, namespaces: mem::take(&mut options.runtime_namespaces) };
    let request = Request { container, driver, bundle: bundle.to_owned(), options };
    helper::spawn(kept, move |kept| request.run(kept))
}

struct Request {
    container: Container,
    driver: CgroupDriver,
    bundle: PathBuf,
    options: RestoreOptions,
}

impl Request {
    fn run(mut self, kept: Kept) -> Result<i32, Error> {
        self.container.check_free()?;
        self.make_absolute()?;
        let path = self.options.config.clone().unwrap_or_else(|| self.bundle.join("config.json"));
        let (spec, text) = spec::load_given(&path)?;
        spec::check(&spec)?;
        let console_socket = self.options.console_socket.as_deref();
        // A job of a shell's has the terminal of its caller, when it comes back too.
        if console_socket.is_some() || !self.options.criu.shell_job {
            check_console(spec::has_terminal(&spec), console_socket)?;
        }
        let cgroup = cgroup::Plan::new(&spec, self.container.id(), self.driver)?;
        cgroup.check()?;
        let record = Record {
            id: self.container.id().to_owned(),
            bundle: self.bundle.clone(),
            rootfs: rootfs::Plan::new(&spec, &self.bundle, false)?.rootfs().to_owned(),
            created: jiff::Timestamp::now().to_string(),
            cgroup: cgroup.path().to_owned(),
            made_above: cgroup.made_above(),
            beneath: None,
            unit: cgroup.unit().cloned(),
            annotations: spec.annotations().clone().unwrap_or_default(),
            follow_up: spec::has_follow_up(&spec),
            traits: Some(Traits::of(&spec)),
            creator: Init::of(std::process::id() as i32),
            init: None,
            started: false,
        };
        [self.options.stdin, self.options.stdout, self.options.stderr] = kept.stdio;
        let lock = self.container.reserve(&record, &text)?;
        let restored = cgroup.prepare().and_then(|_| self.build(&spec, record, &cgroup, &lock));
        if restored.is_err() {
            helper::end_children();
            cgroup.undo();
            let _ = self.container.remove();
        }
        restored
    }

    fn make_absolute(&mut self) -> Result<(), Error> {
        self.bundle = fs::canonicalize(&self.bundle)
            .map_err(|error| Error::io(format!("bundle {}", self.bundle.display()), error))?;
        let here = env::current_dir().map_err(|error| Error::io("find the working directory", error))?;
        let options = &mut self.options;
        options.criu.images = here.join(&options.criu.images);
        let paths = [&mut options.criu.work, &mut options.console_socket, &mut options.pid_file, &mut options.config];
        for path in paths.into_iter().flatten() {
            *path = here.join(&path);
        }
        Ok(())
    }

    fn build(&self, spec: &Spec, mut record: Record, cgroup: &cgroup::Plan, lock: &Lock) -> Result<i32, Error> {
        let pid = self.restore(spec, &record)?;
        cgroup.place(pid, false)?;
        cgroup.enforce(None)?;
        let ended = || Error::internal(format!("the container's init {pid} ended as soon as it was restored"));
        record.init = Some(Init::of(pid).ok_or_else(ended)?);
        record.started = true;
        self.container.save(&record, lock)?;
        if let Some(pid_file) = &self.options.pid_file {
            replace(pid_file, pid.to_string().as_bytes())?;
        }
        Ok(pid)
    }

    fn restore(&self, spec: &Spec, record: &Record) -> Result<i32, Error> {
        let options = &self.options;
        if let Some(work) = &options.criu.work {
            make_dir(work)?;
        }
        let console = options.console_socket.as_deref().map(process::connect).transpose()?;
        // These may have to do with the namespaces, which are new. The other hooks are of a program that begins, and this one
        // goes on. (So it is with runc.)
        let hooks = Hooks::new(spec);
        let outside = Outside::of_this_process()?;
        mount_root(&record.rootfs)?;
        let criu = self.criu(spec, record)?;
        if console.is_none() && !hooks.any_of_runtime() {
            return self.restore_silently(criu);
        }
        let mut awaited = console.is_some();
        let heed = |notice| match (notice, &console) {
            (Notice::Namespaces(pid), _) => {
                outside.enter()?;
                hooks.run_of_runtime(&State::of(record, Status::Creating, pid))
            }
            (Notice::Terminal(master), Some(console)) => {
                awaited = false;
                process::send_console(console.as_fd(), &master)
            }
            (Notice::Terminal(_), None) => Ok(()),
        };
        match criu.converse(false, console.is_some(), heed)? {
            Some(_) if awaited => Err(Error::spec(format!(
                "config.json: process.terminal is true, but the images in {} are of a container without one",
                options.criu.images.display()
            ))),
            Some(pid) => Ok(pid),
            None => Err(Error::internal("criu does not say which process it has restored")),
        }
    }

    /// What CRIU is told however it is run.
    fn criu(&self, spec: &Spec, record: &Record) -> Result<Criu, Error> {
        let options = &self.options;
        let mut criu = Criu::new("restore", &options.criu);
        criu.tie();
        // These CRIU hands on to the container. Hooks must not have them, as at a creation: what one leaves running would
        // keep them open.
        criu.hand_on([&options.stdin, &options.stdout, &options.stderr])?;
        criu.switch("--restore-sibling", true);
        criu.arg("--root", &record.rootfs);
        criu.arg_in_one("--manage-cgroups", options.criu.manage_cgroups.as_deref().unwrap_or("soft"));
        criu.arg("--cgroup-root", &record.cgroup);
        if let Some(profile) = &options.lsm_profile {
            criu.arg("--lsm-profile", profile);
        }
        if let Some(context) = &options.lsm_mount_context {
            criu.arg("--lsm-mount-context", context);
        }
        Externals::of(spec, &record.bundle, &record.cgroup).tell_restore(&mut criu)?;
        Descriptors::load(&options.criu.images).tell_restore(&mut criu);
        Ok(criu)
    }

    /// With nothing to be done on the way.
    fn restore_silently(&self, mut criu: Criu) -> Result<i32, Error> {
        let pid_file = self.container.dir().join("restored.pid");
        criu.switch("--restore-detached", true);
        criu.arg("--pidfile", &pid_file);
        criu.run(false)?;
        let text = fs::read_to_string(&pid_file);
        let text = text.map_err(|error| Error::io(format!("read {}", pid_file.display()), error))?;
        text.trim().parse().map_err(|_| Error::internal(format!("criu's pid file says {text:?}")))
    }
}

/// Makes the root a mount, which CRIU wants: in a mount namespace of this helper's own, and so gone with it. At its own
/// place: a second one could be overlooked by whoever removes the directory around it.
fn mount_root(rootfs: &Path) -> Result<(), Error> {
    let none = None::<&str>;
    let failed = |error| Error::io(format!("mount {}", rootfs.display()), error);
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none).map_err(failed)?;
    mount(Some(rootfs), rootfs, none, MsFlags::MS_BIND | MsFlags::MS_REC, none).map_err(failed)
}

/// The mount namespace that is left for CRIU, where hooks run all the same.
struct Outside {
    namespace: File,
    root: File,
}

impl Outside {
    fn of_this_process() -> Result<Self, Error> {
        let failed = |error| Error::io("open the mount namespace", error);
        let namespace = File::open("/proc/self/ns/mnt").map_err(failed)?;
        Ok(Self { namespace, root: socket::open_dir(Path::new("/")).map_err(failed)? })
    }

    /// Goes back there. The root need not be that of the namespace, which is what one gets by entering.
    fn enter(&self) -> Result<(), Error> {
        let entered = setns(&self.namespace, CloneFlags::CLONE_NEWNS).and_then(|()| fchdir(&self.root));
        entered.and_then(|()| chroot(".")).map_err(|error| Error::io("go back to the mount namespace", error))
    }
}
