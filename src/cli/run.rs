//! `portcullis run`: load, bind, serve.

use super::{check, NOT_STARTED, OK};
use crate::config;
use crate::server::{self, listen};
use log::info;
use std::path::PathBuf;

pub(super) fn run(named: Option<PathBuf>) -> u8 {
    super::start_log();
    let loaded = config::find(named).and_then(|path| Ok((config::load(&path)?, path)));
    match loaded {
        Ok((compiled, path)) => serve(compiled, &path.display().to_string()),
        Err(e) => check::report(&e),
    }
}

/// Serves a configuration until told to stop.
fn serve(compiled: config::Compiled, from: &str) -> u8 {
    match listen::bind_all(&compiled.settings.listeners) {
        Ok(bound) => serve_bound(compiled, bound, from),
        Err(e) => {
            eprintln!("{}", e.0); // whatever RUST_LOG is
            NOT_STARTED
        }
    }
}

/// The same on sockets that listen already.
pub(super) fn serve_bound(compiled: config::Compiled, bound: Vec<listen::Bound>, from: &str) -> u8 {
    info!("portcullis {}, routes: {}, from {from}", env!("CARGO_PKG_VERSION"), compiled.routes);
    server::run(compiled.gateway, &compiled.settings, bound);
    OK
}
