//! Follows a command and all it starts through every system call, and kills one of these processes after one of them.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who is killed, and after how many of its system calls (from 1).
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// The command is 0; what it and its children start is counted in the order of birth.
    pub process: usize,
    /// From 1.
    pub call: usize,
}

/// What was seen of one process.
#[derive(Clone, Debug)]
pub struct Seen {
    /// On the node.
    pub pid: i32,
    /// System calls, up to its first execve; of the command, from its execve on.
    pub calls: usize,
    /// Whether these are still counted.
    counting: bool,
    /// Whether it is inside of a system call.
    inside: bool,
}

/// What was seen of a command.
#[derive(Clone, Debug)]
pub struct Trace {
    /// By the order of birth.
    pub processes: Vec<Seen>,
    /// Whether the victim lived to be killed.
    pub killed: bool,
}

impl Trace {
    /// The processes seen that have not ended. (A number may have been given out again meanwhile: in a test, not so soon.)
    pub fn living(&self) -> Vec<i32> {
        let alive = |pid: &i32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
        };
        self.processes.iter().map(|seen| seen.pid).filter(alive).collect()
    }
}

/// Runs the command until it has ended, in whatever way; what else it started is let go then.
pub fn follow(command: &Command, victim: Option<Victim>) -> Trace {
    Following::begin(command, Vec::new(), victim, Until::Command).end()
}

/// How long a command is followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Until {
    /// Until it has ended itself.
    Command,
    /// Until all that it has started has ended too.
    All,
}

/// A command that is being followed while the test goes on.
pub struct Following {
    stdout: Option<ChildStdout>,
    trace: Receiver<Trace>,
    follower: JoinHandle<()>,
    victim: Option<Victim>,
}

impl Following {
    /// Starts the command, with that on its standard input.
    pub fn begin(command: &Command, input: Vec<u8>, victim: Option<Victim>, until: Until) -> Self {
        let (told, trace) = mpsc::channel();
        let (started, stdout) = mpsc::channel();
        let mut waiting = when_told(command, until);
        // The kernel lets go of the processes when the thread that follows them ends.
        let follower = std::thread::spawn(move || {
            let mut child = waiting.spawn().expect("sh");
            let _ = started.send(child.stdout.take());
            let _ = told.send(Follower::follow(child, &input, victim, until));
        });
        Self { stdout: stdout.recv().expect("the command starts"), trace, follower, victim }
    }

    /// What the command has printed, once all who have its standard output have closed it.
    pub fn output(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_end(&mut text).expect("the output of the command");
        }
        text
    }

    /// Waits for the end of what is followed.
    pub fn end(mut self) -> Trace {
        self.output();
        let trace =
            self.trace.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("hangs: {:?}", self.victim));
        self.follower.join().expect("the follower");
        trace
    }
}

/// The command, not executed before a line can be read: until then it can be seized. One that is followed alone may leave
/// its streams to others, so it has none.
fn when_told(command: &Command, until: Until) -> Command {
    let streams = if until == Until::Command { "< /dev/null > /dev/null 2>&1" } else { "2> /dev/null" };
    let mut waiting = Command::new("sh");
    waiting.args(["-c", &format!("read line; exec \"$@\" {streams}"), "sh"]);
    waiting.arg(command.get_program()).args(command.get_args());
    waiting.stdin(Stdio::piped()).stdout(Stdio::piped());
    if let Some(dir) = command.get_current_dir() {
        waiting.current_dir(dir);
    }
    waiting
}

struct Follower {
    seen: Vec<Seen>,
    /// Where in `seen`.
    index: HashMap<Pid, usize>,
    victim: Option<Victim>,
    killed: bool,
}

impl Follower {
    fn follow(mut child: Child, input: &[u8], victim: Option<Victim>, until: Until) -> Trace {
        let first = Pid::from_raw(child.id() as i32);
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::seize(first, options).expect("PTRACE_SEIZE");
        ptrace::interrupt(first).expect("PTRACE_INTERRUPT");
        let mut this = Self { seen: Vec::new(), index: HashMap::new(), victim, killed: false };
        this.meet(first, false);
        let mut stdin = child.stdin.take();
        loop {
            // Of this thread's own, and of no other test's.
            let status = match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)) {
                Err(Errno::ECHILD) => break,
                status => status.expect("waitpid"),
            };
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)
                    if pid == first && until == Until::Command =>
                {
                    break;
                }
                _ => this.step(status),
            }
            if let Some(mut stdin) = stdin.take() {
                stdin.write_all(b"\n").and_then(|()| stdin.write_all(input)).expect("sh reads");
            }
        }
        Trace { processes: this.seen, killed: this.killed }
    }

    fn meet(&mut self, pid: Pid, counting: bool) -> usize {
        *self.index.entry(pid).or_insert_with(|| {
            self.seen.push(Seen { pid: pid.as_raw(), calls: 0, counting, inside: false });
            self.seen.len() - 1
        })
    }

    fn step(&mut self, status: WaitStatus) {
        let (pid, signal) = match status {
            WaitStatus::PtraceSyscall(pid) => {
                self.count(pid);
                (pid, None)
            }
            WaitStatus::PtraceEvent(pid, _, event) => {
                self.note(pid, event);
                (pid, None)
            }
            WaitStatus::Stopped(pid, signal) => (pid, Some(signal)),
            _ => return,
        };
        // It may have been killed meanwhile.
        let _ = ptrace::syscall(pid, signal);
    }

    fn note(&mut self, pid: Pid, event: i32) {
        use ptrace::Event;
        if event == Event::PTRACE_EVENT_EXEC as i32 {
            let index = self.meet(pid, true);
            // Of the command, this is where it begins; the rest of the execve is not counted.
            self.seen[index].counting = index == 0;
            return;
        }
        let births = [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE];
        if births.iter().any(|birth| *birth as i32 == event)
            && let Ok(born) = ptrace::getevent(pid)
        {
            self.meet(Pid::from_raw(born as i32), true);
        }
    }

    fn count(&mut self, pid: Pid) {
        let index = self.meet(pid, true);
        let seen = &mut self.seen[index];
        seen.inside = !seen.inside;
        if seen.inside || !seen.counting {
            return;
        }
        seen.calls += 1;
        if self.victim.is_some_and(|victim| (victim.process, victim.call) == (index, seen.calls)) {
            kill(pid, Signal::SIGKILL).expect("kill");
            self.killed = true;
        }
    }
}
