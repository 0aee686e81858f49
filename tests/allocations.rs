//! How often memory is asked for: none of a request's own steps does, and a whole request through the gateway does no more
//! often than is written down in benches/README.md. `--nocapture` shows the figures.
//!
//! One test, because the counter counts the whole process: the gateway runs in it, and its client and its origin, which
//! allocate nothing once they are connected.

use bytes::BytesMut;
use futures_util::FutureExt;
use portcullis::base::path::normalise;
use portcullis::base::request::Request;
use portcullis::config::{self, load::System};
use portcullis::gateway::Action;
use portcullis::limit::gcra::Quota;
use portcullis::limit::table::{Ask, Table};
use portcullis::observe::access_log::{AccessLog, Format, Spec};
use portcullis::observe::exchange::Exchange;
use portcullis::policy::{Arrival, Pass};
use portcullis::router::Outcome;
use portcullis::server::signals::Signals;
use portcullis::server::sockets::Inherited;
use portcullis::server::Start;
use portcullis::upstream::discover::Resolver;
use portcullis::wire::head::{check, tidy, HeadLimits, HeadState};
use std::borrow::Cow;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, SystemTime};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

const REQUEST: &[u8] = b"GET /service/orders HTTP/1.1\r\nHost: t\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi";
const REQUESTS: u64 = 2_000;
/// For a whole request. What they are for is in benches/README.md; a new one must be worth its line there.
const MOST: f64 = 84.0;

fn allocations() -> u64 {
    dhat::HeapStats::get().total_blocks
}

/// How often `step` allocates at its second run: the first may set something up for ever.
fn cost_of<T>(mut step: impl FnMut() -> T) -> u64 {
    drop(step());
    let before = allocations();
    let result = step();
    let after = allocations();
    drop(result);
    after - before
}

#[test]
fn a_request_allocates_as_often_as_is_written_down() {
    let _profiler = dhat::Profiler::builder().testing().build();
    let origin = origin();
    let file = tempfile::NamedTempFile::new().unwrap();
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\naccess_log: {{path: /dev/null}}\nthreads: 1\nupstreams: {{app: {{targets: [\"{origin}\"]}}}}\n\
         routes: [{{path: /service, upstream: app, max_body: 1MiB}}]\n"
    );
    std::fs::write(file.path(), yaml).unwrap();
    steps(file.path());

    let compiled = config::load(file.path()).unwrap_or_else(|e| panic!("{e:?}"));
    compiled.gateway.access_log.open(None).unwrap();
    let sockets = Inherited::default().bind_all(&compiled.gateway.binds()).unwrap();
    let (gateway, signals) = (sockets.bound[0].address().unwrap(), Signals::hear().unwrap());
    std::thread::spawn(|| {
        portcullis::server::run(Start::new(compiled, sockets, signals));
    });
    let mut client = TcpStream::connect(gateway).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    (0..100).for_each(|_| ask(&mut client));
    let before = allocations();
    (0..REQUESTS).for_each(|_| ask(&mut client));
    let each = (allocations() - before) as f64 / REQUESTS as f64;
    println!("a request: {each:.1}");
    assert!(each > 20.0, "{each} a request: does it still count?");
    assert!(each <= MOST, "{each} allocations a request");
}

/// The steps that no engine has a part in.
fn steps(file: &std::path::Path) {
    let limits = HeadLimits { target: 8 << 10, size: 32 << 10, fields: 100 };
    let head = || check(REQUEST, 0, &limits);
    assert_eq!(cost_of(head), 0, "the head");
    let HeadState::Complete(checked) = head() else { panic!("a sound head") };
    let mut bytes = Some(BytesMut::from(REQUEST));
    assert_eq!(cost_of(|| bytes = Some(tidy(bytes.take().unwrap(), &checked))), 0, "tidying it");
    assert!(matches!(normalise(b"/service/orders"), Ok(Cow::Borrowed(_))));
    assert_eq!(cost_of(|| normalise(b"/service/orders").is_ok()), 0, "the path");

    let gateway = config::load(file).unwrap_or_else(|e| panic!("{e:?}")).gateway;
    let mut line = Vec::with_capacity(4096);
    let exchange = Exchange {
        client: Some([192, 0, 2, 7].into()), // as behind another proxy, where it is not there as text
        method: "GET",
        path: b"/service/orders",
        query: b"page=2&token=secret",
        version: "HTTP/1.1",
        user_agent: b"curl/8",
        ..Exchange::default()
    };
    for format in [Format::Json, Format::Common, Format::Combined] {
        let log = AccessLog::new(Spec { format, ..Spec::default() });
        assert_eq!(
            cost_of(|| log.put(&exchange, SystemTime::now(), &mut line)),
            0,
            "a line of the log, {format:?}"
        );
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(gateway.upstreams[0].prepare(&Resolver::new(None)));
    let headers = http::HeaderMap::new();
    let request = Request { method: "GET", host: "t", path: "/service/orders", query: "", headers: &headers };
    assert_eq!(cost_of(|| matches!(gateway.router.find(&request), Outcome::Found(_))), 0, "the route");
    let Outcome::Found(id) = gateway.router.find(&request) else { panic!("a route") };
    let route = gateway.route(id);
    let arrival = Arrival { request, client: None, facts: None, length: Some(17) };
    let admit = || route.rules.chain.admit(&arrival, &mut Pass::default()).now_or_never();
    assert_eq!(admit(), Some(Ok(None)), "at once");
    assert_eq!(cost_of(admit), 0, "the policies");
    let (table, quota) = (Table::new(1_000), Quota::new(1_000, 1, 1_000).unwrap());
    let key = |limit| {
        let mut maker = table.maker(limit);
        maker.put(&[192, 0, 2, 7]);
        maker.key()
    };
    let ask = |limit| Ask { key: key(limit), limit, quota: &quota, cost: 1 };
    assert_eq!(
        cost_of(|| table.take(&[ask(1), ask(2)], 1_000_000_000).allowed),
        0,
        "a client that is counted"
    );
    let Action::Forward(split) = &route.action else { panic!("it forwards") };
    assert_eq!(cost_of(|| split.choose().select(b"", &[]).is_some()), 0, "the target");
    known_key();
}

/// Who has a key is known without asking for memory: the key is hashed, and the consumer there already.
fn known_key() {
    let hash = "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"; // of "secret"
    let yaml = format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]\nconsumers: {{a: {{groups: [g], api_keys: [{{hash: \"sha256:{hash}\", expires: 2099-01-01}}]}}}}\n\
         routes: [{{respond: {{}}, auth: {{any: [{{api_key: {{header: x-api-key, query: k}}}}], groups: [g]}}}}]\n"
    );
    let gateway = config::compile("p.yaml", &yaml, &System).unwrap_or_else(|e| panic!("{e:?}")).gateway;
    let mut headers = http::HeaderMap::new();
    headers.insert("x-api-key", http::HeaderValue::from_static("secret"));
    let request = Request { method: "GET", host: "t", path: "/", query: "page=2", headers: &headers };
    let Outcome::Found(id) = gateway.router.find(&request) else { panic!("a route") };
    let arrival = Arrival { request, client: None, facts: None, length: None };
    let admit = || {
        let mut pass = Pass::default();
        let admitted = gateway.route(id).rules.chain.admit(&arrival, &mut pass).now_or_never();
        (admitted, pass.identity.is_some_and(|identity| identity.name() == "a"))
    };
    assert_eq!(admit(), (Some(Ok(None)), true));
    assert_eq!(cost_of(admit), 0, "who has a key");
}

fn ask(client: &mut TcpStream) {
    client.write_all(REQUEST).unwrap();
    let (mut buffer, mut length) = ([0; 1024], 0);
    while !buffer[..length].ends_with(b"hi") {
        let read = client.read(&mut buffer[length..]).unwrap();
        assert!(read > 0, "{:?}", String::from_utf8_lossy(&buffer[..length]));
        length += read;
    }
    assert!(buffer.starts_with(b"HTTP/1.1 200 "));
}

/// Answers each request that ends with what it has read; on connections one after the other, since there is but one.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, mut buffer, mut length) = (stream.unwrap(), [0; 4096], 0);
            while let Ok(read) = stream.read(&mut buffer[length..]) {
                length += read;
                if read == 0 {
                    break;
                }
                if buffer[..length].ends_with(b"\r\n\r\n") {
                    length = 0;
                    stream.write_all(ANSWER).unwrap();
                }
            }
        }
    });
    address
}
