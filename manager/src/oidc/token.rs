//! Whether an identity token is the provider's, for this manager and this login, and what it says
//! (OpenID Connect Core 1.0, section 3.1.3.7). Pure.
//!
//! Signatures are checked by keys of the kind that the algorithm is for, and by no others: a token that
//! calls a public key a shared secret, or says that it needs none, is refused.

use std::collections::BTreeSet;

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RsaParameters,
    RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::Deserialize;
use serde_json::Value;

/// Clocks of two hosts may be this far apart, in seconds.
const SKEW: i64 = 60;
/// A token that is older than this was not made for a login that just ended.
const MAX_AGE: i64 = 600;
/// Longer tokens than any provider's.
const MAX_LENGTH: usize = 64 << 10;
/// Groups of one person that are looked at.
const MAX_GROUPS: usize = 4096;

/// What a provider signs with (RFC 7517).
#[derive(Debug, Clone, Default, Deserialize)]
pub(super) struct Keys {
    keys: Vec<Key>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Key {
    kty: String,
    r#use: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
}

/// What a token has to say to be meant for this login.
#[derive(Debug)]
pub(super) struct Expected<'a> {
    pub(super) issuer: &'a str,
    pub(super) client_id: &'a str,
    pub(super) nonce: &'a str,
    /// Unix time in seconds.
    pub(super) now: i64,
}

/// What a token says.
#[derive(Debug)]
pub(super) struct Claims(Value);

/// A token is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is no token.
    #[error("it is no signed token")]
    Form,
    /// Nothing that is known here signs so.
    #[error("it is signed with {0}, which is not taken")]
    Algorithm(String),
    /// The provider has no such key.
    #[error("it is signed with a key that the provider does not show")]
    Key,
    /// The signature is another's.
    #[error("its signature is wrong")]
    Signature,
    /// A claim is wrong.
    #[error("its {0} is missing or another's")]
    Claim(&'static str),
    /// It is over, or not begun.
    #[error("it is over, or of another time: do the clocks agree?")]
    Time,
}

/// The claims of `token`, if it is what is `expected`.
pub(super) fn verified(
    token: &str,
    keys: &Keys,
    expected: &Expected<'_>,
) -> Result<Claims, TokenError> {
    let claims = signed(token, keys)?;
    let text = |name: &str| claims[name].as_str();
    if text("iss") != Some(expected.issuer) {
        return Err(TokenError::Claim("iss"));
    }
    let audience: Vec<_> = match &claims["aud"] {
        Value::String(one) => vec![one.as_str()],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    if !audience.contains(&expected.client_id) {
        return Err(TokenError::Claim("aud"));
    }
    let party = text("azp");
    if (audience.len() > 1 && party.is_none())
        || party.is_some_and(|party| party != expected.client_id)
    {
        return Err(TokenError::Claim("azp"));
    }
    if !is_same(text("nonce").unwrap_or_default(), expected.nonce) {
        return Err(TokenError::Claim("nonce"));
    }
    if text("sub").is_none_or(str::is_empty) {
        return Err(TokenError::Claim("sub"));
    }
    let time = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
    let (Some(over), Some(made)) = (time("exp"), time("iat")) else {
        return Err(TokenError::Time);
    };
    let now = expected.now;
    let begun = time("nbf").unwrap_or(made);
    if over + SKEW <= now || begun - SKEW > now || made - SKEW > now || made + MAX_AGE < now {
        return Err(TokenError::Time);
    }
    Ok(Claims(claims))
}

fn is_same(given: &str, expected: &str) -> bool {
    let (given, expected) = (given.as_bytes(), expected.as_bytes());
    !expected.is_empty()
        && aws_lc_rs::constant_time::verify_slices_are_equal(given, expected).is_ok()
}

fn signed(token: &str, keys: &Keys) -> Result<Value, TokenError> {
    if token.len() > MAX_LENGTH {
        return Err(TokenError::Form);
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Form)?;
    let (head, body) = message.split_once('.').ok_or(TokenError::Form)?;
    let decoded = |text: &str| BASE64.decode(text).map_err(|_| TokenError::Form);
    let (head, body, signature) = (decoded(head)?, decoded(body)?, decoded(signature)?);
    let head: Head = serde_json::from_slice(&head).map_err(|_| TokenError::Form)?;
    let algorithm = Algorithm::named(&head.alg).ok_or(TokenError::Algorithm(head.alg.clone()))?;
    let fits = |key: &&Key| {
        let named = head.kid.is_none() || key.kid == head.kid;
        let meant = key.r#use.as_deref().is_none_or(|meant| meant == "sig");
        let for_it = key.alg.as_ref().is_none_or(|alg| *alg == head.alg);
        named && meant && for_it && algorithm.is_for(key)
    };
    let mut keys = keys.keys.iter().filter(fits).peekable();
    keys.peek().ok_or(TokenError::Key)?;
    let verifies = |key: &Key| algorithm.verify(key, message.as_bytes(), &signature);
    match keys.any(|key| verifies(key).is_some()) {
        true => serde_json::from_slice(&body).map_err(|_| TokenError::Form),
        false => Err(TokenError::Signature),
    }
}

/// What providers sign with.
#[derive(Clone, Copy)]
enum Algorithm {
    Rsa(&'static RsaParameters),
    Ecdsa(
        &'static str,
        &'static signature::EcdsaVerificationAlgorithm,
        usize,
    ),
    Ed25519,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::Ecdsa("P-256", &ECDSA_P256_SHA256_FIXED, 32),
            "ES384" => Self::Ecdsa("P-384", &ECDSA_P384_SHA384_FIXED, 48),
            "EdDSA" => Self::Ed25519,
            _ => return None,
        })
    }

    fn is_for(self, key: &Key) -> bool {
        match self {
            Self::Rsa(_) => key.kty == "RSA",
            Self::Ecdsa(curve, ..) => key.kty == "EC" && key.crv == curve,
            Self::Ed25519 => key.kty == "OKP" && key.crv == "Ed25519",
        }
    }

    fn verify(self, key: &Key, message: &[u8], signature: &[u8]) -> Option<()> {
        let part = |text: &str| BASE64.decode(text).ok();
        match self {
            Self::Rsa(parameters) => {
                let (n, e) = (part(&key.n)?, part(&key.e)?);
                let key = RsaPublicKeyComponents { n, e };
                key.verify(parameters, message, signature).ok()
            }
            Self::Ecdsa(_, algorithm, length) => {
                let (x, y) = (part(&key.x)?, part(&key.y)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                // An uncompressed point (SEC 1, section 2.3.3).
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                let key = UnparsedPublicKey::new(algorithm, point);
                key.verify(message, signature).ok()
            }
            Self::Ed25519 => {
                let key = UnparsedPublicKey::new(&ED25519, part(&key.x)?);
                key.verify(message, signature).ok()
            }
        }
    }
}

impl Claims {
    /// Who it is, for the provider and for good.
    pub(super) fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// A claim that is text.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// A claim that lists names, or is one.
    pub(super) fn names(&self, name: &str) -> BTreeSet<String> {
        match self.0.get(name) {
            Some(Value::String(one)) => [one.clone()].into(),
            Some(Value::Array(many)) => {
                let names = many.iter().take(MAX_GROUPS).filter_map(Value::as_str);
                names.map(str::to_owned).collect()
            }
            _ => BTreeSet::new(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
    };
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// A key that signs as a provider does.
    pub(crate) struct Signer(EcdsaKeyPair);

    impl Signer {
        pub(crate) fn new() -> Self {
            Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
        }

        pub(crate) fn keys(&self) -> Value {
            let point = self.0.public_key().as_ref().to_vec();
            let (x, y) = (BASE64.encode(&point[1..33]), BASE64.encode(&point[33..]));
            json!({ "keys": [
                { "kty": "oct", "kid": "one", "k": BASE64.encode(&point) },
                { "kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "x": x, "y": y },
            ]})
        }

        pub(crate) fn sign(&self, head: &Value, claims: &Value) -> String {
            let part = |value: &Value| BASE64.encode(value.to_string());
            let message = format!("{}.{}", part(head), part(claims));
            let signature = self
                .0
                .sign(&SystemRandom::new(), message.as_bytes())
                .unwrap();
            format!("{message}.{}", BASE64.encode(signature.as_ref()))
        }
    }

    fn keys(value: Value) -> Keys {
        serde_json::from_value(value).unwrap()
    }

    fn claims() -> Value {
        json!({ "iss": "https://id.test", "aud": "darner", "sub": "7", "nonce": "n",
            "iat": NOW, "exp": NOW + 300, "groups": ["a", "b", 3] })
    }

    const EXPECTED: Expected<'_> = Expected {
        issuer: "https://id.test",
        client_id: "darner",
        nonce: "n",
        now: NOW,
    };

    fn head() -> Value {
        json!({ "alg": "ES256", "kid": "one" })
    }

    #[test]
    fn a_token_for_this_login_is_believed() {
        let signer = Signer::new();
        let keys = keys(signer.keys());
        let token = signer.sign(&head(), &claims());
        let told = verified(&token, &keys, &EXPECTED).unwrap();
        assert_eq!(told.subject(), "7");
        assert_eq!(told.names("groups"), ["a", "b"].map(str::to_owned).into());
        assert!(told.names("roles").is_empty());
        let mut several = claims();
        several["aud"] = json!(["other", "darner"]);
        several["azp"] = json!("darner");
        several["groups"] = json!("a");
        let token = signer.sign(&json!({ "alg": "ES256" }), &several);
        let told = verified(&token, &keys, &EXPECTED).unwrap();
        assert_eq!(told.names("groups"), ["a".to_owned()].into());
    }

    #[test]
    fn any_other_token_is_refused() {
        let signer = Signer::new();
        let shown = keys(signer.keys());
        let refused = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            verified(&signer.sign(&head(), &claims), &shown, &EXPECTED).unwrap_err()
        };
        for (name, value) in [
            ("iss", json!("https://id.test/")),
            ("aud", json!("another")),
            ("aud", json!(["another"])),
            ("nonce", json!("m")),
            ("nonce", Value::Null),
            ("sub", json!("")),
            ("azp", json!("another")),
        ] {
            assert!(
                matches!(refused(name, value), TokenError::Claim(_)),
                "{name}"
            );
        }
        let no_party = refused("aud", json!(["darner", "other"]));
        assert_eq!(no_party, TokenError::Claim("azp"));
        for (name, value) in [
            ("exp", json!(NOW - SKEW)),
            ("exp", Value::Null),
            ("iat", json!(NOW + SKEW + 1)),
            ("iat", json!(NOW - MAX_AGE - 1)),
            ("nbf", json!(NOW + SKEW + 1)),
        ] {
            assert_eq!(refused(name, value), TokenError::Time, "{name}");
        }
    }

    #[test]
    fn signatures_are_checked_by_the_right_kind_of_key() {
        let signer = Signer::new();
        let shown = keys(signer.keys());
        let good = signer.sign(&head(), &claims());
        let other = keys(Signer::new().keys());
        let checked = |token: &str, keys: &Keys| verified(token, keys, &EXPECTED).unwrap_err();
        assert_eq!(checked(&good, &other), TokenError::Signature);
        for alg in ["none", "None", "HS256", "", "ES256K"] {
            let token = signer.sign(&json!({ "alg": alg, "kid": "one" }), &claims());
            assert_eq!(
                checked(&token, &shown),
                TokenError::Algorithm(alg.to_owned())
            );
        }
        for head in [
            json!({ "alg": "RS256", "kid": "one" }),
            json!({ "alg": "ES256", "kid": "two" }),
        ] {
            let token = signer.sign(&head, &claims());
            assert_eq!(checked(&token, &shown), TokenError::Key);
        }
        let (message, _) = good.rsplit_once('.').unwrap();
        assert_eq!(
            checked(&format!("{message}."), &shown),
            TokenError::Signature
        );
        for bad in [
            "",
            ".",
            "..",
            "a.b",
            "a.b.c",
            message,
            &good.replace('.', ""),
        ] {
            let refused = checked(bad, &shown);
            assert!(matches!(refused, TokenError::Form), "{bad}: {refused:?}");
        }
    }

    #[test]
    fn edwards_curves_count_too() {
        let key = Ed25519KeyPair::generate().unwrap();
        let x = BASE64.encode(key.public_key().as_ref());
        let shown = keys(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "x": x }] }));
        let part = |value: &Value| BASE64.encode(value.to_string());
        let message = format!("{}.{}", part(&json!({ "alg": "EdDSA" })), part(&claims()));
        let signature = BASE64.encode(key.sign(message.as_bytes()).as_ref());
        verified(&format!("{message}.{signature}"), &shown, &EXPECTED).unwrap();
    }
}
