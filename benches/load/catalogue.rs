//! The measurements: what each is, how it is made, and which figures come out of it.

use crate::tools::Paths;
use serde::Serialize;

#[derive(Serialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    Less,
    More,
    /// It explains other figures.
    Neither,
}

/// One number of a measurement.
#[derive(Serialize)]
pub struct Figure {
    pub key: &'static str,
    pub title: &'static str,
    pub unit: &'static str,
    pub better: Better,
    #[serde(skip)]
    pub decimals: usize,
    /// Whether it is drawn, and counts in the comparison at the top of the page.
    pub drawn: bool,
}

pub enum Work {
    /// wrk: as fast as `connections` can ask, with these fields beside Host.
    Closed { paths: Paths, body: usize, connections: usize, fields: &'static [&'static str] },
    /// oha: at a fixed rate.
    Open { path: &'static str, connections: usize },
    /// Idle connections, so many at a time.
    Idle { steps: &'static [usize] },
    /// A closed loop for each number of routes.
    Routes { counts: &'static [usize], connections: usize },
    /// A closed loop in plaintext and over TLS.
    Encrypted { path: &'static str, connections: usize },
    /// h2load: HTTP/2 over TLS, so many streams on each connection.
    Streams { path: &'static str, connections: usize, streams: usize },
    /// Our own clients: a connection for each request, with each kind of handshake and without.
    Dialled { clients: usize },
}

impl Work {
    pub fn encrypts(&self) -> bool {
        matches!(self, Work::Encrypted { .. } | Work::Streams { .. } | Work::Dialled { .. })
    }
}

/// The case that others are compared with where there is one without TLS.
pub const PLAINTEXT: &str = "plain";

pub struct Measurement {
    pub name: &'static str,
    /// Other names that `--only` takes: of figures that come out of the same runs.
    pub aliases: &'static [&'static str],
    pub title: &'static str,
    pub how: &'static str,
    pub figures: &'static [Figure],
    pub work: Work,
    /// Whether the origin is measured without a proxy as well.
    pub direct: bool,
    /// Whether a proxy without routes can take part.
    pub bare: bool,
}

impl Measurement {
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    pub fn figure(&self, key: &str) -> Option<&'static Figure> {
        self.figures.iter().find(|f| f.key == key)
    }
}

const fn less(key: &'static str, title: &'static str, unit: &'static str, decimals: usize) -> Figure {
    Figure { key, title, unit, better: Better::Less, decimals, drawn: true }
}

const fn more(key: &'static str, title: &'static str, unit: &'static str, decimals: usize) -> Figure {
    Figure { key, title, unit, better: Better::More, decimals, drawn: true }
}

/// Not drawn.
const fn plain(figure: Figure) -> Figure {
    Figure { drawn: false, ..figure }
}

const fn fact(key: &'static str, title: &'static str, unit: &'static str, decimals: usize) -> Figure {
    Figure { key, title, unit, better: Better::Neither, decimals, drawn: false }
}

const CPU: Figure = less("cpu", "CPU time a request", "µs", 1);
const USER: Figure = fact("user", "in user space", "µs", 1);
const SYSTEM: Figure = fact("system", "in the kernel", "µs", 1);
const USER_CONNECTION: Figure = fact("user", "in user space", "µs", 0);
const SYSTEM_CONNECTION: Figure = fact("system", "in the kernel", "µs", 0);
const RPS: Figure = more("rps", "requests a second", "", 0);
const OPENED: Figure = plain(less("opened", "upstream connections opened a 10,000 requests", "", 1));
const BUSY: Figure = fact("busy", "proxy's processor busy", "%", 0);
const LOAD: Figure = fact("load", "load side busy", "%", 0);
const OTHERS: Figure = fact("others", "taken by other programs", "%", 0);
const ORIGIN: Figure = fact("origin", "origin's CPU a request", "µs", 1);
const GB_CPU: Figure = less("gb_cpu", "CPU time a gigabyte", "s", 3);
const GB_RATE: Figure = plain(more("gb_rate", "gigabytes a second", "GB/s", 2));

/// Bodies of one size over 64 connections.
const fn bodies(
    name: &'static str,
    title: &'static str,
    how: &'static str,
    path: &'static str,
    body: usize,
) -> Measurement {
    Measurement {
        name,
        aliases: &[],
        title,
        how,
        figures: &[GB_CPU, GB_RATE, RPS_PLAIN, OPENED, BUSY, LOAD, OTHERS],
        work: Work::Closed { paths: Paths::One(path), body, connections: 64, fields: &[] },
        direct: false,
        bare: true,
    }
}

const RPS_PLAIN: Figure = plain(RPS);

/// What a browser sends with a GET.
const BROWSER: &[&str] = &[
    "Cache-Control: max-age=0",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Sec-Fetch-Site: none",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-User: ?1",
    "Sec-Fetch-Dest: document",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9",
    "Cookie: session=0123456789abcdef",
];

pub const MEASUREMENTS: [Measurement; 12] = [
    Measurement {
        name: "cpu",
        aliases: &["rps", "upstream"],
        title: "Small answers",
        how: "wrk asks for 1 KiB over 64 kept connections as fast as it can. CPU time is that of all threads and \
              processes of the proxy (/proc/PID/stat), divided by the answers.",
        figures: &[CPU, USER, SYSTEM, RPS, OPENED, BUSY, LOAD, ORIGIN, OTHERS],
        work: Work::Closed { paths: Paths::One("/service1/orders"), body: 1024, connections: 64, fields: &[] },
        direct: true,
        bare: true,
    },
    Measurement {
        name: "browser",
        aliases: &[],
        title: "Small answers to a browser",
        how: "As for small answers, each request with eleven more fields, as a browser sends them.",
        figures: &[CPU, USER, SYSTEM, plain(RPS), BUSY, LOAD, OTHERS],
        work: Work::Closed {
            paths: Paths::One("/service1/orders"),
            body: 1024,
            connections: 64,
            fields: BROWSER,
        },
        direct: false,
        bare: true,
    },
    Measurement {
        name: "latency",
        aliases: &[],
        title: "Latency below saturation",
        how: "oha sends at a fixed rate over 64 connections, whether or not answers come (open loop). Time counts \
              from when a request was due. `added` is the proxy's percentile less the origin's own of the same round.",
        figures: &[
            plain(less("p50", "p50", "ms", 3)),
            plain(less("p99", "p99", "ms", 3)),
            plain(less("p999", "p99.9", "ms", 3)),
            less("p50_added", "p50 added", "ms", 3),
            less("p99_added", "p99 added", "ms", 3),
            less("p999_added", "p99.9 added", "ms", 3),
            plain(CPU),
            fact("rate", "answers a second", "", 0),
            BUSY,
            LOAD,
            OTHERS,
        ],
        work: Work::Open { path: "/service1/orders", connections: 64 },
        direct: true,
        bare: true,
    },
    Measurement {
        name: "close",
        aliases: &[],
        title: "A connection for each request",
        how: "wrk over 64 connections, each closed after its one answer of 1 KiB (Connection: close). Connections to \
              the origin are kept.",
        figures: &[CPU, USER, SYSTEM, RPS, OPENED, BUSY, LOAD, OTHERS],
        work: Work::Closed { paths: Paths::One("/service1/orders"), body: 1024, connections: 64, fields: &["Connection: close"] },
        direct: false,
        bare: true,
    },
    Measurement {
        name: "handshake",
        aliases: &[],
        title: "New TLS connections",
        how: "32 clients of our own open a connection, shake hands (TLS 1.3, X25519, AES-256-GCM), ask for /, which the \
              proxy answers itself (Connection: close), and read to the end. Plain: the same without TLS. P-256 and \
              RSA-2048: full handshakes with a certificate of that key. Resumed: by ticket, with a new key exchange. \
              Clients count what each handshake was; one of another kind makes the run invalid, but for the one \
              that each client starts a resumed run with. They verify no certificate.",
        figures: &[
            plain(less("cpu", "CPU time a connection", "µs", 0)),
            less("added", "CPU time for TLS", "µs", 0),
            USER_CONNECTION,
            SYSTEM_CONNECTION,
            plain(more("rps", "connections a second", "", 0)),
            fact("full", "full handshakes", "", 0),
            fact("resumed", "resumed handshakes", "", 0),
            BUSY,
            LOAD,
            OTHERS,
        ],
        work: Work::Dialled { clients: 32 },
        direct: false,
        bare: false,
    },
    Measurement {
        name: "tls",
        aliases: &[],
        title: "Small answers over TLS",
        how: "As for small answers, in plaintext and over TLS 1.3 (AES-256-GCM) by turns. wrk verifies no certificate.",
        figures: &[
            CPU,
            less("added", "CPU time for TLS", "µs", 1),
            USER,
            SYSTEM,
            RPS_PLAIN,
            OPENED,
            BUSY,
            LOAD,
            OTHERS,
        ],
        work: Work::Encrypted { path: "/service1/orders", connections: 64 },
        direct: false,
        bare: true,
    },
    Measurement {
        name: "h2",
        aliases: &[],
        title: "Small answers over HTTP/2",
        how: "h2load asks for 1 KiB over TLS 1.3 (AES-256-GCM), on 8 streams of each of 16 kept connections as fast as \
              it can. To the origin it is HTTP/1.1.",
        figures: &[CPU, USER, SYSTEM, RPS, OPENED, BUSY, LOAD, OTHERS],
        work: Work::Streams { path: "/service1/orders", connections: 16, streams: 8 },
        direct: false,
        bare: true,
    },
    bodies(
        "100KiB",
        "Answers of 100 KiB",
        "wrk over 64 kept connections. GB is a thousand million bytes of bodies.",
        "/service1/bytes/102400",
        102_400,
    ),
    bodies(
        "1MiB",
        "Answers of 1 MiB",
        "wrk over 64 kept connections. GB is a thousand million bytes of bodies.",
        "/service1/bytes/1048576",
        1 << 20,
    ),
    Measurement {
        name: "memory",
        aliases: &[],
        title: "Memory",
        how: "Resident memory of a fresh process, then 3 s after the last of 1,000 and of 5,000 kept connections had \
              its one answer and fell idle. What NGINX's worker shares with its master counts once. All are \
              configured to hold 5,000 clients. At most 3 rounds: these figures hardly vary.",
        figures: &[
            less("idle", "idle", "MiB", 1),
            plain(less("with_1000", "with 1,000 idle connections", "MiB", 1)),
            plain(less("with_5000", "with 5,000 idle connections", "MiB", 1)),
            less("each", "for each idle connection", "bytes", 0),
        ],
        work: Work::Idle { steps: &[1_000, 5_000] },
        direct: false,
        bare: true,
    },
    Measurement {
        name: "routes",
        aliases: &[],
        title: "Many routes",
        how: "As for small answers, with 10, 1,000 and 10,000 routes by path prefix. All of them are asked for, in \
              the same random order for all. NGINX: prefix locations; HAProxy: a map file (map_beg).",
        figures: &[CPU, less("ratio", "times that of 10 routes", "×", 3), RPS_PLAIN, BUSY, LOAD, OTHERS],
        work: Work::Routes { counts: &[10, 1_000, 10_000], connections: 64 },
        direct: false,
        bare: false,
    },
    Measurement {
        name: "5000",
        aliases: &[],
        title: "5,000 busy connections",
        how: "wrk asks for 1 KiB over 5,000 kept connections as fast as it can. Peak memory is the kernel's own \
              high-water mark (VmHWM) up to the end of the round.",
        figures: &[RPS, plain(CPU), less("peak", "peak memory", "MiB", 0), OPENED, BUSY, LOAD, OTHERS],
        work: Work::Closed { paths: Paths::One("/service1/orders"), body: 1024, connections: 5_000, fields: &[] },
        direct: false,
        bare: true,
    },
];
