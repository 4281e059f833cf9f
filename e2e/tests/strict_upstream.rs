//! A registry with an authority of its own that answers only who shows a certificate, below a path and
//! over HTTP/2: what it takes to read from it, and what an operator hears when something is missing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::authority::Authority;
use darner_e2e::client::Client;
use darner_e2e::cluster::up_settings_at;
use darner_e2e::containerd::Containerd;
use darner_e2e::darner::{self, Darner, Settings, field, messages};
use darner_e2e::image::Image;
use darner_e2e::nginx::Asked;
use darner_e2e::registry::{Access, Registry};
use darner_e2e::runtime::{PASSWORD, PASSWORD_HASH, USER};
use darner_e2e::scene::{self, Scene};
use darner_e2e::skopeo::Skopeo;
use darner_e2e::strict::{HOST, Other, Strict, shows, trusts};
use darner_e2e::tunnel::Tunnel;
use darner_e2e::upstream::NAME;
use darner_e2e::wait;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// What an environment says of proxies.
const PROXIES: [&str; 8] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// Starts a mirror of it under a name of its own, for which the environment says this of proxies.
async fn start(
    scene: &Scene,
    name: &str,
    settings: Settings,
    proxies: &[(&str, &str)],
) -> Result<Darner> {
    let data = scene.make_directory(format!("data-{name}"))?;
    let settings = settings.set("data_dir", data.display().to_string());
    let mut command = darner::command()?;
    for name in PROXIES {
        command.env_remove(name);
    }
    command.envs(proxies.iter().copied());
    Darner::start_by(scene, name, "up", &settings, command).await
}

fn skopeo(scene: &Scene, up: &Darner) -> Result<Skopeo> {
    let address = up.address("registry")?.to_string();
    Skopeo::new(scene, &format!("skopeo-{}", up.name()), NAME, &address)
}

/// Everything that was asked was asked as the registry wants it, over HTTP/2.
fn asked_as_it_wants(strict: &Strict) -> Result<Vec<Asked>> {
    let asked = strict.asked()?;
    ensure!(!asked.is_empty(), "the registry was not asked");
    for one in &asked {
        let wanted = one.path.starts_with("/team/registry/v2/")
            && one.protocol == "HTTP/2.0"
            && one.certificate == "SUCCESS";
        ensure!(wanted, "{one:?}");
    }
    Ok(asked)
}

/// The image's blobs were sent once.
async fn sent_once(asked: impl Fn() -> Result<Vec<Asked>>, image: &Image) -> Result<()> {
    let is_of_it = |asked: &&Asked| {
        let mut blobs = image.blobs.iter();
        let of_it = blobs.any(|blob| asked.path.ends_with(&format!("/blobs/{}", blob.digest)));
        of_it && asked.status == 200
    };
    let whole = image.bytes();
    // A line is written after the last byte has gone out.
    let sent = wait::until("all that was sent is logged", async || {
        let sent: u64 = asked()
            .ok()?
            .iter()
            .filter(is_of_it)
            .map(|one| one.bytes)
            .sum();
        (sent >= whole).then_some(sent)
    })
    .await?;
    ensure!(sent == whole, "{sent} bytes of {whole}: {:#?}", asked()?);
    Ok(())
}

#[test]
fn a_strict_registry_is_read_as_it_wants_and_once_for_all_clients() {
    scene::run("strict_read", async |scene| {
        let strict = Strict::start(scene, &Access::Open, Other::Mirror).await?;
        let settings = strict.let_in(up_settings_at(scene, &strict.url())?);
        let up = start(scene, "up", settings, &[]).await?;
        let images = [&scene.images().middle, &scene.images().multi];
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        let skopeo = skopeo(scene, &up)?;
        for image in images {
            let reference = image.reference(NAME);
            skopeo.copy(image, &reference).await?;
            containerd.pull(&reference).await?;
        }
        for image in images {
            sent_once(|| asked_as_it_wants(&strict), image).await?;
        }
        ensure!(strict.asked_of_other()?.is_empty(), "nothing led there");
        Ok(())
    });
}

#[test]
fn its_certificate_is_shown_to_it_and_not_to_where_it_keeps_its_blobs() {
    scene::run("strict_storage", async |scene| {
        let strict = Strict::start(scene, &Access::Open, Other::Storage).await?;
        let settings = strict.let_in(up_settings_at(scene, &strict.url())?);
        let up = start(scene, "up", settings, &[]).await?;
        let image = &scene.images().multi;
        let skopeo = skopeo(scene, &up)?;
        skopeo.copy(image, &image.reference(NAME)).await?;
        asked_as_it_wants(&strict)?;
        sent_once(|| strict.asked_of_other(), image).await?;
        for one in strict.asked_of_other()? {
            ensure!(one.certificate == "NONE", "{one:?}");
        }
        Ok(())
    });
}

/// A host that takes connections and lets go of them; how many there were.
async fn broken_host(tasks: &mut JoinSet<()>) -> Result<(String, Arc<AtomicUsize>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("https://{}/mirror", listener.local_addr()?);
    let taken = Arc::<AtomicUsize>::default();
    let count = taken.clone();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            drop(stream);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok((url, taken))
}

#[test]
fn mirrors_of_it_come_first_and_a_broken_one_is_passed_over() {
    scene::run("strict_mirrors", async |scene| {
        let strict = Strict::start(scene, &Access::Open, Other::Mirror).await?;
        let mut tasks = JoinSet::new();
        let image = &scene.images().middle;
        for (name, others) in [
            ("next-mirror", vec![strict.other_url()]),
            ("next-self", vec![]),
        ] {
            let (broken, taken) = broken_host(&mut tasks).await?;
            let mirrors = std::iter::once(broken).chain(others.clone());
            let mirrors = toml::Value::Array(mirrors.map(Into::into).collect());
            let settings = up_settings_at(scene, &strict.url())?.of_upstream("mirrors", mirrors);
            let up = start(scene, name, strict.let_in(settings), &[]).await?;
            let before = (strict.asked()?.len(), strict.asked_of_other()?.len());
            let skopeo = skopeo(scene, &up)?;
            skopeo.copy(image, &image.reference(NAME)).await?;
            ensure!(taken.load(Ordering::Relaxed) > 0, "the first was not asked");
            heard(&up, "a mirror of the registry does not answer").context(name)?;
            if others.is_empty() {
                sent_once(|| asked_as_it_wants(&strict), image).await?;
                ensure!(strict.asked_of_other()?.len() == before.1);
                continue;
            }
            sent_once(|| strict.asked_of_other(), image).await?;
            ensure!(strict.asked()?.len() == before.0, "{:?}", strict.asked()?);
            for one in strict.asked_of_other()? {
                ensure!(one.certificate == "NONE", "its mirror saw: {one:?}");
            }
        }
        Ok(())
    });
}

/// What the log says why upstream could not be asked.
fn heard(up: &Darner, said: &str) -> Result<String> {
    let output = up.output();
    let mut lines = messages(&output);
    let line = lines.find(|line| field(line, "message").is_some_and(|text| text.contains(said)));
    let line = line.with_context(|| format!("nothing is said of: {said}"))?;
    let why = field(&line, "error").or_else(|| field(&line, "fault"));
    Ok(why.context("nothing is said why")?.to_owned())
}

/// A mirror with these settings serves nothing, and the log says `why`.
async fn refused(scene: &Scene, name: &str, settings: Settings, why: &str) -> Result<()> {
    let up = start(scene, name, settings, &[]).await?;
    let image = &scene.images().tiny;
    let client = Client::new(&up, NAME)?;
    let alice = client.with_credentials(USER, PASSWORD);
    for client in [&client, &alice] {
        let path = format!("{}/manifests/{}", image.repository, image.tag);
        let answer = client.get(&path).await?;
        ensure!(answer.status == 503, "{}", answer.describe());
        ensure!(answer.error_code()? == "MANIFEST_UNKNOWN");
        let answer = client.get(&image.blob_path(image.largest()?)).await?;
        ensure!(answer.status == 404, "{}", answer.describe());
        ensure!(answer.error_code()? == "BLOB_UNKNOWN");
    }
    for said in [
        "upstream cannot be asked about a repository",
        "whether a caller may read",
    ] {
        let told = heard(&up, said)?;
        ensure!(told.contains(why), "{told}");
    }
    let skopeo = skopeo(scene, &up)?;
    let copied = skopeo.copy(image, &image.reference(NAME)).await;
    ensure!(copied.is_err() && !skopeo.has_any(), "it was pulled");
    Ok(())
}

#[test]
fn who_lacks_something_is_told_in_the_log_and_nobody_is_served() {
    scene::run("strict_refused", async |scene| {
        let strict = Strict::start(scene, &Access::Open, Other::Mirror).await?;
        let stranger = Authority::new(scene, "stranger")?;
        let forged = stranger.certify("forged", &[])?;
        let settings = |url: &str| up_settings_at(scene, url);
        let here = strict.url();
        let no_certificate = trusts(settings(&here)?, strict.authority());
        let forged_one = shows(no_certificate.clone(), &forged);
        let other_authority = trusts(strict.let_in(settings(&here)?), stranger.file());
        let no_authority = shows(settings(&here)?, strict.pair());
        let other_name = strict.let_in(settings(&strict.url_of("localhost"))?);
        let unknown = "invalid peer certificate: UnknownIssuer";
        for (name, settings, why) in [
            ("no-certificate", no_certificate, "answered 400"),
            ("forged", forged_one, "answered 400"),
            ("other-authority", other_authority, unknown),
            ("no-authority", no_authority, unknown),
            ("other-name", other_name, "not valid for name \"localhost\""),
        ] {
            refused(scene, name, settings, why).await.context(name)?;
        }
        for one in strict.asked()? {
            ensure!(one.status == 400, "{one:?}");
        }
        Ok(())
    });
}

#[test]
fn a_registry_that_ends_the_handshake_is_understood() {
    scene::run("strict_handshake", async |scene| {
        let authority = Authority::new(scene, "authority")?;
        let clients = Authority::new(scene, "clients")?;
        let access = Access::Certificate {
            server: authority.certify("registry", &["127.0.0.1"])?,
            clients: clients.file().to_owned(),
        };
        let directory = scene.path("");
        let place = (directory.as_path(), "registry-tls");
        let storage = &scene.images().storage;
        let registry = Registry::start_as(place, storage, true, &access).await?;
        let url = format!("https://{}", registry.address());
        let settings = trusts(up_settings_at(scene, &url)?, authority.file());
        let why = "wants to be shown a certificate: client_cert_file";
        refused(scene, "without", settings.clone(), why).await?;
        let settings = shows(settings, &clients.certify("client", &[])?);
        let up = start(scene, "with", settings, &[]).await?;
        let image = &scene.images().multi;
        skopeo(scene, &up)?
            .copy(image, &image.reference(NAME))
            .await
    });
}

#[test]
fn who_may_read_is_decided_by_the_callers_own_password_behind_its_certificate() {
    scene::run("strict_private", async |scene| {
        let users = scene.path("htpasswd");
        std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))?;
        let access = Access::Password(users);
        let strict = Strict::start(scene, &access, Other::Mirror).await?;
        let settings = strict.let_in(up_settings_at(scene, &strict.url())?);
        let up = start(scene, "up", settings, &[]).await?;
        let image = &scene.images().middle;
        let reference = image.reference(NAME);
        let containerd = Containerd::start(scene, "containerd", &up.url("registry")?).await?;
        for login in [None, Some((USER, "wrong"))] {
            let pulled = containerd.pull_as(&reference, login).await;
            ensure!(pulled.is_err(), "{login:?}");
        }
        containerd
            .pull_as(&reference, Some((USER, PASSWORD)))
            .await?;
        let stranger = Client::new(&up, NAME)?;
        stranger
            .with_credentials(USER, PASSWORD)
            .pull(image)
            .await?;
        let blob = image.blob_path(image.largest()?);
        let refused = stranger.get(&blob).await?;
        ensure!(refused.status == 401, "{}", refused.describe());
        ensure!(refused.header("www-authenticate")?.starts_with("Basic "));
        sent_once(|| asked_as_it_wants(&strict), image).await
    });
}

#[test]
fn a_proxy_of_the_environment_leads_to_it_end_to_end() {
    scene::run("strict_proxy", async |scene| {
        let strict = Strict::start(scene, &Access::Open, Other::Mirror).await?;
        let host = format!("{HOST}:{}", strict.address().port());
        let tunnel = Tunnel::start(&host, strict.address()).await?;
        let image = &scene.images().multi;
        let settings = strict.let_in(up_settings_at(scene, &strict.url_of(HOST))?);
        // No name server knows the host: it is reached through the proxy or not at all.
        let reached = async |name: &str, environment: &[(&str, &str)]| -> Result<bool> {
            let up = start(scene, name, settings.clone(), environment).await?;
            let path = format!("{}/manifests/{}", image.repository, image.tag);
            let answer = Client::new(&up, NAME)?.get(&path).await?;
            if answer.status != 200 {
                ensure!(answer.status == 503, "{}", answer.describe());
                return Ok(false);
            }
            skopeo(scene, &up)?
                .copy(image, &image.reference(NAME))
                .await?;
            Ok(true)
        };
        let proxy = format!("http://alice:canary-5ecre7@{}", tunnel.address());
        ensure!(reached("proxied", &[("HTTPS_PROXY", &proxy)]).await?);
        sent_once(|| asked_as_it_wants(&strict), image).await?;
        let asked = tunnel.asked();
        ensure!(!asked.is_empty());
        for head in &asked {
            ensure!(head.starts_with(&format!("CONNECT {host} ")), "{head}");
            let shown = "YWxpY2U6Y2FuYXJ5LTVlY3JlNw==";
            ensure!(head.contains(shown), "the proxy was not shown: {head}");
        }
        // Others need not go there, and this one does.
        let proxy = tunnel.url();
        let others = [
            ("https_proxy", proxy.as_str()),
            ("NO_PROXY", "other.example,10.0.0.0/8"),
        ];
        ensure!(reached("others", &others).await?);
        let before = tunnel.asked().len();
        for (name, environment) in [
            ("none", &[][..]),
            ("http-only", &[("HTTP_PROXY", proxy.as_str())]),
            ("not-it", &[("HTTPS_PROXY", &proxy), ("NO_PROXY", HOST)]),
            (
                "not-its-domain",
                &[
                    ("HTTPS_PROXY", &proxy),
                    ("no_proxy", "behind-the-proxy.example"),
                ],
            ),
        ] {
            ensure!(!reached(name, environment).await?, "{name}");
        }
        ensure!(tunnel.asked().len() == before, "{:?}", tunnel.asked());
        Ok(())
    });
}
