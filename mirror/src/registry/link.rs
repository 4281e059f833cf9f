//! The `Link` header of paged lists (RFC 8288): pure.

/// The link to the next page, turned into one to `path` on this mirror. Of upstream's own link only
/// the parameters are used; where it points is not for the client to follow.
pub(super) fn rewrite(header: &str, path: &str, namespace: Option<&str>) -> Option<String> {
    let target = next_target(header)?;
    let (_, query) = target.split_once('?')?;
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        if name != "ns" {
            pairs.append_pair(&name, &value);
        }
    }
    if let Some(namespace) = namespace {
        pairs.append_pair("ns", namespace);
    }
    Some(format!("<{path}?{}>; rel=\"next\"", pairs.finish()))
}

/// The target of the first link whose relation is `next`.
fn next_target(mut header: &str) -> Option<&str> {
    loop {
        let (_, rest) = header.split_once('<')?;
        let (target, rest) = rest.split_once('>')?;
        let end = rest.find('<').unwrap_or(rest.len());
        let is_next = rest[..end].split([';', ',']).any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                let value = value.trim().trim_matches('"');
                name.trim().eq_ignore_ascii_case("rel") && value.eq_ignore_ascii_case("next")
            })
        });
        if is_next {
            return Some(target);
        }
        header = &rest[end..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PATH: &str = "/v2/reg.test/a/tags/list";

    #[test]
    fn links_stay_on_this_mirror() {
        for upstream in [
            r#"</v2/a/tags/list?last=v9&n=2>; rel="next""#,
            r#"<https://reg.test/v2/a/tags/list?last=v9&n=2>; rel="next""#,
            r#"</other?x=1>; rel="prev", </v2/a/tags/list?last=v9&n=2>;rel=next"#,
        ] {
            assert_eq!(
                rewrite(upstream, PATH, None).as_deref(),
                Some(r#"</v2/reg.test/a/tags/list?last=v9&n=2>; rel="next""#),
                "{upstream}"
            );
        }
    }

    #[test]
    fn the_namespace_is_kept() {
        let upstream = r#"</v2/a/tags/list?last=v%269&n=2&ns=evil.test>; rel="next""#;
        assert_eq!(
            rewrite(upstream, "/v2/a/tags/list", Some("127.0.0.1:5000")).as_deref(),
            Some(r#"</v2/a/tags/list?last=v%269&n=2&ns=127.0.0.1%3A5000>; rel="next""#)
        );
    }

    #[test]
    fn what_is_no_link_to_a_next_page_is_dropped() {
        for header in [
            "",
            "<",
            "<a?b=c>",
            "</x?n=1>; rel=\"prev\"",
            "</x>; rel=\"next\"",
            "rel=next",
        ] {
            assert_eq!(rewrite(header, PATH, None), None, "{header}");
        }
    }

    proptest! {
        #[test]
        fn no_header_gets_out_of_the_brackets(header in "[ -~]{0,80}") {
            if let Some(link) = rewrite(&header, PATH, None) {
                prop_assert_eq!(link.matches(['<', '>', '"']).count(), 4);
            }
        }
    }

    #[test]
    fn no_link_leads_anywhere_else() {
        let good = [
            r#"</v2/a/tags/list?last=v1&n=1>; rel="next""#,
            r#"<https://other.test/v2/a/tags/list?last=x%20y>; rel=next"#,
            r#"<?n=1>; rel="prev", </v2/a/tags/list?n=2>; rel="next""#,
        ];
        darner_mutate::each_text(&good, |text| {
            if let Some(link) = rewrite(text, "/v2/a/tags/list", Some("reg.test")) {
                assert!(link.starts_with("</v2/a/tags/list?"), "{text}: {link}");
                assert_eq!(link.matches('>').count(), 1, "{text}: {link}");
            }
        });
    }
}
