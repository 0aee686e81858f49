//! What a look-up costs, and that it does not grow with the number of routes.

use std::hint::black_box;

use criterion::{criterion_group, criterion_main, BenchmarkId, Criterion};
use http::HeaderMap;
use portcullis::base::request::Request;
use portcullis::router::{HostPattern, Match, Outcome, PathMatch, Router};

const SIZES: [usize; 3] = [10, 1_000, 10_000];

fn route(hosts: Vec<HostPattern>, prefix: String) -> Match {
    Match { hosts, path: PathMatch::Prefix(prefix), methods: vec![], headers: vec![], query: vec![] }
}

fn numbered(matches: impl Iterator<Item = Match>) -> Router<usize> {
    Router::build(matches.zip(0..).collect())
}

/// The numbers below `size` in an order the processor's caches and predictor do not foresee; the same on
/// every run.
fn shuffled(size: usize) -> impl Iterator<Item = usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as usize % size
    })
    .take(1 << 16)
}

/// Looks up one (host, path) after the other.
fn measure(c: &mut Criterion, id: BenchmarkId, router: &Router<usize>, asked: &[(String, String)]) {
    let headers = HeaderMap::new();
    let mut asked = asked.iter().cycle();
    c.bench_with_input(id, router, |b, router| {
        b.iter(|| {
            let (host, path) = asked.next().expect("a cycle over something does not end");
            let outcome = router.find(&Request { method: "GET", host, path, query: "", headers: &headers });
            black_box(matches!(outcome, Outcome::Found(_)))
        });
    });
}

fn prefixes(c: &mut Criterion) {
    for size in SIZES {
        let router = numbered((0..size).map(|i| route(vec![], format!("/api/service-{i}/v1"))));
        let ask = |i: usize, rest: &str| {
            let path = format!("/api/service-{i}/{rest}");
            ("api.example.com".to_owned(), path)
        };
        let hits: Vec<_> = shuffled(size).map(|i| ask(i, "v1/orders/42")).collect();
        measure(c, BenchmarkId::new("prefix/hit", size), &router, &hits);
        let misses: Vec<_> = shuffled(size).map(|i| ask(i, "v2/orders/42")).collect();
        measure(c, BenchmarkId::new("prefix/miss", size), &router, &misses);
    }
}

fn hosts(c: &mut Criterion) {
    for size in SIZES {
        // Every other one a wildcard.
        let pattern = |i: usize| match i % 2 {
            0 => HostPattern::Exact(format!("tenant-{i}.example.com")),
            _ => HostPattern::Wildcard(format!("tenant-{i}.example.com")),
        };
        let router = numbered((0..size).map(|i| route(vec![pattern(i)], "/".to_owned())));
        let ask = |i: usize, domain: &str| {
            let front = ["", "eu."][i % 2];
            let host = format!("{front}tenant-{i}.{domain}");
            (host, "/orders/42".to_owned())
        };
        let hits: Vec<_> = shuffled(size).map(|i| ask(i, "example.com")).collect();
        measure(c, BenchmarkId::new("host/hit", size), &router, &hits);
        let misses: Vec<_> = shuffled(size).map(|i| ask(i, "example.net")).collect();
        measure(c, BenchmarkId::new("host/miss", size), &router, &misses);
    }
}

criterion_group!(benches, prefixes, hosts);
criterion_main!(benches);
