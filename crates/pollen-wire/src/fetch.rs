//! A request for content on `pollen-bulk/1` and the answer ahead of the bytes
//! (docs/design/protocol.md#content).

use crate::{Id, WireError, call::MAX_NAME, reader::Reader, writer::Writer};

/// Largest module, bytes: what is uploaded, fetched and checked. tests/contract/test_sizes.py holds it to
/// the same number of the brain.
pub const MAX_MODULE: u64 = 64 * 1024 * 1024;

/// Content is asked for in pieces of so many bytes. What fits into one is asked for whole.
///
/// Each piece is asked for by itself, and what came of one before a kill is not sent again.
pub const PIECE: u64 = 8 * 1024 * 1024;

/// What is verified and kept at once, bytes: 16 chunks of BLAKE3. A reader counts in these what it has
/// of a piece.
pub const GROUP: u64 = 16 * 1024;

/// Fields of a request for all of it, for a piece, and for the rest of a piece.
const FIELDS: u32 = 3;
const OF_PIECE: u32 = 4;
const OF_REST: u32 = 5;

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
    /// The groups that the reader has from the piece's begin and that need not be sent; 0 without a piece.
    pub skip: u32,
}

impl<'a> FetchRequest<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        let fields = match self.piece {
            None => FIELDS,
            Some(_) if self.skip == 0 => OF_PIECE,
            Some(_) => OF_REST,
        };
        writer.array(fields).bytes(&self.seed).str(self.path).bytes(&self.content);
        if let Some(piece) = self.piece {
            writer.uint(piece);
            if self.skip > 0 {
                writer.uint(self.skip);
            }
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
            skip: if fields < OF_REST { 0 } else { reader.uint("skip")? },
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
    /// The groups that are not sent at the begin of the piece. A holder that knows no rests of pieces
    /// says none, and sends all of it.
    pub skip: u32,
}

impl<'a> FetchAnswer<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self.size {
            None => writer.array(1).str(self.slug),
            Some(size) if self.skip == 0 => writer.array(2).str(self.slug).uint(size),
            Some(size) => writer.array(3).str(self.slug).uint(size).uint(self.skip),
        };
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let fields = reader.array(1)?;
        let slug = reader.str("slug", MAX_NAME)?;
        let size = if fields < 2 { None } else { Some(reader.uint("size")?) };
        let skip = if fields < 3 { 0 } else { reader.uint("skip")? };
        Ok(Self { slug, size, skip })
    }
}
