//! Pure values that every room may use: units, the path normaliser, the view of a request, the client's address.
//!
//! Nothing here does I/O, reads a clock or knows the engine.

pub mod client;
pub mod decimal;
pub mod path;
pub mod request;
pub mod units;
