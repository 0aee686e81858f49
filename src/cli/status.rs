//! `portcullis status`: how the gateway is, as text, as JSON, or live on the terminal.

mod rates;
mod show;
mod text;
mod watch;

use super::operate::Gateway;
use super::{OK, REFUSED};
use crate::server::control::{self, Answer, Command};
use clap::Args;

/// Which gateway, and how it is shown.
#[derive(Args)]
pub(super) struct Options {
    #[command(flatten)]
    gateway: Gateway,
    /// Keep it on the terminal, live; q ends it
    #[arg(short, long)]
    watch: bool,
    /// As JSON, for programs
    #[arg(short, long, conflicts_with = "watch")]
    json: bool,
}

/// Shows how it is; returns the exit code.
pub(super) fn status(options: &Options) -> u8 {
    let socket = options.gateway.socket();
    let fetch = || match control::ask(&socket, Command::Status, |_| {}) {
        Ok(Answer::Status(status)) => Ok(*status),
        Ok(Answer::Failed(reasons)) => Err(reasons.join("; ")),
        Ok(other) => Err(format!("the gateway answered {other:?}")),
        Err(reason) => Err(reason),
    };
    let shown = if options.watch {
        watch::watch(fetch).map_err(|e| e.to_string())
    } else {
        fetch().map(|now| match serde_json::to_string_pretty(&now) {
            Ok(json) if options.json => super::say(format_args!("{json}\n")),
            _ => super::say(show::show(&now)),
        })
    };
    match shown {
        Ok(()) => OK,
        Err(reason) => {
            eprintln!("{reason}");
            REFUSED
        }
    }
}
