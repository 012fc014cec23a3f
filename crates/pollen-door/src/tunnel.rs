//! A tunnel for a client of `call.sock`: it names a service, and then its socket is the tunnel.
//!
//! Decides: nothing.
//! Does not know: who serves what.
//! Invariants: the client is always answered; what it sends behind its frame goes to the service.
//!     However its socket is closed it sees a reset, unless the tunnel ended well or was refused.
//! Source: docs/internals/seam.md#doors.

use pollen_net::Refusal;
use pollen_tunnel::{Missed, Socket, Tunnels, Want};
use pollen_wire::{
    Id,
    frame::{self, MAX_HEADER},
    open::{self, Opened},
};
use tokio::net::UnixStream;

use crate::limits::{FIRST_BYTE, LINGER};

/// Serves one client, which has said the preface, to its end.
pub(crate) async fn serve(tunnels: &Tunnels, stream: UnixStream) {
    let near = Socket::holding(stream);
    let Ok(Some(asked)) = tokio::time::timeout(FIRST_BYTE, read(&near)).await else {
        return;
    };
    let want = match open::Want::decode(&asked) {
        Ok(want) => Want::stream(want.service, want.node),
        Err(error) => {
            let refusal = Refusal {
                slug: "bad-request".to_owned(),
                reason: format!("what was asked for is no tunnel: {error}"),
                remedy: String::new(),
            };
            return refuse(near, &refusal).await;
        }
    };
    match tunnels.open(&near, &want).await {
        Ok(opened) => {
            let answer = answer(&Opened::default(), Some(&opened.node()));
            if near.write_all(&answer).await.is_ok() {
                tunnels.run(near, opened).await;
            }
        }
        Err(Missed::Refused(refusal)) => refuse(near, &refusal).await,
        Err(Missed::Left) => {}
    }
}

/// The body of one frame; not a byte behind it is read.
async fn read(near: &Socket) -> Option<Vec<u8>> {
    let mut prefix = [0; frame::PREFIX];
    near.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame::length(prefix, MAX_HEADER).ok()?];
    near.read_exact(&mut body).await.ok()?;
    Some(body)
}

/// What the client sent is thrown away for a moment: closed with bytes unread, a socket resets its
/// peer, which would not read the answer.
async fn refuse(near: Socket, refusal: &Refusal) {
    let opened = Opened { slug: &refusal.slug, reason: &refusal.reason, remedy: &refusal.remedy };
    if near.write_all(&answer(&opened, None)).await.is_ok() && near.finish().is_ok() {
        let _ = tokio::time::timeout(LINGER, near.drain()).await;
        near.release();
    }
}

fn answer(opened: &Opened<'_>, node: Option<&Id>) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    frame::append(&mut out, 0, |out| opened.encode_at(node, out));
    out
}
