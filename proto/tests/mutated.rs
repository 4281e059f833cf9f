//! Names and messages as nobody of ours writes them: refused, or the same after another turn.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use darner_proto::digest::Digest;
use darner_proto::id::{HostId, parse_address};
use darner_proto::invalid::Invalid;
use darner_proto::manager::Configuration;
use darner_proto::name::{Reference, RegistryName, RepositoryName, Source, Tag};
use darner_proto::peer::{
    Availability, PrivateReply, PrivateRequest, ResolveReply, ResolveRequest, Resolved, Target,
};
use darner_proto::piece_map::PieceSigner;
use darner_proto::piece_set::PieceSet;
use darner_proto::preheat;
use darner_proto::rules::{LimitRules, Login, Rules, UpstreamRule};
use darner_proto::scheduler::{Join, Lease, LeaseClaim, NodeMessage, SchedulerMessage};
use darner_proto::trust::Trust;
use darner_proto::wire;
use prost::Message;

const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// What is taken is written as it was read.
fn read_back<T: FromStr + Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let again = value.to_string().parse::<T>().ok();
        assert_eq!(again.as_ref(), Some(&value), "{text}");
    }
}

#[test]
fn names() {
    let digest = format!("sha256:{HEX}");
    let long = format!("sha512:{HEX}{HEX}");
    let good = [
        "docker.io",
        "reg.example:5000",
        "[::1]:5000",
        "library/debian",
        "a/b__c/d-e.f",
        "v1.2.3-rc.1",
        "latest",
        &digest,
        &long,
        "node-1.example_2",
        "10.0.0.1:7422",
    ];
    darner_mutate::each_text(&good, |text| {
        read_back::<RegistryName>(text);
        read_back::<RepositoryName>(text);
        read_back::<Tag>(text);
        read_back::<Reference>(text);
        read_back::<Digest>(text);
        read_back::<HostId>(text);
        if let Ok(repository) = text.parse::<RepositoryName>() {
            // Whatever passes can stand in a path.
            let parts = repository.as_str().split('/');
            assert!(
                parts
                    .into_iter()
                    .all(|part| !part.is_empty() && part != "..")
            );
        }
        let _ = parse_address(text.to_owned());
    });
}

/// What can be read of `bytes`, read into ours.
fn reads<W, T>(bytes: &[u8])
where
    W: Message + Default,
    T: TryFrom<W>,
{
    if let Ok(message) = W::decode(bytes) {
        let _ = T::try_from(message);
    }
}

fn encoded<W: Message>(message: impl Into<W>) -> Vec<u8> {
    message.into().encode_to_vec()
}

fn source() -> Result<Source, Invalid> {
    Ok(Source {
        registry: "docker.io".parse()?,
        repository: "library/debian".parse()?,
    })
}

#[test]
fn messages_of_peers() {
    let digest = Digest::sha256(b"x");
    let signer = PieceSigner::generate().unwrap();
    let signer = PieceSigner::from_pkcs8("seed-1".parse().unwrap(), &signer).unwrap();
    let request = ResolveRequest {
        source: source().unwrap(),
        target: Target::Blob(digest),
        held_only: true,
        quiet: Duration::from_secs(1),
    };
    let found = ResolveReply::Found(Resolved {
        digest,
        media_type: "a/b".to_owned(),
        size: 1,
        age_ms: 1,
        public_ms: 2,
        stale: false,
        content: b"x".to_vec(),
    });
    let private = PrivateRequest {
        request: request.clone(),
        authorization: "Bearer t".to_owned(),
    };
    let reply = PrivateReply {
        reply: found.clone(),
        ticket: Some(("t".to_owned(), Duration::from_secs(60))),
    };
    let frame = Availability {
        size: 3 << 20,
        available: vec![0..2],
        runs: vec![signer.sign(&digest, 3 << 20, 0, vec![[7; 32]; 3])],
        complete: false,
        received_bytes: 9,
    };
    let good = [
        encoded::<wire::ResolveRequest>(&request),
        encoded::<wire::ResolveReply>(&found),
        encoded::<wire::PrivateRequest>(&private),
        encoded::<wire::PrivateReply>(&reply),
        encoded::<wire::Availability>(&frame),
    ];
    let good: Vec<_> = good.iter().map(Vec::as_slice).collect();
    darner_mutate::each(&good, |bytes| {
        reads::<wire::ResolveRequest, ResolveRequest>(bytes);
        reads::<wire::ResolveReply, ResolveReply>(bytes);
        reads::<wire::PrivateRequest, PrivateRequest>(bytes);
        reads::<wire::PrivateReply, PrivateReply>(bytes);
        reads::<wire::Availability, Availability>(bytes);
        let _ = Digest::from_wire(bytes);
    });
}

fn rules() -> Result<Rules, Invalid> {
    Ok(Rules {
        upstreams: vec![UpstreamRule {
            registry: "registry.example".parse()?,
            url: Some("https://registry.example".to_owned()),
            mirrors: vec!["https://near.example".to_owned()],
            ca: None,
            tag_ttl: Some(Duration::ZERO),
            tag_stale: None,
            max_connections: Some(3),
            login: Some(Login {
                username: "ann".to_owned(),
                password: "secret".to_owned(),
            }),
        }],
        limits: LimitRules {
            upload: Some(7),
            ..LimitRules::default()
        },
        blocked: vec!["docker.io/evil/*".parse()?],
    })
}

#[test]
fn messages_of_schedulers_and_managers() {
    let task = Digest::sha256(b"x");
    let join = NodeMessage::Join(Join {
        task,
        size: 3 << 20,
        sources: vec![source().unwrap()],
        held: PieceSet::full(3),
        lease: Some(LeaseClaim {
            lease: 7,
            ranges: std::iter::once(0..3).collect(),
        }),
    });
    let lease = SchedulerMessage::Lease(Lease {
        task,
        size: 3 << 20,
        lease: 7,
        ranges: std::iter::once(0..3).collect(),
        expires_ms: 9,
        sources: vec![source().unwrap()],
    });
    let trust = Trust {
        authorities: vec![Bytes::from_static(b"certificate")],
        revoked: std::iter::once(("a".parse().unwrap(), 5)).collect(),
    };
    let told = Configuration {
        version: 7,
        rules: Arc::new(rules().unwrap()),
        ..Configuration::default()
    };
    let good = [
        encoded::<wire::NodeMessage>(&join),
        encoded::<wire::SchedulerMessage>(&lease),
        encoded::<wire::Trust>(&trust),
        encoded::<wire::Configuration>(&told),
    ];
    let good: Vec<_> = good.iter().map(Vec::as_slice).collect();
    darner_mutate::each(&good, |bytes| {
        reads::<wire::NodeMessage, NodeMessage>(bytes);
        reads::<wire::SchedulerMessage, SchedulerMessage>(bytes);
        reads::<wire::Trust, Trust>(bytes);
        reads::<wire::Configuration, Configuration>(bytes);
        reads::<wire::Order, preheat::Order>(bytes);
        reads::<wire::OrderReport, preheat::Report>(bytes);
    });
}
