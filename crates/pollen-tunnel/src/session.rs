//! One session of datagrams: a client's address on one side, a socket of its own at the service.
//!
//! Decides: when it ends.
//! Does not know: who is at its ends, and whether they may be.
//! Invariants: a datagram is passed whole or not at all; an answer goes to the client whose session it
//!     came in.
//! Source: docs/internals/seam.md#datagrams; RFC 4787, 4.3 asks for two minutes of idle time.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use pollen_net::{CUT, Session, TunnelStream};
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    limits::{DATAGRAM, IDLE_LEAST, IDLE_MOST, LARGE},
    pump::{Counts, Ended},
    recent::Used,
    rest::with_buffer,
};

/// One side of a session.
pub(crate) enum Side {
    /// A client of a listener, which has the listener's socket for its answers.
    Client { inbox: mpsc::Receiver<Waiting>, socket: Arc<UdpSocket>, address: SocketAddr },
    /// The service, by a connected socket.
    Service { socket: UdpSocket, _file: OwnedSemaphorePermit },
    /// A peer: what fits by datagrams of the connection, what does not on the stream.
    Peer(Box<Peer>),
}

/// A datagram of a client, and the room that it takes until it is read.
pub(crate) type Waiting = (Bytes, OwnedSemaphorePermit);

/// The way to a peer.
pub(crate) struct Peer {
    session: Session,
    stream: TunnelStream,
    /// What came on the stream and is not whole.
    part: BytesMut,
}

impl Peer {
    pub(crate) fn new(session: Session, stream: TunnelStream) -> Box<Self> {
        Box::new(Self { session, stream, part: BytesMut::new() })
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(large) = split(&mut self.part) {
                return Some(large);
            }
            tokio::select! {
                datagram = self.session.next() => return datagram,
                chunk = self.stream.recv.read_chunk(DATAGRAM) => match chunk {
                    Ok(Some(chunk)) => self.part.extend_from_slice(&chunk),
                    Ok(None) | Err(_) => return None,
                },
            }
        }
    }

    /// False: the session is over.
    async fn send(&mut self, datagram: &[u8]) -> bool {
        match self.session.send(datagram) {
            Ok(true) => true,
            Ok(false) => self.send_large(datagram).await,
            Err(_) => false,
        }
    }

    async fn send_large(&mut self, datagram: &[u8]) -> bool {
        let Ok(length) = u16::try_from(datagram.len()) else { return true };
        let mut out = Vec::with_capacity(2 + datagram.len());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(datagram);
        matches!(timeout(LARGE, self.stream.send.write_all(&out)).await, Ok(Ok(())))
    }
}

/// Takes the first whole datagram of what came on a stream.
fn split(part: &mut BytesMut) -> Option<Bytes> {
    let (prefix, rest) = part.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*prefix));
    if rest.len() < length {
        return None;
    }
    part.advance(2);
    Some(part.split_to(length).freeze())
}

impl Side {
    /// The next datagram of this side; `None` when there will be none. Cancel safe.
    async fn next(&mut self, dropped: &AtomicU64) -> Option<Bytes> {
        match self {
            Self::Client { inbox, .. } => inbox.recv().await.map(|(datagram, _)| datagram),
            Self::Peer(peer) => peer.next().await,
            Self::Service { socket, .. } => loop {
                socket.readable().await.ok()?;
                let read = with_buffer(|buffer| {
                    let length = socket.try_recv(buffer)?;
                    Ok::<_, io::Error>(Bytes::copy_from_slice(
                        buffer.get(..length).unwrap_or_default(),
                    ))
                });
                match read {
                    Ok(datagram) => return Some(datagram),
                    Err(error) => note(&error, dropped),
                }
            },
        }
    }

    /// Sends one; false when this side is over.
    async fn send(&mut self, datagram: &[u8], dropped: &AtomicU64) -> bool {
        let sent = match self {
            Self::Peer(peer) => return peer.send(datagram).await,
            Self::Client { socket, address, .. } => socket.send_to(datagram, *address).await,
            Self::Service { socket, .. } => socket.send(datagram).await,
        };
        if let Err(error) = sent {
            note(&error, dropped);
        }
        true
    }

    /// Ends it as the session ended.
    fn end(self, ended: Ended) {
        if let Self::Peer(mut peer) = self {
            if ended == Ended::Cut {
                peer.stream.cut(CUT);
            } else {
                // Its other end needs no reset to see that this is all.
                let _ = peer.stream.send.finish();
                peer.stream.complete();
            }
        }
    }
}

/// Nobody listens there now (ICMP), or the system had no room: the datagram is lost, as UDP's are.
fn note(error: &io::Error, dropped: &AtomicU64) {
    if error.kind() != io::ErrorKind::WouldBlock {
        dropped.fetch_add(1, Relaxed);
    }
}

/// What a session has beside its sides.
pub(crate) struct Terms<'a> {
    /// It ends after so long without a datagram.
    pub(crate) idle: Duration,
    pub(crate) cut: &'a CancellationToken,
    /// Cancelled when others need its place.
    pub(crate) used: &'a Used<'a>,
    pub(crate) counts: Counts<'a>,
    pub(crate) dropped: &'a AtomicU64,
}

/// Runs a session to its end.
pub(crate) async fn run(mut near: Side, mut far: Side, terms: Terms<'_>) {
    let idle = terms.idle.clamp(IDLE_LEAST, IDLE_MOST);
    let mut last = Instant::now();
    let ended = loop {
        let goes_on = tokio::select! {
            () = terms.cut.cancelled() => break Ended::Cut,
            () = terms.used.displaced() => break Ended::Well,
            () = sleep_until(last + idle) => break Ended::Well,
            datagram = near.next(terms.dropped) => match datagram {
                Some(datagram) => {
                    terms.counts.there.fetch_add(datagram.len() as u64, Relaxed);
                    far.send(&datagram, terms.dropped).await
                }
                None => false,
            },
            datagram = far.next(terms.dropped) => match datagram {
                Some(datagram) => {
                    terms.counts.back.fetch_add(datagram.len() as u64, Relaxed);
                    near.send(&datagram, terms.dropped).await
                }
                None => false,
            },
        };
        if !goes_on {
            break Ended::Broken;
        }
        last = Instant::now();
        terms.used.now();
    };
    near.end(ended);
    far.end(ended);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_datagram_is_taken_only_whole() {
        let mut part = BytesMut::from(&b"\0\x03ab"[..]);
        assert_eq!(split(&mut part), None);
        part.extend_from_slice(b"c\0\0\0");
        assert_eq!(split(&mut part), Some(Bytes::from_static(b"abc")));
        assert_eq!(split(&mut part), Some(Bytes::new()));
        assert_eq!(split(&mut part), None);
        assert_eq!(&part[..], b"\0");
    }
}
