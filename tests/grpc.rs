//! gRPC through the gateway, from tonic to tonic: calls of every kind, what ends them, and what the gateway says itself.

mod kit;

use kit::grpc::{note, Caller, Note, Service};
use kit::http2::run;
use kit::http2_origin::Asked;
use kit::{until, Gateway, Http2, Http2Origin};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

const TOP: &str =
    "listeners: [{address: \"127.0.0.1:0\", protocols: [h2]}]\naccess_log: {path: $FOLDER/access.log}\n";

fn yaml(target: &str, upstream: &str, route: &str) -> String {
    format!("{TOP}upstreams:\n  notes:\n    targets: [\"{target}\"]\n    protocol: h2c\n{upstream}\nroutes: [{{path: /kit.Notes, upstream: notes{route}}}]\n")
}

fn before(service: &Service) -> Gateway {
    Gateway::start(&yaml(&service.target(), "", ", max_body: 64MiB"))
}

#[test]
fn one_note_for_one_with_metadata_both_ways() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let mut request = Request::new(note("hello"));
        request.metadata_mut().insert("x-back", "text".parse().unwrap());
        request.metadata_mut().insert_bin("x-back-bin", MetadataValue::from_bytes(&[0, 255, 10]));
        let response = caller.one(request).await.unwrap();
        assert_eq!(response.get_ref(), &note("hello"));
        assert_eq!(response.metadata().get("x-back").unwrap(), "text");
        assert_eq!(response.metadata().get_bin("x-back-bin").unwrap().to_bytes().unwrap(), &[0, 255, 10][..]);
        assert_eq!(response.metadata().get("grpc-status").unwrap(), "0");
        assert!(response.metadata().get("x-request-id").is_some());
    });
    let call = service.calls.lock().unwrap()[0].clone();
    assert_eq!(call.get("te").unwrap(), "trailers");
    assert_eq!(call.get("x-forwarded-for").unwrap(), "127.0.0.1");
    let line = &gateway.access_lines(1)[0];
    assert_eq!((&line["status"], &line["grpc_status"], &line["error"]), (&200.into(), &0.into(), &().into()));
}

#[test]
fn errors_of_the_service_come_whole() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let check = |status: tonic::Status| {
            assert_eq!((status.code(), status.message()), (Code::NotFound, "no ☃ here"));
            assert_eq!(status.details(), &[1, 2, 3]);
            assert_eq!(status.metadata().get("x-why").unwrap(), "searched");
            assert_eq!(status.metadata().get_bin("x-why-bin").unwrap().to_bytes().unwrap(), &[0, 255, 7][..]);
        };
        // In the head, which is all of the answer; and behind messages.
        check(caller.one(Request::new(note("fail"))).await.unwrap_err());
        let (send, answer) = caller.chat().await;
        send.send(note("one")).unwrap();
        let mut notes = answer.await.unwrap().into_inner();
        assert_eq!(notes.message().await.unwrap(), Some(note("one")));
        send.send(note("fail")).unwrap();
        check(notes.message().await.unwrap_err());
        let unknown = caller.call("/kit.Notes/Nothing", Request::new(note(""))).await.unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
    });
    let lines = gateway.access_lines(3);
    assert!(lines.iter().all(|line| line["status"] == 200 && line["error"].is_null()), "{lines:?}");
    assert_eq!(lines.iter().filter(|line| line["grpc_status"] == 5).count(), 2, "{lines:?}");
}

#[test]
fn a_conversation_is_not_held_back() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let (send, answer) = caller.chat().await;
        let mut notes = answer.await.unwrap().into_inner(); // before anything was said
        for round in 0..100 {
            let said = note(&format!("round {round}"));
            send.send(said.clone()).unwrap();
            assert_eq!(notes.message().await.unwrap(), Some(said));
        }
        drop(send);
        assert_eq!(notes.message().await.unwrap(), None);
    });
}

#[test]
fn streams_of_one_side() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let (send, answer) = caller.chat().await;
        for _ in 0..500 {
            send.send(note("up")).unwrap();
        }
        drop(send);
        let mut notes = answer.await.unwrap().into_inner();
        let mut count = 0;
        while let Some(note) = notes.message().await.unwrap() {
            assert_eq!(note.text, "up");
            count += 1;
        }
        assert_eq!(count, 500);
        drop(notes);
        let (send, answer) = caller.chat().await;
        send.send(Note { count: 2000, ..note("down") }).unwrap();
        drop(send);
        let mut notes = answer.await.unwrap().into_inner();
        let mut count = 0;
        while notes.message().await.unwrap().is_some() {
            count += 1;
        }
        assert_eq!(count, 2000);
    });
}

#[test]
fn large_messages_pass() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let data: Vec<u8> = (0..5_000_000u32).map(|n| (n % 251) as u8).collect();
        let response = caller.one(Request::new(Note { data: data.clone(), ..note("large") })).await.unwrap();
        assert!(response.get_ref().data == data);
    });
}

/// Nothing is asked of the speed of a conversation, and a pause of the service before it has all of the call is none.
#[test]
fn a_conversation_may_pause() {
    let service = Service::start();
    let limits = "limits: {min_body_rate: 1MiB/s}\n";
    let yaml = yaml(&service.target(), "    timeouts: {read: 200ms}", "");
    let gateway = Gateway::start(&format!("{limits}{yaml}"));
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let (send, answer) = caller.chat().await;
        let mut notes = answer.await.unwrap().into_inner();
        // As long as it takes until a body's speed counts.
        for pause in [5500, 300] {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            send.send(note("late")).unwrap();
            assert_eq!(notes.message().await.unwrap(), Some(note("late")));
        }
    });
}

// What ends a call

#[test]
fn a_deadline_is_held_by_the_gateway() {
    let mut service = Service::start();
    let gateway = before(&service);
    run(async {
        // The caller's own clock would hide the gateway's.
        let mut client = Http2::connect(gateway.address()).await;
        let request = http::Request::post("http://test/kit.Notes/One")
            .header("content-type", "application/grpc+proto")
            .header("te", "trailers")
            .header("grpc-timeout", "300m");
        let message = prost::Message::encode_to_vec(&note("never"));
        let framed = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let begun = Instant::now();
        let answer = client.exchange(request.body(()).unwrap(), &framed).await.unwrap();
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("4")), "{answer:?}");
        assert_eq!(answer.field("content-type"), Some("application/grpc"));
        assert!(answer.field("x-request-id").is_some() && answer.body.is_empty());
        assert!((300..5000).contains(&begun.elapsed().as_millis()));
        service.given_up.recv().await.unwrap();
    });
    let line = &gateway.access_lines(1)[0];
    assert_eq!((&line["status"], &line["grpc_status"]), (&504.into(), &4.into()), "{line}");
    assert_eq!(line["error"], "exchange_timeout");
}

/// Also behind messages, where the status takes the place of what was to come.
#[test]
fn a_call_that_has_begun_ends_with_a_status() {
    let mut service = Service::start();
    let gateway = Gateway::start(&yaml(&service.target(), "", ", timeout: 500ms"));
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let (send, answer) = caller.chat().await;
        send.send(note("one")).unwrap();
        let mut notes = answer.await.unwrap().into_inner();
        assert_eq!(notes.message().await.unwrap(), Some(note("one")));
        let status = notes.message().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        service.given_up.recv().await.unwrap();
    });
    assert_eq!(gateway.access_lines(1)[0]["error"], "exchange_timeout");
}

/// A caller that is still speaking when it has its status is not waited for.
#[test]
fn a_status_ends_a_call_whoever_still_speaks() {
    let service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let (send, answer) = caller.chat().await;
        send.send(note("fail")).unwrap();
        let begun = Instant::now();
        let mut notes = answer.await.unwrap().into_inner();
        assert_eq!(notes.message().await.unwrap_err().code(), Code::NotFound);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        while gateway.access_log().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        drop(send);
    });
    let line = &gateway.access_lines(1)[0];
    assert_eq!((&line["grpc_status"], &line["error"]), (&5.into(), &().into()), "{line}");
}

#[test]
fn who_gives_up_is_heard_of_at_the_service() {
    let mut service = Service::start();
    let gateway = before(&service);
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let mut request = Request::new(note("never"));
        request.set_timeout(Duration::from_millis(200));
        let status = caller.one(request).await.unwrap_err();
        assert!(matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded), "{status:?}");
        service.given_up.recv().await.unwrap();
        let (send, answer) = caller.chat().await;
        send.send(Note { count: 300_000, ..note("many") }).unwrap();
        let mut notes = answer.await.unwrap().into_inner();
        notes.message().await.unwrap();
        drop((notes, send));
        service.given_up.recv().await.unwrap();
    });
}

/// Compressed or not, a message is the two ends' affair.
#[test]
fn messages_are_not_looked_into() {
    let origin = Http2Origin::start(|mut asked: Asked| async move {
        let (body, _) = asked.whole().await.unwrap();
        let head = http::Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-encoding", &asked.head.headers["grpc-encoding"]);
        let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
        send.send_data(body.into(), false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        send.send_trailers(trailers).unwrap();
    });
    let gateway = Gateway::start(&yaml(&origin.target(), "", ""));
    run(async {
        let mut client = Http2::connect(gateway.address()).await;
        let request = http::Request::post("http://test/kit.Notes/One")
            .header("content-type", "application/grpc")
            .header("grpc-encoding", "gzip")
            .header("grpc-accept-encoding", "gzip,identity");
        let answer = client.exchange(request.body(()).unwrap(), b"\x01\0\0\0\x03\xff\0\xff").await.unwrap();
        assert_eq!(answer.body, b"\x01\0\0\0\x03\xff\0\xff");
        assert_eq!(answer.field("grpc-encoding"), Some("gzip"));
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    });
    assert_eq!(origin.heads()[0].headers["grpc-accept-encoding"], "gzip,identity");
}

// What the gateway says itself

#[test]
fn a_cause_is_a_status_of_grpc() {
    let (_refusing, address) = kit::origin::refusing();
    let service = Service::start();
    let gateway = Gateway::start(&format!(
        "{TOP}upstreams:\n  dead: {{targets: [\"{address}\"], protocol: h2c}}\n  notes: {{targets: [\"{}\"], protocol: h2c}}\nroutes:\n  - {{path: /dead, upstream: dead}}\n  - {{path: /kit.Notes, upstream: notes, max_body: 1KiB}}\n  - {{path: /get, methods: [GET], upstream: notes}}\n",
        service.target()
    ));
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        for (path, code, words) in [
            ("/nobody/One", Code::Unimplemented, "Service not found"),
            ("/get", Code::Unimplemented, "Method not allowed"),
            ("/dead/One", Code::Unavailable, "Bad gateway"),
        ] {
            let status = caller.call(path, Request::new(note(""))).await.unwrap_err();
            assert_eq!(status.code(), code, "{path}: {status:?}");
            assert!(status.message().starts_with(words), "{path}: {status:?}");
            assert!(status.metadata().get("x-request-id").is_some(), "{path}: {status:?}");
        }
        let large = Note { data: vec![7; 5000], ..note("large") };
        let status = caller.one(Request::new(large)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        // Who does not speak it has a problem.
        let mut client = Http2::connect(gateway.address()).await;
        assert_eq!(client.get("/nobody").await.problem(), "no_route");
    });
    let lines = gateway.access_lines(5);
    let told: Vec<(u64, u64)> = lines[..4]
        .iter()
        .map(|l| (l["status"].as_u64().unwrap(), l["grpc_status"].as_u64().unwrap()))
        .collect();
    assert_eq!(told, [(404, 12), (405, 12), (502, 14), (413, 8)]);
    assert!(lines[4].get("grpc_status").is_none());
}

// Checks

/// A server that says so of its health, or refuses the call with a status.
fn server_of_health(says: &Arc<AtomicU8>) -> Http2Origin {
    let says = Arc::clone(says);
    Http2Origin::start(move |mut asked: Asked| {
        let says = says.load(Ordering::SeqCst);
        async move {
            let (body, _) = asked.whole().await.unwrap();
            let head = http::Response::builder().header("content-type", "application/grpc");
            if says == 9 || body != b"\0\0\0\0\x0b\x0a\x09kit.Notes" {
                let head = head.header("grpc-status", "5").body(()).unwrap();
                asked.respond.send_response(head, true).unwrap();
                return;
            }
            let mut send = asked.respond.send_response(head.body(()).unwrap(), false).unwrap();
            send.send_data(vec![0, 0, 0, 0, 2, 8, says].into(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            send.send_trailers(trailers).unwrap();
        }
    })
}

#[test]
fn a_server_says_whether_it_serves() {
    let says = Arc::new(AtomicU8::new(1));
    let origin = server_of_health(&says);
    let check = "    health_check: {grpc: {service: kit.Notes}, host: check.test, interval: 50ms, unhealthy_after: 1}";
    let gateway = Gateway::start(&yaml(&origin.target(), check, ""));
    until("it is asked twice", || origin.heads().len() >= 2);
    let head = &origin.heads()[0];
    assert_eq!(head.uri.to_string(), "http://check.test/grpc.health.v1.Health/Check");
    assert_eq!((head.method.as_str(), head.headers["te"].to_str().unwrap()), ("POST", "trailers"));
    assert!(!gateway.log().iter().any(|line| line.contains("unhealthy")));
    for (said, words) in [(2, "NOT_SERVING"), (9, "does not know that service"), (0, "UNKNOWN")] {
        says.store(said, Ordering::SeqCst);
        gateway.wait_log(&["is unhealthy: ", words]);
        run(async {
            let mut caller = Caller::connect(gateway.address()).await;
            let status = caller.one(Request::new(note(""))).await.unwrap_err();
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        });
        let lines = gateway.log().len();
        says.store(1, Ordering::SeqCst);
        until("it is well again", || {
            gateway.log_from(lines - 1).iter().any(|line| line.contains("is healthy again"))
        });
    }
}

#[test]
fn what_has_no_health_is_not_healthy() {
    let check = "    health_check: {grpc: true, interval: 50ms, unhealthy_after: 1}";
    let service = Service::start(); // has no such method
    Gateway::start(&yaml(&service.target(), check, "")).wait_log(&["is unhealthy: it has no health checks"]);
    let web = Http2Origin::text("hello");
    Gateway::start(&yaml(&web.target(), check, "")).wait_log(&["is unhealthy: it does not speak gRPC"]);
}

#[test]
fn a_call_too_many_is_told_so_in_grpc() {
    let service = Service::start();
    let gateway = Gateway::start(&yaml(&service.target(), "", ", rate_limit: {rate: 1/d}"));
    run(async {
        let mut caller = Caller::connect(gateway.address()).await;
        let response = caller.one(Request::new(note("one"))).await.unwrap();
        assert!(response.metadata().get("ratelimit").unwrap().to_str().unwrap().contains(";r=0;"));
        let refused = caller.one(Request::new(note("two"))).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert!(refused.metadata().get("ratelimit-policy").is_some());
    });
    assert_eq!(service.calls.lock().unwrap().len(), 1);
}
