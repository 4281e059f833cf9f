//! What the upstream is told to do wrong, and to which requests.

use http::{Method, Request};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers with this status.
    Status(u16),
    /// Breaks the connection after this many bytes of the body.
    Cut(u64),
    /// The right number of wrong bytes, in one place of the body.
    Corrupt,
    /// Answers 200 and the whole body to a request for a range.
    IgnoreRange,
    /// Sends the client to another host.
    Redirect,
    /// Sends headers and this many bytes, then nothing more, without an end.
    Stall(u64),
    /// Never answers.
    Silent,
}

/// Which requests a fault is for.
#[derive(Debug, Clone)]
pub struct Rule {
    method: Option<Method>,
    part: String,
    left: Option<u32>,
    fault: Fault,
    everybody: bool,
}

impl Rule {
    /// Every request whose path contains `part`.
    pub fn new(part: impl Into<String>, fault: Fault) -> Self {
        Self {
            method: None,
            part: part.into(),
            left: None,
            fault,
            everybody: false,
        }
    }

    /// Only requests of this method.
    pub fn method(mut self, method: Method) -> Self {
        self.method = Some(method);
        self
    }

    /// Only the first `times` such requests.
    pub fn times(mut self, times: u32) -> Self {
        self.left = Some(times);
        self
    }

    /// Whoever asks, credentials or not: the registry does not come to look at them.
    pub fn for_everybody(mut self) -> Self {
        self.everybody = true;
        self
    }

    fn matches<B>(&self, request: &Request<B>) -> bool {
        let method = self.method.as_ref();
        method.is_none_or(|method| method == request.method())
            && request.uri().path().contains(&self.part)
            && self.left != Some(0)
    }
}

/// The fault that this request meets; `early`: before it is known who asks.
pub(super) fn take<B>(rules: &mut [Rule], request: &Request<B>, early: bool) -> Option<Fault> {
    let mut rules = rules.iter_mut();
    let rule = rules.find(|rule| rule.everybody == early && rule.matches(request))?;
    if let Some(left) = &mut rule.left {
        *left -= 1;
    }
    Some(rule.fault)
}

/// The error body a registry sends with a status.
pub(super) fn error_body(status: u16) -> String {
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    };
    format!(r#"{{"errors":[{{"code":"{code}","message":"as the test wants it"}}]}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_holds_as_often_as_it_says_and_only_for_what_it_names() {
        let request = |method: Method, path: &str| {
            let builder = Request::builder().method(method).uri(path);
            builder.body(()).unwrap()
        };
        let blob = request(Method::GET, "/v2/a/blobs/x");
        let mut rules = vec![
            Rule::new("/blobs/", Fault::Corrupt)
                .method(Method::GET)
                .times(1),
            Rule::new("/blobs/x", Fault::Redirect),
        ];
        let ping = request(Method::GET, "/v2/");
        assert_eq!(take(&mut rules, &ping, false), None);
        assert_eq!(take(&mut rules, &blob, true), None);
        assert_eq!(take(&mut rules, &blob, false), Some(Fault::Corrupt));
        assert_eq!(take(&mut rules, &blob, false), Some(Fault::Redirect));
    }
}
