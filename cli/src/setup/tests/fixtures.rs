//! Configurations as hosts have them, and some as they should not be.

/// The files of a host: path and text.
pub(super) type Files = &'static [(&'static str, &'static str)];

const CONFIG: &str = "/etc/containerd/config.toml";

/// containerd 1.6 and 1.7, with what administrators leave in such a file.
const V2: &str = r#"# Managed by the platform team; ask before you change it.
version = 2   # not 1

  # indented for no reason
disabled_plugins = [ ]	# a tab before this

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.example/pause:3.9"   # pinned
[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
  options = { SystemdCgroup = true }   # inline

[plugins."io.containerd.grpc.v1.cri".registry.configs."registry.example".auth]
  username = "u" # of the robot
  password = "not-a-secret"

# the end, without a line break"#;

const V2_EMPTY_KEY: &str = r#"version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = ""

      [plugins."io.containerd.grpc.v1.cri".registry.auths]

      [plugins."io.containerd.grpc.v1.cri".registry.headers]
        User-Agent = ["house"]
"#;

const V3: &str = r#"version = 3
root = '/var/lib/containerd'

[plugins]
  [plugins.'io.containerd.cri.v1.images']
    snapshotter = 'overlayfs' # ours
    [plugins.'io.containerd.cri.v1.images'.registry]
      config_path = ''
  [plugins.'io.containerd.cri.v1.runtime']
    enable_selinux = false
"#;

const THEIR_HOSTS: &str = r#"# the cache of the house
server = "https://registry-1.docker.io"

[host."https://cache.example"]   # first
  capabilities = ["pull"]
  ca = "/etc/ssl/cache.pem"
  skip_verify = false
[host."https://cache.example".header]
  x-team = ["platform"]
"#;

const REGISTRIES_CONF: &str = r#"# For more information, ask.
unqualified-search-registries = ["docker.io"]

[[registry]]   # theirs
location = "quay.io"
[[registry.mirror]]
location = "cache.example/quay.io"
"#;

const DAEMON: &str = "{\n    \"debug\": true,\n\n    \"registry-mirrors\" : [ \"https://theirs.example\" ],\n    \"log-opts\": {\"max-size\":\"10m\"}\n}";

const REGISTRIES_YAML: &str = "# of the house\nmirrors:\n  registry.example:   # kept\n    endpoint:\n      - https://cache.example\n\nconfigs:\n  registry.example:\n    auth: {username: u, password: not-a-secret}\n";

/// Every runtime at once, with something of somebody else's in each file.
pub(super) const EVERYTHING: Files = &[
    (CONFIG, V2),
    ("/etc/docker/daemon.json", DAEMON),
    ("/etc/containers/registries.conf", REGISTRIES_CONF),
    (
        "/etc/containers/registries.conf.d/00-shortnames.conf",
        "[aliases]\n\"debian\" = \"docker.io/library/debian\"\n",
    ),
    ("/etc/rancher/k3s/registries.yaml", REGISTRIES_YAML),
];

/// Hosts that can be set up. Of those called foreign, some terms are refused.
pub(super) const HOSTS: &[(&str, Files)] = &[
    ("everything", EVERYTHING),
    ("containerd without a file", &[("/usr/bin/containerd", "")]),
    ("containerd, empty file", &[(CONFIG, "")]),
    (
        "containerd, comments only",
        &[(CONFIG, "# nothing yet\n\n# really\n")],
    ),
    (
        "containerd 1.5 form",
        &[(
            CONFIG,
            "[plugins]\n  [plugins.cri]\n    stream_server_port = \"0\" # any\n",
        )],
    ),
    ("containerd 1.6, heavily commented", &[(CONFIG, V2)]),
    (
        "containerd 1.7, as its defaults are printed",
        &[(CONFIG, V2_EMPTY_KEY)],
    ),
    ("containerd 2.x", &[(CONFIG, V3)]),
    ("containerd 2.x, sparse", &[(CONFIG, "version = 3\n")]),
    (
        "line ends of another system",
        &[(CONFIG, "version = 2\r\n# a note\r\n[grpc]\r\n  uid = 0\r\n")],
    ),
    (
        "containerd reads elsewhere",
        &[(
            CONFIG,
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/srv/hosts:/etc/docker/certs.d\"\n",
        )],
    ),
    (
        "containerd, a drop-in counts",
        &[
            (
                CONFIG,
                "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\"]\n",
            ),
            (
                "/etc/containerd/conf.d/10-cri.toml",
                "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  enable_selinux = true # here\n",
            ),
            (
                "/etc/containerd/conf.d/20-other.toml",
                "version = 2\n[debug]\n  level = \"info\"\n",
            ),
        ],
    ),
    (
        "containerd as Docker's package has it",
        &[(CONFIG, "disabled_plugins = [\"cri\"]\n")],
    ),
    (
        "containerd, foreign hosts",
        &[
            (CONFIG, V3),
            ("/etc/containerd/certs.d/docker.io/hosts.toml", THEIR_HOSTS),
            (
                "/etc/containerd/certs.d/ghcr.io/hosts.toml",
                "server = \"https://ghcr.io\"",
            ),
        ],
    ),
    (
        "containerd, foreign default",
        &[
            (CONFIG, V2),
            ("/etc/containerd/certs.d/_default/hosts.toml", THEIR_HOSTS),
        ],
    ),
    (
        "Docker without a file",
        &[
            ("/usr/bin/dockerd", ""),
            ("/etc/containerd/config.toml", ""),
        ],
    ),
    (
        "Docker, empty file",
        &[("/etc/docker/daemon.json", ""), ("/etc/crio/crio.conf", "")],
    ),
    (
        "Docker, one line",
        &[
            (
                "/etc/docker/daemon.json",
                "{\"registry-mirrors\":[],\"debug\":true}\n",
            ),
            ("/usr/bin/podman", ""),
        ],
    ),
    ("Podman without a file", &[("/usr/bin/podman", "")]),
    (
        "CRI-O with tables of its own",
        &[
            ("/etc/crio/crio.conf", ""),
            ("/etc/containers/registries.conf", REGISTRIES_CONF),
        ],
    ),
    ("k3s without a file", &[("/usr/local/bin/k3s", "")]),
    (
        "k3s and RKE2",
        &[
            ("/etc/rancher/k3s/registries.yaml", REGISTRIES_YAML),
            ("/etc/rancher/rke2/config.yaml", ""),
        ],
    ),
    (
        "k3s, mirrors without entries",
        &[(
            "/etc/rancher/k3s/registries.yaml",
            "mirrors:\nconfigs: {}\n",
        )],
    ),
];

/// What one file of [`EVERYTHING`] would have to be for nothing to be done, and a word of the reason.
pub(super) const REFUSED: &[(&str, &str, &str)] = &[
    (CONFIG, "version = \n", "TOML"),
    (CONFIG, "version = 9\n", "version 9"),
    (
        CONFIG,
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry.mirrors.\"docker.io\"]\n  endpoint = [\"https://a\"]\n",
        "registry.mirrors",
    ),
    (CONFIG, "version = 2\nplugins = 3\n", "not a table"),
    (
        "/etc/containerd/certs.d/_default/hosts.toml",
        THEIR_HOSTS,
        "not written by darner",
    ),
    (
        "/etc/containerd/certs.d/_default/hosts.toml",
        "[host.",
        "TOML",
    ),
    ("/etc/docker/daemon.json", "{\"debug\": true,}", "JSON"),
    (
        "/etc/docker/daemon.json",
        "{\"registry-mirrors\": \"https://a\"}",
        "list of strings",
    ),
    ("/etc/containers/registries.conf", "[[registry]", "TOML"),
    (
        "/etc/containers/registries.conf.d/50-darner.conf",
        "# by hand\n",
        "not written by darner",
    ),
    ("/etc/rancher/k3s/registries.yaml", "mirrors: [\n", "YAML"),
    (
        "/etc/rancher/k3s/registries.yaml",
        "mirrors:\n  \"*\":\n    endpoint: [\"https://a\"]\n",
        "already",
    ),
];
