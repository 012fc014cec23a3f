//! The accept loops.
//!
//! Decides: who gets a task.
//! Does not know: what is spoken inside.
//! Invariants: a loop that cannot accept waits; a refused connection has no task, and at most
//!     `LINGERING` of them stay open.
//! Source: `accept(2)`; asyncio and nginx wait half a second to a second without files.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    net::{self, Shutdown, SocketAddr},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use pollen_net::NetError;
use pollen_plane::{CallError, Patience, PlaneError};
use tokio::{
    net::{TcpListener, TcpStream, UnixListener},
    time::{Instant, sleep, sleep_until},
};

use crate::{
    answer,
    doors::{Doors, Reason, Shared},
    gateway,
    limits::{LINGER, LINGERING},
    visitors::Crowded,
};

impl Doors {
    /// Opens the local door at `path`, which must be in a folder that only its owner enters.
    /// A socket left by a dead process is replaced; the caller holds the folder's lock.
    pub fn open_socket(&self, path: &Path) -> Result<(), PlaneError> {
        let failed = |what: &str, e: io::Error| {
            PlaneError::System(format!("cannot {what} {}: {e}", path.display()))
        };
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed("replace", e)),
            _ => {}
        }
        let handle = self.0.plane.handle();
        let _inside = handle.enter();
        let listener = UnixListener::bind(path).map_err(|e| failed("bind", e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| failed("protect", e))?;
        handle.spawn(accept_local(listener, self.0.clone()));
        Ok(())
    }

    /// Opens the TCP door; returns the bound address.
    pub fn open_http(&self, address: SocketAddr) -> Result<SocketAddr, PlaneError> {
        let taken = |e: io::Error| {
            PlaneError::Net(NetError::PortInUse(format!("cannot bind {address} (tcp): {e}")))
        };
        let handle = self.0.plane.handle();
        let listener = handle.block_on(TcpListener::bind(address)).map_err(taken)?;
        let bound = listener.local_addr().map_err(taken)?;
        handle.spawn(accept_strangers(listener, self.0.clone()));
        handle.spawn(self.0.clone().give_back());
        Ok(bound)
    }
}

async fn accept_local(listener: UnixListener, shared: Arc<Shared>) {
    let mut patience = Patience::default();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            got = listener.accept() => match got {
                Ok((stream, _)) => {
                    patience = Patience::default();
                    drop(tokio::spawn(gateway::serve_local(shared.clone(), stream)));
                }
                Err(error) => wait(&mut patience, &shared, &"call.sock", &error).await,
            },
        }
    }
}

async fn accept_strangers(listener: TcpListener, shared: Arc<Shared>) {
    let mut patience = Patience::default();
    let mut refused = Refused::default();
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = refused.next_ends(), if refused.has_any() => refused.end_old(),
            got = listener.accept() => match got {
                Ok((stream, from)) => {
                    patience = Patience::default();
                    admit(&shared, &mut refused, stream, from);
                }
                Err(error) => {
                    // Those that only linger give their files back first.
                    refused = Refused::default();
                    wait(&mut patience, &shared, &"TCP", &error).await;
                }
            },
        }
    }
}

fn admit(shared: &Arc<Shared>, refused: &mut Refused, stream: TcpStream, from: SocketAddr) {
    match shared.visitors.enter(from.ip()) {
        Ok(visit) => {
            shared.accepted.fetch_add(1, Relaxed);
            let _ = stream.set_nodelay(true);
            tokio::spawn(gateway::serve_stranger(shared.clone(), stream, from, visit));
        }
        Err(why) => {
            let reason = match why {
                Crowded::Door => Reason::Connections,
                Crowded::Address => Reason::Address,
            };
            shared.refuse(reason, &from.ip(), "answered 503");
            refused.answer(stream, why);
        }
    }
}

/// After an error the client's connection is over, or the loop waits for files.
async fn wait(
    patience: &mut Patience,
    shared: &Shared,
    door: &'static &'static str,
    error: &io::Error,
) {
    if let Some(time) = patience.after(error) {
        shared.refuse(Reason::Files, door, &error.to_string());
        sleep(time).await;
    }
}

/// Connections that were answered and refused: they stay open until the client had time to read,
/// or until others need the place.
#[derive(Default)]
struct Refused(VecDeque<(Instant, net::TcpStream)>);

impl Refused {
    /// Answers without waiting, and closes later.
    fn answer(&mut self, stream: TcpStream, why: Crowded) {
        // Non-blocking as it was: what does not fit the empty buffer of a new socket is lost.
        let Ok(mut stream) = stream.into_std() else { return };
        if stream.write_all(&crowded(why)).is_err() || stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        if self.0.len() >= LINGERING {
            self.0.pop_front().into_iter().for_each(|(_, oldest)| close(oldest));
        }
        self.0.push_back((Instant::now() + LINGER, stream));
    }

    fn has_any(&self) -> bool {
        !self.0.is_empty()
    }

    async fn next_ends(&self) {
        if let Some((ends, _)) = self.0.front() {
            sleep_until(*ends).await;
        }
    }

    fn end_old(&mut self) {
        let now = Instant::now();
        while self.0.front().is_some_and(|(ends, _)| *ends <= now) {
            self.0.pop_front().into_iter().for_each(|(_, oldest)| close(oldest));
        }
    }
}

/// What the client sent is read first: closed with bytes unread, a socket resets its peer.
fn close(mut stream: net::TcpStream) {
    let mut scratch = [0; 16 * 1024];
    let _ = stream.read(&mut scratch);
}

fn crowded(why: Crowded) -> Vec<u8> {
    let reason = match why {
        Crowded::Door => "this door has as many connections as it may",
        Crowded::Address => "your address has as many connections as it may",
    };
    answer::raw(&CallError::overloaded(reason, 1000))
}
