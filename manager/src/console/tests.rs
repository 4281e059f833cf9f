//! Pages as browsers without scripts ask for them.

use axum::http::{StatusCode, header};
use darner_proto::id::Role as MemberRole;
use url::form_urlencoded;

use super::ROUTES;
use crate::api::access::Need;
use crate::api::tests::{PASSWORD, Scene};
use crate::users::{Name, Role};

/// What a page is: its status, where it leads, and its text.
#[derive(Debug)]
struct Shown {
    status: u16,
    to: String,
    cookie: String,
    policy: String,
    text: String,
}

async fn send(
    scene: &Scene,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    fields: &[(&str, &str)],
) -> Shown {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    let (head, text) = scene.send(method, uri, headers, form.finish()).await;
    let told = |name: header::HeaderName| {
        let value = head.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    Shown {
        status: head.status().as_u16(),
        to: told(header::LOCATION),
        cookie: told(header::SET_COOKIE),
        policy: told(header::CONTENT_SECURITY_POLICY),
        text,
    }
}

/// A browser in which somebody has logged in.
struct Browser<'a> {
    scene: &'a Scene,
    cookie: String,
}

impl<'a> Browser<'a> {
    async fn of(scene: &'a Scene, name: &str) -> Self {
        let fields = [("name", name), ("password", PASSWORD)];
        let shown = send(scene, "POST", "/login", &[], &fields).await;
        assert_eq!(
            (shown.status, shown.to.as_str()),
            (303, "/login?begun=true")
        );
        for part in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict"] {
            assert!(shown.cookie.split("; ").any(|has| has == part), "{shown:?}");
        }
        let cookie = shown.cookie.split(';').next().unwrap().to_owned();
        assert!(cookie.starts_with("__Host-"));
        let browser = Self { scene, cookie };
        assert_eq!(browser.get("/login?begun=true").await.to, "/");
        browser
    }

    async fn get(&self, uri: &str) -> Shown {
        send(self.scene, "GET", uri, &[("cookie", &self.cookie)], &[]).await
    }

    async fn page(&self, uri: &str) -> String {
        let shown = self.get(uri).await;
        assert_eq!(shown.status, 200, "{uri}: {shown:?}");
        shown.text
    }

    /// As the form on `page` would, with its hidden fields.
    async fn fill(&self, page: &str, action: &str, fields: &[(&str, &str)]) -> Shown {
        let text = self.page(page).await;
        let hidden = hidden(&text, action);
        let mut all: Vec<_> = hidden
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        all.extend(fields);
        send(
            self.scene,
            "POST",
            action,
            &[("cookie", &self.cookie)],
            &all,
        )
        .await
    }
}

/// The hidden fields of the form of `action`.
fn hidden(text: &str, action: &str) -> Vec<(String, String)> {
    let form = text
        .split("<form")
        .find(|form| form.contains(&format!("action=\"{action}\"")));
    let form = form.unwrap_or_else(|| panic!("no form for {action} in {text}"));
    let form = form.split("</form>").next().unwrap();
    let attribute = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let tags = form
        .split('<')
        .filter(|tag| tag.starts_with("input type=\"hidden\""));
    tags.map(|tag| (attribute(tag, "name"), attribute(tag, "value")))
        .collect()
}

#[tokio::test]
async fn every_page_is_shown_to_those_it_is_for_and_nobody_else() {
    let scene = Scene::with(&[("node", MemberRole::Seed)]).await;
    for (method, path, need) in ROUTES {
        let uri = path
            .replace("{id}", "node")
            .replace("{name}", "nobody")
            .replace("{digest}", "none")
            .replace("{number}", "none");
        let anonymous = send(&scene, method, &uri, &[], &[]).await;
        let is_open = *need == Need::Nothing;
        assert_eq!(
            anonymous.to.starts_with("/login"),
            !is_open,
            "{method} {uri}: {anonymous:?}"
        );
        assert_eq!(anonymous.text.is_empty(), !is_open, "{method} {uri}");
        assert!(
            anonymous.policy.starts_with("default-src 'none'"),
            "{method} {uri}: {anonymous:?}"
        );
        for role in Role::ALL {
            let token = format!("Bearer {}", scene.token(role));
            let headers = [("authorization", token.as_str())];
            let shown = send(&scene, method, &uri, &headers, &[]).await;
            let may = match need {
                Need::Nothing | Need::Secret => true,
                Need::Role(least) => role >= *least,
            };
            let refused = shown.status == 403 && shown.text.contains("needs the role");
            assert_eq!(refused, !may, "{method} {uri} as {role:?}: {shown:?}");
        }
    }
    for (method, uri, status) in [("GET", "/nothing", 404), ("DELETE", "/", 405)] {
        assert_eq!(
            send(&scene, method, uri, &[], &[]).await.status,
            status,
            "{uri}"
        );
    }
}

#[tokio::test]
async fn a_token_is_made_and_revoked_with_forms() {
    let scene = Scene::with(&[]).await;
    let browser = Browser::of(&scene, "operator").await;
    let fields = [
        ("label", "<ci> & co"),
        ("role", "operator"),
        ("life", "86400"),
    ];
    let made = browser.fill("/tokens", "/tokens", &fields).await;
    assert_eq!(made.status, 201, "{made:?}");
    assert!(made.text.contains("darner_pat_"));
    let listed = browser.page("/tokens").await;
    assert!(listed.contains("&lt;ci&gt; &amp; co") && !listed.contains("<ci>"));
    assert!(!listed.contains("darner_pat_"), "it is shown once");
    let (_, rest) = listed.split_once("&lt;ci&gt;").unwrap();
    let (_, rest) = rest.split_once("action=\"").unwrap();
    let action = rest.split('"').next().unwrap();
    let revoked = browser.fill("/tokens", action, &[]).await;
    assert_eq!((revoked.status, revoked.to.as_str()), (303, "/tokens"));
    assert!(!browser.page("/tokens").await.contains("&lt;ci&gt;"));
}

#[tokio::test]
async fn forms_count_from_pages_of_this_session_only() {
    let scene = Scene::with(&[]).await;
    let browser = Browser::of(&scene, "admin").await;
    let other = Browser::of(&scene, "admin").await;
    let fields = [("label", "x"), ("role", "viewer"), ("life", "86400")];
    let theirs = hidden(&other.page("/tokens").await, "/tokens");
    let (_, theirs) = &theirs[0];
    let site = |site: &'static str| {
        [
            ("cookie", browser.cookie.as_str()),
            ("sec-fetch-site", site),
        ]
    };
    let mut with_theirs = fields.to_vec();
    with_theirs.push(("csrf", theirs));
    let mine = hidden(&browser.page("/tokens").await, "/tokens");
    let mut with_mine = fields.to_vec();
    with_mine.push(("csrf", &mine[0].1));
    for (fields, site, status) in [
        (&fields[..], site("same-origin"), 403),
        (&with_theirs[..], site("same-origin"), 403),
        (&with_mine[..], site("cross-site"), 403),
        (&with_mine[..], site("same-origin"), 201),
    ] {
        let shown = send(&scene, "POST", "/tokens", &site, fields).await;
        assert_eq!(shown.status, status, "{fields:?}");
    }
    let log_in = [("name", "admin"), ("password", PASSWORD)];
    let elsewhere = send(
        &scene,
        "POST",
        "/login",
        &[("sec-fetch-site", "cross-site")],
        &log_in,
    )
    .await;
    assert_eq!(elsewhere.status, 403, "another site logs nobody in");
    let out = browser.fill("/", "/logout", &[]).await;
    assert_eq!(out.to, "/login");
    assert!(out.cookie.contains("Max-Age=0"));
    assert_eq!(browser.get("/").await.to, "/login");
}

#[tokio::test]
async fn a_job_is_begun_once_however_often_its_form_is_sent() {
    let scene = Scene::with(&[("seed", MemberRole::Seed)]).await;
    let browser = Browser::of(&scene, "operator").await;
    let key = hidden(&browser.page("/jobs").await, "/jobs");
    let mut fields: Vec<_> = key
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    fields.extend([
        ("images", "r.test/a:1\r\nr.test/b:2\r\n"),
        ("to", "seeds"),
        ("platform", ""),
    ]);
    let headers = [("cookie", browser.cookie.as_str())];
    let begun = send(&scene, "POST", "/jobs", &headers, &fields).await;
    assert_eq!(begun.status, 303, "{begun:?}");
    let again = send(&scene, "POST", "/jobs", &headers, &fields).await;
    assert_eq!(again.to, begun.to);
    let page = browser.page(&begun.to).await;
    for part in ["r.test/a:1", "r.test/b:2", "waiting", "Call off"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let action = format!("{}/cancel", begun.to);
    let cancelled = browser.fill(&begun.to, &action, &[]).await;
    assert_eq!((cancelled.status, &cancelled.to), (303, &begun.to));
    assert!(browser.page(&begun.to).await.contains("Begin again"));
    let wrong = browser
        .fill("/jobs", "/jobs", &[("images", "a b c:"), ("to", "seeds")])
        .await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.text.contains("role=\"alert\""));
    let absent = browser.get("/jobs/none").await;
    assert_eq!(absent.status, 404);
}

#[tokio::test]
async fn accounts_are_managed_by_administrators() {
    let scene = Scene::with(&[]).await;
    let browser = Browser::of(&scene, "admin").await;
    let new = [
        ("name", "bob"),
        ("role", "viewer"),
        ("password", "long enough for all"),
    ];
    assert_eq!(browser.fill("/users", "/users", &new).await.to, "/users");
    let changed = browser
        .fill("/users", "/users/bob", &[("role", "operator")])
        .await;
    assert_eq!(changed.to, "/users", "{changed:?}");
    let removed = browser.fill("/users", "/users/bob/remove", &[]).await;
    assert_eq!(removed.to, "/users");
    assert!(!browser.page("/users").await.contains("bob"));
    let audit = browser.page("/audit").await;
    for action in ["user.create", "user.change", "user.remove"] {
        assert!(audit.contains(action), "{action}");
    }
    let short = [("name", "eve"), ("role", "viewer"), ("password", "short")];
    assert_eq!(browser.fill("/users", "/users", &short).await.status, 400);
}

#[tokio::test]
async fn pages_name_what_they_show_and_load_nothing_from_elsewhere() {
    let scene = Scene::with(&[("seed", MemberRole::Seed), ("m", MemberRole::Mirror)]).await;
    let browser = Browser::of(&scene, "admin").await;
    let pages = ROUTES.iter().filter(|(method, ..)| *method == "GET");
    for (_, path, _) in pages.filter(|(_, path, _)| !path.contains('.')) {
        let uri = path
            .replace("{id}", "seed")
            .replace("{digest}", "none")
            .replace("{number}", "none");
        let shown = browser.get(&uri).await;
        let text = &shown.text;
        for elsewhere in ["http:", "//", "style=", "onclick", "javascript:"] {
            // The one absolute address a page may have is in its words.
            let inside = text.split('<').any(|tag| {
                let tag = tag.split('>').next().unwrap_or_default();
                tag.contains(elsewhere)
            });
            assert!(!inside, "{uri}: {elsewhere} in {text}");
        }
        assert_eq!(text.matches("<h1>").count(), 1, "{uri}");
        assert!(
            text.starts_with("<!DOCTYPE html><html lang=\"en\">"),
            "{uri}"
        );
        for input in text
            .split("<input ")
            .skip(1)
            .filter(|tag| !tag.starts_with("type=\"hidden\""))
        {
            let id = input
                .split("id=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap();
            assert!(
                text.contains(&format!("for=\"{id}\"")),
                "{uri}: {id} has no label"
            );
        }
        for picture in text.split("<svg ").skip(1) {
            let tag = picture.split('>').next().unwrap();
            let is_named = tag.contains("aria-label=") || tag.contains("aria-hidden=");
            assert!(is_named, "{uri}: {tag}");
        }
    }
}

#[tokio::test]
async fn guessing_at_the_page_is_as_slow_as_at_the_api() {
    let scene = Scene::with(&[]).await;
    let guess = [("name", "viewer"), ("password", "wrong")];
    let mut guesses = 0;
    loop {
        let shown = send(&scene, "POST", "/login", &[], &guess).await;
        if shown.status == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        assert_eq!(shown.status, StatusCode::UNAUTHORIZED);
        guesses += 1;
        assert!(guesses < 16, "it can be guessed as fast as one likes");
    }
}

#[tokio::test]
async fn what_is_set_for_a_cluster_is_changed_part_by_part() {
    let scene = Scene::with(&[("m", MemberRole::Mirror)]).await;
    let browser = Browser::of(&scene, "admin").await;
    let page = "/clusters/default";
    let fill = async |part: &str, fields: &[(&str, &str)]| {
        browser.fill(page, &format!("{page}/{part}"), fields).await
    };
    let set = fill("limits", &[("upload", "1.5"), ("download", "")]).await;
    assert_eq!((set.status, set.to.as_str()), (303, page));
    fill("blocked", &[("blocked", "docker.io/evil/*\r\nquay.io/*")]).await;
    let registry = [
        ("registry", "r.example"),
        ("url", "https://r.example"),
        ("tag_ttl", "7"),
    ];
    fill("registries", &registry).await;
    let shown = browser.page(page).await;
    for part in [
        "1.50",
        "docker.io/evil/*",
        "https://r.example",
        "7 s",
        "no limit",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    // A rate that is not touched stays as it is, to the byte.
    let name: Name = "default".parse().unwrap();
    let kept = async || scene.api.clusters.get(&name).await.unwrap().unwrap();
    assert_eq!(kept().await.settings.rules.limits.upload, Some(3 << 19));

    // Passwords need a key to be sealed with; what is wrong is said, and changes nothing.
    let user = [
        &registry[..],
        &[("username", "ann"), ("password", "canary")],
    ]
    .concat();
    for (part, fields) in [
        ("registries", &user[..]),
        ("blocked", &[("blocked", "nothing")]),
        ("limits", &[("upload", "0")]),
        ("limits", &[("upload", "NaN")]),
    ] {
        let refused = fill(part, fields).await;
        assert_eq!(refused.status, 400, "{part} {fields:?}");
        assert!(refused.text.contains("role=\"alert\"") && !refused.text.contains("canary"));
    }
    let before = kept().await;
    assert_eq!(before.settings.rules.blocked.len(), 2);
    // Of a page that was loaded before somebody else's change nothing is changed.
    let old = [("version", "1"), ("blocked", "")];
    assert_eq!(fill("blocked", &old).await.status, 412);
    fill("registries/remove", &[("registry", "r.example")]).await;
    assert!(!browser.page(page).await.contains("r.example"));
    assert_eq!(fill("remove", &[]).await.to, "/clusters");

    let made = [("name", "west"), ("labels", "zone=a"), ("position", "3")];
    let made = browser.fill("/clusters", "/clusters", &made).await;
    assert_eq!(made.to, "/clusters/west");
    assert!(browser.page("/clusters").await.contains("zone=a"));
    let viewer = Browser::of(&scene, "viewer").await;
    assert!(
        !viewer
            .page("/clusters/west")
            .await
            .contains("<form class=\"fields\"")
    );
}

#[tokio::test]
async fn lists_are_narrowed_by_forms_and_go_on_narrowed() {
    let names: Vec<_> = (0..=100).map(|at| format!("m-{at:03}")).collect();
    let mut hosts: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), MemberRole::Mirror))
        .collect();
    hosts.extend([
        ("other", MemberRole::Mirror),
        ("m-seed", MemberRole::Seed),
        ("m-sched", MemberRole::Scheduler),
    ]);
    let scene = Scene::with(&hosts).await;
    let browser = Browser::of(&scene, "admin").await;
    // As a browser sends it: fields that were left empty too.
    let uri = "/nodes?id=m-&role=mirror&cluster=&label=zone%3Da";
    let page = browser.page(uri).await;
    let has = |page: &str, node: &str| page.contains(&format!(">{node}<"));
    assert!(has(&page, "m-099") && !has(&page, "m-100"), "{page}");
    for out in ["other", "m-seed", "m-sched"] {
        assert!(!has(&page, out), "{out}: {page}");
    }
    assert!(
        page.contains("<option value=\"mirror\" selected>"),
        "{page}"
    );
    assert!(page.contains("value=\"zone=a\""), "{page}");
    let (_, further) = page.split_once("<a href=\"/nodes?").unwrap();
    let further = further.split('"').next().unwrap().replace("&amp;", "&");
    let next = browser.page(&format!("/nodes?{further}")).await;
    assert!(has(&next, "m-100") && !has(&next, "m-099"), "{next}");
    assert!(
        !has(&next, "m-seed") && !next.contains("rel=\"next\""),
        "{next}"
    );
    let all = browser.page("/nodes?id=m-s&role=").await;
    assert!(has(&all, "m-seed") && has(&all, "m-sched") && !has(&all, "m-000"));

    let since = "/audit?actor=nobody&action=&object=&since=2000-01-01T00%3A00&until=";
    let audit = browser.page(since).await;
    assert!(audit.contains("value=\"2000-01-01T00:00\"") && audit.contains(">None<"));
    let audit = browser.page("/audit?actor=test&action=user.create").await;
    assert!(audit.contains("user.create") && !audit.contains("token.create"));
    assert!(
        browser
            .page("/jobs?phase=done&by=")
            .await
            .contains(">None<")
    );
    assert!(
        !browser
            .page("/users?role=viewer")
            .await
            .contains("Remove operator")
    );
    for bad in ["/audit?since=x", "/nodes?role=king", "/jobs?phase=x"] {
        let shown = browser.get(bad).await;
        assert_eq!(shown.status, 400, "{bad}");
        assert!(shown.text.contains("role=\"alert\""), "{bad}");
    }
}
