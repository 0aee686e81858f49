//! A toy service: two instances that say who they are, and that can be stopped for a while.

use async_trait::async_trait;
use http::Response;
use pingora::apps::http_app::ServeHttp;
use pingora::apps::HttpServerApp;
use pingora::protocols::http::ServerSession;
use pingora::protocols::l4::stream::Stream as L4Stream;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{watch, Notify};
use tokio::task::JoinSet;

/// How long an instance stays down.
const DOWN: Duration = Duration::from_secs(10);

/// A service that runs.
pub(super) struct Service {
    pub(super) name: &'static str,
    pub(super) addresses: [SocketAddr; 2],
}

struct Instance {
    service: &'static str,
    number: usize,
    stop_asked: AtomicBool,
    stop: Notify,
}

impl Service {
    /// Starts both instances on ports that the kernel picks, in a thread of their own.
    pub(super) fn start(name: &'static str) -> io::Result<Service> {
        let listeners = [bind(([127, 0, 0, 1], 0).into())?, bind(([127, 0, 0, 1], 0).into())?];
        let addresses = [listeners[0].local_addr()?, listeners[1].local_addr()?];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(async {
                let [one, two] = listeners;
                tokio::join!(live(name, 1, one), live(name, 2, two));
            });
        })?;
        Ok(Service { name, addresses })
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves, and after each stop comes back on the same port.
async fn live(service: &'static str, number: usize, first: std::net::TcpListener) {
    let Ok(address) = first.local_addr() else { return };
    let mut listener = TcpListener::from_std(first);
    loop {
        match listener {
            Ok(listener) => serve(service, number, listener).await,
            Err(e) => eprintln!("{service} instance {number}: {e}"),
        }
        tokio::time::sleep(DOWN).await;
        listener = again(address);
    }
}

fn again(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(128)
}

/// Until it is stopped: then the listener closes, and every connection with it.
async fn serve(service: &'static str, number: usize, listener: TcpListener) {
    let instance =
        Arc::new(Instance { service, number, stop_asked: AtomicBool::new(false), stop: Notify::new() });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(converse(Arc::clone(&instance), socket));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            _ = connections.join_next(), if !connections.is_empty() => {}
            () = instance.stop.notified() => return,
        }
    }
}

async fn converse(instance: Arc<Instance>, socket: TcpStream) {
    let (_keep, never) = watch::channel(false);
    let mut stream: pingora::protocols::Stream = Box::new(L4Stream::from(socket));
    loop {
        let reused = instance.process_new_http(ServerSession::new_http1(stream), &never).await;
        // Only now is the answer to whoever asked for the stop on its way.
        if instance.stop_asked.load(Ordering::Relaxed) {
            instance.stop.notify_one();
        }
        match reused {
            Some(reused) => stream = reused.consume().0,
            None => return,
        }
    }
}

#[async_trait]
impl ServeHttp for Instance {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        let (method, path) = (request.method.clone(), request.uri.path().to_owned());
        let Instance { service, number, .. } = self;
        let body = if path == format!("/{service}/stop") && method == http::Method::POST {
            self.stop_asked.store(true, Ordering::Relaxed);
            format!("{service}, instance {number}: down for {} s from now\n", DOWN.as_secs())
        } else {
            format!("{service}, instance {number}: {method} {path}\n")
        };
        let response =
            Response::builder().header("Content-Type", "text/plain").header("Content-Length", body.len());
        response.body(body.into_bytes()).unwrap_or_default()
    }
}
