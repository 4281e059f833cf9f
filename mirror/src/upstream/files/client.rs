//! The connections to the hosts of one route, and what of them it lets be reached.

use std::sync::OnceLock;
use std::time::Duration;

use darner_service::settings::Route;

use super::Fault;
use crate::upstream::dial::{Guard, Zone};
use crate::upstream::routes::reach;
use crate::upstream::setup::Authorities;

/// TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Servers close idle connections after a minute or so.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);
const USER_AGENT: &str = concat!("darner/", env!("CARGO_PKG_VERSION"));

/// Made when it is first needed: it has its own copy of the system's certificates.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) route: Option<Route>,
    pub(super) authorities: Authorities,
    pub(super) guard: Guard,
    made: OnceLock<reqwest::Client>,
}

impl Client {
    /// For a route, or for what has none.
    pub(super) fn new(route: Option<&Route>, authorities: Authorities) -> Self {
        Self {
            authorities,
            route: route.cloned(),
            guard: Guard::within(reach(route)),
            made: OnceLock::new(),
        }
    }

    pub(super) fn get(&self) -> Result<&reqwest::Client, Fault> {
        if let Some(client) = self.made.get() {
            return Ok(client);
        }
        let new = self.make()?;
        Ok(self.made.get_or_init(|| new))
    }

    fn make(&self) -> Result<reqwest::Client, Fault> {
        let inside = reach(self.route.as_ref()) != Zone::Public;
        let builder = || {
            let builder = reqwest::Client::builder()
                .user_agent(USER_AGENT)
                .redirect(reqwest::redirect::Policy::none())
                .referer(false)
                .connect_timeout(CONNECT_TIMEOUT)
                .pool_idle_timeout(IDLE_TIMEOUT)
                .tcp_nodelay(true)
                .dns_resolver(self.guard.clone());
            // No proxy leads into this network.
            if inside { builder.no_proxy() } else { builder }
        };
        if let Some(roots) = self.authorities.roots()? {
            let client = builder().tls_certs_only(roots).build();
            return client.map_err(Fault::Client);
        }
        // A machine without certificates still reads what is at http://.
        builder()
            .build()
            .or_else(|_| builder().tls_certs_only([]).build())
            .map_err(Fault::Client)
    }
}
