//! What becomes of a packet: it goes over the carrier of a neighbour, which `slots` picks, to this
//! node's own connections, or nowhere. And whose packets are passed on.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};

use arrayvec::ArrayVec;
use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::{Mutex, RwLock};
use pollen_wire::{
    Id,
    packet::{HEADER, Header, Short, TTL, short},
};
use tokio::sync::mpsc;

use crate::{
    budget::Budget,
    carrier::{Carrier, Pushed},
    counters::{Counters, Counts, add},
    halves::Halves,
    inbox::Inbox,
    members::{HOPS, Member, Members},
    slots::{Candidate, Held, Slots, WAIT},
};

/// A neighbour by which a packet of a source came is a way back to it for so long.
const LEARNED: Duration = Duration::from_secs(30);
/// Such ways at most.
const LEARNED_MAX: usize = 4096;
/// Work that waits for the runtime: packets of connections that may be carriers, and neighbours to
/// be dialled.
const WORK: usize = 1024;

/// The mesh at this node.
pub struct Mesh {
    id: Id,
    me: Short,
    members: Arc<dyn Members>,
    slots: RwLock<Slots<Arc<Carrier>>>,
    learned: Mutex<HashMap<Short, (Short, Instant)>>,
    /// What may be passed on for others; nothing at first.
    budget: Mutex<Budget>,
    inbox: Inbox,
    halves: Mutex<Halves>,
    numbers: AtomicU32,
    counters: Counters,
    work: mpsc::Sender<Work>,
}

enum Work {
    Open(Id),
    Send(Short, Vec<Bytes>),
}

/// Which neighbours are to be dialled. What else waits for the runtime is done while it is asked.
pub struct Wanted {
    mesh: Arc<Mesh>,
    work: mpsc::Receiver<Work>,
}

impl Wanted {
    /// The next neighbour to dial: ends in [`carry`](crate::carry) or [`Mesh::refused`]. `None` never
    /// comes while the mesh is used.
    pub async fn next(&mut self) -> Option<Id> {
        loop {
            match self.work.recv().await? {
                Work::Open(hop) => return Some(hop),
                Work::Send(to, frames) => self.mesh.route(to, None, frames),
            }
        }
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mesh({:016x})", self.me)
    }
}

impl Mesh {
    /// Of the node with that key. Packets of others are not passed on before [`Self::set_relay`].
    pub fn new(id: Id, members: Arc<dyn Members>) -> (Arc<Self>, Wanted) {
        let (work, waiting) = mpsc::channel(WORK);
        let mesh = Arc::new(Self {
            id,
            me: short(&id),
            members,
            slots: RwLock::default(),
            learned: Mutex::default(),
            budget: Mutex::default(),
            inbox: Inbox::default(),
            halves: Mutex::default(),
            // Two nodes that halve packets of one source must not choose the same numbers.
            numbers: AtomicU32::new(getrandom::u32().unwrap_or(0)),
            counters: Counters::default(),
            work,
        });
        (mesh.clone(), Wanted { mesh, work: waiting })
    }

    /// Whether packets of others are passed on, and how many bytes a second in all.
    pub fn set_relay(&self, relays: bool, bytes_per_s: u64) {
        self.budget.lock().set(if relays { bytes_per_s } else { 0 }, Instant::now());
    }

    /// The counters at this moment.
    pub fn counts(&self) -> Counts {
        self.counters.view(self.slots.read().open())
    }

    /// The neighbour to whom a packet for that peer would go now.
    pub fn via(&self, peer: &Id) -> Option<Id> {
        let candidates = self.candidates(short(peer), None);
        let over = self.slots.read().choose(&candidates, Instant::now()).over;
        over.map(|carrier| carrier.id)
    }

    /// No carrier came of dialling that neighbour: what waited for it goes another way.
    pub fn refused(&self, hop: &Id) {
        let ring = self.slots.write().refuse(short(hop), Instant::now());
        self.reroute(ring);
    }

    /// That neighbour may be dialled again at once: its link became direct.
    pub fn forgive(&self, hop: &Id) {
        self.slots.write().forgive(short(hop));
    }

    /// That neighbour is none any more: its carrier is closed.
    pub fn remove(&self, hop: &Id) {
        let carrier = self.slots.write().remove(short(hop));
        if let Some(carrier) = carrier {
            carrier.retire();
            carrier.connection.close(pollen_wire::close::NOT_A_MEMBER.into(), b"no link");
        }
    }

    pub(crate) fn id(&self) -> &Id {
        &self.id
    }

    pub(crate) fn me(&self) -> Short {
        self.me
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// A carrier is up: what waited for it goes.
    pub(crate) fn settle(&self, carrier: &Arc<Carrier>) {
        let (ring, _) = self.slots.write().settle(carrier.peer, carrier);
        self.reroute(ring);
    }

    /// A carrier ended: what it swallowed goes another way. QUIC ignores a packet that comes twice.
    pub(crate) fn end(&self, carrier: &Arc<Carrier>, was_silent: bool) {
        carrier.retire();
        self.slots.write().end(carrier.peer, carrier, was_silent, Instant::now());
        self.reroute(carrier.give_back());
    }

    /// Sends packets of this node's own connections, each `segment` bytes long but for the last.
    pub(crate) fn send(&self, to: Short, packets: &[u8], segment: usize) {
        let header = Header::new(self.me, to).encode();
        let segment = segment.max(1);
        let count = packets.len().div_ceil(segment);
        let mut slab = BytesMut::with_capacity(packets.len() + HEADER * count);
        let mut frames = Vec::with_capacity(count);
        for packet in packets.chunks(segment) {
            slab.put_slice(&header);
            slab.put_slice(packet);
            frames.push(slab.split().freeze());
        }
        add(&self.counters.sent, frames.len());
        // Such a packet may be one of the carrier itself, whose lock is held here: over another one
        // that does the same, two locks would wait for each other.
        if !self.slots.read().has(to) {
            return self.route(to, None, frames);
        }
        if let Err(error) = self.work.try_send(Work::Send(to, frames))
            && let Work::Send(_, frames) = error.into_inner()
        {
            add(&self.counters.crowded, frames.len());
        }
    }

    /// Takes packets that came over a carrier: for this node, or to be passed on.
    pub(crate) fn arrived(&self, from: &Carrier, packets: &mut [Bytes]) {
        let mut mine = Vec::new();
        let mut onward: Option<(Header, Vec<Bytes>)> = None;
        for packet in packets.iter_mut().map(std::mem::take) {
            let Some((header, body)) = Header::decode(&packet) else { continue };
            let is_forged = header.ttl() >= TTL && header.source != from.peer;
            if is_forged || header.ttl() > TTL || header.source == self.me {
                add(&self.counters.not_allowed, 1);
            } else if header.destination == self.me {
                mine.extend(self.whole(header, packet).map(|packet| (header.source, packet)));
            } else if let Some(passed) = header.passed_on() {
                let mut frame = BytesMut::with_capacity(packet.len());
                frame.put_slice(&passed.encode());
                frame.put_slice(body);
                match &mut onward {
                    Some((held, frames)) if *held == passed => frames.push(frame.freeze()),
                    _ => {
                        let next = (passed, vec![frame.freeze()]);
                        self.pass_all(onward.replace(next), from.peer);
                    }
                }
            } else {
                add(&self.counters.expired, 1);
            }
        }
        self.pass_all(onward, from.peer);
        self.take(from.peer, mine);
    }

    /// The packet for this node that a frame has, or completes.
    fn whole(&self, header: Header, frame: Bytes) -> Option<Bytes> {
        if !header.is_known() {
            return None;
        }
        if header.is_half() {
            return self.halves.lock().join(header.source, &frame);
        }
        Some(frame.slice(HEADER..))
    }

    fn take(&self, from: Short, packets: Vec<(Short, Bytes)>) {
        let Some((source, _)) = packets.last() else { return };
        self.learn(*source, from);
        add(&self.counters.received, packets.len());
        add(&self.counters.crowded, self.inbox.put(packets));
    }

    /// Remembers the way back to a source: a fresh acceptor answers before its brain has a route.
    fn learn(&self, source: Short, via: Short) {
        let (mut learned, now) = (self.learned.lock(), Instant::now());
        if learned.len() >= LEARNED_MAX && !learned.contains_key(&source) {
            learned.retain(|_, (_, at)| now.saturating_duration_since(*at) < LEARNED);
            if learned.len() >= LEARNED_MAX {
                return;
            }
        }
        learned.insert(source, (via, now));
    }

    /// Passes packets of one source on to one destination, if both are members and there is room.
    fn pass_all(&self, packets: Option<(Header, Vec<Bytes>)>, from: Short) {
        let Some((header, frames)) = packets else { return };
        let is_member = |node| self.members.member(node).is_some();
        let may =
            self.members.is_leased() && is_member(header.source) && is_member(header.destination);
        if !may {
            return add(&self.counters.not_allowed, frames.len());
        }
        let bytes: usize = frames.iter().map(|frame| frame.len() - HEADER).sum();
        match self.budget.lock().take(bytes, Instant::now()) {
            None => return add(&self.counters.not_allowed, frames.len()),
            Some(false) => return add(&self.counters.over_budget, frames.len()),
            Some(true) => {}
        }
        add(&self.counters.passed_on, frames.len());
        add(&self.counters.passed_bytes, bytes);
        self.route(header.destination, Some(from), frames);
    }

    /// Sends packets on: over the first carrier that takes them, or to wait for one.
    fn route(&self, to: Short, from: Option<Short>, frames: Vec<Bytes>) {
        let (now, candidates) = (Instant::now(), self.candidates(to, from));
        let choice = self.slots.read().choose(&candidates, now);
        if let Some(hop) = choice.opens {
            self.want(hop, now);
        }
        if let Some(carrier) = choice.over {
            return self.count(carrier.push(&frames, from, now, &self.numbers));
        }
        let Some(hop) = choice.opens else {
            return add(&self.counters.no_way, frames.len());
        };
        let packets = frames.into_iter().map(|frame| Held { at: now, from, frame });
        add(&self.counters.crowded, self.slots.write().wait(short(&hop), packets));
    }

    /// Asks for a carrier, unless somebody did.
    fn want(&self, hop: Id, now: Instant) {
        if self.slots.write().begin(short(&hop), now)
            && self.work.try_send(Work::Open(hop)).is_err()
        {
            let dropped = self.slots.write().refuse(short(&hop), now);
            add(&self.counters.crowded, dropped.len());
        }
    }

    /// The neighbours that may take a packet, best first.
    fn candidates(&self, to: Short, from: Option<Short>) -> ArrayVec<Candidate, { HOPS + 2 }> {
        let mut all = ArrayVec::new();
        let member = self.members.member(to);
        let is_own = from.is_none();
        // At the last hop it goes to whom it is for. A packet of ours to a neighbour does not: that
        // is the path over IP, which iroh has.
        if let Some(member) = member.as_deref().filter(|_| !is_own) {
            all.push(Candidate { hop: to, id: Some(member.id) });
        }
        let hops: &[Id] = member.as_deref().map_or(&[], |Member { hops, .. }| hops);
        for id in hops.iter().take(HOPS) {
            let hop = short(id);
            // Never back to whom it came from.
            if hop != self.me && hop != to && Some(hop) != from {
                all.push(Candidate { hop, id: Some(*id) });
            }
        }
        let learned = self.learned.lock().get(&to).copied().filter(|_| is_own);
        if let Some((via, at)) = learned
            && at.elapsed() < LEARNED
            && via != to
        {
            all.push(Candidate { hop: via, id: None });
        }
        all
    }

    fn reroute(&self, packets: impl IntoIterator<Item = Held>) {
        for held in packets {
            let Some((header, _)) = Header::decode(&held.frame) else { continue };
            if held.at.elapsed() < 2 * WAIT {
                self.route(header.destination, held.from, vec![held.frame]);
            } else {
                add(&self.counters.no_way, 1);
            }
        }
    }

    fn count(&self, pushed: Pushed) {
        add(&self.counters.crowded, pushed.crowded);
        add(&self.counters.too_large, pushed.too_large);
        add(&self.counters.halved, pushed.halved);
    }
}
