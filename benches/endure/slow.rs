//! What takes its time: clients that read and write slowly, tunnels, long downloads.

use super::client::{get, must_be, post, Client};
use super::kit::Raw;
use super::origin::{echo, pattern};
use super::traffic::Outcome;
use super::world::World;
use std::io::{Read, Write};
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(50);
const HANDSHAKE: &str = "GET /steady/tunnel HTTP/1.1\r\nHost: soak.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c29hay1zb2FrLXNvYWs9PQ==\r\n\r\n";

/// A head in small pieces, a body in small pieces, or an answer read in small pieces; about two seconds each.
pub fn client(world: &World) -> impl FnMut() -> Outcome + '_ {
    let mut n = 0;
    move || {
        n += 1;
        let mut client = Client::new(world.gateway);
        let target = format!("/steady/slow/{n}");
        match n % 3 {
            0 => {
                let request = get(&target);
                dribble(world, &mut client, &request, request.len() / 40 + 1);
                must_be(&client.answer()?, echo(&target, None).as_bytes())
            }
            1 => {
                let (request, echo) = post(&target, &pattern(40_000), n % 2 == 0);
                dribble(world, &mut client, &request, 1000);
                must_be(&client.answer()?, echo.as_bytes())
            }
            _ => {
                client.connection().send(get("/steady/down/1000000"));
                read_slowly(world, client.connection(), 1_000_000, 25_000)
            }
        }
    }
}

/// When the run ends it hurries, so that the request is whole.
fn dribble(world: &World, client: &mut Client, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        client.connection().send(piece);
        world.sleep(PAUSE);
    }
}

/// Reads an answer whose body has this length, so many bytes at a time.
fn read_slowly(world: &World, connection: &mut Raw, length: usize, piece: usize) -> Outcome {
    let (mut got, mut bytes) = (Vec::new(), vec![0; piece]);
    let end = loop {
        let n = connection.socket.read(&mut bytes).map_err(|e| format!("after {} bytes: {e}", got.len()))?;
        got.extend_from_slice(&bytes[..n]);
        let head = got.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4);
        if n == 0 || head.is_some_and(|head| got.len() >= head + length) {
            break head.unwrap_or(got.len());
        }
        world.sleep(PAUSE);
    };
    if got.starts_with(b"HTTP/1.1 200 ") && got[end..] == pattern(length) {
        Ok("200".to_owned())
    } else {
        let begin = String::from_utf8_lossy(&got[..got.len().min(100)]).into_owned();
        Err(format!("{} of {length} bytes came: {begin:?}", got.len() - end))
    }
}

/// A WebSocket's handshake, then bytes there and back for about four seconds.
pub fn tunnel<'s>(world: &'s World, worker: usize) -> impl FnMut() -> Outcome + 's {
    move || {
        let mut client = Client::new(world.gateway);
        let response = client.ask(HANDSHAKE.as_bytes())?;
        if response.status != 101 {
            return Err(super::client::unlike(&response, "a 101"));
        }
        let socket = &mut client.connection().socket;
        for n in 0..20 {
            let said = format!("worker {worker} says {n}");
            let mut heard = vec![0; said.len()];
            let passed = socket.write_all(said.as_bytes()).and_then(|()| socket.read_exact(&mut heard));
            passed.map_err(|e| format!("message {n}: {e}"))?;
            if heard != said.as_bytes() {
                return Err(format!("{said:?} came back as {:?}", String::from_utf8_lossy(&heard)));
            }
            world.sleep(4 * PAUSE);
        }
        Ok("echoed".to_owned())
    }
}

/// One tunnel more, and a word to each so that none of them ends.
pub fn hold(world: &World, held: &mut Vec<Client>) {
    let mut client = Client::new(world.gateway);
    if client.ask(HANDSHAKE.as_bytes()).is_ok() {
        held.push(client);
    }
    for client in held {
        client.connection().send("still here");
    }
}

/// Ten seconds at the origin's pace, or at the client's.
pub fn download<'s>(world: &'s World, worker: usize) -> impl FnMut() -> Outcome + 's {
    move || {
        let mut client = Client::new(world.gateway);
        if worker == 0 {
            must_be(&client.ask(&get("/steady/trickle/1638400"))?, &pattern(1_638_400))
        } else {
            client.connection().send(get("/steady/down/20000000"));
            read_slowly(world, client.connection(), 20_000_000, 100_000)
        }
    }
}
