//! Requests as they go out to one registry: one at a time, and with the redirects that follow.
//!
//! Credentials leave with a request only as long as it is at the registry's own scheme, host and
//! port; the first redirect away from there leaves them behind for good, the client certificate too.

use std::sync::OnceLock;
use std::time::Duration;

use darner_service::secret::Secret;
use darner_service::settings;
use http::header::{ACCEPT_ENCODING, AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, StatusCode};
use reqwest::{Request, Response};

use super::allowance::Allowance;
use super::ask::Ask;
use super::clients::Clients;
use super::dial::Guard;
use super::error::Fault;
use super::limit::Quiet;
use super::metrics::{Counts, Kind};
use super::origin::Origin;
use super::setup::{Authorities, Setup};

const MAX_REDIRECTS: usize = 5;

/// One registry's HTTP client.
#[derive(Debug)]
pub(super) struct Wire {
    clients: OnceLock<Clients>,
    setup: Setup,
    pub(super) origin: Origin,
    guard: Guard,
    quiet: Quiet,
    pub(super) counts: Counts,
}

/// The answer at the end of the redirects.
#[derive(Debug)]
pub(super) struct Hop {
    pub(super) response: Response,
    /// It comes from the registry itself, not from where that redirected to.
    pub(super) home: bool,
}

impl Wire {
    pub(super) fn new(setup: &Setup, counts: Counts) -> Result<Self, Fault> {
        let settings = &setup.settings;
        let origin = Origin::new(&settings.name, &settings.url)?;
        let guard = Guard::new(&origin);
        let wire = Self {
            clients: OnceLock::new(),
            setup: setup.clone(),
            origin,
            guard,
            quiet: Quiet::default(),
            counts,
        };
        // What the operator has given is looked at before anything starts.
        let authorities = setup.authorities();
        if authorities != Authorities::System || settings.client_cert_file.is_some() {
            wire.clients()?;
        }
        Ok(wire)
    }

    /// How the registry's own host, and that of its token service, are reached by whoever talks to
    /// them without us.
    pub(super) fn routes(&self) -> Vec<(settings::Route, Authorities)> {
        let straight = |host: (String, Option<u16>), private| settings::Route {
            host: settings::RouteHost {
                name: host.0,
                port: host.1,
            },
            path: "*".to_owned(),
            to: settings::RouteTo::Straight,
            ignore_query: Vec::new(),
            private,
            ca_file: None,
        };
        let own = self.origin.route_host();
        let own = own.map(|host| (straight(host, true), self.setup.authorities()));
        let services = self.origin.token_hosts();
        let services = services.map(|host| {
            let route = straight((host.to_owned(), Some(443)), false);
            (route, Authorities::System)
        });
        own.into_iter().chain(services).collect()
    }

    /// The clients, made when the registry is first asked: each has its own copy of the system's
    /// certificates, more than a mebibyte, and most registries that are known are never asked.
    fn clients(&self) -> Result<&Clients, Fault> {
        if let Some(clients) = self.clients.get() {
            return Ok(clients);
        }
        let new = Clients::new(&self.setup, &self.origin, &self.guard)?;
        Ok(self.clients.get_or_init(|| new))
    }

    /// Notes what the registry still allows, and waits when that is nothing.
    fn heed(&self, headers: &HeaderMap) {
        let Some(allowance) = Allowance::of(headers) else {
            return;
        };
        self.counts.allowance(&allowance);
        if let Some(wait) = allowance.wait() {
            self.keep_quiet(wait);
        }
    }

    /// Leaves the registry alone for a while.
    pub(super) fn keep_quiet(&self, wait: Duration) {
        self.quiet.keep(wait);
        self.counts.quiet(self.quiet.left());
    }

    /// For how long the registry is left alone.
    pub(super) fn quiet(&self) -> Duration {
        self.quiet.left()
    }

    /// Fails while the registry wants to be left alone.
    pub(super) fn check_quiet(&self) -> Result<(), Fault> {
        self.quiet.check()
    }

    /// Sends a request and follows where it is redirected to.
    pub(super) async fn follow(
        &self,
        ask: &Ask,
        authorization: Option<&HeaderValue>,
    ) -> Result<Hop, Fault> {
        let mut url = ask.url.clone();
        let mut home = true;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new(ask.method.clone(), url.clone());
            request.headers_mut().extend(ask.headers.clone());
            if home && let Some(authorization) = authorization {
                let headers = request.headers_mut();
                headers.insert(AUTHORIZATION, authorization.clone());
            }
            let response = self.send(request, ask.kind, home).await?;
            let Some(location) = location(&response) else {
                return Ok(Hop { response, home });
            };
            url = self.origin.redirect(&url, location)?;
            self.guard.check(&url)?;
            home = home && self.origin.owns(&url);
        }
        Err(Fault::Redirects(MAX_REDIRECTS))
    }

    /// One request, which nothing has led to, and the headers of its answer.
    pub(super) async fn exchange(&self, request: Request, kind: Kind) -> Result<Response, Fault> {
        let home = self.origin.owns(request.url());
        self.send(request, kind, home).await
    }

    async fn send(&self, mut request: Request, kind: Kind, home: bool) -> Result<Response, Fault> {
        self.quiet.check()?;
        // Content is addressed by the digest of its own bytes, not of some encoding of them.
        let identity = HeaderValue::from_static("identity");
        request.headers_mut().insert(ACCEPT_ENCODING, identity);
        let method = request.method().clone();
        let answer = self.clients()?.at(home).execute(request).await;
        let status = answer.as_ref().ok().map(Response::status);
        self.counts.request(&method, kind, status);
        let response = answer.map_err(|error| self.failed(error, home))?;
        if self.origin.owns(response.url()) {
            self.heed(response.headers());
        }
        if response.status() == StatusCode::TOO_MANY_REQUESTS {
            self.counts.rate_limited();
            let limited = self.quiet.begin(response.headers());
            self.counts.quiet(self.quiet.left());
            tracing::warn!(registry = self.counts.registry(), "upstream {limited}");
            return Err(limited);
        }
        Ok(response)
    }

    /// A registry that wants another certificate, or any, says so once the connection is made, and
    /// ends it. Whether its word is read before a request finds the connection ended is chance.
    fn failed(&self, error: reqwest::Error, home: bool) -> Fault {
        let ended = error.is_request() && !error.is_connect() && !error.is_timeout();
        if !ended || !home || !self.origin.is_secure() {
            return Fault::network(error);
        }
        let perhaps = match self.setup.settings.client_cert_file {
            Some(_) => "does not take the certificate of client_cert_file",
            None => "wants to be shown a certificate: client_cert_file",
        };
        Fault::Ended(perhaps, error.without_url())
    }

    /// The header that shows a user name and password.
    pub(super) fn basic(&self, user: &str, password: &Secret) -> Result<HeaderValue, Fault> {
        let password = password.reveal();
        // What follows a colon would be taken for the beginning of the password.
        if user.contains(':') {
            return Err(Fault::Setup("its username has a colon in it"));
        }
        let request = self.clients()?.at(true).get(self.origin.url("", "", None));
        let request = request.basic_auth(user, Some(password)).build();
        let header = request.map_err(|error| Fault::Client(error.without_url()))?;
        let header = header.headers().get(AUTHORIZATION).cloned();
        header.ok_or(Fault::Setup("its credentials fit into no header"))
    }
}

fn location(response: &Response) -> Option<&HeaderValue> {
    let redirects = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(LOCATION).filter(|_| redirects)
}
