//! Where a service is, and the way there.
//!
//! Decides: how long it may take to accept.
//! Does not know: who asks.
//! Invariants: a peer is told the system's reason, never the address.
//! Source: crates/pollen-tunnel/src/limits.rs.

use std::{io, sync::atomic::Ordering::Relaxed};

use pollen_net::Refusal;
use pollen_plane::tables::{Entry, ServedRow};
use pollen_wire::Id;
use tokio::net::{TcpStream, UnixStream};

use crate::{limits::CONNECT, proxy, refusal::refused, socket::Socket};

/// How a path of a unix socket begins.
pub(crate) const UNIX: &str = "unix:";

/// Connects to a service for a caller, and tells it who that is where it wants to know.
pub(crate) async fn connect(entry: &Entry<ServedRow>, caller: &Id) -> Result<Socket, Refusal> {
    let row = &entry.row;
    let reached = reach(&row.target, row.proxy_header.then_some(caller));
    let why = match tokio::time::timeout(CONNECT, reached).await {
        Ok(Ok(socket)) => {
            entry.local.failing.store(0, Relaxed);
            return Ok(socket);
        }
        Ok(Err(error)) => reason_of(&error),
        Err(_) => format!("no answer within {} s", CONNECT.as_secs()),
    };
    entry.local.failing.fetch_add(1, Relaxed);
    Err(not_there(&row.name, &why))
}

/// The program of the service does not take clients.
pub(crate) fn not_there(service: &str, why: &str) -> Refusal {
    let reason = format!("service \"{service}\" takes no clients: {why}");
    refused("provider-refused", reason, "look whether its program runs; see: pln status services")
}

/// A connection to a target, with a header that says who comes where it wants one.
pub(crate) async fn reach(target: &str, told: Option<&Id>) -> io::Result<Socket> {
    let (socket, to) = dial(target).await?;
    if let Some(caller) = told {
        socket.write_all(&proxy::header(caller, to)).await?;
    }
    Ok(socket)
}

async fn dial(target: &str) -> io::Result<(Socket, Option<std::net::SocketAddr>)> {
    if let Some(path) = target.strip_prefix(UNIX) {
        return Ok((Socket::Unix(UnixStream::connect(path).await?), None));
    }
    let stream = TcpStream::connect(target).await?;
    let to = stream.peer_addr().ok();
    Ok((Socket::tcp(stream), to))
}

/// What the system says, without what our own libraries add to it.
pub(crate) fn reason_of(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code).to_string(),
        None => error.to_string(),
    }
}
