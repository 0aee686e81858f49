//! Portcullis: an API gateway on Pingora. One YAML file in front of your services.
//!
//! The rooms, in reading order:
//!
//! 1. [`base`]: pure values; [`wire`]: bytes on a connection to checked heads and delimited bodies; [`error`].
//!    [`tls`]: certificates, and who must show one. [`limit`]: how often, counted here or with other gateways.
//! 2. [`observe`]: what is known of requests afterwards. [`router`]: which route; [`auth`]: who asks; [`policy`]: what it does besides; [`upstream`]: who can serve it.
//! 3. [`gateway`]: these compiled into one immutable snapshot; [`config`]: from a YAML file to that snapshot.
//! 4. [`proxy`]: a request's way through the snapshot, on Pingora's engine.
//! 5. [`admin`]: what an operator sees of it. [`server`]: the process, how it is changed while it serves, and how it leaves; [`cli`]: its commands.
//!
//! Arrows between rooms point one way; `tests/layering.rs` holds them to it.

#![warn(missing_docs, unreachable_pub)]
// An `expect` states the invariant that it relies on; tests may unwrap (clippy.toml).
#![warn(clippy::unwrap_used)]
// Only `cli` speaks on standard output; everything else logs.
#![warn(clippy::print_stdout)]

pub mod admin;
pub mod auth;
pub mod base;
pub mod cli;
pub mod config;
pub mod error;
pub mod gateway;
pub mod limit;
pub mod observe;
pub mod policy;
pub mod proxy;
pub mod router;
pub mod server;
pub mod tls;
pub mod upstream;
pub mod wire;
