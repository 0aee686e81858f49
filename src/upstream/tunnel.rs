//! Connections for requests that may become a tunnel (RFC 9110 §7.8).
//!
//! The engine passes the request and the response through two halves of one task. Its upstream half takes the end of
//! the (empty) request for the end of the tunnel when it looks at it after the 101, and looks at both in random order. An
//! upstream that answers within microseconds, read by another thread, could so be cut off right after its 101: about one
//! tunnel in 2,000 on the loopback. So such a request gets a connection whose first read waits for its next turn: by then
//! the end of the request is behind. It is never used again, also if the upgrade was refused: the engine does not
//! know such a connection's peer and drops it.

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Makes such connections; who calls it bounds them in time.
#[derive(Debug)]
pub(super) struct Tunnels;

#[async_trait]
impl Connect for Tunnels {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let address = address.as_inet();
        let address = address.ok_or_else(|| Error::explain(ErrorType::ConnectError, "not an IP address"))?;
        let socket = TcpStream::connect(address).await.map_err(|e| {
            let kind = match e.kind() {
                ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
                ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
                _ => ErrorType::ConnectError,
            };
            Error::because(kind, "a tunnel", e)
        })?;
        Ok(VirtualSocketStream::new(Box::new(Late { socket, first: true })).into())
    }
}

/// A socket that lets its first read wait for the next turn of its task.
#[derive(Debug)]
struct Late {
    socket: TcpStream,
    first: bool,
}

impl AsyncRead for Late {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.first) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Late {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Late {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            _ => Err(ErrorKind::Unsupported.into()), // no key asks for any
        }
    }
}
