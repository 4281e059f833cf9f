//! What a request to the proxy is about, parsed from its target as it came: pure.

use axum::http::{StatusCode, Uri};
use darner_proto::name::RegistryName;
use url::Url;

use crate::files::Refusal;

fn bad(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, message)
}

/// `http://host/path`, of a request that is to be answered.
pub(super) fn absolute(uri: &Uri) -> Result<Url, Refusal> {
    if uri.scheme_str() != Some("http") {
        let message = "this is a forward proxy: it takes http:// URLs and CONNECT";
        return Err(bad(message));
    }
    let url = Url::parse(&uri.to_string()).map_err(|_| bad("the target is no URL"))?;
    match url.has_host() {
        true => Ok(url),
        false => Err(bad("the target has no host")),
    }
}

/// `host:port`, of a request for a connection. It is read as browsers read it, so that no way to
/// write an address is missed.
pub(super) fn authority(uri: &Uri) -> Result<Url, Refusal> {
    let expected = "CONNECT takes host:port";
    let authority = uri.authority().ok_or_else(|| bad(expected))?.as_str();
    if uri.scheme().is_some() || authority.contains('@') {
        return Err(bad(expected));
    }
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    let port: Option<u16> = port.and_then(|port| port.parse().ok());
    if port.is_none_or(|port| port == 0) {
        return Err(bad(expected));
    }
    let url = Url::parse(&format!("https://{authority}/")).map_err(|_| bad(expected))?;
    match url.has_host() {
        true => Ok(url),
        false => Err(bad(expected)),
    }
}

/// A path, of a request within a connection to the host of `base`.
pub(super) fn within(base: &Url, uri: &Uri) -> Result<Url, Refusal> {
    let target = uri.path_and_query().filter(|_| uri.scheme().is_none());
    let target = target.ok_or_else(|| bad("a path is expected here"))?;
    let mut url = base.clone();
    url.set_path(target.path());
    url.set_query(target.query());
    Ok(url)
}

/// Whether a registry's URL is about an image's content. The ping is the registry's own to answer:
/// from it clients learn how to log in.
pub(super) fn is_of_image(url: &Url) -> bool {
    let rest = url.path().strip_prefix("/v2/");
    rest.is_some_and(|rest| rest.contains("/manifests/") || rest.contains("/blobs/"))
}

/// The same as the registry front end is asked for it.
pub(super) fn at_front(url: &Url, registry: &RegistryName) -> Result<Uri, Refusal> {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(url.query_pairs());
    query.append_pair("ns", registry.as_str());
    let target = format!("{}?{}", url.path(), query.finish());
    target.parse().map_err(|_| bad("the target is no URL"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_absolute_urls_are_taken() {
        let url = |text: &str| absolute(&text.parse().unwrap());
        assert_eq!(
            url("http://a.example/x?y").unwrap().as_str(),
            "http://a.example/x?y"
        );
        for text in ["/x", "https://a.example/", "ftp://a/", "a.example:443"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn only_hosts_with_a_port_are_connected_to() {
        let url = |text: &str| authority(&text.parse().unwrap());
        assert_eq!(url("a.example:8443").unwrap().port(), Some(8443));
        assert_eq!(url("0x7f.1:443").unwrap().host_str(), Some("127.0.0.1"));
        for text in [
            "a.example",
            "a.example:",
            "a.example:0",
            "a.example:99999",
            "u@a.example:443",
            "/x",
            "http://a.example/",
            "[::1]",
        ] {
            let refused = match text.parse::<Uri>() {
                Ok(uri) => authority(&uri).is_err(),
                Err(_) => true,
            };
            assert!(refused, "{text}");
        }
    }

    #[test]
    fn images_are_asked_for_at_the_front_end() {
        let url = Url::parse("http://r.example:5000/v2/a/b/manifests/latest?x=1").unwrap();
        assert!(is_of_image(&url));
        let uri = at_front(&url, &"r.example:5000".parse().unwrap()).unwrap();
        assert_eq!(
            uri.to_string(),
            "/v2/a/b/manifests/latest?x=1&ns=r.example%3A5000"
        );
        for path in [
            "/v2/",
            "/v2/a/tags/list",
            "/token",
            "/v1/a/manifests/b",
            "/",
        ] {
            let url = Url::parse("http://r.example").unwrap().join(path).unwrap();
            assert!(!is_of_image(&url), "{path}");
        }
    }

    #[test]
    fn targets_as_nobody_sends_them_are_refused_or_stay_at_their_host() {
        let base = Url::parse("https://files.example:8443/").unwrap();
        let good = [
            "http://a.example/x?y",
            "a.example:8443",
            "/v2/a/b/manifests/latest?x=1",
            "http://0x7f.1:80/%2e%2e/",
            "[::1]:443",
            "//a.example/x",
            "http://a.example@b.example/",
        ];
        darner_mutate::each_text(&good, |text| {
            let Ok(uri) = text.parse::<Uri>() else { return };
            if let Ok(url) = within(&base, &uri) {
                assert_eq!(url.origin(), base.origin(), "{text}");
            }
            if let Ok(url) = absolute(&uri) {
                assert!(url.scheme() == "http" && url.has_host(), "{text}");
                let front = at_front(&url, &"r.example".parse().unwrap());
                assert!(front.is_err() || front.is_ok_and(|uri| uri.host().is_none()));
            }
            if let Ok(url) = authority(&uri) {
                assert!(
                    url.scheme() == "https" && url.username().is_empty(),
                    "{text}"
                );
                assert_eq!(url.path(), "/", "{text}");
            }
        });
    }
}
