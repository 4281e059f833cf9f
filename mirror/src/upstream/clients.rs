//! The HTTP clients of one registry: which certificates they trust and show, whether a proxy is used.

use std::time::Duration;

use darner_service::settings;
use darner_service::telemetry::with_causes;
use reqwest::{Client, Identity, redirect};

use super::dial::Guard;
use super::error::Fault;
use super::origin::Origin;
use super::setup::Setup;

/// TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Registries and their storage close idle connections after a minute or more.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const USER_AGENT: &str = concat!("darner/", env!("CARGO_PKG_VERSION"));

/// What one registry is asked with, and where it sends us.
#[derive(Debug)]
pub(super) struct Clients {
    home: Client,
    /// Shows nobody the certificate that is for the registry. Without such a certificate the same.
    away: Client,
}

impl Clients {
    pub(super) fn new(setup: &Setup, origin: &Origin, guard: &Guard) -> Result<Self, Fault> {
        let identity = identity(&setup.settings)?;
        let home = client(setup, origin, guard, identity.as_ref())?;
        let away = match identity {
            Some(_) => client(setup, origin, guard, None)?,
            None => home.clone(),
        };
        Ok(Self { home, away })
    }

    /// For requests to the registry itself, or to where it led us.
    pub(super) fn at(&self, home: bool) -> &Client {
        if home { &self.home } else { &self.away }
    }
}

fn client(
    setup: &Setup,
    origin: &Origin,
    guard: &Guard,
    identity: Option<&Identity>,
) -> Result<Client, Fault> {
    let settings = &setup.settings;
    let builder = || {
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(settings.max_connections)
            .tcp_nodelay(true)
            .dns_resolver(guard.clone());
        if let Some(identity) = identity {
            builder = builder.identity(identity.clone());
        }
        if origin.is_loopback() {
            // No proxy leads to this machine; other tools of this field leave it out too.
            builder = builder.no_proxy();
        }
        builder
    };
    if let Some(roots) = setup.authorities().roots()? {
        return builder()
            .tls_certs_only(roots)
            .build()
            .map_err(Fault::Client);
    }
    match builder().build() {
        Ok(client) => Ok(client),
        // A machine without certificates still reads from http:// upstreams and from peers.
        Err(error) => {
            tracing::warn!(registry = %settings.name, error = %with_causes(&error), "no system certificates: https upstreams will be refused; install ca-certificates or set ca_file");
            let client = builder().tls_certs_only([]).build();
            client.map_err(Fault::Client)
        }
    }
}

/// The certificate that is shown to the registry, with its key.
fn identity(settings: &settings::Upstream) -> Result<Option<Identity>, Fault> {
    let (Some(certificate), Some(key)) = (&settings.client_cert_file, &settings.client_key_file)
    else {
        return Ok(None);
    };
    let read = |path| std::fs::read(path).map_err(Fault::ClientFile);
    let pem = [read(certificate)?, b"\n".to_vec(), read(key)?].concat();
    Identity::from_pem(&pem).map(Some).map_err(Fault::Client)
}
