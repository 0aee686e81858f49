//! The PROXY protocol, versions 1 and 2: a balancer in front says for whom it connects, before anything else.
//!
//! Read without taking one byte of what follows, which may be TLS. The crate `ppp` knows what a header means; where it ends
//! is known here.

use super::socket::Socket;
use ppp::{v1, v2, HeaderResult};
use std::io;
use std::net::IpAddr;
use tokio::io::AsyncReadExt;

/// Who is at the other end of the balancer's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    /// The client's address.
    pub client: IpAddr,
    /// The port that it connected to.
    pub port: u16,
}

/// As long as the signature of version 2, and shorter than any header of version 1.
const BEGINNING: usize = 12;
/// What stands before the addresses in version 2.
const FIXED: usize = 16;
/// The longest line of version 1 with its line end.
const LONGEST_LINE: usize = 107;
/// More than all that anybody adds to version 2 today.
const MOST: usize = 4096;

/// Reads a header. `None`: the balancer speaks for itself (a check of its own), or for somebody without an address.
///
/// # Errors
/// What came instead, as a sentence for the operator.
pub async fn read(socket: &mut Socket) -> Result<Option<Told>, String> {
    let gone = |e: io::Error| match e.kind() {
        io::ErrorKind::UnexpectedEof => "the connection ended before a PROXY header".to_owned(),
        _ => format!("the connection broke before a PROXY header: {e}"),
    };
    let mut header = vec![0; BEGINNING];
    socket.read_exact(&mut header).await.map_err(gone)?;
    if header == v2::PROTOCOL_PREFIX {
        header.resize(FIXED, 0);
        socket.read_exact(&mut header[BEGINNING..]).await.map_err(gone)?;
        let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
        if length > MOST {
            return Err(format!("a PROXY header of {length} bytes"));
        }
        header.resize(FIXED + length, 0);
        socket.read_exact(&mut header[FIXED..]).await.map_err(gone)?;
    } else if header.starts_with(b"PROXY ") {
        read_line(socket, &mut header).await.map_err(gone)?;
    } else {
        return Err("no PROXY header came first".to_owned());
    }
    match HeaderResult::parse(&header) {
        HeaderResult::V1(Ok(header)) => Ok(first(&header)),
        HeaderResult::V2(Ok(header)) => Ok(second(&header)),
        HeaderResult::V1(Err(e)) => Err(format!("a broken PROXY header: {e}")),
        HeaderResult::V2(Err(e)) => Err(format!("a broken PROXY header: {e}")),
    }
}

/// Reads to the line end; a longer line is left as broken as it is.
async fn read_line(socket: &mut Socket, line: &mut Vec<u8>) -> io::Result<()> {
    while !line.ends_with(b"\n") && line.len() < LONGEST_LINE {
        let mut ahead = [0; LONGEST_LINE];
        let there = match socket {
            Socket::Tcp(tcp) => tcp.peek(&mut ahead[..LONGEST_LINE - line.len()]).await?,
            Socket::Unix(_) | Socket::Tls(_) => 0,
        };
        let end = memchr::memchr(b'\n', &ahead[..there]).map_or(there, |end| end + 1);
        let from = line.len();
        line.resize(from + end.max(1), 0);
        socket.read_exact(&mut line[from..]).await?;
    }
    Ok(())
}

fn first(header: &v1::Header<'_>) -> Option<Told> {
    match header.addresses {
        v1::Addresses::Tcp4(ip) => Some(Told { client: ip.source_address.into(), port: ip.destination_port }),
        v1::Addresses::Tcp6(ip) => Some(Told { client: ip.source_address.into(), port: ip.destination_port }),
        v1::Addresses::Unknown => None,
    }
}

fn second(header: &v2::Header<'_>) -> Option<Told> {
    match header.addresses {
        _ if header.command == v2::Command::Local => None,
        v2::Addresses::IPv4(ip) => Some(Told { client: ip.source_address.into(), port: ip.destination_port }),
        v2::Addresses::IPv6(ip) => Some(Told { client: ip.source_address.into(), port: ip.destination_port }),
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}
