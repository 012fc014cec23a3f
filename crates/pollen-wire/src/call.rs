//! A call between nodes: one bidirectional stream, `len | CallHeader | input` and
//! `len | ReplyHeader | output` (docs/design/protocol.md#calls). A caller that says so is sent any
//! number of `len | chunk` before the ReplyHeader (docs/design/protocol.md#streamed-replies).

use crate::{
    Id, WireError,
    frame::{MAX_CHUNK, MAX_HEAD},
    reader::Reader,
    writer::Writer,
};

/// Most bytes of a function name, a traceparent or a slug.
pub const MAX_NAME: usize = 255;
/// Most bytes of a reason or a remedy.
pub const MAX_TEXT: usize = 4096;

/// A reason or a remedy within its limit, cut at a character.
pub fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(MAX_TEXT)).unwrap_or_default()
}

const IDEMPOTENT: u8 = 1;
const WAKE: u8 = 2;
const STREAM: u8 = 4;
/// Fields of a CallHeader without a request head, and with one.
const FIELDS: u32 = 13;
const HEADED: u32 = 14;

/// What the caller sends ahead of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallHeader<'a> {
    /// Names this call everywhere; a callee never runs one id twice within its window.
    pub call: [u8; 16],
    /// Hash of the spec to run.
    pub seed: Id,
    /// The export to call.
    pub function: &'a str,
    /// Remaining budget, re-anchored to the callee's monotonic clock at receipt.
    pub budget_us: u64,
    /// Nested calls that may still follow one another.
    pub hops: u8,
    /// Calls that this one and all below it may still make.
    pub calls_left: u32,
    /// Retries that this one and all below it may still make.
    pub retries: u8,
    /// Running it twice does no harm, by the spec or the caller's word.
    pub idempotent: bool,
    /// The callee is asked to load the seed first.
    pub wake: bool,
    /// 0 for the first try.
    pub attempt: u8,
    /// "I am seed S": counted only if the callee's tables allow the peer that.
    pub acting_seed: Option<Id>,
    /// Where the tree of calls began; information only.
    pub origin: Id,
    /// W3C trace context, or empty.
    pub traceparent: &'a str,
    /// Bytes of input that follow; fewer means it is not executed.
    pub input_len: u32,
    /// The caller takes chunks ahead of the reply.
    pub stream: bool,
    /// Opaque bytes for the guest beside the input, at most [`MAX_HEAD`]; empty: none.
    pub head: &'a [u8],
}

impl<'a> CallHeader<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = (u8::from(self.idempotent) * IDEMPOTENT)
            | (u8::from(self.wake) * WAKE)
            | (u8::from(self.stream) * STREAM);
        let acting: &[u8] = self.acting_seed.as_ref().map_or(&[], |id| id);
        let mut writer = Writer::new(out);
        writer
            .array(if self.head.is_empty() { FIELDS } else { HEADED })
            .bytes(&self.call)
            .bytes(&self.seed)
            .str(self.function)
            .uint(self.budget_us)
            .uint(self.hops)
            .uint(self.calls_left)
            .uint(self.retries)
            .uint(flags)
            .uint(self.attempt)
            .bytes(acting)
            .bytes(&self.origin)
            .str(self.traceparent)
            .uint(self.input_len);
        if !self.head.is_empty() {
            writer.bytes(self.head);
        }
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let fields = reader.array(FIELDS)?;
        let call = reader.array_of("call")?;
        let seed = reader.id("seed")?;
        let function = reader.str("function", MAX_NAME)?;
        let budget_us = reader.uint("budget_us")?;
        let hops = reader.uint("hops")?;
        let calls_left = reader.uint("calls_left")?;
        let retries = reader.uint("retries")?;
        let flags: u8 = reader.uint("flags")?;
        Ok(Self {
            call,
            seed,
            function,
            budget_us,
            hops,
            calls_left,
            retries,
            idempotent: flags & IDEMPOTENT != 0,
            wake: flags & WAKE != 0,
            attempt: reader.uint("attempt")?,
            acting_seed: reader.optional_id("acting_seed")?,
            origin: reader.id("origin")?,
            traceparent: reader.str("traceparent", MAX_NAME)?,
            input_len: reader.uint("input_len")?,
            stream: flags & STREAM != 0,
            head: if fields >= HEADED { reader.bytes_of("head", MAX_HEAD)? } else { &[] },
        })
    }
}

/// A frame that comes to a caller that takes chunks; the first byte tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered<'a> {
    /// 1 to [`MAX_CHUNK`] bytes of the output; more frames follow.
    Chunk(&'a [u8]),
    /// The reply, with the last of the output behind it.
    Reply(ReplyHeader<'a>),
}

impl<'a> Answered<'a> {
    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        // 0xc4 to 0xc6: msgpack's three encodings of bytes.
        if !matches!(body.first(), Some(0xc4..=0xc6)) {
            return ReplyHeader::decode(body).map(Self::Reply);
        }
        match Reader::new(body).bytes_of("chunk", MAX_CHUNK)? {
            [] => Err(WireError::Limit("chunk")),
            chunk => Ok(Self::Chunk(chunk)),
        }
    }
}

/// Appends the head of a chunk's frame body, of which `length` bytes must follow.
pub fn encode_chunk_head(length: u32, out: &mut Vec<u8>) {
    Writer::new(out).bytes_len(length);
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The output is the result.
    Ok,
    /// The output is the result and the guest returned a code other than 0.
    GuestStatus,
    /// The output is a tail-call marker, to be followed by the caller's node.
    TailCall,
    /// There is no output; slug, reason and remedy say why.
    Failed,
}

/// What the callee sends ahead of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHeader<'a> {
    /// How it ended.
    pub status: Status,
    /// The guest's return code, 0 unless `GuestStatus`.
    pub guest_status: i32,
    /// Time spent waiting for a slot.
    pub queue_us: u32,
    /// Time the guest ran.
    pub run_us: u32,
    /// How full the callee is, 0 (idle) to 255 (queueing at its limit).
    pub load: u8,
    /// Calls that this one and those below it made.
    pub calls_used: u32,
    /// One of the error table, empty unless `Failed`.
    pub slug: &'a str,
    /// What happened, first line first.
    pub reason: &'a str,
    /// What to do next.
    pub remedy: &'a str,
    /// With `overloaded`: when a retry may fare better.
    pub retry_after_ms: u32,
    /// Whether the guest may have run.
    pub may_have_executed: bool,
    /// Bytes of output that follow.
    pub output_len: u32,
    /// Time until the seed was loaded for this call, 0 when it was loaded before.
    pub wake_us: u32,
}

impl<'a> ReplyHeader<'a> {
    /// Appends the array, without a length prefix.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let status: u8 = match self.status {
            Status::Ok => 0,
            Status::GuestStatus => 1,
            Status::TailCall => 2,
            Status::Failed => 3,
        };
        Writer::new(out)
            .array(13)
            .uint(status)
            .int32(self.guest_status)
            .uint(self.queue_us)
            .uint(self.run_us)
            .uint(self.load)
            .uint(self.calls_used)
            .str(self.slug)
            .str(self.reason)
            .str(self.remedy)
            .uint(self.retry_after_ms)
            .boolean(self.may_have_executed)
            .uint(self.output_len)
            .uint(self.wake_us);
    }

    /// Reads the body of a frame.
    pub fn decode(body: &'a [u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        reader.array(13)?;
        let status = match reader.uint::<u8>("status")? {
            0 => Status::Ok,
            1 => Status::GuestStatus,
            2 => Status::TailCall,
            3 => Status::Failed,
            _ => return Err(WireError::Limit("status")),
        };
        Ok(Self {
            status,
            guest_status: reader.int32("guest_status")?,
            queue_us: reader.uint("queue_us")?,
            run_us: reader.uint("run_us")?,
            load: reader.uint("load")?,
            calls_used: reader.uint("calls_used")?,
            slug: reader.str("slug", MAX_NAME)?,
            reason: reader.str("reason", MAX_TEXT)?,
            remedy: reader.str("remedy", MAX_TEXT)?,
            retry_after_ms: reader.uint("retry_after_ms")?,
            may_have_executed: reader.boolean("may_have_executed")?,
            output_len: reader.uint("output_len")?,
            wake_us: reader.uint("wake_us")?,
        })
    }
}
