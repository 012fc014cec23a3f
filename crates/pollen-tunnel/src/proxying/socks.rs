//! SOCKS5 at the proxy door.
//!
//! Decides: nothing but the codes of its answers.
//! Does not know: services.
//! Invariants: only CONNECT to a name; no method of authentication, as the socket says whose the client is.
//! Source: RFC 1928.

use std::io;

use pollen_net::Refusal;

use super::{
    asked::{Asked, Manners, Reading, foreign, say},
    names,
};
use crate::{refusal::refused, shared::Shared};

const VERSION: u8 = 5;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const BY_IPV4: u8 = 1;
const BY_NAME: u8 = 3;
const BY_IPV6: u8 = 4;

/// Reads greeting and request, and answers the first.
pub(super) async fn ask(shared: &Shared, mut read: Reading<'_>) -> io::Result<Asked> {
    let count = usize::from(read.at_least(2).await?[1]);
    let methods = &read.at_least(2 + count).await?[2..2 + count];
    if !methods.contains(&0) {
        say(read.near, &[VERSION, NO_METHOD]).await;
        return Err(io::ErrorKind::InvalidData.into());
    }
    read.near.write_all(&[VERSION, 0]).await?;
    read.bytes.drain(..2 + count);
    let head = read.at_least(5).await?;
    let (command, kind, first) = (head[1], head[3], usize::from(head[4]));
    let length = match kind {
        BY_IPV4 => 4 + 4 + 2,
        BY_IPV6 => 4 + 16 + 2,
        BY_NAME => 5 + first + 2,
        _ => return Err(io::ErrorKind::InvalidData.into()),
    };
    let request = read.at_least(length).await?;
    let name = request.get(5..5 + first).filter(|_| kind == BY_NAME);
    let want = match (command, name.map(std::str::from_utf8)) {
        (CONNECT, Some(Ok(name))) => names::read(&shared.plane.tables().load(), name),
        (CONNECT, Some(Err(_))) => Err(foreign("a name that is not text")),
        (CONNECT, None) => Err(foreign("an address (use socks5h, which sends names)")),
        _ => Err(refused("bad-request", "this proxy knows CONNECT only", "")),
    };
    Ok(Asked { want, rest: read.after(length), manners: &Manner })
}

struct Manner;

impl Manners for Manner {
    fn opened(&self) -> Vec<u8> {
        reply(0)
    }

    fn refused(&self, refusal: &Refusal) -> Vec<u8> {
        reply(match refusal.slug.as_str() {
            "denied" | "usage" => 2,
            "service-not-found" | "peer-not-found" | "ambiguous" | "unreachable" => 4,
            "provider-refused" => 5,
            "bad-request" => 7,
            _ => 1,
        })
    }
}

/// A reply without an address: there is none that means anything.
fn reply(code: u8) -> Vec<u8> {
    vec![VERSION, code, 0, BY_IPV4, 0, 0, 0, 0, 0, 0]
}
