//! The container's root, built in the init's mount namespace.

use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::readlinkat;
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{SFlag, fstat};
use nix::sys::statfs::fstatfs;
use nix::unistd::{chdir, chroot, fchdir, pivot_root};

use super::beneath::{self, Last, Missing};
use super::device::Prepared;
use super::mount::Target;
use super::plan::{Kind, Mount, Plan};
use super::protect::Places;
use super::source::{self, Source, Sources};
use super::{Context, device, sysctl};
use crate::error::Error;
use crate::sys::mount::{self, Change, attribute};

/// Directories that are filled before the container is locked into its root.
const FILLED: [&str; 3] = ["dev", "proc", "sys"];

/// The root, in the order of its methods: entered, filled, locked, finished.
pub struct Root {
    plan: Plan,
    sources: Sources,
    context: Context,
    /// What the init has as its root until the pivot.
    machine: OwnedFd,
    root: OwnedFd,
    /// The container's procfs and sysfs, and where they were mounted: what is reached through them is theirs, even if
    /// somebody outside has renamed the directory meanwhile, for then the mount moves along.
    kernel: Vec<(PathBuf, OwnedFd)>,
    /// File systems that become read-only when nothing is put into them any more.
    filling: Vec<(Mount, OwnedFd)>,
}

impl Root {
    /// Cuts the mount namespace off from the machine's and attaches the root file system in it.
    ///
    /// # Errors
    /// What was being done and the kernel's reason.
    pub fn enter(plan: Plan, mut sources: Sources, context: Context) -> Result<Self, Error> {
        let failure = |what: &str, error: std::io::Error| Error::io(what, error);
        let machine = beneath::own_root().map_err(|error| failure("open /", error.into()))?;
        // Mounts made from here on stay in this namespace.
        if plan.mount_namespace {
            mount::change(machine.as_fd(), true, plan.base().change())
                .map_err(|error| failure("set the propagation of /", error))?;
        }
        let doing = |error| Error::io(format!("root file system {}", plan.rootfs.display()), error);
        let root = match mem::replace(&mut sources.root, Source::None) {
            Source::Tree(tree) => tree,
            _ => source::open_root(&plan.rootfs, plan.base()).map_err(doing)?,
        };
        let onto = match beneath::directory(&plan.rootfs) {
            Ok(fd) => fd,
            // Where this user cannot go by its path, any place does.
            Err(Errno::EACCES) if plan.mount_namespace => beneath::own_root().map_err(|error| doing(error.into()))?,
            Err(error) => return Err(doing(error.into())),
        };
        mount::attach(root.as_fd(), onto.as_fd()).map_err(doing)?;
        if !plan.mount_namespace {
            // On a shared mount it has become shared, and whatever is mounted in it would be mounted elsewhere, too.
            mount::change(root.as_fd(), true, plan.base().change()).map_err(doing)?;
        }
        Ok(Self { plan, sources, context, machine, root, kernel: Vec::new(), filling: Vec::new() })
    }

    /// Mounts everything in order, then makes the devices and links of `/dev`.
    ///
    /// `before_cgroup` is called once, before the first mount that shows cgroups, if there is one.
    ///
    /// # Errors
    /// The mount or device, the step, and the kernel's reason.
    pub fn mount(&mut self, before_cgroup: &mut dyn FnMut() -> Result<(), Error>) -> Result<(), Error> {
        self.refuse_links()?;
        let mounts = mem::take(&mut self.plan.mounts);
        let sources = mem::take(&mut self.sources.mounts);
        let mut ready = false;
        for (mount, source) in mounts.into_iter().zip(sources) {
            if !ready && (mount.kind == Kind::Cgroup || mount.is("cgroup2")) {
                before_cgroup()?;
                ready = true;
            }
            self.mount_one(mount, source)?;
        }
        let devices = mem::take(&mut self.plan.devices);
        let prepared = mem::replace(&mut self.sources.devices, Prepared::None);
        device::make_all(self.root.as_fd(), devices, prepared)?;
        self.sources.room = None;
        if self.plan.dev_links { device::make_links(self.root.as_fd()) } else { Ok(()) }
    }

    fn mount_one(&mut self, mount: Mount, source: Source) -> Result<(), Error> {
        if mount.kind != Kind::Remount {
            // Covered now.
            self.kernel.retain(|(place, _)| !place.starts_with(&mount.destination));
        }
        let target = Target { root: self.root.as_fd(), user_namespace: self.context.user_namespace };
        match mount.kind {
            Kind::Remount => target.remount(&mount),
            Kind::Cgroup => target.cgroup(&mount, &self.context),
            Kind::Bind { .. } => {
                let later = matches!(source, Source::Later);
                let source = match source {
                    // What is mounted in this namespace has the right propagation already.
                    Source::Later => source::open_bind(&mount, None)?,
                    source => source,
                };
                match source {
                    Source::Tree(tree) if mount.is_root() => self.replace(&mount, tree),
                    Source::Tree(tree) if !later && self.plan.base_of(&mount).is_none() => {
                        target.bind_anew(&mount, &tree)
                    }
                    Source::Tree(tree) => target.bind(&mount, &tree),
                    Source::Link(link) => target.copy_link(&mount, &link),
                    _ => Err(mount.wrong("a bug: its source was not opened")),
                }
            }
            Kind::FileSystem { .. } => {
                // Mount points, devices and links may still have to be made in it.
                let delay = if mount.is("tmpfs") { attribute::READ_ONLY } else { 0 };
                let fd = target.file_system(&mount, &source, delay)?;
                if mount.is("proc") || mount.is("sysfs") {
                    self.kernel.push((mount.destination, fd));
                } else if delay & mount.options.own.set != 0 {
                    self.filling.push((mount, fd));
                }
                Ok(())
            }
        }
    }

    /// A directory bound over the root is the root from then on.
    fn replace(&mut self, mount: &Mount, tree: OwnedFd) -> Result<(), Error> {
        mount::attach(tree.as_fd(), self.root.as_fd()).map_err(|error| mount.failure("bind over the root", error))?;
        self.root = tree;
        self.refuse_links()
    }

    /// A root file system in which one of the directories the runtime fills is a link is not a root file system. It could
    /// do no harm outside (nothing is looked up but beneath the root), but what is masked would not be what is found.
    fn refuse_links(&self) -> Result<(), Error> {
        for name in FILLED {
            if let Ok(target) = readlinkat(&self.root, name) {
                return Err(Error::spec(format!(
                    "root file system {}: /{name} is a symbolic link to {}, but file systems must be mounted on ordinary \
                     directory",
                    self.plan.rootfs.display(),
                    Path::new(&target).display(),
                )));
            }
        }
        Ok(())
    }

    /// Makes the root the root of this process and lets go of the machine's.
    ///
    /// # Errors
    /// What was being done and the kernel's reason.
    pub fn pivot(&mut self) -> Result<(), Error> {
        let failure = |what: &str, error: Errno| Error::io(format!("{what} {}", self.plan.rootfs.display()), error);
        if !self.plan.mount_namespace {
            fchdir(&self.root).map_err(|error| failure("enter", error))?;
            chroot(".").map_err(|error| failure("chroot to", error))?;
        } else if self.context.no_pivot {
            hide_file_systems(&self.plan.rootfs)?;
            mount::attach(self.root.as_fd(), self.machine.as_fd())
                .map_err(|error| Error::io(format!("move {} to /", self.plan.rootfs.display()), error))?;
            fchdir(&self.root).map_err(|error| failure("enter", error))?;
            chroot(".").map_err(|error| failure("chroot to", error))?;
        } else {
            fchdir(&self.root).map_err(|error| failure("enter", error))?;
            pivot_root(".", ".").map_err(|error| failure("pivot_root to", error))?;
            // The machine's root now lies on top of the container's.
            fchdir(&self.machine).map_err(|error| failure("leave the machine's root for", error))?;
            umount2(".", MntFlags::MNT_DETACH).map_err(|error| failure("unmount the machine's root from", error))?;
        }
        chdir("/").map_err(|error| failure("enter", error))
    }

    /// Shows the container's terminal as `/dev/console`.
    ///
    /// # Errors
    /// `slave` is not of a devpts, or the kernel's reason.
    pub fn bind_console(&self, slave: BorrowedFd<'_>) -> Result<(), Error> {
        const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
        let failure = |error: std::io::Error| Error::io("bind the terminal to /dev/console", error);
        let file_system = fstatfs(slave).map_err(|error| failure(error.into()))?;
        let stat = fstat(slave).map_err(|error| failure(error.into()))?;
        let character = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
        // Whatever else could be bound there, nobody asked for it (the class of CVE-2025-52565).
        if file_system.filesystem_type().0 != DEVPTS_SUPER_MAGIC || !character {
            return Err(Error::internal("bind the terminal to /dev/console: this is not a terminal of a devpts"));
        }
        let path = Path::new("/dev/console");
        let target = beneath::find_or_make(self.root.as_fd(), path, Missing::File, Last::NoFollow);
        let target = target.map_err(|error| failure(error.into()))?;
        let terminal = mount::clone_tree(slave, Path::new(""), false, true).map_err(failure)?;
        mount::attach(terminal.as_fd(), target.as_fd()).map_err(failure)
    }

    /// Sets kernel parameters, protects paths, and makes read-only what is to be.
    ///
    /// # Errors
    /// The parameter or path and the kernel's reason.
    pub fn finish(self) -> Result<(), Error> {
        let root = self.root.as_fd();
        let proc = self.kernel.iter().find(|(place, _)| place == Path::new("/proc"));
        sysctl::apply(&self.plan.sysctl, proc.map(|(_, fd)| fd.as_fd()))?;
        let places = Places { root, kernel: &self.kernel };
        places.make_read_only(&self.plan.read_only_paths)?;
        places.mask(&self.plan.masked)?;
        let read_only = Change::set(attribute::READ_ONLY);
        for (mount, fd) in &self.filling {
            mount::change(fd.as_fd(), false, read_only).map_err(|error| mount.failure("make it read-only", error))?;
        }
        if self.plan.read_only {
            mount::change(root, false, read_only).map_err(|error| Error::io("make the root read-only", error))?;
        }
        match self.plan.propagation {
            // A private one was made so from the start, and mounts below it may have been asked to be otherwise.
            Some(propagation) if propagation.kind != libc::MS_PRIVATE => {
                mount::change(root, propagation.recursive, propagation.change())
                    .map_err(|error| Error::io("config.json: linux.rootfsPropagation", error))
            }
            _ => Ok(()),
        }
    }
}

/// Unmounts the machine's procfs and sysfs instances: with a root that is only moved they would stay in the namespace,
/// and the kernel lets a user namespace mount new ones where it finds old ones that hide nothing.
fn hide_file_systems(rootfs: &Path) -> Result<(), Error> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")
        .map_err(|error| Error::io("read /proc/self/mountinfo", error))?;
    let mut paths: Vec<_> = table.lines().filter_map(virtual_file_system).collect();
    // Innermost first.
    paths.reverse();
    for path in paths.iter().filter(|path| !path.starts_with(rootfs)) {
        match umount2(path.as_path(), MntFlags::MNT_DETACH) {
            // Covered by another mount, or locked; then a new one cannot be mounted either.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT | Errno::EPERM | Errno::EACCES) => {}
            Err(error) => return Err(Error::io(format!("unmount {}", path.display()), error)),
        }
    }
    Ok(())
}

/// The mount point of a line of mountinfo that is about procfs or sysfs (proc_pid_mountinfo(5)).
fn virtual_file_system(line: &str) -> Option<PathBuf> {
    let (front, back) = line.split_once(" - ")?;
    let kind = back.split(' ').next()?;
    let path = front.split(' ').nth(4)?;
    (kind == "proc" || kind == "sysfs").then(|| PathBuf::from(path))
}
