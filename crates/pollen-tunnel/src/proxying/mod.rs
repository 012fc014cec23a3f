//! The proxy door: programs of this machine reach any service by its name, without a listener each.
//!
//! Decides: which protocol a client speaks, by its first byte, and how long it may take to say what it wants.
//! Does not know: how a provider is found.
//! Invariants: only names of services lead anywhere; an address, another name and what a browser
//!     sends to a server are refused, and the client is told why in its own protocol.
//! Source: docs/design/services.md#by-name.
//!
//! - `asked.rs`: a client and its wish; `credentials.rs`: who may come from elsewhere;
//!   `names.rs`: what `NAME.pln` means; `socks.rs`: SOCKS5; `http.rs`: CONNECT and absolute URLs.

mod asked;
mod credentials;
mod http;
mod names;
mod socks;

use std::io;

use tokio_util::sync::CancellationToken;

use self::asked::{Asked, Reading, say};
pub(crate) use self::credentials::Credentials;
use crate::{
    client,
    limits::PROXY_HEAD,
    opener::Missed,
    shared::{Reason, Shared},
    socket::Socket,
};

/// Serves a client to its end.
pub(crate) async fn serve(
    shared: &Shared,
    near: Socket,
    credentials: Option<&Credentials>,
    stop: &CancellationToken,
) {
    let asked = tokio::select! {
        () = stop.cancelled() => return near.abort(),
        () = near.broken() => return,
        asked = tokio::time::timeout(PROXY_HEAD, ask(shared, &near, credentials)) => asked,
    };
    let asked = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err(error)) if error.kind() == io::ErrorKind::PermissionDenied => {
            return shared.refuse(Reason::Password, "", &"its user or password is wrong");
        }
        _ => {
            shared.refuse(Reason::Proxy, "", &"it did not say what it wants");
            return near.abort();
        }
    };
    let Asked { want, rest, manners } = asked;
    let opened = match want {
        Err(refusal) => Err(Missed::Refused(refusal)),
        Ok(want) => tokio::select! {
            () = stop.cancelled() => return near.abort(),
            opened = client::open_after(shared, Some(&near), &want, rest) => opened,
        },
    };
    match opened {
        Ok(opened) => {
            if near.write_all(&manners.opened()).await.is_ok() {
                client::run(shared, near, opened, stop.child_token()).await;
            }
        }
        Err(Missed::Left) => near.abort(),
        Err(Missed::Refused(refusal)) => {
            let what = format!("{}: {}", refusal.slug, refusal.reason);
            shared.refuse(Reason::Proxy, "", &what);
            say(&near, &manners.refused(&refusal)).await;
        }
    }
}

async fn ask(
    shared: &Shared,
    near: &Socket,
    credentials: Option<&Credentials>,
) -> io::Result<Asked> {
    let mut read = Reading { near, bytes: Vec::new() };
    match read.at_least(1).await?.first() {
        Some(5) => socks::ask(shared, read, credentials).await,
        Some(first) if first.is_ascii_uppercase() => http::ask(shared, read, credentials).await,
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
