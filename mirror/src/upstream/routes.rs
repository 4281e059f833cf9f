//! Which URLs may be asked for, and which of them are one file: the operator's routes. Pure.

use darner_proto::pattern::is_like;
use darner_service::settings::{Route, RouteTo};
use url::{Host, Url};

use super::dial::{Zone, zone};

/// Without a route, hosts are asked at the ports of the web only.
const WEB_PORTS: [u16; 2] = [80, 443];

/// What signs a URL at the storage of clouds, where no route says what does.
const SIGNATURES: [(&str, &[&str]); 3] = [
    (
        "amazonaws.com",
        &["X-Amz-*", "AWSAccessKeyId", "Signature", "Expires"],
    ),
    (
        "storage.googleapis.com",
        &["X-Goog-*", "GoogleAccessId", "Signature", "Expires"],
    ),
    (
        "blob.core.windows.net",
        &[
            "sv", "ss", "srt", "sp", "st", "se", "sr", "sig", "sip", "spr", "skoid", "sktid",
            "skt", "ske", "sks", "skv",
        ],
    ),
];

/// The routes, in the order they count.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
}

/// What is to be done with a URL.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way<'a> {
    /// By which route; `None` when there is none for it.
    pub(super) route: Option<(usize, &'a Route)>,
}

impl Way<'_> {
    pub(super) fn to(&self) -> Option<RouteTo> {
        self.route.map(|(_, route)| route.to)
    }
}

impl Routes {
    pub(super) fn new(routes: &[Route]) -> Self {
        Self {
            routes: routes.to_vec(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.routes.len()
    }

    /// The first route that fits.
    pub(super) fn way(&self, url: &Url) -> Way<'_> {
        let mut routes = self.routes.iter().enumerate();
        Way {
            route: routes.find(|(_, route)| fits(route, url)),
        }
    }

    /// Whether the host may be asked at all, as far as the URL tells. A name's addresses are looked
    /// at when it is dialled.
    pub(super) fn may_ask(&self, url: &Url) -> Result<(), &'static str> {
        let port = url.port_or_known_default().unwrap_or(0);
        match self.way(url).route {
            Some((_, route)) if route.to == RouteTo::Refuse => Err("a [[route]] refuses it"),
            Some(_) => Ok(()),
            None if !WEB_PORTS.contains(&port) => {
                Err("its port is neither 80 nor 443: give it a [[route]] if it is to be reached")
            }
            None => Ok(()),
        }
    }

    /// The URL without what does not say which file is meant.
    pub(super) fn canonical(&self, url: &Url) -> Url {
        let mut canonical = url.clone();
        canonical.set_fragment(None);
        let Some(query) = url.query() else {
            return canonical;
        };
        let route = self.way(url).route.map(|(_, route)| route);
        let listed = route.map(|route| route.ignore_query.iter().map(String::as_str).collect());
        let listed: Option<Vec<_>> = listed.filter(|listed: &Vec<_>| !listed.is_empty());
        let ignored = listed.unwrap_or_else(|| signature(url).to_vec());
        let kept: Vec<_> = query
            .split('&')
            .filter(|pair| {
                let mut decoded = url::form_urlencoded::parse(pair.as_bytes());
                let name = decoded.next().map(|(name, _)| name).unwrap_or_default();
                !ignored.iter().any(|pattern| is_named(pattern, &name))
            })
            .collect();
        let kept = kept.join("&");
        canonical.set_query((!kept.is_empty()).then_some(&kept));
        canonical
    }
}

/// What signs a URL of a storage that is known.
fn signature(url: &Url) -> &'static [&'static str] {
    let host = url.host_str().unwrap_or_default();
    let known = SIGNATURES.iter().find(|(name, _)| {
        let above = host.strip_suffix(name);
        above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
    });
    known.map_or(&[], |(_, names)| names)
}

/// How far the addresses of a route's hosts may be from the internet.
pub(super) fn reach(route: Option<&Route>) -> Zone {
    let Some(route) = route else {
        return Zone::Public;
    };
    // Whoever writes an address down means it.
    match Host::parse(&route.host.name) {
        Ok(Host::Ipv4(address)) => zone(address.into()),
        Ok(Host::Ipv6(address)) => zone(address.into()),
        _ if route.private => Zone::Loopback,
        _ => Zone::Public,
    }
}

fn fits(route: &Route, url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    // A name may be written with the dot of the root.
    let host = host.strip_suffix('.').unwrap_or(host);
    let of_host = match route.host.name.strip_prefix('*') {
        Some("") => true,
        Some(domain) => host.len() > domain.len() && host.ends_with(domain),
        None => host == route.host.name,
    };
    let port = url.port_or_known_default().unwrap_or(0);
    let of_port = match route.host.port {
        Some(given) => given == port,
        None => WEB_PORTS.contains(&port),
    };
    of_host && of_port && is_like(&route.path, url.path())
}

fn is_named(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => {
            let head = name.as_bytes().get(..start.len());
            head.is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes()))
        }
        None => name.eq_ignore_ascii_case(pattern),
    }
}

#[cfg(test)]
mod tests {
    use darner_service::settings::RouteHost;

    use super::*;

    fn route(name: &str, port: Option<u16>, path: &str, to: RouteTo) -> Route {
        Route {
            host: RouteHost {
                name: name.to_owned(),
                port,
            },
            path: path.to_owned(),
            to,
            ignore_query: vec!["X-Amz-*".to_owned(), "Expires".to_owned()],
            private: false,
            ca_file: None,
        }
    }

    fn routes() -> Routes {
        Routes::new(&[
            route("files.example", None, "/secret/*", RouteTo::Refuse),
            route("files.example", None, "*", RouteTo::Swarm),
            route("*.cdn.example", Some(8443), "/a/*.bin", RouteTo::Straight),
        ])
    }

    fn to(url: &str) -> Option<RouteTo> {
        routes().way(&Url::parse(url).unwrap()).to()
    }

    #[test]
    fn the_first_route_that_fits_counts() {
        for (url, expected) in [
            ("https://files.example/x", Some(RouteTo::Swarm)),
            ("https://FILES.example./x", Some(RouteTo::Swarm)),
            ("http://files.example/x", Some(RouteTo::Swarm)),
            ("http://files.example/secret/x", Some(RouteTo::Refuse)),
            ("http://files.example/a/../secret/x", Some(RouteTo::Refuse)),
            ("http://files.example:81/x", None),
            ("https://other.example/x", None),
            (
                "https://x.cdn.example:8443/a/b/c.bin",
                Some(RouteTo::Straight),
            ),
            ("https://x.cdn.example:8443/a/b/c.txt", None),
            ("https://x.cdn.example/a/c.bin", None),
            ("https://cdn.example:8443/a/c.bin", None),
            ("https://xcdn.example:8443/a/c.bin", None),
        ] {
            assert_eq!(to(url), expected, "{url}");
        }
    }

    #[test]
    fn what_does_not_say_which_file_is_left_out() {
        for (url, canonical) in [
            (
                "https://files.example/x?X-Amz-Date=1&id=2&x-amz-signature=3&Expires=4#f",
                "https://files.example/x?id=2",
            ),
            (
                "https://files.example/x?Expires=4",
                "https://files.example/x",
            ),
            ("https://files.example:443/x", "https://files.example/x"),
            (
                "https://files.example/x?%45xpires=4&b=%2F&a",
                "https://files.example/x?b=%2F&a",
            ),
            (
                "https://other.example/x?Expires=4",
                "https://other.example/x?Expires=4",
            ),
            (
                "https://b.s3.eu-west-1.amazonaws.com/k?X-Amz-Signature=1&versionId=2",
                "https://b.s3.eu-west-1.amazonaws.com/k?versionId=2",
            ),
            (
                "https://storage.googleapis.com/b/k?X-Goog-Date=1&X-Goog-Signature=2",
                "https://storage.googleapis.com/b/k",
            ),
            (
                "https://a.blob.core.windows.net/c/k?sv=1&sr=b&sig=2&se=3&snapshot=4",
                "https://a.blob.core.windows.net/c/k?snapshot=4",
            ),
            (
                "https://evilamazonaws.com/k?X-Amz-Signature=1",
                "https://evilamazonaws.com/k?X-Amz-Signature=1",
            ),
        ] {
            let found = routes().canonical(&Url::parse(url).unwrap());
            assert_eq!(found.as_str(), canonical, "{url}");
        }
    }

    #[test]
    fn without_a_route_only_the_ports_of_the_web_are_asked() {
        let may = |url: &str| routes().may_ask(&Url::parse(url).unwrap()).is_ok();
        assert!(may("https://other.example/") && may("http://other.example/"));
        assert!(!may("http://other.example:22/") && !may("http://files.example/secret/x"));
    }

    #[test]
    fn private_addresses_are_for_routes_that_say_so() {
        let mut one = route("files.example", None, "*", RouteTo::Swarm);
        assert_eq!(reach(None), Zone::Public);
        assert_eq!(reach(Some(&one)), Zone::Public);
        one.private = true;
        assert_eq!(reach(Some(&one)), Zone::Loopback);
        let literal = route("169.254.169.254", None, "*", RouteTo::Swarm);
        assert_eq!(reach(Some(&literal)), Zone::Special);
        let private = route("[fd00::1]", None, "*", RouteTo::Swarm);
        assert_eq!(reach(Some(&private)), Zone::Private);
    }
}
