//! `[oidc]`: who may log in with an account of elsewhere.

use std::path::Path;

use url::Url;

use super::parse;
use super::read::{Reading, Section};
use super::value::Item;
use crate::settings::Oidc;

/// Groups and scopes of one setting.
const MAX_NAMES: usize = 64;
/// The name of one.
const MAX_NAME: usize = 256;

/// The section; none where nobody is to log in so.
pub(super) fn read(
    mut section: Section<'_>,
    file: Option<&Path>,
    reading: &Reading,
) -> Option<Oidc> {
    let issuer = section.read("issuer", issuer);
    let client_id = section.read("client_id", name);
    let client_secret = section.read("client_secret_file", parse::secret);
    let public_url = section.read("public_url", public_url);
    let scopes = section.read("scopes", names);
    let name_claim = section.read("name_claim", name);
    let groups_claim = section.read("groups_claim", name);
    let admin_groups = section.read("admin_groups", names).unwrap_or_default();
    let operator_groups = section.read("operator_groups", names).unwrap_or_default();
    let viewer_groups = section.read("viewer_groups", names).unwrap_or_default();
    section.close();
    let need = |key: &'static str, is_there: bool| {
        let setting = format!("oidc.{key}");
        if !is_there && !reading.is_bad(&setting) {
            let message = "must be set: issuer, client_id and public_url go together".to_owned();
            reading.fault_of(&setting, file, message);
        }
    };
    if issuer.is_some() || client_id.is_some() || public_url.is_some() {
        need("issuer", issuer.is_some());
        need("client_id", client_id.is_some());
        need("public_url", public_url.is_some());
    }
    let scopes = scopes.unwrap_or_else(|| ["openid", "profile", "email"].map(str::to_owned).into());
    Some(Oidc {
        issuer: issuer?,
        client_id: client_id?,
        client_secret,
        public_url: public_url?,
        scopes,
        name_claim: name_claim.unwrap_or_else(|| "preferred_username".to_owned()),
        groups_claim: groups_claim.unwrap_or_else(|| "groups".to_owned()),
        admin_groups,
        operator_groups,
        viewer_groups,
    })
}

/// As the provider writes it: it is compared letter by letter.
fn issuer(item: &Item) -> Result<String, String> {
    let text = parse::text(item)?;
    secure(text)?;
    Ok(text.to_owned())
}

/// Where browsers find this manager: without a path.
fn public_url(item: &Item) -> Result<String, String> {
    let text = parse::text(item)?;
    let url = secure(text)?;
    match url.path() {
        "/" => Ok(text.trim_end_matches('/').to_owned()),
        _ => Err("has a path: only https://host is meant".to_owned()),
    }
}

/// What is said there is worth an account: over TLS, or on this host.
fn secure(text: &str) -> Result<Url, String> {
    let expected = "is not a URL such as \"https://id.example\"";
    let url = Url::parse(text).map_err(|_| expected.to_owned())?;
    let here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    match url.scheme() {
        "https" if plain && url.has_host() => Ok(url),
        "http" if plain && here => Ok(url),
        "http" => Err("is not https, and not on this host".to_owned()),
        _ => Err(expected.to_owned()),
    }
}

fn name(item: &Item) -> Result<String, String> {
    named(parse::text(item)?)
}

fn named(text: &str) -> Result<String, String> {
    match !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is not 1 to {MAX_NAME} letters")),
    }
}

fn names(item: &Item) -> Result<Vec<String>, String> {
    let names: Result<Vec<_>, _> = parse::words(item)?.iter().map(|text| named(text)).collect();
    match names? {
        names if names.len() <= MAX_NAMES => Ok(names),
        _ => Err(format!("are more than {MAX_NAMES}")),
    }
}
