//! From an accepted socket to one that HTTP is spoken on.

use super::connection::{tell, Arrival, Ticket};
use super::Shared;
use crate::error::Reject;
use crate::observe::exchange::Exchange;
use crate::proxy::ctx::new_id;
use crate::proxy::failure;
use crate::tls::{Session, Terminator};
use crate::wire::facts::{Ends, Facts};
use crate::wire::linger::linger;
use crate::wire::proxy_protocol;
use crate::wire::socket::Socket;
use log::{debug, info};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::time::{timeout_at, Instant};

/// The first byte of a TLS connection (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Does what the listener asks of the transport, within `limits.header_timeout`. `None`: there is nobody to serve.
pub(super) async fn shake_hands(
    arrival: Arrival,
    ticket: &Arc<Ticket>,
    shared: &Shared,
) -> Option<(Socket, Facts)> {
    let Arrival { mut socket, mut ends, listener } = arrival;
    let end = Instant::now() + shared.gateway.load().limits.header_timeout;
    if listener.proxy_protocol {
        match timeout_at(end, told(&mut socket, ends, shared))
            .await
            .unwrap_or_else(|_| Err("no PROXY header in time".into()))
        {
            Ok(told) => ends = told,
            Err(why) => {
                note(shared, &Reject::ProxyHeader, new_id().as_bytes(), ends.address(), &why);
                return None;
            }
        }
        if let Err(reject) = shared.admit_from(ticket, ends.address()) {
            note(shared, &reject, new_id().as_bytes(), ends.address(), "");
            return None;
        }
    }
    let terms = Arc::clone(&listener.terms);
    let Some(terminator) = &listener.tls else {
        return Some((socket, Facts::new(ends, None, terms)));
    };
    let begin = async {
        if is_plain(&socket).await {
            return Err(Some(socket));
        }
        accept(terminator, socket, ends.client).await
    };
    let results = &shared.observed.totals.handshakes;
    match timeout_at(end, begin).await {
        // An authority has seen what it came for (RFC 8737).
        Ok(Ok(None)) => return None,
        Ok(Ok(Some((socket, session)))) => {
            results[usize::from(session.resumed)].fetch_add(1, Ordering::Relaxed);
            return Some((socket, Facts::new(ends, Some(session), terms)));
        }
        Ok(Err(Some(mut plain))) => {
            // The request stays unread: closed at once, the answer would be lost to a reset.
            let (reject, id) = (Reject::PlainHttp, new_id());
            let answer = failure::raw_answer(&reject, id.to_str().unwrap_or_default());
            note(shared, &reject, id.as_bytes(), ends.address(), "");
            let _ = timeout_at(end, plain.write_all(&answer)).await;
            linger(plain, Arc::clone(&shared.farewell), Arc::clone(ticket) as _);
        }
        Ok(Err(None)) => {}
        Err(_) => debug!("TLS with {:?}: no handshake in time", ends.client),
    }
    results[2].fetch_add(1, Ordering::Relaxed);
    None
}

/// What the balancer says, if it is one.
async fn told(socket: &mut Socket, own: Ends, shared: &Shared) -> Result<Ends, String> {
    match own.address() {
        // Who reaches a Unix socket has been let in by its folder.
        Some(peer) if !shared.gateway.load().trusted.contains(peer) => {
            Err("its sender is not one of trusted_proxies".to_owned())
        }
        _ => proxy_protocol::read(socket, own).await,
    }
}

/// Tells of a connection that never became one of HTTP.
fn note(shared: &Shared, reject: &Reject, id: &[u8], peer: Option<IpAddr>, detail: &str) {
    tell(shared, reject, id, peer, b"", Exchange { detail, ..Exchange::default() });
}

async fn accept(
    terminator: &Terminator,
    socket: Socket,
    client: Option<SocketAddr>,
) -> Result<Option<(Socket, Session)>, Option<Socket>> {
    match terminator.accept(socket).await {
        Ok(done) => Ok(done.map(|(stream, session)| (Socket::Tls(Box::new(stream)), session))),
        Err(e) => {
            let client = client.map_or_else(|| "a Unix socket".to_owned(), |client| client.to_string());
            match is_of_certificates(&e) {
                true => info!("TLS with {client}: the client's certificate is refused: {e}"),
                false => debug!("TLS with {client}: {e}"),
            }
            Err(None)
        }
    }
}

/// Whether it is what the client shows of itself that is refused: its owner will ask why. Of what else goes wrong scanners
/// would fill the log.
fn is_of_certificates(e: &io::Error) -> bool {
    use rustls::Error::{InvalidCertRevocationList, InvalidCertificate, NoCertificatesPresented};
    let tls = e.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    matches!(tls, Some(InvalidCertificate(_) | InvalidCertRevocationList(_) | NoCertificatesPresented))
}

/// Whether a letter comes first, as in a method. Who speaks neither, or nothing, is TLS's to refuse.
async fn is_plain(socket: &Socket) -> bool {
    let mut first = [HANDSHAKE];
    match socket {
        Socket::Tcp(tcp) => tcp.peek(&mut first).await.is_ok_and(|_| first[0].is_ascii_alphabetic()),
        Socket::Unix(_) | Socket::Tls(_) => false,
    }
}
