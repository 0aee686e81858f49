//! A network between clients and the gateway: everything arrives, in order, and later.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
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

/// A Unix socket whose connections go on to an address. It ends with the test.
pub struct Socket {
    /// Where it is.
    pub path: PathBuf,
    connections: Arc<AtomicUsize>,
}

impl Socket {
    /// Listens at this path, in the place of what is there.
    pub fn start(path: &Path, to: SocketAddr) -> Socket {
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path).unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(to) else { continue };
                let (mut from_client, mut from_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (mut client, mut server) = (client, server);
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_client, &mut server);
                    let _ = server.shutdown(Shutdown::Write);
                });
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut from_server, &mut client);
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Socket { path: path.to_owned(), connections }
    }

    /// As a target is written.
    pub fn target(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// Connections so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
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
