//! `portcullis run`: hear signals, load, bind, serve.

use super::{check, NOT_STARTED, OK};
use crate::config;
use crate::server::signals::Signals;
use crate::server::{self, listen};
use log::info;
use std::path::PathBuf;

pub(super) fn run(named: Option<PathBuf>) -> u8 {
    super::start_log();
    let signals = match signals() {
        Ok(signals) => signals,
        Err(code) => return code,
    };
    let loaded = config::find(named).and_then(|path| Ok((config::load(&path)?, path)));
    match loaded {
        Ok((compiled, path)) => serve(compiled, path, signals),
        Err(e) => check::report(&e),
    }
}

/// Serves a configuration until told to stop.
fn serve(compiled: config::Compiled, file: PathBuf, signals: Signals) -> u8 {
    match listen::bind_all(&compiled.settings.listeners) {
        Ok(bound) => serve_bound(compiled, bound, Some(file), signals),
        Err(e) => {
            eprintln!("{}", e.0); // whatever RUST_LOG is
            NOT_STARTED
        }
    }
}

/// The same on sockets that listen already; without a file it is the demo.
pub(super) fn serve_bound(
    compiled: config::Compiled,
    bound: Vec<listen::Bound>,
    file: Option<PathBuf>,
    signals: Signals,
) -> u8 {
    let from = file.as_ref().map_or("the demo".into(), |file| file.display().to_string());
    info!("portcullis {}, routes: {}, from {from}", env!("CARGO_PKG_VERSION"), compiled.routes);
    server::run(compiled.gateway, compiled.settings, bound, file, signals);
    OK
}

/// Hears signals before anything else, so that an early one neither kills nor is lost.
pub(super) fn signals() -> Result<Signals, u8> {
    Signals::hear().map_err(|e| {
        eprintln!("cannot hear signals: {e}");
        NOT_STARTED
    })
}
