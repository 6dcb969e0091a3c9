//! A blocking rtnetlink socket that sends batches.

use std::time::Duration;

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt::ReceiveTimeout};
use nix::sys::time::TimeVal;

use super::Error;
use super::wire::{Ack, Answer, HEADER, NLMSG_DONE, NLMSG_ERROR, end_of_dump, messages};

/// The kernel works on a request inside `sendmsg`, so answers are there when it
/// returns. The deadline only bounds a wait that would be a bug in the kernel or here.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// The kernel fills a dump's answers up to the size of the reader's buffer, at most 32 KiB (`netlink_dump`).
const BUFFER: usize = 32 * 1024;

/// How often a dump is made that others' changes made inconsistent (`NLM_F_DUMP_INTR`): it may have missed objects.
const DUMP_ATTEMPTS: u32 = 20;

/// A message to the kernel, with the words for its failure.
///
/// It holds bytes, and answers are read where they are needed ([`Answer`]): the message types that make requests
/// can also read any message there is, at the price of a fifth of the binary.
#[derive(Debug, Clone)]
pub struct Request {
    /// What it does, after "cannot": "create the bridge cni0".
    pub doing: String,
    /// The message's type (`RTM_NEWLINK`, ...).
    pub kind: u16,
    /// The message without netlink's header.
    pub body: Vec<u8>,
    /// Flags beyond request and acknowledgement (`NLM_F_CREATE`, ...).
    pub flags: u16,
    /// Refusals that mean it is already as wanted.
    pub tolerate: &'static [Errno],
}

impl Request {
    /// A message of that type, without flags; every refusal is a failure.
    pub fn new(doing: impl Into<String>, kind: u16, message: &dyn Emitable) -> Request {
        let mut body = vec![0; message.buffer_len()];
        message.emit(&mut body);
        Request { doing: doing.into(), kind, body, flags: 0, tolerate: &[] }
    }

    /// With these flags.
    pub fn flags(self, flags: u16) -> Request {
        Request { flags, ..self }
    }

    /// Where these refusals mean it is already as wanted.
    pub fn tolerate(self, tolerate: &'static [Errno]) -> Request {
        Request { tolerate, ..self }
    }
}

/// A socket in the network namespace that was current when it was opened, wherever the thread goes later.
pub struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    /// Opens a socket in the current network namespace.
    ///
    /// # Errors
    /// When the kernel gives none.
    pub fn open() -> Result<RouteSocket, Error> {
        let open = || -> std::io::Result<Socket> {
            let socket = Socket::new(NETLINK_ROUTE)?;
            prepare(&socket)?;
            // Without it the kernel ignores the filters of a dump, and with many pods answers with everything.
            socket.set_netlink_get_strict_chk(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::io("open a route netlink socket", source))?;
        Ok(RouteSocket { socket, sequence: 0 })
    }

    /// Sends all requests in one `sendmsg` and waits for all their outcomes.
    ///
    /// The kernel works on each, in order, whatever became of the one before:
    /// a batch is fast, not atomic.
    ///
    /// # Errors
    /// The first refusal that is not tolerated.
    pub fn apply(&mut self, requests: Vec<Request>) -> Result<(), Error> {
        let (first, mut buffer) = (self.sequence + 1, Vec::new());
        let Some((last, others)) = requests.split_last() else { return Ok(()) };
        // Refusals come anyway, in order; that the last one is answered says that the others were worked on.
        others.iter().for_each(|request| self.emit(&mut buffer, request, 0));
        self.emit(&mut buffer, last, NLM_F_ACK);
        send(&self.socket, &buffer, &last.doing)?;
        let mut failure = None;
        loop {
            let datagram = receive(&self.socket, &last.doing)?;
            for ack in messages(&datagram).filter_map(Ack::read).filter(|ack| ack.sequence >= first) {
                let Some(Request { doing, tolerate, .. }) = requests.get((ack.sequence - first) as usize) else {
                    continue;
                };
                if let Some(errno) = ack.errno.filter(|errno| !tolerate.contains(errno)) {
                    failure.get_or_insert(Error::Refused { doing: doing.clone(), errno, note: ack.note });
                }
                if ack.sequence == self.sequence {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends one request. False when its refusal was tolerated: it was as wanted already.
    ///
    /// # Errors
    /// Any other refusal.
    pub fn change(&mut self, request: Request) -> Result<bool, Error> {
        let tolerate = request.tolerate;
        match self.apply(vec![request.tolerate(&[])]) {
            Ok(()) => Ok(true),
            Err(error) if error.errno().is_some_and(|errno| tolerate.contains(&errno)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Asks for one object; none when the kernel says there is no such device or entry.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn get(&mut self, request: &Request) -> Result<Option<Answer>, Error> {
        match self.ask_one(request) {
            Err(error) if matches!(error.errno(), Some(Errno::ENODEV | Errno::ENOENT)) => Ok(None),
            answer => answer,
        }
    }

    /// Asks for one object, with the request's flags.
    ///
    /// # Errors
    /// When it cannot be asked, or there is no such object.
    pub fn ask_one(&mut self, request: &Request) -> Result<Option<Answer>, Error> {
        Ok(self.ask(request, 0)?.into_iter().next())
    }

    /// Asks for all objects that match the request.
    ///
    /// # Errors
    /// When they cannot be read, or are changed by others each time they are.
    pub fn dump(&mut self, request: &Request) -> Result<Vec<Answer>, Error> {
        for _ in 0..DUMP_ATTEMPTS {
            match self.ask(request, NLM_F_DUMP) {
                Err(error) if error.errno() == Some(Errno::EINTR) => {}
                // A routing table that nothing was ever put in does not exist.
                Err(error) if error.errno() == Some(Errno::ENOENT) => return Ok(Vec::new()),
                answer => return answer,
            }
        }
        let doing = request.doing.clone();
        Err(Error::Refused { doing, errno: Errno::EINTR, note: " (others keep changing it)".into() })
    }

    /// Asks for one object, or with `NLM_F_DUMP` for all; `EINTR` when they were changed meanwhile.
    fn ask(&mut self, request: &Request, flags: u16) -> Result<Vec<Answer>, Error> {
        let doing = &request.doing;
        let refused = |errno, note| Error::Refused { doing: doing.clone(), errno, note };
        let mut interrupted = false;
        let mut buffer = Vec::new();
        self.emit(&mut buffer, request, flags);
        send(&self.socket, &buffer, doing)?;
        let mut found = Vec::new();
        loop {
            let datagram = receive(&self.socket, doing)?;
            for message in messages(&datagram).filter(|message| message.sequence == self.sequence) {
                interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_DONE => {
                        let failure = end_of_dump(message).or(interrupted.then_some(Errno::EINTR));
                        return failure.map_or(Ok(found), |errno| Err(refused(errno, String::new())));
                    }
                    NLMSG_ERROR => match Ack::read(message).and_then(|ack| Some((ack.errno?, ack.note))) {
                        Some((errno, note)) => return Err(refused(errno, note)),
                        None => return Ok(found),
                    },
                    _ => found.push(Answer::of(message)),
                }
                if flags & NLM_F_DUMP == 0 {
                    return Ok(found);
                }
            }
        }
    }

    fn emit(&mut self, buffer: &mut Vec<u8>, request: &Request, flags: u16) {
        self.sequence += 1;
        let length = u32::try_from(HEADER + request.body.len()).unwrap_or(u32::MAX);
        buffer.extend(length.to_ne_bytes());
        buffer.extend(request.kind.to_ne_bytes());
        buffer.extend((NLM_F_REQUEST | request.flags | flags).to_ne_bytes());
        buffer.extend(self.sequence.to_ne_bytes());
        buffer.extend([0; 4]);
        buffer.extend(&request.body);
        // Each message starts at a multiple of four (NLMSG_ALIGNTO).
        buffer.resize(buffer.len().next_multiple_of(4), 0);
    }
}

/// What every netlink socket here has: refusals explained, no endless wait. The kernel binds it when the first message is sent.
pub(super) fn prepare(socket: &Socket) -> std::io::Result<()> {
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    let deadline = TimeVal::new(ANSWER_DEADLINE.as_secs().try_into().unwrap_or(10), 0);
    setsockopt(socket, ReceiveTimeout, &deadline).map_err(std::io::Error::from)
}

pub(super) fn send(socket: &Socket, buffer: &[u8], doing: &str) -> Result<(), Error> {
    let kernel = SocketAddr::new(0, 0);
    socket.send_to(buffer, &kernel, 0).map(drop).map_err(|source| Error::io(doing, source))
}

/// One datagram of answers.
pub(super) fn receive(socket: &Socket, doing: &str) -> Result<Vec<u8>, Error> {
    let mut buffer = Vec::with_capacity(BUFFER);
    loop {
        match socket.recv(&mut buffer, 0) {
            Ok(_) => return Ok(buffer),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(doing, error)),
        }
    }
}
