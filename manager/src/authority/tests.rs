//! The authority over both kinds of database: who is let in for what, and what certificates say.

use darner_service::config::{self, Flag, Sources};
use darner_service::identity::{Peer, request};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::*;
use crate::database::testing::Place;

const HOUR: Duration = Duration::from_secs(3600);

fn settings(more: &[&str]) -> Settings {
    let flags = ["data_dir=/nowhere", "node.id=manager"];
    let flags = flags.iter().chain(more);
    let sources = Sources {
        flags: flags.map(|flag| Flag::set(flag)).collect(),
        ..Sources::default()
    };
    config::load(config::Command::Manager, &sources).unwrap()
}

async fn opened(place: &Place) -> Authority {
    over(place.open().await).await
}

/// The authority over a database.
pub(crate) async fn over(database: Database) -> Authority {
    Authority::open(database, &settings(&[])).await.unwrap()
}

fn id(name: &str) -> HostId {
    name.parse().unwrap()
}

/// Asks with a new key.
async fn join(authority: &Authority, token: &JoinToken, name: &str) -> Result<Issued, Refusal> {
    let (_, request) = request().unwrap();
    join_with(authority, token, name, &request).await
}

async fn join_with(
    authority: &Authority,
    token: &JoinToken,
    name: &str,
    request: &[u8],
) -> Result<Issued, Refusal> {
    let id = id(name);
    match authority.join(token, &id, token.role(), request).await {
        Ok(issued) => Ok(issued),
        Err(AuthorityError::Refused(refusal)) => Err(refusal),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_is_good_for_its_role_and_count_and_nothing_else() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let once = authority
            .create_token(Role::Mirror, Some(1), HOUR, "test")
            .await
            .unwrap();
        let (_, first) = request().unwrap();
        join_with(&authority, &once, "a", &first).await.unwrap();
        // The answer was lost: the same key again is no second use; another key or name is.
        join_with(&authority, &once, "a", &first).await.unwrap();
        for (name, key) in [("a", None), ("b", Some(&first))] {
            let refused = match key {
                Some(key) => join_with(&authority, &once, name, key).await,
                None => join(&authority, &once, name).await,
            };
            assert_eq!(refused.unwrap_err(), Refusal::UsedUp, "{name}");
        }
        let twice = authority
            .create_token(Role::Seed, Some(2), HOUR, "test")
            .await
            .unwrap();
        join(&authority, &twice, "a").await.unwrap();
        join(&authority, &twice, "b").await.unwrap();
        let refused = join(&authority, &twice, "c").await;
        assert_eq!(refused.unwrap_err(), Refusal::UsedUp);
        let (_, key) = request().unwrap();
        let other_role = authority
            .join(&twice, &id("a"), Role::Scheduler, &key)
            .await;
        assert!(matches!(
            other_role,
            Err(AuthorityError::Refused(Refusal::Role(_)))
        ));
        // The role in a token's text is nobody's to change.
        let forged = once.reveal().replace(".mirror.", ".scheduler.");
        let forged: JoinToken = forged.parse().unwrap();
        let refused = join(&authority, &forged, "a").await;
        assert!(matches!(refused, Err(Refusal::Role(_))), "{refused:?}");
        // The right number with another secret.
        let guess = JoinToken::generate(Role::Mirror).unwrap().reveal();
        let secret = guess.rsplit('.').next().unwrap();
        let guess = format!("darner-join.mirror.{}.{secret}", once.number());
        let refused = join(&authority, &guess.parse().unwrap(), "a").await;
        assert_eq!(refused.unwrap_err(), Refusal::UnknownToken);
        assert!(authority.remove_token(once.number(), "test").await.unwrap());
        let refused = join(&authority, &once, "a").await;
        assert_eq!(refused.unwrap_err(), Refusal::UnknownToken);
    }
}

#[tokio::test]
async fn many_at_once_use_a_token_no_oftener_than_it_is_good_for() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let token = authority
            .create_token(Role::Mirror, Some(3), HOUR, "test")
            .await
            .unwrap();
        let joins = (0..8).map(|number| {
            let (authority, token) = (authority.clone(), token.clone());
            async move { join(&authority, &token, &format!("n{number}")).await }
        });
        let joined = futures_util::future::join_all(joins).await;
        let welcome = joined.iter().filter(|joined| joined.is_ok()).count();
        assert_eq!(welcome, 3, "{joined:?}");
    }
}

#[tokio::test]
async fn a_token_expires_and_its_secret_is_stored_nowhere() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let over = authority
            .create_token(Role::Mirror, None, Duration::ZERO, "test")
            .await
            .unwrap();
        let refused = join(&authority, &over, "a").await.unwrap_err();
        assert!(
            matches!(refused, Refusal::Expired | Refusal::UnknownToken),
            "{refused}"
        );
        assert_eq!(authority.tokens().await.unwrap(), []);
        let token = authority
            .create_token(Role::Mirror, Some(5), HOUR, "test")
            .await
            .unwrap();
        join(&authority, &token, "a").await.unwrap();
        let (_, document) = stored::read(&authority.shared.database).await.unwrap();
        let text = token.reveal();
        let secret = text.rsplit('.').next().unwrap();
        assert!(document.contains(token.number()) && !document.contains(secret));
        let listed = authority.tokens().await.unwrap();
        assert_eq!((listed.len(), listed[0].used), (1, 1));
        assert!(!format!("{listed:?}").contains(secret));
    }
}

#[tokio::test]
async fn nothing_of_a_request_is_taken_but_its_key() {
    let place = Place::file();
    let authority = opened(&place).await;
    let token = authority
        .create_token(Role::Mirror, None, HOUR, "test")
        .await
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let mut greedy = CertificateParams::default();
    greedy
        .distinguished_name
        .push(DnType::CommonName, "manager");
    greedy.subject_alt_names = vec![
        SanType::URI("spiffe://cluster/darner/manager/m".try_into().unwrap()),
        SanType::DnsName("example.com".try_into().unwrap()),
    ];
    greedy.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    let request = greedy.serialize_request(&key).unwrap();
    let issued = join_with(&authority, &token, "node-1", request.der())
        .await
        .unwrap();
    let (_, certificate) = X509Certificate::from_der(&issued.chain[0]).unwrap();
    assert_eq!(certificate.public_key().raw, {
        let (_, request) =
            x509_parser::prelude::X509CertificationRequest::from_der(request.der()).unwrap();
        request.certification_request_info.subject_pki.raw
    });
    assert_eq!(certificate.subject().to_string(), "CN=Darner mirror");
    assert!(!certificate.is_ca());
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    let peer = Peer::of(&issued.chain[0]).unwrap();
    assert_eq!(
        (peer.id.as_str(), peer.role),
        ("node-1", Role::Mirror.into())
    );
    let lasts = peer.not_after - unix_now();
    let week = 7 * 24 * 3600;
    assert!((week - 60..=week).contains(&lasts), "{lasts}");
    // A request that another's key signed, or that is none.
    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bad in [forged.as_slice(), b"", b"\x30\x03\x02\x01\x00"] {
        let refused = authority.join(&token, &id("n"), Role::Mirror, bad).await;
        assert!(matches!(refused, Err(AuthorityError::Issue(_))));
    }
}

#[tokio::test]
async fn what_is_issued_after_a_revocation_counts_and_nothing_before() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let token = authority
            .create_token(Role::Mirror, None, HOUR, "test")
            .await
            .unwrap();
        let peer = async |token: &JoinToken, name: &str| {
            let issued = join(&authority, token, name).await.unwrap();
            Peer::of(&issued.chain[0]).unwrap()
        };
        let before = peer(&token, "node-1").await;
        let other = peer(&token, "node-2").await;
        authority.revoke(&id("node-1"), "test").await.unwrap();
        let trust = authority.trust().await.unwrap();
        let made = authority.create_token(Role::Mirror, Some(1), HOUR, "test");
        let after = peer(&made.await.unwrap(), "node-1").await;
        assert!(trust.is_revoked(&before.id, before.not_before));
        assert!(!trust.is_revoked(&after.id, after.not_before));
        assert!(!trust.is_revoked(&other.id, other.not_before));
        // Nor does one that is revoked lead to another, even where word of that is still on its way.
        let (_, request) = request().unwrap();
        let key = issue::requested_key(&request).unwrap();
        let refused = authority.renew(&before, &key).await;
        assert!(matches!(
            refused,
            Err(AuthorityError::Refused(Refusal::Revoked))
        ));
        authority.renew(&after, &key).await.unwrap();
    }
}

#[tokio::test]
async fn a_new_authority_signs_and_the_old_one_counts_for_as_long_as_its_certificates() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let first = authority.trust().await.unwrap().authorities;
        authority.rotate("test").await.unwrap();
        let both = authority.trust().await.unwrap().authorities;
        assert_eq!((first.len(), both.len()), (1, 2));
        assert_eq!(first[0], both[0]);
        let issued = authority
            .issue(Role::Mirror.into(), &id("node-1"), &{
                let (_, request) = request().unwrap();
                issue::requested_key(&request).unwrap()
            })
            .await
            .unwrap();
        // The certificate, and the new authority's by the old one.
        assert_eq!(issued.chain.len(), 2);
        let parse = |der| X509Certificate::from_der(der).unwrap().1;
        let (leaf, cross) = (parse(&issued.chain[0]), parse(&issued.chain[1]));
        let (old, new) = (parse(&both[0]), parse(&both[1]));
        leaf.verify_signature(Some(new.public_key())).unwrap();
        cross.verify_signature(Some(old.public_key())).unwrap();
        assert_eq!(cross.public_key().raw, new.public_key().raw);
        // Only the one that signs has its key kept.
        let mut state = authority.state().await.unwrap();
        let keys = state.authorities.iter();
        let keys: Vec<_> = keys.map(|authority| authority.key.is_some()).collect();
        assert_eq!(keys, [false, true]);
        let week = 7 * 24 * 3600;
        state.prune(unix_now() + week - 60);
        assert_eq!(state.trust().authorities.len(), 2);
        state.prune(unix_now() + week + 60);
        assert_eq!(state.trust().authorities, [both[1].clone()]);
    }
}

#[tokio::test]
async fn two_managers_over_one_database_are_one_authority() {
    let place = Place::postgres();
    let (one, two) = tokio::join!(opened(&place), opened(&place));
    let trust = one.trust().await.unwrap();
    assert_eq!(trust.authorities.len(), 1);
    assert_eq!(two.trust().await.unwrap(), trust);
    let token = one
        .create_token(Role::Seed, Some(1), HOUR, "test")
        .await
        .unwrap();
    join(&two, &token, "a").await.unwrap();
    let refused = join(&one, &token, "b").await;
    assert_eq!(refused.unwrap_err(), Refusal::UsedUp);
}

#[tokio::test]
async fn however_many_managers_start_at_once_the_first_ones_authority_signs() {
    for place in Place::each() {
        let authority = opened(&place).await;
        let first = authority.trust().await.unwrap();
        // One that looked when nobody signed, and comes to it when somebody does.
        authority.sign_with_new(When::NobodySigns).await.unwrap();
        assert_eq!(authority.trust().await.unwrap(), first);
    }
}

#[tokio::test]
async fn a_sealed_signing_key_is_of_use_with_its_seal_only() {
    let directory = tempfile::tempdir().unwrap();
    let seal = |name: &str, digits: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, digits.repeat(32)).unwrap();
        settings(&[&format!("manager.seal_key_file={}", path.display())])
    };
    let (mine, other) = (seal("mine", "0f"), seal("other", "f0"));
    for place in Place::each() {
        let plain = opened(&place).await;
        let before = plain.state().await.unwrap();
        let key = crate::random::hex(before.signing().unwrap().key.as_ref().unwrap());
        let document = async || stored::read(&plain.shared.database).await.unwrap().1;
        assert!(document().await.contains(&key));
        let open = async |settings: &Settings| Authority::open(place.open().await, settings).await;
        let sealed = open(&mine).await.unwrap();
        assert!(!document().await.contains(&key));
        assert_eq!(sealed.state().await.unwrap(), before);
        let token = sealed
            .create_token(Role::Mirror, None, HOUR, "test")
            .await
            .unwrap();
        join(&sealed, &token, "a").await.unwrap();
        sealed.rotate("test").await.unwrap();
        let now = sealed.state().await.unwrap();
        let key = crate::random::hex(now.signing().unwrap().key.as_ref().unwrap());
        assert!(!document().await.contains(&key));
        let error = open(&settings(&[])).await.unwrap_err();
        assert!(matches!(error, AuthorityError::Seal(SealError::Sealed)));
        let error = open(&other).await.unwrap_err();
        assert!(matches!(error, AuthorityError::Seal(SealError::Another)));
    }
}

#[test]
fn standing_tokens_come_from_a_file_that_has_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tokens");
    let setting = format!("manager.join_tokens_file={}", path.display());
    let settings = settings(&[&setting]);
    assert!(matches!(
        standing(&settings),
        Err(AuthorityError::Tokens { .. })
    ));
    let token = JoinToken::generate(Role::Mirror).unwrap();
    std::fs::write(&path, format!("{}\n\n", token.reveal())).unwrap();
    assert_eq!(standing(&settings).unwrap().len(), 1);
    std::fs::write(&path, "hunter2").unwrap();
    let error = standing(&settings).unwrap_err().to_string();
    assert!(
        error.contains("line 1") && !error.contains("hunter2"),
        "{error}"
    );
}

/// Second by second: what a token is good for depends on what came after it was made.
#[test]
fn a_token_older_than_a_revocation_or_a_join_is_no_way_into_that_name() {
    let mut state = State::default();
    let [old, new, newer] = [(); 3].map(|()| JoinToken::generate(Role::Mirror).unwrap());
    state.add_token(&old, Some(100), 10, 1000).unwrap();
    let join = |state: &mut State, now, token: &JoinToken, name: &str, key: &str| {
        state.redeem(now, token, &id(name), Role::Mirror, key)
    };
    join(&mut state, 20, &old, "a", "k1").unwrap();
    join(&mut state, 21, &old, "a", "k1").expect("its answer was lost");
    // The node is down, and somebody else with the same token would be it.
    assert_eq!(join(&mut state, 30, &old, "a", "k2"), Err(Refusal::Taken));
    join(&mut state, 30, &old, "b", "k2").unwrap();

    // It lost its disk, and somebody made a token for that.
    state.add_token(&new, Some(100), 40, 1000).unwrap();
    join(&mut state, 41, &new, "a", "k3").unwrap();
    assert_eq!(join(&mut state, 42, &new, "a", "k4"), Err(Refusal::Taken));
    assert_eq!(
        join(&mut state, 42, &old, "a", "k1"),
        Ok(()),
        "the same key is the same process"
    );

    // It is sent away: no token that it can have from before lets it in.
    state.revoke(50, &id("a")).unwrap();
    for token in [&old, &new] {
        for key in ["k1", "k3", "k5"] {
            assert_eq!(
                join(&mut state, 60, token, "a", key),
                Err(Refusal::SentAway)
            );
        }
    }
    join(&mut state, 60, &old, "c", "k6").expect("others come in");
    state.add_token(&newer, Some(1), 70, 1000).unwrap();
    join(&mut state, 71, &newer, "a", "k5").unwrap();
}

#[tokio::test]
async fn a_standing_token_lets_nobody_back_in_who_was_sent_away() {
    let place = Place::file();
    let tokens = tempfile::NamedTempFile::new().unwrap();
    let token = JoinToken::generate(Role::Mirror).unwrap();
    std::fs::write(tokens.path(), token.reveal()).unwrap();
    let file = format!("manager.join_tokens_file={}", tokens.path().display());
    let settings = settings(&[&file]);
    let authority = Authority::open(place.open().await, &settings)
        .await
        .unwrap();
    for _ in 0..2 {
        join(&authority, &token, "a").await.unwrap();
    }
    authority.revoke(&id("a"), "test").await.unwrap();
    let refused = join(&authority, &token, "a").await;
    assert_eq!(refused.unwrap_err(), Refusal::SentAway);
    join(&authority, &token, "b").await.unwrap();
}
