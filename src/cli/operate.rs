//! `portcullis reload`, `upgrade`, `status`, `drain`, `undrain`: commands to a running gateway over its control socket.

use super::{OK, REFUSED};
use crate::config;
use crate::server::control::{self, Answer, Command};
use clap::Args;
use std::path::PathBuf;

/// Which gateway.
#[derive(Args)]
pub(super) struct Gateway {
    /// Its control socket [default: that of the configuration, $RUNTIME_DIRECTORY/control.sock, /run/portcullis/control.sock]
    #[arg(short, long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Its configuration file, to look for `control.socket` [default: as for run]
    #[arg(short, long = "config", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

impl Gateway {
    /// Where it takes commands. A configuration with errors is read as far as that goes: the gateway is to tell them.
    pub(super) fn socket(&self) -> PathBuf {
        let configured =
            || config::find(self.config.clone()).ok().and_then(|path| config::control_socket(&path));
        let place = || control::place(configured().as_deref()).unwrap_or_else(|| control::USUAL.into());
        self.socket.clone().unwrap_or_else(place)
    }
}

/// Asks, prints how it goes on and what came of it; returns the exit code.
pub(super) fn ask(gateway: &Gateway, command: Command) -> u8 {
    match control::ask(&gateway.socket(), command, |text| super::say(format_args!("{text}\n"))) {
        Ok(Answer::Done(text) | Answer::Say(text)) => super::say(format_args!("{text}\n")),
        Ok(Answer::Status(_)) => {} // `status` asks for it by itself
        Ok(Answer::Failed(reasons)) => {
            reasons.iter().for_each(|reason| eprintln!("{reason}"));
            return REFUSED;
        }
        Err(reason) => {
            eprintln!("{reason}");
            return REFUSED;
        }
    }
    OK
}
