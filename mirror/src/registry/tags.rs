//! The list of a repository's tags: upstream's, brought into the form of the specification.
//!
//! Not every registry sorts the list, or knows `n` and `last`; where upstream sends more than was
//! asked for, the page is cut here, with a link to the next one.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, Method, Response, header};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::relay::Errand;
use super::serve::{Call, Front, Reply};
use crate::access::proof::collected;

/// A hundred thousand tags of more than a hundred letters.
const MAX_LIST: usize = 16 << 20;

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    count: Option<usize>,
    last: Option<String>,
}

#[derive(Debug, Deserialize, Serialize)]
struct List {
    name: String,
    /// Registries write `null` where there are none.
    tags: Option<Vec<String>>,
}

impl Front {
    pub(super) async fn tags(&self, call: &Call<'_>) -> Result<Reply, Refusal> {
        let errand = Errand {
            // Also for a HEAD: how long the list is shows only once it has been cut.
            method: Method::GET,
            path: call.question.object.to_string(),
            query: call.question.query.clone(),
            accept: None,
        };
        let relayed = self.ask_upstream(call, errand).await?;
        if !relayed.status().is_success() {
            return self.pass(call, relayed).await;
        }
        let mut headers = HeaderMap::new();
        let link = call.passed_headers(&relayed).remove(header::LINK);
        let list = collected(relayed, MAX_LIST, call.deadline).await;
        let list = list.and_then(|bytes| serde_json::from_slice::<List>(&bytes).ok());
        let list = list.ok_or_else(|| call.unavailable("the registry's list cannot be read"))?;
        let page = Page::of(call.question.query.as_deref());
        let (tags, more) = page.cut(list.tags.unwrap_or_default());
        let link = match more {
            true => tags.last().and_then(|last| call.next_page(&page, last)),
            false => link.filter(|_| page.count != Some(0)),
        };
        if let Some(link) = link {
            headers.insert(header::LINK, link);
        }
        let list = List {
            name: list.name,
            tags: Some(tags),
        };
        // Strings alone are always written.
        let body: Bytes = serde_json::to_vec(&list).unwrap_or_default().into();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        let body = if call.is_head() { Bytes::new() } else { body };
        let mut response = Response::new(Body::from(body));
        *response.headers_mut() = headers;
        Ok(Reply {
            response,
            source: None,
        })
    }
}

impl Page {
    fn of(query: Option<&str>) -> Self {
        let mut page = Self::default();
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            match &*name {
                "n" => page.count = value.parse().ok(),
                "last" => page.last = Some(value.into_owned()),
                _ => {}
            }
        }
        page
    }

    /// The tags of this page in order, and whether some that upstream sent come after it.
    fn cut(&self, mut tags: Vec<String>) -> (Vec<String>, bool) {
        // Upstream's own order stays: the specification leaves it lexical or by bytes.
        let lexical = tags.is_sorted_by_key(|tag| tag.to_lowercase());
        if !lexical {
            tags.sort();
        }
        if let Some(last) = &self.last {
            let place = tags.iter().rposition(|tag| tag == last);
            match place {
                Some(place) => drop(tags.drain(..=place)),
                None if lexical => tags.retain(|tag| tag.to_lowercase() > last.to_lowercase()),
                None => tags.retain(|tag| tag > last),
            }
        }
        match self.count {
            Some(count) if count < tags.len() => {
                tags.truncate(count);
                (tags, count > 0)
            }
            _ => (tags, false),
        }
    }
}

impl Call<'_> {
    fn next_page(&self, page: &Page, last: &str) -> Option<HeaderValue> {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        if let Some(count) = page.count {
            query.append_pair("n", &count.to_string());
        }
        query.append_pair("last", last);
        if let Some(namespace) = &self.question.namespace {
            query.append_pair("ns", namespace);
        }
        let link = format!("<{}?{}>; rel=\"next\"", self.path, query.finish());
        HeaderValue::try_from(link).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(query: &str, tags: &[&str]) -> (Vec<String>, bool) {
        let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        Page::of(Some(query)).cut(tags)
    }

    #[test]
    fn what_upstream_has_cut_stays_as_it_is() {
        assert_eq!(
            cut("n=2", &["a", "b"]),
            (vec!["a".into(), "b".into()], false)
        );
        assert_eq!(cut("n=2&last=b", &["c"]), (vec!["c".into()], false));
        // Lexical order, as some registries have it.
        let lexical = cut("last=a", &["B", "c"]);
        assert_eq!(lexical.0, ["B", "c"]);
    }

    #[test]
    fn what_it_has_not_is_cut_here() {
        assert_eq!(cut("n=1", &["b", "a"]), (vec!["a".into()], true));
        assert_eq!(cut("n=0", &["a", "b"]), (vec![], false));
        assert_eq!(cut("last=a", &["a", "b"]), (vec!["b".into()], false));
        assert_eq!(cut("last=aa&n=1", &["a", "b"]), (vec!["b".into()], false));
    }

    proptest! {
        #[test]
        fn pages_together_are_the_list(mut all in prop::collection::vec("[a-z]{1,3}", 0..40), count in 1usize..7) {
            let (mut seen, mut last) = (Vec::new(), None);
            loop {
                let page = Page { count: Some(count), last: last.take() };
                let (tags, more) = page.cut(all.clone());
                prop_assert!(tags.len() <= count);
                last = tags.last().cloned();
                seen.extend(tags);
                if !more {
                    break;
                }
            }
            all.sort();
            all.dedup();
            seen.dedup();
            prop_assert_eq!(seen, all);
        }
    }
}
