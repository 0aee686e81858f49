//! From a file to a [`Gateway`]: read (`load`, all the I/O), typed (`raw`, `read`),
//! compared (`check`), built (`compile`, pure).
//!
//! Every error of a file is reported at once, with its place; a file with an error changes nothing. Keys that
//! Portcullis does not build yet do not exist: they are refused, never ignored.

mod check;
mod compile;
pub mod decode;
pub mod load;
pub mod raw;
mod read;
pub mod yaml;

pub use compile::Compiled;
pub use load::{control_socket, find, load, load_over};
pub use read::auth::expiry;

use crate::error::ConfigError;
use crate::gateway::Gateway;
use decode::{Context, Item, Place, Secrets};

/// The most attempts a route may ask for.
pub const MAX_ATTEMPTS: usize = 10;

/// Reads, checks and compiles a configuration text. `file` is how the user named it.
///
/// # Errors
/// All that is wrong, in file order.
pub fn compile(file: &str, text: &str, secrets: &dyn Secrets) -> Result<Compiled, Vec<ConfigError>> {
    compile_over(file, text, secrets, None)
}

/// The same for a process that runs already: what stays as it is keeps its state.
fn compile_over(
    file: &str,
    text: &str,
    secrets: &dyn Secrets,
    before: Option<&Gateway>,
) -> Result<Compiled, Vec<ConfigError>> {
    let cx = Context::new(file, secrets);
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err((pos, message)) => {
            cx.fail(&Place { pos, ..Place::default() }, message);
            return Err(cx.into_errors());
        }
    };
    let raw = read::file(&Item::root(root, &cx));
    check::check(&raw, &cx);
    // Compiling is total, also over what was found wrong; but nothing of it leaves this function then.
    let compiled = compile::compile(raw, before);
    if cx.is_clean() {
        Ok(Compiled { warnings: cx.warnings(), ..compiled })
    } else {
        Err(cx.into_errors())
    }
}

/// `control.socket` of a text, whatever else is wrong with it.
fn socket_of(text: &str, secrets: &dyn Secrets) -> Option<std::path::PathBuf> {
    let cx = Context::new("", secrets);
    read::file(&Item::root(yaml::parse(text).ok()?, &cx)).control
}
