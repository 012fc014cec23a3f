//! Frames on the control stream of a link, after Hello.

use crate::{Id, WireError, reader::Reader, writer::Writer};

/// What a record's signature covers before the record's own bytes.
pub const RECORD_DOMAIN: &[u8] = b"pollen-record/1\0";

/// A record as carried; the body is opaque to the muscles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedRecord<'a> {
    /// The key that must have signed.
    pub owner: Id,
    /// The exact bytes signed, after [`RECORD_DOMAIN`].
    pub body: &'a [u8],
    /// ed25519.
    pub signature: [u8; 64],
}

/// One control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control<'a> {
    /// The sender's brain admitted this link.
    Admitted,
    /// Brain to brain, opaque.
    Message(&'a [u8]),
    /// Records, to be verified before the brain sees them.
    Records(Vec<SignedRecord<'a>>),
    /// A kind of a later minor version: ignored.
    Unknown(u8),
}

/// Most records in one frame; a sender splits larger batches.
pub const MAX_RECORDS: u32 = 1024;

impl<'a> Control<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Admitted => {
                writer.array(1).uint(0u8);
            }
            Self::Message(body) => {
                writer.array(2).uint(1u8).bytes(body);
            }
            Self::Records(records) => {
                writer.array(2).uint(2u8).array(u32::try_from(records.len()).unwrap_or(u32::MAX));
                for record in records {
                    writer
                        .array(3)
                        .bytes(&record.owner)
                        .bytes(record.body)
                        .bytes(&record.signature);
                }
            }
            Self::Unknown(kind) => {
                writer.array(1).uint(*kind);
            }
        }
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let len = reader.array(1)?;
        let kind = reader.uint("kind")?;
        match (kind, len) {
            (0u8, _) => Ok(Self::Admitted),
            (1 | 2, 1) => Err(WireError::Shape("array too short")),
            (1, _) => Ok(Self::Message(reader.bytes("message")?)),
            (2, _) => decode_records(&mut reader),
            _ => Ok(Self::Unknown(kind)),
        }
    }
}

fn decode_records<'a>(reader: &mut Reader<'a>) -> Result<Control<'a>, WireError> {
    let count = reader.array(0)?;
    if count > MAX_RECORDS {
        return Err(WireError::Limit("records"));
    }
    let mut records = Vec::new();
    for _ in 0..count {
        if reader.array(3)? != 3 {
            return Err(WireError::Shape("record"));
        }
        records.push(SignedRecord {
            owner: reader.id("owner")?,
            body: reader.bytes("record body")?,
            signature: reader.array_of("signature")?,
        });
    }
    Ok(Control::Records(records))
}
