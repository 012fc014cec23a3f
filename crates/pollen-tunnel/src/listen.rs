//! Listeners of this machine: whoever connects gets a tunnel to a service.
//!
//! Decides: who is let in, and who is reset.
//! Does not know: how a provider is found.
//! Invariants: a loop that cannot accept waits; who is refused is reset, counted, and told in the
//!     log without filling it.
//! Source: crates/pollen-tunnel/src/limits.rs.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use pollen_net::Refusal;
use pollen_plane::{Patience, events::Event};
use pollen_wire::Id;
use tokio::{
    net::UdpSocket,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bind::{self, Bound},
    circle, client,
    datagrams::{self, UdpListener},
    limits::CONNECTIONS,
    opener::{Missed, Want},
    owner::{self, Kind, Whose},
    proxying::{self, Credentials},
    refusal::refused,
    shared::{Reason, Shared, Tunnels},
    socket::Socket,
};

/// What the brain asks for. Clients of one without a service say by a name which they want. The fields are those of `OpenListener` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Listener {
    pub listener: u64,
    pub bind: String,
    pub service: String,
    pub datagrams: bool,
    pub provider: Option<Id>,
    pub any_user: bool,
    pub idle_ms: u64,
    /// The path of a file with the users and passwords of a proxy; empty: none.
    pub auth: String,
}

/// An open one.
struct Held {
    shared: Arc<Shared>,
    want: Want,
    any_user: bool,
    credentials: Option<Credentials>,
    room: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Tunnels {
    /// Takes clients of this machine; `ListenerOpened` follows.
    pub fn open_listener(&self, asked: Listener) {
        let shared = self.0.clone();
        let stop = shared.stop.child_token();
        let number = asked.listener;
        let before = shared.listeners.lock().insert(number, stop.clone());
        // The brain uses no number twice.
        before.into_iter().for_each(|token| token.cancel());
        self.0.plane.handle().spawn(listen(shared, asked, stop));
    }

    /// Takes no more clients and ends those that there are; an unknown number is not an error.
    pub fn close_listener(&self, listener: u64) {
        if let Some(stop) = self.0.listeners.lock().remove(&listener) {
            stop.cancel();
        }
    }
}

async fn listen(shared: Arc<Shared>, asked: Listener, stop: CancellationToken) {
    let number = asked.listener;
    let opened = async {
        let is_asked = !asked.auth.is_empty();
        let credentials = is_asked.then(|| Credentials::read(&asked.auth)).transpose()?;
        Ok((open(&asked).await?, credentials))
    };
    let (bound, credentials) = match opened.await {
        Ok(opened) => opened,
        Err(refusal) => {
            shared.listeners.lock().remove(&number);
            let Refusal { slug, reason, remedy } = refusal;
            return tell(&shared, number, String::new(), slug, reason, remedy).await;
        }
    };
    let none = String::new;
    tell(&shared, number, bound.text(), none(), none(), none()).await;
    let idle = Duration::from_millis(asked.idle_ms);
    let want = Want { datagrams: asked.datagrams, ..Want::stream(asked.service, asked.provider) };
    match bound {
        Open::Datagrams(socket, _) => {
            UdpListener::new(shared, want, asked.any_user, idle, stop).run(socket).await;
        }
        Open::Streams(bound) => {
            let room = Arc::new(Semaphore::new(CONNECTIONS));
            // Whoever comes to an address of the network has no user here, and a password instead.
            let any_user = asked.any_user || (credentials.is_some() && !bound.is_of_this_machine());
            let held = Arc::new(Held { shared, want, any_user, credentials, room, stop });
            accept(&held, bound).await;
        }
    }
}

/// What clients come to.
enum Open {
    Streams(Bound),
    Datagrams(UdpSocket, SocketAddr),
}

impl Open {
    fn text(&self) -> String {
        match self {
            Self::Streams(bound) => bound.text(),
            Self::Datagrams(_, address) => address.to_string(),
        }
    }
}

async fn open(asked: &Listener) -> Result<Open, Refusal> {
    if asked.datagrams {
        let socket = datagrams::bind(&asked.bind).await?;
        let address = socket.local_addr().map_err(|e| bind::taken(&asked.bind, &e))?;
        check_users(asked, address)?;
        return Ok(Open::Datagrams(socket, address));
    }
    let bound = bind::bind(&asked.bind, asked.any_user).await?;
    if let Bound::Tcp(_, address) = &bound {
        check_users(asked, *address)?;
    }
    Ok(Open::Streams(bound))
}

/// Where nobody says whose a client is, a listener is for everybody or not at all: whoever comes to
/// an address of the network has no user here, and some kernels do not say it of any client.
fn check_users(asked: &Listener, bound: SocketAddr) -> Result<(), Refusal> {
    let ip = bound.ip().to_canonical();
    if asked.any_user || (!asked.auth.is_empty() && !ip.is_loopback()) {
        return Ok(());
    }
    if !ip.is_loopback() {
        let reason = format!("clients of {bound} have no user of this machine");
        return Err(refused("usage", reason, "listen on 127.0.0.1, or take any user"));
    }
    let kind = if asked.datagrams { Kind::Udp } else { Kind::Tcp };
    owner::check_says(kind, ip).map_err(|_| unsaid(kind))
}

/// The listener could let in nobody.
fn unsaid(kind: Kind) -> Refusal {
    if !cfg!(target_os = "linux") {
        let reason = "this system does not say which user a client of this machine is";
        return refused("usage", reason, UNSAID);
    }
    let (module, remedy) = match kind {
        Kind::Tcp => ("tcp_diag", UNSAID),
        Kind::Udp => ("udp_diag", "load the module, or take any user: --any-user"),
    };
    let reason = format!("this kernel does not say which user a client is: it lacks {module}");
    refused("usage", reason, remedy)
}

const UNSAID: &str = "listen on unix:/path, or take any user: --any-user";

async fn tell(
    shared: &Shared,
    listener: u64,
    bound: String,
    slug: String,
    reason: String,
    remedy: String,
) {
    let event = Event::ListenerOpened { listener, bound, slug, reason, remedy };
    shared.plane.events().emit(event).await;
}

async fn accept(held: &Arc<Held>, bound: Bound) {
    let mut patience = Patience::default();
    loop {
        let came = tokio::select! {
            () = held.stop.cancelled() => return,
            came = next(&bound) => came,
        };
        match came {
            Ok(came) => {
                patience = Patience::default();
                take(held, came);
            }
            Err(error) => {
                let Some(wait) = patience.after(&error) else { continue };
                held.shared.refuse(Reason::Files, &held.want.service, &error);
                tokio::select! {
                    () = held.stop.cancelled() => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}

/// Who came, with both addresses where they tell whose it is.
type Came = (Socket, Option<(SocketAddr, SocketAddr)>);

async fn next(bound: &Bound) -> io::Result<Came> {
    match bound {
        Bound::Tcp(listener, address) => {
            let (stream, from) = listener.accept().await?;
            Ok((Socket::tcp(stream), Some((from, *address))))
        }
        Bound::Unix(listener, _) => Ok((Socket::Unix(listener.accept().await?.0), None)),
    }
}

fn take(held: &Arc<Held>, (socket, addresses): Came) {
    let service = &held.want.service;
    if !held.any_user
        && let Some(reason) = Reason::against(whose(&socket, addresses))
    {
        held.shared.refuse(reason, service, &"reset");
        return socket.abort();
    }
    let Ok(room) = held.room.clone().try_acquire_owned() else {
        held.shared.refuse(Reason::Connections, service, &"reset");
        return socket.abort();
    };
    tokio::spawn(serve(held.clone(), socket, room));
}

fn whose(socket: &Socket, addresses: Option<(SocketAddr, SocketAddr)>) -> Whose {
    match (socket, addresses) {
        (Socket::Unix(stream) | Socket::Holding(stream, _), _) => owner::of_unix(stream),
        (Socket::Tcp(_), Some((from, to))) => owner::of_internet(Kind::Tcp, from, to),
        (Socket::Tcp(_), None) => Whose::Unsaid,
    }
}

async fn serve(held: Arc<Held>, near: Socket, _room: OwnedSemaphorePermit) {
    if held.want.service.is_empty() {
        let credentials = held.credentials.as_ref();
        return proxying::serve(&held.shared, near, credentials, &held.stop).await;
    }
    let want = Want { mark: circle::of_client(&near), ..held.want.clone() };
    let opened = tokio::select! {
        () = held.stop.cancelled() => return near.abort(),
        opened = client::open(&held.shared, &near, &want) => opened,
    };
    match opened {
        Ok(opened) => client::run(&held.shared, near, opened, held.stop.child_token()).await,
        Err(Missed::Left) => near.abort(),
        Err(Missed::Refused(refusal)) => {
            let what = format!("{}: {}", refusal.slug, refusal.reason);
            held.shared.refuse(Reason::Provider, &held.want.service, &what);
            near.abort();
        }
    }
}
