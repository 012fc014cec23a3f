//! The head of a request at the doors: what may pass, which site its Host means, what its path is in
//! one, and which packed form goes out.
//!
//! The modules are the doors' own, by their files: the crate would bring engine and network, which
//! would be compiled with coverage and be reached by nothing here.
#![no_main]
#![allow(dead_code, unreachable_pub)]

#[path = "../../crates/pollen-door/src/address.rs"]
mod address;
#[path = "../../crates/pollen-door/src/coding.rs"]
mod coding;
#[path = "../../crates/pollen-door/src/head.rs"]
mod head;
#[path = "../../crates/pollen-door/src/limits.rs"]
mod limits;
#[path = "../../crates/pollen-door/src/site.rs"]
mod site;

use std::sync::LazyLock;

use hyper::Uri;
use libfuzzer_sys::fuzz_target;
use pollen_wire::site::{Coding, Table};

use address::{Hosts, host_of, percent_decoded};
use head::{Framing, Scan, scan};
use site::{Found, find};

/// Every file has an offset of its own, by which it is known again.
const FILES: &[&str] =
    &["index.html", "404.html", "docs/index.html", "a.js", "a/b c.txt", "\u{fc}.png", "x//y"];

static SITES: LazyLock<[Table; 2]> = LazyLock::new(|| {
    [true, false].map(|spa| {
        let file = |at: usize| format!(r#"{{"offset":{at},"size":1,"type":"text/html","tag":"t"}}"#);
        let files = FILES.iter().enumerate().map(|(at, path)| format!(r#""{path}":{}"#, file(at)));
        let files = files.collect::<Vec<_>>().join(",");
        let table = format!(r#"{{"format":1,"spa":{spa},"files":{{{files}}}}}"#);
        Table::read(table.as_bytes(), 1 << 20).expect("a table")
    })
});

static HOSTS: LazyLock<Hosts> = LazyLock::new(|| {
    let rules = [
        ("www.example.org", "front"),
        ("*.example.org", ""),
        ("*.shop.example.org", "shop"),
        ("*", "home"),
    ];
    Hosts::new(rules.map(|(host, site)| (host.to_owned(), site.to_owned())))
});

fuzz_target!(|data: &[u8]| {
    let Scan::Whole(length, framing) = scan(data) else { return };
    assert!(length <= data.len() && length <= limits::HEAD_MAX + data.len());
    // What follows a head does not change how it is read, and less than a head is none.
    let whole = &data[..length];
    assert_eq!(scan(whole), Scan::Whole(length, framing));
    for less in [length / 2, length.saturating_sub(1)] {
        assert!(!matches!(scan(&data[..less]), Scan::Whole(..)));
    }

    // As hyper reads it: the same parser, with its limit of headers.
    let start = whole.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(0);
    let mut headers = [httparse::EMPTY_HEADER; limits::HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(&whole[start..]).expect("what passed is a head");
    assert!(parsed.is_complete());
    let values = |name: &str| {
        let named = request.headers.iter().filter(|held| held.name.eq_ignore_ascii_case(name));
        named.map(|held| held.value).collect::<Vec<_>>()
    };
    // One framing: nobody sees another length.
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    assert!(lengths.is_empty() || codings.is_empty());
    assert_eq!(framing == Framing::Chunked, !codings.is_empty());
    let hosts = values("host");
    assert!(hosts.len() <= 1 && (hosts.len() == 1 || request.version == Some(0)));

    let uri = Uri::try_from(request.path.expect("a target")).expect("a target that hyper takes");
    let host = hosts.first().copied().unwrap_or_default();
    check_host(uri.authority().map_or(host, |held| held.as_str().as_bytes()));
    check_path(uri.path());
    let lists = values("accept-encoding");
    check_coding(&lists);
});

fn check_host(authority: &[u8]) {
    // A Host that passed is ASCII.
    let authority = std::str::from_utf8(authority).expect("a Host is text");
    let host = host_of(authority);
    assert!(host.is_ascii() && !host.bytes().any(|byte| byte.is_ascii_uppercase()));
    assert_eq!(host_of(&authority.to_ascii_uppercase()), host);
    let names: Vec<_> = HOSTS.names(&host).collect();
    assert_eq!(names.last(), Some(&"home"));
    for name in names {
        let is_ruled = ["front", "shop", "home"].contains(&name);
        assert!(is_ruled || host.starts_with(name), "{name} is not of {host}");
        assert!(!name.contains('/'));
    }
}

fn check_path(path: &str) {
    let Some(decoded) = path.get(1..).and_then(percent_decoded) else { return };
    // Once: whoever escapes twice gets an escape.
    let escapes = path.matches('%').count();
    assert!(decoded.len() + 2 * escapes == path.len().saturating_sub(1));
    for table in &*SITES {
        match find(table, &decoded) {
            Found::File(file, _) => {
                let key = FILES.iter().find(|key| is_file(table, key, file)).expect("a key");
                let is_first = *key == "index.html" && table.is_spa;
                let index = format!("{decoded}index.html");
                assert!(**key == *decoded || **key == index || is_first, "{decoded:?} is {key}");
            }
            Found::Folder => assert!(FILES.contains(&&*format!("{decoded}/index.html"))),
            Found::Nothing(page) => assert!(page.is_some()),
        }
    }
}

fn is_file(table: &Table, key: &str, file: &pollen_wire::site::File) -> bool {
    table.file(key).is_some_and(|held| std::ptr::eq(held, file))
}

fn check_coding(lists: &[&[u8]]) {
    let lists: Vec<_> = lists.iter().filter_map(|list| std::str::from_utf8(list).ok()).collect();
    let text = lists.join(",").to_ascii_lowercase();
    for only in Coding::ALL {
        let chosen = coding::choose(lists.iter().copied(), |coding| coding == only);
        assert!(chosen.is_none_or(|coding| coding == only && text.contains(coding.name())));
    }
    assert_eq!(coding::choose(lists.iter().copied(), |_| false), None);
}
