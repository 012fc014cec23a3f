//! The heads of a request and an answer of HTTP that go through a call to a component
//! (docs/design/protocol.md#http-through-a-call).

use crate::{WireError, frame::MAX_HEAD, reader::Reader, writer::Writer};

/// The function by which a component that answers HTTP is called.
pub const HANDLE: &str = "wasi:http/incoming-handler";

/// Lines of a head; each has a name and a value.
pub const MAX_FIELDS: u32 = 256;
/// Bytes of a method and of a scheme.
const MAX_WORD: usize = 64;
/// Bytes before the head of an answer: its length, big-endian.
pub const PREFIX: usize = 4;

/// The request head of a call that is a request of HTTP; its body is the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestHead<'a> {
    /// As it was sent.
    pub method: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The host, with the port if one was named.
    pub authority: &'a str,
    /// The path as the component sees it, and the query behind a question mark.
    pub path: &'a str,
    /// Names in lower case, and values, in their order.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

/// What stands before the body in the output of such a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerHead<'a> {
    /// 200 to 999.
    pub status: u16,
    /// Names in lower case, and values, in their order.
    pub fields: Vec<(&'a str, &'a [u8])>,
}

impl<'a> RequestHead<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(5).str(self.method).str(self.scheme).str(self.authority).str(self.path);
        write_fields(&mut writer, &self.fields);
    }

    /// Reads the request head of a call.
    ///
    /// # Errors
    /// What is not such a head, or has more lines than one may.
    pub fn decode(head: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(head);
        reader.array(5)?;
        Ok(Self {
            method: reader.str("method", MAX_WORD)?,
            scheme: reader.str("scheme", MAX_WORD)?,
            authority: reader.str("authority", MAX_HEAD)?,
            path: reader.str("path", MAX_HEAD)?,
            fields: read_fields(&mut reader)?,
        })
    }
}

impl<'a> AnswerHead<'a> {
    /// Appends the length and the array.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&[0; PREFIX]);
        let mut writer = Writer::new(out);
        writer.array(2).uint(self.status);
        write_fields(&mut writer, &self.fields);
        let length = u32::try_from(out.len() - at - PREFIX).unwrap_or(u32::MAX);
        if let Some(prefix) = out.get_mut(at..at + PREFIX) {
            prefix.copy_from_slice(&length.to_be_bytes());
        }
    }

    /// Reads the head at the begin of an output: it, and how many bytes it takes. `None` while more
    /// has to come.
    ///
    /// # Errors
    /// What is not such a head, is over 64 KiB, or has more lines than one may.
    pub fn split(output: &'a [u8]) -> Result<Option<(Self, usize)>, WireError> {
        let Some((prefix, rest)) = output.split_first_chunk::<PREFIX>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > MAX_HEAD {
            return Err(WireError::Limit("head"));
        }
        let Some(head) = rest.get(..length) else { return Ok(None) };
        let mut reader = Reader::new(head);
        reader.array(2)?;
        let status = reader.uint("status")?;
        if !(200..=999).contains(&status) {
            return Err(WireError::Limit("status"));
        }
        let fields = read_fields(&mut reader)?;
        Ok(Some((Self { status, fields }, PREFIX + length)))
    }
}

fn write_fields(writer: &mut Writer<'_>, fields: &[(&str, &[u8])]) {
    writer.array(u32::try_from(fields.len().saturating_mul(2)).unwrap_or(u32::MAX));
    for (name, value) in fields {
        writer.str(name).bytes(value);
    }
}

/// Names and values follow each other in one array.
fn read_fields<'a>(reader: &mut Reader<'a>) -> Result<Vec<(&'a str, &'a [u8])>, WireError> {
    let count = reader.array(0)?;
    if count > 2 * MAX_FIELDS {
        return Err(WireError::Limit("fields"));
    }
    if count % 2 != 0 {
        return Err(WireError::Shape("fields"));
    }
    let mut fields = Vec::new();
    for _ in 0..count / 2 {
        fields.push((reader.str("name", MAX_HEAD)?, reader.bytes_of("value", MAX_HEAD)?));
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request() -> RequestHead<'static> {
        RequestHead {
            method: "GET",
            scheme: "http",
            authority: "a",
            path: "/p?q",
            fields: vec![("x", b"\xff"), ("x", b"")],
        }
    }

    #[test]
    fn a_request_head_has_these_bytes() {
        let mut out = Vec::new();
        request().encode(&mut out);
        let wanted = b"\x95\xa3GET\xa4http\xa1a\xa4/p?q\x94\xa1x\xc4\x01\xff\xa1x\xc4\x00";
        assert_eq!(out, wanted);
        assert_eq!(RequestHead::decode(&out).unwrap(), request());
        for end in 0..out.len() {
            assert!(RequestHead::decode(&out[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn an_answer_head_is_read_from_a_stream() {
        let head = AnswerHead { status: 404, fields: vec![("a", b"b")] };
        let mut out = Vec::new();
        head.encode(&mut out);
        assert_eq!(out, b"\0\0\0\x0a\x92\xcd\x01\x94\x92\xa1a\xc4\x01b");
        for end in 0..out.len() {
            assert_eq!(AnswerHead::split(&out[..end]), Ok(None), "{end}");
        }
        let length = out.len();
        out.extend_from_slice(b"body");
        assert_eq!(AnswerHead::split(&out), Ok(Some((head, length))));
    }

    #[test]
    fn what_is_no_answer_head_is_refused() {
        for (bytes, wanted) in [
            (&b"text that a function gave"[..], WireError::Limit("head")),
            (b"\0\x01\0\x01", WireError::Limit("head")),
            (b"\0\0\0\x01\x92", WireError::Shape("status")),
            (b"\0\0\0\x03\x92\x63\x90", WireError::Limit("status")),
            (b"\0\0\0\x05\x92\xcd\x01\x94\x91", WireError::Shape("fields")),
            (b"\0\0\0\x07\x92\xcd\x01\x94\xdc\x02\x02", WireError::Limit("fields")),
        ] {
            assert_eq!(AnswerHead::split(bytes), Err(wanted), "{bytes:?}");
        }
    }
}
