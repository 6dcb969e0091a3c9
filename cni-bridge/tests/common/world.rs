//! What lies beyond a node, and conversations between programs in different namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use super::Pod;

/// How long a word may take to arrive. Nothing waits that long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a word that must not arrive is waited for.
const IMPATIENCE: Duration = Duration::from_millis(300);

/// Another machine on the node's uplink: the node is 192.0.2.1 and 2001:db8::1, it is 192.0.2.2 and 2001:db8::2. It has
/// no route to any pod.
pub struct World {
    pub host: Pod,
}

impl World {
    /// Joins the node this thread is in.
    pub fn new() -> World {
        let host = Pod::new();
        let link = ["link", "add", "up0", "type", "veth", "peer", "name", "down0", "netns"];
        testkit::run(Command::new("ip").args(link).arg(host.path()));
        for words in ["address add 192.0.2.1/24 dev up0", "address add 2001:db8::1/64 dev up0 nodad", "link set up0 up"]
        {
            ip(words);
        }
        for words in
            ["address add 192.0.2.2/24 dev down0", "address add 2001:db8::2/64 dev down0 nodad", "link set down0 up"]
        {
            host.ip(&words.split(' ').collect::<Vec<_>>());
        }
        World { host }
    }
}

/// `ip` on the node this thread is in.
pub fn ip(words: &str) -> String {
    testkit::output(Command::new("ip").args(words.split(' ')))
}

pub fn node_pings(address: &str) -> bool {
    testkit::attempt(Command::new("busybox").args(["ping", "-c", "1", "-W", "20", address])).status.success()
}

/// Listens on every address, on a port the kernel chooses.
pub fn listen() -> TcpListener {
    listen_at(0)
}

/// Listens on every address, on this port.
pub fn listen_at(port: u16) -> TcpListener {
    TcpListener::bind(("::", port)).unwrap()
}

/// Sends a word over a connection that `dial` makes to the listener; returns the address the listener saw.
pub fn converse(listener: &TcpListener, dial: impl FnOnce(u16) -> TcpStream) -> IpAddr {
    let mut dialled = dial(listener.local_addr().unwrap().port());
    let (mut accepted, from) = listener.accept().unwrap();
    dialled.write_all(b"word").unwrap();
    drop(dialled);
    let mut heard = String::new();
    accepted.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "word");
    from.ip().to_canonical()
}

pub fn dial(ip: &str, port: u16) -> TcpStream {
    let to = SocketAddr::new(ip.parse().unwrap(), port);
    TcpStream::connect_timeout(&to, PATIENCE).unwrap_or_else(|error| panic!("{to}: {error}"))
}

/// Whether a connection comes about.
pub fn reaches(ip: &str, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::new(ip.parse().unwrap(), port), IMPATIENCE).is_ok()
}

/// A UDP socket on every address, on this port, that waits a while for a word and no longer.
pub fn udp_at(port: u16) -> UdpSocket {
    let socket = UdpSocket::bind(("::", port)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}
