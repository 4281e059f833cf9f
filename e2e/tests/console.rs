//! The console in a real browser: from the link of a first start to a preheat and a token, at every
//! width and in both colours, with nothing asked of anybody but the manager.
//!
//! The pictures in the documentation are made by it: `DARNER_WRITE_SCREENSHOTS=1 cargo test -p darner-e2e
//! --test console`.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use darner_e2e::browser::Browser;
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, seeds};
use darner_e2e::image::Image;
use darner_e2e::operator::{PASSWORD, setup_link};
use darner_e2e::place;
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use serde_json::json;

/// Slow enough to be seen on its way.
const SLOW: u64 = 2 << 20;
/// Every page is looked at in two widths and two colours.
const LIMIT: Duration = Duration::from_secs(180);
const PAGES: &[&str] = &[
    "/",
    "/nodes",
    "/nodes/seed-1",
    "/images",
    "/removals",
    "/tasks",
    "/swarm",
    "/jobs",
    "/clusters",
    "/clusters/default",
    "/upstreams",
    "/tokens",
    "/join-tokens",
    "/users",
    "/audit",
    "/settings",
];

/// The number in a tile of the overview.
fn tile(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('.tiles div')].find((one) => one.querySelector('dt').textContent === '{name}')?.querySelector('dd').textContent"
    )
}

/// A page that has been loaded once and lives.
async fn is_live(browser: &mut Browser) -> Result<()> {
    let live =
        "document.getElementById('state')?.textContent === 'Live' && (window.loadedOnce = true)";
    browser.until("the page to be live", live).await.map(drop)
}

async fn was_not_loaded_again(browser: &mut Browser) -> Result<()> {
    let same = browser.evaluate("window.loadedOnce === true").await?;
    ensure!(same == true, "the page was loaded again");
    Ok(())
}

/// Becomes the first administrator by the printed link; says where the console is.
async fn log_in(browser: &mut Browser, cluster: &Cluster) -> Result<String> {
    let link = setup_link(&cluster.manager)?;
    let (site, secret) = link.split_once("/setup#").context("not such a link")?;
    browser.open(&link).await?;
    let taken =
        format!("document.querySelector('#token').value === '{secret}' && location.hash === ''");
    browser.until("the secret to be taken over", &taken).await?;
    browser.fill("#name", "ann").await?;
    browser.fill("#password", PASSWORD.trim()).await?;
    browser.press("Become the first administrator").await?;
    let there = "document.querySelector('h1')?.textContent === 'Overview'";
    browser.until("the overview", there).await?;
    Ok(site.to_owned())
}

async fn watch_a_pull(browser: &mut Browser, cluster: &Cluster, upstream: &Upstream) -> Result<()> {
    let image = &upstream.images.big;
    is_live(browser).await?;
    let reports = format!("{} === '2'", tile("Nodes that report here"));
    browser.until("both nodes to report", &reports).await?;
    upstream.throttle(Some(SLOW));
    let client = Client::new(&cluster.mirrors[0], NAME)?;
    let moving = async {
        let running = format!("{} !== '0'", tile("Downloads running"));
        browser.until("the pull to be seen", &running).await?;
        upstream.throttle(None);
        anyhow::Ok(())
    };
    let (pulled, moved) = tokio::join!(client.pull(image), moving);
    pulled?;
    moved?;
    let over = format!(
        "{} === '0' && {} !== '0 B'",
        tile("Downloads running"),
        tile("Sent to clients")
    );
    browser.until("the pull to be over", &over).await?;
    was_not_loaded_again(browser).await
}

async fn preheat(
    browser: &mut Browser,
    site: &str,
    image: &Image,
    upstream: &Upstream,
) -> Result<()> {
    upstream.throttle(Some(SLOW));
    browser.open(&format!("{site}/jobs")).await?;
    let name = format!("{NAME}/{}:{}", image.repository, image.tag);
    browser.fill("#images", &name).await?;
    browser.press("Begin").await?;
    is_live(browser).await?;
    let some = "(() => { const bar = document.querySelector('progress'); return bar.value > 0 && bar.value < 100 && bar.value; })()";
    browser.until("progress", some).await?;
    upstream.throttle(None);
    let done = "document.getElementById('state').textContent === 'Live' && document.querySelectorAll('g.done').length === 2";
    browser.until("both nodes to hold the image", done).await?;
    let phase = browser
        .evaluate("document.querySelector('.facts dd').textContent")
        .await?;
    ensure!(phase == "done", "{phase}");
    was_not_loaded_again(browser).await
}

/// The page of an image that nodes hold, by way of the list; says where it is.
async fn look_at_an_image(browser: &mut Browser, site: &str, image: &Image) -> Result<String> {
    browser.open(&format!("{site}/images")).await?;
    is_live(browser).await?;
    let link = format!(
        "[...document.querySelectorAll('th a')].find((one) => one.textContent.includes('{}'))?.getAttribute('href')",
        image.repository
    );
    let link = browser.until("the image to be listed", &link).await?;
    let page = link.as_str().context("no link")?.to_owned();
    browser.open(&format!("{site}{page}")).await?;
    is_live(browser).await?;
    let whole = "document.querySelector('svg.heat').getAttribute('aria-label').includes('2 of 2 have all of it')";
    browser
        .until("both nodes to have all layers", whole)
        .await?;
    let digest = browser
        .evaluate("document.querySelector('.facts code').textContent")
        .await?;
    ensure!(digest == image.digest.to_string(), "{digest}");
    Ok(page)
}

/// From the image's page; says where the removal is followed.
async fn remove_it_everywhere(browser: &mut Browser, site: &str, image: &str) -> Result<String> {
    browser.open(&format!("{site}{image}")).await?;
    let open = "document.querySelector('details.danger').open = true";
    browser.evaluate(open).await?;
    browser.press("Remove this image everywhere").await?;
    is_live(browser).await?;
    let all = "document.querySelector('.facts progress')?.value === 2";
    browser.until("both nodes to have removed it", all).await?;
    let page = browser.evaluate("location.pathname").await?;
    Ok(page.as_str().context("no page")?.to_owned())
}

/// A pull as its task shows it: pieces, and who feeds whom.
async fn watch_a_task(
    browser: &mut Browser,
    site: &str,
    (cluster, upstream): (&Cluster, &Upstream),
) -> Result<()> {
    let axe = axe()?;
    upstream.throttle(Some(SLOW));
    let client = Client::new(&cluster.mirrors[0], NAME)?;
    let watching = async {
        browser.open(&format!("{site}/tasks")).await?;
        let link = "document.querySelector('th a[href^=\"/tasks/\"]')?.getAttribute('href')";
        let link = browser.until("a task", link).await?;
        let link = link.as_str().context("no link")?;
        browser.open(&format!("{site}{link}")).await?;
        is_live(browser).await?;
        let some = "[...document.querySelectorAll('svg.pieces')].some((one) => /has [1-9][0-9]? %/.test(one.getAttribute('aria-label')))";
        browser.until("some of the pieces on a node", some).await?;
        accessible(browser, &axe, "the page of a task").await?;
        shoot(browser, "task").await?;
        browser.open(&format!("{site}/swarm")).await?;
        is_live(browser).await?;
        let fed = "document.querySelector('svg.topology .seed') && document.querySelector('svg.topology .mirror') && true";
        browser.until("a node that feeds another", fed).await?;
        accessible(browser, &axe, "the swarm").await?;
        shoot(browser, "swarm").await?;
        upstream.throttle(None);
        anyhow::Ok(())
    };
    let (pulled, watched) = tokio::join!(client.pull(&upstream.images.middle), watching);
    pulled?;
    watched
}

fn axe() -> Result<String> {
    let axe = std::fs::read_to_string(place::required_tool("axe.min.js")?)?;
    Ok(format!("{axe}; true"))
}

/// The picture of the page for the documentation, where it is to be made anew.
async fn shoot(browser: &mut Browser, name: &str) -> Result<()> {
    if std::env::var_os("DARNER_WRITE_SCREENSHOTS").is_none() {
        return Ok(());
    }
    let screen = json!({ "width": 1000, "height": 750, "deviceScaleFactor": 1, "mobile": false });
    browser
        .call("Emulation.setDeviceMetricsOverride", screen)
        .await?;
    let shot = browser
        .call("Page.captureScreenshot", json!({ "format": "png" }))
        .await?;
    let png = shot["data"].as_str().context("no picture")?;
    let png = base64::engine::general_purpose::STANDARD.decode(png)?;
    let directory = place::workspace().join("docs/how-to/console");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join(format!("{name}.png")), png)?;
    Ok(())
}

async fn make_and_revoke_a_token(browser: &mut Browser, site: &str) -> Result<()> {
    browser.open(&format!("{site}/tokens")).await?;
    browser.fill("#label", "nightly build").await?;
    browser.press("Make").await?;
    let secret = browser
        .evaluate("document.querySelector('#secret').value")
        .await?;
    let secret = secret.as_str().context("no token")?;
    let nodes = async || {
        let ask = reqwest::Client::new().get(format!("{site}/api/v1/nodes"));
        let answer = ask.bearer_auth(secret).send().await.ok()?;
        Some(answer.status().as_u16())
    };
    ensure!(nodes().await == Some(200), "the token does not work");
    browser.open(&format!("{site}/tokens")).await?;
    browser.press("Revoke nightly build").await?;
    ensure!(nodes().await == Some(401), "the token still works");
    Ok(())
}

/// What axe-core finds wrong with the page, which is to be nothing.
async fn accessible(browser: &mut Browser, axe: &str, page: &str) -> Result<()> {
    browser.evaluate(axe).await?;
    let run = "axe.run(document).then((told) => [told.passes.length, told.violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html + ' ' + node.failureSummary).join(' | ')}`)])";
    let found = browser.evaluate(run).await?;
    ensure!(found[0].as_u64() > Some(10), "{page}: it looked at nothing");
    let found = &found[1];
    ensure!(*found == json!([]), "{page}: {found:#}");
    Ok(())
}

async fn look_at_every_page(browser: &mut Browser, site: &str, others: &[&str]) -> Result<()> {
    let axe = axe()?;
    for colours in ["light", "dark"] {
        let prefers = json!([{ "name": "prefers-color-scheme", "value": colours }]);
        browser
            .call("Emulation.setEmulatedMedia", json!({ "features": prefers }))
            .await?;
        for page in PAGES.iter().chain(others) {
            browser.open(&format!("{site}{page}")).await?;
            for width in [320, 1280] {
                let screen = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
                browser
                    .call("Emulation.setDeviceMetricsOverride", screen)
                    .await?;
                let wide = browser
                    .evaluate("document.documentElement.scrollWidth")
                    .await?;
                ensure!(
                    wide.as_u64() <= Some(width),
                    "{page}: {wide} wide at {width}"
                );
            }
            accessible(browser, &axe, &format!("{page} ({colours})")).await?;
        }
    }
    Ok(())
}

/// Pages are whole without scripts.
async fn without_scripts(browser: &mut Browser, site: &str) -> Result<()> {
    browser
        .call(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": true }),
        )
        .await?;
    let told = text_of(browser, &format!("{site}/nodes")).await?;
    ensure!(
        told.contains("seed-1") && told.contains("mirror-1"),
        "{told}"
    );
    let state = "As it was when the page was loaded";
    ensure!(told.contains(state), "{told}");
    browser
        .call(
            "Emulation.setScriptExecutionDisabled",
            json!({ "value": false }),
        )
        .await?;
    Ok(())
}

/// The text of a page on which no script runs, not even the test's.
async fn text_of(browser: &mut Browser, url: &str) -> Result<String> {
    browser.call("Page.navigate", json!({ "url": url })).await?;
    let text = wait::until("the page without scripts", async || {
        let tree = browser.call("DOM.getDocument", json!({})).await.ok()?;
        let outer = json!({ "nodeId": tree["root"]["nodeId"] });
        let html = browser.call("DOM.getOuterHTML", outer).await.ok()?;
        let html = html["outerHTML"].as_str()?;
        html.contains("</main>").then(|| html.to_owned())
    });
    text.await
}

#[test]
fn a_person_sees_and_does_everything_in_a_browser() {
    scene::run_for("console", LIMIT, async |scene: &Scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, seeds(1).mirrors(1)).await?;
        let mut browser = Browser::start(scene).await?;
        let site = log_in(&mut browser, &cluster).await?;
        watch_a_pull(&mut browser, &cluster, &upstream).await?;
        shoot(&mut browser, "overview").await?;
        preheat(&mut browser, &site, &upstream.images.middle, &upstream).await?;
        let job = browser.evaluate("location.pathname").await?;
        let job = job.as_str().context("no job")?.to_owned();
        let image = look_at_an_image(&mut browser, &site, &upstream.images.middle).await?;
        shoot(&mut browser, "image").await?;
        let removal = remove_it_everywhere(&mut browser, &site, &image).await?;
        watch_a_task(&mut browser, &site, (&cluster, &upstream)).await?;
        look_at_an_image(&mut browser, &site, &upstream.images.middle).await?;
        make_and_revoke_a_token(&mut browser, &site).await?;
        let others = [&*job, &*image, &*removal];
        look_at_every_page(&mut browser, &site, &others).await?;
        without_scripts(&mut browser, &site).await?;
        let elsewhere: Vec<_> = browser
            .requests
            .iter()
            .filter(|url| !url.starts_with(&site) && *url != "about:blank")
            .collect();
        ensure!(
            browser.requests.len() > PAGES.len(),
            "requests are not noted"
        );
        ensure!(elsewhere.is_empty(), "asked of others: {elsewhere:?}");
        ensure!(browser.complaints.is_empty(), "{:#?}", browser.complaints);
        Ok(())
    });
}
