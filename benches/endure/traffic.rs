//! Ordinary traffic. Each kind says what may come of an exchange; everything else is unexplained.

use super::client::{get, must_be, post, unlike, Client};
use super::kit::Response;
use super::origin::{echo, pattern, Mode};
use super::world::World;
use super::{rude, slow};
use fastrand::Rng;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread::Scope;
use std::time::{Duration, Instant};

/// What one exchange gave: a usual outcome, or why nobody can explain it.
pub type Outcome = Result<String, String>;

/// Starts all workers; they end with the world.
pub fn start<'s>(scope: &'s Scope<'s, '_>, world: &'s World) {
    // Exchanges a second of one worker, at the default rate; the last four are as slow as they are.
    for n in 0..2 {
        worker(scope, world, "get", 55.0, keep_alive(world, n));
    }
    worker(scope, world, "connection per request", 40.0, one_each(world));
    worker(scope, world, "post", 40.0, posts(world));
    worker(scope, world, "large bodies", 2.0, large(world));
    worker(scope, world, "pipelined", 5.0, pipelined(world));
    worker(scope, world, "malformed", 10.0, rude::malformed(world));
    worker(scope, world, "vanishing", 10.0, rude::vanishing(world));
    for n in 0..2 {
        worker(scope, world, "flaky get", 25.0, flaky_gets(world, n));
    }
    worker(scope, world, "flaky post", 10.0, flaky_posts(world));
    worker(scope, world, "lonely get", 20.0, lonely(world));
    worker(scope, world, "kept idle", 5.0, idle(world));
    worker(scope, world, "slow client", 5.0, slow::client(world));
    for n in 0..2 {
        worker(scope, world, "tunnel", 5.0, slow::tunnel(world, n));
        worker(scope, world, "long download", 5.0, slow::download(world, n));
    }
}

/// One exchange after the other at an even pace; who is late does not hurry.
fn worker<'s>(
    scope: &'s Scope<'s, '_>,
    world: &'s World,
    kind: &'static str,
    a_second: f64,
    mut exchange: impl FnMut() -> Outcome + Send + 's,
) {
    let pause = Duration::from_secs_f64(1.0 / (a_second * world.pace));
    scope.spawn(move || {
        while !world.is_over() {
            let began = Instant::now();
            let outcome = guarded(&mut exchange);
            world.tally.note(kind, began, outcome);
            world.sleep(pause.saturating_sub(began.elapsed()));
        }
    });
}

/// The kit panics when nothing comes for twenty seconds; here that is an outcome nobody can explain.
pub fn guarded(exchange: impl FnOnce() -> Outcome) -> Outcome {
    catch_unwind(AssertUnwindSafe(exchange)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default())
    })
}

/// A target that no other request has: its echo shows that the answer is this request's.
fn numbered(path: &'static str, worker: usize) -> impl FnMut() -> String {
    let mut n = 0_u64;
    move || {
        n += 1;
        format!("/{path}/{worker}/{n}")
    }
}

fn keep_alive<'s>(world: &'s World, n: usize) -> impl FnMut() -> Outcome + 's {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("steady/get", n));
    move || {
        let target = target();
        must_be(&client.ask(&get(&target))?, echo(&target, None).as_bytes())
    }
}

fn one_each(world: &World) -> impl FnMut() -> Outcome + '_ {
    let mut target = numbered("steady/one", 0);
    move || {
        let target = target();
        must_be(&Client::new(world.gateway).ask(&get(&target))?, echo(&target, None).as_bytes())
    }
}

fn posts(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("steady/post", 0));
    let (mut random, most) = (Rng::with_seed(world.seed ^ 3), pattern(64 << 10));
    move || {
        let body = &most[..random.usize(..most.len())];
        let (request, echo) = post(&target(), body, random.bool());
        must_be(&client.ask(&request)?, echo.as_bytes())
    }
}

fn large(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut client, mut random) = (Client::new(world.gateway), Rng::with_seed(world.seed ^ 4));
    let (mut target, body) = (numbered("steady/large", 0), pattern(2 << 20));
    move || match random.u8(..4) {
        0 => must_be(&client.ask(&get("/steady/down/2097152"))?, &body),
        1 => must_be(&client.ask(&get("/steady/chunked/2097152"))?, &body),
        way => {
            let (request, echo) = post(&target(), &body, way == 2);
            must_be(&client.ask(&request)?, echo.as_bytes())
        }
    }
}

fn pipelined(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("steady/pipe", 0));
    move || {
        let targets: Vec<String> = (0..5).map(|_| target()).collect();
        let requests: Vec<u8> = targets.iter().flat_map(|t| get(t)).collect();
        client.connection().send(requests);
        for target in &targets {
            must_be(&client.answer()?, echo(target, None).as_bytes())?;
        }
        Ok("5 answers in order".to_owned())
    }
}

/// Fifty connections that mostly do nothing: each is used every ten seconds, half of what they are granted.
fn idle(world: &World) -> impl FnMut() -> Outcome + '_ {
    let mut clients: VecDeque<Client> = (0..50).map(|_| Client::new(world.gateway)).collect();
    let mut target = numbered("steady/idle", 0);
    move || {
        clients.rotate_left(1);
        let target = target();
        must_be(&clients[0].ask(&get(&target))?, echo(&target, None).as_bytes())
    }
}

fn flaky_gets<'s>(world: &'s World, n: usize) -> impl FnMut() -> Outcome + 's {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("flaky/get", n));
    move || {
        let (began, target) = (Instant::now(), target());
        let response = client.ask(&get(&target))?;
        // A second attempt hides what closes and what resets; what answers wrongly or not at all shows until the
        // checks have found it.
        shown(&response, &target, world.flaky_troubles(began), |mode| match mode {
            Mode::Stall => &["504 upstream_timeout"],
            Mode::Error => &["500 unwell"],
            Mode::Well | Mode::Closed | Mode::Reset | Mode::Slow => &[],
        })
    }
}

fn flaky_posts(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("flaky/post", 0));
    let body = pattern(5_000);
    move || {
        let (began, target) = (Instant::now(), target());
        let (request, echo) = post(&target, &body, false);
        let response = client.ask(&request)?;
        let troubles = world.flaky_troubles(began);
        if response.status == 200 {
            return must_be(&response, echo.as_bytes());
        }
        // What may have been processed is not sent twice.
        shown(&response, &target, troubles, |mode| match mode {
            Mode::Closed | Mode::Reset => &["502 upstream_broke"],
            Mode::Stall => &["504 upstream_timeout", "502 upstream_broke"],
            Mode::Error => &["500 unwell"],
            Mode::Well | Mode::Slow => &[],
        })
    }
}

fn lonely(world: &World) -> impl FnMut() -> Outcome + '_ {
    let (mut client, mut target) = (Client::new(world.gateway), numbered("lonely/get", 0));
    move || {
        let (began, target) = (Instant::now(), target());
        let response = client.ask(&get(&target))?;
        shown(&response, &target, world.lonely_troubles(began), |mode| match mode {
            // A reset may come before the gateway has looked whether it is connected.
            Mode::Closed | Mode::Reset => &["502 connect", "502 upstream_broke", "503 no_healthy_target"],
            Mode::Stall => &["504 upstream_timeout", "502 upstream_broke", "503 no_healthy_target"],
            Mode::Error => &["500 unwell", "503 no_healthy_target"],
            Mode::Well | Mode::Slow => &[],
        })
    }
}

/// A 200 always; anything else only while an origin is in trouble, and only what that trouble may show.
fn shown(
    response: &Response,
    target: &str,
    troubles: Vec<Mode>,
    may_show: impl Fn(Mode) -> &'static [&'static str],
) -> Outcome {
    if response.status == 200 {
        return must_be(response, echo(target, None).as_bytes());
    }
    let outcome = match response.status {
        500 if response.body == b"unwell" => "500 unwell".to_owned(),
        status => format!("{status} {}", response.problem()),
    };
    match troubles.iter().find(|mode| may_show(**mode).contains(&outcome.as_str())) {
        Some(mode) => Ok(format!("{outcome} ({mode:?})")),
        None => Err(unlike(response, &format!("a 200 in this weather: {troubles:?}"))),
    }
}
