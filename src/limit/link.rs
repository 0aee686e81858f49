//! A connection to a store, and what is said over it.

use super::gcra::Quota;
use super::store::{Mode, Spec};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{
    cmd, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionInfo, ErrorKind, RedisError, Script,
    ServerErrorKind, TlsCertificates, TlsMode,
};
use std::sync::LazyLock;
use std::time::Duration;

const TEXT: &str = include_str!("script.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(TEXT));

/// How often a cluster's client tries another node by itself.
const RETRIES: u32 = 1;

/// A connection that has answered. Many use it at once, and what they say goes out together.
pub(super) enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Buckets of one node, asked for together.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Call {
    keys: Vec<String>,
    arguments: Vec<[i64; 6]>,
    /// Whatever is owed already.
    force: bool,
}

/// What the script answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// In microseconds, and a fraction of one over the limit's count.
    pub(super) debts: Vec<(u64, u64)>,
}

impl Call {
    /// One that takes whatever is owed already.
    pub(super) fn forced() -> Call {
        Call { force: true, ..Call::default() }
    }

    pub(super) fn add(&mut self, key: String, quota: &Quota, cost: i64) {
        let [step, rest, full, part] = quota.in_micros().map(|n| n as i64); // `Quota::new` bounds them
        self.keys.push(key);
        self.arguments.push([step, rest, full, part, i64::from(quota.count()), cost]);
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key is certain to lie where these lie: what stands in its braces is the same.
    pub(super) fn lies_with(&self, key: &str) -> bool {
        fn home(key: &str) -> Option<&str> {
            key.split_once('{')?.1.split_once('}').map(|(home, _)| home)
        }
        self.keys.first().is_none_or(|first| home(first) == home(key))
    }

    /// One that gives back what this one takes.
    pub(super) fn reversed(&self) -> Call {
        let mut back = Call { force: true, ..self.clone() };
        back.arguments.iter_mut().for_each(|arguments| arguments[5] = -arguments[5]);
        back
    }

    fn command(&self, name: &str, script: &str) -> Cmd {
        let mut command = cmd(name);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(i64::from(self.force));
        for argument in self.arguments.iter().flatten() {
            command.arg(*argument);
        }
        command
    }
}

impl Link {
    /// Connects, and has it answer.
    ///
    /// # Errors
    /// Why there is no connection, without secrets.
    pub(super) async fn connect(spec: &Spec) -> Result<Link, String> {
        let link = match &spec.mode {
            Mode::Single => Link::One(single(spec).await?),
            Mode::Cluster => Link::Cluster(cluster(spec).await.map_err(|e| brief(&e))?),
            Mode::Sentinel(master) => Link::One(behind_sentinels(spec, master).await.map_err(|e| brief(&e))?),
        };
        link.ping().await?;
        Ok(link)
    }

    /// Whether it is there; of a cluster every node that counts.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn ping(&self) -> Result<(), String> {
        let ping = cmd("PING");
        let answer = match self {
            Link::One(one) => one.clone().req_packed_command(&ping).await,
            Link::Cluster(cluster) => {
                let all = (MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::AllSucceeded));
                cluster.clone().route_command(ping, RoutingInfo::MultiNode(all)).await
            }
        };
        answer.and_then(redis::Value::extract_error).map(|_| ()).map_err(|e| brief(&e))
    }

    /// Has the script run. A server that does not have it, because it is new or was told to forget, is given it.
    ///
    /// # Errors
    /// What the server or the connection says.
    pub(super) async fn run(&self, call: &Call) -> Result<Answer, String> {
        let asked = self.query(&call.command("EVALSHA", SCRIPT.get_hash())).await;
        let answer = match asked {
            Err(e) if e.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                self.query(&call.command("EVAL", TEXT)).await
            }
            other => other,
        };
        let answer = answer.map_err(|e| brief(&e))?;
        let (Some((allowed, debts)), true) = (answer.split_first(), answer.len() == 2 * call.len() + 1)
        else {
            return Err("an answer that is not the script's".to_owned());
        };
        let number = |n: i64| u64::try_from(n).unwrap_or(0);
        let debts = debts.chunks_exact(2).map(|pair| (number(pair[0]), number(pair[1]))).collect();
        Ok(Answer { allowed: *allowed == 1, debts })
    }

    async fn query(&self, command: &Cmd) -> Result<Vec<i64>, RedisError> {
        match self {
            Link::One(one) => command.query_async(&mut one.clone()).await,
            Link::Cluster(cluster) => command.query_async(&mut cluster.clone()).await,
        }
    }
}

/// What went wrong, in a line.
fn brief(e: &RedisError) -> String {
    e.to_string().replace(['\n', '\r'], " ")
}

fn configuration() -> AsyncConnectionConfig {
    // Whoever asks has a timeout of their own.
    AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None)
}

/// Small messages that somebody waits for.
fn at_once() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn certificates(spec: &Spec) -> Option<TlsCertificates> {
    let pem = |text: &str| text.as_bytes().to_vec();
    let client_tls = spec
        .client
        .as_ref()
        .map(|(cert, key)| ClientTlsConfig { client_cert: pem(cert), client_key: pem(key) });
    let root_cert = spec.ca.as_deref().map(pem);
    (client_tls.is_some() || root_cert.is_some()).then_some(TlsCertificates { client_tls, root_cert })
}

/// With the name and password that stand beside the URL, where there are some.
fn identified(info: ConnectionInfo, spec: &Spec) -> ConnectionInfo {
    let mut settings = info.redis_settings().clone();
    if let Some(username) = &spec.username {
        settings = settings.set_username(username);
    }
    if let Some(password) = &spec.password {
        settings = settings.set_password(password);
    }
    info.set_redis_settings(settings).set_tcp_settings(at_once())
}

/// The first that can be reached.
async fn single(spec: &Spec) -> Result<MultiplexedConnection, String> {
    let mut why = Vec::new();
    for endpoint in &spec.endpoints {
        let info = identified(endpoint.info(), spec);
        let client = match certificates(spec) {
            Some(certificates) => Client::build_with_tls(info, certificates),
            None => Client::open(info),
        };
        let connected = match client {
            Ok(client) => client.get_multiplexed_async_connection_with_config(&configuration()).await,
            Err(e) => Err(e),
        };
        match connected {
            Ok(connection) => return Ok(connection),
            Err(e) => why.push(brief(&e)),
        }
    }
    Err(why.join("; "))
}

async fn cluster(spec: &Spec) -> Result<ClusterConnection, RedisError> {
    let nodes = spec.endpoints.iter().map(|endpoint| identified(endpoint.info(), spec));
    let mut builder = redis::cluster::ClusterClientBuilder::new(nodes)
        .retries(RETRIES)
        .min_retry_wait(1)
        .max_retry_wait(10)
        .connection_timeout(Duration::from_secs(1))
        .response_timeout(spec.timeout.max(Duration::from_millis(500)))
        .tcp_settings(at_once());
    if let Some(certificates) = certificates(spec) {
        builder = builder.certs(certificates);
    }
    builder.build()?.get_async_connection().await
}

/// To the server that the sentinels name now.
async fn behind_sentinels(spec: &Spec, master: &str) -> Result<MultiplexedConnection, RedisError> {
    let addresses = spec.endpoints.iter().map(|endpoint| endpoint.info().addr().clone());
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_tcp_settings(at_once());
    let secure = spec.endpoints.iter().any(|endpoint| endpoint.is_secure());
    if secure {
        builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
    }
    if let Some(certificates) = certificates(spec) {
        builder = builder
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_certificates(certificates);
    }
    // The URLs are the sentinels', and so is what they say of a name, a password and a database.
    if let Some(info) = spec.endpoints.first().map(|endpoint| endpoint.info()) {
        let settings = info.redis_settings();
        if let Some(username) = settings.username() {
            builder = builder.set_client_to_sentinel_username(username);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_sentinel_password(password);
        }
    }
    if let Some(username) = &spec.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &spec.password {
        builder = builder.set_client_to_redis_password(password);
    }
    builder.build()?.get_async_connection_with_config(&configuration()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_together_is_told_by_its_braces() {
        let quota = Quota::new(7, 1, 3).unwrap();
        let mut call = Call::default();
        assert!(call.lies_with("p:{ip=::1}:a"));
        call.add("p:{ip=::1}:route.a:x".to_owned(), &quota, 2);
        assert!(call.lies_with("p:{ip=::1}:route.a:y") && !call.lies_with("p:{ip=::2}:route.a:x"));
        assert_eq!(call.arguments, [[142_857, 1, 428_571, 3, 7, 2]]);
        assert_eq!(call.reversed().arguments[0][5], -2);
        assert!(call.reversed().force);
    }
}
