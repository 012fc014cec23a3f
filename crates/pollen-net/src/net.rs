//! The endpoint and the table of its links; `start.rs` begins, dials and accepts.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use iroh::{
    Endpoint, EndpointAddr, PublicKey, TransportAddr,
    endpoint::{
        ConnectOptions, ConnectingError, Connection, ConnectionError, TransportErrorCode, VarInt,
        WeakConnectionHandle,
    },
};
use parking_lot::{Mutex, RwLock};
use pollen_mesh::{Counts, Mesh, Prefer, address, short};
use pollen_rules::numbers::HANDSHAKE;
use pollen_wire::{
    Id, close,
    control::{Control, SignedRecord},
};
use tokio::sync::{Notify, futures::Notified, oneshot};

use crate::{
    content::ContentStore,
    error::NetError,
    lane::Lane,
    link::Link,
    slot::LaneSlot,
    transports::{self, BULK},
    up::{HelloData, Upcalls},
};

const CLOSE: Duration = Duration::from_secs(2);

/// Bulk connections that a peer may have dialled, and as many carriers. It needs one; another while
/// the first is being given up. Guess.
const OF_PEER: usize = 4;

/// Where a peer is dialled.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Aim<'a> {
    /// Over IP.
    pub(crate) addresses: &'a [SocketAddr],
    /// Through other members, too.
    pub(crate) by_mesh: bool,
}

impl Aim<'_> {
    fn to(self, peer: &Id, id: PublicKey) -> EndpointAddr {
        let ip = self.addresses.iter().map(|address| TransportAddr::Ip(*address));
        let mesh = self.by_mesh.then(|| TransportAddr::Custom(address(peer)));
        EndpointAddr::new(id).with_addrs(ip.chain(mesh))
    }
}

impl std::fmt::Display for Aim<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut all: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        all.extend(self.by_mesh.then(|| "through other members".to_owned()));
        f.write_str(&all.join(", "))
    }
}

/// A connection that a peer dialled beside its link; dropped, it is over.
pub(crate) struct Counted {
    net: Net,
    of: (Id, &'static [u8]),
    number: usize,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut accepted = self.net.0.accepted.lock();
        if let Some(held) = accepted.get_mut(&self.of) {
            held.remove(&self.number);
            if held.is_empty() {
                accepted.remove(&self.of);
            }
        }
    }
}

/// Connections by their numbers.
type Held = HashMap<usize, WeakConnectionHandle>;

/// The network side of one node; cheap to clone.
#[derive(Clone)]
pub struct Net(Arc<Inner>);

struct Inner {
    endpoint: Endpoint,
    boot: [u8; 16],
    up: Arc<dyn Upcalls>,
    content: Box<dyn ContentStore>,
    hello: RwLock<Option<Arc<HelloData>>>,
    links: RwLock<HashMap<u64, Arc<Link>>>,
    routes: RwLock<HashMap<Id, Arc<Link>>>,
    lanes: Mutex<HashMap<Id, LaneSlot>>,
    /// Bulk connections and carriers that each peer dialled.
    accepted: Mutex<HashMap<(Id, &'static [u8]), Held>>,
    joins: Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>,
    ids: AtomicU64,
    routed: Notify,
    mesh: Arc<Mesh>,
    prefer: Prefer,
    bulk_begun: Notify,
    moved: Notify,
    seen: Mutex<BTreeSet<SocketAddr>>,
    offered: tokio::sync::Mutex<BTreeSet<SocketAddr>>,
}

impl Net {
    pub(crate) fn new(
        endpoint: Endpoint,
        (mesh, prefer): (Arc<Mesh>, Prefer),
        boot: [u8; 16],
        content: Box<dyn ContentStore>,
        up: Arc<dyn Upcalls>,
    ) -> Self {
        Self(Arc::new(Inner {
            endpoint,
            boot,
            up,
            content,
            hello: RwLock::default(),
            links: RwLock::default(),
            routes: RwLock::default(),
            lanes: Mutex::default(),
            accepted: Mutex::default(),
            joins: Mutex::default(),
            ids: AtomicU64::new(1),
            routed: Notify::new(),
            mesh,
            prefer,
            bulk_begun: Notify::new(),
            moved: Notify::new(),
            seen: Mutex::default(),
            offered: tokio::sync::Mutex::default(),
        }))
    }

    /// This node's public key.
    pub fn id(&self) -> Id {
        *self.0.endpoint.id().as_bytes()
    }

    /// The addresses bound.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.0.endpoint.bound_sockets()
    }

    /// What every later Hello says; before it, peers are refused.
    pub fn set_hello(&self, hello: HelloData) {
        *self.0.hello.write() = Some(Arc::new(hello));
    }

    /// The brain admits a link; an unknown link is not an error, it is already gone.
    pub fn admit(&self, link: u64) {
        if let Some(link) = self.by_id(link) {
            let _ = link.admit();
            self.refresh(link.peer());
        }
    }

    /// The brain ends a link, or refuses one.
    pub fn close_link(&self, link: u64, code: u32, reason: &str) {
        if let Some(link) = self.by_id(link) {
            self.0.routes.write().retain(|_, held| held.id() != link.id());
            link.close(code, reason);
            self.refresh_except(link.peer(), Some(link.id()));
        }
    }

    /// Queues a message to an admitted peer.
    pub fn send_message(&self, peer: Id, body: &[u8]) -> Result<(), NetError> {
        self.speaking(peer)?.queue(&Control::Message(body))
    }

    /// Queues records to an admitted peer.
    pub fn send_records(&self, peer: Id, records: &[SignedRecord<'_>]) -> Result<(), NetError> {
        self.speaking(peer)?.queue_records(records)
    }

    /// The link over which calls to a peer go.
    pub fn link(&self, peer: Id) -> Option<Arc<Link>> {
        self.0.routes.read().get(&peer).cloned()
    }

    /// A link that was passed over carries calls again: who waits looks.
    pub(crate) fn usable_again(&self) {
        self.0.routed.notify_waiters();
    }

    /// Ends when a link to some peer has become usable.
    pub fn routed(&self) -> Notified<'_> {
        self.0.routed.notified()
    }

    /// All links over which calls may go.
    pub fn linked(&self) -> Vec<Arc<Link>> {
        self.0.routes.read().values().cloned().collect()
    }

    /// Connections of links, from their Hello to their end: those that are given up as well.
    pub fn connections(&self) -> usize {
        self.0.links.read().len()
    }

    /// Whether packets of others are passed on, and how many bytes a second in all. Nothing is, at
    /// first.
    pub fn set_relay(&self, relays: bool, bytes_per_s: u64) {
        self.0.mesh.set_relay(relays, bytes_per_s);
    }

    /// What went through other members, and what for others.
    pub fn mesh_counts(&self) -> Counts {
        self.0.mesh.counts()
    }

    /// The content store.
    pub fn content(&self) -> &dyn ContentStore {
        &*self.0.content
    }

    /// Closes every link with `shutting-down`, the endpoint and the store.
    pub async fn close(&self) {
        for link in self.greeted() {
            link.close(close::SHUTTING_DOWN, "shutting down");
        }
        let _ = tokio::time::timeout(CLOSE, self.0.endpoint.close()).await;
        let _ = tokio::time::timeout(CLOSE, self.0.content.close()).await;
    }

    pub(crate) async fn connect(
        &self,
        peer: Id,
        aim: Aim<'_>,
        alpn: &[u8],
    ) -> Result<Connection, NetError> {
        let id = PublicKey::from_bytes(&peer)
            .map_err(|e| NetError::Invalid(format!("that is not a node's key: {e}")))?;
        let to = aim.to(&peer, id);
        let options = match alpn {
            BULK => ConnectOptions::new().with_transport_config(transports::of_bulk()),
            _ => ConnectOptions::new(),
        };
        let dial = async {
            let connecting = self.0.endpoint.connect_with_opts(to, alpn, options).await;
            let connecting = connecting.map_err(|error| unreachable(&error))?;
            connecting.await.map_err(|error| match is_other_protocol(&error) {
                true => {
                    NetError::VersionMismatch("the peer speaks another protocol version".into())
                }
                false => unreachable(&error),
            })
        };
        match tokio::time::timeout(HANDSHAKE, dial).await {
            Ok(dialled) => dialled,
            Err(_) => Err(NetError::Unreachable(format!(
                "no answer within {} s from {aim}",
                HANDSHAKE.as_secs(),
            ))),
        }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.0.endpoint
    }

    pub(crate) fn mesh(&self) -> &Arc<Mesh> {
        &self.0.mesh
    }

    pub(crate) fn prefer(&self) -> &Prefer {
        &self.0.prefer
    }

    /// Rung when a bulk connection begins.
    pub(crate) fn bulk_begun(&self) -> &Notify {
        &self.0.bulk_begun
    }

    /// Rung when the packets of a link go another way.
    pub(crate) fn moved(&self) -> &Notify {
        &self.0.moved
    }

    /// Where others see this node, as the brain said last.
    pub(crate) fn seen(&self) -> &Mutex<BTreeSet<SocketAddr>> {
        &self.0.seen
    }

    /// What of it the endpoint was told; held while it is told.
    pub(crate) fn offered(&self) -> &tokio::sync::Mutex<BTreeSet<SocketAddr>> {
        &self.0.offered
    }

    /// Whether other members take packets for that peer.
    pub(crate) fn has_hops(&self, peer: &Id) -> bool {
        self.0.up.member(short(peer)).is_some_and(|member| !member.hops.is_empty())
    }

    /// All links, from their Hello to their end.
    pub(crate) fn greeted(&self) -> Vec<Arc<Link>> {
        self.0.links.read().values().cloned().collect()
    }

    pub(crate) fn up(&self) -> &dyn Upcalls {
        &*self.0.up
    }

    pub(crate) fn boot(&self) -> [u8; 16] {
        self.0.boot
    }

    pub(crate) fn hello(&self) -> Option<Arc<HelloData>> {
        self.0.hello.read().clone()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Relaxed)
    }

    pub(crate) fn joins(&self) -> &Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>> {
        &self.0.joins
    }

    pub(crate) fn lane_slot(&self, peer: Id) -> LaneSlot {
        self.0.lanes.lock().entry(peer).or_default().clone()
    }

    /// The bulk connections that this side dialled and that are alive. One that is being dialled
    /// just now is not.
    pub(crate) fn live_lanes(&self) -> Vec<(Id, Arc<Lane>)> {
        let lanes = self.0.lanes.lock();
        let held = lanes
            .iter()
            .filter_map(|(peer, slot)| Some((*peer, slot.try_lock().ok()?.alive()?.clone())));
        held.collect()
    }

    /// Who dialled a connection of that protocol.
    pub(crate) fn accepted_of(&self, alpn: &[u8]) -> Vec<Id> {
        let accepted = self.0.accepted.lock();
        accepted.keys().filter(|(_, of)| *of == alpn).map(|(peer, _)| *peer).collect()
    }

    /// Counts a connection of that protocol that a peer dialled; none when it has as many as it may.
    pub(crate) fn count_accepted(
        &self,
        connection: &Connection,
        alpn: &'static [u8],
    ) -> Option<Counted> {
        let of = (*connection.remote_id().as_bytes(), alpn);
        let number = connection.stable_id();
        let mut accepted = self.0.accepted.lock();
        let held = accepted.entry(of).or_default();
        if held.len() >= OF_PEER {
            return None;
        }
        held.insert(number, connection.weak_handle());
        Some(Counted { net: self.clone(), of, number })
    }

    /// A peer began again: nothing answers on its bulk connections and carriers from before, and
    /// while they are open new ones may be sent to where it was. Its older link is the brain's matter:
    /// a twin is told why. This link is the first with the boot that the peer has now.
    pub(crate) fn end_older(&self, link: &Link) {
        let peer = link.peer();
        let is_older = |held: &Arc<Link>| held.peer() == peer && held.boot() != link.boot();
        if !self.greeted().iter().any(is_older) {
            return;
        }
        let held = self.0.accepted.lock();
        let accepted =
            held.iter().filter(|((of, _), _)| *of == peer).flat_map(|(_, of)| of.values());
        let mut gone: Vec<_> = accepted.filter_map(WeakConnectionHandle::upgrade).collect();
        drop(held);
        let lane = self.0.lanes.lock().remove(&peer);
        gone.extend(lane.and_then(|slot| Some(slot.try_lock().ok()?.lane()?.connection.clone())));
        for connection in gone {
            connection.close(VarInt::from_u32(close::SHUTTING_DOWN), b"the peer began again");
        }
        self.0.mesh.remove(&peer);
        self.0.mesh.forgive(&peer);
    }

    pub(crate) fn insert(&self, link: &Arc<Link>) {
        self.0.links.write().insert(link.id(), link.clone());
    }

    pub(crate) fn remove(&self, link: &Arc<Link>) {
        self.0.links.write().remove(&link.id());
        self.refresh(link.peer());
        if self.link(link.peer()).is_none() {
            self.0.mesh.remove(&link.peer());
            // What runs on a bulk connection goes on, and the next stream may be opened on it.
            let is_alive = |slot: &LaneSlot| match slot.try_lock() {
                Ok(held) => held.alive().is_some(),
                Err(_) => true,
            };
            let mut lanes = self.0.lanes.lock();
            if !lanes.get(&link.peer()).is_some_and(is_alive) {
                lanes.remove(&link.peer());
            }
        }
    }

    pub(crate) fn refresh(&self, peer: Id) {
        self.refresh_except(peer, None);
    }

    /// Points the peer's route at an admitted link, keeping the present one while it is good.
    fn refresh_except(&self, peer: Id, closing: Option<u64>) {
        let links = self.0.links.read();
        let mut routes = self.0.routes.write();
        let good = |link: &Arc<Link>| link.is_admitted() && Some(link.id()) != closing;
        if routes.get(&peer).is_some_and(good) {
            return;
        }
        let next =
            links.values().filter(|link| link.peer() == peer && good(link)).min_by_key(|l| l.id());
        match next {
            Some(link) => {
                routes.insert(peer, link.clone());
                self.0.mesh.forgive(&peer);
                self.0.routed.notify_waiters();
            }
            None => drop(routes.remove(&peer)),
        }
    }

    /// The link that this brain admitted last: what it sends waits there until the peer's brain
    /// agrees. Not one that it gave up: a link that ends takes with it what was said on it.
    fn speaking(&self, peer: Id) -> Result<Arc<Link>, NetError> {
        let links = self.0.links.read();
        let link = links
            .values()
            .filter(|link| link.peer() == peer && link.is_speaking())
            .max_by_key(|link| link.id());
        link.cloned().ok_or_else(|| NetError::Unreachable("no link to that peer".into()))
    }

    fn by_id(&self, link: u64) -> Option<Arc<Link>> {
        self.0.links.read().get(&link).cloned()
    }
}

fn unreachable(error: &impl std::fmt::Display) -> NetError {
    NetError::Unreachable(format!("no link to the peer: {error:#}"))
}

/// Whether the peer offers none of our protocols: TLS alert 120, `no_application_protocol`.
fn is_other_protocol(error: &ConnectingError) -> bool {
    matches!(error, ConnectingError::ConnectionError { source: ConnectionError::ConnectionClosed(close), .. }
        if close.error_code == TransportErrorCode::crypto(120))
}
