//! HTTP/2 on a client's connection (RFC 9113): the `h2` crate speaks it, what it leaves open is here.
//!
//! [`guard`] stands between the crate and the socket and ends a connection whose client floods or stalls; [`head`] refuses
//! what the crate lets through of a request's head; [`stream`] is one request as Pingora's engine takes it, and [`watch`] its
//! client, with the clocks that HTTP/1 has on the connection. [`unheard`] knows of the requests that the crate answers alone,
//! and [`later`] and `outbox` let the answers of many streams leave together.

pub mod guard;
pub mod head;
pub mod later;
mod outbox;
pub mod stream;
pub mod unheard;
pub mod watch;

/// What a client of HTTP/2 begins with (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
