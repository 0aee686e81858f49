//! `portcullis key`: credentials for consumers, made here so that the file needs their hashes alone.

use super::{say, OK, REFUSED, USAGE};
use crate::auth::api_key::new_key;
use crate::auth::consumer::is_name;
use crate::auth::password;
use crate::config::expiry;
use clap::{Args, Subcommand};
use std::io::{BufRead, BufReader, Read};
use zeroize::Zeroizing;

/// The longest password that is hashed.
const MOST: u64 = 1024;

#[derive(Args)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make an API key: it is shown this once; the file gets its hash
    New {
        /// Whose it is to be, as under `consumers` in the file
        consumer: String,
        /// Until when it is good: a day (its beginning in UTC) or a moment (RFC 3339)
        #[arg(long, value_name = "DATE")]
        expires: Option<String>,
    },
    /// Hash a password for the file (argon2id): it is read from standard input, its first line
    Hash,
}

pub(super) fn key(options: Options) -> u8 {
    match options.command {
        Command::New { consumer, expires } => new(&consumer, expires.as_deref()),
        Command::Hash => hash(),
    }
}

fn new(consumer: &str, expires: Option<&str>) -> u8 {
    let checked = is_name(consumer).and_then(|_| expires.map(expiry).transpose());
    if let Err(e) = checked {
        eprintln!("{e}");
        return USAGE;
    }
    match new_key() {
        Ok(made) => {
            let hash = &made.hash;
            let entry = match expires {
                Some(end) => format!("{{hash: \"{hash}\", expires: {end}}}"),
                None => format!("\"{hash}\""),
            };
            say(format_args!(
                "# The key of {consumer}. It is shown this once, and cannot be found again from its hash:\n\
                 {}\n\
                 # For the file:\n\
                 consumers:\n  {consumer}:\n    api_keys:\n      - {entry}\n",
                *made.key
            ));
            OK
        }
        Err(e) => {
            eprintln!("{e}");
            REFUSED
        }
    }
}

fn hash() -> u8 {
    let mut password = Zeroizing::new(Vec::new());
    let read = BufReader::new(std::io::stdin().take(MOST + 2)).read_until(b'\n', &mut password);
    let line = password.strip_suffix(b"\n").unwrap_or(&password);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if read.is_err() || line.is_empty() || line.len() as u64 > MOST {
        eprintln!("expected a password of 1 to {MOST} bytes as the first line of standard input");
        return USAGE;
    }
    match password::hash(line) {
        Ok(hash) => {
            say(format_args!("{hash}\n"));
            OK
        }
        Err(e) => {
            eprintln!("{e}");
            REFUSED
        }
    }
}
