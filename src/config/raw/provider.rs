//! `providers`.

use super::super::decode::At;
use crate::auth::jwt::Settings;

/// One of `providers`.
#[derive(Debug)]
pub struct RawProvider {
    /// Its name.
    pub name: At<String>,
    /// `jwt`; none: something is wrong with it.
    pub settings: Option<Settings>,
}
