//! The registries, what is before and behind them, and the mirror of all of them.

use std::fmt::Write as _;

use anyhow::Result;
use darner_e2e::cluster::up_settings;
use darner_e2e::darner::Darner;
use darner_e2e::nginx::{Hub, Redirecting};
use darner_e2e::registry::{Access, Registry};
use darner_e2e::runtime::{Logins, PASSWORD, PASSWORD_HASH, USER};
use darner_e2e::scene::Scene;
use darner_e2e::tokens::{Policy, Tokens};
use darner_e2e::upstream::{NAME, Upstream};

use super::cases::{BASIC, ELSEWHERE, TOKEN};

/// Registries, and the mirror of all of them.
pub(super) struct Ground {
    pub(super) open: Upstream,
    pub(super) basic: Upstream,
    pub(super) token: Upstream,
    pub(super) elsewhere: Redirecting,
    pub(super) hub: Hub,
    pub(super) mirror: Darner,
    _behind: (Registry, Tokens),
}

impl Ground {
    pub(super) async fn new(scene: &Scene) -> Result<Self> {
        let images = scene.images();
        let registry = async |name: &str, access: Access| {
            let place = (scene.path(""), name.to_owned());
            let place = (place.0.as_path(), place.1.as_str());
            Registry::start_as(place, &images.storage, true, &access).await
        };
        let open = Upstream::start(scene).await?;
        let users = scene.path("htpasswd");
        std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))?;
        let basic = registry("registry-basic", Access::Password(users)).await?;
        let basic = Upstream::before(scene, basic).await?;
        let public = [&images.multi, &images.middle];
        let policy = Policy {
            user: USER.to_owned(),
            password: PASSWORD.to_owned(),
            public: public.map(|image| image.repository.clone()).into(),
        };
        let tokens = Tokens::start(&scene.path(""), policy).await?;
        let token = registry("registry-token", tokens.access()).await?;
        let token = Upstream::before(scene, token).await?;
        let behind = registry("registry-behind", Access::Open).await?;
        let elsewhere = Redirecting::start(scene, behind.address()).await?;
        let hub = Hub::start(scene, &token.url()).await?;
        let settings = up_settings(scene, &open)?
            .set("registry.default_upstream", "docker.io")
            .set("log.filter", "trace")
            .upstream(BASIC, &basic.url())
            .upstream(TOKEN, &token.url())
            .upstream(ELSEWHERE, &elsewhere.url())
            .upstream("docker.io", &token.url());
        let mirror = Darner::start(scene, "up", "up", &settings).await?;
        Ok(Self {
            open,
            basic,
            token,
            elsewhere,
            hub,
            mirror,
            _behind: (behind, tokens),
        })
    }

    /// Name and URL of each registry.
    pub(super) fn registries(&self) -> [(&'static str, String); 4] {
        [
            (NAME, self.open.url()),
            (BASIC, self.basic.url()),
            (TOKEN, self.token.url()),
            (ELSEWHERE, self.elsewhere.url()),
        ]
    }

    pub(super) fn off(&mut self) {
        for upstream in [&mut self.open, &mut self.basic, &mut self.token] {
            upstream.off();
        }
    }

    pub(super) async fn on(&mut self) -> Result<()> {
        for upstream in [&mut self.open, &mut self.basic, &mut self.token] {
            upstream.on().await?;
        }
        Ok(())
    }

    /// A file that tells the containers' library of all registries and of the mirror.
    pub(super) fn registries_conf(&self, scene: &Scene) -> Result<std::path::PathBuf> {
        let mirror = self.mirror.address("registry")?;
        let mut text = String::new();
        for (name, url) in self.registries() {
            let location = url.trim_start_matches("http://");
            write!(
                text,
                "[[registry]]\nprefix = \"{name}\"\nlocation = \"{location}\"\ninsecure = true\n\
                 [[registry.mirror]]\nlocation = \"{mirror}/{name}\"\ninsecure = true\n"
            )?;
        }
        let path = scene.path("registries.conf");
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// Logins by the registries' own addresses, where the containers' library looks them up.
    pub(super) fn logins(&self, scene: &Scene) -> Result<Logins> {
        let urls = self.registries().map(|(_, url)| url);
        let hosts = urls.iter().map(|url| url.trim_start_matches("http://"));
        Logins::write(&scene.path(""), &hosts.collect::<Vec<_>>())
    }
}
