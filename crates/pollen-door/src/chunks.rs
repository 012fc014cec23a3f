//! Where a chunked body ends.
//!
//! Decides: at which byte the next request begins.
//! Does not know: what is in the body; hyper decodes it.
//! Invariants: takes a part of what hyper takes, so that no byte of a body is ever read as a head.
//! Source: RFC 9112, 7.1.

/// The place within a chunked body.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Chunks {
    place: Place,
    /// Bytes of the present chunk that are to come.
    left: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Before the first digit of a size.
    #[default]
    First,
    Size,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    /// At the beginning of a line behind the last chunk.
    Line,
    Trailer,
    TrailerEnd,
    LastEnd,
}

/// What some bytes of a body were.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// All are of the body, which goes on.
    More,
    /// The body ends after so many.
    Ends(usize),
    /// No body any more after so many.
    Broken(usize),
}

impl Chunks {
    /// Goes on through `bytes`.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Step {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if self.place == Place::Data {
                let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(self.left);
                self.left -= here;
                at += usize::try_from(here).unwrap_or(usize::MAX);
                if self.left == 0 {
                    self.place = Place::DataCr;
                }
                continue;
            }
            at += 1;
            match self.next(*byte) {
                Some(_) if self.place == Place::LastEnd && *byte == b'\n' => return Step::Ends(at),
                Some(place) => self.place = place,
                None => return Step::Broken(at),
            }
        }
        Step::More
    }

    fn next(&mut self, byte: u8) -> Option<Place> {
        match (self.place, byte) {
            (Place::First | Place::Size, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                self.left = self.left.checked_mul(16)?.checked_add(u64::from(digit))?;
                Some(Place::Size)
            }
            (Place::Size, b';' | b' ' | b'\t') => Some(Place::Extension),
            (Place::Extension, b'\n') => None,
            (Place::Size | Place::Extension, b'\r') => Some(Place::SizeEnd),
            (Place::Extension, _) => Some(Place::Extension),
            (Place::SizeEnd, b'\n') if self.left == 0 => Some(Place::Line),
            (Place::SizeEnd, b'\n') => Some(Place::Data),
            (Place::DataCr, b'\r') => Some(Place::DataLf),
            (Place::DataLf, b'\n') => Some(Place::First),
            (Place::Line, b'\r') => Some(Place::LastEnd),
            (Place::Line | Place::Trailer, b'\n') => None,
            (Place::Trailer, b'\r') => Some(Place::TrailerEnd),
            (Place::Line | Place::Trailer, _) => Some(Place::Trailer),
            (Place::TrailerEnd, b'\n') => Some(Place::Line),
            (Place::LastEnd, b'\n') => Some(Place::LastEnd),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(bytes: &[u8]) -> Step {
        Chunks::default().advance(bytes)
    }

    #[test]
    fn a_body_ends_with_its_last_line_however_it_is_cut() {
        let body = b"5;x=y\r\nhello\r\nA \r\n0123456789\r\n0\r\nt: v\r\n\r\n";
        let whole = [body.as_slice(), b"GET"].concat();
        assert_eq!(step(&whole), Step::Ends(body.len()));
        let mut chunks = Chunks::default();
        let steps: Vec<_> = body.iter().map(|byte| chunks.advance(&[*byte])).collect();
        assert!(steps.iter().rev().skip(1).all(|step| *step == Step::More));
        assert_eq!(steps.last(), Some(&Step::Ends(1)));
    }

    #[test]
    fn what_is_no_chunk_is_broken() {
        assert_eq!(step(b"g\r\n"), Step::Broken(1));
        assert_eq!(step(b"\r\n"), Step::Broken(1));
        assert_eq!(step(b"5\nhello"), Step::Broken(2));
        assert_eq!(step(b"1\r\nab"), Step::Broken(5));
        assert_eq!(step(b"11111111111111111\r\n"), Step::Broken(17));
        assert_eq!(step(b"0\r\n\n"), Step::Broken(4));
    }
}
