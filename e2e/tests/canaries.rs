//! Secrets in everything that a process reads (its settings, files they name, its environment,
//! requests, what registries answer), each of them one that can be told from the others. None is in
//! a log, however much is logged, in a metric, in a file that the process wrote, or in what it
//! answers.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use darner_e2e::client::Client;
use darner_e2e::cluster::{in_plain_text, up_settings};
use darner_e2e::darner::{self, Darner};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{Fault, Guard, NAME, Rule, SIGNATURE, TOKEN, Upstream};
use darner_e2e::web::Web;
use darner_e2e::{process, raw};

/// A secret of a kind, and what it becomes where it is encoded.
fn canary(kind: &str) -> [String; 2] {
    let plain = format!("canary-{kind}-7f3a");
    let basic = BASE64_STANDARD.encode(format!("alice:{plain}"));
    [plain, basic]
}

/// Every kind that is planted.
const KINDS: [&str; 14] = [
    "password-file",
    "docker-config",
    "proxy-environment",
    "caller-basic",
    "caller-bearer",
    "cookie",
    "proxy-authorization",
    "registry-auth",
    "query-token",
    "query-signature",
    "userinfo",
    "file-signature",
    "file-bearer",
    "fragment",
];

fn plain(kind: &str) -> String {
    let [plain, _] = canary(kind);
    plain
}

fn basic(kind: &str) -> String {
    let [_, basic] = canary(kind);
    format!("Basic {basic}")
}

/// All secrets in all forms, and those of the rig's registry.
fn secrets() -> Vec<String> {
    let mut all: Vec<_> = KINDS.into_iter().flat_map(canary).collect();
    all.extend([TOKEN.to_owned(), SIGNATURE.to_owned()]);
    all
}

fn check(text: &str, place: &str) -> Result<()> {
    for secret in secrets() {
        ensure!(!text.contains(&secret), "{secret} is in {place}");
    }
    Ok(())
}

/// A process that has been given secrets in its settings, their files and its environment.
async fn start(scene: &Scene, upstream: &Upstream, web: &Web) -> Result<Darner> {
    let password = scene.path("password");
    fs::write(&password, plain("password-file"))?;
    let config = scene.path("config.json");
    let [_, login] = canary("docker-config");
    let text = format!(
        r#"{{"auths": {{"{}": {{"auth": "{login}"}}}}}}"#,
        upstream.url()
    );
    fs::write(&config, text)?;
    let settings = up_settings(scene, upstream)?
        .of_upstream("username", "alice")
        .of_upstream("password_file", password.display().to_string())
        .upstream("other.test", &upstream.url())
        .of_upstream("credentials_file", config.display().to_string())
        .route(&web.host())
        .set("proxy.listen", "127.0.0.1:0")
        .set("log.filter", "trace");
    let settings = in_plain_text(settings);
    let proxy = format!("http://alice:{}@127.0.0.1:9", plain("proxy-environment"));
    let environment = [
        ("HTTPS_PROXY", proxy.as_str()),
        ("NO_PROXY", "127.0.0.1,localhost"),
    ];
    Darner::start_in(scene, "up", "up", &settings, &environment).await
}

/// Requests with secrets in every place that a request has, good and bad ones.
async fn ask(up: &Darner, path: &str) -> Result<()> {
    let address = up.address("registry")?;
    let headers = [
        format!("Authorization: {}", basic("caller-basic")),
        format!("Authorization: Bearer {}", plain("caller-bearer")),
        format!("Authorization: {}", plain("caller-bearer")),
        format!("Cookie: session={}", plain("cookie")),
        format!("Proxy-Authorization: {}", basic("proxy-authorization")),
        format!("X-Registry-Auth: {}", plain("registry-auth")),
        format!("Range: {}", plain("fragment")),
        format!("If-None-Match: \"{}\"", plain("fragment")),
    ];
    let headers = headers.map(|header| format!("{header}\r\n"));
    let (token, signature) = (plain("query-token"), plain("query-signature"));
    let targets = [
        format!("/v2/{path}?ns={NAME}"),
        format!("/v2/{path}?ns=other.test"),
        format!("/v2/{path}?ns={NAME}&token={token}&X-Amz-Signature={signature}"),
        format!("/v2/NO/../name?token={token}"),
        format!("/elsewhere?token={token}"),
        format!(
            "http://alice:{}@{address}/v2/{path}?ns={NAME}",
            plain("userinfo")
        ),
    ];
    for target in &targets {
        for header in &headers {
            for method in ["GET", "HEAD", "PUT"] {
                let answer = raw::request(address, method, target, header).await?;
                check(&answer.describe(), "an answer")?;
                check(&String::from_utf8_lossy(&answer.body), "an answer")?;
            }
        }
    }
    Ok(())
}

/// A file behind a signed URL, and one behind a token.
async fn files(up: &Darner, web: &Web) -> Result<()> {
    let proxy = up.address("proxy")?;
    let bearer = format!("Authorization: Bearer {}\r\n", plain("file-bearer"));
    for url in [
        format!(
            "{}?X-Sig={}",
            web.url("signed/file"),
            plain("file-signature")
        ),
        web.signed("signed/file", &plain("file-signature")),
        web.url("open/file"),
        format!("http://nobody.test/x?X-Sig={}", plain("file-signature")),
    ] {
        for method in ["GET", "CONNECT"] {
            let answer = raw::request(proxy, method, &url, &bearer).await?;
            check(&format!("{:?}", answer.headers), "an answer of the proxy")?;
            if answer.status >= 300 {
                check(
                    &String::from_utf8_lossy(&answer.body),
                    "an answer of the proxy",
                )?;
            }
        }
    }
    Ok(())
}

async fn check_all(scene: &Scene, up: &Darner) -> Result<()> {
    let logs = up.output();
    ensure!(logs.contains("\"TRACE\""), "not everything was logged");
    check(&logs, "the log")?;
    check(&up.metrics().await?.text, "the metrics")?;
    for page in ["/readyz", "/livez", "/status"] {
        check(&up.admin(page).await?.1, page)?;
    }
    let secrets = secrets();
    let secrets: Vec<_> = secrets.iter().map(String::as_str).collect();
    scene.holds_none_of("data-up", &secrets)
}

#[test]
fn no_secret_comes_out_of_a_process_that_is_given_one_in_every_way_there_is() {
    scene::run("canaries", async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let web = Web::start(scene, "0").await?;
        web.put("signed/file", 1 << 20, (1, 100))?;
        web.put("open/file", 1 << 20, (2, 100))?;
        let up = start(scene, &upstream, &web).await?;
        let images = upstream.images.clone();
        let path = format!("{}/manifests/{}", images.tiny.repository, images.tiny.tag);
        let caller = basic("caller-basic");
        for guard in [
            Guard::Open,
            Guard::Basic(caller.clone()),
            Guard::Bearer(None),
            Guard::Bearer(Some(caller)),
        ] {
            upstream.guard(guard);
            ask(&up, &path).await?;
        }
        // What is private is kept, and what was asked for is followed to the host of its blobs.
        upstream.guard(Guard::Basic(basic("caller-basic")));
        upstream.rule(Rule::new("/blobs/", Fault::Redirect));
        let client = Client::new(&up, NAME)?;
        let alice = client.with_credentials("alice", &plain("caller-basic"));
        alice.pull(&images.multi).await?;
        files(&up, &web).await?;
        upstream.off();
        ask(&up, &path).await?;
        alice
            .pull(&images.multi)
            .await
            .context("while upstream is off")?;
        check_all(scene, &up).await
    });
}

#[test]
fn settings_that_hold_a_secret_where_none_belongs_are_refused_without_it() {
    scene::run("canaries_settings", async |scene| {
        let file = scene.path("settings.toml");
        let secret = plain("userinfo");
        for line in [
            format!("[[upstream]]\nname = \"a.test\"\nurl = \"https://alice:{secret}@a.test\""),
            format!("[[upstream]]\nname = \"a.test\"\nurl = \"https://a.test/?token={secret}\""),
            format!("[manager]\naddress = \"https://alice:{secret}@a.test:1\""),
        ] {
            fs::write(&file, format!("data_dir = \"/nowhere\"\n{line}\n"))?;
            let mut command = darner::command()?;
            command.arg("mirror").arg("--config").arg(&file);
            let output = process::finish(command).await?;
            ensure!(output.status.code() == Some(2), "{line}: {output:?}");
            for said in [&output.stdout, &output.stderr] {
                let said = String::from_utf8_lossy(said);
                ensure!(!said.contains(&secret), "{line} is answered with {said}");
            }
        }
        Ok(())
    });
}
