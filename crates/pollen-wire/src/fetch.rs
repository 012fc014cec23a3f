//! A request for content on `pollen-bulk/1` and the answer ahead of the bytes
//! (docs/design/protocol.md#content).

use crate::{Id, WireError, call::MAX_NAME, reader::Reader, writer::Writer};

/// Largest module, bytes: what is uploaded, fetched and checked. tests/contract/test_sizes.py holds it to
/// the same number of the brain.
pub const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// Names the spec it claims, so that the holder can check that spec's gate and manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchRequest<'a> {
    /// Hash of the spec.
    pub seed: Id,
    /// Where the spec's manifest lists the content, `module` for the module itself.
    pub path: &'a str,
    /// BLAKE3 of the plaintext.
    pub content: Id,
}

impl<'a> FetchRequest<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out).array(3).bytes(&self.seed).str(self.path).bytes(&self.content);
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(3)?;
        Ok(Self {
            seed: reader.id("seed")?,
            path: reader.str("path", MAX_NAME)?,
            content: reader.id("content")?,
        })
    }
}

/// Appends the holder's answer: an empty slug is followed by the content.
pub fn encode_answer(slug: &str, out: &mut Vec<u8>) {
    Writer::new(out).array(1).str(slug);
}

/// Reads the holder's answer: its slug.
pub fn decode_answer(body: &[u8]) -> Result<&str, WireError> {
    let mut reader = Reader::new(body);
    reader.array(1)?;
    reader.str("slug", MAX_NAME)
}
