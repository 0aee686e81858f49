//! The command line: arguments here, one file a command. Only this room prints on standard output.
//!
//! Exit codes: 0 success, 1 bad configuration or a refused operation, 2 wrong usage, 3 could not start.

mod check;
mod demo;
mod key;
mod log;
mod operate;
mod run;
mod status;

use crate::server::control;
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;

/// Success.
pub const OK: u8 = 0;
/// The configuration is bad, or an operation was refused.
pub const REFUSED: u8 = 1;
/// Wrong usage.
pub const USAGE: u8 = 2;
/// It could not start: an address in use, a file not readable.
pub const NOT_STARTED: u8 = 3;

/// An API gateway: one YAML file in front of your services.
#[derive(Parser)]
#[command(name = "portcullis", version, about, after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Try it:       portcullis demo
Check a file: portcullis check -c portcullis.yaml
Serve:        portcullis run -c portcullis.yaml

The least that a file needs:
  listeners:
    - address: 127.0.0.1:8080
  routes:
    - path: /service1
      upstream: http://127.0.0.1:5001

Logs go to standard error; RUST_LOG=warn shows less; at debug Pingora prints whole heads, secrets included.
Exit codes: 0 success, 1 bad configuration, 2 wrong usage, 3 could not start.";

const RUN: &str = "\
Example: portcullis run -c conf/minimal.yaml

SIGTERM or Ctrl-C: no new connections, requests in flight get `grace_period` (30s unless configured).
The same again: ends at once. Without requests in flight it ends at once anyway.
SIGHUP: reads FILE again and serves it if it has no error; the log says so, or names every error.
SIGUSR2: starts the binary anew, hands it the sockets, and leaves only when it serves.
--upgrade is for a supervisor that starts the new process itself: it asks the gateway that takes commands at FILE's
`control.socket` for its sockets, and does not start if it does not get them.
Exit codes: 0 stopped as told, 1 bad configuration, 3 could not start (an address in use, a file not readable).";

const OPERATE: &str = "\
Exit codes: 0 done, 1 refused (nothing has changed; every reason is on standard error), 2 wrong usage.";

const CHECK: &str = "\
Example: portcullis check -c conf/reference.yaml

Nothing is started and no upstream is asked; ${NAME} and ${file:PATH} are read as `run` would read them.
What is not wrong, but perhaps not meant, is a line on standard error that begins with warning:.
Exit codes: 0 good, 1 with every error on standard error, 3 the file cannot be read.";

const DEMO: &str = "\
It needs no file and nothing else running. It prints its configuration and six curl lines to try from another \
terminal, and serves until Ctrl-C.";

const KEY: &str = "\
Example: portcullis key new mobile-app
         printf '%s\\n' \"$PASSWORD\" | portcullis key hash

Nothing is written to any file, and no gateway is asked.";

#[derive(Subcommand)]
enum Command {
    /// Serve until told to stop (SIGTERM or Ctrl-C lets requests finish, a second one does not)
    #[command(after_help = RUN, override_usage = "portcullis run [-c FILE] [--upgrade]")]
    Run(Run),
    /// Validate a configuration: exit 0, or 1 with every error as FILE:LINE:COL: PATH: MESSAGE
    #[command(after_help = CHECK, override_usage = "portcullis check [-c FILE]")]
    Check(File),
    /// Have the running gateway read its configuration again: all of it or none
    #[command(after_help = OPERATE)]
    Reload(operate::Gateway),
    /// Have it replaced by a new process of the same binary file; the old one goes on if that does not serve
    #[command(after_help = OPERATE)]
    Upgrade(operate::Gateway),
    /// Do the one that is needed: upgrade for a new binary or a changed `threads` or `control`, else reload
    #[command(after_help = OPERATE)]
    ReloadOrUpgrade(operate::Gateway),
    /// Show how it is: routes, upstreams, refusals, history
    #[command(after_help = OPERATE)]
    Status(status::Options),
    /// Have it close its listeners and let go of its clients, and stay; returns when nothing is open
    #[command(after_help = OPERATE)]
    Drain(operate::Gateway),
    /// Have it listen again after a drain
    #[command(after_help = OPERATE)]
    Undrain(operate::Gateway),
    /// Make a key for a consumer, or the hash of a password
    #[command(after_help = KEY, arg_required_else_help = true)]
    Key(key::Options),
    /// Start embedded demo services behind a gateway on 127.0.0.1:8080
    #[command(after_help = DEMO)]
    Demo(demo::Options),
}

#[derive(Args)]
struct File {
    /// Configuration file [default: $PORTCULLIS_CONFIG, conf/portcullis.yaml, /etc/portcullis/portcullis.yaml]
    #[arg(short, long = "config", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Args)]
struct Run {
    #[command(flatten)]
    file: File,
    /// Take the sockets of the gateway that runs with this configuration, and replace it
    #[arg(long)]
    upgrade: bool,
}

/// Runs the command given on the command line; returns the exit code.
pub fn main() -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print(); // nobody is left to tell when the terminal is gone
            return if e.use_stderr() { USAGE } else { OK };
        }
    };
    match arguments.command {
        Command::Run(options) => run::run(options.file.config, options.upgrade),
        Command::Reload(gateway) => operate::ask(&gateway, control::Command::Reload),
        Command::Upgrade(gateway) => operate::ask(&gateway, control::Command::Upgrade),
        Command::ReloadOrUpgrade(gateway) => operate::ask(&gateway, control::Command::ReloadOrUpgrade),
        Command::Status(status) => status::status(&status),
        Command::Drain(gateway) => operate::ask(&gateway, control::Command::Drain),
        Command::Undrain(gateway) => operate::ask(&gateway, control::Command::Undrain),
        Command::Key(options) => key::key(options),
        Command::Check(file) => check::check(file.config),
        Command::Demo(options) => demo::demo(&options),
    }
}

/// Says something on standard output; that nobody reads it any more is no failure.
fn say(text: impl std::fmt::Display) {
    let _ = write!(std::io::stdout(), "{text}");
}
