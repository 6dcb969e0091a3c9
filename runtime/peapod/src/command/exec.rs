//! `exec`: one more command inside a running container.

use std::fs::OpenOptions;
use std::io::{Write, stderr, stdin, stdout};
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use oci_spec::runtime::{BoxBuilder, Process, Spec};
use pea_shim::client::{Exit, Shim, Stdio};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use super::terminal::{Raw, size};
use super::{Code, Context, block_on, container};
use crate::error::{Error, IoContext, Result, ShimContext};
use crate::files::{make_dir, read_json, remove_file};
use crate::pod::{Places, Record, Sandbox, Status, task_id};

/// Run a command inside a container.
#[derive(clap::Args, Debug)]
pub struct Exec {
    /// The pod
    pod: String,
    /// The container [default: the pod's first]
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Exec {
    pub(super) fn run(&self, context: &Context) -> Result<Code> {
        let (places, record) = context.open(&self.pod)?;
        let container = container(&record, self.container.as_deref())?;
        let status = Status::load(&places, &record)?;
        let target = Target::find(&places, &record, &status, container)?;
        let exit = block_on(self.session(&target))?;
        Ok(Some(exit))
    }

    async fn session(&self, target: &Target<'_>) -> Result<u8> {
        let shim = Shim::connect(&target.sandbox.address)
            .await
            .asking(|| format!("connecting to the shim of pod {}", target.places.key))?;
        let fifos = Fifos::make(&target.places.io(), self.stdin, self.tty)?;
        // Opened before the writer is there, and read only once the command was started: then the end of the
        // stream means that the writer has gone, not that it has not come yet.
        let outputs = (receiver(Some(&fifos.stdout))?, receiver(fifos.stderr.as_deref())?);
        let process = self.process(target)?;
        let doing = || format!("running {} in container {}", self.command[0], target.container);
        shim.exec(&target.task, &fifos.id, &process, &fifos.stdio(self.tty)).await.asking(doing)?;
        let session = Session { shim: &shim, task: &target.task, exec: &fifos.id };
        if let Err(error) = shim.start(&target.task, Some(&fifos.id)).await {
            let _ = shim.delete(&target.task, Some(&fifos.id)).await;
            return not_started(error, doing());
        }
        let exit = session.attend(self.tty, fifos.stdin.clone(), outputs).await.map_err(|error| match error {
            Error::Shim { source, .. } => Error::Shim { doing: doing(), source },
            other => other,
        })?;
        Ok(u8::try_from(exit.status).unwrap_or(u8::MAX))
    }

    /// The container's own process as it was started, with another command: same user, rights, environment, directory.
    fn process(&self, target: &Target<'_>) -> Result<Process> {
        let path = target.places.container(target.container, target.attempt).join("config.json");
        let spec: Option<Spec> = read_json(&path)?;
        let mut process = spec
            .and_then(|spec| spec.process().clone())
            .ok_or_else(|| Error::pod(&target.places.key, format!("container {} has just ended", target.container)))?;
        process.set_args(Some(self.command.clone()));
        process.set_terminal(Some(self.tty));
        let mut env = process.env().clone().unwrap_or_default();
        if self.tty && !env.iter().any(|entry| entry.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
            process.set_env(Some(env));
        }
        if let (true, Some((columns, rows))) = (self.tty, size()) {
            let console = BoxBuilder::default().width(columns).height(rows).build();
            process.set_console_size(console.ok());
        }
        Ok(process)
    }
}

/// A command that could not be started has the exit code a shell gives: the message tells the rest.
fn not_started(error: pea_shim::client::Error, doing: String) -> Result<u8> {
    let error = Error::Shim { doing, source: error };
    let code = match &error {
        Error::Shim { source: pea_shim::client::Error::NotFound(_), .. } => 127,
        Error::Shim { source: pea_shim::client::Error::PermissionDenied(_), .. } => 126,
        _ => return Err(error),
    };
    Err(Error::Exit { code, message: error.to_string() })
}

/// The run of a container that a command goes into.
struct Target<'a> {
    places: &'a Places,
    container: &'a str,
    attempt: u32,
    task: String,
    sandbox: Sandbox,
}

impl<'a> Target<'a> {
    fn find(places: &'a Places, record: &'a Record, status: &Status, container: &'a str) -> Result<Target<'a>> {
        let running = status.all().map(|(_, c)| c).find(|c| c.name == container && c.is_running());
        let attempt = running.and_then(|c| c.attempt);
        match (attempt, status.sandbox.clone()) {
            (Some(attempt), Some(sandbox)) => {
                Ok(Target { places, container, attempt, task: task_id(container, attempt), sandbox })
            }
            _ => Err(Error::pod(&record.key(), format!("container {container} is not running"))),
        }
    }
}

/// The FIFOs between this process and the shim, removed when dropped.
struct Fifos {
    id: String,
    stdin: Option<PathBuf>,
    stdout: PathBuf,
    /// None with a terminal, which has one stream only.
    stderr: Option<PathBuf>,
}

impl Fifos {
    fn make(dir: &Path, stdin: bool, tty: bool) -> Result<Fifos> {
        make_dir(dir)?;
        let source = Path::new("/proc/sys/kernel/random/uuid");
        let id = std::fs::read_to_string(source).context("reading", source)?.trim().to_owned();
        let path = |stream: &str| dir.join(format!("{id}-{stream}"));
        let fifos = Fifos {
            stdin: stdin.then(|| path("stdin")),
            stdout: path("stdout"),
            stderr: (!tty).then(|| path("stderr")),
            id,
        };
        for path in fifos.paths() {
            mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).context("making the FIFO", path)?;
        }
        Ok(fifos)
    }

    fn paths(&self) -> impl Iterator<Item = &Path> {
        [self.stdin.as_deref(), Some(&*self.stdout), self.stderr.as_deref()].into_iter().flatten()
    }

    fn stdio(&self, terminal: bool) -> Stdio {
        let text = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        Stdio {
            stdin: text(self.stdin.as_deref()),
            stdout: text(Some(&self.stdout)),
            stderr: text(self.stderr.as_deref()),
            terminal,
        }
    }
}

impl Drop for Fifos {
    fn drop(&mut self) {
        for path in self.paths() {
            // One that stays goes with the pod.
            let _ = remove_file(path);
        }
    }
}

fn receiver(path: Option<&Path>) -> Result<Option<pipe::Receiver>> {
    path.map(|path| pipe::OpenOptions::new().open_receiver(path).context("opening", path)).transpose()
}

/// A started command.
struct Session<'a> {
    shim: &'a Shim,
    task: &'a str,
    exec: &'a str,
}

impl Session<'_> {
    /// Passes everything to and fro until the command has ended and all it printed is out.
    async fn attend(
        &self,
        tty: bool,
        input: Option<PathBuf>,
        outputs: (Option<pipe::Receiver>, Option<pipe::Receiver>),
    ) -> Result<Exit> {
        let raw = tty.then(Raw::enter).flatten();
        if raw.is_some() {
            self.resize().await;
        }
        let mut input_ended = input.map(feed);
        let mut resized = listen(SignalKind::window_change())?;
        let mut signals = Signals::new(raw.is_none())?;
        let end = async {
            self.shim.wait(self.task, Some(self.exec)).await.asking(String::new)?;
            // Answered once all output was handed over, which ends the streams below.
            self.shim.delete(self.task, Some(self.exec)).await.asking(String::new)
        };
        let work = async { tokio::try_join!(end, copy(outputs.0, stdout()), copy(outputs.1, stderr())) };
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done.map(|(exit, (), ())| exit),
                _ = ended(&mut input_ended) => {
                    input_ended = None;
                    // It may have ended already: then its input has too.
                    let _ = self.shim.close_io(self.task, Some(self.exec)).await;
                }
                _ = resized.recv() => self.resize().await,
                number = signals.passed_on() => {
                    let _ = self.shim.kill(self.task, Some(self.exec), number, false).await;
                }
            }
        }
    }

    async fn resize(&self) {
        if let Some((columns, rows)) = size() {
            let (width, height) = (u32::from(columns), u32::from(rows));
            // A size that is not taken makes for an ugly screen, nothing worse.
            let _ = self.shim.resize(self.task, Some(self.exec), width, height).await;
        }
    }
}

/// Hands standard input to the FIFO from a thread of its own, since a terminal can only be read by blocking. The
/// receiver is told when the input has ended.
fn feed(fifo: PathBuf) -> oneshot::Receiver<()> {
    let (done, ended) = oneshot::channel();
    std::thread::spawn(move || {
        if let Ok(mut fifo) = OpenOptions::new().write(true).open(fifo) {
            // A command that reads no further is none of our failures.
            let _ = std::io::copy(&mut stdin().lock(), &mut fifo);
        }
        let _ = done.send(());
    });
    ended
}

async fn ended(input: &mut Option<oneshot::Receiver<()>>) {
    match input {
        Some(input) => {
            let _ = input.await;
        }
        None => std::future::pending().await,
    }
}

/// Copies a stream to its end.
async fn copy(from: Option<pipe::Receiver>, mut to: impl Write) -> Result<()> {
    let Some(mut from) = from else { return Ok(()) };
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.context("reading", Path::new("the command's output"))?;
        if read == 0 {
            return Ok(());
        }
        let written = to.write_all(&buffer[..read]).and_then(|()| to.flush());
        written.context("writing", Path::new("the command's output"))?;
    }
}

/// The signals that mean something to the command. With a raw terminal its keys arrive as input instead.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    pass_on: bool,
}

impl Signals {
    fn new(pass_on: bool) -> Result<Signals> {
        let (interrupt, terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
        Ok(Signals { interrupt, terminate, pass_on })
    }

    /// Waits for a signal to send on, and says which.
    async fn passed_on(&mut self) -> u32 {
        loop {
            let number = tokio::select! {
                _ = self.interrupt.recv() => nix::libc::SIGINT,
                _ = self.terminate.recv() => nix::libc::SIGTERM,
            };
            if self.pass_on || number == nix::libc::SIGTERM {
                return number.unsigned_abs();
            }
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).context("waiting for signals in", Path::new("peapod"))
}
