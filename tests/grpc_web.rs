//! gRPC-Web in front of a service of gRPC: by a client of others, by hand, and by a real browser, over HTTP/1.1 and HTTP/2.

#[path = "kit/browser.rs"]
mod browser;
mod kit;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use browser::Browser;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::HeaderMap;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use kit::certs::Authority;
use kit::grpc::{note, Note, Service};
use kit::http2::run;
use kit::http2_origin::Asked;
use kit::origin::raw;
use kit::secure::{server, Secure};
use kit::{until, Gateway, Http2, Http2Origin, Origin, Raw};
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_web::{GrpcWebCall, GrpcWebClientService};

const TOP: &str =
    "listeners: [{address: \"127.0.0.1:0\", protocols: [h2, http1]}]\naccess_log: {path: $FOLDER/access.log}\n";

const BINARY: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";

fn yaml(target: &str, upstream: &str, route: &str) -> String {
    format!("{TOP}upstreams:\n  notes:\n    targets: [\"{target}\"]\n    protocol: h2c\n{upstream}\nroutes: [{{path: /kit.Notes, upstream: notes, grpc_web: true{route}}}]\n")
}

fn before(target: &str) -> Gateway {
    Gateway::start(&yaml(target, "", ""))
}

// Callers

#[derive(Debug, Clone, Copy, PartialEq)]
enum Version {
    One,
    Two,
}
const BOTH: [Version; 2] = [Version::One, Version::Two];

type Inner = Client<HttpConnector, GrpcWebCall<tonic::body::Body>>;

/// Tonic's own, which speaks it in binary.
struct Caller(Grpc<GrpcWebClientService<Inner>>);

impl Caller {
    fn new(version: Version, address: SocketAddr) -> Caller {
        let client = Client::builder(TokioExecutor::new()).http2_only(version == Version::Two).build_http();
        let web = GrpcWebClientService::new(client);
        let grpc = Grpc::with_origin(web, format!("http://{address}").parse().unwrap());
        Caller(grpc.max_decoding_message_size(64 << 20))
    }

    async fn call(&mut self, path: &'static str, request: Request<Note>) -> Result<Response<Note>, Status> {
        self.0.ready().await.unwrap();
        self.0.unary(request, PathAndQuery::from_static(path), ProstCodec::<Note, Note>::default()).await
    }

    async fn one(&mut self, request: Request<Note>) -> Result<Response<Note>, Status> {
        self.call("/kit.Notes/One", request).await
    }

    /// One note for many.
    async fn many(&mut self, note: Note) -> Result<Streaming<Note>, Status> {
        self.0.ready().await.unwrap();
        let path = PathAndQuery::from_static("/kit.Notes/Chat");
        let codec = ProstCodec::<Note, Note>::default();
        self.0.server_streaming(Request::new(note), path, codec).await.map(Response::into_inner)
    }
}

/// An answer to a call made by hand.
#[derive(Debug)]
struct Reply {
    status: u16,
    fields: HeaderMap,
    body: Vec<u8>,
    complete: bool,
}

impl Reply {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(|value| value.to_str().unwrap())
    }

    /// The messages, and the lines of the status if there is one; of a body in base64 too.
    fn messages(&self) -> (Vec<Vec<u8>>, Option<String>) {
        let decoded = match self.field("content-type") {
            Some(text) if text.starts_with(TEXT) => unpacked(&self.body),
            _ => self.body.clone(),
        };
        let (mut messages, mut rest) = (Vec::new(), &decoded[..]);
        while let [flags, a, b, c, d, more @ ..] = rest {
            let (one, more) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            if *flags == 0x80 {
                assert_eq!(more, b"", "the status is the last");
                return (messages, Some(String::from_utf8(one.to_vec()).unwrap()));
            }
            messages.push(one.to_vec());
            rest = more;
        }
        assert_eq!(rest, b"");
        (messages, None)
    }

    fn notes(&self) -> Vec<Note> {
        self.messages().0.iter().map(|one| Note::decode(&one[..]).unwrap()).collect()
    }
}

/// Base64 with padding anywhere, as clients read it: four by four.
fn unpacked(text: &[u8]) -> Vec<u8> {
    text.chunks(4).flat_map(|four| STANDARD.decode(four).unwrap()).collect()
}

fn framed(note: &Note) -> Vec<u8> {
    let message = note.encode_to_vec();
    [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat()
}

/// The bytes of a call over HTTP/1.1.
fn raw_call(path: &str, content_type: &str, more: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let more: String = more.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}\r\n");
    [head.as_bytes(), body].concat()
}

/// Reads the answer to one.
fn reply_of(client: &mut Raw) -> Reply {
    let response = client.response();
    let fields = response.head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.parse().unwrap(), value.trim().parse().unwrap()));
    Reply {
        status: response.status,
        fields: fields.collect(),
        body: response.body,
        complete: response.complete,
    }
}

async fn call(
    version: Version,
    address: SocketAddr,
    path: &str,
    content_type: &str,
    more: &[(&str, &str)],
    body: &[u8],
) -> Reply {
    if version == Version::One {
        let mut client = Raw::connect(address);
        client.send(raw_call(path, content_type, more, body));
        return reply_of(&mut client);
    }
    let mut client = Http2::connect(address).await;
    let mut request = http::Request::post(format!("http://test{path}")).header("content-type", content_type);
    for (name, value) in more {
        request = request.header(*name, *value);
    }
    let answer = client.exchange(request.body(()).unwrap(), body).await.unwrap();
    assert!(answer.trailers.is_none(), "{answer:?}");
    Reply { status: answer.status, fields: answer.head, body: answer.body, complete: true }
}

// Calls

#[test]
fn one_note_for_one_with_metadata_both_ways() {
    let service = Service::start();
    let gateway = before(&service.target());
    run(async {
        for version in BOTH {
            let mut caller = Caller::new(version, gateway.address());
            let mut request = Request::new(note("hello"));
            request.metadata_mut().insert("x-back", "text".parse().unwrap());
            request.metadata_mut().insert_bin("x-back-bin", MetadataValue::from_bytes(&[0, 255, 10]));
            let response = caller.one(request).await.unwrap();
            assert_eq!(response.get_ref(), &note("hello"));
            assert_eq!(response.metadata().get("x-back").unwrap(), "text");
            let bin = response.metadata().get_bin("x-back-bin").unwrap().to_bytes().unwrap();
            assert_eq!(bin, &[0, 255, 10][..]);
            assert_eq!(response.metadata().get("grpc-status").unwrap(), "0");
            assert!(response.metadata().get("x-request-id").is_some());
            let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
            let large = caller.one(Request::new(Note { data: data.clone(), ..note("") })).await.unwrap();
            assert!(large.get_ref().data == data);
        }
    });
    for call in service.calls.lock().unwrap().iter() {
        assert_eq!(call.get("content-type").unwrap(), "application/grpc");
        assert_eq!(call.get("te").unwrap(), "trailers");
        assert!(call.get("content-length").is_none() && call.get("accept").is_none());
    }
    for line in gateway.access_lines(4) {
        let told = (&line["status"], &line["grpc_status"], &line["error"]);
        assert_eq!(told, (&200.into(), &0.into(), &().into()), "{line}");
    }
}

#[test]
fn errors_of_the_service_come_whole() {
    let service = Service::start();
    let gateway = before(&service.target());
    run(async {
        let check = |status: Status| {
            assert_eq!((status.code(), status.message()), (Code::NotFound, "no ☃ here"));
            assert_eq!(status.details(), &[1, 2, 3]);
            assert_eq!(status.metadata().get("x-why").unwrap(), "searched");
            assert_eq!(status.metadata().get_bin("x-why-bin").unwrap().to_bytes().unwrap(), &[0, 255, 7][..]);
        };
        for version in BOTH {
            let mut caller = Caller::new(version, gateway.address());
            // In the head, which is all of the answer; and as the end of a body.
            check(caller.one(Request::new(note("fail"))).await.unwrap_err());
            check(caller.many(note("fail")).await.unwrap().message().await.unwrap_err());
            let unknown = caller.call("/kit.Notes/Nothing", Request::new(note(""))).await.unwrap_err();
            assert_eq!(unknown.code(), Code::Unimplemented);
        }
    });
    let lines = gateway.access_lines(6);
    assert!(lines.iter().all(|line| line["status"] == 200 && line["error"].is_null()), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line["grpc_status"] == 5).count(), 4, "{lines:?}");
}

/// Says a note each time it may, and ends with a status.
fn slow_speaker(may: &Arc<Semaphore>, status: &'static str) -> Http2Origin {
    let may = Arc::clone(may);
    Http2Origin::start(move |mut asked: Asked| {
        let may = Arc::clone(&may);
        async move {
            asked.whole().await.unwrap();
            let head = http::Response::builder().header("content-type", "application/grpc+proto");
            let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
            for n in 0..3 {
                may.acquire().await.unwrap().forget();
                send.send_data(framed(&note(&format!("note {n}"))).into(), false).unwrap();
            }
            may.acquire().await.unwrap().forget();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", "a: b".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        }
    })
}

#[test]
fn each_message_comes_when_it_is_said() {
    let may = Arc::new(Semaphore::new(0));
    let origin = slow_speaker(&may, "11");
    let gateway = before(&origin.target());
    run(async {
        for version in BOTH {
            let mut caller = Caller::new(version, gateway.address());
            let mut notes = caller.many(note("")).await.unwrap(); // before anything was said
            for n in 0..3 {
                may.add_permits(1);
                assert_eq!(notes.message().await.unwrap().unwrap().text, format!("note {n}"));
            }
            may.add_permits(1);
            let status = notes.message().await.unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::OutOfRange, "a: b"));
        }
    });
    // In base64 each of them can be read alone.
    let mut client = Raw::connect(gateway.address());
    let body = STANDARD.encode(framed(&note("")));
    client.send(raw_call("/kit.Notes/Chat", "application/grpc-web-text+proto", &[], body.as_bytes()));
    for n in 0..3 {
        may.add_permits(1);
        client.wait_text(&STANDARD.encode(framed(&note(&format!("note {n}")))));
    }
    may.add_permits(1);
    let reply = reply_of(&mut client);
    assert_eq!(reply.field("content-type"), Some("application/grpc-web-text+proto"));
    assert_eq!(reply.notes().len(), 3);
    assert_eq!(reply.messages().1.unwrap(), "grpc-status:11\r\ngrpc-message:a: b\r\n");
    assert!(gateway.access_lines(3).iter().all(|line| line["grpc_status"] == 11));
}

#[test]
fn text_may_be_cut_anywhere() {
    let service = Service::start();
    let gateway = before(&service.target());
    let said = [Note { data: vec![250; 100], ..note("one") }, note("another"), note("third")];
    let text: String = said.iter().map(|note| STANDARD.encode(framed(note))).collect();
    assert!(text[..text.len() - 2].contains('='), "some padding is in the midst");
    for cut in [1, 2, 3, 5, 7, 64] {
        let mut client = Raw::connect(gateway.address());
        client.send("POST /kit.Notes/Chat HTTP/1.1\r\nHost: test\r\nContent-Type: application/grpc-web-text\r\nTransfer-Encoding: chunked\r\n\r\n");
        for piece in text.as_bytes().chunks(cut) {
            client.send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
        }
        client.send("0\r\n\r\n");
        let reply = reply_of(&mut client);
        assert_eq!(reply.field("content-type"), Some(TEXT));
        assert!(reply.field("content-length").is_none());
        assert_eq!(reply.notes(), said, "{cut}");
        assert_eq!(reply.messages().1.unwrap(), "grpc-status:0\r\n");
    }
    run(async {
        for cut in [1, 3, 64] {
            let client = Http2::connect(gateway.address()).await;
            let request = http::Request::post("http://test/kit.Notes/Chat").header("content-type", TEXT);
            let mut ready = client.send.clone().ready().await.unwrap();
            let (answer, mut stream) = ready.send_request(request.body(()).unwrap(), false).unwrap();
            for piece in text.as_bytes().chunks(cut) {
                stream.send_data(Bytes::copy_from_slice(piece), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
            let answer = kit::http2::whole(answer.await.unwrap()).await.unwrap();
            let reply =
                Reply { status: answer.status, fields: answer.head, body: answer.body, complete: true };
            assert_eq!(reply.notes(), said, "{cut}");
        }
    });
}

#[test]
fn what_is_accepted_is_what_comes() {
    let service = Service::start();
    let gateway = before(&service.target());
    let binary = framed(&note("hello"));
    let text = STANDARD.encode(&binary).into_bytes();
    run(async {
        for version in BOTH {
            for (content_type, body, accept, answered) in [
                ("application/grpc-web+proto", &binary, TEXT, TEXT),
                (TEXT, &text, "application/grpc-web+proto", "application/grpc-web"),
                (TEXT, &text, "*/*", TEXT),
                ("Application/gRPC-Web", &binary, "text/html", "application/grpc-web"),
            ] {
                let more = [("accept", accept), ("x-grpc-web", "1"), ("accept-encoding", "gzip")];
                let reply =
                    call(version, gateway.address(), "/kit.Notes/One", content_type, &more, body).await;
                assert_eq!((reply.status, reply.field("content-type")), (200, Some(answered)), "{reply:?}");
                assert_eq!(reply.notes(), [note("hello")], "{version:?} {content_type} {accept}");
                assert_eq!(reply.messages().1.unwrap(), "grpc-status:0\r\n");
            }
        }
    });
    let calls = service.calls.lock().unwrap();
    assert_eq!(calls[0].get("content-type").unwrap(), "application/grpc+proto");
    assert!(calls.iter().all(|call| call.get("accept-encoding").is_none()));
}

#[test]
fn a_connection_of_http1_serves_one_call_after_the_other() {
    let service = Service::start();
    let gateway = before(&service.target());
    let mut client = Raw::connect(gateway.address());
    for round in 0..3 {
        for text in ["hello", "fail"] {
            client.send(raw_call("/kit.Notes/One", BINARY, &[], &framed(&note(text))));
            let reply = reply_of(&mut client);
            assert!(reply.complete && reply.field("connection") != Some("close"), "{round} {reply:?}");
            match text {
                "hello" => assert_eq!(reply.notes(), [note("hello")]),
                _ => assert_eq!((reply.field("grpc-status"), reply.body.len()), (Some("5"), 0)),
            }
        }
    }
    // A request that was not read to its end is the last of a connection, here as elsewhere.
    client.send(raw_call("/nobody", BINARY, &[], &framed(&note(""))));
    let reply = reply_of(&mut client);
    assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("12")), "{reply:?}");
    assert_eq!((reply.field("connection"), reply.field("content-length")), (Some("close"), Some("0")));
}

#[test]
fn without_the_key_it_passes_as_it_is() {
    let body = framed(&note("as it is"));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/grpc-web+proto\r\nContent-Length: 20\r\n\r\n";
    let answer = [head.as_bytes(), b"\x80\0\0\0\x0fgrpc-status:0\r\n"].concat();
    let origin = Origin::start(move |_| raw(answer.clone()));
    let two = Http2Origin::start(|mut asked: Asked| async move {
        let (body, _) = asked.whole().await.unwrap();
        let head = http::Response::builder().header("content-type", &asked.head.headers["content-type"]);
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        send.send_data(body.into(), true).unwrap();
    });
    let gateway = Gateway::start(&format!(
        "{TOP}upstreams: {{two: {{targets: [\"{}\"], protocol: h2c}}}}\nroutes:\n  - {{path: /one, upstream: \"{}\"}}\n  - {{path: /two, upstream: two, grpc_web: false}}\n",
        two.target(),
        origin.url()
    ));
    run(async {
        for version in BOTH {
            let more = [("accept", TEXT)];
            let reply =
                call(version, gateway.address(), "/one", "application/grpc-web+proto", &more, &body).await;
            assert_eq!(reply.field("content-type"), Some("application/grpc-web+proto"));
            assert_eq!(reply.field("content-length"), Some("20"));
            assert_eq!(reply.messages(), (vec![], Some("grpc-status:0\r\n".to_owned())));
            let text = b"no base64 at all";
            let reply = call(version, gateway.address(), "/two", TEXT, &more, text).await;
            assert_eq!(reply.field("content-type"), Some(TEXT));
            assert_eq!(reply.body, text);
        }
    });
    for received in origin.received() {
        assert_eq!(received.field("content-type"), Some("application/grpc-web+proto"));
        assert_eq!(received.field("accept"), Some(TEXT));
        assert!(received.field("te").is_none());
        assert_eq!(received.body, body);
    }
    assert!(two.heads().iter().all(|head| head.headers["content-type"] == TEXT));
}

/// What is not gRPC is none of the gateway's business: clients know what an HTTP status is.
#[test]
fn another_answer_passes_as_it_is() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let _ = asked.whole().await;
        let head = http::Response::builder().status(418).header("content-type", "text/plain");
        let head = head.header("content-length", "4").body(()).unwrap();
        let mut send = asked.respond.send_response(head, false).unwrap();
        send.send_data("tea\n".into(), true).unwrap();
    });
    let gateway = before(&origin.target());
    run(async {
        for version in BOTH {
            let body = STANDARD.encode(framed(&note("")));
            let reply = call(version, gateway.address(), "/kit.Notes/One", TEXT, &[], body.as_bytes()).await;
            assert_eq!((reply.status, reply.field("content-type")), (418, Some("text/plain")));
            assert_eq!((reply.field("content-length"), &reply.body[..]), (Some("4"), &b"tea\n"[..]));
        }
        // Nor is what is no call.
        let mut client = Http2::connect(gateway.address()).await;
        let request = http::Request::get("http://test/kit.Notes/One")
            .header("content-type", "application/grpc-web")
            .body(());
        assert_eq!(client.exchange(request.unwrap(), b"").await.unwrap().status, 418);
    });
    assert_eq!(origin.heads()[2].headers["content-type"], "application/grpc-web");
}

// What ends a call

#[test]
fn a_deadline_is_held_by_the_gateway() {
    let mut service = Service::start();
    let gateway = before(&service.target());
    run(async {
        for version in BOTH {
            for (content_type, body) in [
                (BINARY, framed(&note("never"))),
                (TEXT, STANDARD.encode(framed(&note("never"))).into_bytes()),
            ] {
                let begun = Instant::now();
                let more = [("grpc-timeout", "300m")];
                let reply =
                    call(version, gateway.address(), "/kit.Notes/One", content_type, &more, &body).await;
                assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("4")), "{reply:?}");
                assert_eq!(reply.field("content-type"), Some(content_type));
                assert!(reply.field("grpc-message").unwrap().starts_with("Gateway timeout: "));
                assert!(reply.field("x-request-id").is_some() && reply.body.is_empty());
                assert!((300..5000).contains(&begun.elapsed().as_millis()));
                service.given_up.recv().await.unwrap();
            }
        }
    });
    for line in gateway.access_lines(4) {
        assert_eq!((&line["status"], &line["grpc_status"]), (&504.into(), &4.into()), "{line}");
        assert_eq!(line["error"], "exchange_timeout");
    }
}

/// Behind messages the status takes the place of what was to come.
#[test]
fn a_call_that_has_begun_ends_with_a_status() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        asked.whole().await.unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc");
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        for text in ["one", "two"] {
            send.send_data(framed(&note(text)).into(), false).unwrap();
        }
        let _ = std::future::poll_fn(|cx| send.poll_reset(cx)).await;
    });
    let gateway = Gateway::start(&yaml(&origin.target(), "", ", timeout: 500ms"));
    run(async {
        for version in BOTH {
            let mut notes = Caller::new(version, gateway.address()).many(note("")).await.unwrap();
            for text in ["one", "two"] {
                assert_eq!(notes.message().await.unwrap().unwrap().text, text);
            }
            let status = notes.message().await.unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            let (path, more) = ("/kit.Notes/Chat", [("accept", TEXT)]);
            let reply = call(version, gateway.address(), path, BINARY, &more, &framed(&note(""))).await;
            assert_eq!(reply.notes(), [note("one"), note("two")]);
            assert!(reply.complete && reply.messages().1.unwrap().starts_with("grpc-status:4\r\n"));
        }
    });
    assert!(gateway.access_lines(4).iter().all(|line| line["error"] == "exchange_timeout"));
}

/// No status follows a message that was cut off: it would be taken for the rest of the message.
#[test]
fn where_a_message_is_cut_off_no_status_follows() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let (path, _) = (asked.head.uri.path().to_owned(), asked.whole().await);
        let head = http::Response::builder().header("content-type", "application/grpc");
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        send.send_data(Bytes::from_static(b"\0\0\0\x01\0only so much of it"), false).unwrap();
        match path.as_str() {
            "/kit.Notes/Ends" => {
                let trailers =
                    HeaderMap::from_iter([("grpc-status".parse().unwrap(), "13".parse().unwrap())]);
                send.send_trailers(trailers).unwrap();
            }
            _ => {
                tokio::time::sleep(Duration::from_millis(100)).await; // so that the piece arrives
                send.send_reset(h2::Reason::INTERNAL_ERROR);
            }
        }
    });
    let gateway = before(&origin.target());
    let mut client = Raw::connect(gateway.address());
    for (path, complete) in [("/kit.Notes/Ends", true), ("/kit.Notes/Breaks", false)] {
        client.send(raw_call(path, BINARY, &[], &framed(&note(""))));
        let reply = reply_of(&mut client);
        assert_eq!((&reply.body[..], reply.complete), (&b"\0\0\0\x01\0only so much of it"[..], complete));
    }
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        for (path, complete) in [("/kit.Notes/Ends", true), ("/kit.Notes/Breaks", false)] {
            let request = http::Request::post(format!("http://test{path}")).header("content-type", BINARY);
            let answer = client.exchange(request.body(()).unwrap(), &framed(&note(""))).await;
            assert_eq!(answer.is_ok(), complete);
            let whole =
                |answer: kit::http2::Answer| assert_eq!(answer.body, b"\0\0\0\x01\0only so much of it");
            let _ = answer.map(whole);
        }
    });
    let lines = gateway.access_lines(4);
    assert_eq!(lines.iter().filter(|line| line["error"] == "upstream_broke").count(), 2, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line["grpc_status"] == 13).count(), 2, "{lines:?}");
}

#[test]
fn a_silent_service_is_given_up() {
    let mut service = Service::start();
    let gateway = Gateway::start(&yaml(&service.target(), "    timeouts: {read: 300ms}", ""));
    run(async {
        for version in BOTH {
            let body = framed(&note("never"));
            let reply = call(version, gateway.address(), "/kit.Notes/One", BINARY, &[], &body).await;
            assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("14")), "{reply:?}");
            service.given_up.recv().await.unwrap();
        }
        // Before it has all of a call it is not silent.
        let mut client = Raw::connect(gateway.address());
        let body = framed(&note("late"));
        let bytes = raw_call("/kit.Notes/One", BINARY, &[], &body);
        client.send(&bytes[..bytes.len() - 3]);
        tokio::time::sleep(Duration::from_millis(700)).await;
        client.send(&bytes[bytes.len() - 3..]);
        assert_eq!(reply_of(&mut client).notes(), [note("late")]);
    });
    let lines = gateway.access_lines(3);
    assert!(lines[..2].iter().all(|line| line["error"] == "upstream_timeout" && line["status"] == 504));
}

#[test]
fn who_gives_up_is_heard_of_at_the_service() {
    let mut service = Service::start();
    let gateway = before(&service.target());
    run(async {
        for version in BOTH {
            let mut caller = Caller::new(version, gateway.address());
            let waits =
                tokio::time::timeout(Duration::from_millis(300), caller.one(Request::new(note("never"))));
            assert!(waits.await.is_err());
            service.given_up.recv().await.unwrap();
            let mut notes = caller.many(Note { count: 300_000, ..note("many") }).await.unwrap();
            notes.message().await.unwrap();
            drop((notes, caller));
            service.given_up.recv().await.unwrap();
        }
    });
}

// What the gateway says itself

#[test]
fn a_cause_is_a_status_of_grpc() {
    let (_refusing, address) = kit::origin::refusing();
    let service = Service::start();
    let gateway = Gateway::start(&format!(
        "{TOP}defaults: {{grpc_web: true}}\nupstreams:\n  dead: {{targets: [\"{address}\"], protocol: h2c}}\n  sick: {{targets: [\"{address}\"], protocol: h2c, health_check: {{grpc: true, interval: 50ms, unhealthy_after: 1}}}}\n  notes: {{targets: [\"{}\"], protocol: h2c}}\nroutes:\n  - {{path: /dead, upstream: dead}}\n  - {{path: /sick, upstream: sick}}\n  - {{path: /kit.Notes, upstream: notes, max_body: 1KiB}}\n  - {{path: /get, methods: [GET], upstream: notes}}\n  - {{path: /here, respond: {{body: here}}}}\n  - {{path: /plain, upstream: dead, grpc_web: false}}\n",
        service.target()
    ));
    gateway.wait_log(&["is unhealthy: "]);
    run(async {
        for version in BOTH {
            let mut caller = Caller::new(version, gateway.address());
            for (path, code, words) in [
                ("/nobody/One", Code::Unimplemented, "Service not found"),
                ("/get", Code::Unimplemented, "Method not allowed"),
                ("/dead/One", Code::Unavailable, "Bad gateway"),
                ("/sick/One", Code::Unavailable, "Service unavailable"),
            ] {
                let status = caller.call(path, Request::new(note(""))).await.unwrap_err();
                assert_eq!(status.code(), code, "{path}: {status:?}");
                assert!(status.message().starts_with(words), "{path}: {status:?}");
                assert!(status.metadata().get("x-request-id").is_some(), "{path}: {status:?}");
            }
            let large = framed(&Note { data: vec![7; 5000], ..note("large") });
            let reply = call(version, gateway.address(), "/kit.Notes/One", BINARY, &[], &large).await;
            assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("8")), "{reply:?}");
            // Where it is the upstream's to speak it, HTTP says what happened; and who is answered for is.
            let reply = call(version, gateway.address(), "/plain", BINARY, &[], b"").await;
            assert_eq!((reply.status, reply.field("grpc-status")), (502, None), "{reply:?}");
            let reply = call(version, gateway.address(), "/here", BINARY, &[], b"").await;
            assert_eq!((reply.status, &reply.body[..]), (200, &b"here"[..]));
        }
    });
    let lines = gateway.access_lines(14);
    for (path, status, grpc_status) in [
        ("/nobody/One", 404, Some(12)),
        ("/get", 405, Some(12)),
        ("/dead/One", 502, Some(14)),
        ("/sick/One", 503, Some(14)),
        ("/kit.Notes/One", 413, Some(8)),
        ("/plain", 502, None),
        ("/here", 200, None),
    ] {
        let of_path: Vec<_> = lines.iter().filter(|line| line["path"] == path).collect();
        assert_eq!(of_path.len(), 2, "{lines:?}");
        for line in of_path {
            assert_eq!(
                (line["status"].as_u64(), line["grpc_status"].as_u64()),
                (Some(status), grpc_status),
                "{line}"
            );
        }
    }
}

#[test]
fn what_no_client_may_send_is_refused() {
    let service = Service::start();
    let gateway = before(&service.target());
    let status = b"\x80\0\0\0\x0fgrpc-status:0\r\n";
    let behind = [&framed(&note("one"))[..], status].concat();
    let broken = &framed(&note("one"))[..6];
    let cases: [(&str, Vec<u8>, &str); 8] = [
        (TEXT, b"AAAA*AAA".to_vec(), "The request's body is no base64."),
        (TEXT, framed(&note("binary")), "The request's body is no base64."),
        (TEXT, b"AAAAAAA".to_vec(), "The request's base64 breaks off."),
        (TEXT, STANDARD.encode(status).into_bytes(), "A request has no status among its messages."),
        (TEXT, STANDARD.encode(broken).into_bytes(), "The request's last message breaks off."),
        (BINARY, status.to_vec(), "A request has no status among its messages."),
        (BINARY, behind, "A request has no status among its messages."),
        (BINARY, broken.to_vec(), "The request's last message breaks off."),
    ];
    run(async {
        for version in BOTH {
            for (content_type, body, why) in &cases {
                let reply = call(version, gateway.address(), "/kit.Notes/One", content_type, &[], body).await;
                assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("13")), "{reply:?}");
                assert_eq!(reply.field("content-type"), Some(*content_type));
                let words = reply.field("grpc-message").unwrap();
                assert_eq!(words, format!("Request not understood: {why}"), "{version:?} {body:?}");
            }
            // Who does as it should is served as before.
            let answer = Caller::new(version, gateway.address()).one(Request::new(note("well"))).await;
            assert_eq!(answer.unwrap().get_ref(), &note("well"));
        }
    });
    let lines = gateway.access_lines(18);
    let refused = lines.iter().filter(|line| line["error"] == "grpc_web" && line["status"] == 400);
    assert_eq!(refused.count(), 16, "{lines:?}");
}

/// Each attempt reads the request from its beginning.
#[test]
fn a_second_attempt_has_the_call_from_its_beginning() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        if asked.number == 1 {
            asked.body.data().await.unwrap().unwrap(); // some of it has come
            return asked.reset(h2::Reason::REFUSED_STREAM);
        }
        let (body, _) = asked.whole().await.unwrap();
        let head = http::Response::builder().header("content-type", "application/grpc");
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        send.send_data(body.into(), false).unwrap();
        send.send_trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]))
            .unwrap();
    });
    let gateway = before(&origin.target());
    let text = STANDARD.encode(framed(&note("hello")));
    let bytes = raw_call("/kit.Notes/One", TEXT, &[], text.as_bytes());
    // In the midst of a group, and of a message.
    let (first, rest) = bytes.split_at(bytes.len() - text.len() + 10);
    let mut client = Raw::connect(gateway.address());
    client.send(first);
    until("it goes out again", || origin.heads().len() == 2);
    assert_eq!(reply_of(client.send(rest)).notes(), [note("hello")]);
    assert_eq!(gateway.access_lines(1)[0]["attempts"], 2);
}

/// A client that is still speaking when the answer has begun hears of its mistake behind the messages.
#[test]
fn what_is_wrong_shows_behind_messages_too() {
    let service = Service::start();
    let gateway = before(&service.target());
    let one = framed(&note("one"));
    let mut client = Raw::connect(gateway.address());
    client.send(format!("POST /kit.Notes/Chat HTTP/1.1\r\nHost: test\r\nContent-Type: {BINARY}\r\nTransfer-Encoding: chunked\r\n\r\n"));
    client.send([format!("{:x}\r\n", one.len()).as_bytes(), &one, b"\r\n"].concat());
    client.wait_text("one");
    client.send("5\r\n\x7f\0\0\0\0\r\n"); // what flags may yet mean is the service's affair
    client.send([&b"1\r\n"[..], b"\x80", b"\r\n"].concat());
    let reply = reply_of(&mut client);
    assert!(reply.complete);
    assert_eq!(reply.notes()[0], note("one"));
    let status = reply.messages().1.unwrap();
    assert!(status.starts_with("grpc-status:13\r\n"), "{status}");
    assert!(client.closed());
}

/// gRPC is spoken over HTTP/2 alone, whatever TLS agrees on.
#[test]
fn a_target_that_agrees_to_less_is_not_called() {
    let (origin, ca, folder) = (Origin::text("one"), Authority::new("Test CA"), tempfile::tempdir().unwrap());
    ca.write(folder.path(), "ca.pem");
    let secure = Secure::start(origin.address, server(&ca.leaf(&["app.internal"]), None));
    let gateway = Gateway::start(&format!(
        "{TOP}upstreams:\n  notes:\n    targets: [\"{}\"]\n    protocol: auto\n    tls: {{ca: {}, sni: app.internal}}\nroutes: [{{path: /, upstream: notes, grpc_web: true}}]\n",
        secure.target(),
        folder.path().join("ca.pem").display()
    ));
    run(async {
        for version in BOTH {
            let body = framed(&note(""));
            let reply = call(version, gateway.address(), "/kit.Notes/One", BINARY, &[], &body).await;
            assert_eq!((reply.status, reply.field("grpc-status")), (200, Some("14")), "{reply:?}");
        }
    });
    assert_eq!(kit::raw::get(gateway.address(), "/").text(), "one"); // what is no call is
    assert_eq!(origin.received().len(), 1);
}

// A browser

/// A page's own call: the text of the notes as they come, and the lines at the end.
const CALL: &str = r#"
window.call = async (path, text, body) => {
  window.told = [];
  const type = text ? 'application/grpc-web-text' : 'application/grpc-web';
  const answer = await fetch(path, {method: 'POST', headers: {'content-type': type, 'x-grpc-web': '1'}, body});
  const reader = answer.body.getReader();
  let encoded = '', bytes = [];
  for (;;) {
    const {done, value} = await reader.read();
    if (done) { window.told.push('end ' + bytes.length + ' ' + answer.headers.get('grpc-status')); return; }
    if (text) {
      encoded += String.fromCharCode(...value);
      for (; encoded.length >= 4; encoded = encoded.slice(4))
        bytes.push(...Array.from(atob(encoded.slice(0, 4)), (c) => c.charCodeAt(0)));
    } else bytes.push(...value);
    while (bytes.length >= 5) {
      const length = new DataView(new Uint8Array(bytes).buffer).getUint32(1);
      if (bytes.length < 5 + length) break;
      const [flag] = bytes.splice(0, 5);
      window.told.push(flag + ' ' + String.fromCharCode(...bytes.splice(0, length)));
    }
  }
};
"#;

#[test]
fn a_browser_calls() {
    let may = Arc::new(Semaphore::new(0));
    let (origin, service, authority) = (slow_speaker(&may, "0"), Service::start(), Authority::new("web"));
    let own = authority.issue("web", &["localhost"]);
    let gateway = Gateway::start(&format!(
        "listeners:\n  - address: \"127.0.0.1:0\"\n  - address: \"127.0.0.1:0\"\n    tls: {{certificates: [{}]}}\naccess_log: {{path: $FOLDER/access.log}}\ndefaults: {{grpc_web: true}}\nupstreams:\n  slow: {{targets: [\"{}\"], protocol: h2c}}\n  notes: {{targets: [\"{}\"], protocol: h2c}}\nroutes:\n  - {{path: /, respond: {{body: \"<!doctype html><title>web</title>\", content_type: text/html}}}}\n  - {{path: /slow, upstream: slow}}\n  - {{path: /kit.Notes, upstream: notes}}\n",
        own.yaml(),
        origin.target(),
        service.target()
    ));
    let browser = Browser::start();
    let [plain, secure] = gateway.listening()[..] else { panic!("two listeners") };
    let asked = |text: bool, path: &str, note: &Note| {
        let bytes = framed(note);
        let body = if text {
            format!("'{}'", STANDARD.encode(&bytes))
        } else {
            format!("new Uint8Array({bytes:?})")
        };
        format!("call('{path}', {text}, {body}).catch((e) => told.push(String(e)))")
    };
    for url in [format!("http://{plain}/"), format!("https://localhost:{}/", secure.port())] {
        browser.open(&url);
        browser.ask(CALL);
        for text in [true, false] {
            browser.ask(&asked(text, "/slow", &note("")));
            for n in 0..3 {
                may.add_permits(1);
                browser.until(
                    "a note",
                    &format!("return told.length === {} && told[{n}].endsWith('note {n}')", n + 1),
                );
            }
            may.add_permits(1);
            browser.until("the end", "return told.length === 5");
            assert_eq!(browser.ask("return told[3]"), "128 grpc-status:0\r\ngrpc-message:a: b\r\n");
            assert_eq!(browser.ask("return told[4]"), "end 0 null");
            browser.ask(&asked(text, "/kit.Notes/One", &note("fail")));
            browser.until("the status", "return told.join() === 'end 0 5'");
            browser.ask(&asked(text, "/kit.Notes/One", &note("hello")));
            browser.until("the answer", "return told.length === 3");
            assert_eq!(browser.ask("return told[1]"), "128 grpc-status:0\r\n");
        }
    }
    let calls = |lines: &[serde_json::Value]| lines.iter().filter(|line| line["method"] == "POST").count();
    until("all of them are told of", || calls(&gateway.access_log()) == 12);
    let lines = gateway.access_log();
    let by =
        |tls: bool| lines.iter().filter(|l| l["method"] == "POST" && l["tls"].is_string() == tls).count();
    assert_eq!((by(false), by(true)), (6, 6), "{lines:?}");
}
