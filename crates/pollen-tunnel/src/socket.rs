//! A stream socket of this machine, TCP or unix, as a tunnel uses it.
//!
//! Decides: nothing.
//! Does not know: what runs over it.
//! Invariants: a socket that is aborted sends a reset where its kind has one. One that holds a byte
//!     resets its peer however it is closed, also by the death of this process, until it is released.
//! Source: `tcp(7)`, `unix(7)`. Linux, net/unix/af_unix.c: a socket closed with bytes unread gives its
//!     peer ECONNRESET behind what was sent; a sender may write while its skbs take a quarter of its
//!     buffer, and one takes a page and 33 KiB at most.

use std::{
    io::{self, IoSlice},
    net::Shutdown,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    task::{Context, Poll, Waker, ready},
};

use bytes::BytesMut;
use rustix::{
    net::{RecvFlags, recv},
    param::page_size,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

use crate::limits::KEEP_ALIVE;

/// A connected stream socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Of the unix family.
    Unix(UnixStream),
    /// The same, of a client that has said something: the last byte that came stays unread, so that
    /// closing it is a reset. The flag: that byte is there, and was delivered.
    Holding(UnixStream, AtomicBool),
}

/// Of a sender's buffer, bytes, so that a quarter is over a page of 16 KiB and 33 KiB. With less of
/// it, or larger pages, the byte that stays could keep a sender from writing.
const SENDERS_BUFFER: usize = 200 * 1024;
const PAGE: usize = 16 * 1024;

macro_rules! either {
    ($self:ident, $socket:ident => $do:expr) => {
        match $self {
            Socket::Tcp($socket) => $do,
            Socket::Unix($socket) | Socket::Holding($socket, _) => $do,
        }
    };
}

impl Socket {
    /// A socket whose client sees a reset when it is closed before it is released. Where the system
    /// cannot do that, it sees an end.
    pub fn holding(stream: UnixStream) -> Self {
        let buffer = SockRef::from(&stream).send_buffer_size().unwrap_or(0);
        let can_hold = cfg!(target_os = "linux") && page_size() <= PAGE;
        if can_hold && buffer >= SENDERS_BUFFER {
            return Self::Holding(stream, AtomicBool::new(false));
        }
        Self::Unix(stream)
    }

    /// One of TCP for a tunnel: small pieces go at once, and an end that is gone is noticed.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        let _ = stream.set_nodelay(true);
        let asked = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE / 4);
        let _ = SockRef::from(&stream).set_tcp_keepalive(&asked);
        Self::Tcp(stream)
    }

    /// It ended well: closing it is no reset.
    pub fn release(&self) {
        if let Self::Holding(stream, stays) = self
            && stays.swap(false, Relaxed)
        {
            let _ = recv(stream, &mut [0], RecvFlags::DONTWAIT);
        }
    }

    /// Reads so much, and not a byte behind it. What was read is lost when the future is dropped.
    pub async fn read_exact(&self, mut into: &mut [u8]) -> io::Result<()> {
        while !into.is_empty() {
            let count = std::future::poll_fn(|cx| self.poll_read(cx, into)).await?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            into = into.get_mut(count..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads; 0 is the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Holding(stream, stays) = self {
            return poll_holding(stream, stays, cx, into);
        }
        loop {
            ready!(either!(self, socket => socket.poll_read_ready(cx)))?;
            match either!(self, socket => socket.try_read(into)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Reads into the room behind what is there; 0 is the end. Not of one that holds a byte.
    pub(crate) fn poll_read_buf(
        &self,
        cx: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, socket => socket.poll_read_ready(cx)))?;
            match either!(self, socket => socket.try_read_buf(into)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// Writes what fits of all of them.
    pub(crate) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        from: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, socket => socket.poll_write_ready(cx)))?;
            match either!(self, socket => socket.try_write_vectored(from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Writes what fits.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, socket => socket.poll_write_ready(cx)))?;
            match either!(self, socket => socket.try_write(from)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }

    /// Writes all of it.
    pub async fn write_all(&self, mut from: &[u8]) -> io::Result<()> {
        while !from.is_empty() {
            let written = std::future::poll_fn(|cx| self.poll_write(cx, from)).await?;
            from = from.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Reads to the end and throws it away.
    pub async fn drain(&self) {
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(1..) = std::future::poll_fn(|cx| self.poll_read(cx, &mut scratch)).await {}
    }

    /// Ends when the other side reset it.
    pub(crate) async fn broken(&self) {
        let look = || match either!(self, socket => socket.take_error()) {
            Ok(None) => Err(io::ErrorKind::WouldBlock.into()),
            _ => Ok(()),
        };
        let watched = either!(self, socket => socket.async_io(Interest::ERROR, look).await);
        // An error of the watching itself says that the socket is of no use either.
        drop(watched);
    }

    /// Nothing more is sent.
    pub fn finish(&self) -> io::Result<()> {
        self.reference().shutdown(Shutdown::Write)
    }

    /// From now on, closing it is a reset.
    pub(crate) fn abort(&self) {
        if matches!(self, Self::Tcp(_)) {
            let _ = self.reference().set_linger(Some(std::time::Duration::ZERO));
        }
    }

    fn reference(&self) -> SockRef<'_> {
        either!(self, socket => SockRef::from(socket))
    }
}

/// Reads what came, and leaves the last byte of it where it is.
fn poll_holding(
    stream: &UnixStream,
    stays: &AtomicBool,
    cx: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    let ahead = usize::from(stays.load(Relaxed));
    let mut few = [0; 2];
    let is_small = into.len() <= ahead;
    loop {
        ready!(stream.poll_read_ready(cx))?;
        // Asked before the bytes: what came ahead of an end is there by then.
        let is_over = is_ended(stream);
        let room = if is_small {
            few.get_mut(..ahead + into.len()).unwrap_or_default()
        } else {
            &mut *into
        };
        let read = stream.try_io(Interest::READABLE, || take(stream, ahead, is_over, room));
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(count) if count > 0 => {
                stays.store(true, Relaxed);
                room.copy_within(ahead..ahead + count, 0);
                if is_small {
                    let read = few.iter().take(count);
                    into.iter_mut().zip(read).for_each(|(to, from)| *to = *from);
                }
                return Poll::Ready(Ok(count));
            }
            read => return Poll::Ready(read),
        }
    }
}

/// Copies what there is, with the byte ahead that was delivered, and takes all of it but the last.
fn take(stream: &UnixStream, ahead: usize, is_over: bool, room: &mut [u8]) -> io::Result<usize> {
    let (count, _) = recv(stream, &mut *room, RecvFlags::PEEK)?;
    if count <= ahead {
        // Nothing at all is an end as well.
        let is_end = is_over || count == 0;
        return if is_end { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
    }
    let mut taken = 0;
    while taken < count - 1 {
        let left = room.get_mut(taken..count - 1).unwrap_or_default();
        taken += recv(stream, left, RecvFlags::empty())?.0;
    }
    Ok(count - ahead)
}

/// Whether the other side sends no more.
fn is_ended(stream: &UnixStream) -> bool {
    let mut look = pin!(stream.ready(Interest::READABLE));
    let seen = look.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    matches!(seen, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn one_of_tcp_asks_whether_its_other_end_is_there() {
        let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(server.local_addr().unwrap()).await.unwrap();
        assert!(!SockRef::from(&stream).keepalive().unwrap());
        let Socket::Tcp(stream) = Socket::tcp(stream) else { unreachable!() };
        let held = SockRef::from(&stream);
        assert!(held.keepalive().unwrap() && stream.nodelay().unwrap());
        assert_eq!(held.tcp_keepalive_time().unwrap(), KEEP_ALIVE);
    }
}
