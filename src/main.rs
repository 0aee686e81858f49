//! The `portcullis` command: exit codes only.

use std::process::ExitCode;

// A request makes and frees about ninety small blocks; benches/README.md has what each allocator costs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ExitCode::from(portcullis::cli::main())
}
