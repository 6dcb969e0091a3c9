//! Who is connected to the shim.
//!
//! A client that ends the shim has to be the first to close their connection. containerd's ttrpc client, when it finds
//! an answer and the end of the connection together, reports one of the two by chance (`Client.dispatch` of ttrpc 1.2
//! selects among what is ready), and the call that was answered fails with "ttrpc: closed". No order of writing and
//! closing on this side can prevent that, so the connections are counted, and the shim ends when they are gone.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use containerd_shim_protos::ttrpc::asynchronous::transport::Listener;
use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// How many connections are open. Clones count together.
#[derive(Clone, Default)]
pub struct Peers(watch::Sender<usize>);

impl Peers {
    /// Counts every connection that is accepted from `listener`.
    pub fn counted(&self, listener: UnixListener) -> Listener {
        Listener::new(Incoming { listener, peers: self.clone() })
    }

    /// Ends when nobody is connected.
    pub async fn gone(&self) {
        // The sender is `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|open| *open == 0).await;
    }

    fn connected(&self, socket: UnixStream) -> Connection {
        self.0.send_modify(|open| *open += 1);
        Connection { socket, peers: self.clone() }
    }
}

struct Incoming {
    listener: UnixListener,
    peers: Peers,
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let accepted = self.listener.poll_accept(context);
        accepted.map(|accepted| Some(accepted.map(|(socket, _)| self.peers.connected(socket))))
    }
}

/// A connection; it counts until it is dropped.
struct Connection {
    socket: UnixStream,
    peers: Peers,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.peers.0.send_modify(|open| *open -= 1);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
