//! One range of bytes, as a request names it (RFC 9110, 14.1.2).

use std::ops::Range;

/// What a named range comes to in a whole of some size.
#[derive(Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// There is none that is understood, or there are several: all is sent (RFC 9110, 14.2).
    All,
    /// A part that is not empty.
    Some(Range<u64>),
    /// It lies behind the end.
    None,
}

impl ByteRange {
    /// Reads `bytes=FIRST-LAST`, `bytes=FIRST-` or `bytes=-COUNT`, the last ones.
    pub fn read(text: &str, size: u64) -> Self {
        // The name of a unit has no case (RFC 9110, 14.1).
        let range = text.split_once('=').filter(|(unit, _)| unit.eq_ignore_ascii_case("bytes"));
        let Some((first, last)) = range.and_then(|(_, range)| range.split_once('-')) else {
            return Self::All;
        };
        let number = |text: &str| {
            let is_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            is_digits.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let range = match (first, last) {
            ("", last) => match number(last) {
                Some(count) => size.saturating_sub(count)..size,
                None => return Self::All,
            },
            (first, "") => match number(first) {
                Some(first) => first..size,
                None => return Self::All,
            },
            (first, last) => match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => {
                    first..last.saturating_add(1).min(size)
                }
                _ => return Self::All,
            },
        };
        if range.is_empty() { Self::None } else { Self::Some(range) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_understood() {
        for (text, expected) in [
            ("bytes=0-0", ByteRange::Some(0..1)),
            ("Bytes=0-0", ByteRange::Some(0..1)),
            ("bytes=3-", ByteRange::Some(3..10)),
            ("bytes=3-99", ByteRange::Some(3..10)),
            ("bytes=-4", ByteRange::Some(6..10)),
            ("bytes=-99", ByteRange::Some(0..10)),
            ("bytes=10-", ByteRange::None),
            ("bytes=-0", ByteRange::None),
            ("bytes=99999999999999999999-", ByteRange::None),
            ("bytes=4-3", ByteRange::All),
            ("bytes=0-1,3-4", ByteRange::All),
            ("bytes=-", ByteRange::All),
            ("bytes=+1-2", ByteRange::All),
            ("lines=1-2", ByteRange::All),
        ] {
            assert_eq!(ByteRange::read(text, 10), expected, "{text}");
        }
        assert_eq!(ByteRange::read("bytes=0-", 0), ByteRange::None);
    }
}
