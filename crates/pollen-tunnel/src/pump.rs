//! Bytes between a socket and the other end of its tunnel, both ways until both ended.
//!
//! Decides: what each end of one side means for the other.
//! Does not know: who is at the ends, and whether they may be.
//! Invariants: the end of one direction leaves the other open; what broke is a reset at both ends,
//!     never an end; a tunnel that is idle holds no buffer.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    future::pending,
    pin::pin,
    sync::atomic::AtomicU64,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use pollen_net::{BROKEN, CUT, TunnelStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{
    carry::{Broken, Kept, Sink, Source, carry},
    circle::Marked,
    rest::{Rest, with_buffer},
    socket::Socket,
    woken::Woken,
};

/// The other end of a tunnel.
pub(crate) enum Far {
    /// A peer.
    Peer(Box<TunnelStream>),
    /// This machine.
    Here(Socket, Held),
}

/// What a connection to a service of this machine keeps until it ends.
pub(crate) struct Held {
    /// A part of the files that services may have open.
    pub(crate) _file: OwnedSemaphorePermit,
    /// Its client, where it should come back, is known by this.
    pub(crate) _marked: Option<Marked>,
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Both sides ended their half.
    Well,
    /// One side was reset.
    Broken,
    /// It was not allowed any more.
    Cut,
}

/// Reads of the near side into `rest`, up to `most` bytes in all.
pub(crate) fn poll_early(
    cx: &mut Context<'_>,
    near: &Socket,
    rest: &mut Rest,
    most: usize,
) -> Poll<Result<(), Broken>> {
    with_buffer(|buffer| {
        let room = most.saturating_sub(rest.bytes.len()).min(buffer.len());
        let room = buffer.get_mut(..room).unwrap_or_default();
        let read = ready!(near.poll_read(cx, room)).map_err(|_| Broken)?;
        match room.get(..read) {
            Some(bytes) if !bytes.is_empty() => rest.bytes.extend_from_slice(bytes),
            _ => rest.is_over = true,
        }
        Poll::Ready(Ok(()))
    })
}

/// Bytes of one tunnel: towards the far side, and from it.
pub(crate) struct Counts<'a> {
    pub(crate) there: &'a AtomicU64,
    pub(crate) back: &'a AtomicU64,
}

/// Runs a tunnel to its end; both sides are closed then.
pub(crate) async fn run(
    near: Socket,
    far: Far,
    rest: Rest,
    cut: &CancellationToken,
    counts: Counts<'_>,
) -> Ended {
    match far {
        Far::Peer(stream) => run_over(near, *stream, rest, cut, counts).await,
        Far::Here(far, _held) => run_here(near, far, rest, cut, counts).await,
    }
}

async fn run_over(
    near: Socket,
    mut stream: TunnelStream,
    rest: Rest,
    cut: &CancellationToken,
    counts: Counts<'_>,
) -> Ended {
    let stopped = stream.send.stopped();
    let stopped = async {
        // All of it was received: the peer does not want less.
        if let Ok(None) = stopped.await {
            pending().await
        }
    };
    let there = carry(Source::Socket(&near), Sink::Peer(&mut stream.send), rest, counts.there);
    let back =
        carry(Source::Peer(&mut stream.recv), Sink::Socket(&near), Rest::default(), counts.back);
    let early = async {
        tokio::select! {
            () = cut.cancelled() => Ended::Cut,
            () = near.broken() => Ended::Broken,
            () = stopped => Ended::Broken,
        }
    };
    let ended = both(there, back, early).await;
    match ended {
        Ended::Well => {
            stream.complete();
            near.release();
        }
        Ended::Broken => stream.cut(BROKEN),
        Ended::Cut => stream.cut(CUT),
    }
    if ended != Ended::Well {
        near.abort();
    }
    ended
}

async fn run_here(
    near: Socket,
    far: Socket,
    rest: Rest,
    cut: &CancellationToken,
    counts: Counts<'_>,
) -> Ended {
    let there = carry(Source::Socket(&near), Sink::Socket(&far), rest, counts.there);
    let back = carry(Source::Socket(&far), Sink::Socket(&near), Rest::default(), counts.back);
    let early = async {
        tokio::select! {
            () = cut.cancelled() => Ended::Cut,
            () = near.broken() => Ended::Broken,
            () = far.broken() => Ended::Broken,
        }
    };
    let ended = both(there, back, early).await;
    if ended == Ended::Well {
        near.release();
    } else {
        near.abort();
        far.abort();
    }
    ended
}

/// How a service answered.
pub(crate) enum Answered {
    /// To its end.
    Whole(Bytes),
    /// With more than may be kept.
    TooLong,
    /// The tunnel ended before.
    Broken,
}

/// Says `rest` and its end, and keeps what is said to it, `most` bytes at most.
pub(crate) async fn ask(
    far: Far,
    rest: Rest,
    most: usize,
    cut: &CancellationToken,
    counts: Counts<'_>,
) -> Answered {
    let mut kept = Kept::new(most);
    let is_whole = match far {
        Far::Peer(mut stream) => {
            let there = carry(Source::Over, Sink::Peer(&mut stream.send), rest, counts.there);
            let (from, into) = (Source::Peer(&mut stream.recv), Sink::Kept(&mut kept));
            let back = carry(from, into, Rest::default(), counts.back);
            let heard = hear(there, back, cut).await;
            match heard {
                Some(true) => stream.complete(),
                _ => stream.cut(BROKEN),
            }
            heard.is_some()
        }
        Far::Here(socket, _held) => {
            let there = carry(Source::Over, Sink::Socket(&socket), rest, counts.there);
            let (from, into) = (Source::Socket(&socket), Sink::Kept(&mut kept));
            let back = carry(from, into, Rest::default(), counts.back);
            let heard = hear(there, back, cut).await;
            if heard != Some(true) {
                socket.abort();
            }
            heard.is_some()
        }
    };
    match (is_whole, kept.is_over) {
        (_, true) => Answered::TooLong,
        (true, false) => Answered::Whole(kept.bytes.freeze()),
        (false, false) => Answered::Broken,
    }
}

/// Whether all was said, once the answer is whole: a service may answer and read no further. `None`
/// when the answer is not whole.
async fn hear(
    there: impl Future<Output = Result<(), Broken>>,
    back: impl Future<Output = Result<(), Broken>>,
    cut: &CancellationToken,
) -> Option<bool> {
    let (mut there, mut back) = (pin!(there), pin!(back));
    let mut said = None;
    loop {
        tokio::select! {
            biased;
            () = cut.cancelled() => return None,
            ended = &mut there, if said.is_none() => said = Some(ended.is_ok()),
            heard = &mut back => return heard.ok().map(|()| said == Some(true)),
        }
    }
}

/// Both directions to their ends, or what ends them early. Each is polled when it was woken itself:
/// a poll in vain takes the lock of the connection.
async fn both(
    there: impl Future<Output = Result<(), Broken>>,
    back: impl Future<Output = Result<(), Broken>>,
    early: impl Future<Output = Ended>,
) -> Ended {
    let (there, back) = (Woken::new(there), Woken::new(back));
    tokio::select! {
        biased;
        ended = Woken::new(early) => ended,
        both = async { tokio::try_join!(there, back) } => match both {
            Ok(_) => Ended::Well,
            Err(Broken) => Ended::Broken,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{future::poll_fn, io::Write, net::TcpListener, time::Duration};

    use super::*;

    #[test]
    fn a_client_that_is_reset_has_not_ended() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let near = server.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        client.write_all(b"partial").unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        let mut rest = Rest::default();
        let is_reset = runtime.block_on(async {
            let near = Socket::Tcp(tokio::net::TcpStream::from_std(near).unwrap());
            loop {
                match poll_fn(|cx| poll_early(cx, &near, &mut rest, 64)).await {
                    Ok(()) if rest.is_over => return false,
                    Ok(()) => {}
                    Err(Broken) => return true,
                }
            }
        });
        assert!(is_reset && !rest.is_over);
    }
}
