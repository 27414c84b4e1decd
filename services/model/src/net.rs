//! Address lists of rules (Z20): `*`, single addresses, CIDR, ranges `a-b`, IPv4 and IPv6.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// One item of an `ip_group`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpItem {
    Any,
    Net(IpNet),
    Range(IpAddr, IpAddr),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{item}\" is not *, an address, a network (CIDR) or a range a-b")]
pub struct BadIpItem {
    pub item: String,
}

impl std::str::FromStr for IpItem {
    type Err = BadIpItem;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadIpItem { item: s.to_owned() };
        let s_trim = s.trim();
        if s_trim == "*" {
            return Ok(Self::Any);
        }
        if let Some((from, to)) = s_trim.split_once('-') {
            let from = canonical(from.trim().parse().map_err(|_| bad())?);
            let to = canonical(to.trim().parse().map_err(|_| bad())?);
            return if from.is_ipv4() == to.is_ipv4() && from <= to { Ok(Self::Range(from, to)) } else { Err(bad()) };
        }
        if s_trim.contains('/') {
            return s_trim.parse().map(|net| Self::Net(canonical_net(net))).map_err(|_| bad());
        }
        s_trim.parse::<IpAddr>().map(|ip| Self::Net(IpNet::from(canonical(ip)))).map_err(|_| bad())
    }
}

impl std::fmt::Display for IpItem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Net(net) if net.prefix_len() == net.max_prefix_len() => write!(f, "{}", net.addr()),
            Self::Net(net) => write!(f, "{net}"),
            Self::Range(from, to) => write!(f, "{from}-{to}"),
        }
    }
}

/// IPv4 clients on a dual-stack socket arrive as `::ffff:a.b.c.d`; rules are written for `a.b.c.d`.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}

/// A network written as `::ffff:a.b.c.d/n` is the IPv4 network it means; kept as IPv6 it would never match.
fn canonical_net(net: IpNet) -> IpNet {
    let (ip, prefix) = (canonical(net.addr()), net.prefix_len());
    match (net, prefix.checked_sub(96)) {
        (IpNet::V6(_), Some(prefix)) if ip.is_ipv4() => IpNet::new(ip, prefix).unwrap_or(net),
        _ => net,
    }
}

/// A list of items. An empty list matches nothing: a forgotten field must not open a door.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct IpGroup(pub Vec<IpItem>);

impl IpGroup {
    pub fn any() -> Self {
        Self(vec![IpItem::Any])
    }

    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = canonical(ip);
        self.0.iter().any(|item| match item {
            IpItem::Any => true,
            IpItem::Net(net) => net.contains(&ip),
            IpItem::Range(from, to) => from.is_ipv4() == ip.is_ipv4() && *from <= ip && ip <= *to,
        })
    }
}

impl TryFrom<Vec<String>> for IpGroup {
    type Error = BadIpItem;
    fn try_from(items: Vec<String>) -> Result<Self, Self::Error> {
        items.iter().map(|i| i.parse()).collect::<Result<_, _>>().map(Self)
    }
}

impl From<IpGroup> for Vec<String> {
    fn from(group: IpGroup) -> Self {
        group.0.iter().map(ToString::to_string).collect()
    }
}
