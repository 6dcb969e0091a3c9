//! Follows a command and all it starts through every system call, and kills one of these processes after one of them.

use std::collections::HashMap;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Who is killed, and after how many of its system calls (from 1).
#[derive(Clone, Copy, Debug)]
pub struct Victim {
    /// The command is 0; what it and its children start is counted in the order of birth.
    pub process: usize,
    pub call: usize,
}

/// What was seen of one process.
#[derive(Clone, Debug)]
pub struct Seen {
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

/// Runs the command until it has ended, in whatever way; what else it started is let go then.
pub fn follow(command: &Command, victim: Option<Victim>) -> Trace {
    let (sender, receiver) = mpsc::channel();
    let mut waiting = when_told(command);
    // The kernel lets go of the processes when the thread that follows them ends.
    let follower = std::thread::spawn(move || {
        let _ = sender.send(Follower::follow(waiting.spawn().expect("sh"), victim));
    });
    let trace = receiver.recv_timeout(Duration::from_secs(60)).unwrap_or_else(|_| panic!("hangs: {victim:?}"));
    follower.join().expect("the follower");
    trace
}

/// The command, not executed before a line can be read: until then it can be seized.
fn when_told(command: &Command) -> Command {
    let mut waiting = Command::new("sh");
    waiting.args(["-c", "read line; exec \"$@\" < /dev/null > /dev/null 2>&1", "sh"]);
    waiting.arg(command.get_program()).args(command.get_args()).stdin(Stdio::piped());
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
    fn follow(mut child: Child, victim: Option<Victim>) -> Trace {
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
            let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).expect("waitpid");
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) if pid == first => break,
                _ => this.step(status),
            }
            if let Some(mut stdin) = stdin.take() {
                stdin.write_all(b"\n").expect("sh reads");
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
