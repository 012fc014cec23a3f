//! Sessions of datagrams begin: at a listener for each address that comes, at a provider for a peer.
//!
//! Decides: which client has a session.
//! Does not know: what is in a datagram.
//! Invariants: a client has one session at a listener; what it sends meanwhile waits in order.
//! Source: docs/internals/seam.md#datagrams.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use pollen_net::{Arrived, Carries, NetError, Refusal, read_answer};
use pollen_plane::tables::{Entry, ServedRow};
use pollen_wire::{Id, open::Opened};
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    sync::{
        Semaphore,
        mpsc::{self, error::TrySendError},
    },
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    bind,
    gate::Who,
    limits::{ANSWER, CONNECT, DATAGRAMS, REFUSED, SESSIONS, UDP_BUFFER, WAITING_BYTES},
    open::{Bond, OpenTunnel},
    opener::{self, Search, Want},
    owner::{self, Kind},
    provider,
    pump::Counts,
    refusal::{crowded, lost, refused, said, unknown},
    rest::with_buffer,
    session::{self, Peer, Side, Terms, Waiting},
    shared::{Reason, Shared},
    target,
};

/// A listener of datagrams.
pub(crate) struct UdpListener {
    pub(crate) shared: Arc<Shared>,
    pub(crate) want: Want,
    pub(crate) any_user: bool,
    pub(crate) idle: Duration,
    pub(crate) stop: CancellationToken,
    clients: Mutex<HashMap<SocketAddr, Client>>,
    /// For datagrams that wait for their sessions, bytes.
    room: Arc<Semaphore>,
}

/// A client that has a session, or waits for one, or is not heard for a while.
enum Client {
    Heard(mpsc::Sender<Waiting>),
    Refused,
}

/// Binds the socket of one.
pub(crate) async fn bind(text: &str) -> Result<UdpSocket, Refusal> {
    let address = bind::address(text)?;
    let socket = UdpSocket::bind(address).await.map_err(|e| bind::taken(text, &e))?;
    widen(&socket);
    Ok(socket)
}

/// As much room as the system gives.
fn widen(socket: &UdpSocket) {
    let held = SockRef::from(socket);
    let _ = held.set_recv_buffer_size(UDP_BUFFER);
    let _ = held.set_send_buffer_size(UDP_BUFFER);
}

impl UdpListener {
    pub(crate) fn new(
        shared: Arc<Shared>,
        want: Want,
        any_user: bool,
        idle: Duration,
        stop: CancellationToken,
    ) -> Arc<Self> {
        let room = Arc::new(Semaphore::new(WAITING_BYTES));
        let clients = Mutex::default();
        Arc::new(Self { shared, want, any_user, idle, stop, clients, room })
    }

    /// Takes datagrams until it is closed.
    pub(crate) async fn run(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let Ok(bound) = socket.local_addr() else { return };
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                ready = socket.readable() => if ready.is_err() { return },
            }
            let read = with_buffer(|buffer| {
                let (length, from) = socket.try_recv_from(buffer)?;
                let datagram = Bytes::copy_from_slice(buffer.get(..length).unwrap_or_default());
                Ok::<_, io::Error>((datagram, from))
            });
            match read {
                Ok((datagram, from)) => self.take(&socket, bound, from, datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // What an answer met at a client that is gone.
                Err(_) => self.drop_one(),
            }
        }
    }

    fn drop_one(&self) {
        self.shared.dropped.fetch_add(1, Relaxed);
    }

    fn take(
        self: &Arc<Self>,
        socket: &Arc<UdpSocket>,
        bound: SocketAddr,
        from: SocketAddr,
        datagram: Bytes,
    ) {
        // One byte more, so that empty ones take room as well.
        let size = u32::try_from(datagram.len() + 1).unwrap_or(u32::MAX);
        let Ok(room) = self.room.clone().try_acquire_many_owned(size) else {
            return self.drop_one();
        };
        let mut clients = self.clients.lock();
        let count = clients.len();
        let waiting = match clients.get(&from) {
            Some(Client::Refused) => return self.drop_one(),
            Some(Client::Heard(client)) => match client.try_send((datagram, room)) {
                Ok(()) => return,
                Err(TrySendError::Full(_)) => return self.drop_one(),
                Err(TrySendError::Closed(waiting)) => waiting,
            },
            // Each waits for a provider with a task of its own.
            None if count >= SESSIONS => {
                return self.shared.refuse(Reason::Connections, &self.want.service, &"dropped");
            }
            None => (datagram, room),
        };
        if !self.any_user
            && let Some(reason) = Reason::against(owner::of_internet(Kind::Udp, from, bound))
        {
            return self.shared.refuse(reason, &self.want.service, &"dropped");
        }
        let (sender, inbox) = mpsc::channel(DATAGRAMS);
        let _ = sender.try_send(waiting);
        clients.insert(from, Client::Heard(sender));
        let near = Side::Client { inbox, socket: socket.clone(), address: from };
        tokio::spawn(self.clone().serve(near, from));
    }

    async fn serve(self: Arc<Self>, near: Side, from: SocketAddr) {
        if let Err(refusal) = self.session(near).await {
            let what = format!("{}: {}", refusal.slug, refusal.reason);
            self.shared.refuse(Reason::Provider, &self.want.service, &what);
            // What waited is given up; each datagram would ask all providers again.
            self.clients.lock().insert(from, Client::Refused);
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(REFUSED) => {}
            }
            self.clients.lock().remove(&from);
            return;
        }
        // The next datagram of this client begins another session, if it has not done so.
        let mut clients = self.clients.lock();
        if matches!(clients.get(&from), Some(Client::Heard(client)) if client.is_closed()) {
            clients.remove(&from);
        }
    }

    async fn session(&self, near: Side) -> Result<(), Refusal> {
        let shared = &self.shared;
        let counters = {
            let tables = shared.plane.tables().load();
            tables.services.named(&self.want.service).map(|entry| entry.local.clone())
        };
        let Some(counters) = counters else { return Err(unknown(&self.want.service)) };
        let used = shared.sessions.enter(shared.plane.id());
        let found = tokio::select! {
            () = self.stop.cancelled() => return Ok(()),
            () = used.displaced() => return Ok(()),
            found = find(shared, &self.want) => found,
        };
        let (far, bonds) = match found {
            Ok(found) => found,
            Err(refusal) => {
                counters.refused.fetch_add(1, Relaxed);
                return Err(refusal);
            }
        };
        let cut = self.stop.child_token();
        let open = OpenTunnel::begin(&shared.open, bonds, counters, cut);
        open.judge(&shared.plane.tables().load());
        let counted = open.counters();
        let counts = Counts { there: &counted.bytes_in, back: &counted.bytes_out };
        let dropped = &shared.dropped;
        let terms = Terms { idle: self.idle, cut: &open.cut, used: &used, counts, dropped };
        session::run(near, far, terms).await;
        Ok(())
    }
}

async fn find(shared: &Shared, want: &Want) -> Result<(Side, Vec<Bond>), Refusal> {
    let mut search = Search::new(shared, want);
    loop {
        let node = search.next().await?;
        let asked = if node == shared.plane.id() {
            ask_here(shared, want).await
        } else {
            ask_there(shared, want, node).await
        };
        match asked {
            Ok(found) => {
                search.took(node);
                return Ok(found);
            }
            Err(refusal) => search.refused(node, refusal),
        }
    }
}

async fn ask_here(shared: &Shared, want: &Want) -> Result<(Side, Vec<Bond>), Refusal> {
    let who = Who { caller: shared.plane.id(), publisher: None };
    let entry = who.judge(&shared.plane.tables().load(), &want.service, true)?;
    let bonds = Bond::of(&who, &entry);
    Ok((connect(shared, &entry).await?, bonds))
}

async fn ask_there(shared: &Shared, want: &Want, node: Id) -> Result<(Side, Vec<Bond>), Refusal> {
    let opened = async {
        let (mut stream, session) =
            shared.plane.net().open_tunnel(node, &want.service, Carries::Datagrams).await?;
        Ok::<_, NetError>((read_answer(&mut stream.recv).await?, stream, session))
    };
    let opened = timeout(ANSWER, opened).await.map_err(|_| opener::late())?;
    let (answer, stream, session) = opened.map_err(|error| lost(&error))?;
    answer?;
    let Some(session) = session else { return Err(opener::late()) };
    Ok((Side::Peer(Peer::new(session, stream)), vec![Bond::Uses { provider: node }]))
}

/// A socket of its own, so that an answer is that of one client.
async fn connect(shared: &Shared, entry: &Entry<ServedRow>) -> Result<Side, Refusal> {
    let Some(file) = shared.file() else { return Err(crowded()) };
    let reached = async {
        let mut addresses = tokio::net::lookup_host(&*entry.row.target).await?;
        let to = addresses.next().ok_or(io::ErrorKind::NotFound)?;
        let own = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(own).await?;
        socket.connect(to).await?;
        // What came between the two is of somebody else: the service was told nothing yet.
        while with_buffer(|buffer| socket.try_recv(buffer)).is_ok() {}
        widen(&socket);
        Ok::<_, io::Error>(socket)
    };
    let why = match timeout(CONNECT, reached).await {
        Ok(Ok(socket)) => return Ok(Side::Service { socket, _file: file }),
        Ok(Err(error)) => target::reason_of(&error),
        Err(_) => format!("its name was not found within {} s", CONNECT.as_secs()),
    };
    entry.local.refused.fetch_add(1, Relaxed);
    Err(target::not_there(&entry.row.name, &why))
}

/// Serves a session that a peer asked for, to its end.
pub(crate) async fn serve(shared: &Shared, mut arrived: Arrived) {
    let who = Who { caller: arrived.stream.peer(), publisher: None };
    let admitted = async {
        let entry = provider::admit(shared, &who, &arrived.service, true)?;
        Ok::<_, Refusal>((connect(shared, &entry).await?, entry))
    };
    let (near, entry) = match admitted.await {
        Ok(admitted) => admitted,
        Err(refusal) => return arrived.stream.refuse(&said(&refusal)).await,
    };
    // Not before it was let in: what waits for a session takes memory.
    let Some(session) = arrived.session.and_then(|number| arrived.stream.session(number)) else {
        let refusal = refused("bad-request", "that session exists", "");
        return arrived.stream.refuse(&said(&refusal)).await;
    };
    let used = shared.sessions.enter(who.caller);
    let bonds = Bond::of(&who, &entry);
    let open =
        OpenTunnel::begin(&shared.open, bonds, entry.local.clone(), shared.stop.child_token());
    open.judge(&shared.plane.tables().load());
    if arrived.stream.answer(&Opened::default()).await.is_err() {
        return;
    }
    let counted = open.counters();
    // Seen from here the service is near.
    let counts = Counts { there: &counted.bytes_out, back: &counted.bytes_in };
    let terms = Terms {
        idle: Duration::from_millis(entry.row.idle_ms),
        cut: &open.cut,
        used: &used,
        counts,
        dropped: &shared.dropped,
    };
    let far = Side::Peer(Peer::new(session, arrived.stream));
    session::run(near, far, terms).await;
}
