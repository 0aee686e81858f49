//! A network between clients and the gateway: everything arrives, in order, and later.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Relays connections to `to`, with so long a way in each direction. It ends with the test.
pub fn relay(to: SocketAddr, way: Duration) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A gateway that refuses is seen as one that closes.
            let Ok(gateway) = TcpStream::connect(to) else { continue };
            let (Ok(from_client), Ok(from_gateway)) = (client.try_clone(), gateway.try_clone()) else {
                continue;
            };
            carry(from_client, gateway, way);
            carry(from_gateway, client, way);
        }
    });
    address
}

/// Bytes and the end of the stream are delivered when they have been on the way long enough.
fn carry(mut from: TcpStream, mut to: TcpStream, way: Duration) {
    let (send, arrive) = mpsc::channel::<(Instant, Vec<u8>)>();
    let _ = to.set_nodelay(true);
    std::thread::spawn(move || {
        let mut bytes = [0; 16 << 10];
        loop {
            let read = from.read(&mut bytes).unwrap_or(0);
            if send.send((Instant::now() + way, bytes[..read].to_vec())).is_err() || read == 0 {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        while let Ok((due, bytes)) = arrive.recv() {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if bytes.is_empty() || to.write_all(&bytes).is_err() {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
        }
    });
}
