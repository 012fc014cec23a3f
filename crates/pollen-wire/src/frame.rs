//! The length prefix: 4 bytes big-endian, not counting themselves.

use crate::WireError;

/// Bytes of the prefix.
pub const PREFIX: usize = 4;

/// Most bytes of a Hello or a join body with its frame.
pub const MAX_HELLO: usize = 72 * 1024;
/// Most bytes of a control frame.
pub const MAX_CONTROL: usize = 1024 * 1024 + 1024;
/// Most bytes of a request head. Guess: eight times what HTTP servers take of headers by default.
pub const MAX_HEAD: usize = 64 * 1024;
/// Most bytes of a chunk of a streamed reply: the window of a stream, so that one fits whole.
pub const MAX_CHUNK: usize = 256 * 1024;
/// Most bytes of the header of a reply or a content request, and of a call without its head.
pub const MAX_HEADER: usize = 16 * 1024;
/// Most bytes of the header of a call.
pub const MAX_CALL: usize = MAX_HEADER + MAX_HEAD;
/// Most bytes of a frame to a caller that takes chunks.
pub const MAX_ANSWER: usize = MAX_CHUNK + MAX_HEADER;
/// Most bytes of the input of a call, and of its output unless a seed says otherwise.
pub const MAX_INPUT: usize = 4 * 1024 * 1024;
/// Most bytes of a `pollen-call/1` frame: input or output, request head, and the rest.
pub const MAX_DOOR: usize = MAX_INPUT + 128 * 1024;

/// The length that a prefix announces, refused when over `most`.
pub fn length(prefix: [u8; PREFIX], most: usize) -> Result<usize, WireError> {
    let length =
        usize::try_from(u32::from_be_bytes(prefix)).map_err(|_| WireError::Limit("frame"))?;
    if length > most {
        return Err(WireError::Limit("frame"));
    }
    Ok(length)
}

/// Appends one frame: `body` writes into `out`, the prefix is filled in afterwards and counts
/// `follows` further bytes, which the caller sends right behind.
pub fn append(out: &mut Vec<u8>, follows: usize, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; PREFIX]);
    body(out);
    let length = u32::try_from(out.len() - at - PREFIX + follows).unwrap_or(u32::MAX);
    if let Some(prefix) = out.get_mut(at..at + PREFIX) {
        prefix.copy_from_slice(&length.to_be_bytes());
    }
}

/// Splits the first whole frame off `bytes`: its body and how many bytes it took; `None` when more must come.
pub fn split(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, WireError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = length(*prefix, most)?;
    Ok(rest.get(..length).map(|body| (body, PREFIX + length)))
}
