//! CRIU by its library's protocol (criu.org/RPC, rpc.proto): it is asked over a socket, tells how far it is, and waits for an
//! answer each time. Messages are whole or absent.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};

use super::protobuf::{self, Message};
use super::{Criu, Value, inheritable};
use crate::error::Error;
use crate::sys::{passing, process};

/// `criu_req_type`.
const DUMP: u64 = 1;
const RESTORE: u64 = 2;
const NOTIFY: u64 = 6;

/// Longer than any answer: the longest thing in one is a line of the log.
const LONGEST_ANSWER: usize = 64 * 1024;

/// As `-v4`.
const LOG_LEVEL: u64 = 4;

/// `criu_cg_mode`, by the words of the command line.
const CGROUP_MODES: [&str; 6] = ["ignore", "none", "props", "soft", "full", "strict"];

/// How what an option says is encoded.
enum Kind {
    /// A truth value.
    Truth,
    /// A number.
    Number,
    /// A text.
    Text,
    /// A text in that field of a message.
    TextIn(u32),
    /// A number in that field of a message. (Messages of one field are put together.)
    NumberIn(u32),
    /// `criu_cg_mode`.
    CgroupMode,
    /// The network namespace, as a flag of clone(2).
    Network,
    /// `inherit_fd`.
    Descriptor,
    /// `join_namespace`.
    Namespace,
    /// Said by the type of the request, or by another field.
    Implied,
}

/// The options in use, as fields of `criu_opts`.
const FIELDS: &[(&str, u32, Kind)] = &[
    ("--tree", 2, Kind::Number),
    ("--leave-running", 3, Kind::Truth),
    ("--ext-unix-sk", 4, Kind::Truth),
    ("--tcp-established", 5, Kind::Truth),
    ("--shell-job", 7, Kind::Truth),
    ("--file-locks", 8, Kind::Truth),
    ("--page-server", 11, Kind::Implied),
    ("--address", 11, Kind::TextIn(1)),
    ("--port", 11, Kind::NumberIn(2)),
    ("--root", 13, Kind::Text),
    ("--prev-images-dir", 14, Kind::Text),
    ("--track-mem", 15, Kind::Truth),
    ("--auto-dedup", 16, Kind::Truth),
    ("--link-remap", 18, Kind::Truth),
    ("--cgroup-root", 25, Kind::TextIn(2)),
    ("--restore-sibling", 26, Kind::Truth),
    ("--inherit-fd", 27, Kind::Descriptor),
    ("--manage-cgroups", 34, Kind::CgroupMode),
    ("--external", 37, Kind::Text),
    ("--empty-ns", 38, Kind::Network),
    ("--join-ns", 39, Kind::Namespace),
    ("--freeze-cgroup", 44, Kind::Text),
    ("--skip-in-flight", 46, Kind::Truth),
    ("--lazy-pages", 48, Kind::Truth),
    ("--status-fd", 49, Kind::Number),
    ("--lsm-profile", 53, Kind::Text),
    ("--lsm-mount-context", 63, Kind::Text),
];

/// `criu_opts.orphan_pts_master`, of which the command line knows nothing: the container's terminal is served from outside.
const ORPHAN_PTS_MASTER: u32 = 50;

/// What CRIU tells on its way, and waits for what is made of it.
#[derive(Debug)]
pub enum Notice {
    /// The namespaces are there, with the init of that pid, and nothing else is.
    Namespaces(i32),
    /// The master of the container's terminal.
    Terminal(OwnedFd),
}

/// How a conversation ends.
#[derive(Debug, Eq, PartialEq)]
enum End {
    /// With the pid of the init, if one was restored.
    Done(Option<i32>),
    /// With a failure, or without a word.
    Failed,
}

impl Criu {
    /// Runs it by the protocol; `silent` as for [`run`](Self::run). `terminal`: the container has one that is served from
    /// outside. Where `heed` fails, CRIU undoes what it has done. Returns the pid of the init that was restored.
    pub fn converse(
        mut self,
        silent: bool,
        terminal: bool,
        heed: impl FnMut(Notice) -> Result<(), Error>,
    ) -> Result<Option<i32>, Error> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|error| Error::io("make a socket pair", error))?;
        inheritable(&theirs)?;
        let open = |path: &Path| File::open(path).map_err(|error| Error::io(format!("open {}", path.display()), error));
        let (images, work) = (open(&self.images)?, open(&self.work)?);
        let request = self.request([&images, &work], terminal)?;
        let words = Vec::from(["swrk", &theirs.as_raw_fd().to_string()].map(OsString::from));
        let mut child = self.spawn(words, silent)?;
        // CRIU has them now, and no hook is to get them.
        drop(theirs);
        self.files.clear();
        let end = process::pidfd_open(child.id() as i32).map_err(|error| Error::io("open criu's pidfd", error));
        let attended = end.and_then(|end| attend(&ours, end.as_fd(), &request, heed));
        // Should it still wait for something, that shall fail.
        drop(ours);
        let ended = child.wait().map_err(|error| self.failed_to_run(&error))?;
        let end = attended?;
        self.judge(ended)?;
        match end {
            End::Done(pid) => Ok(pid),
            End::Failed => Err(self.failure("it broke off")),
        }
    }

    /// A `criu_req`. Directories are looked up by CRIU among our descriptors.
    fn request(&self, [images, work]: [&File; 2], terminal: bool) -> Result<Message, Error> {
        let number = |file: &File| file.as_raw_fd() as u64;
        let options = Message::default().number(1, number(images)).number(17, number(work));
        let mut options = options.number(9, LOG_LEVEL).bytes(10, self.log).number(12, 1);
        if terminal {
            options = options.number(ORPHAN_PTS_MASTER, 1);
        }
        for (option, value) in &self.options {
            let unsayable = || Error::internal(format!("a bug: criu's protocol has no words for {option}"));
            let (_, field, kind) = FIELDS.iter().find(|(name, ..)| name == option).ok_or_else(unsayable)?;
            options = add(options, *field, kind, value).ok_or_else(unsayable)?;
        }
        let kind = if self.verb == "restore" { RESTORE } else { DUMP };
        Ok(Message::default().number(1, kind).bytes(2, options))
    }
}

/// The message with a field more; `None` for a value that is not of that kind.
fn add(message: Message, field: u32, kind: &Kind, value: &Value) -> Option<Message> {
    let parse = |word: &OsString| word.to_str()?.parse().ok();
    Some(match (kind, value) {
        (Kind::Implied, _) => message,
        (Kind::Truth, Value::Nothing) => message.number(field, 1),
        (Kind::Number, Value::Word(word)) => message.number(field, parse(word)?),
        (Kind::NumberIn(inner), Value::Word(word)) => {
            message.bytes(field, Message::default().number(*inner, parse(word)?))
        }
        (Kind::Text, Value::Word(word)) => message.bytes(field, word.as_bytes()),
        (Kind::TextIn(inner), Value::Word(word)) => {
            message.bytes(field, Message::default().bytes(*inner, word.as_bytes()))
        }
        (Kind::CgroupMode, Value::Joined(mode)) => {
            message.number(field, CGROUP_MODES.iter().position(|name| name == mode)? as u64)
        }
        (Kind::Network, Value::Word(word)) if word == "net" => {
            message.number(field, CloneFlags::CLONE_NEWNET.bits() as u64)
        }
        (Kind::Descriptor, Value::Descriptor(number, name)) => {
            message.bytes(field, Message::default().bytes(1, name).number(2, u64::try_from(*number).ok()?))
        }
        (Kind::Namespace, Value::Namespace(kind, path)) => {
            message.bytes(field, Message::default().bytes(1, kind).bytes(2, path.as_os_str().as_bytes()))
        }
        _ => return None,
    })
}

/// The conversation, to CRIU's last word. `end` has something to read once CRIU has ended.
fn attend(
    line: &OwnedFd,
    end: BorrowedFd<'_>,
    request: &Message,
    mut heed: impl FnMut(Notice) -> Result<(), Error>,
) -> Result<End, Error> {
    let failed = |error: io::Error| Error::io("speak with criu", error);
    let say = |message: &Message| send(line.as_raw_fd(), message.as_ref(), MsgFlags::MSG_NOSIGNAL).map(drop);
    say(request).map_err(|errno| failed(errno.into()))?;
    let mut buffer = vec![0; LONGEST_ANSWER];
    // CRIU goes on to clear up after itself when something has failed here; that is the cause of all that it says then.
    let mut broken = None;
    loop {
        let (length, descriptor) = hear(line.as_fd(), end, &mut buffer).map_err(failed)?;
        let answer = &buffer[..length];
        if length > 0 && protobuf::number(answer, 1) == Some(NOTIFY) {
            let heeded = notice(answer, descriptor).map_or(Ok(()), &mut heed);
            let reply = Message::default().number(1, NOTIFY).number(3, u64::from(heeded.is_ok()));
            broken = broken.or(heeded.err());
            // It may have ended; then the next answer is empty.
            let _ = say(&reply);
            continue;
        }
        if let Some(error) = broken {
            return Err(error);
        }
        let succeeded = protobuf::number(answer, 2) == Some(1);
        let pid = protobuf::bytes(answer, 4).and_then(|restored| protobuf::number(restored, 1));
        return Ok(match succeeded {
            true => End::Done(pid.and_then(|pid| i32::try_from(pid).ok())),
            false => End::Failed,
        });
    }
}

/// CRIU's next answer, of no length once it has ended. A CRIU that is killed leaves half-made processes behind that hold its
/// socket too, so the end of the stream may never come.
fn hear(line: BorrowedFd<'_>, end: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut news = [line, end].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    while let Err(errno) = poll(&mut news, PollTimeout::NONE) {
        if errno != Errno::EINTR {
            return Err(errno.into());
        }
    }
    // What it said last, it said before it ended: that is there now, or nothing is.
    if news[1].any() == Some(true) && poll(&mut news[..1], PollTimeout::ZERO)? == 0 {
        return Ok((0, None));
    }
    match passing::receive(line, buffer) {
        // It has ended with something of ours unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok((0, None)),
        received => received,
    }
}

/// What there is to heed of a `criu_resp` that is a notification.
fn notice(answer: &[u8], descriptor: Option<OwnedFd>) -> Option<Notice> {
    let notification = protobuf::bytes(answer, 5)?;
    match protobuf::bytes(notification, 1)? {
        b"setup-namespaces" => {
            let pid = protobuf::number(notification, 2)?;
            Some(Notice::Namespaces(i32::try_from(pid).ok()?))
        }
        b"orphan-pts-master" => descriptor.map(Notice::Terminal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use nix::sys::socket::{ControlMessage, UnixAddr, sendmsg};

    use super::*;
    use crate::criu::CriuOptions;
    use crate::error::ErrorKind;

    fn notification(script: &str, pid: Option<u64>) -> Message {
        let notify = Message::default().bytes(1, script);
        let notify = pid.map_or_else(|| Message::default().bytes(1, script), |pid| notify.number(2, pid));
        Message::default().number(1, NOTIFY).number(2, 1).bytes(5, notify)
    }

    fn restored(success: u64, pid: u64) -> Message {
        Message::default().number(1, RESTORE).number(2, success).bytes(4, Message::default().number(1, pid))
    }

    /// CRIU's side: says these in turn, with a descriptor where one belongs to it. Returns what was answered.
    fn play(line: &OwnedFd, sayings: &[Message], descriptor: BorrowedFd<'_>) -> Vec<Option<u64>> {
        let mut buffer = [0; 512];
        let mut answers = Vec::new();
        for saying in sayings {
            let (length, _) = passing::receive(line.as_fd(), &mut buffer).expect("an answer");
            answers.push(protobuf::number(&buffer[..length], 3));
            let fds = [descriptor.as_raw_fd()];
            let is_terminal = saying.as_ref().windows(6).any(|bytes| bytes == b"orphan");
            let with: &[ControlMessage<'_>] = if is_terminal { &[ControlMessage::ScmRights(&fds)] } else { &[] };
            let text = [IoSlice::new(saying.as_ref())];
            sendmsg::<UnixAddr>(line.as_raw_fd(), &text, with, MsgFlags::empty(), None).expect("said");
        }
        answers
    }

    /// What comes of a conversation in which CRIU says these.
    fn hold(
        sayings: Vec<Message>,
        heed: impl FnMut(Notice) -> Result<(), Error>,
    ) -> (Result<End, Error>, Vec<Option<u64>>) {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
        let criu = thread::spawn(move || {
            let null = File::open("/dev/null").expect("null");
            play(&theirs, &sayings, null.as_fd())
        });
        let (end, _lives) = io::pipe().expect("a pipe");
        let outcome = attend(&ours, end.as_fd(), &Message::default().number(1, RESTORE), heed);
        (outcome, criu.join().expect("the other side"))
    }

    #[test]
    fn what_criu_tells_is_heeded_in_turn_and_answered() {
        let mut heard = Vec::new();
        let sayings = vec![
            notification("pre-restore", None),
            notification("setup-namespaces", Some(70_000)),
            notification("orphan-pts-master", None),
            restored(1, 70_000),
        ];
        let (outcome, answers) = hold(sayings, |notice| {
            heard.push(match notice {
                Notice::Namespaces(pid) => pid.to_string(),
                Notice::Terminal(_) => "terminal".to_owned(),
            });
            Ok(())
        });
        assert_eq!(outcome, Ok(End::Done(Some(70_000))));
        assert_eq!(heard, ["70000", "terminal"]);
        assert_eq!(answers, [None, Some(1), Some(1), Some(1)]);
    }

    #[test]
    fn criu_is_told_what_failed_and_the_first_failure_is_the_cause() {
        let sayings =
            vec![notification("setup-namespaces", Some(7)), notification("post-restore", Some(7)), restored(0, 7)];
        let mut times = 0;
        let (outcome, answers) = hold(sayings, |_| {
            times += 1;
            Err(Error::new(ErrorKind::Internal, format!("no {times}")))
        });
        assert_eq!(outcome.map_err(|error| error.to_string()), Err("no 1".to_owned()));
        assert_eq!(answers, [None, Some(0), Some(1)]);
    }

    #[test]
    fn a_failure_and_an_end_without_a_word_are_no_success() {
        assert_eq!(hold(vec![restored(0, 7)], |_| Ok(())).0, Ok(End::Failed));
        assert_eq!(hold(vec![notification("pre-restore", None)], |_| Ok(())).0, Ok(End::Failed));
        let dumped = Message::default().number(1, DUMP).number(2, 1);
        assert_eq!(hold(vec![dumped], |_| Ok(())).0, Ok(End::Done(None)));
    }

    #[test]
    fn a_criu_that_has_ended_is_not_waited_for_whoever_holds_its_socket() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("a pair");
        let (end, lives) = io::pipe().expect("a pipe");
        drop(lives);
        send(theirs.as_raw_fd(), restored(1, 7).as_ref(), MsgFlags::empty()).expect("said");
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            let attend = || attend(&ours, end.as_fd(), &Message::default().number(1, RESTORE), |_| Ok(()));
            tell.send((attend(), attend()))
        });
        let outcome = told.recv_timeout(Duration::from_secs(10)).expect("an end of the conversation");
        assert_eq!(outcome, (Ok(End::Done(Some(7))), Ok(End::Failed)), "its last word counts");
    }

    #[test]
    fn every_option_has_its_field() {
        let mut options = CriuOptions::new("/images");
        options.empty_namespace = Some("net".to_owned());
        (options.tcp_established, options.ext_unix_sk, options.shell_job) = (true, true, true);
        (options.file_locks, options.link_remap, options.auto_dedup, options.lazy_pages) = (true, true, true, true);
        let mut criu = Criu::new("restore", &options);
        for switch in ["--leave-running", "--skip-in-flight", "--track-mem", "--page-server", "--restore-sibling"] {
            criu.switch(switch, true);
        }
        for (option, value) in [
            ("--tree", "7"),
            ("--prev-images-dir", "../before"),
            ("--address", "192.0.2.1"),
            ("--port", "300"),
            ("--status-fd", "3"),
            ("--freeze-cgroup", "/c"),
            ("--cgroup-root", "/c"),
            ("--lsm-profile", "a:b"),
            ("--lsm-mount-context", "c"),
            ("--external", "mnt[/a]:/b"),
            ("--external", "mnt[/c]:/d"),
            ("--root", "/root"),
        ] {
            criu.arg(option, value);
        }
        criu.arg_in_one("--manage-cgroups", "soft");
        criu.inherit(1, "pipe:[7]");
        criu.join("ipc", Path::new("/proc/1/ns/ipc"));
        let null = File::open("/dev/null").expect("null");
        let request = criu.request([&null, &null], true).expect("a request");
        let sent = protobuf::bytes(request.as_ref(), 2).expect("options");
        for field in [2, 9, 12, 15, 26, 38, 46, 49, 50] {
            assert!(protobuf::number(sent, field).is_some(), "{field}");
        }
        assert_eq!((protobuf::number(sent, 34), protobuf::number(sent, 38)), (Some(3), Some(0x4000_0000)));
        assert_eq!(protobuf::bytes(sent, 37), Some(b"mnt[/a]:/b".as_slice()));
        let inherited = protobuf::bytes(sent, 27).expect("a descriptor");
        assert_eq!(
            (protobuf::bytes(inherited, 1), protobuf::number(inherited, 2)),
            (Some(b"pipe:[7]".as_slice()), Some(1))
        );
        criu.switch("--unheard-of", true);
        assert!(criu.request([&null, &null], true).is_err_and(|error| error.to_string().contains("--unheard-of")));
    }
}
