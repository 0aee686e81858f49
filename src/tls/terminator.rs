//! One listener's TLS.

use super::acme::{proof, Wanted};
use super::clients::{ClientCert, Clients, Rules, NOBODY};
use super::names::{literal, Names};
use super::pair::Pair;
use super::source::{Flaw, Source};
use super::ticket::{TicketKeys, Tickets};
use crate::base::identity::Identity;
use arc_swap::ArcSwap;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCertUsingSni, ServerConfig, ServerConnection};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{HandshakeKind, ProtocolVersion, SupportedProtocolVersion};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::server::TlsStream;
use tokio_rustls::LazyConfigAcceptor;

/// What a listener's TLS is made of.
#[derive(Debug)]
pub struct Spec {
    /// The certificates. The first is for who asks for none of the others' names; where there is none, the first of those
    /// below is.
    pub pairs: Vec<Pair>,
    /// Those that an authority issues, as far as they are there.
    pub issued: Vec<(Arc<Wanted>, Option<Pair>)>,
    /// Who must show a certificate.
    pub clients: Vec<Clients>,
    /// Whether TLS 1.2 is not spoken either.
    pub only_tls13: bool,
    /// What is offered by ALPN (RFC 7301), most wanted first.
    pub protocols: Vec<Vec<u8>>,
}

/// Ends TLS for one listener.
#[derive(Debug)]
pub struct Terminator {
    state: ArcSwap<State>,
    only_tls13: bool,
    protocols: Vec<Vec<u8>>,
    keys: Arc<TicketKeys>,
    line: Arc<Line>,
    /// For who asks while there is no certificate.
    nothing: Arc<ServerConfig>,
    /// Which of its line it was when it took over; 0: it has not yet. Held while its rules change.
    turn: Mutex<u64>,
    seen: Mutex<Seen>,
}

/// What all terminators of one listener have in common, one after the other, so that a connection made under an older
/// one is held to the rules of today.
#[derive(Debug, Default)]
struct Line {
    /// How many have taken over; only the last has a say.
    turns: Mutex<u64>,
    rules: ArcSwap<Rules>,
    /// How often they have changed.
    changes: AtomicU64,
}

/// What was seen of the files.
#[derive(Debug, Default)]
struct Seen {
    /// When their contents were taken up.
    used: Vec<Option<Identity>>,
    /// At the last look, if it was something else.
    last: Option<Vec<Option<Identity>>>,
}

#[derive(Debug, Default)]
struct State {
    /// The operator's, then those of `issued` that are there.
    pairs: Vec<Arc<Pair>>,
    /// How many are the operator's.
    own: usize,
    issued: Vec<Issued>,
    /// The hosts that have no certificate yet: a handshake for them would show another's.
    awaited: HashSet<Box<str>>,
    clients: Vec<Arc<Clients>>,
    rules: Arc<Rules>,
    /// The pairs for a name, cheapest first; a wildcard's stand under its `.domain`.
    by_name: HashMap<Box<str>, Vec<usize>>,
    /// For each pair: without a client's certificate, then by each of `clients`.
    configs: Vec<Vec<Arc<ServerConfig>>>,
}

/// A certificate that an authority issues, once it has.
type Issued = (Arc<Wanted>, Option<Arc<Pair>>);

/// A certificate, for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its file.
    pub file: PathBuf,
    /// Its names.
    pub names: Vec<String>,
    /// When it begins and ends, in seconds since 1970.
    pub valid: (i64, i64),
}

impl Terminator {
    /// Of what was read. `before` is the one that this replaces on the same listener.
    pub fn new(spec: Spec, keys: Arc<TicketKeys>, before: Option<&Terminator>) -> Self {
        let Spec { pairs, issued, clients, only_tls13, protocols } = spec;
        let mut terminator = Terminator {
            state: ArcSwap::from_pointee(State::default()),
            only_tls13,
            protocols,
            keys,
            nothing: nothing_to_show(),
            line: before.map(|before| Arc::clone(&before.line)).unwrap_or_default(),
            turn: Mutex::default(),
            seen: Mutex::default(),
        };
        let pairs = pairs.into_iter().map(Arc::new).collect();
        let known = before.map(|before| before.state.load_full());
        let issued = issued.into_iter().map(|(wanted, pair)| {
            // What has been broken since it was read is still good here.
            let known = || known.as_ref().and_then(|known| known.issued_to(&wanted.host));
            let pair = pair.map(Arc::new).or_else(known);
            (wanted, pair)
        });
        let issued = issued.collect();
        let state = terminator.build(pairs, issued, clients.into_iter().map(Arc::new).collect());
        if before.is_none() {
            terminator.turn = Mutex::new(terminator.line.take_over(&state.rules));
        }
        terminator.state = ArcSwap::from_pointee(state);
        terminator
    }

    /// From now on this one serves the listener: connections made before are held to its rules.
    pub fn take_over(&self) {
        let mut turn = lock(&self.turn);
        *turn = self.line.take_over(&self.state.load().rules);
    }

    /// Does a handshake; `None` where it was one with an authority that wanted to see a proof, and has.
    ///
    /// # Errors
    /// What went wrong; the client has been told as far as TLS has words for it.
    pub async fn accept<S>(&self, io: S) -> io::Result<Option<(TlsStream<S>, Session)>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let start = LazyConfigAcceptor::new(Acceptor::default(), io).await?;
        let hello = start.client_hello();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let state = self.state.load_full();
        if let Some(config) = state.proof(name.as_deref(), &hello) {
            // Nothing else is spoken there: the authority has seen the certificate, and that is all.
            start.into_stream(config).await?.shutdown().await?;
            return Ok(None);
        }
        let Some(pair) = state.choose(name.as_deref(), &hello) else {
            start.into_stream(Arc::clone(&self.nothing)).await?;
            return Err(io::Error::other("there is no certificate for it yet"));
        };
        let host = name.as_deref().unwrap_or_default();
        let rule = state.rules.of(host);
        let config = Arc::clone(&state.configs[pair][rule.map_or(0, |rule| rule + 1)]);
        let context = rule.map_or(NOBODY, |rule| state.clients[rule].context);
        let stream = start.into_stream(config).await?;
        let names = Arc::clone(&state.pairs[pair].names);
        let held = self.line.hold(host, context);
        let session = Session::of(stream.get_ref().1, name, names, held);
        Ok(Some((stream, session)))
    }

    /// Looks whether files have changed, and takes up what they have now. A change is looked at a second time first, since
    /// whoever writes may not be done. Blocks.
    ///
    /// # Errors
    /// What is wrong with them; what was read before stays in use.
    pub fn look(&self) -> Result<bool, Vec<Flaw>> {
        let state = self.state.load_full();
        let now: Vec<_> = state.files().map(|file| Identity::of(&file)).collect();
        {
            let mut seen = lock(&self.seen);
            if seen.used == now {
                seen.last = None;
                return Ok(false);
            }
            if !seen.used.is_empty() && seen.last.as_ref() != Some(&now) {
                seen.last = Some(now);
                return Ok(false);
            }
            // Also when they are wrong: they are looked at again when they change again.
            *seen = Seen { used: now, last: None };
        }
        self.read_again(&state)
    }

    /// None waits for another that is broken: not a list of revoked clients for a certificate, nor what an authority issues
    /// for what an operator writes; only who is issued to says what is wrong with that.
    fn read_again(&self, old: &State) -> Result<bool, Vec<Flaw>> {
        let own = &old.pairs[..old.own];
        let mut flaws = Vec::new();
        let (pairs, new_pairs) =
            renewed(own, &mut flaws, Pair::again, |new, old| new.fingerprint == old.fingerprint);
        let (clients, new_clients) =
            renewed(&old.clients, &mut flaws, Clients::again, |new, old| new.context == old.context);
        let issued: Vec<Issued> = old.issued.iter().map(issued_again).collect();
        let print = |(_, pair): &Issued| pair.as_ref().map(|pair| pair.fingerprint);
        let new_issued = !issued.iter().map(print).eq(old.issued.iter().map(print));
        let changed = new_pairs || new_clients || new_issued;
        if changed {
            let state = Arc::new(self.build(pairs, issued, clients));
            self.state.store(Arc::clone(&state));
            self.line.follow(*lock(&self.turn), &state.rules);
        }
        match flaws.is_empty() {
            true => Ok(changed),
            false => Err(flaws),
        }
    }

    /// The certificates that are in use.
    pub fn certificates(&self) -> Vec<Shown> {
        let shown = |pair: &Arc<Pair>| Shown {
            file: pair.cert.clone(),
            names: pair
                .names
                .dns
                .iter()
                .map(ToString::to_string)
                .chain(pair.names.addresses.iter().map(ToString::to_string))
                .collect(),
            valid: (pair.not_before, pair.not_after),
        };
        self.state.load().pairs.iter().map(shown).collect()
    }

    fn build(&self, mut pairs: Vec<Arc<Pair>>, issued: Vec<Issued>, clients: Vec<Arc<Clients>>) -> State {
        let own = pairs.len();
        pairs.extend(issued.iter().filter_map(|(_, pair)| pair.clone()));
        let mut by_name: HashMap<Box<str>, Vec<usize>> = HashMap::new();
        for (at, pair) in pairs.iter().enumerate() {
            for name in &pair.names.dns {
                let key = name.strip_prefix('*').unwrap_or(name);
                by_name.entry(key.into()).or_default().push(at);
            }
        }
        by_name.values_mut().for_each(|of_name| of_name.sort_by_key(|at| pairs[*at].cost()));
        let configs = pairs
            .iter()
            .map(|pair| {
                let rules = std::iter::once(None).chain(clients.iter().map(|rule| Some(&**rule)));
                rules.map(|rule| Arc::new(self.config(&pair.certified, rule))).collect()
            })
            .collect();
        let rules = Arc::new(Rules::new(&clients));
        let covered = |host: &str| pairs.iter().any(|pair| pair.names.cover(host));
        let awaited = issued.iter().map(|(wanted, _)| &wanted.host).filter(|host| !covered(host));
        let awaited = awaited.cloned().collect();
        State { pairs, own, issued, awaited, clients, rules, by_name, configs }
    }

    fn config(&self, certified: &Arc<CertifiedKey>, rule: Option<&Clients>) -> ServerConfig {
        const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
        let versions = if self.only_tls13 { &BOTH[..1] } else { BOTH };
        let config = ServerConfig::builder_with_provider(super::provider()).with_protocol_versions(versions);
        let config = config.expect("the provider has cipher suites for both");
        let config = match rule {
            Some(rule) => config.with_client_cert_verifier(Arc::clone(&rule.verifier)),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
        config.alpn_protocols.clone_from(&self.protocols);
        // Who was looked at once is looked at each time: a ticket would outlast its certificate, and the list of those revoked.
        if rule.is_none() {
            config.ticketer = Arc::new(Tickets(Arc::clone(&self.keys)));
        }
        // What a client needs to come back is in its ticket alone.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config
    }
}

impl Line {
    /// What a connection for a host is held to that was made under the rule of this context.
    fn hold(self: &Arc<Self>, host: &str, context: [u8; 32]) -> Held {
        // The count first: rules that are newer than it are noticed by it.
        let changes = self.changes.load(Ordering::Acquire);
        let agreed = (self.rules.load().context(host) == context).then_some(changes);
        Held { line: Arc::clone(self), agreed, context }
    }

    /// One more takes over, with these rules; which it is.
    fn take_over(&self, rules: &Arc<Rules>) -> u64 {
        let mut turns = lock(&self.turns);
        *turns += 1;
        self.change(rules);
        *turns
    }

    /// The rules of the one that took over at this turn have changed. Another may have come after it, whose word then counts.
    fn follow(&self, turn: u64, rules: &Arc<Rules>) {
        let turns = lock(&self.turns);
        if turn == *turns {
            self.change(rules);
        }
    }

    fn change(&self, rules: &Arc<Rules>) {
        if !self.rules.load().same(rules) {
            self.rules.store(Arc::clone(rules));
            self.changes.fetch_add(1, Ordering::Release);
        }
    }
}

impl State {
    fn issued_to(&self, host: &str) -> Option<Arc<Pair>> {
        self.issued.iter().find(|(wanted, _)| *wanted.host == *host)?.1.clone()
    }

    /// The pair for a name: its own, a wildcard's, else the first; of several the cheapest whose signature the client knows.
    /// None while there is none, or the name's own is still to come.
    fn choose(&self, name: Option<&str>, hello: &ClientHello<'_>) -> Option<usize> {
        let named = name.and_then(|name| {
            let wildcard = || self.by_name.get(&name[name.find('.')?..]);
            self.by_name.get(name).or_else(wildcard)
        });
        let Some(named) = named else {
            let awaited = name.is_some_and(|name| self.awaited.contains(name));
            return (!self.pairs.is_empty() && !awaited).then_some(0);
        };
        let schemes = hello.signature_schemes();
        let knows = |at: &&usize| self.pairs[**at].certified.key.choose_scheme(schemes).is_some();
        Some(*named.iter().find(knows).unwrap_or(&named[0]))
    }

    /// How the handshake is done if an authority begins it that is to see that a host is ours.
    fn proof(&self, name: Option<&str>, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        if self.issued.is_empty() || !proof::is_asked_for(hello) {
            return None;
        }
        let (wanted, _) = self.issued.iter().find(|(wanted, _)| Some(&*wanted.host) == name)?;
        wanted.folder.handshake(&wanted.host)
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> + '_ {
        let own = self.pairs[..self.own].iter().flat_map(|pair| [pair.cert.clone(), pair.key.clone()]);
        let issued = self.issued.iter().map(|(wanted, _)| wanted.file());
        own.chain(issued).chain(self.clients.iter().flat_map(|rule| rule.files()).cloned())
    }
}

/// The pair as it is on disk now. One that is gone or broken stays in use until the next one is there.
fn issued_again((wanted, old): &Issued) -> Issued {
    let file = wanted.file();
    let new = Source::read(&file).and_then(|text| Pair::parse(&text, &text));
    (Arc::clone(wanted), new.ok().map(Arc::new).or_else(|| old.clone()))
}

/// For a handshake that fails as TLS has it fail, with an alert.
fn nothing_to_show() -> Arc<ServerConfig> {
    let config = ServerConfig::builder_with_provider(super::provider()).with_safe_default_protocol_versions();
    let config = config.expect("the provider has cipher suites for both").with_no_client_auth();
    Arc::new(config.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())))
}

/// These as their files have them now, or as they are where the files are broken; and whether any has changed.
fn renewed<T>(
    old: &[Arc<T>],
    flaws: &mut Vec<Flaw>,
    again: impl Fn(&T) -> Result<T, Flaw>,
    same: impl Fn(&T, &T) -> bool,
) -> (Vec<Arc<T>>, bool) {
    let mut changed = false;
    let mut one = |old: &Arc<T>| match again(old) {
        Ok(new) if same(&new, old) => Arc::clone(old),
        Ok(new) => {
            changed = true;
            Arc::new(new)
        }
        Err(flaw) => {
            flaws.push(flaw);
            Arc::clone(old)
        }
    };
    (old.iter().map(&mut one).collect(), changed)
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a connection's TLS has settled.
#[derive(Debug)]
pub struct Session {
    /// `TLSv1.3` or `TLSv1.2`.
    pub version: &'static str,
    /// Whether HTTP/2 was agreed on.
    pub h2: bool,
    /// Whether the client came back with a ticket.
    pub resumed: bool,
    /// The client's certificate, if it showed one.
    pub client: Option<ClientCert>,
    /// The name that the client asked for, if the certificate covers it.
    asked: Option<Box<str>>,
    /// Whether the client named nobody, as who connects by address does (RFC 6066 §3).
    nameless: bool,
    names: Arc<Names>,
    held: Held,
}

/// Which rule for clients' certificates the connection was made under.
#[derive(Debug)]
struct Held {
    line: Arc<Line>,
    /// After how many changes of the rules the one for the name asked for was known to be still this.
    agreed: Option<u64>,
    context: [u8; 32],
}

impl Session {
    fn of(connection: &ServerConnection, name: Option<String>, names: Arc<Names>, held: Held) -> Self {
        let nameless = name.is_none();
        Session {
            version: match connection.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
                _ => "TLSv1.3",
            },
            h2: connection.alpn_protocol() == Some(b"h2"),
            resumed: connection.handshake_kind() == Some(HandshakeKind::Resumed),
            client: connection.peer_certificates().and_then(|chain| chain.first()).map(ClientCert::of),
            asked: name.filter(|name| names.cover(name)).map(Into::into),
            nameless,
            names,
            held,
        }
    }

    /// Whether clients are asked for a certificate here, so that nobody else's word of one counts.
    pub fn asks(&self) -> bool {
        self.held.context != NOBODY
    }

    /// Whether a request for a host (in lower case, without port) may come in on this connection: the certificate covers
    /// it, and its rule for clients' certificates is the one that the connection was made under. A client that connected by
    /// address and asks for an address is asked no more: which certificate it takes there is its own decision.
    pub fn serves(&self, host: &str) -> bool {
        let Held { line, agreed, context } = &self.held;
        let as_asked = self.asked.as_deref() == Some(host);
        if as_asked && *agreed == Some(line.changes.load(Ordering::Acquire)) {
            return true;
        }
        let covered = as_asked
            || self.names.cover(host)
            || self.nameless && (host.is_empty() || literal(host).is_some());
        covered && line.rules.load().context(host) == *context
    }
}
