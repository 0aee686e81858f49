//! `portcullis run`: hear signals, load, bind or take over, serve.

use super::log::Log;
use super::operate::Gateway;
use super::{check, NOT_STARTED, OK};
use crate::config::{self, load::LoadError, Compiled};
use crate::server::control::{self, Command};
use crate::server::signals::Signals;
use crate::server::sockets::{Inherited, Sockets};
use crate::server::succeed::{self, Predecessor};
use crate::server::{self, Start, StartError, VERSION};
use log::{info, warn};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub(super) fn run(named: Option<PathBuf>, upgrade: bool) -> u8 {
    if let Some(started) = succeed::fork() {
        return started.map_or_else(|reason| not_started(&reason), |()| OK);
    }
    let log = Log::start();
    let signals = match signals() {
        Ok(signals) => signals,
        Err(code) => return code,
    };
    let inherited = Inherited::from_environment();
    let predecessor = match predecessor(named.as_ref(), upgrade) {
        Ok(stream) => stream,
        Err(reason) => return not_started(&reason),
    };
    match config::find(named).and_then(|path| Ok((config::load(&path)?, path))) {
        Ok((compiled, path)) => match predecessor {
            Some(stream) => match succeed::meet(stream) {
                Ok((predecessor, theirs)) => take_over(compiled, path, signals, predecessor, theirs, &log),
                Err(reason) => not_started(&reason),
            },
            None => begin(compiled, path, signals, inherited, &log),
        },
        Err(e) => {
            if let Some(stream) = predecessor {
                succeed::refuse(&stream, reasons(&e));
            }
            check::report(&e)
        }
    }
}

/// The stream to the process that is to be replaced, if one is: the process that started this one, or with `--upgrade` by
/// hand the one that runs with this configuration.
fn predecessor(named: Option<&PathBuf>, upgrade: bool) -> Result<Option<UnixStream>, String> {
    let started = succeed::stream().map_err(|e| format!("no stream to the process before this one: {e}"))?;
    if started.is_some() || !upgrade {
        return Ok(started);
    }
    let socket = Gateway { socket: None, config: named.cloned() }.socket();
    control::connect(&socket, Command::HandOver).map(Some)
}

fn reasons(e: &LoadError) -> Vec<String> {
    match e {
        LoadError::Unreadable(message) => vec![message.clone()],
        LoadError::Invalid(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// Serves a configuration until told to stop.
fn begin(compiled: Compiled, file: PathBuf, signals: Signals, inherited: Inherited, log: &Log) -> u8 {
    if let Some(socket) = control::place(compiled.settings.control.as_deref()) {
        if let Err(reason) = control::check(&socket) {
            return not_started(&reason);
        }
        let taken = control::is_taken(&socket);
        if taken && inherited.is_empty() {
            return not_started(&format!(
                "another gateway takes commands at {}: stop it, or `portcullis upgrade` it",
                socket.display()
            ));
        }
        if taken {
            // A process of the service that the service manager knows no more: it has taken over again from one that
            // died, and stays to do so once more should this one be as bad.
            match control::connect(&socket, Command::HandOver).and_then(succeed::meet) {
                Ok((predecessor, theirs)) => {
                    return take_over(compiled, file, signals, predecessor, theirs.and(inherited), log);
                }
                Err(reason) => warn!("the process at {} does not hand over: {reason}", socket.display()),
            }
        }
    }
    match bind(&compiled, inherited) {
        Ok(sockets) => {
            announce(&compiled, &file.display().to_string());
            serve(Start { file: Some(file), log: log.sink(), ..Start::new(compiled, sockets, signals) })
        }
        Err(reason) => not_started(&reason),
    }
}

/// Binds what the configuration listens on, and opens what it writes to.
fn bind(compiled: &Compiled, inherited: Inherited) -> Result<Sockets, String> {
    compiled.gateway.access_log.open(None)?;
    let sockets = inherited.bind_with(&compiled.gateway.binds(), compiled.gateway.admin.as_ref());
    sockets.map_err(|StartError(reason)| reason)
}

/// Serves in place of another process, once it says go.
fn take_over(
    compiled: Compiled,
    file: PathBuf,
    signals: Signals,
    predecessor: Predecessor,
    inherited: Inherited,
    log: &Log,
) -> u8 {
    let control = control::place(compiled.settings.control.as_deref());
    let usable = control.map_or(Ok(()), |socket| control::check(&socket));
    let bound = usable.and_then(|()| bind(&compiled, inherited));
    match bound {
        Ok(sockets) => {
            announce(&compiled, &file.display().to_string());
            let start = Start::new(compiled, sockets, signals);
            serve(Start { file: Some(file), predecessor: Some(predecessor), log: log.sink(), ..start })
        }
        Err(reason) => {
            predecessor.refuse(vec![reason.clone()]);
            not_started(&reason)
        }
    }
}

/// The first line of the log.
pub(super) fn announce(compiled: &Compiled, from: &str) {
    info!("portcullis {VERSION}, routes: {}, from {from}", compiled.routes);
}

pub(super) fn serve(start: Start) -> u8 {
    if server::run(start) {
        OK
    } else {
        NOT_STARTED
    }
}

/// Whatever RUST_LOG is.
fn not_started(reason: &str) -> u8 {
    eprintln!("{reason}");
    NOT_STARTED
}

/// Hears signals before anything else, so that an early one neither kills nor is lost.
pub(super) fn signals() -> Result<Signals, u8> {
    Signals::hear().map_err(|e| not_started(&format!("cannot hear signals: {e}")))
}
