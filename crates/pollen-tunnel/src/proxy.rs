//! The header of the PROXY protocol, version 2: who calls, told to a service ahead of the stream.
//!
//! Decides: nothing.
//! Does not know: who the caller is.
//! Invariants: a reader that knows the protocol and not our type of TLV finds the end of the header.
//! Source: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, 2.2; types from 0xE0 are an
//!     application's own.

use std::net::{Ipv4Addr, SocketAddr};

use pollen_plane::hex::hex;
use pollen_wire::Id;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, on behalf of somebody.
const PROXY: u8 = 0x21;
/// TCP over IPv4.
const TCP4: u8 = 0x11;
/// The caller's node in 64 hex digits.
const NODE: u8 = 0xe0;

/// The header for a caller of the node `caller`; `to` is where the service is, if it is an address.
/// The client itself is on its own machine: its address says 127.0.0.1.
pub(crate) fn header(caller: &Id, to: Option<SocketAddr>) -> Vec<u8> {
    let to = match to {
        Some(SocketAddr::V4(to)) => (*to.ip(), to.port()),
        Some(SocketAddr::V6(to)) => (Ipv4Addr::LOCALHOST, to.port()),
        None => (Ipv4Addr::LOCALHOST, 0),
    };
    let node = hex(caller);
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    let mut out = Vec::with_capacity(96);
    out.extend_from_slice(&SIGNATURE);
    out.extend_from_slice(&[PROXY, TCP4]);
    out.extend_from_slice(&length(12 + 3 + node.len()));
    out.extend_from_slice(&Ipv4Addr::LOCALHOST.octets());
    out.extend_from_slice(&to.0.octets());
    out.extend_from_slice(&0u16.to_be_bytes());
    out.extend_from_slice(&to.1.to_be_bytes());
    out.push(NODE);
    out.extend_from_slice(&length(node.len()));
    out.extend_from_slice(node.as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_that_of_the_protocol() {
        let header = header(&[0xab; 32], "192.0.2.7:80".parse().ok());
        let mut expected = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x4f".to_vec();
        expected.extend_from_slice(&[127, 0, 0, 1, 192, 0, 2, 7, 0, 0, 0, 80, 0xe0, 0, 64]);
        expected.extend_from_slice("ab".repeat(32).as_bytes());
        assert_eq!(header, expected);
    }
}
