//! Lists with a form to look for something in: its fields are the API's parameters, sent with GET, so
//! what is looked for is in the page's address.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use maud::{Markup, html};
use serde::de::DeserializeOwned;
use url::form_urlencoded;

use super::layout::ROWS;
use crate::api::body::Query;
use crate::api::problem::Problem;

/// What is asked of a list. A field that was left empty looks for nothing.
#[derive(Debug, Clone)]
pub(super) struct Asked<T> {
    /// As the API takes it, one page of it.
    pub(super) which: T,
    at: String,
    said: Vec<(String, String)>,
}

/// A field of the form.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// The API's parameter.
    pub(super) name: &'static str,
    pub(super) label: &'static str,
    pub(super) kind: Kind,
}

/// What a field takes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    OneOf(&'static [&'static str]),
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let said: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .filter(|(name, value)| !value.is_empty() && name != "limit")
            .collect();
        let at = parts.uri.path().to_owned();
        let mut asked = said.clone();
        asked.push(("limit".to_owned(), ROWS.to_string()));
        let uri = address(&at, &asked).parse();
        parts.uri = uri.map_err(|_| Problem::bad_request("the address is too long"))?;
        let Query(which) = Query::from_request_parts(parts, state).await?;
        Ok(Self { which, at, said })
    }
}

impl<T> Asked<T> {
    /// The address of the list that looks for the same, from its beginning.
    pub(super) fn path(&self) -> String {
        let said = self.said.iter().filter(|(name, _)| name != "after");
        address(&self.at, said)
    }

    /// The form, filled in as it was sent.
    pub(super) fn form(&self, title: &str, fields: &[Field]) -> Markup {
        html! {
            h2 { (title) }
            form.fields method="get" action=(self.at) {
                @for Field { name, label, kind } in fields {
                    @let said = self.said(name);
                    label for=(name) { (label) }
                    @match kind {
                        Kind::Text => { input id=(name) name=(name) maxlength="512" value=(said); }
                        Kind::OneOf(choices) => {
                            select id=(name) name=(name) {
                                option value="" { "any" }
                                @for choice in *choices {
                                    option value=(choice) selected[*choice == said] { (choice) }
                                }
                            }
                        }
                    }
                }
                button { "Look" }
            }
        }
    }

    fn said(&self, field: &str) -> &str {
        let mut said = self.said.iter();
        said.find(|(name, _)| name == field)
            .map_or("", |(_, value)| value)
    }
}

fn address<'a>(at: &str, said: impl IntoIterator<Item = &'a (String, String)>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(said.into_iter().map(|(name, value)| (name, value)));
    match query.finish() {
        query if query.is_empty() => at.to_owned(),
        query => format!("{at}?{query}"),
    }
}
