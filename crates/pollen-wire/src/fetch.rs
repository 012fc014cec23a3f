//! A request for content on `pollen-bulk/1` and the answer ahead of the bytes
//! (docs/design/protocol.md#content).

use crate::{Id, WireError, call::MAX_NAME, reader::Reader, writer::Writer};

/// Largest module, bytes: what is uploaded, fetched and checked. tests/contract/test_sizes.py holds it to
/// the same number of the brain.
pub const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// Content is asked for in pieces of so many bytes. What fits into one is asked for whole.
///
/// Each piece is verified and recorded by itself, so a transfer that is killed loses one at most.
pub const PIECE: u64 = 8 * 1024 * 1024;

/// Fields of a request for all of it, and for a piece.
const FIELDS: u32 = 3;
const OF_PIECE: u32 = 4;

/// How many pieces content of this size has.
pub fn pieces(size: u64) -> u64 {
    size.div_ceil(PIECE)
}

/// Names the spec it claims, so that the holder can check that spec's gate and manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchRequest<'a> {
    /// Hash of the spec.
    pub seed: Id,
    /// Where the spec's manifest lists the content, `module` for the module itself.
    pub path: &'a str,
    /// BLAKE3 of the plaintext.
    pub content: Id,
    /// The number of one piece, from 0; all of it without one.
    pub piece: Option<u32>,
}

impl<'a> FetchRequest<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        let fields = if self.piece.is_some() { OF_PIECE } else { FIELDS };
        writer.array(fields).bytes(&self.seed).str(self.path).bytes(&self.content);
        if let Some(piece) = self.piece {
            writer.uint(piece);
        }
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let fields = reader.array(FIELDS)?;
        Ok(Self {
            seed: reader.id("seed")?,
            path: reader.str("path", MAX_NAME)?,
            content: reader.id("content")?,
            piece: if fields < OF_PIECE { None } else { Some(reader.uint("piece")?) },
        })
    }
}

/// The holder's answer: an empty slug is followed by what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchAnswer<'a> {
    /// Why nothing follows.
    pub slug: &'a str,
    /// Bytes of the whole content. A holder of before pieces says none, and sends all of it.
    pub size: Option<u64>,
}

impl<'a> FetchAnswer<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self.size {
            None => writer.array(1).str(self.slug),
            Some(size) => writer.array(2).str(self.slug).uint(size),
        };
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let fields = reader.array(1)?;
        let slug = reader.str("slug", MAX_NAME)?;
        let size = if fields < 2 { None } else { Some(reader.uint("size")?) };
        Ok(Self { slug, size })
    }
}
