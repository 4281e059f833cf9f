//! What the page of a directory leads to, as web servers make one (nginx's autoindex, Apache's
//! mod_autoindex, Python's http.server and those like them): pure.
//!
//! Only what lies below where one began is taken, at the same host, and under names that are plain
//! names of files here too.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use reqwest::Url;

/// Longer names no file system takes.
const MAX_NAME: usize = 255;
/// What this command keeps beside a file ends so.
const OURS: [&str; 2] = [".darner-part", ".darner-from"];

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A directory's own page.
    Directory(Url),
    /// A file, and where it goes below the output.
    File(Url, PathBuf),
}

/// What the page at `page`, with the text `html`, has below `start`: each once, in the page's order.
pub(super) fn entries(start: &Url, page: &Url, html: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for link in links(html) {
        let url = page.join(&link).ok();
        let entry = url.and_then(|url| entry(start, page, url));
        if let Some(entry) = entry.filter(|entry| !entries.contains(entry)) {
            entries.push(entry);
        }
    }
    entries
}

fn entry(start: &Url, page: &Url, mut url: Url) -> Option<Entry> {
    url.set_fragment(None);
    let own = url.origin() == start.origin() && url.username().is_empty();
    // With a query it is the same page in another order.
    if !own || url.password().is_some() || url.query().is_some() {
        return None;
    }
    // A page leads down from where it is: whatever leads elsewhere is another page's to list.
    url.path().strip_prefix(page.path())?;
    let rest = url.path().strip_prefix(start.path())?;
    let (names, is_directory) = match rest.strip_suffix('/') {
        Some(names) => (names, true),
        None => (rest, false),
    };
    let names: Option<PathBuf> = names.split('/').map(name).collect();
    Some(match is_directory {
        true => names.map(|_| Entry::Directory(url))?,
        false => Entry::File(url, names?),
    })
}

/// A part of a URL's path as the name of a file here, if it can be one.
fn name(part: &str) -> Option<String> {
    let name = percent_decode_str(part).decode_utf8().ok()?;
    is_name(&name).then(|| name.into_owned())
}

/// Whether a file here can be called so.
pub(super) fn is_name(name: &str) -> bool {
    let plain = |letter: char| !letter.is_control() && !matches!(letter, '/' | '\\');
    let taken = matches!(name, "." | "..") || OURS.iter().any(|end| name.ends_with(end));
    (1..=MAX_NAME).contains(&name.len()) && name.chars().all(plain) && !taken
}

/// Where the anchors of a page lead, as written but for entities.
fn links(html: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let Some(inner) = rest.strip_prefix(['a', 'A']) else {
            continue;
        };
        if inner.starts_with(|letter: char| letter.is_ascii_whitespace()) {
            let (link, after) = link(inner);
            links.extend(link);
            rest = after;
        }
    }
    links
}

/// The `href` of a tag's attributes, and what follows the tag.
fn link(mut rest: &str) -> (Option<String>, &str) {
    let mut found = None;
    loop {
        rest =
            rest.trim_start_matches(|letter: char| letter.is_ascii_whitespace() || letter == '/');
        if rest.is_empty() || rest.starts_with('>') {
            return (found, rest);
        }
        let ends = |letter: char| letter.is_ascii_whitespace() || matches!(letter, '=' | '>' | '/');
        // An attribute without a name is skipped like any other, by at least one letter.
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(_, letter)| ends(*letter));
        let (name, after) = rest.split_at(end.map_or(rest.len(), |(at, _)| at));
        let (value, after) = value(after);
        if name.eq_ignore_ascii_case("href") && found.is_none() {
            found = value.map(unescaped);
        }
        rest = after;
    }
}

/// The value of an attribute, if it has one, and what follows.
fn value(rest: &str) -> (Option<&str>, &str) {
    let trimmed = rest.trim_start();
    let Some(after) = trimmed.strip_prefix('=') else {
        return (None, rest);
    };
    let after = after.trim_start();
    for quote in ['"', '\''] {
        if let Some(quoted) = after.strip_prefix(quote) {
            let (value, after) = quoted.split_once(quote).unwrap_or((quoted, ""));
            return (Some(value), after);
        }
    }
    let end = after.find(|letter: char| letter.is_ascii_whitespace() || letter == '>');
    let (value, after) = after.split_at(end.unwrap_or(after.len()));
    (Some(value), after)
}

/// Without the entities that servers write into links.
fn unescaped(text: &str) -> String {
    let entities = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#34;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&amp;", "&"),
    ];
    let replaced = |text: String, (entity, letter): (&str, &str)| text.replace(entity, letter);
    entities.into_iter().fold(text.trim().to_owned(), replaced)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NGINX: &str = r#"<html><head><title>Index of /pub/x/</title></head><body>
<h1>Index of /pub/x/</h1><hr><pre><a href="../">../</a>
<a href="sub/">sub/</a>                   01-Jan-2026 00:00       -
<a href="a%20b.bin">a b.bin</a>           01-Jan-2026 00:00     123
<a href="c&amp;d.txt">c&amp;d.txt</a>     01-Jan-2026 00:00       5
</pre><hr></body></html>"#;

    const APACHE: &str = r#"<table><tr><th><a href="?C=N;O=D">Name</a></th></tr>
<tr><td><A class=x HREF='/pub/'>Parent Directory</A></td></tr>
<tr><td><a href="/pub/x/one.tar.gz">one</a></td><td><a href=two>two</a></td></tr>
<tr><td><a href="two#part">again</a> <abbr href="three">no</abbr> <a>none</a></td></tr></table>"#;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    fn found(html: &str) -> Vec<String> {
        let start = url("http://h.test/pub/x/");
        let found = entries(&start, &start, html);
        let told = found.into_iter().map(|entry| match entry {
            Entry::Directory(url) => url.path().to_owned(),
            Entry::File(_, path) => path.display().to_string(),
        });
        told.collect()
    }

    #[test]
    fn pages_of_servers_are_read() {
        assert_eq!(found(NGINX), ["/pub/x/sub/", "a b.bin", "c&d.txt"]);
        assert_eq!(found(APACHE), ["one.tar.gz", "two"]);
    }

    #[test]
    fn nothing_leads_elsewhere() {
        for link in [
            "http://other.test/pub/x/a",
            "https://h.test/pub/x/a",
            "http://h.test:81/pub/x/a",
            "//other.test/pub/x/a",
            "http://u@h.test/pub/x/a",
            "../y/a",
            "/etc/passwd",
            "%2e%2e/a",
            "a%2f..%2f..%2fb",
            "..%5ca",
            "a//b",
            "a%00b",
            "a%0ab",
            "%ff",
            ".a.darner-part",
            "javascript:x",
            "a?b",
            "",
            "./",
        ] {
            let html = format!("<a href=\"{link}\">x</a>");
            assert_eq!(found(&html), Vec::<String>::new(), "{link}");
        }
    }

    proptest! {
        #[test]
        fn any_page_stays_below(html in ".{0,200}", links in prop::collection::vec("[a-z./%25e:?#&\\\\]{0,12}", 0..8)) {
            let tags = links.iter().map(|link| format!("<a href=\"{link}\">"));
            let html = format!("{html}{}", tags.collect::<String>());
            let start = url("http://h.test/pub/x/");
            for entry in entries(&start, &start, &html) {
                let (url, path) = match entry {
                    Entry::Directory(url) => (url, PathBuf::new()),
                    Entry::File(url, path) => (url, path),
                };
                prop_assert!(url.as_str().starts_with(start.as_str()));
                prop_assert!(path.components().all(|part| matches!(part, std::path::Component::Normal(_))));
            }
        }
    }
}
