//! What `darner up` says once it serves: where it listens and how to point a container runtime at it.

use darner_service::settings::Settings;

use super::{address_of, reachable};
use crate::run::Bound;

/// The whole text.
pub(super) fn text(settings: &Settings, bound: &[Bound]) -> String {
    let mut text = String::from("Darner is ready.\n\n");
    for (what, address) in bound {
        text.push_str(&format!("  {what:<10} {address}\n"));
    }
    text.push_str(&format!(
        "  {:<10} {}\n",
        "data",
        settings.data_dir.display()
    ));
    if let Some(registry) = address_of("registry", bound) {
        text.push_str(&runtimes(&reachable(registry).to_string()));
    }
    text
}

fn runtimes(registry: &str) -> String {
    format!(
        r#"
To let the runtimes of this host pull through it: sudo darner setup --mirror http://{registry}
To take that back: sudo darner teardown. By hand:

containerd: /etc/containerd/certs.d/_default/hosts.toml (with config_path = "/etc/containerd/certs.d")

  [host."http://{registry}"]
    capabilities = ["pull", "resolve"]

Docker: /etc/docker/daemon.json, then kill -HUP $(pidof dockerd); for images of Docker Hub

  {{ "registry-mirrors": ["http://{registry}"] }}

podman: /etc/containers/registries.conf.d/50-darner.conf; one such pair of tables for each registry

  [[registry]]
  prefix = "docker.io"
  location = "docker.io"
  [[registry.mirror]]
  location = "{registry}/docker.io"
  insecure = true

Ctrl-C ends it; what it holds is kept.

"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runtimes_are_told_is_in_their_own_form() {
        let text = runtimes("127.0.0.1:7420");
        let between = |from: &str, to: &str| {
            let (_, rest) = text.split_once(from).unwrap();
            rest.split_once(to).unwrap().0.to_owned()
        };
        let docker = between("Docker Hub\n", "podman:");
        let docker: serde_json::Value = serde_json::from_str(&docker).unwrap();
        assert_eq!(docker["registry-mirrors"][0], "http://127.0.0.1:7420");
        let hosts = between("certs.d\")\n", "Docker:");
        assert!(
            hosts.contains("[host.\"http://127.0.0.1:7420\"]"),
            "{hosts}"
        );
        let podman = between("each registry\n", "Ctrl-C");
        assert!(
            podman.contains("location = \"127.0.0.1:7420/docker.io\""),
            "{podman}"
        );
    }
}
