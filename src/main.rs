//! The `portcullis` command: exit codes only.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(portcullis::cli::main())
}
