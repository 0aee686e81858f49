//! Pure values that every room may use: units, the path normaliser, the view of a request, the client's address.
//!
//! Nothing here waits, reads a clock or knows the engine; [`identity`] alone looks at the file system.

pub mod addresses;
pub mod client;
pub mod decimal;
pub mod grpc;
pub mod grpc_web;
pub mod identity;
pub mod path;
pub mod priority;
pub mod query;
pub mod request;
pub mod trouble;
pub mod units;
