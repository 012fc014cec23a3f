//! The table of a site: which file is where in its archive, and what a path of a request comes to.
//!
//! Decides: what a path means (a file, another address, nothing), and how long who has it may keep it.
//! Does not know: HTTP messages (`sites.rs`); how an archive is made (the publisher).
//! Invariants: a path is a key of the table and is never taken apart: nothing else can be reached. Each
//! file lies within its archive.
//! Source: docs/internals/content.md#sites.

use std::{collections::HashMap, ops::Range};

use serde::Deserialize;

/// Bytes of a block of the archive: of a header, and what a body is filled up to (POSIX ustar).
pub(crate) const BLOCK: u64 = 512;
/// Largest table that is read, bytes.
pub(crate) const TABLE_MAX: u64 = 16 << 20;
/// The archive's first member.
const TABLE: &[u8] = b".pollen/site.json\0";
/// Where the size of a member stands in its header, in octal.
const SIZE: Range<usize> = 124..135;
const INDEX: &str = "index.html";
/// The shortest text in a name that may be the hash of its content.
const HASH_LEAST: usize = 8;

/// What the archive's first member says.
#[derive(Debug, Deserialize)]
struct Written {
    format: u32,
    #[serde(default)]
    spa: bool,
    files: HashMap<String, File>,
}

/// One file of a site. Offsets count from the end of the table.
#[derive(Debug, Deserialize)]
pub(crate) struct File {
    offset: u64,
    size: u64,
    /// Its media type.
    #[serde(rename = "type")]
    pub(crate) media: String,
    /// Names its bytes.
    pub(crate) tag: String,
    /// The same, packed by gzip: offset and size.
    #[serde(default)]
    gzip: Option<(u64, u64)>,
}

/// The files of a site by their paths.
#[derive(Debug)]
pub(crate) struct Site {
    is_spa: bool,
    /// Where the table ends in the archive.
    base: u64,
    files: HashMap<String, File>,
}

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

/// Bytes of the table, from the archive's first block; `None` for what is no site.
pub(crate) fn table_size(block: &[u8]) -> Option<u64> {
    if !block.starts_with(TABLE) {
        return None;
    }
    let digits = std::str::from_utf8(block.get(SIZE)?).ok()?;
    u64::from_str_radix(digits, 8).ok().filter(|size| *size <= TABLE_MAX)
}

impl Site {
    /// Reads the table of an archive of `size` bytes. The reason why it is none, in words.
    pub(crate) fn read(table: &[u8], size: u64) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(table).map_err(|error| error.to_string())?;
        if written.format != 1 {
            return Err(format!("its format is {}, and this node knows 1", written.format));
        }
        let base = BLOCK + (table.len() as u64).next_multiple_of(BLOCK);
        let room = size.checked_sub(base).ok_or("it ends within its table")?;
        for (path, file) in &written.files {
            let is_inside = |(offset, size): (u64, u64)| {
                offset.checked_add(size).is_some_and(|end| end <= room)
            };
            if !is_inside((file.offset, file.size)) || !file.gzip.is_none_or(is_inside) {
                return Err(format!("{path:?} ends behind the end of the archive"));
            }
        }
        Ok(Self { is_spa: written.spa, base, files: written.files })
    }

    /// What the path of a request comes to, decoded and without its first slash.
    pub(crate) fn find(&self, path: &str) -> Found<'_> {
        let page = |path: &str| self.files.get(path);
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
            Some(file) if self.is_spa && is_route => Found::File(file, Keep::Asks),
            _ => Found::Nothing(page("404.html")),
        }
    }

    /// Where a file's bytes are in the archive; packed, if it is asked for and there.
    pub(crate) fn span(&self, file: &File, packed: bool) -> Option<Range<u64>> {
        let (offset, size) = if packed { file.gzip? } else { (file.offset, file.size) };
        let start = self.base + offset;
        Some(start..start + size)
    }
}

impl File {
    /// Whether it goes out packed to who takes that.
    pub(crate) fn has_packed(&self) -> bool {
        self.gzip.is_some()
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

    fn site(spa: bool) -> Site {
        let file =
            |media: &str| serde_json::json!({"offset": 512, "size": 3, "type": media, "tag": "t"});
        let table = serde_json::json!({"format": 1, "spa": spa, "files": {
            "index.html": file("text/html"),
            "404.html": file("text/html"),
            "docs/index.html": file("text/html"),
            "app.3f2a9c1b.js": file("text/javascript"),
            "a b.txt": file("text/plain"),
        }});
        Site::read(table.to_string().as_bytes(), 4096).unwrap()
    }

    #[test]
    fn a_path_is_a_key() {
        let site = site(false);
        let found = |path: &str| match site.find(path) {
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
        assert!(matches!(site.find("users/7"), Found::File(_, Keep::Asks)));
        assert!(matches!(site.find("old.js"), Found::Nothing(Some(_))));
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

    #[test]
    fn a_table_that_lies_is_refused() {
        for (table, size, word) in [
            (r#"{"format": 2, "files": {}}"#, 4096, "format"),
            (r#"{"format": 1}"#, 4096, "files"),
            (r#"{"format": 1, "files": {}}"#, 512, "ends within"),
            (
                r#"{"format": 1, "files": {"a": {"offset": 0, "size": 9000, "type": "", "tag": ""}}}"#,
                4096,
                "ends behind",
            ),
            (
                r#"{"format": 1, "files": {"a": {"offset": 18446744073709551615, "size": 2, "type": "", "tag": ""}}}"#,
                4096,
                "ends behind",
            ),
            (
                r#"{"format": 1, "files": {"a": {"offset": 0, "size": 1, "type": "", "tag": "", "gzip": [9, 9999]}}}"#,
                4096,
                "ends behind",
            ),
            ("[]", 4096, "invalid"),
        ] {
            let reason = Site::read(table.as_bytes(), size).map(|_| ()).unwrap_err();
            assert!(reason.contains(word), "{table}: {reason}");
        }
        let mut block = [0; 512];
        assert_eq!(table_size(&block), None);
        block[..TABLE.len()].copy_from_slice(TABLE);
        block[SIZE].copy_from_slice(b"00000000017");
        assert_eq!(table_size(&block), Some(15));
        block[SIZE].copy_from_slice(b"77777777777");
        assert_eq!(table_size(&block), None);
        block[124] = b'x';
        assert_eq!(table_size(&block), None);
    }
}
