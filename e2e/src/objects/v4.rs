//! The fourth version of signatures in a query, which Amazon has made and Google has taken over with
//! names of its own.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use sha2::{Digest as _, Sha256};

use super::{Asked, hex, is_now};

/// What stays as it is in a canonical query.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// What a cloud has made of it.
#[derive(Debug)]
pub(super) struct Dialect {
    /// Before the names, such as `X-Amz`.
    pub(super) prefix: &'static str,
    pub(super) algorithm: &'static str,
}

/// What a query says of its signature.
#[derive(Debug)]
pub(super) struct Signature {
    /// Who has signed.
    pub(super) signer: String,
    /// What the key is for.
    pub(super) scope: String,
    /// What is signed.
    pub(super) text: String,
    /// In hexadecimal.
    pub(super) signature: String,
}

impl Dialect {
    /// The signature of what is asked of a host, if it says all it has to and its time is now.
    pub(super) fn signature(&self, asked: &Asked, host: &str) -> Option<Signature> {
        let said = |name: &str| asked.said(&format!("{}-{name}", self.prefix));
        let (signer, scope) = said("Credential").split_once('/')?;
        let date = said("Date");
        let counts = said("Algorithm") == self.algorithm
            && said("SignedHeaders") == "host"
            && counts(date, said("Expires").parse().ok()?)?;
        let canonical = format!(
            "{}\n{}\n{}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD",
            asked.method,
            asked.path,
            self.query(asked)
        );
        let canonical = hex(&Sha256::digest(canonical));
        counts.then(|| Signature {
            signer: signer.to_owned(),
            scope: scope.to_owned(),
            text: format!("{}\n{date}\n{scope}\n{canonical}", self.algorithm),
            signature: said("Signature").to_owned(),
        })
    }

    /// All of the query but the signature, in order.
    fn query(&self, asked: &Asked) -> String {
        let signature = format!("{}-Signature", self.prefix);
        let pairs = asked.query.iter().filter(|(name, _)| **name != signature);
        let encoded = |text| utf8_percent_encode(text, ENCODED);
        let mut pairs: Vec<_> = pairs
            .map(|(name, value)| format!("{}={}", encoded(name), encoded(value)))
            .collect();
        pairs.sort_unstable();
        pairs.join("&")
    }
}

/// Whether now is within so many seconds of `20260101T000000Z`.
fn counts(date: &str, seconds: u64) -> Option<bool> {
    let (day, time) = date.split_once('T')?;
    let part = |text: &str, from, to| text.get(from..to).map(str::to_owned);
    let from = format!(
        "{}-{}-{}T{}:{}:{}Z",
        part(day, 0, 4)?,
        part(day, 4, 6)?,
        part(day, 6, 8)?,
        part(time, 0, 2)?,
        part(time, 2, 4)?,
        part(time, 4, 6)?
    );
    let to = humantime::parse_rfc3339(&from).ok()? + Duration::from_secs(seconds);
    Some(is_now(&from, &humantime::format_rfc3339(to).to_string()))
}
