//! One request from its first line to the headers of its answer.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header,
};
use darner_proto::digest::Digest;
use darner_proto::name::{Reference, RegistryName, Source};
use darner_proto::peer::Target;
use darner_service::identity::local::Local;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use super::admission::Admission;
use super::holders;
use super::logins::{self, Logins};
use super::metrics::{Kind, RegistryMetrics, Trouble};
use super::outgoing::Outgoing;
use super::private::Private;
use super::refusal::{Code, Refusal};
use super::request::{self, Asked, Object, Question, Registries};
use crate::files::{FileFront, Refusal as FileRefusal, local};
use crate::listen::{self, Outlet};
use crate::resolve::{Answer, Found, Resolver};
use crate::rules::Blocked;
use crate::task::{ServedFrom, Tasks};
use crate::upstream::Upstreams;

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
const SOURCE: HeaderName = HeaderName::from_static("x-darner-source");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");
/// RFC 7234, section 5.5.1.
const STALE: &str = r#"110 - "the registry cannot be reached; this is what it last said""#;

/// What requests are answered from.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) resolver: Resolver,
    pub(super) tasks: Tasks,
    pub(super) upstreams: Upstreams,
    pub(super) default_upstream: RegistryName,
    pub(super) first_byte_timeout: Duration,
    pub(super) admission: Admission,
    pub(super) metrics: RegistryMetrics,
    /// Without it, what is not public passes through and is not kept.
    pub(super) private: Option<Private>,
    /// By the manager's rules.
    pub(super) blocked: Blocked,
    pub(super) files: FileFront,
    /// No other machine reaches the listener.
    pub(super) on_this_machine: bool,
    pub(super) tls: Option<Local>,
    /// Where clients may show what they keep under this mirror's address.
    pub(super) logins: Option<Logins>,
    /// Repositories that an anonymous reader was refused a moment ago.
    pub(super) not_public: moka::future::Cache<Source, ()>,
}

/// A manifest that is to be sent.
#[derive(Debug)]
pub(super) struct Manifest<'a> {
    pub(super) digest: Digest,
    pub(super) media_type: &'a str,
    pub(super) content: Bytes,
    pub(super) from: ServedFrom,
    /// It is what a tag meant; upstream cannot be asked.
    pub(super) stale: bool,
}

/// A question, and how it was asked.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) question: &'a Question,
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) headers: &'a HeaderMap,
    /// There is an answer by then, of one kind or the other.
    pub(super) deadline: Instant,
    /// Where content goes.
    pub(super) outlet: &'a Outlet,
}

/// An answer, before what every answer has is added.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) response: Response<Body>,
    /// Where the content in it came from, if it has content.
    pub(super) source: Option<ServedFrom>,
}

/// What the resolver's answer means for a request.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Public, and known here.
    Serve(Found),
    /// For upstream to decide, by the caller's own credentials.
    Relay,
}

impl listen::Front for Arc<Front> {
    type Body = Outgoing;

    const NAME: &'static str = "registry";
    /// More than any node's runtimes open: beside 8,192 that idle there is room for all others. Each
    /// takes about 32 KB.
    const MAX_CONNECTIONS: usize = 10_240;
    const STALL_TIMEOUT: Duration = Duration::from_secs(60);

    fn tls(&self) -> Option<&Local> {
        self.tls.as_ref()
    }

    fn takes_plain(&self) -> bool {
        self.tls.is_none() || self.on_this_machine
    }

    async fn answer(&self, request: Request<Incoming>, outlet: Outlet) -> Response<Outgoing> {
        if local::is_ours(request.uri().path()) {
            return self.file(request, &outlet).await;
        }
        // No other request that is answered here has a body.
        let (mut parts, _body) = request.into_parts();
        let deadline = Instant::now() + self.first_byte_timeout;
        if let Some(digest) = holders::asked(parts.uri.path()) {
            return self.met(self.holders(&parts.method, digest, deadline).await);
        }
        if let Some(logins) = &self.logins
            && let Some(response) = logins.meet(&mut parts, deadline).await
        {
            return self.met(response);
        }
        self.respond(parts, &outlet).await
    }
}

impl Front {
    /// Whether nobody else reads what a client and this process send each other.
    pub(super) fn confined(&self) -> bool {
        self.on_this_machine || self.tls.is_some()
    }

    /// Files are for programs of this machine: what is asked here is asked from here.
    async fn file(&self, request: Request<Incoming>, outlet: &Outlet) -> Response<Outgoing> {
        let deadline = Instant::now() + self.first_byte_timeout;
        let place = self.admission.enter(deadline).await;
        let response = match &place {
            _ if !self.on_this_machine => {
                let message = "files are served where no other machine reaches [registry] listen";
                FileRefusal::new(StatusCode::FORBIDDEN, message).into_response()
            }
            Some(_) => self.files.local(request, deadline, outlet).await,
            None => {
                let message = "too many requests are being served";
                FileRefusal::new(StatusCode::SERVICE_UNAVAILABLE, message).into_response()
            }
        };
        let metrics = self.metrics.clone();
        response.map(|body| Outgoing::new(body, None, metrics, place))
    }

    /// An answer to what is no request of the distribution API.
    fn met(&self, mut response: Response<Body>) -> Response<Outgoing> {
        dress(response.headers_mut(), None, None, Duration::ZERO);
        self.metrics.answered(Kind::Other, response.status(), None);
        let metrics = self.metrics.clone();
        response.map(|body| Outgoing::new(body, None, metrics, None))
    }

    pub(super) async fn respond(&self, mut parts: Parts, outlet: &Outlet) -> Response<Outgoing> {
        let started = Instant::now();
        let deadline = started + self.first_byte_timeout;
        let asked = request::check_method(&parts.method, &parts.headers)
            .and_then(|()| request::parse(&parts.uri, self.registries()));
        let (mut kind, mut place, mut namespace) = (Kind::Other, None, None);
        let reply = match &asked {
            Err(refusal) => {
                self.metrics.trouble(Trouble::Malformed);
                Err(refusal.clone())
            }
            Ok(Asked::Ping) => {
                kind = Kind::Ping;
                Ok(ping())
            }
            Ok(Asked::Of(question)) => {
                kind = question.kind();
                namespace = question.namespace.as_deref();
                logins::confine(&mut parts, &question.source.registry);
                let call = Call {
                    question,
                    method: &parts.method,
                    path: parts.uri.path(),
                    headers: &parts.headers,
                    deadline,
                    outlet,
                };
                place = self.admission.enter(deadline).await;
                match place {
                    Some(_) => self.serve(&call).await,
                    None => {
                        self.metrics.trouble(Trouble::Queue);
                        Err(call.unavailable("too many requests are being served"))
                    }
                }
            }
        };
        let Reply {
            mut response,
            source,
        } = reply.unwrap_or_else(Refusal::into_reply);
        dress(response.headers_mut(), namespace, source, started.elapsed());
        self.metrics.answered(kind, response.status(), source);
        if let Some(source) = source {
            self.metrics.first_byte(source, started.elapsed());
        }
        // The kernel sends it, however slowly it is taken: it need not hold up who comes next, and all
        // of a crowd that asks for the same have it at about the same time.
        let place = place.filter(|_| source != Some(ServedFrom::Store));
        let sent = source.map(|source| self.metrics.bytes(source));
        let metrics = self.metrics.clone();
        response.map(|body| Outgoing::new(body, sent, metrics, place))
    }

    fn registries(&self) -> Registries<'_, impl Fn(&RegistryName) -> bool> {
        Registries {
            known: |name: &RegistryName| self.upstreams.get(name).is_some(),
            default: &self.default_upstream,
        }
    }

    async fn serve(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        if self.blocked.repository(&call.question.source) {
            return Err(self.block(call));
        }
        match &call.question.object {
            Object::Manifest(reference) => self.manifest(call, reference).await,
            Object::Blob(digest) => {
                self.check(call, digest)?;
                self.blob(call, digest).await
            }
            Object::Tags | Object::Referrers(_) => self.relay(call).await,
        }
    }

    async fn manifest(&self, call: &Call<'_>, reference: &Reference) -> Result<Reply, Refusal> {
        let target = Target::Manifest(reference.clone());
        let found = match self.resolve(call, target).await? {
            Verdict::Serve(found) => found,
            Verdict::Relay => return self.private(call).await,
        };
        self.check(call, &found.digest)?;
        Ok(call.manifest_reply(Manifest {
            digest: found.digest,
            media_type: &found.media_type,
            content: found.content,
            from: found.from,
            // Content under its digest does not go out of date.
            stale: found.stale && matches!(reference, Reference::Tag(_)),
        }))
    }

    /// The refusal of what the rules block: here it is not served, whatever else a client may ask.
    fn block(&self, call: &Call<'_>) -> Refusal {
        let Question { source, object, .. } = call.question;
        tracing::info!(%source, %object, "blocked by the manager's rules");
        self.metrics.trouble(Trouble::Blocked);
        call.blocked()
    }

    /// Refuses content that the rules block, whatever it was asked for as.
    pub(super) fn check(&self, call: &Call<'_>, digest: &Digest) -> Result<(), Refusal> {
        match self.blocked.digest(digest) {
            true => Err(self.block(call)),
            false => Ok(()),
        }
    }

    /// What is to be done about `target`.
    pub(super) async fn resolve(
        &self,
        call: &Call<'_>,
        target: Target,
    ) -> Result<Verdict, Refusal> {
        let source = &call.question.source;
        let shows = call.headers.contains_key(header::AUTHORIZATION);
        // Known to be for some only: nobody need be asked again what everybody may read.
        if shows && self.not_public.contains_key(source) {
            return Ok(Verdict::Relay);
        }
        let looked_up = timeout_at(call.deadline, self.resolver.look_up(source, target)).await;
        let detail = match looked_up {
            Ok(Answer::Found(found)) => return Ok(Verdict::Serve(found)),
            Ok(Answer::NotPublic) => {
                self.not_public.insert(source.clone(), ()).await;
                return Ok(Verdict::Relay);
            }
            // What does not exist for everybody may exist for this caller; and while upstream cannot
            // be asked, who has been granted access before may still have it.
            Ok(Answer::NotFound | Answer::Unavailable { .. }) if shows => {
                return Ok(Verdict::Relay);
            }
            Ok(Answer::NotFound) => return Err(call.not_found()),
            Ok(Answer::Unavailable { detail }) => detail,
            Err(_) => "the look-up takes too long".to_owned(),
        };
        tracing::warn!(%source, object = %call.question.object, detail, "nobody can say what a name means");
        self.metrics.trouble(Trouble::Resolve);
        Err(call.unavailable("the registry cannot be reached, and nothing is held here"))
    }
}

impl Question {
    fn kind(&self) -> Kind {
        match &self.object {
            Object::Manifest(_) => Kind::Manifest,
            Object::Blob(_) => Kind::Blob,
            Object::Tags => Kind::Tags,
            Object::Referrers(_) => Kind::Referrers,
        }
    }
}

impl Call<'_> {
    pub(super) fn is_head(&self) -> bool {
        self.method == Method::HEAD
    }

    /// The refusal that makes every client turn to the registry itself.
    pub(super) fn unavailable(&self, message: &str) -> Refusal {
        match &self.question.object {
            Object::Blob(_) => Refusal::no_blob(message),
            Object::Manifest(_) => Refusal::unavailable(Code::ManifestUnknown, message),
            Object::Tags | Object::Referrers(_) => Refusal::unavailable(Code::NameUnknown, message),
        }
    }

    /// As with what cannot be served: a client that has another source turns to it.
    fn blocked(&self) -> Refusal {
        let message = "the rules of this cluster do not let this be served";
        match &self.question.object {
            Object::Blob(_) => Refusal::no_blob(message),
            Object::Manifest(_) | Object::Tags | Object::Referrers(_) => {
                Refusal::new(StatusCode::FORBIDDEN, Code::Denied, message)
            }
        }
    }

    pub(super) fn not_found(&self) -> Refusal {
        let Question { source, .. } = self.question;
        match &self.question.object {
            Object::Manifest(reference) => {
                Refusal::no_manifest(format!("{source} has no manifest {reference}"))
            }
            Object::Blob(digest) => Refusal::no_blob(format!("{source} has no blob {digest}")),
            Object::Tags | Object::Referrers(_) => Refusal::new(
                StatusCode::NOT_FOUND,
                Code::NameUnknown,
                format!("there is no {source}"),
            ),
        }
    }
}

impl Refusal {
    pub(super) fn into_reply(self) -> Reply {
        Reply {
            response: self.into_response(),
            source: None,
        }
    }
}

fn ping() -> Reply {
    let mut response = Response::new(Body::from("{}"));
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Reply {
        response,
        source: None,
    }
}

/// Adds what every answer has, and what answers with content have.
fn dress(
    headers: &mut HeaderMap,
    namespace: Option<&str>,
    source: Option<ServedFrom>,
    elapsed: Duration,
) {
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    if let Some(namespace) = namespace {
        insert(headers, NAMESPACE, namespace.to_owned());
    }
    if let Some(source) = source {
        headers.insert(SOURCE, HeaderValue::from_static(source.as_str()));
        let milliseconds = elapsed.as_secs_f64() * 1000.0;
        insert(
            headers,
            SERVER_TIMING,
            format!("first;dur={milliseconds:.1}"),
        );
    }
}

/// What clients go by in a manifest's headers.
pub(super) fn describe_manifest(
    headers: &mut HeaderMap,
    (digest, media_type, size): (&Digest, &str, u64),
    stale: bool,
) {
    // Whatever upstream sent is a valid value or was never a media type.
    let media_type = HeaderValue::try_from(media_type)
        .unwrap_or(HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_TYPE, media_type);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    insert(headers, CONTENT_DIGEST, digest.to_string());
    insert(headers, header::ETAG, format!("\"{digest}\""));
    if stale {
        headers.insert(header::WARNING, HeaderValue::from_static(STALE));
    }
}

/// Sets a header whose value was made from checked parts.
pub(super) fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    match HeaderValue::try_from(value) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => tracing::error!(%name, "a header's value cannot be sent"),
    }
}
