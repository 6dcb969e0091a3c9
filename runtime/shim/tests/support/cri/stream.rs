//! The streams of exec, attach and port-forward: channels over a WebSocket (RFC 6455), as kubelet's clients have them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Kubernetes' protocol: the first byte of each message is the channel.
const PROTOCOL: &str = "v4.channel.k8s.io";

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
/// How it ended, as JSON.
pub const STATUS: u8 = 3;
/// The terminal's size, as JSON.
pub const RESIZE: u8 = 4;

pub struct Stream(TcpStream);

impl Stream {
    /// Opens what CRI's answer to Exec, Attach or PortForward points to.
    pub async fn open(url: &str) -> Self {
        let rest = url.strip_prefix("http://").unwrap();
        let (host, path) = rest.split_once('/').unwrap();
        let mut socket = TcpStream::connect(host).await.unwrap();
        let head = format!(
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nOrigin: http://{host}\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(socket.read_u8().await.expect("an answer to the upgrade"));
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 101"), "{url}: {answer}");
        Self(socket)
    }

    /// Sends to a channel. (A client masks what it sends; a mask of zeroes leaves it as it is.)
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) {
        self.try_send(channel, bytes).await.unwrap();
    }

    /// The same, where the other side may be gone.
    pub async fn try_send(&mut self, channel: u8, bytes: &[u8]) -> std::io::Result<()> {
        let length = bytes.len() + 1;
        let mut frame = vec![0x82];
        match u16::try_from(length).expect("a message of less than 64 KiB") {
            short @ ..126 => frame.push(0x80 | short as u8),
            long => frame.extend([&[0x80 | 126], &long.to_be_bytes()[..]].concat()),
        }
        frame.extend([0, 0, 0, 0, channel]);
        frame.extend(bytes);
        self.0.write_all(&frame).await
    }

    /// The next message: its channel and what it says; `None` at the end.
    pub async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let kind = self.0.read_u8().await.ok()? & 0x0f;
            let length = match self.0.read_u8().await.ok()? & 0x7f {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                short => u64::from(short),
            };
            let mut message = vec![0; usize::try_from(length).unwrap()];
            self.0.read_exact(&mut message).await.ok()?;
            match kind {
                1 | 2 if !message.is_empty() => return Some((message[0], message.split_off(1))),
                8 => return None,
                _ => {}
            }
        }
    }

    /// Everything of one channel until the end, or until it holds `last`.
    pub async fn read(&mut self, channel: u8, last: &str) -> String {
        let mut seen = Vec::new();
        while let Some((of, bytes)) = self.next().await {
            if of == channel {
                seen.extend(bytes);
                if !last.is_empty() && String::from_utf8_lossy(&seen).contains(last) {
                    break;
                }
            }
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// What is left of the standard output, and the exit code at the end of all.
    pub async fn finish(mut self) -> (String, u64) {
        let (mut output, mut status) = (Vec::new(), Vec::new());
        while let Some((channel, bytes)) = self.next().await {
            match channel {
                STDOUT => output.extend(bytes),
                STATUS => status.extend(bytes),
                _ => {}
            }
        }
        (String::from_utf8(output).unwrap(), exit_code(&status))
    }
}

/// The exit code in the `Status` object that ends a stream.
fn exit_code(status: &[u8]) -> u64 {
    let status: serde_json::Value = serde_json::from_slice(status).expect("a status");
    match status["status"].as_str() {
        Some("Success") => 0,
        _ => {
            status["details"]["causes"][0]["message"].as_str().and_then(|code| code.parse().ok()).expect("an exit code")
        }
    }
}
