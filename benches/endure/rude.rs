//! Clients that break the rules, or just leave.

use super::client::{get, post, unlike, Client};
use super::origin::pattern;
use super::traffic::Outcome;
use super::world::{Sabotage, World};
use fastrand::Rng;
use std::io::Read;
use std::time::Duration;

/// What is malformed or refused, and the status that it gets; all in turn.
pub fn malformed(world: &World) -> impl FnMut() -> Outcome + '_ {
    let mut all = refused().into_iter().cycle();
    let wrong = world.sabotage == Some(Sabotage::Answer);
    move || {
        let (request, status) = all.next().expect("a cycle over something does not end");
        let status = if wrong { 200 } else { status };
        let response = Client::new(world.gateway).ask(&request)?;
        let said = response.problem();
        if response.status == status {
            Ok(format!("{status} {said}"))
        } else {
            let request: String = String::from_utf8_lossy(&request).chars().take(80).collect();
            Err(unlike(&response, &format!("a {status} to {request:?}")))
        }
    }
}

fn refused() -> Vec<(Vec<u8>, u16)> {
    let head = |line: &str, fields: &str| format!("{line}\r\nHost: soak.test\r\n{fields}\r\n");
    let plain = |fields: &str| head("GET /steady HTTP/1.1", fields);
    let sent = |fields: &str, body: &str| head("POST /steady HTTP/1.1", fields) + body;
    let all = [
        ("GET /steady HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET /steady HTTP/1.1\nHost: soak.test\n\n".to_owned(), 400),
        ("\u{16}\u{3}\u{1}\u{2}\0 no HTTP at all\r\n\r\n".to_owned(), 400),
        (head("GET  /steady HTTP/1.1", ""), 400),
        (head("GET /steady/%2Fhidden HTTP/1.1", ""), 400),
        (head("GET /../steady HTTP/1.1", ""), 400),
        (plain("X-Spaced : x\r\n"), 400),
        (plain("X-Folded: x\r\n y\r\n"), 400),
        (sent("Content-Length: 1\r\nContent-Length: 2\r\n", "xx"), 400),
        (sent("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"), 400),
        (sent("Transfer-Encoding: chunked\r\n", "no size\r\n"), 400),
        (head("GET /nowhere HTTP/1.1", ""), 404),
        (head("DELETE /generation HTTP/1.1", ""), 405),
        (sent("Content-Length: 30000000\r\n", ""), 413),
        (head(&format!("GET /steady/{} HTTP/1.1", "x".repeat(9_000)), ""), 414),
        (plain("Expect: the unexpected\r\n"), 417),
        (plain(&format!("X-Large: {}\r\n", "x".repeat(33_000))), 431),
        (sent("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"), 501),
        (head("GET /steady HTTP/3.0", ""), 505),
    ];
    all.into_iter().map(|(request, status)| (request.into_bytes(), status)).collect()
}

/// Leaves in the middle: of a head, of a body, before the answer, within it. With a reset or in order.
pub fn vanishing(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut random, body) = (Rng::with_seed(world.seed ^ 5), pattern(200_000));
    let names =
        ["at once", "in a head", "in a body", "in a chunked body", "before an answer", "in an answer"];
    move || {
        let mut client = Client::new(world.gateway);
        let at = random.usize(..names.len());
        let part = |request: Vec<u8>, share: usize| request[..request.len() * share / 10].to_vec();
        match at {
            0 => {
                client.connection().send("");
            }
            1 => {
                client.connection().send(part(get("/steady/half"), 5));
            }
            2 | 3 => {
                let (request, _) = post("/steady/half", &body, at == 3);
                client.connection().send(part(request, 6));
            }
            4 => {
                client.connection().send(get("/steady/down/300000"));
            }
            _ => {
                let connection = client.connection();
                connection.send(get("/steady/down/4000000"));
                let _ = connection.socket.read_exact(&mut vec![0; 500_000]);
            }
        }
        if random.bool() {
            let _ = socket2::SockRef::from(&client.connection().socket).set_linger(Some(Duration::ZERO));
        }
        client.close();
        Ok(names[at].to_owned())
    }
}
