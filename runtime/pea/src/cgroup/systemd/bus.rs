//! A connection to a message bus (D-Bus Specification, "Authentication Protocol" and "Message Bus").
//!
//! A client of our own: of the crates, those that are not asynchronous bind a C library or bring older copies of half
//! of what this program is built from, and none bounds a whole conversation by one deadline. systemd needs seven calls
//! and one signal.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::TimeVal;

use super::wire::{Call, Kind, Message, PREFIX};
use crate::error::{Error, ErrorKind, reason};

/// The longest reply to the authentication that is read.
const LONGEST_LINE: usize = 512;

/// An answered call's failure.
#[derive(Debug)]
pub enum Failure {
    /// The service refused: the error's name, and its text.
    Refused(String, String),
    /// No answer was to be had.
    Broken(Error),
}

impl Failure {
    /// Whether the service refused by an error of that name.
    pub fn is(&self, name: &str) -> bool {
        matches!(self, Self::Refused(given, _) if given == name)
    }

    /// As an error, with what was being done.
    pub fn doing(self, what: &str) -> Error {
        match self {
            Self::Broken(error) => error,
            Self::Refused(name, text) => {
                let kind = match name.as_str() {
                    "org.freedesktop.DBus.Error.AccessDenied"
                    | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => ErrorKind::Permission,
                    "org.freedesktop.systemd1.UnitExists" => ErrorKind::AlreadyExists,
                    _ => ErrorKind::Internal,
                };
                Error::new(kind, format!("systemd: {what}: {text} ({name})"))
            }
        }
    }
}

/// A connection, past its introduction, all of whose conversation ends by one deadline.
#[derive(Debug)]
pub struct Bus {
    stream: UnixStream,
    serial: u32,
    end: Instant,
    /// Signals that came while an answer was waited for.
    signals: Vec<Message>,
}

impl Bus {
    /// Connects to the first of the addresses in the list that answers (D-Bus Specification, "Server Addresses").
    pub fn connect(addresses: &str, limit: Duration) -> Result<Self, Error> {
        let wrong = |error: &io::Error| {
            Error::new(
                if error.kind() == io::ErrorKind::PermissionDenied {
                    ErrorKind::Permission
                } else {
                    ErrorKind::Internal
                },
                format!("connect to systemd by D-Bus at {addresses}: {}", reason(error)),
            )
        };
        let mut refusal = io::Error::from(io::ErrorKind::InvalidInput);
        for address in addresses.split(';').filter_map(socket_address) {
            match open(&address, limit) {
                Ok(stream) => {
                    let mut bus = Self { stream, serial: 0, end: Instant::now() + limit, signals: Vec::new() };
                    bus.authenticate().map_err(|error| wrong(&error))?;
                    bus.own("Hello", Vec::new()).map_err(|failure| failure.doing("introduce ourselves"))?;
                    return Ok(bus);
                }
                Err(error) => refusal = error,
            }
        }
        Err(wrong(&refusal))
    }

    /// By who the kernel says we are. Our own idea of that is not given, as it may be another user namespace's.
    fn authenticate(&mut self) -> io::Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\n")?;
        let mut line = self.line()?;
        if line.starts_with("DATA") {
            line = self.line()?;
        }
        if !line.starts_with("OK ") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it answered {:?}", line.trim_end())));
        }
        self.send(b"BEGIN\r\n")
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < LONGEST_LINE {
            let mut byte = [0];
            self.receive(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write_all(bytes)
    }

    fn receive(&mut self, mut bytes: &mut [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_read_timeout(Some(self.left()?))?;
            match self.stream.read(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => bytes = &mut bytes[count..],
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn message(&mut self) -> Result<Message, Failure> {
        let broken = |error: io::Error| Failure::Broken(Error::internal(format!("systemd: {}", reason(&error))));
        let odd = || Failure::Broken(Error::internal("systemd: not a D-Bus message"));
        let mut prefix = [0; PREFIX];
        self.receive(&mut prefix).map_err(broken)?;
        let mut bytes = prefix.to_vec();
        bytes.resize(PREFIX + Message::rest(&prefix).ok_or_else(odd)?, 0);
        self.receive(&mut bytes[PREFIX..]).map_err(broken)?;
        Message::decode(&bytes).ok_or_else(odd)
    }

    /// Calls a method and waits for its answer.
    pub fn call(&mut self, call: &Call<'_>) -> Result<Message, Failure> {
        self.serial += 1;
        let serial = self.serial;
        self.send(&call.encode(serial))
            .map_err(|error| Failure::Broken(Error::internal(format!("systemd: {}", reason(&error)))))?;
        loop {
            let message = self.message()?;
            match message.kind {
                Kind::Return if message.reply_to == Some(serial) => return Ok(message),
                Kind::Error if message.reply_to == Some(serial) => {
                    let text = message.arguments().unwrap_or_default();
                    let text = text.first().and_then(|first| first.as_text()).unwrap_or("no reason given").to_owned();
                    return Err(Failure::Refused(message.error.unwrap_or_default(), text));
                }
                Kind::Signal => self.signals.push(message),
                _ => {}
            }
        }
    }

    /// A method of the bus itself.
    pub fn own(&mut self, member: &str, body: Vec<super::datum::Datum>) -> Result<Message, Failure> {
        let interface = "org.freedesktop.DBus";
        self.call(&Call { destination: interface, path: "/org/freedesktop/DBus", interface, member, body })
    }

    /// Waits for a signal of that name for which there is an answer to `pick`.
    pub fn signal<T>(&mut self, member: &str, pick: impl Fn(&Message) -> Option<T>) -> Result<T, Failure> {
        let mut early = std::mem::take(&mut self.signals).into_iter();
        loop {
            let message = match early.next() {
                Some(message) => message,
                None => self.message()?,
            };
            if message.kind == Kind::Signal
                && message.member.as_deref() == Some(member)
                && let Some(picked) = pick(&message)
            {
                return Ok(picked);
            }
        }
    }
}

/// `None` when it is not an address that there is a socket file or an abstract name for.
fn socket_address(address: &str) -> Option<UnixAddr> {
    let keys = address.trim().strip_prefix("unix:")?;
    keys.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => UnixAddr::new(Path::new(&unescape(path)?)).ok(),
        ("abstract", name) => UnixAddr::new_abstract(unescape(name)?.as_bytes()).ok(),
        _ => None,
    })
}

/// `%41` is an A.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

fn open(address: &UnixAddr, limit: Duration) -> io::Result<UnixStream> {
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // It bounds connect(2) as well, which waits for room in the queue of a server that does not answer.
    setsockopt(&socket, SendTimeout, &TimeVal::new(limit.as_secs() as i64, 0))?;
    connect(socket.as_raw_fd(), address)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    #[test]
    fn addresses_are_paths_and_names() {
        let path = |address| socket_address(address).and_then(|found| found.path().map(Path::to_owned));
        assert_eq!(path("unix:path=/run/a%20b,guid=1"), Some("/run/a b".into()));
        assert_eq!(path("tcp:host=localhost"), None);
        assert_eq!(path("unix:path=/run/%zz"), None);
        let name = socket_address("unix:guid=1,abstract=/tmp/x").expect("an address");
        assert_eq!(name.as_abstract(), Some(&b"/tmp/x"[..]));
    }

    #[test]
    fn a_bus_that_does_not_answer_is_not_waited_for_longer_than_said() {
        let dir = testkit::scratch();
        let _silent = UnixListener::bind(dir.path().join("bus")).expect("a socket");
        let address = format!("unix:path={}", dir.path().join("bus").display());
        let error = Bus::connect(&address, Duration::from_millis(50)).expect_err("silence").to_string();
        assert!(
            error.starts_with("connect to systemd by D-Bus at unix:path=") && error.contains("timed out"),
            "{error}"
        );
    }

    #[test]
    fn nonsense_is_an_error() {
        let dir = testkit::scratch();
        let listener = UnixListener::bind(dir.path().join("bus")).expect("a socket");
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(b"DATA\r\nOK 1234\r\nnot a message at all, whatever").expect("written");
            let mut all = Vec::new();
            let _ = stream.read_to_end(&mut all);
        });
        let address = format!("unix:path=/nonexistent;unix:path={}", dir.path().join("bus").display());
        let error = Bus::connect(&address, Duration::from_secs(10)).expect_err("nonsense").to_string();
        assert_eq!(error, "systemd: not a D-Bus message");
        server.join().expect("the server");
    }
}
