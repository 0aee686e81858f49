//! `portcullis demo`: two embedded services with two instances each behind a gateway, to try without anything else.
//!
//! The gateway is the real one, from a configuration text that is printed; only the services are toys.

mod service;

use super::log::Log;
use super::{run, NOT_STARTED, REFUSED};
use crate::config::{self, load::System};
use crate::server::sockets::{Bound, Inherited};
use crate::server::Start;
use clap::Args;
use service::Service;
use std::net::SocketAddr;

#[derive(Args)]
pub(super) struct Options {
    /// Where the gateway listens; port 0 takes any free one
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "IP:PORT")]
    listen: SocketAddr,
}

pub(super) fn demo(options: &Options) -> u8 {
    let log = Log::start();
    let signals = match run::signals() {
        Ok(signals) => signals,
        Err(code) => return code,
    };
    let services = match ["service1", "service2"].map(Service::start) {
        [Ok(one), Ok(two)] => [one, two],
        [Err(e), _] | [_, Err(e)] => {
            eprintln!("the demo's own services cannot start: {e}");
            return NOT_STARTED;
        }
    };
    // Where it usually is, or else where there is room: that is no reason not to start.
    let usual = SocketAddr::from(([127, 0, 0, 1], 9901));
    let taken = std::net::TcpListener::bind(usual).is_err();
    let admin = if taken { SocketAddr::from(([127, 0, 0, 1], 0)) } else { usual };
    let text = configuration(options.listen, admin, &services);
    let compiled = match config::compile("demo.yaml", &text, &System) {
        Ok(compiled) => compiled,
        Err(errors) => {
            errors.iter().for_each(|e| eprintln!("{e}"));
            return REFUSED;
        }
    };
    // Bound here to know the port that `--listen 127.0.0.1:0` got, and to speak plainly when it is taken.
    let sockets =
        match Inherited::default().bind_with(&compiled.gateway.binds(), compiled.gateway.admin.as_ref()) {
            Ok(sockets) => sockets,
            Err(e) => {
                eprintln!("{}", e.0);
                eprintln!("Stop what uses it, or choose another: portcullis demo --listen 127.0.0.1:8081");
                return NOT_STARTED;
            }
        };
    if let Err(reason) = compiled.gateway.access_log.open(None) {
        eprintln!("{reason}");
        return NOT_STARTED;
    }
    let address = sockets.bound.first().and_then(Bound::address).unwrap_or(options.listen);
    let page = sockets.admin.as_ref().and_then(Bound::address).unwrap_or(admin);
    super::say(welcome(&configuration(address, page, &services), address, page));
    run::announce(&compiled, "the demo");
    run::serve(Start { log: log.sink(), ..Start::new(compiled, sockets, signals) })
}

fn configuration(listen: SocketAddr, admin: SocketAddr, services: &[Service; 2]) -> String {
    let mut text =
        format!("listeners:\n  - address: \"{listen}\"\nadmin:\n  address: \"{admin}\"\nupstreams:\n");
    for service in services {
        let [a, b] = service.addresses;
        text += &format!(
            "  {}:\n    targets: [\"{a}\", \"{b}\"]\n    health_check: {{path: /healthz, interval: 1s, unhealthy_after: 1}}\n",
            service.name
        );
    }
    text += "routes:\n";
    for service in services {
        text += &format!("  - path: /{0}\n    upstream: {0}\n", service.name);
    }
    text
}

fn welcome(text: &str, address: SocketAddr, page: SocketAddr) -> String {
    let indented: String = text.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "\nA gateway on http://{address} in front of two services with two instances each:\n\n{indented}\n\
Try it from another terminal:\n\n\
  curl http://{address}/service1/hello         # chosen by path: service1 answers\n\
  curl http://{address}/service2/hello         # and service2\n\
  for i in 1 2 3 4; do curl -s http://{address}/service1; done     # balanced over both instances\n\
  curl -i http://{address}/nowhere             # no route: 404 with a problem body\n\
  curl -X POST http://{address}/service1/stop  # one instance of service1 goes down for ten seconds ...\n\
  for i in 1 2 3 4; do curl -s http://{address}/service1; done     # ... and nobody notices\n\n\
Watch it in a browser: http://{page}/        # each request is also a line of JSON on standard error\n\n\
Ctrl-C ends it.\n\n"
    )
}
