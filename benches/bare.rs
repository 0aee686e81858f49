//! A proxy that is Pingora and nothing else: what it costs is what Portcullis stands on, the distance is our own.
//!
//! `bare [no-stealing] LISTEN ORIGIN THREADS [CERTIFICATE KEY]`, such as `bare 127.0.0.1:7004 127.0.0.1:7001 1`. With
//! files of a certificate it speaks TLS, and HTTP/2 too.

use async_trait::async_trait;
use pingora::listeners::tls::TlsSettings;
use pingora::prelude::{HttpPeer, Result};
use pingora::server::configuration::ServerConf;
use pingora::server::Server;
use pingora_proxy::{http_proxy_service, ProxyHttp, Session};
use std::net::SocketAddr;

// As in src/main.rs: the distance is to the best that Pingora can be.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare(HttpPeer);

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) {}

    async fn upstream_peer(&self, _: &mut Session, (): &mut ()) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.0.clone()))
    }
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let work_stealing = arguments.first().is_none_or(|first| first != "no-stealing");
    arguments.retain(|a| a != "no-stealing");
    // `cargo bench` and `cargo test` start every bench target without arguments.
    let [listen, origin, threads, certificate @ ..] = &arguments[..] else { return };
    let threads = threads.parse().expect("a number of threads");
    let conf =
        ServerConf { threads, work_stealing, upstream_keepalive_pool_size: 8192, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    let origin: SocketAddr = origin.parse().expect("the origin's address");
    let peer = HttpPeer::new(origin, false, String::new());
    let mut service = http_proxy_service(&server.configuration, Bare(peer));
    match certificate {
        [certificate, key] => {
            // Also as in src/main.rs; Pingora's own choice would be ring.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let mut settings =
                TlsSettings::intermediate(certificate, key).expect("a certificate and its key");
            settings.enable_h2();
            service.add_tls_with_settings(listen, None, settings);
        }
        _ => service.add_tcp(listen),
    }
    server.add_service(service);
    server.run_forever();
}
