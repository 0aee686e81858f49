//! Clients: the kit's, with everything that may go wrong said in a sentence instead of a panic.

use super::kit::{Raw, Response};
use super::origin::{digest, echo};
use std::net::SocketAddr;

/// A client that keeps its connection as long as the gateway does.
pub struct Client {
    address: SocketAddr,
    connection: Option<Raw>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client { address, connection: None }
    }

    /// The present connection, or a new one.
    pub fn connection(&mut self) -> &mut Raw {
        self.connection.get_or_insert_with(|| Raw::connect(self.address))
    }

    /// One whole exchange.
    pub fn ask(&mut self, request: &[u8]) -> Result<Response, String> {
        self.connection().send(request);
        self.answer()
    }

    /// The answer to what was sent.
    pub fn answer(&mut self) -> Result<Response, String> {
        let response = self.connection().one_response("GET");
        let Some(response) = response else {
            self.connection = None;
            return Err("the connection closed without an answer".to_owned());
        };
        if response.field("connection").is_some_and(|c| c.eq_ignore_ascii_case("close")) || !response.complete
        {
            self.connection = None;
        }
        Ok(response)
    }

    /// Gives the connection up.
    pub fn close(&mut self) {
        self.connection = None;
    }
}

pub fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: soak.test\r\n\r\n").into_bytes()
}

/// A POST with this body, chunked or with its length; and what its echo will be.
pub fn post(target: &str, body: &[u8], chunked: bool) -> (Vec<u8>, String) {
    let head = format!("POST {target} HTTP/1.1\r\nHost: soak.test\r\n");
    let mut request = head.into_bytes();
    if chunked {
        request.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
        for piece in body.chunks(10_000) {
            request.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
            request.extend_from_slice(piece);
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"0\r\n\r\n");
    } else {
        request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        request.extend_from_slice(body);
    }
    (request, echo(target, Some((body.len() as u64, digest(0, body)))))
}

/// A whole 200 with exactly this body, or what it is instead.
pub fn must_be(response: &Response, body: &[u8]) -> Result<String, String> {
    match response {
        Response { status: 200, complete: true, body: got, .. } if got == body => Ok("200".to_owned()),
        _ => Err(unlike(response, &format!("a 200 with {} bytes", body.len()))),
    }
}

/// A sentence about an answer that should have been another.
pub fn unlike(response: &Response, wanted: &str) -> String {
    let begin: String = response.text().chars().take(200).collect();
    let Response { status, body, complete, .. } = response;
    let cut = if *complete { "" } else { ", cut off" };
    format!("a {status} with {} bytes{cut} instead of {wanted}: {begin:?}", body.len())
}
