//! Sets of addresses: networks of IPv4 and IPv6, looked up at the same price however many there are.
//!
//! A tree of eight bits a step: at most 4 steps for an IPv4 address and 16 for an IPv6 address, each a bit or two of one
//! node. (Ranges in order, searched by halves, are smaller, but ask more often the more there are; a binary trie does too.)
//! An IPv4 address written as IPv6 (`::ffff:a.b.c.d`) is the IPv4 address, in networks as well as in what is looked up; a
//! shorter IPv6 prefix such as `::/0` is about IPv6 alone.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::net::IpAddr;

/// A set of networks. It cannot be changed once built.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Tree,
    v6: Tree,
    networks: usize,
}

impl AddressSet {
    /// Of these networks, which may overlap and repeat each other.
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match plain(*network) {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => v6.push(network),
            }
        }
        // What is left has no overlaps and is in order.
        let v4 = Ipv4Net::aggregate(&v4).into_iter().map(|n| (bits(n.network().into()), n.prefix_len()));
        let v6 = Ipv6Net::aggregate(&v6).into_iter().map(|n| (bits(n.network().into()), n.prefix_len()));
        let (v4, v6): (Vec<_>, Vec<_>) = (v4.collect(), v6.collect());
        AddressSet { networks: v4.len() + v6.len(), v4: Tree::of(&v4), v6: Tree::of(&v6) }
    }

    /// Whether the address is in one of the networks.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let tree = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        tree.contains(bits(address))
    }

    /// How many networks there are, those that overlap or follow each other taken together.
    pub fn networks(&self) -> usize {
        self.networks
    }
}

/// The network that is meant: IPv4, where it is written as IPv6.
fn plain(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    let mapped = v6.network().to_ipv4_mapped().filter(|_| v6.prefix_len() >= 96);
    let v4 = mapped.and_then(|v4| Ipv4Net::new(v4, v6.prefix_len() - 96).ok());
    v4.map_or(network, IpNet::V4)
}

/// From the first bit on.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The root is the first node; without one nothing is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Tree(Box<[Node]>);

/// What the next eight bits of an address decide.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Node {
    /// Everything that goes on so is in the set.
    all: [u64; 4],
    /// Some of what goes on so may be: the bits behind decide.
    some: [u64; 4],
    /// Where the nodes of `some` begin; they stand in its order.
    first: u32,
    /// How many of them the words of `some` before each have: to count bits costs most of a step.
    before: [u8; 4],
}

impl Tree {
    /// Of prefixes in order, none within another.
    fn of(prefixes: &[(u128, u8)]) -> Self {
        let mut nodes = Vec::new();
        if !prefixes.is_empty() {
            nodes.push(Node::default());
            grow(&mut nodes, 0, prefixes, 0);
        }
        Tree(nodes.into())
    }

    fn contains(&self, mut bits: u128) -> bool {
        let Some(mut node) = self.0.first() else { return false };
        loop {
            let (word, bit) = place((bits >> 120) as u8);
            if node.all[word] & bit != 0 {
                return true;
            }
            if node.some[word] & bit == 0 {
                return false;
            }
            let before = u32::from(node.before[word]) + (node.some[word] & (bit - 1)).count_ones();
            node = &self.0[(node.first + before) as usize];
            bits <<= 8;
        }
    }
}

fn place(byte: u8) -> (usize, u64) {
    (usize::from(byte / 64), 1 << (byte % 64))
}

/// Fills the node at a place with these prefixes, of which the first `depth` bytes are the same.
fn grow(nodes: &mut Vec<Node>, at: usize, prefixes: &[(u128, u8)], depth: u8) {
    let byte = |prefix: &(u128, u8)| (prefix.0 >> (120 - 8 * u32::from(depth))) as u8;
    let mut node = Node { first: nodes.len() as u32, ..Node::default() };
    let mut longer = Vec::new();
    for same in prefixes.chunk_by(|a, b| byte(a) == byte(b)) {
        let (from, length) = (byte(&same[0]), same[0].1);
        if length > (depth + 1) * 8 {
            let (word, bit) = place(from);
            node.some[word] |= bit;
            longer.push(same);
            continue;
        }
        let count = 1u16 << ((depth + 1) * 8 - length);
        for one in 0..count {
            let (word, bit) = place(from + one as u8);
            node.all[word] |= bit;
        }
    }
    for word in 1..4 {
        node.before[word] = node.before[word - 1] + node.some[word - 1].count_ones() as u8;
    }
    let first = nodes.len();
    nodes[at] = node;
    nodes.resize(first + longer.len(), Node::default());
    for (i, same) in longer.into_iter().enumerate() {
        grow(nodes, first + i, same, depth + 1);
    }
}

/// A CIDR or a single address; bits beyond the prefix are a mistake worth telling.
///
/// # Errors
/// What to write instead.
pub fn network(text: &str) -> Result<IpNet, String> {
    read(text).unwrap_or_else(|| Err(format!("{FORM}, found {text:?}")))
}

const FORM: &str = "expected a network such as 10.0.0.0/8 or 2001:db8::/32";

/// `None`: it is none.
fn read(text: &str) -> Option<Result<IpNet, String>> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Ok(address.to_canonical().into()));
    }
    let network: IpNet = text.parse().ok()?;
    if network.trunc() != network {
        return Some(Err(format!("{text} has bits set behind its prefix; write {}", network.trunc())));
    }
    Some(Ok(plain(network)))
}

/// The networks of a file: one a line, with comments behind `#`.
///
/// # Errors
/// The lines that are wrong, from 1, and how.
pub fn list(text: &str) -> Result<AddressSet, Vec<(usize, String)>> {
    let (mut networks, mut wrong) = (Vec::new(), Vec::new());
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let written = line.split('#').next().unwrap_or_default().trim();
        if written.is_empty() {
            continue;
        }
        // What is no network is not shown: it may be another file, which nobody is to see.
        match read(written).unwrap_or_else(|| Err(FORM.to_owned())) {
            Ok(network) => networks.push(network),
            Err(why) => wrong.push((number + 1, why)),
        }
    }
    if wrong.is_empty() {
        Ok(AddressSet::new(&networks))
    } else {
        Err(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn set(networks: &[&str]) -> AddressSet {
        AddressSet::new(&networks.iter().map(|n| network(n).unwrap()).collect::<Vec<_>>())
    }

    fn has(set: &AddressSet, address: &str) -> bool {
        set.contains(address.parse().unwrap())
    }

    #[test]
    fn networks_end_where_they_end() {
        let set = set(&["10.0.0.0/8", "192.0.2.128/25", "198.51.100.7", "2001:db8::/33", "fe80::1"]);
        for inside in [
            "10.0.0.0",
            "10.255.255.255",
            "192.0.2.128",
            "192.0.2.255",
            "198.51.100.7",
            "2001:db8::",
            "2001:db8:7fff:ffff::1",
            "fe80::1",
            "::ffff:10.1.2.3",
        ] {
            assert!(has(&set, inside), "{inside}");
        }
        for outside in [
            "9.255.255.255",
            "11.0.0.0",
            "192.0.2.127",
            "192.0.3.128",
            "198.51.100.6",
            "198.51.100.8",
            "2001:db8:8000::",
            "2001:db7:ffff::",
            "fe80::2",
            "fe80::",
            "::10.0.0.1",
            "::ffff:11.0.0.0",
            "a00::",
        ] {
            assert!(!has(&set, outside), "{outside}");
        }
        assert_eq!(set.networks(), 5);
    }

    #[test]
    fn all_of_one_family_is_not_the_other() {
        let (v4, v6) = (set(&["0.0.0.0/0"]), set(&["::/0"]));
        assert!(has(&v4, "1.2.3.4") && has(&v4, "::ffff:1.2.3.4") && !has(&v4, "::1"));
        assert!(has(&v6, "::1") && !has(&v6, "1.2.3.4") && !has(&v6, "::ffff:1.2.3.4"));
        let none = AddressSet::default();
        assert!(!has(&none, "1.2.3.4") && !has(&none, "::1"));
    }

    #[test]
    fn what_is_mapped_is_ipv4() {
        for mapped in ["::ffff:10.0.0.0/104", "::ffff:a00:0/104"] {
            assert_eq!(network(mapped).unwrap().to_string(), "10.0.0.0/8");
        }
        assert_eq!(network("::ffff:1.2.3.4").unwrap().to_string(), "1.2.3.4/32");
        assert!(has(&set(&["::ffff:0:0/96"]), "1.2.3.4"));
        let wrong = network("::ffff:10.0.0.1/104").unwrap_err();
        assert!(wrong.ends_with("write ::ffff:10.0.0.0/104"), "{wrong}");
        assert!(network("10.0.0.1/8").unwrap_err().ends_with("write 10.0.0.0/8"));
        for bad in ["10.0.0.0/33", "10.0.0", "", "a", "10.0.0.0/-1", "::/129", "10.0.0.0 /8"] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files_have_a_network_a_line() {
        let set = list("\u{feff}# the office\r\n10.0.0.0/8 # here\r\n\n  ::1\n").unwrap();
        assert!(has(&set, "10.0.0.1") && has(&set, "::1") && set.networks() == 2);
        assert_eq!(list("").unwrap(), AddressSet::default());
        let wrong = list("10.0.0.0/8\n10.0.0.1/8\n# x\nx, y\n").unwrap_err();
        assert_eq!(wrong.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4]);
    }

    fn a_network() -> impl Strategy<Value = IpNet> {
        // Few bits, so that they overlap and follow each other.
        let v4 = (0u32..64, 0u8..=32).prop_map(|(bits, length)| {
            let address = Ipv4Addr::from_bits(bits << 26 | bits << 13 | bits);
            IpNet::V4(Ipv4Net::new(address, length).unwrap().trunc())
        });
        let v6 = (0u128..64, 0u8..=128).prop_map(|(bits, length)| {
            let address = Ipv6Addr::from_bits(bits << 122 | bits << 60 | bits);
            IpNet::V6(Ipv6Net::new(address, length).unwrap().trunc())
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_has_what_the_networks_have(networks in vec(a_network(), 0..12), bits in vec((0u32..64, -2i32..=2), 1..32)) {
            let set = AddressSet::new(&networks);
            let edges = networks.iter().flat_map(|n| [n.network(), n.broadcast()]);
            let v4 = bits.iter().map(|(b, off)| IpAddr::V4(Ipv4Addr::from_bits((b << 26 | b << 13 | b).wrapping_add_signed(*off))));
            let v6 = bits.iter().map(|(b, off)| {
                let b = u128::from(*b);
                IpAddr::V6(Ipv6Addr::from_bits((b << 122 | b << 60 | b).wrapping_add_signed(i128::from(*off))))
            });
            for address in edges.chain(v4).chain(v6) {
                // A v6 address may be a mapped one here, and `::/0` is not about those.
                let address = address.to_canonical();
                let naive = networks.iter().any(|n| plain(*n).contains(&address));
                prop_assert_eq!(set.contains(address), naive, "{}", address);
            }
        }
    }
}
