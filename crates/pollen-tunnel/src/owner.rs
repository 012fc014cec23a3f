//! Whose the socket of a client on this machine is.
//!
//! Decides: whether it is of the user whose daemon this is, or of root; whether the kernel says so at all.
//! Does not know: what the client wants.
//! Invariants: a socket that nobody holds any more is nobody's: the kernel may say root of it. Where the kernel
//!     does not say it, nobody is let in by it.
//! Source: `sock_diag(7)`, `unix(7)`; 19 us a look-up of TCP (measured).

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
};

use pollen_plane::own_uid;
use tokio::net::UnixStream;

/// Whether a user may come here.
fn is_own(uid: u32) -> bool {
    uid == own_uid() || uid == 0
}

/// Whose a client of a unix socket is.
pub(crate) fn of_unix(stream: &UnixStream) -> Whose {
    Whose::of(stream.peer_cred().map(|peer| Some(peer.uid())))
}

/// What a socket speaks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp = 6,
    Udp = 17,
}

/// Whose a client of this machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Of a user who may come.
    Own,
    /// Of another user, or of nobody any more.
    Other,
    /// The kernel does not say.
    Unsaid,
}

impl Whose {
    fn of(held: io::Result<Option<u32>>) -> Self {
        match held {
            Ok(Some(uid)) if is_own(uid) => Self::Own,
            Ok(_) => Self::Other,
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say whose a socket is");
                Self::Unsaid
            }
        }
    }
}

/// Whose a client on this machine is: `from` is its own address, `to` the one it came to.
pub(crate) fn of_internet(kind: Kind, from: SocketAddr, to: SocketAddr) -> Whose {
    // A socket at ::ffff:127.0.0.1 is one of IPv4 to the kernel.
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Whose::of(holder(kind, plain(from), plain(to)))
}

/// Whether the kernel says whose a client at an address of this machine is. It is asked about a socket of our own:
/// without its module (`tcp_diag`, `udp_diag`) it says of each that it is gone, as of one that is.
pub(crate) fn check_says(kind: Kind, at: IpAddr) -> io::Result<()> {
    check_said(kind, at, of_internet)
}

fn check_said(
    kind: Kind,
    at: IpAddr,
    ask: impl Fn(Kind, SocketAddr, SocketAddr) -> Whose,
) -> io::Result<()> {
    let place = SocketAddr::new(at, 0);
    let whose = match kind {
        Kind::Tcp => {
            let listener = TcpListener::bind(place)?;
            let to = listener.local_addr()?;
            let client = TcpStream::connect(to)?;
            ask(kind, client.local_addr()?, to)
        }
        Kind::Udp => {
            let (server, client) = (UdpSocket::bind(place)?, UdpSocket::bind(place)?);
            ask(kind, client.local_addr()?, server.local_addr()?)
        }
    };
    if whose == Whose::Own { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// The user whose process holds the socket; `None` when no process does.
#[cfg(target_os = "linux")]
fn holder(kind: Kind, from: SocketAddr, to: SocketAddr) -> io::Result<Option<u32>> {
    use netlink_sys::{Socket, protocols::NETLINK_SOCK_DIAG};
    const ERROR: u16 = 2;
    const HEADER: usize = 16;
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    socket.send(&request(kind, from, to), 0)?;
    // The kernel answers within the send.
    let mut answer = Vec::with_capacity(4096);
    socket.recv(&mut answer, 0)?;
    let word = |at: usize| {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes)
    };
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    if kind == Some(ERROR) {
        let code = word(HEADER).unwrap_or(0).cast_signed().wrapping_neg();
        // ENOENT: it is gone.
        return if code == 2 { Ok(None) } else { Err(io::Error::from_raw_os_error(code)) };
    }
    // `inet_diag_msg`: four bytes, the addresses, three words, the user, the inode.
    let (uid, inode) = (word(HEADER + 64), word(HEADER + 68));
    Ok(inode.filter(|inode| *inode != 0).and(uid))
}

#[cfg(not(target_os = "linux"))]
fn holder(_: Kind, _: SocketAddr, _: SocketAddr) -> io::Result<Option<u32>> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Asks for one socket: `nlmsghdr` and `inet_diag_req_v2`.
#[cfg(target_os = "linux")]
fn request(kind: Kind, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    const BY_FAMILY: u16 = 20;
    const REQUEST: u16 = 1;
    // A look-up of UDP takes the two ends the other way round, for historical reasons.
    let (own, other) = if kind == Kind::Tcp { (from, to) } else { (to, from) };
    let family: u8 = if own.is_ipv4() { 2 } else { 10 };
    let mut out = Vec::with_capacity(72);
    out.extend_from_slice(&72u32.to_ne_bytes());
    out.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    out.extend_from_slice(&REQUEST.to_ne_bytes());
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[family, kind as u8, 0, 0]);
    out.extend_from_slice(&u32::MAX.to_ne_bytes());
    out.extend_from_slice(&own.port().to_be_bytes());
    out.extend_from_slice(&other.port().to_be_bytes());
    for address in [own, other] {
        let at = out.len();
        match address.ip() {
            std::net::IpAddr::V4(ip) => out.extend_from_slice(&ip.octets()),
            std::net::IpAddr::V6(ip) => out.extend_from_slice(&ip.octets()),
        }
        out.resize(at + 16, 0);
    }
    out.extend_from_slice(&0u32.to_ne_bytes());
    // No cookie.
    out.extend_from_slice(&[0xff; 8]);
    out
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_kernel_that_answers_for_no_socket_does_not_say_whose_one_is() {
        for kind in [Kind::Tcp, Kind::Udp] {
            for at in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
                let at = at.parse().unwrap();
                check_says(kind, at).unwrap();
                // Without the module it is gone, without the protocol there is an error.
                assert!(check_said(kind, at, |_, _, _| Whose::of(Ok(None))).is_err());
                let denied = || io::ErrorKind::PermissionDenied.into();
                assert!(check_said(kind, at, |_, _, _| Whose::of(Err(denied()))).is_err());
            }
        }
        assert_eq!(Whose::of(Err(io::ErrorKind::Unsupported.into())), Whose::Unsaid);
    }

    #[test]
    fn the_holder_of_a_tcp_socket_is_known_until_it_is_closed() {
        for bind in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (_server, from) = listener.accept().unwrap();
            let to = listener.local_addr().unwrap();
            assert_eq!(holder(Kind::Tcp, from, to).unwrap(), Some(own_uid()));
            drop(client);
            assert_eq!(holder(Kind::Tcp, from, to).unwrap(), None);
        }
    }

    #[test]
    fn the_holder_of_a_udp_socket_is_known_until_it_is_closed() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());
        assert_eq!(holder(Kind::Udp, from, to).unwrap(), Some(own_uid()));
        drop(client);
        assert_eq!(holder(Kind::Udp, from, to).unwrap(), None);
    }
}
