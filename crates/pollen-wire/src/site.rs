//! The table of a site: which file is where in its archive.
//!
//! JSON, which a person can read, in the first member of a tar file. Offsets count from the end of the
//! table.
//! Source: docs/internals/content.md#sites; POSIX.1-1988 ustar.

use std::{collections::HashMap, ops::Range};

use serde::Deserialize;

/// Bytes of a block of the archive: of a header, and what a body is filled up to.
pub const BLOCK: u64 = 512;
/// Largest table that is read, bytes.
pub const TABLE_MAX: u64 = 16 << 20;
/// The archive's first member.
const TABLE: &[u8] = b".pollen/site.json\0";
/// Where the size of a member stands in its header, in octal.
const SIZE: Range<usize> = 124..135;

/// How a file is packed beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 7932.
    Brotli,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All of them, the one that packs best first.
    pub const ALL: [Self; 2] = [Self::Brotli, Self::Gzip];

    /// Its name in HTTP.
    pub fn name(self) -> &'static str {
        match self {
            Self::Brotli => "br",
            Self::Gzip => "gzip",
        }
    }
}

/// What the archive's first member says.
#[derive(Debug, Deserialize)]
struct Written {
    format: u32,
    #[serde(default)]
    spa: bool,
    #[serde(default)]
    headers: Vec<(String, String)>,
    files: HashMap<String, File>,
}

/// One file of a site.
#[derive(Debug, Deserialize)]
pub struct File {
    offset: u64,
    size: u64,
    /// Its media type.
    #[serde(rename = "type")]
    pub media: String,
    /// Names its bytes.
    pub tag: String,
    /// The same, packed by gzip and by brotli: offset and size.
    #[serde(default)]
    gzip: Option<(u64, u64)>,
    #[serde(default)]
    br: Option<(u64, u64)>,
}

impl File {
    /// Whether it stands in the archive in this form as well.
    pub fn has(&self, coding: Coding) -> bool {
        self.packed(coding).is_some()
    }

    fn packed(&self, coding: Coding) -> Option<(u64, u64)> {
        match coding {
            Coding::Brotli => self.br,
            Coding::Gzip => self.gzip,
        }
    }
}

/// The files of a site by their paths. Each lies within the archive.
#[derive(Debug)]
pub struct Table {
    /// Whether its first page answers for the routes of its script.
    pub is_spa: bool,
    /// What is said with every file: names in lower case, and values of visible characters.
    pub headers: Vec<(String, String)>,
    /// Where the table ends in the archive.
    base: u64,
    files: HashMap<String, File>,
}

/// Bytes of the table, from the archive's first block; `None` for what is no site.
pub fn table_size(block: &[u8]) -> Option<u64> {
    if !block.starts_with(TABLE) {
        return None;
    }
    let digits = std::str::from_utf8(block.get(SIZE)?).ok()?;
    u64::from_str_radix(digits, 8).ok().filter(|size| *size <= TABLE_MAX)
}

impl Table {
    /// Reads the table of an archive of `size` bytes. The reason why it is none, in words.
    pub fn read(table: &[u8], size: u64) -> Result<Self, String> {
        let written: Written = serde_json::from_slice(table).map_err(|error| error.to_string())?;
        if written.format != 1 {
            return Err(format!("its format is {}, and this node knows 1", written.format));
        }
        check_headers(&written.headers)?;
        let base = BLOCK + (table.len() as u64).next_multiple_of(BLOCK);
        let room = size.checked_sub(base).ok_or("it ends within its table")?;
        for (path, file) in &written.files {
            let is_inside = |(offset, size): (u64, u64)| {
                offset.checked_add(size).is_some_and(|end| end <= room)
            };
            let whole = Some((file.offset, file.size));
            if ![whole, file.gzip, file.br].into_iter().flatten().all(is_inside) {
                return Err(format!("{path:?} ends behind the end of the archive"));
            }
        }
        let Written { spa, headers, files, .. } = written;
        Ok(Self { is_spa: spa, headers, base, files })
    }

    /// The file at a path, which is never taken apart.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.get(path)
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.files.values()
    }

    /// Where a file's bytes are in the archive.
    pub fn span(&self, file: &File) -> Range<u64> {
        self.at((file.offset, file.size))
    }

    /// Where its packed form is, if it has this one.
    pub fn packed_span(&self, file: &File, coding: Coding) -> Option<Range<u64>> {
        file.packed(coding).map(|place| self.at(place))
    }

    fn at(&self, (offset, size): (u64, u64)) -> Range<u64> {
        let start = self.base + offset;
        start..start + size
    }
}

/// Headers that say how an answer is framed, what it is of, or what only the node may say.
const NOT_FOR_SITES: &str = "accept-ranges connection content-encoding content-length content-range date \
    etag keep-alive location proxy-authenticate proxy-authorization set-cookie te trailer \
    transfer-encoding upgrade vary";
/// Most headers of a site, and bytes of all of them.
const HEADERS_MAX: usize = 32;
const HEADER_BYTES_MAX: usize = HEADERS_MAX * 4096;

fn check_headers(headers: &[(String, String)]) -> Result<(), String> {
    let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if headers.len() > HEADERS_MAX || size > HEADER_BYTES_MAX {
        return Err("it has too many headers".to_owned());
    }
    for (name, value) in headers {
        let is_token =
            |byte: u8| byte.is_ascii_lowercase() || b"!#$%&'*+.^_`|~0123456789-".contains(&byte);
        let is_name = !name.is_empty() && name.bytes().all(is_token);
        let is_text = value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if !is_name || !is_text || NOT_FOR_SITES.split(' ').any(|held| held == name) {
            return Err(format!("a header {name:?} is not for a site to say"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_header_is_for_a_site_to_say_or_not() {
        let text = include_str!("../../../tests/vectors/site_headers.json");
        let doc: serde_json::Value = serde_json::from_str(text).unwrap();
        let listed = doc["not_for_sites"].as_array().unwrap().iter().map(|it| it.as_str().unwrap());
        assert_eq!(listed.collect::<Vec<_>>(), NOT_FOR_SITES.split(' ').collect::<Vec<_>>());
        assert_eq!(doc["headers_max"], HEADERS_MAX);
        for case in doc["cases"].as_array().unwrap() {
            let table = serde_json::json!({"format": 1, "headers": [case["header"]], "files": {}});
            let read = Table::read(table.to_string().as_bytes(), 4096);
            assert_eq!(read.is_ok(), case["is_taken"].as_bool().unwrap(), "{case}");
        }
        for (count, is_taken) in [(HEADERS_MAX, true), (HEADERS_MAX + 1, false)] {
            let headers: Vec<_> = (0..count).map(|n| (format!("x-{n}"), "y")).collect();
            let table = serde_json::json!({"format": 1, "headers": headers, "files": {}});
            assert_eq!(Table::read(table.to_string().as_bytes(), 8192).is_ok(), is_taken);
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
            (
                r#"{"format": 1, "files": {"a": {"offset": 0, "size": 1, "type": "", "tag": "", "br": [9, 9999]}}}"#,
                4096,
                "ends behind",
            ),
            (r#"{"format": 1, "headers": [["A", "x"]], "files": {}}"#, 4096, "not for a site"),
            ("[]", 4096, "invalid"),
        ] {
            let reason = Table::read(table.as_bytes(), size).map(|_| ()).unwrap_err();
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
