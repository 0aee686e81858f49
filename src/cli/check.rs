//! `portcullis check`: is this file good?

use super::{NOT_STARTED, OK, REFUSED};
use crate::config::{self, load::LoadError};
use std::path::PathBuf;

pub(super) fn check(named: Option<PathBuf>) -> u8 {
    let loaded = config::find(named).and_then(|path| Ok((config::load(&path)?, path)));
    match loaded {
        Ok((compiled, path)) => {
            for warning in &compiled.warnings {
                eprintln!("warning: {warning}");
            }
            let routes =
                if compiled.routes == 1 { "1 route" } else { &format!("{} routes", compiled.routes) };
            super::say(format_args!("{}: good, {routes}\n", path.display()));
            OK
        }
        Err(e) => report(&e),
    }
}

/// Prints why there is no configuration; returns the exit code.
pub(super) fn report(e: &LoadError) -> u8 {
    match e {
        LoadError::Unreadable(message) => {
            eprintln!("{message}");
            NOT_STARTED
        }
        LoadError::Invalid(errors) => {
            for error in errors {
                eprintln!("{error}");
            }
            REFUSED
        }
    }
}
