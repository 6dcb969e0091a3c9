//! `restore`: a container from what a checkpoint has left.

use std::env;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use oci_spec::runtime::Spec;

use crate::cgroup;
use crate::criu::{Criu, Descriptors, Externals, RestoreOptions, make_dir};
use crate::error::{Error, ErrorKind};
use crate::helper::{self, Kept};
use crate::options::CgroupDriver;
use crate::pending::Pending;
use crate::rootfs;
use crate::spec;
use crate::state::Traits;
use crate::store::{Container, Init, Lock, Record, replace};
use crate::sys;

/// Begins the restoring in a helper child. The init becomes its child, and with its end the caller's.
pub fn restore(
    container: Container,
    driver: CgroupDriver,
    bundle: &Path,
    options: RestoreOptions,
) -> Result<Pending, Error> {
    let mut options = options;
    let stdio = [options.stdin.take(), options.stdout.take(), options.stderr.take()];
    let request = Request { container, driver, bundle: bundle.to_owned(), options };
    helper::spawn(Kept { stdio, preserve: 0 }, move |kept| request.run(kept))
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
        if spec.process().as_ref().and_then(|process| process.terminal()) == Some(true) && !self.options.criu.shell_job
        {
            // CRIU hands a new master over by its library only, not by its command line.
            let text = "config.json: process.terminal: a container with a terminal cannot be restored (only one whose \
                        terminal was its caller's: --shell-job)";
            return Err(Error::new(ErrorKind::Unsupported, text));
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
        become_stdio(kept)?;
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
        for path in [&mut options.criu.work, &mut options.pid_file, &mut options.config].into_iter().flatten() {
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
        let pid_file = self.container.dir().join("restored.pid");
        let mut criu = Criu::new("restore", &options.criu);
        criu.tie();
        criu.switch("--restore-detached", true);
        criu.switch("--restore-sibling", true);
        criu.arg("--pidfile", &pid_file);
        mount_root(&record.rootfs)?;
        criu.arg("--root", &record.rootfs);
        criu.arg_in_one("--manage-cgroups", options.criu.manage_cgroups.as_deref().unwrap_or("soft"));
        criu.arg("--cgroup-root", &record.cgroup);
        if let Some(profile) = &options.lsm_profile {
            criu.arg("--lsm-profile", profile);
        }
        if let Some(context) = &options.lsm_mount_context {
            criu.arg("--lsm-mount-context", context);
        }
        let files = Externals::of(spec, &record.bundle, &record.cgroup).tell_restore(&mut criu)?;
        Descriptors::load(&options.criu.images).tell_restore(&mut criu);
        criu.run(false)?;
        drop(files);
        let text = fs::read_to_string(&pid_file);
        let text = text.map_err(|error| Error::io(format!("read {}", pid_file.display()), error))?;
        text.trim().parse().map_err(|_| Error::internal(format!("criu's pid file says {text:?}")))
    }
}

/// CRIU hands its own standard streams to the container, and it has this helper's.
fn become_stdio(kept: Kept) -> Result<(), Error> {
    for (number, stream) in (0..).zip(kept.stdio) {
        if let Some(stream) = stream {
            sys::set_stdio(stream.as_fd(), number).map_err(|error| Error::io("set a standard stream", error))?;
        }
    }
    Ok(())
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
