//! Bytes between a socket and the other end of its tunnel, both ways until both ended.
//!
//! Decides: what each end of one side means for the other.
//! Does not know: who is at the ends, and whether they may be.
//! Invariants: the end of one direction leaves the other open; what broke is a reset at both ends,
//!     never an end; a tunnel that is idle holds no buffer.
//! Source: docs/internals/seam.md#tunnels.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    pin::pin,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use pollen_net::{BROKEN, CUT, RecvStream, SendStream, TunnelStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::{limits::SCRATCH, socket::Socket};

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Lends the thread's buffer, which is at least as large as any datagram.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// The other end of a tunnel.
pub(crate) enum Far {
    /// A peer.
    Peer(Box<TunnelStream>),
    /// This machine.
    Here(Socket, OwnedSemaphorePermit),
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

/// What was read of the near side and is not sent yet.
#[derive(Default)]
pub(crate) struct Rest {
    pub(crate) bytes: Vec<u8>,
    /// So much of it is sent.
    pub(crate) sent: usize,
    /// The near side has ended its half.
    pub(crate) is_over: bool,
}

impl Rest {
    /// All that is said.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), sent: 0, is_over: true }
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}

/// Reads of the near side into `rest`, up to `most` bytes in all.
pub(crate) fn poll_early(
    cx: &mut Context<'_>,
    near: &Socket,
    rest: &mut Rest,
    most: usize,
) -> Poll<Result<(), Broken>> {
    BUFFER.with_borrow_mut(|buffer| {
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
        Far::Here(far, _file) => run_here(near, far, rest, cut, counts).await,
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
    let ended = tokio::select! {
        () = cut.cancelled() => Ended::Cut,
        both = both(there, back) => both,
        () = near.broken() => Ended::Broken,
        () = stopped => Ended::Broken,
    };
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
    let ended = tokio::select! {
        () = cut.cancelled() => Ended::Cut,
        both = both(there, back) => both,
        () = near.broken() => Ended::Broken,
        () = far.broken() => Ended::Broken,
    };
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
    let mut kept = Kept { bytes: BytesMut::new(), most, is_over: false };
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
        Far::Here(socket, _file) => {
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

async fn both(
    there: impl Future<Output = Result<(), Broken>>,
    back: impl Future<Output = Result<(), Broken>>,
) -> Ended {
    match tokio::try_join!(there, back) {
        Ok(_) => Ended::Well,
        Err(Broken) => Ended::Broken,
    }
}

/// One of the sides was reset.
pub(crate) struct Broken;

enum Source<'a> {
    Socket(&'a Socket),
    Peer(&'a mut RecvStream),
    /// Nothing comes beside what was read before.
    Over,
}

enum Sink<'a> {
    Socket(&'a Socket),
    Peer(&'a mut SendStream),
    Kept(&'a mut Kept),
}

/// An answer that is kept.
struct Kept {
    bytes: BytesMut,
    most: usize,
    /// There was more.
    is_over: bool,
}

impl Kept {
    fn take(&mut self, from: &[u8]) -> Result<usize, Broken> {
        self.is_over |= from.len() > self.most - self.bytes.len();
        if self.is_over {
            return Err(Broken);
        }
        self.bytes.extend_from_slice(from);
        Ok(from.len())
    }
}

impl Source<'_> {
    fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Socket(socket) => socket.poll_read(cx, into).map_err(|_| Broken),
            Self::Peer(recv) => recv.poll_read(cx, into).map_err(|_| Broken),
            Self::Over => Poll::Ready(Ok(0)),
        }
    }
}

impl Sink<'_> {
    fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Socket(socket) => socket.poll_write(cx, from).map_err(|_| Broken),
            Self::Peer(send) => {
                std::pin::Pin::new(&mut **send).poll_write(cx, from).map_err(|_| Broken)
            }
            Self::Kept(kept) => Poll::Ready(kept.take(from)),
        }
    }

    fn finish(&mut self) -> Result<(), Broken> {
        match self {
            Self::Socket(socket) => socket.finish().map_err(|_| Broken),
            Self::Peer(send) => send.finish().map_err(|_| Broken),
            Self::Kept(_) => Ok(()),
        }
    }
}

/// One direction, to the end of its source.
async fn carry(
    mut source: Source<'_>,
    mut sink: Sink<'_>,
    mut rest: Rest,
    count: &AtomicU64,
) -> Result<(), Broken> {
    poll_fn(|cx| {
        loop {
            ready!(poll_rest(cx, &mut sink, &mut rest, count))?;
            if rest.is_over {
                return Poll::Ready(sink.finish());
            }
            let read =
                BUFFER.with_borrow_mut(|buffer| poll_move(cx, &mut source, &mut sink, buffer));
            let (moved, left) = ready!(read)?;
            count.fetch_add(moved, Relaxed);
            match left {
                Left::End => rest.is_over = true,
                Left::Bytes(bytes) => rest.bytes = bytes,
            }
        }
    })
    .await
}

enum Left {
    /// The source has ended.
    End,
    /// What the sink did not take.
    Bytes(Vec<u8>),
}

/// Writes what was left, and lets its memory go.
fn poll_rest(
    cx: &mut Context<'_>,
    sink: &mut Sink<'_>,
    rest: &mut Rest,
    count: &AtomicU64,
) -> Poll<Result<(), Broken>> {
    while !rest.unsent().is_empty() {
        let written = ready!(sink.poll_write(cx, rest.unsent()))?;
        count.fetch_add(written as u64, Relaxed);
        rest.sent += written;
    }
    if rest.sent > 0 {
        *rest = Rest { is_over: rest.is_over, ..Rest::default() };
    }
    Poll::Ready(Ok(()))
}

/// Reads once and writes what the sink takes: how much that was, and what is left.
fn poll_move(
    cx: &mut Context<'_>,
    source: &mut Source<'_>,
    sink: &mut Sink<'_>,
    buffer: &mut [u8],
) -> Poll<Result<(u64, Left), Broken>> {
    let length = ready!(source.poll_read(cx, buffer))?;
    if length == 0 {
        return Poll::Ready(Ok((0, Left::End)));
    }
    let mut rest = buffer.get(..length).unwrap_or_default();
    while !rest.is_empty() {
        match sink.poll_write(cx, rest) {
            Poll::Ready(written) => rest = rest.get(written?..).unwrap_or_default(),
            Poll::Pending => break,
        }
    }
    let moved = (length - rest.len()) as u64;
    Poll::Ready(Ok((moved, Left::Bytes(rest.to_vec()))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{io::Write, net::TcpListener, time::Duration};

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
