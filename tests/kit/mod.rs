//! The shared kit: the real binary on ports that the kernel picks, origins that record and misbehave, clients.
//!
//! No test sleeps for luck: `until` waits for a condition with a deadline. Everything started here is ended by its
//! own id when it is dropped.

#![allow(dead_code, unused_imports, unreachable_pub)] // each test file uses its part of the kit

pub mod acme;
pub mod bulk;
pub mod certs;
pub mod dns;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod http2;
pub mod http2_origin;
pub mod jwt;
pub mod origin;
pub mod raw;
pub mod redis;
pub mod relay;
pub mod secure;
pub mod tls;
pub mod traffic;

pub use acme::Acme;
pub use bulk::Bulk;
pub use dns::Dns;
pub use frames::Frames;
pub use gateway::Gateway;
pub use http2::Http2;
pub use http2_origin::Http2Origin;
pub use origin::{Origin, Received, Step};
pub use raw::{Raw, Response};
pub use redis::Redis;
pub use secure::Secure;

use std::time::{Duration, Instant};

/// The longest that any condition is waited for.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds; fails the test with `what` at the deadline.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `find` finds something; fails the test with `what` at the deadline.
pub fn wait_for<T>(what: &str, mut find: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, || {
        found = find();
        found.is_some()
    });
    found.unwrap()
}

/// All values of a field in a head, in order.
fn values<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.lines().skip(1).filter_map(|l| l.split_once(':'));
    fields.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim()).collect()
}

/// The only value of a field in a head; more than one fails the test.
fn only_value<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let all = values(head, name);
    assert!(all.len() < 2, "{name} stands {} times in\n{head}", all.len());
    all.first().copied()
}
