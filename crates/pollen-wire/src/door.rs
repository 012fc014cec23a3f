//! `pollen-call/1`: many calls at once over one local socket, for SDK and CLI.

use crate::{
    Id, WireError,
    call::{MAX_NAME, MAX_TEXT},
    reader::Reader,
    writer::Writer,
};

/// What a client sends first; its first byte tells it from HTTP.
pub const PREFACE: [u8; 8] = *b"\0pln-c1\n";

const IDEMPOTENT: u8 = 1;
/// Fields of CALL without a request head and a credit, and with both.
const FIELDS: u32 = 9;
const HEADED: u32 = 11;

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Run a function.
    Call(DoorCall<'a>),
    /// Drop a call; nothing is answered if it was still running.
    Cancel {
        /// The call's id.
        id: u32,
    },
    /// Take so many bytes more of a call's chunks.
    Credit {
        /// The call's id.
        id: u32,
        /// How many, beside what it was given before.
        bytes: u32,
    },
    /// A kind of a later version: ignored.
    Unknown(u8),
}

/// The CALL frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorCall<'a> {
    /// The client's, free again after REPLY or ERROR.
    pub id: u32,
    /// A name or 64 hex digits.
    pub seed: &'a str,
    /// `None`: the only export.
    pub function: Option<&'a str>,
    /// Time the client gives; 0 is refused.
    pub budget_ms: u32,
    /// Retries elsewhere at the most.
    pub retries: u8,
    /// Running it twice does no harm.
    pub idempotent: bool,
    /// W3C trace context.
    pub traceparent: Option<&'a str>,
    /// The input.
    pub input: &'a [u8],
    /// Opaque bytes for the guest beside the input; empty: none.
    pub head: &'a [u8],
    /// Bytes of chunks that the client takes at first; 0: it takes the whole output in REPLY.
    pub credit: u32,
}

impl<'a> Ask<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        match self {
            Self::Call(call) => {
                let has_more = !call.head.is_empty() || call.credit > 0;
                writer.array(if has_more { HEADED } else { FIELDS });
                writer.uint(0u8).uint(call.id).str(call.seed);
                match call.function {
                    Some(function) => writer.str(function),
                    None => writer.nil(),
                };
                writer
                    .uint(call.budget_ms)
                    .uint(call.retries)
                    .uint(u8::from(call.idempotent) * IDEMPOTENT);
                match call.traceparent {
                    Some(traceparent) => writer.str(traceparent),
                    None => writer.nil(),
                };
                writer.bytes(call.input);
                if has_more {
                    writer.bytes(call.head).uint(call.credit);
                }
            }
            Self::Cancel { id } => {
                writer.array(2).uint(1u8).uint(*id);
            }
            Self::Credit { id, bytes } => {
                writer.array(3).uint(5u8).uint(*id).uint(*bytes);
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
        match (reader.uint::<u8>("kind")?, len) {
            (0, FIELDS..) => Ok(Self::Call(decode_call(&mut reader, len)?)),
            (1, 2..) => Ok(Self::Cancel { id: reader.uint("id")? }),
            (5, 3..) => Ok(Self::Credit { id: reader.uint("id")?, bytes: reader.uint("bytes")? }),
            (0 | 1 | 5, _) => Err(WireError::Shape("array too short")),
            (kind, _) => Ok(Self::Unknown(kind)),
        }
    }
}

fn decode_call<'a>(reader: &mut Reader<'a>, fields: u32) -> Result<DoorCall<'a>, WireError> {
    let id = reader.uint("id")?;
    let seed = reader.str("seed", MAX_NAME)?;
    let function = if reader.nil() { None } else { Some(reader.str("function", MAX_NAME)?) };
    let budget_ms = reader.uint("budget_ms")?;
    let retries = reader.uint("retries")?;
    let flags: u8 = reader.uint("flags")?;
    let traceparent = if reader.nil() { None } else { Some(reader.str("traceparent", MAX_NAME)?) };
    Ok(DoorCall {
        id,
        seed,
        function,
        budget_ms,
        retries,
        idempotent: flags & IDEMPOTENT != 0,
        traceparent,
        input: reader.bytes("input")?,
        head: if fields > FIELDS { reader.bytes("head")? } else { &[] },
        credit: if fields >= HEADED { reader.uint("credit")? } else { 0 },
    })
}

/// What the node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The call ended with an output.
    Reply(DoorReply<'a>),
    /// The call failed.
    Error(DoorError<'a>),
    /// No more calls on this connection.
    Goodbye {
        /// Why.
        reason: &'a str,
    },
    /// A piece of a call's output, ahead of its REPLY or ERROR.
    Chunk {
        /// The client's id of the call.
        id: u32,
        /// The bytes; empty when they are sent right behind the frame's head.
        bytes: &'a [u8],
    },
    /// A kind of a later version: ignored.
    Unknown(u8),
}

/// Appends all of a CHUNK but its bytes, of which `length` must follow.
pub fn encode_chunk_head(id: u32, length: u32, out: &mut Vec<u8>) {
    Writer::new(out).array(3).uint(6u8).uint(id).bytes_len(length);
}

/// The REPLY frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorReply<'a> {
    /// The client's id of the call.
    pub id: u32,
    /// The guest's return code when it is not 0.
    pub guest_status: Option<i32>,
    /// Where it ran.
    pub node: Id,
    /// How many tries it took.
    pub attempts: u8,
    /// Time spent waiting for a slot.
    pub queue_us: u32,
    /// Time the guest ran.
    pub run_us: u32,
    /// Time from the CALL frame to this one.
    pub total_us: u32,
    /// Round trip to the node that ran it, 0 for this one.
    pub rtt_us: u32,
    /// Time until the seed was loaded for this call, 0 when it was loaded before.
    pub wake_us: u32,
    /// The output; empty when it is sent right behind the frame's head.
    pub output: &'a [u8],
}

/// The ERROR frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorError<'a> {
    /// The client's id of the call.
    pub id: u32,
    /// One of the error table.
    pub slug: &'a str,
    /// What happened.
    pub reason: &'a str,
    /// What to do next.
    pub remedy: &'a str,
    /// Where it failed, when known.
    pub node: Option<Id>,
    /// How many tries were made.
    pub attempts: u8,
    /// Whether the guest may have run.
    pub may_have_executed: bool,
    /// With `overloaded`: when a retry may fare better.
    pub retry_after_ms: u32,
}

impl<'a> DoorReply<'a> {
    /// Appends all of the array but the output's bytes, of which `output_len` must follow.
    pub fn encode_head(&self, output_len: u32, out: &mut Vec<u8>) {
        let mut writer = Writer::new(out);
        writer.array(11).uint(2u8).uint(self.id);
        match self.guest_status {
            Some(status) => writer.int32(status),
            None => writer.nil(),
        };
        writer
            .bytes(&self.node)
            .uint(self.attempts)
            .uint(self.queue_us)
            .uint(self.run_us)
            .uint(self.total_us)
            .uint(self.rtt_us)
            .uint(self.wake_us)
            .bytes_len(output_len);
    }
}

impl<'a> Answer<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Reply(reply) => {
                reply.encode_head(u32::try_from(reply.output.len()).unwrap_or(u32::MAX), out);
                out.extend_from_slice(reply.output);
            }
            Self::Error(error) => {
                let mut writer = Writer::new(out);
                writer
                    .array(9)
                    .uint(3u8)
                    .uint(error.id)
                    .str(error.slug)
                    .str(error.reason)
                    .str(error.remedy);
                match &error.node {
                    Some(node) => writer.bytes(node),
                    None => writer.nil(),
                };
                writer
                    .uint(error.attempts)
                    .boolean(error.may_have_executed)
                    .uint(error.retry_after_ms);
            }
            Self::Goodbye { reason } => {
                Writer::new(out).array(2).uint(4u8).str(reason);
            }
            Self::Chunk { id, bytes } => {
                encode_chunk_head(*id, u32::try_from(bytes.len()).unwrap_or(u32::MAX), out);
                out.extend_from_slice(bytes);
            }
            Self::Unknown(kind) => {
                Writer::new(out).array(1).uint(*kind);
            }
        }
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let len = reader.array(1)?;
        match (reader.uint::<u8>("kind")?, len) {
            (2, 11..) => Ok(Self::Reply(DoorReply {
                id: reader.uint("id")?,
                guest_status: if reader.nil() { None } else { Some(reader.int32("guest_status")?) },
                node: reader.id("node")?,
                attempts: reader.uint("attempts")?,
                queue_us: reader.uint("queue_us")?,
                run_us: reader.uint("run_us")?,
                total_us: reader.uint("total_us")?,
                rtt_us: reader.uint("rtt_us")?,
                wake_us: reader.uint("wake_us")?,
                output: reader.bytes("output")?,
            })),
            (3, 9..) => Ok(Self::Error(DoorError {
                id: reader.uint("id")?,
                slug: reader.str("slug", MAX_NAME)?,
                reason: reader.str("reason", MAX_TEXT)?,
                remedy: reader.str("remedy", MAX_TEXT)?,
                node: if reader.nil() { None } else { Some(reader.id("node")?) },
                attempts: reader.uint("attempts")?,
                may_have_executed: reader.boolean("may_have_executed")?,
                retry_after_ms: reader.uint("retry_after_ms")?,
            })),
            (4, 2..) => Ok(Self::Goodbye { reason: reader.str("reason", MAX_TEXT)? }),
            (6, 3..) => Ok(Self::Chunk { id: reader.uint("id")?, bytes: reader.bytes("bytes")? }),
            (2..=4 | 6, _) => Err(WireError::Shape("array too short")),
            (kind, _) => Ok(Self::Unknown(kind)),
        }
    }
}
