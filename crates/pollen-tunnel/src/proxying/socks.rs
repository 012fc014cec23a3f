//! SOCKS5 at the proxy door.
//!
//! Decides: nothing but the codes of its answers.
//! Does not know: services.
//! Invariants: only CONNECT to a name. Where there are passwords, no request is read before one was
//!     right; elsewhere no method of authentication, as the socket says whose the client is.
//! Source: RFC 1928, RFC 1929.

use std::io;

use pollen_net::Refusal;

use super::{
    asked::{Asked, Manners, Reading, foreign, say},
    credentials::Credentials,
    names,
};
use crate::{limits::WRONG, refusal::refused, shared::Shared};

const VERSION: u8 = 5;
const NO_METHOD: u8 = 0xff;
const ANYBODY: u8 = 0;
const BY_PASSWORD: u8 = 2;
/// The version of the exchange of a password.
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const BY_IPV4: u8 = 1;
const BY_NAME: u8 = 3;
const BY_IPV6: u8 = 4;

/// Reads greeting and request, and answers the first.
pub(super) async fn ask(
    shared: &Shared,
    mut read: Reading<'_>,
    credentials: Option<&Credentials>,
) -> io::Result<Asked> {
    let count = usize::from(read.at_least(2).await?[1]);
    let methods = &read.at_least(2 + count).await?[2..2 + count];
    let wanted = if credentials.is_some() { BY_PASSWORD } else { ANYBODY };
    if !methods.contains(&wanted) {
        say(read.near, &[VERSION, NO_METHOD]).await;
        return Err(io::ErrorKind::InvalidData.into());
    }
    read.near.write_all(&[VERSION, wanted]).await?;
    read.bytes.drain(..2 + count);
    if let Some(credentials) = credentials {
        authenticate(&mut read, credentials).await?;
    }
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

/// Reads a user and a password, and answers them. An error: they are not right.
async fn authenticate(read: &mut Reading<'_>, credentials: &Credentials) -> io::Result<()> {
    let head = read.at_least(2).await?;
    let (version, user) = (head[0], 2..2 + usize::from(head[1]));
    let length = usize::from(read.at_least(user.end + 1).await?[user.end]);
    let password = user.end + 1..user.end + 1 + length;
    let said = read.at_least(password.end).await?;
    let is_right = credentials.lets(&said[user], &said[password.clone()]);
    if version != PASSWORD_VERSION || !is_right {
        tokio::time::sleep(WRONG).await;
        say(read.near, &[PASSWORD_VERSION, 1]).await;
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    read.near.write_all(&[PASSWORD_VERSION, 0]).await?;
    read.bytes.drain(..password.end);
    Ok(())
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
