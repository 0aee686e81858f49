//! Connections for requests that may become a tunnel (RFC 9110 §7.8).
//!
//! The engine passes the request and the response through two halves of one task. Its upstream half takes the end of
//! the (empty) request for the end of the tunnel when it looks at it after the 101, and looks at both in random order. An
//! upstream that answers within microseconds, read by another thread, could so be cut off right after its 101: about one
//! tunnel in 2,000 on the loopback. So such a request gets a connection whose first read waits for its next turn: by then
//! the end of the request is behind. It is never used again, also if the upgrade was refused: the engine does not
//! know such a connection's peer and drops it.
//!
//! With TLS the handshake reads and writes too, so there every first read after a write waits: that of the answer does.
//!
//! That nobody else gets such a connection is what the PROXY protocol needs as well: what it says of the client at the
//! beginning is true of this request alone.

use async_trait::async_trait;
use pingora::connectors::l4::Connect;
use pingora::protocols::l4::socket::SocketAddr;
use pingora::protocols::l4::stream::Stream;
use pingora::protocols::l4::virt::{VirtualSockOpt, VirtualSocket, VirtualSocketStream};
use pingora::{Error, ErrorType, Result};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Makes such connections; who calls it bounds them in time.
#[derive(Debug)]
pub(super) struct Tunnels {
    /// TLS goes over them.
    pub(super) tls: bool,
    /// What comes first, before TLS.
    pub(super) greeting: Vec<u8>,
}

impl Tunnels {
    async fn greet(&self, mut socket: impl AsyncWrite + Unpin) -> Result<()> {
        socket.write_all(&self.greeting).await.map_err(failed)
    }
}

#[async_trait]
impl Connect for Tunnels {
    async fn connect(&self, address: &SocketAddr) -> Result<Stream> {
        let tls = self.tls;
        let socket: Box<dyn VirtualSocket> = match address {
            SocketAddr::Inet(address) => {
                let mut socket = TcpStream::connect(address).await.map_err(failed)?;
                self.greet(&mut socket).await?;
                Box::new(Late { socket, wait: true, tls })
            }
            SocketAddr::Unix(address) => {
                let path = address.as_pathname().unwrap_or(Path::new(""));
                let mut socket = UnixStream::connect(path).await.map_err(failed)?;
                self.greet(&mut socket).await?;
                Box::new(Late { socket, wait: true, tls })
            }
        };
        Ok(VirtualSocketStream::new(socket).into())
    }
}

fn failed(e: io::Error) -> Box<Error> {
    let kind = match e.kind() {
        ErrorKind::ConnectionRefused => ErrorType::ConnectRefused,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => ErrorType::ConnectNoRoute,
        _ => ErrorType::ConnectError,
    };
    Error::because(kind, "a tunnel", e)
}

/// A socket that lets its first read wait for the next turn of its task; with TLS, the first after each write.
#[derive(Debug)]
struct Late<S> {
    socket: S,
    wait: bool,
    tls: bool,
}

impl<S: AsyncRead + Unpin> AsyncRead for Late<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::take(&mut self.wait) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Late<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.wait |= self.tls;
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl VirtualSocket for Late<TcpStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => self.socket.set_nodelay(true),
            _ => Err(ErrorKind::Unsupported.into()), // no key asks for any
        }
    }
}

impl VirtualSocket for Late<UnixStream> {
    fn set_socket_option(&self, option: VirtualSockOpt) -> io::Result<()> {
        match option {
            VirtualSockOpt::NoDelay => Ok(()), // it never delays
            _ => Err(ErrorKind::Unsupported.into()),
        }
    }
}
