//! The addresses behind a Kubernetes service, as the cluster's API lists them: its EndpointSlices
//! (`discovery.k8s.io/v1`). Asked as the pod's own service account, with the token and the authority
//! that every pod is given as files.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use darner_proto::gossip::MAX_MEMBERS;
use serde::Deserialize;
use url::Url;

use crate::settings;

/// For one page of the list.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Slices in one page; a slice has at most a thousand addresses, mostly a hundred.
const PAGE: &str = "100";
/// Pages: more than any cluster's members fill.
const MAX_PAGES: usize = 100;
/// A page. An address with all that is said of it takes some 500 bytes.
const MAX_BODY: usize = 16 << 20;
/// The port's name, where a service has several.
const PORT: &str = "pieces";

/// A service whose EndpointSlices name mirrors to begin with.
#[derive(Debug, Clone)]
pub struct KubernetesService {
    /// `None`: the pod's own.
    pub(super) namespace: Option<String>,
    pub(super) name: String,
    /// URL of the API server.
    pub(super) api: String,
    /// The directory of the pod's service account.
    pub(super) account: PathBuf,
}

impl KubernetesService {
    /// The service that `settings` name, if they do.
    pub fn of(settings: &settings::Gossip) -> Option<Self> {
        let service = settings.kubernetes_service.as_ref()?;
        let (namespace, name) = match service.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, service.as_str()),
        };
        Some(Self {
            namespace,
            name: name.to_owned(),
            api: settings.kubernetes_api.clone(),
            account: settings.kubernetes_account.clone(),
        })
    }
}

/// Why there is no list.
#[derive(Debug, thiserror::Error)]
pub(super) enum SlicesError {
    /// The service account's files are not those of a pod.
    #[error(
        "{} cannot be read; does the pod have automountServiceAccountToken?", .path.display()
    )]
    Account {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Its address is none.
    #[error("the Kubernetes API's address is no URL")]
    Address(#[from] url::ParseError),
    /// The API cannot be asked.
    #[error("the Kubernetes API cannot be asked")]
    Api(#[from] reqwest::Error),
    /// It refuses.
    #[error(
        "the Kubernetes API answered {0}; the service account needs the right to list endpointslices"
    )]
    Refused(reqwest::StatusCode),
    /// The answer is longer than any list is.
    #[error("the Kubernetes API's list is longer than {MAX_BODY} bytes")]
    Long,
    /// The answer is no list.
    #[error("the Kubernetes API's answer is no list of EndpointSlices")]
    Unreadable(#[from] serde_json::Error),
}

#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<Slice>,
}

#[derive(Debug, Default, Deserialize)]
struct ListMeta {
    #[serde(rename = "continue")]
    rest: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Slice {
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Debug, Deserialize)]
struct Endpoint {
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
}

#[derive(Debug, Default, Deserialize)]
struct Conditions {
    terminating: Option<bool>,
}

#[derive(Debug, Deserialize)]
struct Port {
    name: Option<String>,
    port: Option<u16>,
}

/// `host:port` of everybody behind `service` who is not just ending, whether ready or not: before
/// anybody is, somebody has to be found.
pub(super) async fn addresses(service: &KubernetesService) -> Result<Vec<String>, SlicesError> {
    // Tokens are renewed in place, so they are read each time; this happens twice a minute.
    let token = read(&service.account, "token")?;
    let authority = read(&service.account, "ca.crt")?;
    let namespace = match &service.namespace {
        Some(namespace) => namespace.clone(),
        None => read(&service.account, "namespace")?.trim().to_owned(),
    };
    let client = reqwest::Client::builder()
        .tls_certs_only(reqwest::Certificate::from_pem_bundle(authority.as_bytes())?)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(TIMEOUT)
        .build()?;
    let (mut found, mut rest) = (Vec::new(), None::<String>);
    for _ in 0..MAX_PAGES {
        let url = page_of(service, &namespace, rest.as_deref())?;
        let answer = client.get(url).bearer_auth(token.trim()).send().await?;
        if !answer.status().is_success() {
            return Err(SlicesError::Refused(answer.status()));
        }
        let page: List = serde_json::from_slice(&body(answer).await?)?;
        found.extend(page.items.iter().flat_map(Slice::addresses));
        found.truncate(MAX_MEMBERS);
        rest = page.metadata.rest.filter(|rest| !rest.is_empty());
        if rest.is_none() || found.len() == MAX_MEMBERS {
            break;
        }
    }
    Ok(found)
}

/// The address of a page of the list: the first, or the one that `rest` stands for.
fn page_of(
    service: &KubernetesService,
    namespace: &str,
    rest: Option<&str>,
) -> Result<Url, SlicesError> {
    let mut url = Url::parse(&service.api)?;
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty();
        path.extend(["apis", "discovery.k8s.io", "v1", "namespaces", namespace]);
        path.push("endpointslices");
    }
    let selector = format!("kubernetes.io/service-name={}", service.name);
    let mut query = url.query_pairs_mut();
    query.append_pair("labelSelector", &selector);
    query.append_pair("limit", PAGE);
    if let Some(rest) = rest {
        query.append_pair("continue", rest);
    }
    drop(query);
    Ok(url)
}

fn read(account: &Path, name: &str) -> Result<String, SlicesError> {
    let path = account.join(name);
    std::fs::read_to_string(&path).map_err(|source| SlicesError::Account { path, source })
}

async fn body(mut answer: reqwest::Response) -> Result<Vec<u8>, SlicesError> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await? {
        if body.len() + part.len() > MAX_BODY {
            return Err(SlicesError::Long);
        }
        body.extend_from_slice(&part);
    }
    Ok(body)
}

impl Slice {
    /// What is no IP address (a slice may be of names) is left out, as is a slice without the port.
    fn addresses(&self) -> Vec<String> {
        let ports = self.ports.as_deref().unwrap_or_default();
        let named = ports.iter().find(|port| port.name.as_deref() == Some(PORT));
        let only = ports.first().filter(|_| ports.len() == 1);
        let Some(port) = named.or(only).and_then(|port| port.port) else {
            return Vec::new();
        };
        let endpoints = self.endpoints.iter().flatten();
        let staying = endpoints.filter(|one| one.conditions.terminating != Some(true));
        let addresses = staying.flat_map(|one| &one.addresses);
        let addresses = addresses.filter_map(|address| address.parse::<IpAddr>().ok());
        let with_port = addresses.map(|address| std::net::SocketAddr::new(address, port));
        with_port.map(|address| address.to_string()).collect()
    }
}

#[cfg(test)]
mod tests;
