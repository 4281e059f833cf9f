//! Which addresses may be dialled. A registry on the internet must not be able to point us, by a
//! redirect or by DNS, at what only this machine or this network can reach.
//!
//! The upstream itself is wherever the operator says. Other hosts are reached only in the same
//! class of address as the upstream's own, or a more public one. Names are resolved here, checked
//! and dialled as checked, so that a second look-up cannot change the answer. Where a proxy dials,
//! it alone sees addresses, and only those written as such are checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::error::Fault;
use super::origin::Origin;

/// Classes of addresses, from where anybody may send us to where only ourselves may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Zone {
    Public,
    /// RFC 1918, RFC 2544, RFC 4193, RFC 6598.
    Private,
    Loopback,
    /// Link-local (cloud metadata services among them), multicast, reserved.
    Special,
}

/// A redirect led to an address that this upstream may not send us to.
#[derive(Debug, thiserror::Error)]
#[error("no address of the host is one that this upstream may send us to")]
pub(super) struct Refused;

/// The rule for one upstream. Clones share what it learnt.
#[derive(Debug, Clone)]
pub(super) struct Guard(Arc<Rule>);

#[derive(Debug)]
struct Rule {
    /// The upstream's own host, when it is a name.
    own: Option<String>,
    /// Proxies are the operator's choice too.
    proxies: Vec<String>,
    /// The least public [`Zone`] the upstream itself was found in.
    reach: AtomicU8,
}

impl Guard {
    pub(super) fn new(origin: &Origin) -> Self {
        let (own, reach) = match origin.host() {
            Some(Host::Domain(name)) if origin.is_loopback() => {
                (Some(name.to_owned()), Zone::Loopback)
            }
            Some(Host::Domain(name)) => (Some(name.to_owned()), Zone::Public),
            Some(Host::Ipv4(address)) => (None, zone(address.into())),
            Some(Host::Ipv6(address)) => (None, zone(address.into())),
            None => (None, Zone::Public),
        };
        Self(Arc::new(Rule {
            own,
            proxies: proxies(),
            reach: AtomicU8::new(reach as u8),
        }))
    }

    /// For whatever host, up to `reach`.
    pub(super) fn within(reach: Zone) -> Self {
        Self(Arc::new(Rule {
            own: None,
            proxies: proxies(),
            reach: AtomicU8::new(reach as u8),
        }))
    }

    /// Refuses a URL with an address in it that must not be dialled. A name is checked when it is
    /// resolved.
    pub(super) fn check(&self, url: &Url) -> Result<(), Fault> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => return Ok(()),
        };
        if self.admits(address) {
            return Ok(());
        }
        Err(Fault::Redirect(
            "to an address that it may not send us to: link-local, loopback or private",
        ))
    }

    fn admits(&self, address: IpAddr) -> bool {
        zone(address) as u8 <= self.0.reach.load(Ordering::Relaxed)
    }

    /// The addresses of `host` that may be dialled, by look-up where it is a name.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Fault> {
        let unreachable = |_| Fault::NotAllowed("its name is not found");
        let found = tokio::net::lookup_host((host, port)).await;
        let found = found.map_err(unreachable)?.collect();
        let refused = "none of its addresses is one that may be reached from here: give it a [[route]] with private = true if it is to be";
        self.admitted(host, found)
            .map_err(|Refused| Fault::NotAllowed(refused))
    }

    /// Which of the addresses found for `name` may be dialled.
    fn admitted(&self, name: &str, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Refused> {
        if self.0.own.as_deref() == Some(name) {
            let widest = found.iter().map(|address| zone(address.ip())).max();
            let widest = widest.unwrap_or(Zone::Public);
            self.0.reach.store(widest as u8, Ordering::Relaxed);
            return Ok(found);
        }
        if self.0.proxies.iter().any(|proxy| proxy == name) {
            return Ok(found);
        }
        let admitted: Vec<_> = found
            .into_iter()
            .filter(|address| self.admits(address.ip()))
            .collect();
        if admitted.is_empty() {
            return Err(Refused);
        }
        Ok(admitted)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let name = name.as_str();
            // The port is put in by the client.
            let found = tokio::net::lookup_host((name, 0)).await?.collect();
            let addresses: Addrs = Box::new(guard.admitted(name, found)?.into_iter());
            Ok(addresses)
        })
    }
}

/// The hosts of the proxies that the environment names, as the client reads it.
fn proxies() -> Vec<String> {
    let matcher = Matcher::from_env();
    let targets = ["http://registry.invalid/", "https://registry.invalid/"];
    targets
        .into_iter()
        .filter_map(|target| matcher.intercept(&http::Uri::from_static(target)))
        .filter_map(|proxy| proxy.uri().host().map(str::to_owned))
        .collect()
}

/// The class of an address.
pub(super) fn zone(address: IpAddr) -> Zone {
    match address.to_canonical() {
        IpAddr::V4(address) => zone_v4(address),
        IpAddr::V6(address) => zone_v6(address),
    }
}

fn zone_v4(address: Ipv4Addr) -> Zone {
    let [a, b, c, _] = address.octets();
    // Linux connects to itself at 0.0.0.0.
    if address.is_loopback() || address.is_unspecified() {
        Zone::Loopback
    } else if address.is_private() || (a == 100 && (b & 0xc0) == 64) || (a == 198 && b & 0xfe == 18)
    {
        Zone::Private
    } else if a == 0 || a >= 224 || address.is_link_local() || (a, b, c) == (192, 0, 0) {
        Zone::Special
    } else {
        Zone::Public
    }
}

fn zone_v6(address: Ipv6Addr) -> Zone {
    if address.is_loopback() || address.is_unspecified() {
        return Zone::Loopback;
    }
    match address.segments() {
        // NAT64 (RFC 6052) and 6to4 (RFC 3056): what is behind it decides.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            zone_v4(Ipv4Addr::new(a, b, c, d))
        }
        // Teredo (RFC 4380), which leads to whom it likes.
        [0x2001, 0, ..] => Zone::Special,
        [first, ..] if first & 0xfe00 == 0xfc00 => Zone::Private,
        [first, ..] if first & 0xe000 == 0x2000 => Zone::Public,
        _ => Zone::Special,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(url: &str) -> Guard {
        Guard::new(&Origin::new(&"r.example".parse().unwrap(), url).unwrap())
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter()
            .map(|text| SocketAddr::new(text.parse().unwrap(), 0))
            .collect()
    }

    #[test]
    fn zones() {
        for (address, expected) in [
            ("1.1.1.1", Zone::Public),
            ("10.1.2.3", Zone::Private),
            ("172.31.0.1", Zone::Private),
            ("172.32.0.1", Zone::Public),
            ("100.64.0.1", Zone::Private),
            ("100.128.0.1", Zone::Public),
            ("127.8.8.8", Zone::Loopback),
            ("0.0.0.0", Zone::Loopback),
            ("169.254.169.254", Zone::Special),
            ("224.0.0.1", Zone::Special),
            ("255.255.255.255", Zone::Special),
            ("::1", Zone::Loopback),
            ("::ffff:127.0.0.1", Zone::Loopback),
            ("::ffff:169.254.169.254", Zone::Special),
            ("64:ff9b::a00:1", Zone::Private),
            ("2002:a00:1::1", Zone::Private),
            ("2002:7f00:1::", Zone::Loopback),
            ("2002:101:101::1", Zone::Public),
            ("2001:0:7f00:1::1", Zone::Special),
            ("2001:4860::8888", Zone::Public),
            ("198.18.0.1", Zone::Private),
            ("198.20.0.1", Zone::Public),
            ("fd00::1", Zone::Private),
            ("fe80::1", Zone::Special),
            ("ff02::1", Zone::Special),
            ("2606:4700::1111", Zone::Public),
        ] {
            assert_eq!(zone(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn a_public_registry_leads_nowhere_private() {
        let guard = guard("https://r.example");
        let found = addresses(&["10.0.0.1", "127.0.0.1", "169.254.169.254"]);
        assert!(guard.admitted("cdn.example", found).is_err());
        let mixed = addresses(&["10.0.0.1", "1.1.1.1"]);
        let admitted = guard.admitted("cdn.example", mixed).unwrap();
        assert_eq!(admitted, addresses(&["1.1.1.1"]));
        for url in [
            "https://169.254.169.254/",
            "https://[::1]/",
            "https://10.0.0.1",
        ] {
            assert!(guard.check(&Url::parse(url).unwrap()).is_err(), "{url}");
        }
    }

    #[test]
    fn a_registry_found_in_the_own_network_may_stay_there() {
        let guard = guard("https://r.example");
        let own = addresses(&["10.0.0.1"]);
        assert_eq!(guard.admitted("r.example", own.clone()).unwrap(), own);
        let storage = addresses(&["10.0.0.2"]);
        assert!(guard.admitted("storage.example", storage).is_ok());
        let loopback = addresses(&["127.0.0.1"]);
        assert!(guard.admitted("storage.example", loopback).is_err());
    }

    #[test]
    fn an_upstream_on_this_machine_may_lead_to_this_machine() {
        for url in ["http://127.0.0.1:5000", "http://localhost:5000"] {
            let guard = guard(url);
            let other = Url::parse("http://127.0.0.1:5001/x").unwrap();
            assert!(guard.check(&other).is_ok(), "{url}");
            let metadata = Url::parse("http://169.254.169.254/").unwrap();
            assert!(guard.check(&metadata).is_err(), "{url}");
        }
    }

    #[tokio::test]
    async fn a_refused_host_is_told_from_one_that_is_down() {
        let client = reqwest::Client::builder()
            .no_proxy()
            .dns_resolver(guard("https://r.example"))
            .build()
            .unwrap();
        let error = client.get("http://localhost:1/").send().await.unwrap_err();
        assert!(matches!(Fault::network(error), Fault::Redirect(_)));
    }
}
