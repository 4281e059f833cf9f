//! Settings that keep a process from starting, and what is said about them.

use super::*;

#[test]
fn all_faults_come_at_once_with_their_lines() {
    let faults = given(
        r#"data_dir = 7
[registry]
listen = "localhost:7420"
lisen = "127.0.0.1:1"
[[upstream]]
name = "docker.io"
[[upstream]]
name = "docker.io"
url = "ftp://x"
ca_file = "/nowhere/ca.pem"
tag_ttl = "soon"
[store]
capacity = "much"
[colour]
red = true
[manager]
address = "https://10.0.0.2:7423/x"
"#,
    )
    .variable("DARNER_ADMIN__LISTEN", "here")
    .set("pieces.upload_slots=0")
    .set("store.scrub_share=101")
    .faults(Command::Up);
    let expected = [
        "darner.toml:1: data_dir: is an integer, not a string",
        "darner.toml:3: [registry] listen: \"localhost:7420\" is not an IP address and port",
        "darner.toml:4: [registry] lisen: no such setting; did you mean [registry] listen?",
        "darner.toml:7: [[upstream]] name: docker.io is listed before already",
        "darner.toml:9: [[upstream]] url: is not a URL",
        "darner.toml:10: [[upstream]] ca_file: /nowhere/ca.pem cannot be read: No such file",
        "darner.toml:11: [[upstream]] tag_ttl: \"soon\" is not a span of time",
        "darner.toml:13: [store] capacity: \"much\" is not a size",
        "darner.toml:14: colour: no such setting",
        "darner.toml:17: [manager] address: has a path",
        "DARNER_ADMIN__LISTEN: \"here\" is not an IP address and port",
        "--set pieces.upload_slots: 0 is not a whole number from 1 to 1024",
        "--set store.scrub_share: 101 is not a whole number from 1 to 100",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault} is not {expected}");
    }
}

#[test]
fn wrong_toml_is_told_line_by_line_and_does_not_hide_the_rest() {
    let faults = given("data_dir = \n[node]\nid = \"a b\"\nid = \"c\"\n[registry\n[store]\n")
        .faults(Command::Manager);
    let starts = [
        "darner.toml:1: is not TOML",
        "darner.toml:3: [node] id: \"a b\"",
        "darner.toml:4: is not TOML: duplicate key",
        "darner.toml:5: is not TOML",
    ];
    assert_eq!(faults.len(), starts.len(), "{faults:#?}");
    for (fault, start) in faults.iter().zip(starts) {
        assert!(fault.starts_with(start), "{fault} is not {start}");
    }
}

#[test]
fn a_file_that_is_not_there_is_said_so() {
    let mut given = given("");
    given.sources.file = Some(given.directory.path().join("other.toml"));
    given.refused(
        Command::Mirror,
        "other.toml: ",
        "cannot be read: No such file",
    );
}

#[test]
fn slips_in_variables_and_flags_are_found_and_strangers_are_let_be() {
    let given_up = || given("");
    given_up()
        .variable("DARNER_REGISTRY_LISTEN", "127.0.0.1:1")
        .refused(
            Command::Up,
            "DARNER_REGISTRY_LISTEN: ",
            "did you mean DARNER_REGISTRY__LISTEN?",
        );
    given_up().variable("DARNER_STORE__CAPACTY", "1").refused(
        Command::Up,
        "DARNER_STORE__CAPACTY: ",
        "did you mean DARNER_STORE__CAPACITY?",
    );
    given_up().set("registry.capacity=1").refused(
        Command::Up,
        "--set registry.capacity: ",
        "did you mean store.capacity?",
    );
    given_up().set("registry.listen").refused(
        Command::Up,
        "--set registry.listen: ",
        "has no value",
    );
    given_up().set("registry..listen=1").refused(
        Command::Up,
        "--set registry..listen: ",
        "names no setting",
    );
    // Kubernetes sets these next to a service called darner-manager.
    given_up()
        .variable("DARNER_MANAGER_SERVICE_HOST", "10.0.0.1")
        .variable("DARNER_MANAGER_PORT", "tcp://10.0.0.1:7423")
        .variable("DARNER_MANAGER_PORT_7423_TCP_ADDR", "10.0.0.1")
        .variable("DARNER_PORT", "tcp://10.0.0.1:7423")
        .load(Command::Up);
}

#[test]
fn a_member_says_where_its_certificate_comes_from() {
    let file = "[pieces]\nadvertise = \"10.0.0.5:7421\"\n";
    for command in [Command::Scheduler, Command::Mirror] {
        given(file).refused(
            command,
            "darner.toml: ",
            "[identity] certificate: has nowhere to come from",
        );
        given(file).set(INSECURE).load(command);
        given(file)
            .set("identity.token_file=token")
            .set("manager.address=https://10.0.0.2:7423")
            .set("scheduler.advertise=10.0.0.3:7422")
            .load(command);
        for key in ["certificate", "key", "ca"] {
            let mut given = given(file);
            for other in ["certificate", "key", "ca"] {
                if other != key {
                    given = given.set(&format!("identity.{other}=there.pem"));
                }
            }
            let faults = given.faults(command);
            assert_eq!(faults.len(), 1, "{faults:#?}");
            assert!(faults[0].contains("go together"), "{faults:#?}");
            given
                .set(&format!("identity.{key}=there.pem"))
                .load(command);
        }
    }
    given("").load(Command::Manager);
    let given = given("[identity]\ninsecure = \"yes\"\n");
    given.refused(
        Command::Manager,
        "darner.toml:2: ",
        "is a string, not true or false",
    );
}

#[test]
fn addresses_are_encrypted_unless_plain_text_is_meant() {
    let token = "identity.token_file=token";
    let manager = "manager.address=https://m:1";
    given("")
        .set(token)
        .set("manager.address=http://m:1")
        .set("scheduler.advertise=s:1")
        .refused(Command::Scheduler, "--set manager.address: ", "is http://");
    given("")
        .set(INSECURE)
        .set(manager)
        .set("scheduler.advertise=s:1")
        .refused(Command::Scheduler, "--set manager.address: ", "is https://");
    given("")
        .set(token)
        .set(manager)
        .set("pieces.advertise=n:1")
        .set("scheduler.addresses=http://s:1")
        .refused(Command::Mirror, "--set scheduler.addresses: ", "is http://");
}

#[test]
fn the_api_is_open_to_other_hosts_only_when_plain_text_is_meant() {
    let listen = "manager.api_listen=10.0.0.5:7000";
    for command in [Command::Up, Command::Manager] {
        given("").set(listen).refused(
            command,
            "--set manager.api_listen: ",
            "[identity] insecure = true",
        );
        given("").set(listen).set(INSECURE).load(command);
    }
    for key in ["pieces", "scheduler", "manager", "registry"] {
        let listen = format!("{key}.listen=10.0.0.5:7000");
        given("").set(&listen).load(Command::Up);
    }
}

#[test]
fn up_issues_its_own_certificates() {
    let files = "[identity]\ncertificate = \"a\"\nkey = \"b\"\nca = \"c\"\n";
    given(files).refused(Command::Up, "darner.toml:2: ", "issues certificates itself");
}

#[test]
fn a_wildcard_needs_an_address_for_others() {
    given("").set(INSECURE).refused(
        Command::Mirror,
        "darner.toml: ",
        "[pieces] advertise: must be set to host:port",
    );
    given("")
        .set(INSECURE)
        .set("manager.address=http://m:1")
        .refused(
            Command::Scheduler,
            "darner.toml: ",
            "[scheduler] advertise: must be set",
        );
    given("").set(INSECURE).load(Command::Scheduler);
    for wrong in [
        "0.0.0.0:7421",
        "[::]:7421",
        "10.0.0.5:0",
        "10.0.0.5",
        "a b:1",
    ] {
        given("")
            .set(INSECURE)
            .set(&format!("pieces.advertise={wrong}"))
            .refused(Command::Mirror, "--set pieces.advertise: ", "");
    }
}

#[test]
fn the_default_upstream_must_be_known() {
    let file = "[registry]\n\ndefault_upstream = \"r.example\"\n";
    given(file).refused(
        Command::Up,
        "darner.toml:3: [registry] default_upstream: ",
        "not known",
    );
}

#[test]
fn upstreams_are_refused_for_what_is_wrong_with_them() {
    let wrong = [
        ("url = \"https://x\"", 1, "[[upstream]] name: is missing"),
        ("name = \"r.example\"", 1, "[[upstream]] url: is missing"),
        (
            "name = \"R.example\"\nurl = \"https://x\"",
            2,
            "not a host name in lower case",
        ),
        (
            "name = \"r\"\nurl = \"https://me:hunter2@x\"",
            3,
            "has a user or password in it",
        ),
        ("name = \"r\"\nurl = \"https://x/?a=b\"", 3, "has a query"),
        ("name = \"r\"\nurl = \"x.example\"", 3, "is not a URL"),
        (
            "name = \"docker.io\"\nusername = \"me\"",
            1,
            "password_file: is missing",
        ),
        (
            "name = \"docker.io\"\npassword_file = \"secret\"",
            1,
            "username: is missing",
        ),
        (
            "name = \"docker.io\"\nusername = \"me\"\npassword_file = \"empty\"",
            4,
            "is empty",
        ),
        (
            "name = \"docker.io\"\nusername = \"me\"\npassword_file = \"none\"",
            4,
            "cannot be read",
        ),
        (
            "name = \"docker.io\"\nca_file = \"secret\"",
            3,
            "has no certificate",
        ),
        (
            "name = \"docker.io\"\nmax_connections = 0",
            3,
            "is not a whole number",
        ),
        (
            "name = \"docker.io\"\ntag_ttl = 60",
            3,
            "is an integer, not a span of time",
        ),
    ];
    for (text, line, message) in wrong {
        let given = given(&format!("[[upstream]]\n{text}\n"))
            .with_file("secret", "hunter2")
            .with_file("empty", "\n");
        let origin = format!("darner.toml:{line}: ");
        given.refused(Command::Up, &origin, message);
        assert!(!given.faults(Command::Up).concat().contains("hunter2"));
    }
    given("[upstream]\nname = \"r\"\n").refused(Command::Up, "darner.toml:1: ", "two brackets");
}

#[test]
fn values_of_another_kind_or_out_of_range_are_refused() {
    let wrong = [
        ("registry = 5", 1, "registry: is an integer, not a table"),
        ("[store]\ncapacity = 0", 2, "more than zero"),
        ("[store]\ncapacity = -5", 2, "is not a size"),
        ("[store]\ncapacity = 1.5", 2, "a number with a fraction"),
        (
            "[registry]\nmax_requests = 99999999999999999999999",
            2,
            "65536",
        ),
        (
            "[registry]\nfirst_byte_timeout = \"0s\"",
            2,
            "more than zero",
        ),
        ("[registry]\ntls = \"yes\"", 2, "true or false"),
        ("[registry]\nlogins = \"quay.io\"", 2, "list of names"),
        ("[registry]\nlogins = [\"no name\"]", 2, "is no name"),
        (
            "[registry]\nlogins = [\"a.example\"]",
            2,
            "needs an [[upstream]]",
        ),
        (
            "[registry]\nlogins = [\"quay.io\"]\nlisten = \"0.0.0.0:1\"",
            2,
            "others can listen",
        ),
        ("[shutdown]\ngrace = \"9000 years\"", 2, "more than a year"),
        ("[node]\nlabels = \"zone\"", 2, "not labels"),
        (
            "[node]\nlabels = { zone = 5 }",
            2,
            "label \"zone\" is an integer",
        ),
        (
            "[mirror]\nrole = \"seeds\"",
            2,
            "neither \"mirror\" nor \"seed\"",
        ),
        ("[log]\nfilter = \"a=b=c\"", 2, "is not a filter"),
        ("[log]\nformat = \"xml\"", 2, "is not \"auto\""),
        (
            "[scheduler]\naddresses = [5]",
            2,
            "is an integer, not a string",
        ),
        (
            "[scheduler]\naddresses = [\"http://a:1/b\"]",
            2,
            "has a path",
        ),
        (
            "[manager]\ncertificate_lifetime = \"9s\"",
            2,
            "must be at least 10s",
        ),
    ];
    for (text, line, message) in wrong {
        given(text).refused(Command::Up, &format!("darner.toml:{line}: "), message);
    }
}

#[test]
fn what_has_no_default_here_is_asked_for() {
    let mut given = given("");
    given.sources.environment.clear();
    given.sources.machine.host_name = None;
    let faults = given.faults(Command::Up);
    assert_eq!(
        faults,
        [
            "darner.toml: [node] id: must be set: this host has no name",
            "darner.toml: data_dir: must be set: neither XDG_STATE_HOME nor HOME is",
        ]
    );
    given
        .set("node.id=a")
        .variable("XDG_STATE_HOME", "/state")
        .load(Command::Up);
}

#[test]
fn a_file_of_another_kind_does_not_flood() {
    let faults = given(&"what is this?\n".repeat(500)).faults(Command::Up);
    assert!(faults.len() <= 51, "{}", faults.len());
    assert!(faults.last().unwrap().ends_with("more"));
}

#[test]
fn what_seals_is_a_key_and_is_not_repeated() {
    let given = |text: &str| given("[manager]\nseal_key_file = \"seal\"\n").with_file("seal", text);
    given(&"0f".repeat(32)).load(Command::Manager);
    for wrong in ["hunter2", &"0f".repeat(31), &"hg".repeat(32)] {
        let faults = given(wrong).faults(Command::Manager);
        assert!(faults[0].contains("64 hexadecimal digits"), "{faults:#?}");
        assert!(!faults.concat().contains(wrong));
    }
}

#[test]
fn a_manager_has_one_database_and_its_url_is_not_repeated() {
    let faults = given("[manager]\ndatabase = \"a.db\"\npostgres_url_file = \"url\"\n[identity]\ninsecure = true\n")
        .with_file("url", "postgres://darner@db/darner")
        .faults(Command::Manager);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(faults[0].contains("are both set"), "{faults:#?}");
    let faults = given("[manager]\npostgres_url_file = \"url\"\n[identity]\ninsecure = true\n")
        .with_file("url", "mysql://darner:hunter2@db/darner")
        .faults(Command::Manager);
    assert_eq!(faults.len(), 1, "{faults:#?}");
    assert!(!faults[0].contains("hunter2"), "{faults:#?}");
}

#[test]
fn members_by_gossip_have_one_identity_somebody_to_join_and_labels_that_travel() {
    let key = "0f".repeat(32);
    let right = "[identity]\ncluster_key_file = \"key\"\n[pieces]\nadvertise = \"10.0.0.5:7421\"\n[gossip]\nenabled = true\njoin = [\"10.0.0.6:7421\", \"mirrors.example:7421\"]\n";
    let settings = given(right).with_file("key", &key).load(Command::Mirror);
    assert_eq!(
        settings.gossip.join,
        ["10.0.0.6:7421", "mirrors.example:7421"]
    );
    let behind = given(right)
        .with_file("key", &key)
        .set("gossip.kubernetes_service=darner/mirrors")
        .load(Command::Mirror);
    let service = behind.gossip.kubernetes_service.as_deref();
    assert_eq!(service, Some("darner/mirrors"));
    let api = behind.gossip.kubernetes_api;
    assert_eq!(api, "https://kubernetes.default.svc");
    for (also, setting) in [
        ("identity.insecure=true", "identity.insecure"),
        ("identity.token_file=/t", "identity.token_file"),
        ("gossip.join=10.0.0.6", "gossip.join"),
        ("gossip.join=0.0.0.0:7421", "gossip.join"),
        ("gossip.join=a:0", "gossip.join"),
        ("gossip.join=https://a:7421", "gossip.join"),
        ("gossip.kubernetes_service=A", "gossip.kubernetes_service"),
        (
            "gossip.kubernetes_service=a/b/c",
            "gossip.kubernetes_service",
        ),
        (
            "gossip.kubernetes_service=a/-b",
            "gossip.kubernetes_service",
        ),
        ("gossip.kubernetes_api=kubernetes", "gossip.kubernetes_api"),
        ("gossip.enabled=perhaps", "gossip.enabled"),
        ("gossip.seeds=a:1", "gossip.seeds"),
    ] {
        let faults = given(right)
            .with_file("key", &key)
            .set(also)
            .faults(Command::Mirror);
        assert_eq!(faults.len(), 1, "{setting}: {faults:#?}");
        let section = setting.split('.').next().unwrap();
        assert!(faults[0].contains(section), "{setting}: {faults:#?}");
    }
    let long = format!("{right}[node]\nlabels = {{ {} }}\n", {
        let labels = (0..8).map(|number| format!("label-{number} = \"{}\"", "x".repeat(100)));
        labels.collect::<Vec<_>>().join(", ")
    });
    let faults = given(&long).with_file("key", &key).faults(Command::Mirror);
    assert!(faults[0].contains("longer than 512 bytes"), "{faults:#?}");
    let faults = given(right)
        .with_file("key", "hunter2")
        .faults(Command::Mirror);
    assert!(faults[0].contains("64 hexadecimal digits"), "{faults:#?}");
    assert!(!faults.concat().contains("hunter2"));
}

#[test]
fn a_route_that_makes_no_sense_is_refused() {
    let faults = given(
        r#"[proxy]
listen = "0.0.0.0:7425"
[[route]]
host = "http://files.example"
to = "swarm"
[[route]]
host = "files.example"
to = "away"
path = "models"
ignore_query = ["*"]
private = "yes"
ca_file = "/nowhere/ca.pem"
[[route]]
hosts = "files.example"
"#,
    )
    .faults(Command::Up);
    let expected = [
        "darner.toml:2: [proxy] listen: 0.0.0.0:7425 can be reached from other hosts",
        "darner.toml:4: [[route]] host: \"http://files.example\" is not a host",
        "darner.toml:8: [[route]] to: \"away\" is not \"swarm\", \"straight\" or \"refuse\"",
        "darner.toml:9: [[route]] path: \"models\" is not the path of a URL",
        "darner.toml:10: [[route]] ignore_query: \"*\" is no name",
        "darner.toml:11: [[route]] private: is a string, not true or false",
        "darner.toml:12: [[route]] ca_file: /nowhere/ca.pem cannot be read",
        "darner.toml:13: [[route]] host: is missing",
        "darner.toml:13: [[route]] to: is missing",
        "darner.toml:14: [[route]] hosts: no such setting; did you mean [[route]] host?",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault} is not {expected}");
    }
}

#[test]
fn a_provider_of_accounts_is_told_whole_and_over_tls() {
    const WHOLE: [&str; 4] = [
        "oidc.issuer=https://id.test/realms/a",
        "oidc.client_id=darner",
        "oidc.public_url=https://darner.test",
        "oidc.admin_groups=a,b",
    ];
    let with = |flags: &[&str]| flags.iter().fold(given(""), |given, flag| given.set(flag));
    let oidc = with(&WHOLE).load(Command::Manager).oidc.unwrap();
    assert_eq!(oidc.admin_groups, ["a", "b"]);
    assert_eq!(oidc.scopes, ["openid", "profile", "email"]);
    assert!(given("").load(Command::Manager).oidc.is_none());
    for (flags, expected) in [
        (&WHOLE[..2], "[oidc] public_url: must be set"),
        (&WHOLE[1..], "[oidc] issuer: must be set"),
        (&["oidc.issuer=http://id.test"], "oidc.issuer: is not https"),
        (&["oidc.issuer=id.test"], "oidc.issuer: is not a URL"),
        (
            &["oidc.public_url=https://darner.test/a"],
            "oidc.public_url: has a path",
        ),
        (&["oidc.client_id="], "oidc.client_id: \"\" is not"),
    ] {
        let faults = with(flags).faults(Command::Manager);
        let found = faults.iter().any(|fault| fault.contains(expected));
        assert!(found, "{flags:?}: {faults:?}");
    }
}

#[test]
fn an_api_that_others_reach_has_a_certificate() {
    let listen = "manager.api_listen=10.0.0.5:7000";
    let (certificate, key) = ("manager.api_certificate=/a", "manager.api_key=/b");
    given("")
        .set(listen)
        .set(certificate)
        .set(key)
        .load(Command::Manager);
    for half in [certificate, key] {
        let faults = given("").set(half).faults(Command::Manager);
        let found = faults.iter().any(|fault| fault.contains("go together"));
        assert!(found, "{faults:?}");
    }
}
