//! Every byte format that crosses a link or a door, and nothing else: no sockets, no engine.
//!
//! - [`frame`]: the length prefix and its cap.
//! - [`hello`]: the first thing two peers say ([`hello::Hello`]).
//! - [`control`]: what follows on the control stream.
//! - [`call`]: header and reply of a call stream between nodes.
//! - [`door`]: `pollen-call/1`, the framed protocol of the local socket.
//! - [`probe`]: the 13-byte datagrams.
//! - [`fetch`]: the request for content.
//! - [`open`]: the first frames of a tunnel.
//! - [`http`]: the heads of HTTP that goes through a call.
//! - [`packet`]: the header of packets that go through other members.
//! - [`site`]: the table of a site's archive, in JSON.
//! - [`close`]: the codes with which a link ends.
//!
//! All but the datagrams are positional msgpack arrays; fields are only appended and a reader
//! ignores what follows the ones it knows (docs/internals/seam.md). Decoders borrow from their
//! input, allocate nothing that the input's length does not bound, and never panic: the fuzzers hold
//! them to it.

#![forbid(unsafe_code)]

pub mod call;
pub mod close;
pub mod control;
pub mod door;
pub mod fetch;
pub mod frame;
pub mod hello;
pub mod http;
pub mod open;
pub mod options;
pub mod packet;
pub mod probe;
mod reader;
pub mod site;
mod writer;

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end before the value does.
    #[error("the frame ends too early")]
    Truncated,
    /// A value of another msgpack type, or an array that is too short.
    #[error("the frame is not of the expected shape ({0})")]
    Shape(&'static str),
    /// A length or number beyond what the format allows.
    #[error("{0} is over its limit")]
    Limit(&'static str),
}

/// A 32-byte id: an ed25519 public key, a spec hash or a content id.
pub type Id = [u8; 32];
