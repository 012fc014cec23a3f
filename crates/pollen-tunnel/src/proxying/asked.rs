//! What a client of the proxy door asks for, and how it is spoken with.
//!
//! Decides: nothing.
//! Does not know: which protocol is spoken.
//! Invariants: what was said beyond the wish goes to the service.
//! Source: docs/design/services.md#by-name.

use std::{future::poll_fn, io};

use pollen_net::Refusal;

use crate::{limits::PROXY_HEAD, opener::Want, refusal::refused, rest::Rest, socket::Socket};

/// What a client asks for, and how it is answered.
pub(super) struct Asked {
    pub(super) want: Result<Want, Refusal>,
    pub(super) rest: Rest,
    pub(super) manners: &'static dyn Manners,
}

/// How a client is told what became of its wish.
pub(super) trait Manners: Sync {
    /// Ahead of the bytes of the service.
    fn opened(&self) -> Vec<u8>;
    /// Instead of them.
    fn refused(&self, refusal: &Refusal) -> Vec<u8>;
}

/// The last word to a client. What it still sends is read, or the word would be lost by a reset.
pub(super) async fn say(near: &Socket, word: &[u8]) {
    let told = async {
        near.write_all(word).await?;
        near.finish()?;
        near.drain().await;
        Ok::<_, io::Error>(())
    };
    let _ = tokio::time::timeout(PROXY_HEAD, told).await;
}

/// What a client said so far.
pub(super) struct Reading<'a> {
    pub(super) near: &'a Socket,
    pub(super) bytes: Vec<u8>,
}

impl Reading<'_> {
    /// All of it, once there are so many bytes.
    pub(super) async fn at_least(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.bytes.len() < count {
            self.more().await?;
        }
        Ok(&self.bytes)
    }

    pub(super) async fn more(&mut self) -> io::Result<()> {
        let mut piece = [0; 2048];
        match poll_fn(|cx| self.near.poll_read(cx, &mut piece)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.bytes.extend_from_slice(piece.get(..count).unwrap_or_default());
                Ok(())
            }
        }
    }

    /// What was said beyond the wish goes to the service.
    pub(super) fn after(mut self, wish: usize) -> Rest {
        self.bytes.drain(..wish.min(self.bytes.len()));
        Rest { bytes: self.bytes, ..Rest::default() }
    }
}

/// What leads nowhere through this door.
pub(super) fn foreign(what: &str) -> Refusal {
    let reason = format!("{what}: this proxy reaches services of the mesh only");
    refused(
        "usage",
        reason,
        "name a service: SERVICE.pln, SERVICE--NODE.pln; see: pln status services",
    )
}
