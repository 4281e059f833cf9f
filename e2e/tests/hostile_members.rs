//! Members of a cluster without servers that lie, claim and flood: the others go on as before.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darner_e2e::client::Client;
use darner_e2e::darner::Darner;
use darner_e2e::guest::{Guest, Port};
use darner_e2e::scene::{self, Scene};
use darner_e2e::upstream::{NAME, Upstream};
use darner_e2e::{members, wait};
use darner_proto::digest::Digest;
use darner_proto::gossip::{self, Member, Place};
use darner_proto::id::Role;
use darner_proto::scheduler::NodeMessage;
use darner_proto::wire;
use darner_service::gossip::members::rank;
use http::{Request, header};
use prost::Message as _;
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(120);
/// A pull past whoever lies may take this long: whoever does not send is soon left alone.
const IN_TIME: Duration = Duration::from_secs(30);
/// The flood goes on for so long, and so many connections do it at a time.
const FLOOD: Duration = Duration::from_secs(6);
const FLOODING: usize = 4;
/// What a member may take more of the memory after a flood than before.
const MORE_MEMORY: u64 = 96 << 20;

#[test]
fn a_member_that_lies_about_what_it_holds_keeps_nothing_from_anybody() {
    scene::run_for("hostile_holdings", LIMIT, async |scene| {
        let mut upstream = Upstream::start(scene).await?;
        let image = upstream.images.middle.clone();
        let members = members::start(scene, &upstream, 3).await?;
        let liar = Guest::by_key(scene, &members::key(scene)?, "liar").await?;
        let keys: Vec<_> = image.manifests.iter().chain(&image.blobs).collect();
        let keys: Vec<_> = keys.into_iter().map(|blob| blob.digest).collect();
        // Over when this is dropped.
        let mut sessions = JoinSet::new();
        for member in &members {
            let session = liar.attend(&Port::of(member, "scheduler")?).await?;
            let all = NodeMessage::Inventory {
                keys: keys.clone(),
                listed: true,
            };
            session.say(all).await?;
            sessions.spawn(session.ignore());
        }
        let began = Instant::now();
        members::pull_everywhere(&members, &image).await?;
        ensure!(began.elapsed() < IN_TIME, "took {:?}", began.elapsed());
        let ratio = upstream.ledger().ratio(&image);
        ensure!(ratio <= 1.01, "{ratio}:\n{}", upstream.ledger().describe());
        // It claims them still, beside those who do hold them.
        upstream.off();
        let late = members::join(scene, &upstream, "member-4", Some(&members[0])).await?;
        Client::new(&late, NAME)?.pull(&image).await?;
        Ok(())
    });
}

fn packet(from: &Member, said: &[(&Member, wire::GossipState)]) -> Result<Bytes> {
    let head = wire::GossipHead {
        from: Some(from.into()),
        to: Some(from.into()),
        kind: wire::GossipKind::Gossip.into(),
        ..wire::GossipHead::default()
    };
    let mut packet = head.encode_length_delimited_to_vec();
    packet.extend(u16::try_from(said.len())?.to_be_bytes());
    for (member, state) in said {
        let update = wire::GossipUpdate {
            member: Some((*member).into()),
            incarnation: 0,
            state: (*state).into(),
        };
        packet.extend(update.encode_length_delimited_to_vec());
    }
    Ok(packet.into())
}

async fn send(guest: &Guest, to: &Darner, packet: Bytes) -> Result<u16> {
    let request = Request::post(gossip::PATH).header(header::HOST, "member");
    let port = Port::of(to, "pieces")?;
    Ok(guest.ask(&port, request.body(packet)?).await?.0)
}

async fn count(member: &Darner, metric: &str) -> Result<f64> {
    member.metrics().await?.require(metric)
}

/// A name that is first in the order in which members keep the table.
fn first_of(members: &[Darner]) -> Result<String> {
    let mut best = 0;
    for member in members {
        best = best.max(rank(&member.name().parse()?));
    }
    for number in 0..10_000 {
        let name = format!("liar-{number}");
        if rank(&name.parse()?) > best {
            return Ok(name);
        }
    }
    anyhow::bail!("no such name")
}

#[test]
fn a_member_that_claims_the_table_and_speaks_for_others_changes_nothing() {
    scene::run_for("hostile_claims", LIMIT, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let members = members::start(scene, &upstream, 3).await?;
        let name = first_of(&members)?;
        let liar = Guest::by_key(scene, &members::key(scene)?, &name).await?;
        let record = |id: &str, port: u16| {
            anyhow::Ok(Member {
                id: id.parse()?,
                generation: 1,
                place: Some(Place {
                    address: format!("127.0.0.1:{port}"),
                    scheduler_port: port,
                    role: Role::Mirror,
                    labels: std::collections::BTreeMap::new(),
                }),
            })
        };
        // In the name of another, it is not heard.
        let other = record("member-2", 9)?;
        let farewell = packet(&other, &[(&other, wire::GossipState::Down)])?;
        for member in &members {
            send(&liar, member, farewell.clone()).await?;
            let refused = count(member, "darner_gossip_refused_packets").await?;
            ensure!(refused > 0.0, "{} heard it", member.name());
        }
        // In its own, it keeps the table, where nobody can reach it, and calls all others dead.
        let itself = record(&name, 9)?;
        let mut said = vec![(itself.clone(), wire::GossipState::Alive)];
        for member in liar_lists(&liar, &members[0]).await? {
            said.push((member, wire::GossipState::Down));
        }
        let said: Vec<_> = said
            .iter()
            .map(|(member, state)| (member, *state))
            .collect();
        let claim = packet(&itself, &said)?;
        for member in &members {
            send(&liar, member, claim.clone()).await?;
        }
        let image = &upstream.images.middle;
        let began = Instant::now();
        members::pull_everywhere(&members, image).await?;
        ensure!(began.elapsed() < IN_TIME, "took {:?}", began.elapsed());
        let ratio = upstream.ledger().ratio(image);
        ensure!(ratio <= 1.01, "{ratio}:\n{}", upstream.ledger().describe());
        // Whom nobody can reach is soon no member, and all others are.
        members::settled(&members.iter().collect::<Vec<_>>()).await
    });
}

async fn liar_lists(guest: &Guest, member: &Darner) -> Result<Vec<Member>> {
    let request = Request::get(gossip::PATH).header(header::HOST, "member");
    let port = Port::of(member, "pieces")?;
    let (_, body) = guest.ask(&port, request.body(Bytes::new())?).await?;
    Ok(gossip::members(wire::GossipMembers::decode(body)?)?)
}

fn memory(process: &Darner) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: u64 = kib.context("no VmRSS")?.trim().parse()?;
    Ok(kib << 10)
}

async fn flood(guest: &Guest, members: &[Darner], seed: usize) -> Result<()> {
    let until = Instant::now() + FLOOD;
    let mut number = seed as u64;
    while Instant::now() < until {
        let member = &members[seed % members.len()];
        // It is sent away in the end, and comes again.
        let session = guest.attend(&Port::of(member, "scheduler")?).await;
        if let Ok(session) = session {
            for _ in 0..2000 {
                number += FLOODING as u64;
                let key = Digest::sha256(&number.to_be_bytes());
                let request = number;
                if session
                    .say(NodeMessage::Find { request, key })
                    .await
                    .is_err()
                {
                    break;
                }
            }
        }
        let nonsense = Bytes::from(vec![7; 4000]);
        let _ = send(guest, member, nonsense).await;
        let _ = liar_lists(guest, member).await;
    }
    Ok(())
}

async fn guests(scene: &Scene) -> Result<Vec<Guest>> {
    let key = members::key(scene)?;
    let mut guests = Vec::new();
    for number in 0..FLOODING {
        guests.push(Guest::by_key(scene, &key, &format!("flood-{number}")).await?);
    }
    Ok(guests)
}

#[test]
fn members_that_flood_with_lookups_and_packets_keep_nobody_from_a_pull() {
    scene::run_for("hostile_flood", LIMIT, async |scene| {
        let upstream = Upstream::start(scene).await?;
        let members = members::start(scene, &upstream, 3).await?;
        let image = &upstream.images.middle;
        members::pull_everywhere(&members, &upstream.images.tiny).await?;
        let before = members.iter().map(memory).collect::<Result<Vec<_>>>()?;
        let guests = guests(scene).await?;
        let floods = guests.iter().enumerate();
        let floods = floods.map(|(seed, guest)| flood(guest, &members, seed));
        let floods = futures_util::future::try_join_all(floods);
        let pulls = async {
            let began = Instant::now();
            members::pull_everywhere(&members, image).await?;
            ensure!(began.elapsed() < IN_TIME, "took {:?}", began.elapsed());
            Ok(())
        };
        tokio::try_join!(floods, pulls)?;
        drop(guests);
        let ratio = upstream.ledger().ratio(image);
        ensure!(ratio <= 1.01, "{ratio}:\n{}", upstream.ledger().describe());
        let mut refused = 0.0;
        for (member, before) in members.iter().zip(before) {
            refused += count(member, "darner_gossip_refused_packets").await?;
            let more = memory(member)?.saturating_sub(before);
            // What the pull itself takes is bounded elsewhere and well below this.
            ensure!(more < MORE_MEMORY, "{} took {more} bytes", member.name());
        }
        ensure!(
            refused > 0.0,
            "no nonsense was heard: this test shows nothing"
        );
        wait::until("somebody was sent away for flooding", async || {
            let mut sent_away = 0.0;
            for member in &members {
                let metrics = member.metrics().await.ok()?;
                let reason = "reason=\"flooding\"";
                sent_away += metrics.sum("darner_scheduler_sessions_closed_total", reason);
            }
            (sent_away > 0.0).then_some(())
        })
        .await?;
        members::settled(&members.iter().collect::<Vec<_>>()).await
    });
}
