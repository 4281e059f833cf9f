//! Where an upstream registry is, and which other places it may send us to. Pure.

use darner_proto::name::{RegistryName, RepositoryName};
use http::HeaderValue;
use url::{Host, Url};

use super::error::Fault;

/// Registries whose token service is on another host, by the host that is contacted, as their
/// documentation and their challenges say.
const TOKEN_SERVICES: [(&str, &str); 3] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("index.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
];

/// The name under which Docker Hub's repositories of one component mean `library/...`.
const DOCKER_HUB: &str = "docker.io";

/// A registry's own address.
#[derive(Debug)]
pub(super) struct Origin {
    base: Url,
    is_hub: bool,
}

impl Origin {
    /// `text` is `https://host[:port][/prefix]`, or `http://` where the operator wrote that.
    pub(super) fn new(name: &RegistryName, text: &str) -> Result<Self, Fault> {
        let base = Url::parse(text).map_err(|_| Fault::Setup("its url is not a URL"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(Fault::Setup("its url is neither https:// nor http://"));
        }
        if has_credentials(&base) || base.query().is_some() || base.fragment().is_some() {
            return Err(Fault::Setup(
                "its url carries more than host, port and prefix; credentials go into username and password_file",
            ));
        }
        Ok(Self {
            base,
            is_hub: name.as_str() == DOCKER_HUB,
        })
    }

    /// The name upstream knows a repository by. Docker Hub keeps `docker.io/debian`, as people and
    /// some clients write it, under `library/debian`.
    pub(super) fn repository(&self, name: &RepositoryName) -> String {
        let name = name.as_str();
        if self.is_hub && !name.contains('/') {
            format!("library/{name}")
        } else {
            name.to_owned()
        }
    }

    /// `<base>/v2/<repository>/<rest>`; both parts are by the specification's grammar.
    pub(super) fn url(&self, repository: &str, rest: &str, query: Option<&str>) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/{repository}/{rest}"));
        url.set_query(query);
        url
    }

    /// `<base>/v2/`, which says what a registry wants to see.
    pub(super) fn ping(&self) -> Url {
        let mut url = self.base.clone();
        let prefix = self.base.path().trim_end_matches('/');
        url.set_path(&format!("{prefix}/v2/"));
        url
    }

    /// The host as it stands in URLs.
    pub(super) fn host(&self) -> Option<Host<&str>> {
        self.base.host()
    }

    /// Whether the host is one of these.
    pub(super) fn is_known_as(&self, hosts: &[&str]) -> bool {
        self.base
            .host_str()
            .is_some_and(|host| hosts.contains(&host))
    }

    /// As credentials are kept under: without the port that its scheme has anyway.
    pub(super) fn host_and_port(&self) -> String {
        let host = self.base.host_str().unwrap_or_default();
        match self.base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }

    /// Whether `url` has the scheme, host and port that credentials of this registry belong to.
    pub(super) fn owns(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Whether `url` is at the registry, and the registry has the host to itself.
    pub(super) fn is_whole(&self, url: &Url) -> bool {
        self.owns(url) && self.base.path() == "/"
    }

    /// A URL with the registry's own host and port in place of what it has, where the operator has
    /// put the registry at `http://`.
    pub(super) fn moved(&self, url: &Url) -> Option<Url> {
        if self.base.scheme() != "http" || self.base.path() != "/" {
            return None;
        }
        let mut moved = url.clone();
        moved.set_scheme("http").ok()?;
        moved.set_host(self.base.host_str()).ok()?;
        moved.set_port(self.base.port()).ok()?;
        Some(moved)
    }

    /// Its host and port.
    pub(super) fn route_host(&self) -> Option<(String, Option<u16>)> {
        let host = self.base.host_str()?.to_owned();
        Some((host, self.base.port_or_known_default()))
    }

    /// The hosts of its token service, where that is known to be another.
    pub(super) fn token_hosts(&self) -> impl Iterator<Item = &'static str> {
        let host = self
            .base
            .host_str()
            .filter(|_| self.base.scheme() == "https");
        let own = TOKEN_SERVICES
            .iter()
            .filter(move |(registry, _)| Some(*registry) == host);
        own.map(|(_, service)| *service)
    }

    /// Where a redirect from `from` leads. Plain text is left only by an upstream that was written
    /// so by the operator.
    pub(super) fn redirect(&self, from: &Url, location: &HeaderValue) -> Result<Url, Fault> {
        let target = location.to_str().ok().and_then(|text| from.join(text).ok());
        let target = target.ok_or(Fault::Redirect("to something that is not a URL"))?;
        if !self.may_use_scheme_of(&target) {
            return Err(Fault::Redirect("to something that is not https"));
        }
        if has_credentials(&target) || target.host().is_none() {
            return Err(Fault::Redirect("to a URL with a user in it, or no host"));
        }
        Ok(target)
    }

    /// A challenge's realm as the URL of the token service, if it is one for this registry: on its
    /// own host, or on the host known to belong to it.
    pub(super) fn token_service(&self, realm: &str) -> Result<Url, Fault> {
        let url = Url::parse(realm).map_err(|_| Fault::Realm)?;
        let vetted = self.may_use_scheme_of(&url)
            && !has_credentials(&url)
            && (self.is_on_own_host(&url) || self.is_known_service(&url));
        if vetted { Ok(url) } else { Err(Fault::Realm) }
    }

    fn is_on_own_host(&self, url: &Url) -> bool {
        // What an operator runs at http:// or on this machine has its token service on a port of its own.
        let any_port = self.base.scheme() == "http" || self.is_loopback();
        url.host().is_some()
            && url.host() == self.base.host()
            && (any_port || url.port_or_known_default() == self.base.port_or_known_default())
    }

    fn is_known_service(&self, url: &Url) -> bool {
        let (Some(registry), Some(service)) = (self.base.host_str(), url.host_str()) else {
            return false;
        };
        self.base.scheme() == "https"
            && url.scheme() == "https"
            && url.port().is_none()
            && TOKEN_SERVICES.contains(&(registry, service))
    }

    fn may_use_scheme_of(&self, url: &Url) -> bool {
        url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http")
    }

    /// Whether TLS is spoken with it.
    pub(super) fn is_secure(&self) -> bool {
        self.base.scheme() == "https"
    }

    /// Whether the operator wrote an address or name of this machine.
    pub(super) fn is_loopback(&self) -> bool {
        match self.base.host() {
            Some(Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        }
    }
}

fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(name: &str, url: &str) -> Origin {
        Origin::new(&name.parse().unwrap(), url).unwrap()
    }

    #[test]
    fn urls_are_built_under_the_prefix() {
        let digest = darner_proto::digest::Digest::sha256(b"x");
        let url = origin("r.example", "https://r.example:8443/cache").url(
            "a/b",
            &format!("blobs/{digest}"),
            Some("n=1"),
        );
        let expected = format!("https://r.example:8443/cache/v2/a/b/blobs/{digest}?n=1");
        assert_eq!(url.as_str(), expected);
    }

    #[test]
    fn only_docker_hub_has_a_library() {
        let hub = origin("docker.io", "https://registry-1.docker.io");
        assert_eq!(hub.repository(&"debian".parse().unwrap()), "library/debian");
        assert_eq!(hub.repository(&"a/debian".parse().unwrap()), "a/debian");
        let other = origin("quay.io", "https://quay.io");
        assert_eq!(other.repository(&"debian".parse().unwrap()), "debian");
    }

    #[test]
    fn addresses_with_more_than_an_address_are_refused() {
        for url in [
            "ftp://r.example",
            "https://user:pw@r.example",
            "https://r.example?x=1",
            "r.example",
        ] {
            let refused = Origin::new(&"r.example".parse().unwrap(), url);
            assert!(refused.is_err(), "{url}");
        }
    }

    #[test]
    fn realms_are_vetted() {
        for (registry, realm, vetted) in [
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io/token",
                true,
            ),
            (
                "https://registry-1.docker.io",
                "http://auth.docker.io/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io:8443/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io.evil.example/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://auth.docker.io@evil.example/token",
                false,
            ),
            (
                "https://registry-1.docker.io",
                "https://u@auth.docker.io/token",
                false,
            ),
            (
                "https://registry.gitlab.com",
                "https://gitlab.com/jwt/auth",
                true,
            ),
            ("https://quay.io", "https://quay.io/v2/auth", true),
            ("https://quay.io", "https://quay.io:444/v2/auth", false),
            ("https://quay.io", "https://auth.docker.io/token", false),
            ("https://quay.io", "/v2/auth", false),
            ("http://10.0.0.1:5000", "http://10.0.0.1:5001/auth", true),
            ("http://10.0.0.1:5000", "http://10.0.0.2:5000/auth", false),
            ("http://10.0.0.1:5000", "https://10.0.0.1/auth", true),
            ("https://localhost:5000", "https://localhost:5001/", true),
            ("https://localhost:5000", "http://localhost:5001/", false),
        ] {
            let origin = origin("r.example", registry);
            let found = origin.token_service(realm).is_ok();
            assert_eq!(found, vetted, "{registry} names {realm}");
        }
    }

    #[test]
    fn redirects_stay_https_and_without_users() {
        let secure = origin("r.example", "https://r.example");
        let plain = origin("r.example", "http://r.example");
        for (location, from_secure, from_plain) in [
            ("/v2/other", true, true),
            ("https://cdn.example/x?sig=1", true, true),
            ("http://cdn.example/x", false, true),
            ("https://u:p@cdn.example/x", false, false),
            ("file:///etc/passwd", false, false),
            ("data:text/plain,x", false, false),
        ] {
            let header = HeaderValue::from_static(location);
            for (origin, allowed) in [(&secure, from_secure), (&plain, from_plain)] {
                let from = origin.url("a", "blobs/x", None);
                let found = origin.redirect(&from, &header).is_ok();
                assert_eq!(found, allowed, "{from} to {location}");
            }
        }
    }

    #[test]
    fn credentials_belong_to_scheme_host_and_port() {
        let origin = origin("r.example", "https://r.example");
        for (url, owned) in [
            ("https://r.example:443/x", true),
            ("https://r.example:444/x", false),
            ("http://r.example/x", false),
            ("https://cdn.r.example/x", false),
        ] {
            assert_eq!(origin.owns(&Url::parse(url).unwrap()), owned, "{url}");
        }
    }
}
