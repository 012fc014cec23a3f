//! What a path of a request comes to in a site.
//!
//! Decides: what a path means (a file, another address, nothing), and how long who has it may keep it.
//! Does not know: HTTP messages (`sites.rs`); how the table is read (`pollen-wire`).
//! Invariants: a path is a key of the table and is never taken apart: nothing else can be reached.
//! Source: docs/internals/content.md#sites.

use pollen_wire::site::{File, Table};

const INDEX: &str = "index.html";
/// The shortest text in a name that may be the hash of its content.
const HASH_LEAST: usize = 8;

/// What a path comes to.
#[derive(Debug)]
pub(crate) enum Found<'a> {
    File(&'a File, Keep),
    /// A folder: its address ends with a slash.
    Folder,
    /// Nothing; the page that says so, if the site has one.
    Nothing(Option<&'a File>),
}

/// How long a client may use what it has without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    /// A page: it asks each time.
    Asks,
    /// A name with a hash in it: never another content.
    Always,
    AMinute,
}

/// What the path of a request comes to, decoded and without its first slash.
pub(crate) fn find<'a>(site: &'a Table, path: &str) -> Found<'a> {
    let page = |path: &str| site.file(path);
    if path.is_empty() || path.ends_with('/') {
        if let Some(file) = page(&format!("{path}{INDEX}")) {
            return Found::File(file, Keep::Asks);
        }
    } else if let Some(file) = page(path) {
        return Found::File(file, keep(path, file));
    } else if page(&format!("{path}/{INDEX}")).is_some() {
        return Found::Folder;
    }
    // A route of the page's own script has no ending; a script that is not there does.
    let is_route = !path.rsplit('/').next().unwrap_or_default().contains('.');
    match page(INDEX) {
        Some(file) if site.is_spa && is_route => Found::File(file, Keep::Asks),
        _ => Found::Nothing(page("404.html")),
    }
}

fn keep(path: &str, file: &File) -> Keep {
    let name = path.rsplit('/').next().unwrap_or_default();
    if file.media.starts_with("text/html") {
        Keep::Asks
    } else if name.split(['.', '-', '_']).skip(1).any(is_hash) {
        Keep::Always
    } else {
        Keep::AMinute
    }
}

/// Whether a part of a name seems to be a hash: hex, or letters of both cases, with digits in it.
fn is_hash(part: &str) -> bool {
    let any = |test: fn(char) -> bool| part.chars().any(test);
    let is_hex = part.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    part.len() >= HASH_LEAST
        && part.chars().all(|c| c.is_ascii_alphanumeric())
        && any(|c| c.is_ascii_digit())
        && any(|c| c.is_ascii_alphabetic())
        && (is_hex || any(|c| c.is_ascii_uppercase()) && any(|c| c.is_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn site(spa: bool) -> Table {
        let file =
            |media: &str| serde_json::json!({"offset": 512, "size": 3, "type": media, "tag": "t"});
        let table = serde_json::json!({"format": 1, "spa": spa, "files": {
            "index.html": file("text/html"),
            "404.html": file("text/html"),
            "docs/index.html": file("text/html"),
            "app.3f2a9c1b.js": file("text/javascript"),
            "a b.txt": file("text/plain"),
        }});
        Table::read(table.to_string().as_bytes(), 4096).unwrap()
    }

    #[test]
    fn a_path_is_a_key() {
        let site = site(false);
        let found = |path: &str| match find(&site, path) {
            Found::File(_, keep) => format!("{keep:?}"),
            Found::Folder => "folder".into(),
            Found::Nothing(page) => format!("nothing {}", page.is_some()),
        };
        for (path, expected) in [
            ("", "Asks"),
            ("index.html", "Asks"),
            ("docs", "folder"),
            ("docs/", "Asks"),
            ("app.3f2a9c1b.js", "Always"),
            ("a b.txt", "AMinute"),
            ("docs//", "nothing true"),
            ("../index.html", "nothing true"),
            ("docs/../index.html", "nothing true"),
            ("./index.html", "nothing true"),
            ("/index.html", "nothing true"),
            ("index.html/", "nothing true"),
            ("INDEX.html", "nothing true"),
            ("index.html\0", "nothing true"),
        ] {
            assert_eq!(found(path), expected, "{path:?}");
        }
    }

    #[test]
    fn a_route_of_a_page_is_the_page() {
        let site = site(true);
        assert!(matches!(find(&site, "users/7"), Found::File(_, Keep::Asks)));
        assert!(matches!(find(&site, "old.js"), Found::Nothing(Some(_))));
    }

    #[test]
    fn a_hash_in_a_name_is_told() {
        for (part, expected) in [
            ("3f2a9c1b", true),
            ("BkX3d9xa", true),
            ("20261128", false),
            ("deadbeef", false),
            ("3f2a9c1", false),
            ("bootstrap5", false),
            ("", false),
        ] {
            assert_eq!(is_hash(part), expected, "{part}");
        }
    }
}
