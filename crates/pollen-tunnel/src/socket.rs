//! A stream socket of this machine, TCP or unix, as a tunnel uses it.
//!
//! Decides: nothing.
//! Does not know: what runs over it.
//! Invariants: a socket that is aborted sends a reset where its kind has one.
//! Source: `tcp(7)`, `unix(7)`.

use std::{
    io,
    net::Shutdown,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A connected stream socket.
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// Of the unix family.
    Unix(UnixStream),
}

macro_rules! either {
    ($self:ident, $socket:ident => $do:expr) => {
        match $self {
            Socket::Tcp($socket) => $do,
            Socket::Unix($socket) => $do,
        }
    };
}

impl Socket {
    /// Reads; 0 is the end.
    pub(crate) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(either!(self, socket => socket.poll_read_ready(cx)))?;
            match either!(self, socket => socket.try_read(into)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
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
