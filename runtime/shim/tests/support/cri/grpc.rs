//! gRPC over HTTP/2: one request, and one answer or many.

use std::path::Path;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Request};
use tokio::net::UnixStream;

use super::message::{Message, Reply};

#[derive(Clone)]
pub struct Grpc(SendRequest<Bytes>);

/// What the server says of a failed call.
#[derive(Debug)]
pub struct Status {
    pub code: String,
    pub message: String,
}

impl Grpc {
    pub async fn connect(socket: &Path) -> std::io::Result<Self> {
        let stream = UnixStream::connect(socket).await?;
        let (sender, connection) = h2::client::handshake(stream).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub async fn call(&self, method: &str, message: &Message) -> Result<Reply, Status> {
        self.exchange(method, message)
            .await
            .unwrap_or_else(|error| Err(Status { code: "transport".into(), message: error.to_string() }))
    }

    /// Asks for something that is answered again and again.
    pub async fn feed(&self, method: &str, message: &Message) -> Result<Feed, h2::Error> {
        let body = self.send(method, message).await?.await?.into_body();
        Ok(Feed { body, pending: Vec::new() })
    }

    async fn exchange(&self, method: &str, message: &Message) -> Result<Result<Reply, Status>, h2::Error> {
        let (head, mut body) = self.send(method, message).await?.await?.into_parts();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            answer.extend(chunk);
        }
        let trailers = body.trailers().await?.unwrap_or(head.headers);
        Ok(match field(&trailers, "grpc-status").as_str() {
            "0" => Ok(Reply(answer.get(5..).unwrap_or_default().to_vec())),
            code => Err(Status { code: code.to_owned(), message: field(&trailers, "grpc-message") }),
        })
    }

    async fn send(&self, method: &str, message: &Message) -> Result<ResponseFuture, h2::Error> {
        let request = Request::post(format!("http://localhost/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            // For containerd's own services; CRI does not look at it.
            .header("containerd-namespace", "k8s.io")
            .body(())
            .unwrap();
        let (response, mut stream) = self.0.clone().ready().await?.send_request(request, false)?;
        let length = (message.encoded().len() as u32).to_be_bytes();
        stream.send_data([&[0], &length[..], message.encoded()].concat().into(), true)?;
        Ok(response)
    }
}

/// The answers to a request that has many.
pub struct Feed {
    body: RecvStream,
    pending: Vec<u8>,
}

impl Feed {
    /// The next one; `None` at the end.
    pub async fn next(&mut self) -> Option<Reply> {
        loop {
            if let Some(head) = self.pending.first_chunk::<5>() {
                let end = 5 + u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
                if self.pending.len() >= end {
                    let rest = self.pending.split_off(end);
                    let message = std::mem::replace(&mut self.pending, rest).split_off(5);
                    return Some(Reply(message));
                }
            }
            let chunk = self.body.data().await?.ok()?;
            self.body.flow_control().release_capacity(chunk.len()).ok()?;
            self.pending.extend(chunk);
        }
    }
}

fn field(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}
