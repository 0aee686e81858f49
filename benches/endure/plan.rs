//! The configuration of the soak, and its changes: a reload every few seconds, good ones and broken ones in a seeded
//! order, each looked at from outside.

use super::client::{get, must_be, Client};
use super::kit::Gateway;
use super::origin::{echo, Origin};
use super::traffic::{guarded, Outcome};
use super::world::{Origins, World};
use fastrand::Rng;
use std::time::{Duration, Instant};

/// Between two reloads.
const EVERY: Duration = Duration::from_secs(3);
/// Connections that are always there count in the idle state too, so upstreams keep theirs for this long only.
pub const KEPT: Duration = Duration::from_secs(5);

/// What stays the same in every version.
pub fn base(origins: &Origins) -> String {
    let targets = |origins: &[Origin]| {
        origins.iter().map(|o| format!("\"{}\"", o.address)).collect::<Vec<_>>().join(", ")
    };
    let (steady, flaky) = (targets(&origins.steady), targets(&origins.flaky));
    let (lonely, kept) = (origins.lonely.address, KEPT.as_secs());
    // Quick checks where failure is the subject; patient ones where there is none, for a machine that is busy.
    let quick = format!(
        "health_check: {{path: /healthz, interval: 300ms, timeout: 300ms, unhealthy_after: 2}}\n    timeouts: {{connect: 500ms, read: 1s, idle: {kept}s}}"
    );
    format!(
        "listeners: [{{address: \"127.0.0.1:0\"}}]
threads: 2
grace_period: 5s
limits: {{idle_timeout: 20s, header_timeout: 5s, connections: 500}}
defaults: {{timeout: 40s, max_body: 20MB}}
upstreams:
  steady:
    targets: [{steady}]
    health_check: {{path: /healthz, interval: 2s, timeout: 2s, unhealthy_after: 5}}
    timeouts: {{connect: 5s, idle: {kept}s}}
  flaky:
    targets: [{flaky}]
    {quick}
  lonely:
    targets: [\"{lonely}\"]
    {quick}
"
    )
}

/// One version: the base, routes to it, a route that tells the version, and what comes and goes.
pub fn version(base: &str, number: u64, extra: &str, extra_upstream: &str) -> String {
    format!(
        "{base}{extra_upstream}routes:
  - {{name: steady, path: /steady, upstream: steady}}
  - {{name: flaky, path: /flaky, upstream: flaky}}
  - {{name: lonely, path: /lonely, upstream: lonely}}
  - {{name: generation, path: {{exact: /generation}}, methods: [GET], respond: {{body: \"{number}\"}}}}
{extra}"
    )
}

/// Reloads until the end.
pub fn reloads(world: &World, gateway: &Gateway, base: &str) {
    let mut random = Rng::with_seed(world.seed ^ 6);
    let (mut serving, mut written) = (0, 0);
    while !world.is_over() {
        world.sleep(EVERY);
        let began = Instant::now();
        written += 1;
        if random.u8(..4) == 0 {
            let how = random.usize(..4);
            let outcome = guarded(|| broken(world, gateway, base, serving, how));
            world.tally.note("broken reload", began, outcome);
        } else {
            serving = written;
            let outcome = guarded(|| good(world, gateway, base, written, &mut random));
            world.tally.note("reload", began, outcome);
        }
    }
}

fn good(world: &World, gateway: &Gateway, base: &str, number: u64, random: &mut Rng) -> Outcome {
    let (count, timeout) = (random.u64(..20), random.u64(10..30));
    let (mut extra, mut upstream) = (String::new(), String::new());
    for n in 0..count {
        extra += &format!("  - {{path: /extra/{number}/{n}, upstream: extra}}\n");
    }
    if count > 0 {
        let target = world.steady[0].address;
        let check = "health_check: {path: /healthz, interval: 1s}";
        let timeouts = format!("timeouts: {{read: {timeout}s, idle: {}s}}", KEPT.as_secs());
        upstream = format!("  extra: {{targets: [\"{target}\"], {check}, {timeouts}}}\n");
    }
    let line = gateway.reload(&version(base, number, &extra, &upstream));
    if line.contains("not reloaded") {
        return Err(format!("version {number}: {line}"));
    }
    let mut client = Client::new(world.gateway);
    serves(&mut client, number)?;
    for n in 0..count {
        let target = format!("/extra/{number}/{n}");
        must_be(&client.ask(&get(&target))?, echo(&target, None).as_bytes())?;
    }
    let before = client.ask(&get(&format!("/extra/{}/0", number - 1)))?;
    if before.status != 404 {
        return Err(format!("a route of the version before {number} answers {}", before.status));
    }
    Ok("serves".to_owned())
}

fn broken(world: &World, gateway: &Gateway, base: &str, serving: u64, how: usize) -> Outcome {
    let (name, yaml) = match how {
        0 => ("not YAML", format!("{base}routes: [{{\n")),
        1 => ("unknown key", version(base, 0, "  - {pth: /x, upstream: steady}\n", "")),
        2 => ("unknown upstream", version(base, 0, "  - {path: /x, upstream: nobody}\n", "")),
        _ => ("needs a restart", version(&base.replace("threads: 2", "threads: 3"), 0, "", "")),
    };
    let line = gateway.reload(&yaml);
    if !line.contains("not reloaded") {
        return Err(format!("{name}: {line}"));
    }
    serves(&mut Client::new(world.gateway), serving)?;
    Ok(format!("refused: {name}"))
}

fn serves(client: &mut Client, number: u64) -> Outcome {
    must_be(&client.ask(&get("/generation"))?, number.to_string().as_bytes())
}
