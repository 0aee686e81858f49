//! Metrics in Prometheus' text format 0.0.4 and in OpenMetrics 1.0, by the library that the Prometheus project keeps.
//!
//! Every series comes from the configuration or from the code: routes, upstreams and targets as configured (or as their names
//! resolve), reasons and classes of statuses as the code names them. A histogram appears with its first observation, so
//! that thousands of idle routes do not make thousands of series.

use super::status::certificates;
use super::Admin;
use crate::auth::jwt::Source;
use crate::gateway::Gateway;
use crate::observe::stats::{Histogram, RouteStats, BOUNDS, CODES, RETRY_REASONS};
use crate::observe::status::Status;
use crate::tls::acme;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{prometheus_text, text, DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt::{Error, Result};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

/// The media type and the text.
pub(super) fn encode(admin: Arc<Admin>, open_metrics: bool) -> (&'static str, String) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Everything(admin)));
    let mut out = String::with_capacity(64 << 10);
    if open_metrics {
        let written = text::encode(&mut out, &registry);
        written.expect("a string takes everything");
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", out)
    } else {
        let written = prometheus_text::encode(&mut out, &registry);
        written.expect("a string takes everything");
        ("text/plain; version=0.0.4; charset=utf-8", out)
    }
}

struct Everything(Arc<Admin>);

impl std::fmt::Debug for Everything {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> Result {
        f.write_str("Everything")
    }
}

impl Collector for Everything {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result {
        let mut families = Families(encoder);
        let gateway = self.0.gateway.load_full();
        let mut process = Status::default();
        self.0.process.describe(&mut process);
        families.routes(&gateway, &self.0.observed.totals.unrouted)?;
        families.upstreams(&gateway)?;
        super::rate_limits::describe(&mut families, &gateway)?;
        families.connections(&self.0, &process)?;
        families.tls(&self.0, &gateway)?;
        families.providers(&gateway)?;
        families.configuration(&self.0, &gateway, &process)?;
        families.written(&self.0, &gateway)?;
        families.runtime(&self.0)?;
        families.process(self.0.observed.started.0)
    }
}

pub(super) struct Families<'a>(DescriptorEncoder<'a>);

pub(super) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

impl Families<'_> {
    fn family(
        &mut self,
        name: &'static str,
        help: &'static str,
        kind: MetricType,
    ) -> std::result::Result<MetricEncoder<'_>, Error> {
        self.0.encode_descriptor(name, help, None, kind)
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &'static str, value: u64) -> Result {
        self.family(name, help, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &'static str, value: f64) -> Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    pub(super) fn counters<'l, const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl Iterator<Item = (Labels<'l, N>, u64)>,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauges<'l, const N: usize>(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl Iterator<Item = (Labels<'l, N>, f64)>,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (labels, value) in series {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histograms<'l>(
        &mut self,
        name: &'static str,
        help: &'static str,
        series: impl Iterator<Item = (Labels<'l, 1>, &'l Histogram)>,
    ) -> Result {
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for (labels, histogram) in series {
            let (counts, sum) = histogram.read();
            let count: u64 = counts.iter().sum();
            if count == 0 {
                continue;
            }
            let bounds = BOUNDS.iter().map(|micros| *micros as f64 / 1e6).chain([f64::MAX]);
            let buckets: Vec<(f64, u64)> = bounds.zip(counts).collect();
            family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }

    fn routes(&mut self, gateway: &Gateway, unrouted: &RouteStats) -> Result {
        let all = || gateway.router.iter().map(|route| &*route.stats).chain([unrouted]);
        self.counters(
            "portcullis_requests",
            "Requests by route and class of the status they were answered with; no route took those with an empty one",
            // All classes at once: a rate begins with the second value of a series, and the first error should show.
            all().filter(|stats| stats.is_used()).flat_map(|stats| {
                let name = &*stats.name.plain;
                CODES.iter().zip(stats.codes()).map(move |(code, count)| ([("route", name), ("code", *code)], count))
            }),
        )?;
        self.histograms(
            "portcullis_request_duration_seconds",
            "From the complete request head to the end of the exchange",
            all().map(|stats| ([("route", &*stats.name.plain)], stats.durations())),
        )?;
        self.gauges(
            "portcullis_in_flight_requests",
            "Requests in flight, tunnels included",
            all()
                .filter(|stats| stats.is_used())
                .map(|stats| ([("route", &*stats.name.plain)], stats.in_flight.load(Relaxed) as f64)),
        )?;
        let rejected: Vec<_> = all()
            .flat_map(|stats| {
                stats.rejected().read().into_iter().map(move |(reason, count)| (stats, reason, count))
            })
            .collect();
        self.counters(
            "portcullis_rejected",
            "Requests that the gateway itself answered, by what decided so",
            rejected
                .iter()
                .map(|(stats, reason, count)| ([("route", &*stats.name.plain), ("reason", *reason)], *count)),
        )
    }

    fn upstreams(&mut self, gateway: &Gateway) -> Result {
        let all = || gateway.upstreams.iter();
        self.histograms(
            "portcullis_upstream_duration_seconds",
            "From the beginning of an attempt to the head of its answer, or to its failure",
            all().map(|upstream| ([("upstream", &**upstream.name())], upstream.stats().durations())),
        )?;
        self.counters(
            "portcullis_upstream_connections",
            "Attempts that got a connection, made for them or kept from before",
            all().flat_map(|upstream| {
                let counts = ["false", "true"].into_iter().zip(upstream.stats().connections());
                counts.map(|(reused, count)| ([("upstream", &**upstream.name()), ("reused", reused)], count))
            }),
        )?;
        self.counters(
            "portcullis_retries",
            "Further attempts, by what became of the one before",
            all().flat_map(|upstream| {
                let counts = RETRY_REASONS.into_iter().zip(upstream.stats().retries());
                counts.map(|(reason, count)| ([("upstream", &**upstream.name()), ("reason", reason)], count))
            }),
        )?;
        let limited = || all().filter_map(|upstream| Some((upstream, upstream.load().limit()?)));
        self.gauges(
            "portcullis_upstream_concurrency_limit",
            "Requests that may wait for an upstream at once, as measured, once it is; as good as infinite while nothing is wrong",
            limited().map(|(upstream, limit)| ([("upstream", &**upstream.name())], limit as f64)),
        )?;
        self.gauges(
            "portcullis_upstream_waiting_requests",
            "Requests that wait for the head of an upstream's answer",
            limited()
                .map(|(upstream, _)| ([("upstream", &**upstream.name())], upstream.load().waiting() as f64)),
        )?;
        let targets: Vec<_> = all()
            .flat_map(|upstream| upstream.targets().into_iter().map(|(target, _)| (upstream.name(), target)))
            .map(|(name, target)| (name, target.text.to_string(), target))
            .collect();
        self.gauges(
            "portcullis_upstream_healthy",
            "1 for a target that gets requests, 0 for one that failed its checks or waits for the first",
            targets.iter().map(|(name, address, target)| {
                let healthy = f64::from(u8::from(target.is_healthy()));
                ([("upstream", &***name), ("target", &**address)], healthy)
            }),
        )?;
        self.gauges(
            "portcullis_upstream_in_flight_requests",
            "Requests that a target is serving",
            targets.iter().map(|(name, address, target)| {
                ([("upstream", &***name), ("target", &**address)], target.in_flight.load(Relaxed) as f64)
            }),
        )
    }

    fn connections(&mut self, admin: &Admin, process: &Status) -> Result {
        self.gauge("portcullis_connections", "Client connections that are open", process.connections as f64)?;
        self.counter(
            "portcullis_connections_accepted",
            "Client connections accepted",
            admin.observed.totals.accepted.load(Relaxed),
        )
    }

    fn tls(&mut self, admin: &Admin, gateway: &Gateway) -> Result {
        let handshakes = ["full", "resumed", "failed"].into_iter().zip(&admin.observed.totals.handshakes);
        self.counters(
            "portcullis_tls_handshakes",
            "TLS handshakes with clients: full, resumed by a ticket, or failed",
            handshakes.map(|(result, count)| ([("result", result)], count.load(Relaxed))),
        )?;
        let certificates: Vec<(String, i64)> = certificates(gateway)
            .into_iter()
            .map(|shown| (shown.file.display().to_string(), shown.valid.1))
            .collect();
        self.gauges(
            "portcullis_certificate_expiry_timestamp_seconds",
            "When a certificate of a listener ends, by its file",
            certificates.iter().map(|(file, until)| ([("certificate", file.as_str())], *until as f64)),
        )?;
        self.acme(gateway)
    }

    fn acme(&mut self, gateway: &Gateway) -> Result {
        let all: Vec<(&str, acme::Status)> =
            gateway.wanted.iter().map(|wanted| (&*wanted.host, wanted.status())).collect();
        if all.is_empty() {
            return Ok(());
        }
        type Time = fn(&acme::Status) -> Option<i64>;
        let times: [(&str, &str, Time); 3] = [
            (
                "portcullis_acme_next_attempt_timestamp_seconds",
                "When a certificate is ordered next, by its host",
                |status| status.next,
            ),
            (
                "portcullis_acme_last_success_timestamp_seconds",
                "From when on the certificate that was issued last is valid",
                |status| status.succeeded,
            ),
            (
                "portcullis_acme_last_failure_timestamp_seconds",
                "When an order failed last, if none has succeeded since",
                |status| status.failed,
            ),
        ];
        for (name, help, time) in times {
            let known = all.iter().filter_map(|(host, status)| Some((*host, time(status)?)));
            self.gauges(name, help, known.map(|(host, time)| ([("host", host)], time as f64)))?;
        }
        self.gauges(
            "portcullis_acme_failures",
            "Orders that failed since one succeeded",
            all.iter().map(|(host, status)| ([("host", *host)], f64::from(status.failures))),
        )
    }

    fn providers(&mut self, gateway: &Gateway) -> Result {
        let all = || gateway.providers.iter().map(|provider| ([("provider", provider.name())], provider));
        if gateway.providers.is_empty() {
            return Ok(());
        }
        self.gauges(
            "portcullis_jwt_keys",
            "Keys of a provider that tokens are verified by; without any nobody comes in by it",
            all().map(|(label, provider)| (label, provider.sizes().0 as f64)),
        )?;
        self.gauges(
            "portcullis_jwt_tokens_cached",
            "Verified tokens of a provider that are remembered",
            all().map(|(label, provider)| (label, provider.sizes().1 as f64)),
        )?;
        self.gauges(
            "portcullis_jwt_keys_seen_timestamp_seconds",
            "When a provider's keys were last seen to be what they are; 0: never",
            // A secret of the configuration's is not looked at again.
            all()
                .filter(|(_, provider)| !matches!(provider.settings().source, Source::Secret(_)))
                .map(|(label, provider)| (label, provider.stats().seen.load(Relaxed) as f64)),
        )?;
        self.counters(
            "portcullis_jwt_refresh_failures",
            "Attempts to see a provider's keys that failed",
            all().map(|(label, provider)| (label, provider.stats().failures.load(Relaxed))),
        )
    }

    fn configuration(&mut self, admin: &Admin, gateway: &Gateway, process: &Status) -> Result {
        let totals = &admin.observed.totals;
        let reloads = ["success", "failure"].into_iter().zip(&totals.reloads);
        self.counters(
            "portcullis_config_reloads",
            "Reloads of the configuration, done or refused",
            reloads.map(|(result, count)| ([("result", result)], count.load(Relaxed))),
        )?;
        self.gauge(
            "portcullis_config_generation",
            "Which configuration serves, counted over reloads and upgrades",
            gateway.generation as f64,
        )?;
        let failed = totals.last_reload_failed.load(Relaxed);
        self.gauge(
            "portcullis_config_last_reload_successful",
            "0 when the last reload was refused",
            f64::from(u8::from(!failed)),
        )?;
        self.gauge(
            "portcullis_config_last_reload_success_timestamp_seconds",
            "When a configuration was taken up last",
            totals.configured_ms.load(Relaxed) as f64 / 1e3,
        )?;
        self.gauge("portcullis_ready", "What /health/ready says", f64::from(u8::from(process.ready)))?;
        self.gauges(
            "portcullis_build_info",
            "The binary that runs",
            [([("version", env!("CARGO_PKG_VERSION"))], 1.0)].into_iter(),
        )
    }

    fn written(&mut self, admin: &Admin, gateway: &Gateway) -> Result {
        let (lines, dropped) = gateway.access_log.counts();
        self.counter("portcullis_access_log_lines", "Lines of the access log that were written", lines)?;
        self.counter(
            "portcullis_access_log_dropped",
            "Lines given up because they were not taken in time, or could not be written",
            dropped,
        )?;
        if let Some(log) = &admin.observed.log {
            let (_, dropped) = log.counts();
            self.counter(
                "portcullis_log_dropped",
                "Lines of the program's own log that were given up",
                dropped,
            )?;
        }
        let Some(tracing) = &gateway.tracing else { return Ok(()) };
        let counts = tracing.exporter.counts();
        self.counters(
            "portcullis_trace_spans",
            "Spans: taken by the collector, dropped for want of room, or not taken",
            [("exported", counts.exported), ("dropped", counts.dropped), ("failed", counts.failed)]
                .into_iter()
                .map(|(result, count)| ([("result", result)], count)),
        )
    }

    fn runtime(&mut self, admin: &Admin) -> Result {
        let Some(workers) = admin.process.workers() else { return Ok(()) };
        let metrics = workers.metrics();
        self.gauge(
            "portcullis_runtime_workers",
            "Threads that serve requests",
            metrics.num_workers() as f64,
        )?;
        self.gauge(
            "portcullis_runtime_tasks",
            "Tasks of these threads, one or more a connection",
            metrics.num_alive_tasks() as f64,
        )?;
        self.gauge(
            "portcullis_runtime_queue_depth",
            "Tasks that wait for a thread",
            metrics.global_queue_depth() as f64,
        )
    }

    /// What every exporter says of its process, by the names that Prometheus' clients agree on.
    fn process(&mut self, started: f64) -> Result {
        self.gauge("process_start_time_seconds", "When the process began", started)?;
        let Ok(process) = procfs::process::Process::myself() else { return Ok(()) };
        if let Ok(stat) = process.stat() {
            let ticks = procfs::ticks_per_second() as f64;
            let seconds = (stat.utime + stat.stime) as f64 / ticks;
            self.family("process_cpu_seconds", "Processor time, user and system", MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
            self.gauge(
                "process_resident_memory_bytes",
                "Memory that is in use",
                (stat.rss * procfs::page_size()) as f64,
            )?;
            self.gauge("process_virtual_memory_bytes", "Memory that is addressed", stat.vsize as f64)?;
            self.gauge("process_threads", "Threads", stat.num_threads as f64)?;
        }
        if let Ok(open) = process.fd_count() {
            self.gauge("process_open_fds", "Descriptors that are open", open as f64)?;
        }
        if let Ok(limits) = process.limits() {
            if let procfs::process::LimitValue::Value(most) = limits.max_open_files.soft_limit {
                self.gauge("process_max_fds", "Descriptors that may be", most as f64)?;
            }
        }
        Ok(())
    }
}
