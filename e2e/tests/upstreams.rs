//! Between a mirror and the registries behind it: a proxy on the way, a mirror of the registry, and
//! limits that the registry sets.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::ensure;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds, up_settings, up_settings_at};
use darner_e2e::darner::Darner;
use darner_e2e::scene;
use darner_e2e::upstream::{Fault, NAME, Rule, Upstream};
use tokio::task::JoinSet;

/// A host that only the proxy knows.
const BEHIND: &str = "http://registry.behind-the-proxy.example";

/// A forward proxy that knows one host.
#[derive(Clone)]
struct Proxy {
    http: reqwest::Client,
    target: String,
    seen: Arc<Mutex<Vec<String>>>,
}

async fn proxied(State(proxy): State<Proxy>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let asked = parts.uri.to_string();
    proxy
        .seen
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked.clone());
    let answer = async {
        let rest = asked.strip_prefix(BEHIND)?;
        let url = format!("{}{rest}", proxy.target);
        let mut passed = proxy.http.request(parts.method.clone(), url);
        for name in ["accept", "range"] {
            if let Some(value) = parts.headers.get(name) {
                passed = passed.header(name, value.clone());
            }
        }
        let answer = passed.send().await.ok()?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        let body = answer.bytes().await.ok()?;
        if parts.method == http::Method::GET {
            *response.body_mut() = Body::from(body);
        }
        Some(response)
    };
    answer.await.unwrap_or_else(|| {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = http::StatusCode::BAD_GATEWAY;
        response
    })
}

#[test]
fn a_proxy_is_used_except_where_it_is_not_to_be() {
    scene::run("upstreams_proxy", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = format!("http://{}", listener.local_addr()?);
        let proxy = Proxy {
            http: reqwest::Client::builder().no_proxy().build()?,
            target: upstream.url(),
            seen: Arc::default(),
        };
        let routes = axum::Router::new().fallback(proxied);
        let routes = routes.with_state(proxy.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { axum::serve(listener, routes).await });
        let settings = up_settings_at(scene, BEHIND)?;
        let environment = [("HTTP_PROXY", address.as_str()), ("http_proxy", &address)];
        let up = Darner::start_in(scene, "up", "up", &settings, &environment).await?;
        let image = &upstream.images.tiny;
        Client::new(&up, NAME)?.pull(image).await?;
        let seen = || {
            let seen = proxy.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.clone()
        };
        ensure!(!seen().is_empty() && seen().iter().all(|url| url.starts_with(BEHIND)));
        drop(up);
        let (before, name) = (seen().len(), "registry.behind-the-proxy.example");
        let environment = [
            ("HTTP_PROXY", address.as_str()),
            ("http_proxy", &address),
            ("NO_PROXY", name),
            ("no_proxy", name),
        ];
        let fresh = settings.set("data_dir", scene.path("data-other").display().to_string());
        let up = Darner::start_in(scene, "other", "up", &fresh, &environment).await?;
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let answer = Client::new(&up, NAME)?.get(&path).await?;
        ensure!(answer.status == 503, "{}", answer.describe());
        ensure!(seen().len() == before, "the proxy was asked");
        Ok(())
    });
}

#[test]
fn a_mirror_of_the_registry_is_asked_first_and_left_out_while_it_is_away() {
    scene::run("upstreams_mirror", async |scene| {
        let upstream = Upstream::start(scene).await?;
        // Nothing listens there any more.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let gone_url = format!("http://{}", gone.local_addr()?);
        drop(gone);
        let image = &upstream.images.middle;
        let mirrors = toml::Value::Array(vec![gone_url.into(), upstream.url().into()]);
        let settings = up_settings_at(scene, "http://127.0.0.1:9")?;
        let settings = settings.of_upstream("mirrors", mirrors);
        let up = Darner::start(scene, "up", "up", &settings).await?;
        Client::new(&up, NAME)?.pull(image).await?;
        upstream.read_once(image)
    });
}

#[test]
fn a_registry_that_limits_one_of_us_is_left_alone_by_all() {
    scene::run("upstreams_limit", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(3)).await?;
        upstream.rule(Rule::new("/manifests/", Fault::Status(429)));
        let image = &upstream.images.tiny;
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        for client in cluster.clients()? {
            let answer = client.get(&path).await?;
            // Never a 429, which clients would hammer on.
            ensure!(answer.status == 503, "{}", answer.describe());
        }
        let asked = upstream.ledger().requests();
        ensure!(asked.len() == 1, "{}", upstream.ledger().describe());
        let metrics = cluster.seeds[0].metrics().await?;
        let limited = metrics.sum("darner_upstream_rate_limited_total", "");
        let until = metrics.sum("darner_upstream_quiet_until_timestamp_seconds", "");
        ensure!(limited == 1.0 && until > 0.0, "{}", metrics.text);
        Ok(())
    });
}

#[test]
fn one_head_asks_for_a_tag_for_the_whole_cluster() {
    scene::run("upstreams_one_head", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(3)).await?;
        let image = &upstream.images.tiny;
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        for client in cluster.clients()? {
            for _ in 0..2 {
                let answer = client.head(&path).await?;
                ensure!(answer.status == 200, "{}", answer.describe());
            }
        }
        let asked = upstream.ledger().requests();
        let by_tag = asked.iter().filter(|one| one.path.ends_with(&image.tag));
        ensure!(by_tag.count() == 1, "{}", upstream.ledger().describe());
        Ok(())
    });
}

#[test]
fn a_stale_tag_has_its_limit() {
    scene::run("upstreams_stale", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let settings = up_settings(scene, &upstream)?
            .of_upstream("tag_ttl", "0s")
            .of_upstream("tag_stale", "3s");
        let up = Darner::start(scene, "up", "up", &settings).await?;
        let client = Client::new(&up, NAME)?;
        let image = upstream.images.tiny.clone();
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        client.pull(&image).await?;
        upstream.off();
        let stale = client.get(&path).await?;
        ensure!(stale.status == 200, "{}", stale.describe());
        ensure!(stale.header("warning")?.starts_with("110 "));
        darner_e2e::wait::until("the tag is too old", async || {
            let answer = client.get(&path).await.ok()?;
            (answer.status == 503).then_some(())
        })
        .await?;
        // What its digest means does not go out of date.
        client.pull_by_digest(&image).await.map(drop)
    });
}
