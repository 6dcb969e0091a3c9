//! Being the shim: from the fork of `start` to the end of the pod.

use std::fs::File;
use std::io::{self, PipeWriter, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::socket::{Backlog, listen};
use nix::unistd::setsid;

use crate::error::Error;
use crate::events::Publisher;
use crate::lock::Lock;
use crate::peers::Peers;
use crate::pod::Pod;
use crate::rest::Rest;
use crate::signals::Signals;
use crate::{log, server, sys};

/// What the daemon tells `start` once it serves; anything else is why it does not.
pub const READY: &str = "ready";

/// How long clients may take to leave, and after them the last answers to get out.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a shim may have nothing to look after. Whoever starts one makes something in it at once; one that nobody
/// comes to was started for somebody who has given up, or was killed, and does not know of it any more: with a client of
/// another mind it would live for ever.
const UNUSED: Duration = Duration::from_secs(20);

/// How readily the kernel ends this process for want of memory (proc_pid_oom_score_adj(5)).
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// The most there is.
const MOST_OOM_SCORE: i32 = 1000;

/// How much the event loop hears of at once; by default it has room for 1024, which are 12 KiB.
const EVENTS: usize = 64;

/// What `start` hands to the daemon.
pub struct Inheritance {
    /// containerd's namespace.
    pub namespace: String,
    /// Where events go; empty for nowhere.
    pub events: String,
    /// The control group to live in; the caller's when absent.
    pub cgroup: Option<PathBuf>,
    /// The bundle the shim is started in.
    pub bundle: PathBuf,
    /// The path of the listener, until the pod has it.
    pub socket: Option<Socket>,
    /// Listens already, so that a client need not wait for the daemon.
    pub listener: UnixListener,
    /// Held for life: by the pod, once it serves.
    pub lock: Option<Lock>,
    /// `start` waits at the other end, until this is dropped.
    pub ready: Option<PipeWriter>,
}

/// Is the daemon. Never returns.
pub fn run(mut inheritance: Inheritance) -> ! {
    let status = match detach(&mut inheritance).and_then(|()| serve(&mut inheritance)) {
        Ok(()) => 0,
        Err(error) => {
            // One failure is one message: `start` prints what it hears.
            match inheritance.ready.take() {
                Some(mut ready) => drop(write!(ready, "{error}")),
                None => log::error(&error),
            }
            1
        }
    };
    drop(inheritance);
    sys::exit_now(status)
}

/// The path of the shim's socket. Dropping it removes the file: from then on another shim may have one there.
pub struct Socket(PathBuf);

impl Socket {
    /// Of a socket that this process alone is to remove.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Leaves everything of the caller's behind: session, terminal, directory, descriptors.
fn detach(inheritance: &mut Inheritance) -> Result<(), Error> {
    let failed = |source: io::Error| Error::io("detach the shim", source);
    // Once more, in this process: who connects is told the one that has called it (SO_PEERCRED in unix(7)).
    listen(&inheritance.listener, Backlog::MAXCONN).map_err(|errno| failed(errno.into()))?;
    if let Some(lock) = &mut inheritance.lock {
        lock.sign(std::process::id()).map_err(failed)?;
    }
    if let Some(cgroup) = &inheritance.cgroup {
        // One that is not there is not made: nobody would remove it. containerd's own shim does as much.
        pea::cgroup::join(cgroup, std::process::id())
            .map_err(|error| Error::invalid(format!("option ShimCgroup: {error}")))?;
    }
    raise_oom_score().map_err(|source| Error::io(format!("set the shim's {OOM_SCORE}"), source))?;
    setsid().map_err(|errno| failed(errno.into()))?;
    set_child_subreaper(true).map_err(|errno| failed(errno.into()))?;
    let null = File::options().read(true).write(true).open("/dev/null").map_err(failed)?;
    let log = log_of(&inheritance.bundle);
    for (standard, file) in [(0, &null), (1, &null), (2, log.as_ref().unwrap_or(&null))] {
        sys::replace_standard(standard, file).map_err(failed)?;
    }
    // These would be closed below by number, behind their owners' backs.
    drop((null, log));
    std::env::set_current_dir("/").map_err(failed)?;
    let mut kept = vec![inheritance.listener.as_raw_fd()];
    kept.extend(inheritance.lock.as_ref().map(|lock| lock.file().as_raw_fd()));
    kept.extend(inheritance.ready.as_ref().map(AsRawFd::as_raw_fd));
    sys::close_all_but(&kept).map_err(failed)
}

/// One more than what `start` has from its caller: where memory is short on the node, rather a pod goes than the daemon
/// that serves all of them. Containers have what their specifications say, and with those that say nothing, this.
fn raise_oom_score() -> io::Result<()> {
    let inherited = std::fs::read_to_string(OOM_SCORE)?;
    let inherited: i32 = inherited.trim().parse().map_err(io::Error::other)?;
    std::fs::write(OOM_SCORE, (inherited + 1).min(MOST_OOM_SCORE).to_string())
}

/// containerd reads its shims' logs from a FIFO in the bundle. Opened for both directions it can be
/// written to whoever reads, also across a restart of containerd, and never raises SIGPIPE.
fn log_of(bundle: &Path) -> Option<File> {
    use std::os::unix::fs::FileTypeExt;
    let path = bundle.join("log");
    std::fs::metadata(&path).ok().filter(|metadata| metadata.file_type().is_fifo())?;
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path).ok()
}

fn serve(inheritance: &mut Inheritance) -> Result<(), Error> {
    // One thread: forking stays legal, and namespaces can be entered.
    let rest = Rest::default();
    let sleeper = rest.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_io_events_per_tick(EVENTS)
        .on_thread_park(move || sleeper.if_due())
        .build()
        .map_err(|source| Error::io("start the event loop", source))?;
    runtime.block_on(live(inheritance, rest))
}

async fn live(inheritance: &mut Inheritance, rest: Rest) -> Result<(), Error> {
    let events = Publisher::new(&inheritance.events, &inheritance.namespace);
    let lock = inheritance.lock.take().ok_or_else(|| Error::internal("a shim lives once"))?;
    let pod = Pod::new(&inheritance.namespace, &inheritance.bundle, lock, inheritance.socket.take(), events, rest);
    let terminate = Signals::watch(Signal::SIGTERM).map_err(|source| Error::io("watch SIGTERM", source))?;
    tokio::spawn(pod.reaper.clone().reap_orphans());
    tokio::spawn(pod.rest.clone().watch());
    let listener = inheritance.listener.try_clone().map_err(|source| Error::io("serve the shim's socket", source))?;
    let peers = Peers::default();
    let mut server = server::server(&pod, &peers, listener)?;
    server.start().await.map_err(|error| Error::internal(format!("serve the shim's socket: {error}")))?;
    if let Some(mut ready) = inheritance.ready.take() {
        // `start` may have been killed meanwhile; that is no reason not to serve.
        let _ = ready.write_all(READY.as_bytes());
    }
    let asked = until_the_end(&pod, &terminate).await;
    pod.events.flush().await;
    if asked {
        until_the_clients_left(&peers, &terminate).await;
    }
    // Requests that are still being answered are answered before their connections are closed.
    let _ = tokio::time::timeout(FAREWELL, server.shutdown()).await;
    Ok(())
}

/// Runs until the last client says so, or until SIGTERM or [`UNUSED`], if there is nothing to look after. Returns whether
/// a client did.
async fn until_the_end(pod: &Pod, terminate: &Signals) -> bool {
    loop {
        tokio::select! {
            () = pod.quitting() => return true,
            _ = terminate.received() => {
                if pod.terminate() {
                    return false;
                }
                log::info("SIGTERM while the pod lives: ignored");
            }
            () = pod.unused(UNUSED) => {
                if pod.quit_if_idle() {
                    log::info(format!("nothing to look after for {}s: the shim ends", UNUSED.as_secs()));
                    return false;
                }
            }
        }
    }
}

/// Whoever ended the shim must not find the connection closed beside the answer (see [`crate::peers`]). Clients that
/// stay connected all the same are waited for a while, or until SIGTERM.
async fn until_the_clients_left(peers: &Peers, terminate: &Signals) {
    tokio::select! {
        () = peers.gone() => {}
        _ = terminate.received() => {}
        () = tokio::time::sleep(FAREWELL) => log::info("a client stays connected to a shim that ends"),
    }
}
