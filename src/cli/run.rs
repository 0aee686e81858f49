//! `portcullis run`: hear signals, load, bind or take over, serve.

use super::operate::Gateway;
use super::{check, NOT_STARTED, OK};
use crate::config::{self, load::LoadError, Compiled};
use crate::server::control::{self, Command};
use crate::server::signals::Signals;
use crate::server::sockets::Inherited;
use crate::server::succeed::{self, Predecessor};
use crate::server::{self, Start, StartError, VERSION};
use log::info;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub(super) fn run(named: Option<PathBuf>, upgrade: bool) -> u8 {
    if let Some(started) = succeed::fork() {
        return started.map_or_else(|reason| not_started(&reason), |()| OK);
    }
    super::start_log();
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
            Some(stream) => take_over(compiled, path, signals, stream),
            None => begin(compiled, path, signals, inherited),
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
fn begin(compiled: Compiled, file: PathBuf, signals: Signals, inherited: Inherited) -> u8 {
    let by_manager = !inherited.is_empty();
    if let Some(socket) = control::place(compiled.settings.control.as_deref()) {
        if let Err(reason) = control::check(&socket) {
            return not_started(&reason);
        }
        // With the sockets of the service this process is the service, and who is there has to leave.
        if !by_manager && control::is_taken(&socket) {
            return not_started(&format!(
                "another gateway takes commands at {}: stop it, or `portcullis upgrade` it",
                socket.display()
            ));
        }
    }
    match inherited.bind_all(&compiled.settings.listeners) {
        Ok((bound, unclaimed)) => {
            announce(&compiled, &file.display().to_string());
            let start = Start::new(compiled, bound, signals);
            serve(Start { unclaimed, inherited: by_manager, file: Some(file), ..start })
        }
        Err(StartError(reason)) => not_started(&reason),
    }
}

/// Serves in place of another process, once it hands over.
fn take_over(compiled: Compiled, file: PathBuf, signals: Signals, stream: UnixStream) -> u8 {
    let bound = succeed::meet(stream).and_then(|(predecessor, inherited)| {
        bind(predecessor, inherited, &compiled).map_err(|StartError(reason)| reason)
    });
    match bound {
        Ok((predecessor, bound, unclaimed)) => {
            announce(&compiled, &file.display().to_string());
            let start = Start::new(compiled, bound, signals);
            serve(Start { unclaimed, file: Some(file), predecessor: Some(predecessor), ..start })
        }
        Err(reason) => not_started(&reason),
    }
}

type Taken = (Predecessor, Vec<server::sockets::Bound>, Vec<String>);

fn bind(predecessor: Predecessor, inherited: Inherited, compiled: &Compiled) -> Result<Taken, StartError> {
    let control = control::place(compiled.settings.control.as_deref());
    if let Some(Err(reason)) = control.map(|socket| control::check(&socket)) {
        predecessor.refuse(vec![reason.clone()]);
        return Err(StartError(reason));
    }
    match inherited.bind_all(&compiled.settings.listeners) {
        Ok((bound, unclaimed)) => Ok((predecessor, bound, unclaimed)),
        Err(StartError(reason)) => {
            predecessor.refuse(vec![reason.clone()]);
            Err(StartError(reason))
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
