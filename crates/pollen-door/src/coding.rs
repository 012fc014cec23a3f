//! Which packed form of a file a client gets.
//!
//! Decides: the coding that is best for a client among those that a file has.
//! Does not know: HTTP messages, where a packed form is (`pollen-wire`).
//! Invariants: a coding that the client does not name is never chosen; the file as it is always can be.
//! Source: RFC 9110 (12.4.2, 12.5.3).

use pollen_wire::site::Coding;

/// The weight of a coding that is named without one, in thousandths.
const FULL: u16 = 1000;

/// The coding that a client wants most of those that a file has, the best first; `None`: as it is.
///
/// `*` means the file as it is: who sends it takes that as well, and some who send it unpack nothing.
pub(crate) fn choose<'a>(
    lists: impl Iterator<Item = &'a str>,
    has: impl Fn(Coding) -> bool,
) -> Option<Coding> {
    let mut as_it_is = None;
    let mut weights = [None; Coding::ALL.len()];
    for coding in lists.flat_map(|list| list.split(',')) {
        let (name, rest) = coding.split_once(';').unwrap_or((coding, ""));
        let is = |held: &str| name.trim().eq_ignore_ascii_case(held);
        let place = if is("identity") {
            Some(&mut as_it_is)
        } else {
            Coding::ALL.iter().zip(&mut weights).find(|(held, _)| is(held.name())).map(|(_, it)| it)
        };
        // The first that names it counts.
        place.map(|place| place.get_or_insert_with(|| weight_of(rest)));
    }
    let as_it_is = as_it_is.unwrap_or(0);
    let mut best = None;
    let mut most = 0;
    for (coding, weight) in Coding::ALL.into_iter().zip(weights) {
        let weight = weight.unwrap_or(0);
        if has(coding) && weight > most {
            (best, most) = (Some(coding), weight);
        }
    }
    best.filter(|_| most >= as_it_is)
}

/// The weight among the parameters of a coding, in thousandths; one of no sense refuses the coding.
fn weight_of(parameters: &str) -> u16 {
    let weight = parameters.split(';').find_map(|part| {
        let (name, weight) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("q").then(|| thousandths(weight.trim()))
    });
    weight.unwrap_or(Some(FULL)).unwrap_or(0)
}

/// `0`, `1`, or either with up to three digits behind a dot, and not over 1.
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_good = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    let whole = match whole {
        "0" => 0,
        "1" => FULL,
        _ => return None,
    };
    let part: u16 = if part.is_empty() { 0 } else { format!("{part:0<3}").parse().ok()? };
    Some(whole + part).filter(|weight| is_good && *weight <= FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coding_with_the_highest_weight_is_chosen() {
        for (text, both, gzip_alone) in [
            ("gzip, deflate, br, zstd", "br", "gzip"),
            ("gzip", "gzip", "gzip"),
            ("br", "br", ""),
            ("br;q=0.5, GZIP;q=0.8", "gzip", "gzip"),
            ("br;q=1.0,GZip ; q=0.5", "br", "gzip"),
            ("gzip;q=0.001", "gzip", "gzip"),
            ("gzip;q=0", "", ""),
            ("gzip; q=0.000, br", "br", ""),
            ("gzip;Q=0", "", ""),
            ("gzip;Q=1", "gzip", "gzip"),
            ("gzip;q=0, *", "", ""),
            ("*", "", ""),
            ("*;q=0", "", ""),
            ("identity, gzip;q=0.5, br;q=0.4", "", ""),
            ("identity;q=0.5, gzip;q=0.5", "gzip", "gzip"),
            ("identity;q=0", "", ""),
            ("gzip;q=x", "", ""),
            ("gzip;q=1.001", "", ""),
            ("gzip;q=0.0001", "", ""),
            ("gzip;q=inf", "", ""),
            ("gzip;q=", "", ""),
            ("gzip;level=1;q=0", "", ""),
            ("br;q=0, br", "", ""),
            (";q=1,,", "", ""),
            ("xgzip, brr", "", ""),
            ("", "", ""),
        ] {
            let chosen = |has: fn(Coding) -> bool| {
                choose([text].into_iter(), has).map_or("", |coding| coding.name())
            };
            assert_eq!(chosen(|_| true), both, "{text}");
            assert_eq!(chosen(|coding| coding == Coding::Gzip), gzip_alone, "{text}");
            assert_eq!(chosen(|_| false), "", "{text}");
        }
        let lines = ["identity;q=0.1", "br;q=0.1, gzip"];
        assert_eq!(choose(lines.into_iter(), |_| true), Some(Coding::Gzip));
    }
}
