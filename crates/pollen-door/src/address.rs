//! The address of a request as text: the host that it names, and the characters of its path.
//!
//! Decides: which names of sites a Host may mean, in their order, by the rules of the node's operator.
//! Does not know: which sites there are (`sites.rs`), what a path means in one (`site.rs`).
//! Invariants: what comes of a host has no capitals, no port and no dot at its end. An escape is decoded
//!     once.
//! Source: RFC 3986 (2.1, 3.2.2), RFC 6761 (6.3), RFC 9110 (4.2.3);
//!     docs/internals/content.md#hosts.

use std::{borrow::Cow, collections::HashMap};

/// Browsers take every name below this one for this machine.
const LOCAL: &str = ".localhost";
/// The rule for every other Host.
const ANY: &str = "*";
/// The rule that lets strangers name a site in the path, and no Host.
const BY_PATH: &str = "/~site/";

/// What the operator of a node says of Hosts.
#[derive(Debug, Default)]
pub struct Hosts {
    exact: HashMap<String, String>,
    /// What a host ends with, its dot included, longest first. Without a site, what stands before it is
    /// the site's name.
    suffixes: Vec<(String, Option<String>)>,
    default: Option<String>,
    is_by_path: bool,
}

impl Hosts {
    /// From pairs of a host and a site. A host is a name, `*.SUFFIX`, or `*`; an empty site behind
    /// `*.SUFFIX` is the one whose name stands before the suffix. `/~site/` without a site is no host,
    /// and has sites named in the path as well. The caller has checked them.
    pub fn new(rules: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut hosts = Self::default();
        for (host, site) in rules {
            let host = host.to_ascii_lowercase();
            if host == BY_PATH {
                hosts.is_by_path = true;
            } else if host == ANY {
                hosts.default = Some(site);
            } else if let Some(suffix) = host.strip_prefix(ANY) {
                hosts.suffixes.push((suffix.to_owned(), Some(site).filter(|it| !it.is_empty())));
            } else {
                hosts.exact.insert(host, site);
            }
        }
        hosts.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        hosts
    }

    /// Whether a path may name a site to strangers.
    pub(crate) fn is_by_path(&self) -> bool {
        self.is_by_path
    }

    /// The names that a host may mean, the surest first; the first that is a site is meant.
    pub(crate) fn names<'a>(&'a self, host: &'a str) -> impl Iterator<Item = &'a str> {
        let exact = self.exact.get(host).map(String::as_str);
        let suffixes = self.suffixes.iter().filter_map(|(suffix, site)| {
            let before = before(host, suffix)?;
            Some(site.as_deref().unwrap_or(before))
        });
        let local = before(host, LOCAL);
        let default = self.default.as_deref();
        exact.into_iter().chain([host]).chain(suffixes).chain(local).chain(default)
    }
}

fn before<'a>(host: &'a str, suffix: &str) -> Option<&'a str> {
    host.strip_suffix(suffix).filter(|before| !before.is_empty())
}

/// The host of `host` or `host:port`, as it is compared.
pub(crate) fn host_of(authority: &str) -> String {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => authority,
    };
    // As a full name of the DNS may end.
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// A part of a path as text; `None` for what is no escape, or no UTF-8.
pub(crate) fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(rules: &[(&str, &str)]) -> Hosts {
        Hosts::new(rules.iter().map(|(host, site)| ((*host).to_owned(), (*site).to_owned())))
    }

    #[test]
    fn a_host_is_compared_without_case_port_and_last_dot() {
        for (authority, expected) in [
            ("shop", "shop"),
            ("SHOP.LocalHost:8080", "shop.localhost"),
            ("shop:", "shop"),
            ("shop.", "shop"),
            ("shop.:80", "shop"),
            ("shop..", "shop."),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("", ""),
        ] {
            assert_eq!(host_of(authority), expected, "{authority}");
        }
    }

    #[test]
    fn a_host_means_the_surest_name_first() {
        let hosts = hosts(&[
            ("*", "home"),
            ("*.example.org", ""),
            ("*.shop.example.org", "shop"),
            ("WWW.example.org", "front"),
        ]);
        for (host, expected) in [
            ("www.example.org", &["front", "www.example.org", "www", "home"][..]),
            ("a.shop.example.org", &["a.shop.example.org", "shop", "a.shop", "home"]),
            ("blog.example.org", &["blog.example.org", "blog", "home"]),
            // A suffix alone has nothing before it.
            ("example.org", &["example.org", "home"]),
            (".example.org", &[".example.org", "home"]),
            ("notexample.org", &["notexample.org", "home"]),
            ("blog.localhost", &["blog.localhost", "blog", "home"]),
            ("", &["", "home"]),
        ] {
            assert_eq!(hosts.names(host).collect::<Vec<_>>(), expected, "{host}");
        }
        assert_eq!(Hosts::default().names("a.example.org").collect::<Vec<_>>(), ["a.example.org"]);
    }

    #[test]
    fn an_escape_is_decoded_once() {
        for (text, expected) in [
            ("a b", Some("a b")),
            ("a%20b", Some("a b")),
            ("%252e", Some("%2e")),
            ("%C3%BC", Some("\u{fc}")),
            ("%ff", None),
            ("%c0%ae", None),
            ("%2", None),
            ("%+1", None),
            ("%zz", None),
        ] {
            assert_eq!(percent_decoded(text).as_deref(), expected, "{text}");
        }
    }
}
