//! Hello: the first frame each side of a `pollen/1` link sends, judged by the brains
//! (docs/design/protocol.md#calls).

use crate::{Id, WireError, reader::Reader, writer::Writer};

/// What a peer says of itself. Its key is proved by the handshake and not repeated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The cluster it belongs to; first, so that every later version can read it.
    pub cluster: Id,
    /// Lowest minor version it speaks.
    pub minor_min: u16,
    /// Highest minor version it speaks.
    pub minor_max: u16,
    /// Drawn at process start: two live processes with one key differ in it.
    pub boot: [u8; 16],
    /// Certificates, opaque to the muscles; at most 64 KiB.
    pub chain: &'a [u8],
}

/// Most bytes of a chain.
pub const MAX_CHAIN: usize = 64 * 1024;

impl<'a> Hello<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        Writer::new(out)
            .array(5)
            .bytes(&self.cluster)
            .uint(self.minor_min)
            .uint(self.minor_max)
            .bytes(&self.boot)
            .bytes(self.chain);
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(5)?;
        let hello = Self {
            cluster: reader.id("cluster")?,
            minor_min: reader.uint("minor_min")?,
            minor_max: reader.uint("minor_max")?,
            boot: reader.array_of("boot")?,
            chain: reader.bytes("chain")?,
        };
        if hello.chain.len() > MAX_CHAIN {
            return Err(WireError::Limit("chain"));
        }
        Ok(hello)
    }
}
