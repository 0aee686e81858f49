//! From an accepted socket to one that HTTP is spoken on.

use super::connection::{tell, Arrival};
use super::Shared;
use crate::error::Reject;
use crate::observe::exchange::Exchange;
use crate::proxy::ctx::new_id;
use crate::proxy::failure;
use crate::tls::{Session, Terminator};
use crate::wire::facts::Facts;
use crate::wire::socket::Socket;
use log::debug;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// The first byte of a TLS connection (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;

/// Does what the listener asks of the transport, within `limits.header_timeout`. `None`: there is nobody to serve.
pub(super) async fn shake_hands(arrival: Arrival, shared: &Shared) -> Option<(Socket, Facts)> {
    let Arrival { socket, peer, port, listener } = arrival;
    let terms = Arc::clone(&listener.terms);
    let Some(terminator) = &listener.tls else {
        return Some((socket, Facts::new(peer, port, None, terms)));
    };
    let patience = shared.gateway.load().limits.header_timeout;
    let results = &shared.observed.totals.handshakes;
    let begin = async {
        if is_plain(&socket).await {
            return Err(Some(socket));
        }
        accept(terminator, socket).await
    };
    match timeout(patience, begin).await {
        Ok(Ok((socket, session))) => {
            results[usize::from(session.resumed)].fetch_add(1, Ordering::Relaxed);
            return Some((socket, Facts::new(peer, port, Some(session), terms)));
        }
        Ok(Err(Some(mut plain))) => {
            let (reject, id) = (Reject::PlainHttp, new_id());
            let answer = failure::raw_answer(&reject, id.to_str().unwrap_or_default());
            tell(shared, &reject, id.as_bytes(), peer, b"", Exchange::default());
            let _ = timeout(patience, plain.write_all(&answer)).await;
            let _ = timeout(patience, plain.shutdown()).await;
        }
        Ok(Err(None)) => {}
        Err(_) => debug!("TLS with {peer:?}: no handshake within {patience:?}"),
    }
    results[2].fetch_add(1, Ordering::Relaxed);
    None
}

async fn accept(terminator: &Terminator, socket: Socket) -> Result<(Socket, Session), Option<Socket>> {
    match terminator.accept(socket).await {
        Ok((stream, session)) => Ok((Socket::Tls(Box::new(stream)), session)),
        Err(e) => {
            debug!("TLS handshake failed: {e}");
            Err(None)
        }
    }
}

/// Whether a letter comes first, as in a method. Who speaks neither, or nothing, is TLS's to refuse.
async fn is_plain(socket: &Socket) -> bool {
    let mut first = [HANDSHAKE];
    match socket {
        Socket::Tcp(tcp) => tcp.peek(&mut first).await.is_ok_and(|_| first[0].is_ascii_alphabetic()),
        Socket::Unix(_) | Socket::Tls(_) => false,
    }
}
