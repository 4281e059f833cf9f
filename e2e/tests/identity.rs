//! Certificates in a cluster of separate processes: who gets in, who does not, and what happens
//! while authorities and certificates change.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use darner_e2e::client::Client;
use darner_e2e::cluster::{Cluster, Shape, join_mirror, manager_settings, seeds};
use darner_e2e::darner::{Darner, command, field, messages};
use darner_e2e::guest::{
    Guest, Port, call_as_stranger, is_open_in_plain_text, is_open_to_strangers,
    register_as_stranger,
};
use darner_e2e::midway;
use darner_e2e::place;
use darner_e2e::scene;
use darner_e2e::skopeo::Skopeo;
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::wait;
use darner_proto::id::Role;
use tonic::Code;

const SHAPE: Shape = seeds(1).mirrors(2);

fn ports(cluster: &Cluster) -> Result<Vec<Port>> {
    let nodes = cluster.seeds.iter().chain(&cluster.mirrors);
    let mut ports: Vec<_> = nodes
        .map(|node| Port::of(node, "pieces"))
        .collect::<Result<_>>()?;
    ports.push(Port::of(&cluster.scheduler, "scheduler")?);
    ports.push(Port::of(&cluster.manager, "manager")?);
    Ok(ports)
}

fn processes(cluster: &Cluster) -> impl Iterator<Item = &Darner> {
    let nodes = cluster.seeds.iter().chain(&cluster.mirrors);
    nodes.chain([&cluster.scheduler, &cluster.manager])
}

#[test]
fn nobody_without_a_certificate_gets_in_and_no_role_does_anothers_work() {
    scene::run("identity_strangers", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, SHAPE).await?;
        let manager = Port::of(&cluster.manager, "manager")?;
        for port in ports(&cluster)? {
            let open = is_open_to_strangers(&port).await?;
            // Only the manager's takes in who comes to join, and nothing else is done for them.
            ensure!(open == (port.address == manager.address), "{}", port.name);
            ensure!(!is_open_in_plain_text(&port).await?, "{}", port.name);
        }
        let refused = register_as_stranger(&manager).await.err();
        let code = refused.map(|status| status.code());
        ensure!(code == Some(Code::Unauthenticated), "{code:?}");

        let mirror = Guest::join(scene, &cluster.manager, Role::Mirror, "guest").await?;
        let scheduler = Guest::join(scene, &cluster.manager, Role::Scheduler, "other").await?;
        for port in ports(&cluster)? {
            ensure!(mirror.is_welcome(&port).await, "{}", port.name);
            let welcome = scheduler.is_welcome(&port).await;
            ensure!(
                welcome == (port.address == manager.address),
                "a scheduler at {}",
                port.name
            );
        }
        for (role, id) in [
            (Role::Mirror, "mirror-1"),
            (Role::Seed, "guest"),
            (Role::Scheduler, "guest"),
        ] {
            let refused = mirror.register(&manager, role, id).await.err();
            let code = refused.map(|status| status.code());
            ensure!(
                code == Some(Code::PermissionDenied),
                "{role} {id}: {code:?}"
            );
        }
        mirror.register(&manager, Role::Mirror, "guest").await?;
        Ok(())
    });
}

/// Every call that is described in `proto/wire`.
fn calls() -> Result<Vec<String>> {
    let files = [
        "manager.proto",
        "identity.proto",
        "scheduler.proto",
        "peer.proto",
        "catalog.proto",
    ];
    let described = protox::compile(files, [place::workspace().join("proto/wire")])?;
    let services = described.file.iter().flat_map(|file| {
        let package = file.package();
        file.service.iter().map(move |service| (package, service))
    });
    let calls = services.flat_map(|(package, service)| {
        let methods = service.method.iter();
        methods.map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    Ok(calls.collect())
}

/// All but the two calls by which one joins.
#[test]
fn no_call_is_answered_to_who_shows_no_certificate() {
    const OPEN: [&str; 2] = ["/darner.v1.Authority/Prove", "/darner.v1.Authority/Join"];
    scene::run("identity_calls", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, SHAPE).await?;
        let manager = Port::of(&cluster.manager, "manager")?;
        let calls = calls()?;
        ensure!(
            OPEN.iter()
                .all(|open| calls.iter().any(|call| call == open)),
            "{calls:?}"
        );
        for call in &calls {
            let refused = call_as_stranger(&manager, call).await.err();
            let code = refused.map(|status| status.code());
            let ours = [".Manager/", ".Authority/", ".Catalog/"];
            let is_ours = ours.iter().any(|one| call.contains(one));
            let fits = match code {
                Some(Code::Unauthenticated) => is_ours && !OPEN.contains(&&**call),
                // What it says is looked at, and is nothing.
                Some(Code::InvalidArgument | Code::FailedPrecondition) => OPEN.contains(&&**call),
                Some(Code::Unimplemented) => !is_ours,
                _ => false,
            };
            ensure!(fits, "{call} at the manager: {code:?}");
        }
        for port in ports(&cluster)?
            .iter()
            .filter(|port| port.address != manager.address)
        {
            for call in &calls {
                let refused = call_as_stranger(port, call).await.err();
                let code = refused.map(|status| status.code());
                // Nobody is there to say more.
                let cut = matches!(
                    code,
                    Some(Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled)
                );
                ensure!(cut, "{call} at {}: {code:?}", port.name);
            }
        }
        Ok(())
    });
}

#[test]
fn nobody_joins_in_the_name_of_a_member_that_lives() {
    scene::run("identity_taken", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let mut cluster = Cluster::start(scene, &upstream, SHAPE).await?;
        // Only a token that is younger than a member leads into its name, counted in seconds.
        let joined = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        while SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() == joined {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let joining = Guest::join(scene, &cluster.manager, Role::Mirror, "mirror-1");
        let mut joining = std::pin::pin!(joining);
        let refused = tokio::time::timeout(Duration::from_secs(2), &mut joining).await;
        ensure!(refused.is_err(), "a second mirror-1 joined");
        let said = cluster.manager.output();
        ensure!(said.contains("it is a member that lives"), "{said}");
        cluster.mirrors[0].stop().await?;
        joining.await.map(drop)
    });
}

#[test]
fn a_real_client_pulls_through_a_cluster_with_certificates() {
    scene::run("identity_client", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, SHAPE).await?;
        let image = &upstream.images.middle;
        for mirror in &cluster.mirrors {
            let address = mirror.address("registry")?.to_string();
            let skopeo = Skopeo::new(scene, &format!("skopeo-{}", mirror.name()), NAME, &address)?;
            skopeo.copy(image, &image.reference(NAME)).await?;
        }
        upstream.read_once(image)?;
        for process in processes(&cluster) {
            let metrics = process.metrics().await?;
            let insecure = metrics.require("darner_identity_insecure")?;
            let expiry = "darner_identity_certificate_expiry_timestamp_seconds";
            ensure!(insecure == 0.0 && metrics.require(expiry)? > 0.0);
        }
        Ok(())
    });
}

#[test]
fn a_revocation_reaches_every_process_within_a_minute() {
    scene::run("identity_revocation", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let cluster = Cluster::start(scene, &upstream, SHAPE).await?;
        let guest = Guest::join(scene, &cluster.manager, Role::Mirror, "guest").await?;
        let other = Guest::join(scene, &cluster.manager, Role::Mirror, "other").await?;
        let ports = ports(&cluster)?;
        let mut open = Vec::new();
        for port in &ports {
            open.push((port, guest.connect(port).await?));
        }
        let begun = Instant::now();
        cluster.manager.manage(&["revoke", "guest"])?;
        for (port, mut stream) in open {
            // Whatever else comes on it, it ends.
            let mut rest = Vec::new();
            let reading = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut rest);
            let ended = tokio::time::timeout(Duration::from_secs(60), reading).await;
            ended
                .ok()
                .with_context(|| format!("{} stays open", port.name))?
                .ok();
        }
        for port in &ports {
            ensure!(!guest.is_welcome(port).await, "{}", port.name);
            ensure!(other.is_welcome(port).await, "{}", port.name);
        }
        let took = begun.elapsed();
        ensure!(took < Duration::from_secs(60), "{took:?}");
        cluster.pull_everywhere(&upstream.images.middle).await?;
        Ok(())
    });
}

#[test]
fn a_new_authority_during_a_pull_costs_no_pull() {
    scene::run("identity_rotation", async |scene| {
        let (upstream, cluster) = midway::start(scene, SHAPE).await?;
        let image = &upstream.images.big;
        let clients = cluster.clients()?;
        let rotate = async {
            midway::under_way(&upstream, image).await?;
            cluster.manager.manage(&["rotate-authority"])?;
            for process in processes(&cluster) {
                wait::until_true("word of the new authority", || trusts(process, 2)).await?;
            }
            Ok(())
        };
        midway::pull_while(&clients, image, rotate).await?;
        // Whose certificate the new authority signed, and the others with theirs by the old one.
        let late = join_mirror(scene, &upstream, &cluster.manager, "late").await?;
        upstream.throttle(None);
        Client::new(&late, NAME)?.pull(image).await?;
        upstream.read_once(image)?;
        let from_peers = late.metrics().await?;
        let from_peers = from_peers.sum("darner_fetched_bytes_total", "source=\"upstream\"");
        ensure!(from_peers == 0.0, "{from_peers} bytes from upstream");
        Ok(())
    });
}

/// Whether `process` has said that so many authorities count.
fn trusts(process: &Darner, authorities: u64) -> bool {
    messages(&process.output()).any(|message| {
        let fields = message.get("fields").unwrap_or(&message);
        field(&message, "message") == Some("whose certificates count")
            && fields
                .get("authorities")
                .and_then(serde_json::Value::as_u64)
                == Some(authorities)
    })
}

#[test]
fn certificates_are_renewed_while_pulls_go_on() {
    scene::run("identity_renewal", async |scene| {
        let upstream = Upstream::start(scene).await?;
        let manager = manager_settings(scene)?.set("manager.certificate_lifetime", "18s");
        let cluster = Cluster::start_with(scene, &upstream, SHAPE, &manager).await?;
        let begun = Instant::now();
        let images = [&upstream.images.tiny, &upstream.images.middle];
        // Longer than any of the first certificates counts, and the connections made with them.
        while begun.elapsed() < Duration::from_secs(22) {
            for image in images {
                cluster.pull_everywhere(image).await?;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for process in processes(&cluster) {
            let metrics = process.metrics().await?;
            let renewals = metrics.sum("darner_identity_renewals_total", "");
            ensure!(renewals >= 2.0, "{}: {renewals} renewals", process.name());
        }
        cluster.pull_everywhere(&upstream.images.big).await?;
        Ok(())
    });
}

#[test]
fn a_token_lets_in_as_many_as_it_is_good_for_and_no_other_role() {
    scene::run("identity_tokens", async |scene| {
        let settings = manager_settings(scene)?;
        let manager = Darner::start(scene, "manager", "manager", &settings).await?;
        let token = manager.manage(&["token", "create", "--role", "scheduler"])?;
        let start = |name: &str, token: &str, subcommand: &str| -> Result<_> {
            let path = scene.path(format!("{name}.token"));
            std::fs::write(&path, token)?;
            let data = scene.make_directory(format!("data-{name}"))?;
            let address = manager.address("manager")?;
            let mut command = command()?;
            command.arg(subcommand).arg("--data-dir").arg(&data);
            for setting in [
                format!("node.id={name}"),
                "admin.listen=127.0.0.1:0".to_owned(),
                "scheduler.listen=127.0.0.1:0".to_owned(),
                "pieces.advertise=127.0.0.1:9".to_owned(),
                format!("manager.address=https://{address}"),
                format!("identity.token_file={}", path.display()),
            ] {
                command.arg("--set").arg(setting);
            }
            Ok(command)
        };
        let wrong = format!(
            "{}00000000",
            token.trim().get(..token.trim().len() - 8).unwrap_or("")
        );
        for (name, token, subcommand, said) in [
            ("wrong", wrong.as_str(), "scheduler", "cannot prove"),
            ("role", token.as_str(), "mirror", "is for a scheduler"),
            ("none", "hunter2", "scheduler", "is not a join token"),
        ] {
            let output = start(name, token, subcommand)?.output()?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let text = text + &String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.code() == Some(1),
                "{name}: {:?}\n{text}",
                output.status
            );
            ensure!(
                text.contains(said) && !text.contains("hunter2"),
                "{name}: {text}"
            );
        }
        let path = scene.path("once.token");
        std::fs::write(&path, &token)?;
        let settings = |name: &str| -> Result<_> {
            let address = manager.address("manager")?;
            Ok(darner_e2e::cluster::node(scene, name)?
                .set("scheduler.listen", "127.0.0.1:0")
                .set("manager.address", format!("https://{address}"))
                .set("identity.token_file", path.display().to_string()))
        };
        let mut first = Darner::start(scene, "first", "scheduler", &settings("first")?).await?;
        let output = start("second", &token, "scheduler")?.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = text + &String::from_utf8_lossy(&output.stderr);
        ensure!(text.contains("as often as it is good for"), "{text}");
        // Who is in needs no token any more.
        std::fs::remove_file(&path)?;
        first.stop().await?;
        first.restart().await?;
        let listed = manager.manage(&["token", "list"])?;
        ensure!(listed.contains("1/1"), "{listed}");
        Ok(())
    });
}
