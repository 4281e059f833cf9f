//! Tickets: a seed's word that one node may have one private content from it, for a minute.
//!
//! A ticket names the content, the node and the repository through which the node's caller has
//! proved its right, and is signed with a key that the seed alone has and that ends with the
//! process. It is honoured only by who issued it, for that content, from that node; a node that
//! wants to go on after it is over proves its right again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use darner_proto::digest::Digest;
use darner_proto::id::HostId;
use darner_proto::name::Source;

use super::NoRandom;

/// A ticket is good for no longer: far below the time for which upstream's yes counts.
pub const TICKET_FOR: Duration = Duration::from_secs(60);
/// What separates these signatures from any other use of a key.
const CONTEXT: &[u8] = b"darner ticket v1\0";
/// When it ends, before the repository.
const ENDS: usize = 8;
const SIGNATURE: usize = 32;

/// What tickets are signed with. Its `Debug` does not show it.
#[derive(Debug)]
pub struct Tickets {
    key: hmac::Key,
}

/// Why a ticket is not honoured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is none, or for another content or node, or another's.
    #[error("it is not this seed's ticket of this node for this content")]
    NotOurs,
    /// It was, until a moment ago.
    #[error("it is over")]
    Over,
}

impl Tickets {
    /// With a key of its own.
    pub fn new() -> Result<Self, NoRandom> {
        let mut key = [0; 32];
        SystemRandom::new().fill(&mut key).map_err(|_| NoRandom)?;
        Ok(Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, &key),
        })
    }

    /// A ticket for `digest`, as part of `source`, for `life` from now and [`TICKET_FOR`] at most.
    pub fn issue(&self, node: &HostId, digest: &Digest, source: &Source, life: Duration) -> String {
        self.issue_at(now(), (node, digest, source), life)
    }

    /// As [`Tickets::issue`], at any time.
    pub(super) fn issue_at(
        &self,
        now: Duration,
        (node, digest, source): (&HostId, &Digest, &Source),
        life: Duration,
    ) -> String {
        self.issue_until(node, digest, source, now + life.min(TICKET_FOR))
    }

    fn issue_until(
        &self,
        node: &HostId,
        digest: &Digest,
        source: &Source,
        ends: Duration,
    ) -> String {
        let ends = u64::try_from(ends.as_millis()).unwrap_or(u64::MAX);
        let mut body = ends.to_be_bytes().to_vec();
        body.extend(format!("{}/{}", source.registry, source.repository).bytes());
        let signature = hmac::sign(&self.key, &statement(node, digest, &body));
        body.extend(signature.as_ref());
        URL_SAFE_NO_PAD.encode(body)
    }

    /// The repository that `ticket` lets `node` have `digest` of.
    ///
    /// # Errors
    /// It does not.
    pub fn check(
        &self,
        ticket: &[u8],
        node: &HostId,
        digest: &Digest,
    ) -> Result<Source, TicketError> {
        self.check_at(now(), ticket, (node, digest))
    }

    /// As [`Tickets::check`], at any time.
    pub(super) fn check_at(
        &self,
        now: Duration,
        ticket: &[u8],
        (node, digest): (&HostId, &Digest),
    ) -> Result<Source, TicketError> {
        let text = URL_SAFE_NO_PAD.decode(ticket);
        let text = text.map_err(|_| TicketError::NotOurs)?;
        let (body, signature) = text
            .split_last_chunk::<SIGNATURE>()
            .ok_or(TicketError::NotOurs)?;
        hmac::verify(&self.key, &statement(node, digest, body), signature)
            .map_err(|_| TicketError::NotOurs)?;
        let (ends, source) = body
            .split_first_chunk::<ENDS>()
            .ok_or(TicketError::NotOurs)?;
        if now >= Duration::from_millis(u64::from_be_bytes(*ends)) {
            return Err(TicketError::Over);
        }
        parse(source).ok_or(TicketError::NotOurs)
    }
}

fn parse(source: &[u8]) -> Option<Source> {
    let (registry, repository) = std::str::from_utf8(source).ok()?.split_once('/')?;
    Some(Source {
        registry: registry.parse().ok()?,
        repository: repository.parse().ok()?,
    })
}

fn statement(node: &HostId, digest: &Digest, body: &[u8]) -> Vec<u8> {
    let mut statement = CONTEXT.to_vec();
    statement.extend((node.as_str().len() as u64).to_be_bytes());
    statement.extend(node.as_str().bytes());
    statement.extend(digest.to_wire());
    statement.extend(body);
    statement
}

fn now() -> Duration {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source() -> Source {
        Source {
            registry: "reg.test:5000".parse().unwrap(),
            repository: "alice/app".parse().unwrap(),
        }
    }

    fn node(name: &str) -> HostId {
        name.parse().unwrap()
    }

    #[test]
    fn a_ticket_is_good_for_its_node_its_content_and_its_issuer() {
        let (mine, others) = (Tickets::new().unwrap(), Tickets::new().unwrap());
        let (a, b) = (node("a"), node("b"));
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let ticket = mine.issue(&a, &one, &source(), TICKET_FOR);
        let ticket = ticket.as_bytes();
        assert_eq!(mine.check(ticket, &a, &one), Ok(source()));
        for refused in [
            mine.check(ticket, &b, &one),
            mine.check(ticket, &a, &two),
            others.check(ticket, &a, &one),
            mine.check(b"", &a, &one),
            mine.check(&ticket[1..], &a, &one),
        ] {
            assert_eq!(refused, Err(TicketError::NotOurs));
        }
    }

    #[test]
    fn a_ticket_ends() {
        let tickets = Tickets::new().unwrap();
        let (a, digest) = (node("a"), Digest::sha256(b"1"));
        let over = tickets.issue_until(&a, &digest, &source(), now());
        let refused = tickets.check(over.as_bytes(), &a, &digest);
        assert_eq!(refused, Err(TicketError::Over));
        let long = tickets.issue(&a, &digest, &source(), Duration::from_secs(1 << 30));
        let text = URL_SAFE_NO_PAD.decode(long).unwrap();
        let ends = u64::from_be_bytes(*text.first_chunk().unwrap());
        assert!(Duration::from_millis(ends) <= now() + TICKET_FOR);
    }

    proptest! {
        #[test]
        fn no_change_of_a_ticket_is_honoured(place in 0usize..400, bit in 0u8..8, more in 0usize..3) {
            let tickets = Tickets::new().unwrap();
            let (a, digest) = (node("a"), Digest::sha256(b"1"));
            let ticket = tickets.issue(&a, &digest, &source(), TICKET_FOR);
            let mut bytes = URL_SAFE_NO_PAD.decode(ticket).unwrap();
            let place = place % bytes.len();
            bytes[place] ^= 1 << bit;
            bytes.extend(vec![0; more]);
            let changed = URL_SAFE_NO_PAD.encode(bytes);
            let refused = tickets.check(changed.as_bytes(), &a, &digest);
            prop_assert_eq!(refused, Err(TicketError::NotOurs));
        }

        #[test]
        fn no_input_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let tickets = Tickets::new().unwrap();
            prop_assert!(tickets.check(&bytes, &node("a"), &Digest::sha256(b"1")).is_err());
        }
    }
}
