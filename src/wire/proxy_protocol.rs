//! The PROXY protocol, versions 1 and 2: a balancer in front says for whom it connects, before anything else.
//!
//! Read without taking one byte of what follows, which may be TLS. The crate `ppp` knows what a header means; where it ends
//! is known here.

use super::facts::Ends;
use super::socket::Socket;
use ppp::{v1, v2, HeaderResult};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::io::AsyncReadExt;

/// How a header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text (§2.1).
    V1,
    /// Binary (§2.2).
    V2,
}

/// As long as the signature of version 2, and shorter than any header of version 1.
const BEGINNING: usize = 12;
/// What stands before the addresses in version 2.
const FIXED: usize = 16;
/// The longest line of version 1 with its line end.
const LONGEST_LINE: usize = 107;
/// More than all that anybody adds to version 2 today.
const MOST: usize = 4096;

/// Reads a header that comes on a connection between `own` ends: these too where the balancer speaks for itself (a check
/// of its own), or for a stranger.
///
/// # Errors
/// What came instead, as a sentence for the operator.
pub async fn read(socket: &mut Socket, own: Ends) -> Result<Ends, String> {
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
        HeaderResult::V1(Ok(header)) => Ok(first(&header).unwrap_or(Ends { stranger: true, ..own })),
        HeaderResult::V2(Ok(header)) if header.command == v2::Command::Local => Ok(own),
        HeaderResult::V2(Ok(header)) => Ok(second(&header).unwrap_or(Ends { stranger: true, ..own })),
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

fn first(header: &v1::Header<'_>) -> Option<Ends> {
    match header.addresses {
        v1::Addresses::Tcp4(ip) => {
            ends(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)
        }
        v1::Addresses::Tcp6(ip) => {
            ends(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)
        }
        v1::Addresses::Unknown => None,
    }
}

fn second(header: &v2::Header<'_>) -> Option<Ends> {
    match header.addresses {
        v2::Addresses::IPv4(ip) => {
            ends(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)
        }
        v2::Addresses::IPv6(ip) => {
            ends(ip.source_address, ip.source_port, ip.destination_address, ip.destination_port)
        }
        v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
    }
}

fn ends(client: impl Into<IpAddr>, port: u16, local: impl Into<IpAddr>, local_port: u16) -> Option<Ends> {
    let (client, local) = (SocketAddr::new(client.into(), port), SocketAddr::new(local.into(), local_port));
    Some(Ends { client: Some(client), local: Some(local), stranger: false })
}

/// A header that names these; where there is nobody to name, one that says so.
pub fn header(version: Version, ends: Ends) -> Vec<u8> {
    let named = ends.client.zip(ends.local).filter(|_| !ends.stranger);
    let both = named.map(|(client, local)| one_family(client, local));
    let addresses =
        |both: Option<(SocketAddr, SocketAddr)>| both.map_or(v1::Addresses::Unknown, v1::Addresses::from);
    let written = match (version, both) {
        (Version::V1, both) => return addresses(both).to_string().into_bytes(),
        (Version::V2, Some(both)) => {
            let command = v2::Version::Two | v2::Command::Proxy;
            v2::Builder::with_addresses(command, v2::Protocol::Stream, both).build()
        }
        (Version::V2, None) => {
            let nobody = v2::AddressFamily::Unspecified | v2::Protocol::Unspecified;
            let command = if ends.stranger { v2::Command::Proxy } else { v2::Command::Local };
            v2::Builder::new(v2::Version::Two | command, nobody).build()
        }
    };
    written.expect("addresses fit into a header")
}

/// Both as addresses of one family, as a header has them.
fn one_family(client: SocketAddr, local: SocketAddr) -> (SocketAddr, SocketAddr) {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    let (client, local) = (canonical(client), canonical(local));
    if client.is_ipv4() == local.is_ipv4() {
        return (client, local);
    }
    let mapped = |end: SocketAddr| match end {
        SocketAddr::V4(v4) => SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port()),
        v6 => v6,
    };
    (mapped(client), mapped(local))
}
