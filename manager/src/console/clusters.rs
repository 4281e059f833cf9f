//! Clusters, and what is set for the nodes of each. Every form changes one part of a cluster, of the
//! version that its page has shown.

use std::collections::BTreeMap;

use axum::Extension;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};

use super::gate::Filled;
use super::layout::{Page, Visit, see, table};
use super::text;
use crate::api::Api;
use crate::api::clusters::{self as api_clusters, edit};
use crate::api::named::name_in_path;
use crate::api::problem::Problem;
use crate::clusters::passwords::Passwords;
use crate::clusters::set::DEFAULT;
use crate::clusters::settings::{ClusterSettings, MemberRule, RegistryRule};
use crate::users::credentials::Caller;
use crate::users::{Name, Role};

const AT: &str = "/clusters";
const MIB: u64 = 1 << 20;

pub(super) async fn list(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Response {
    let visit = Visit::new(caller, AT, &HeaderMap::new());
    let found = api.clusters.all().await;
    let heads = ["Name", "Position", "Its hosts", "Registries", "Blocked"];
    match found {
        Ok(found) => visit.page(&Page {
            title: "Clusters".to_owned(),
            main: html! {
                p { "Hosts of a cluster hear of its own schedulers and seeds. A host is of the first that it fits, or of " code { (DEFAULT) } "." }
                (table("Clusters", &heads, &html! {
                    @for cluster in &found { (row(&cluster.name, &cluster.settings)) }
                    @if found.iter().all(|cluster| cluster.name != DEFAULT) {
                        (row(DEFAULT, &ClusterSettings::default()))
                    }
                }))
            },
            forms: html! {
                @if visit.may(Role::Admin) {
                    details {
                        summary { "Make a cluster" }
                        form.fields method="post" action=(AT) {
                            (visit.csrf())
                            label for="name" { "Name" }
                            input #name name="name" required maxlength="64";
                            (members(&ClusterSettings::default()))
                            button { "Make" }
                        }
                    }
                }
            },
        }),
        Err(error) => visit.problem(&error.into()),
    }
}

fn row(name: &str, cluster: &ClusterSettings) -> Markup {
    let ClusterSettings {
        position,
        members,
        rules,
    } = cluster;
    let texts = members.networks.iter().chain(&members.hosts).cloned();
    let labels = members.labels.iter();
    let labels = labels.map(|(key, value)| format!("{key}={value}"));
    let mut hosts: Vec<_> = texts.chain(labels).collect();
    if name == DEFAULT {
        hosts.push("those that fit no other".to_owned());
    }
    let registries = rules.upstreams.iter();
    let registries: Vec<_> = registries.map(|rule| rule.registry.as_str()).collect();
    html! {
        tr {
            th scope="row" { a href={ (AT) "/" (name) } { (name) } }
            td.number { (position) }
            td { @for one in &hosts { (one) br; } }
            td { @for one in &registries { (one) br; } }
            td.number { (rules.blocked.len()) }
        }
    }
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Response {
    let visit = Visit::new(caller, AT, &HeaderMap::new());
    let found = async {
        let name = name_in_path(&name)?;
        api_clusters::found(&api, &name).await
    };
    match found.await {
        Ok((cluster, version)) => visit.page(&Page {
            title: format!("Cluster {name}"),
            main: html! { (facts(&cluster)) (registries(&visit, (&name, version), &cluster)) },
            forms: html! { @if visit.may(Role::Admin) { (forms(&visit, (&name, version), &cluster)) } },
        }),
        Err(problem) => visit.problem(&problem),
    }
}

fn facts(cluster: &ClusterSettings) -> Markup {
    let limits = cluster.rules.limits;
    let directions = [
        ("Uploads of a node", limits.upload),
        ("Downloads of a node", limits.download),
        ("What a node reads from registries", limits.upstream),
    ];
    html! {
        p { "What a node's own settings say counts more than what is set here." }
        dl.facts {
            @for (what, rate) in directions {
                div {
                    dt { (what) }
                    dd { @if let Some(rate) = rate { (text::bytes(rate)) " a second" } @else { "no limit" } }
                }
            }
            div {
                dt { "Not served" }
                dd { @for one in &cluster.rules.blocked { code { (one) } br; } @if cluster.rules.blocked.is_empty() { "nothing" } }
            }
        }
    }
}

type Version<'a> = (&'a str, Option<i64>);

fn registries(visit: &Visit, of: Version<'_>, cluster: &ClusterSettings) -> Markup {
    let heads = [
        "Registry",
        "URL",
        "Mirrors",
        "Tags fresh",
        "Tags stale",
        "Connections",
        "User",
        "CA",
        "Remove",
    ];
    let seconds =
        |seconds: Option<u32>| seconds.map_or_else(String::new, |some| format!("{some} s"));
    html! {
        (table("Registries", &heads, &html! {
            @for rule in &cluster.rules.upstreams {
                tr {
                    th scope="row" { (rule.registry) }
                    td { (rule.url.as_deref().unwrap_or("as everybody knows")) }
                    td { @for mirror in &rule.mirrors { (mirror) br; } }
                    td.number { (seconds(rule.tag_ttl_seconds)) }
                    td.number { (seconds(rule.tag_stale_seconds)) }
                    td.number { @if let Some(most) = rule.max_connections { (most) } }
                    td { (rule.username.as_deref().unwrap_or_default()) }
                    td { @if rule.ca.is_some() { "given" } }
                    td {
                        @if visit.may(Role::Admin) {
                            form method="post" action={ (AT) "/" (of.0) "/registries/remove" } {
                                (visit.csrf())
                                (shown(of.1))
                                input type="hidden" name="registry" value=(rule.registry);
                                button aria-label={ "Remove " (rule.registry) } { "Remove" }
                            }
                        }
                    }
                }
            }
            @if cluster.rules.upstreams.is_empty() { tr { td colspan="9" { "Those of each node's own settings" } } }
        }))
    }
}

/// The version that a form is meant for.
fn shown(version: Option<i64>) -> Markup {
    html! { @if let Some(version) = version { input type="hidden" name="version" value=(version); } }
}

fn forms(visit: &Visit, (name, version): Version<'_>, cluster: &ClusterSettings) -> Markup {
    let begin = |part: &str, fields: Markup, button: &str| {
        html! {
            form.fields method="post" action={ (AT) "/" (name) "/" (part) } {
                (visit.csrf())
                (shown(version))
                (fields)
                button { (button) }
            }
        }
    };
    html! {
        details { summary { "Set a registry" } (begin("registries", registry(), "Set")) }
        details { summary { "Set limits" } (begin("limits", limits(cluster), "Set")) }
        details { summary { "Say what is not served" } (begin("blocked", blocked(cluster), "Set")) }
        @if name != DEFAULT {
            details { summary { "Say which hosts are of it" } (begin("members", members(cluster), "Set")) }
        }
        @if version.is_some() {
            (begin("remove", html! {}, "Remove the cluster and all that is set for it"))
        }
    }
}

fn registry() -> Markup {
    html! {
        label for="registry" { "Registry" }
        input #registry name="registry" required aria-describedby="registry-form";
        p #registry-form .hint { "as clients call it; what was set for it before no longer counts" }
        label for="url" { "URL" }
        input #url name="url" aria-describedby="url-form";
        p #url-form .hint { "https://host[:port][/prefix]; may be left out for those that everybody knows" }
        label for="mirrors" { "Mirrors, one a line" }
        textarea #mirrors name="mirrors" rows="2" aria-describedby="mirrors-form" {}
        p #mirrors-form .hint { "URLs that are asked first, in this order" }
        label for="ca" { "Certificate authorities, PEM" }
        textarea #ca name="ca" rows="3" {}
        label for="tag_ttl" { "Seconds that a tag counts as fresh" }
        input #tag_ttl name="tag_ttl" type="number" min="0" max="86400";
        label for="tag_stale" { "Seconds that it is served while upstream is away" }
        input #tag_stale name="tag_stale" type="number" min="0" max="86400";
        label for="max_connections" { "Connections of a node" }
        input #max_connections name="max_connections" type="number" min="1" max="1024";
        label for="username" { "User that seeds read as" }
        input #username name="username" autocomplete="off";
        label for="password" { "Its password" }
        input #password name="password" type="password" autocomplete="new-password" aria-describedby="password-form";
        p #password-form .hint { "may stay empty while URL and user stay the same; it is not shown again" }
    }
}

fn limits(cluster: &ClusterSettings) -> Markup {
    let limits = cluster.rules.limits;
    let fields = [
        ("upload", "Uploads of a node, MiB a second", limits.upload),
        (
            "download",
            "Downloads of a node, MiB a second",
            limits.download,
        ),
        ("upstream", "From registries, MiB a second", limits.upstream),
    ];
    html! {
        @for (name, says, rate) in fields {
            label for=(name) { (says) }
            input id=(name) name=(name) type="number" min="0.01" step="0.01" value=(mib(rate));
        }
        p.hint { "Empty for no limit." }
    }
}

fn blocked(cluster: &ClusterSettings) -> Markup {
    html! {
        label for="blocked" { "Not served, one a line" }
        textarea #blocked name="blocked" rows="5" aria-describedby="blocked-form" { (cluster.rules.blocked.join("\n")) }
        p #blocked-form .hint { "digests, and registry/repository, in which * stands for anything" }
    }
}

fn members(cluster: &ClusterSettings) -> Markup {
    let ClusterSettings {
        position, members, ..
    } = cluster;
    let labels = members.labels.iter();
    let labels: Vec<_> = labels
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    html! {
        label for="networks" { "Networks, one a line" }
        textarea #networks name="networks" rows="2" aria-describedby="networks-form" { (members.networks.join("\n")) }
        p #networks-form .hint { "such as 10.1.0.0/16, of the addresses that hosts are reached at" }
        label for="hosts" { "Hosts' ids, one a line" }
        textarea #hosts name="hosts" rows="2" { (members.hosts.join("\n")) }
        label for="labels" { "Labels, one a line" }
        textarea #labels name="labels" rows="2" aria-describedby="labels-form" { (labels.join("\n")) }
        p #labels-form .hint { "key=value; of each kind that is given one has to fit, of labels all, and * stands for anything" }
        label for="position" { "Position" }
        input #position name="position" type="number" min="0" max="1000000" value=(position);
    }
}

/// As a field shows a rate, to a hundredth.
fn mib(rate: Option<u64>) -> String {
    let hundredths = |rate: u64| rate.saturating_mul(100) / MIB;
    rate.map_or_else(String::new, |rate| {
        let hundredths = hundredths(rate).max(1);
        format!("{}.{:02}", hundredths / 100, hundredths % 100)
    })
}

/// The rate of a field; one that was not changed stays as it was, to the byte.
fn rate(filled: &Filled, name: &str, before: Option<u64>) -> Result<Option<u64>, Problem> {
    if filled.get(name) == mib(before) {
        return Ok(before);
    }
    let mib = filled.optional::<f64>(name)?;
    let fits = |mib: &f64| mib.is_finite() && (0.0..1e9).contains(mib);
    if !mib.as_ref().is_none_or(fits) {
        return Err(Problem::bad_request(format!("{name}: is no such rate")));
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is neither negative nor as large"
    )]
    let bytes = |mib: f64| (mib * MIB as f64) as u64;
    Ok(mib.map(bytes))
}

fn lines(filled: &Filled, name: &str) -> Vec<String> {
    let words = filled.get(name).split_whitespace();
    words.map(str::to_owned).collect()
}

fn given(filled: &Filled, name: &str) -> Option<String> {
    Some(filled.get(name).to_owned()).filter(|text| !text.is_empty())
}

fn members_of(filled: &Filled) -> Result<(u32, MemberRule), Problem> {
    let label = |text: String| match text.split_once('=') {
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
        None => Err(Problem::bad_request(format!(
            "labels: {text} is not key=value"
        ))),
    };
    let labels = lines(filled, "labels").into_iter().map(label);
    let members = MemberRule {
        networks: lines(filled, "networks"),
        hosts: lines(filled, "hosts"),
        labels: labels.collect::<Result<BTreeMap<_, _>, _>>()?,
    };
    Ok((filled.optional("position")?.unwrap_or(0), members))
}

fn registry_of(filled: &Filled) -> Result<RegistryRule, Problem> {
    Ok(RegistryRule {
        registry: filled.get("registry").to_owned(),
        url: given(filled, "url"),
        mirrors: lines(filled, "mirrors"),
        ca: given(filled, "ca"),
        tag_ttl_seconds: filled.optional("tag_ttl")?,
        tag_stale_seconds: filled.optional("tag_stale")?,
        max_connections: filled.optional("max_connections")?,
        username: given(filled, "username"),
    })
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, AT, &HeaderMap::new());
    let made = async {
        let name: Name = filled.parse("name")?;
        let (position, members) = members_of(&filled)?;
        let settings = ClusterSettings {
            position,
            members,
            ..ClusterSettings::default()
        };
        let none = Passwords::default();
        api_clusters::make(&api, &visit.caller, (&name, &settings), none).await?;
        Ok(name)
    };
    match made.await {
        Ok(name) => see(&format!("{AT}/{name}")),
        Err(problem) => visit.problem(&problem),
    }
}

/// What a form is about.
#[derive(Debug, Clone, Copy)]
enum Part {
    Members,
    Limits,
    Blocked,
    Registry,
    NoRegistry,
}

impl Part {
    fn change(self, filled: &Filled, cluster: &mut ClusterSettings) -> Result<Passwords, Problem> {
        let mut passwords = Passwords::default();
        match self {
            Self::Members => (cluster.position, cluster.members) = members_of(filled)?,
            Self::Limits => {
                let limits = &mut cluster.rules.limits;
                limits.upload = rate(filled, "upload", limits.upload)?;
                limits.download = rate(filled, "download", limits.download)?;
                limits.upstream = rate(filled, "upstream", limits.upstream)?;
            }
            Self::Blocked => cluster.rules.blocked = lines(filled, "blocked"),
            Self::Registry => {
                let rule = registry_of(filled)?;
                let password = filled.raw("password");
                if !password.is_empty() {
                    passwords = Passwords::one(&rule.registry, password);
                }
                let upstreams = &mut cluster.rules.upstreams;
                upstreams.retain(|known| known.registry != rule.registry);
                upstreams.push(rule);
            }
            Self::NoRegistry => {
                let registry = filled.get("registry");
                let upstreams = &mut cluster.rules.upstreams;
                upstreams.retain(|known| known.registry != registry);
            }
        }
        Ok(passwords)
    }
}

async fn change(part: Part, api: Api, caller: Caller, name: String, filled: Filled) -> Response {
    let visit = Visit::new(caller, AT, &HeaderMap::new());
    let changed = async {
        let of = (name_in_path(&name)?, filled.optional("version")?);
        edit(&api, &visit.caller, of, |cluster| {
            part.change(&filled, cluster)
        })
        .await
    };
    match changed.await {
        Ok(()) => see(&format!("{AT}/{name}")),
        Err(problem) => visit.problem(&problem),
    }
}

macro_rules! changes {
    ($($handler:ident: $part:ident),* $(,)?) => {$(
        pub(super) async fn $handler(
            State(api): State<Api>,
            Extension(caller): Extension<Caller>,
            Path(name): Path<String>,
            Extension(filled): Extension<Filled>,
        ) -> Response {
            change(Part::$part, api, caller, name, filled).await
        }
    )*};
}

changes! {
    set_members: Members,
    set_limits: Limits,
    set_blocked: Blocked,
    set_registry: Registry,
    remove_registry: NoRegistry,
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Extension(filled): Extension<Filled>,
) -> Response {
    let visit = Visit::new(caller, AT, &HeaderMap::new());
    let removed = async {
        let of = (name_in_path(&name)?, filled.optional("version")?);
        api_clusters::take_away(&api, &visit.caller, of).await
    };
    match removed.await {
        Ok(()) => see(AT),
        Err(problem) => visit.problem(&problem),
    }
}
