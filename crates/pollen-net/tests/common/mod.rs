//! Two endpoints on loopback; the brains are played by the tests, through the events that they get.
#![allow(dead_code)]

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use iroh::{
    Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey,
    endpoint::{Connection, RecvStream, SendStream, presets},
};
use parking_lot::{Mutex, RwLock};
use pollen_net::{
    Arrived, Carries, HelloData, Link, Member, Members, Net, NetConfig, NetEvent, Short,
    TunnelStream, Upcalls, read_answer, read_frame, short,
};
use pollen_wire::{
    Id,
    control::Control,
    fetch::{FetchAnswer, FetchRequest},
    frame,
    hello::Hello,
    open::Opened,
};
use tempfile::TempDir;
use tokio::{
    sync::{Semaphore, mpsc},
    time::timeout,
};

pub const PATIENCE: Duration = Duration::from_secs(15);
pub const PLENTY: u64 = 1 << 40;
pub const CLUSTER: Id = [7; 32];
/// Nodes that have one of these alone reach each other only through others.
pub const V4: &[&str] = &["127.0.0.1:0"];
pub const V6: &[&str] = &["[::1]:0"];

/// What stands above a node's network in these tests: events go to a channel, calls are echoed.
pub struct Above {
    pub events: mpsc::UnboundedSender<NetEvent>,
    pub gives_content: AtomicBool,
    /// Requests for content that are let in yet; and all that came.
    pub allowance: AtomicUsize,
    pub asked: AtomicUsize,
    /// The pieces that were asked for, and what was left out of each.
    pub pieces: Mutex<Vec<(u32, u32)>>,
    /// Whose specs they are for; set when the node starts to itself.
    pub owner: RwLock<Id>,
    /// Who is a member, and by whom it is reached, as this node's brain would push it.
    pub members: RwLock<HashMap<Short, Arc<Member>>>,
    pub is_leased: AtomicBool,
    /// Contents whose copies could not be read.
    pub suspected: Mutex<Vec<Id>>,
}

impl Above {
    pub fn set_member(&self, id: Id, hops: &[Id]) {
        let member = Arc::new(Member { id, hops: hops.to_vec() });
        self.members.write().insert(short(&id), member);
    }
}

impl Members for Above {
    fn member(&self, short: Short) -> Option<Arc<Member>> {
        self.members.read().get(&short).cloned()
    }

    fn is_leased(&self) -> bool {
        self.is_leased.load(Relaxed)
    }
}

impl Upcalls for Above {
    fn emit(&self, event: NetEvent) -> BoxFuture<'_, ()> {
        let _ = self.events.send(event);
        Box::pin(async {})
    }

    fn serve(&self, _: &Arc<Link>, mut send: SendStream, mut recv: RecvStream) {
        tokio::spawn(async move {
            let input = recv.read_to_end(1 << 16).await.unwrap();
            send.write_all(&input).await.unwrap();
            send.finish().unwrap();
        });
    }

    fn may_fetch(&self, _: &Id, asks: &FetchRequest<'_>) -> Result<Id, &'static str> {
        self.asked.fetch_add(1, Relaxed);
        self.pieces.lock().extend(asks.piece.map(|piece| (piece, asks.skip)));
        let left = self.allowance.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        if left.is_err() || !self.gives_content.load(Relaxed) {
            return Err("denied");
        }
        Ok(*self.owner.read())
    }

    fn suspect(&self, content: Id) {
        self.suspected.lock().push(content);
    }

    fn tunnel(&self, mut arrived: Arrived) {
        tokio::spawn(async move {
            if arrived.service != "echo" {
                let slug = "service-not-found";
                return arrived.stream.refuse(&Opened { slug, reason: "no", remedy: "" }).await;
            }
            let session = arrived.session.and_then(|number| arrived.stream.session(number));
            arrived.stream.answer(&Opened::default()).await.unwrap();
            if let Some(mut session) = session {
                while let Some(datagram) = session.next().await {
                    session.send(&datagram).unwrap();
                }
            }
            let mut buffer = vec![0; 1 << 16];
            while let Ok(Some(length)) = arrived.stream.recv.read(&mut buffer).await {
                if buffer[..length] == *b"stall" {
                    std::future::pending::<()>().await;
                }
                arrived.stream.send.write_all(&buffer[..length]).await.unwrap();
            }
            let _ = arrived.stream.send.finish();
            arrived.stream.complete();
        });
    }

    fn brain_age_ms(&self) -> u32 {
        5
    }
}

pub struct TestNode {
    pub net: Net,
    pub key: SecretKey,
    pub above: Arc<Above>,
    pub events: mpsc::UnboundedReceiver<NetEvent>,
    pub folder: TempDir,
}

impl TestNode {
    pub async fn start() -> Self {
        Self::start_on(&["127.0.0.1:0"]).await
    }

    /// One that has only these addresses.
    pub async fn start_on(listen: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let above = Arc::new(Above {
            events: sender,
            gives_content: AtomicBool::new(true),
            allowance: AtomicUsize::new(usize::MAX),
            asked: AtomicUsize::new(0),
            pieces: Mutex::default(),
            owner: RwLock::new([0; 32]),
            members: RwLock::default(),
            is_leased: AtomicBool::new(true),
            suspected: Mutex::default(),
        });
        let key = SecretKey::generate();
        let config = NetConfig {
            secret: key.clone(),
            boot: [1; 16],
            listen: listen.iter().map(|address| address.parse().unwrap()).collect(),
            content: folder.path().join("content"),
        };
        let net = Net::start(config, above.clone()).await.unwrap();
        net.set_hello(hello());
        *above.owner.write() = net.id();
        Self { net, key, above, events, folder }
    }

    pub fn address(&self) -> SocketAddr {
        self.net.bound()[0]
    }

    /// The next event, within the patience of the tests; not of the way that packets go.
    pub async fn event(&mut self) -> NetEvent {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
            match event.unwrap() {
                NetEvent::PathMoved { .. } => {}
                event => return event,
            }
        }
    }

    /// The next address that a link's packets go to; empty through other members.
    pub async fn moved(&mut self) -> String {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time");
            if let NetEvent::PathMoved { address, .. } = event.unwrap() {
                return address;
            }
        }
    }

    /// The link of the Hello that comes next.
    pub async fn hello(&mut self) -> u64 {
        match self.event().await {
            NetEvent::Hello { link, .. } => link,
            other => panic!("no Hello: {other:?}"),
        }
    }

    pub async fn closed(&mut self) -> (u32, String) {
        match self.event().await {
            NetEvent::LinkClosed { code, reason, .. } => (code, reason),
            other => panic!("no end of a link: {other:?}"),
        }
    }
}

pub fn hello() -> HelloData {
    HelloData { cluster: CLUSTER, minor_min: 0, minor_max: 3, chain: b"opaque".to_vec() }
}

/// Two nodes whose brains admitted their link.
pub async fn linked() -> (TestNode, TestNode) {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    link(&mut a, &mut b).await;
    (a, b)
}

/// Two brains admit a link over IP.
pub async fn link(a: &mut TestNode, b: &mut TestNode) {
    a.net.dial(b.net.id(), b.net.bound(), false);
    admit(a, b).await;
}

/// Two brains admit the link that one of them dialled.
pub async fn admit(a: &mut TestNode, b: &mut TestNode) {
    let (at_a, at_b) = (a.hello().await, b.hello().await);
    a.net.admit(at_a);
    b.net.admit(at_b);
    until(|| a.net.link(b.net.id()).is_some() && b.net.link(a.net.id()).is_some()).await;
}

/// All of them know all others as members; by whom they are reached comes later.
pub fn introduce(nodes: &[&TestNode]) {
    for node in nodes {
        for other in nodes {
            node.above.set_member(other.net.id(), &[]);
        }
    }
}

/// A dials B through the mesh alone.
pub async fn through(a: &mut TestNode, b: &mut TestNode) {
    a.net.dial(b.net.id(), vec![], true);
    admit(a, b).await;
}

pub async fn tunnel(a: &TestNode, b: &TestNode) -> TunnelStream {
    let opened = timeout(PATIENCE, a.net.open_tunnel(b.net.id(), "echo", Carries::Stream)).await;
    let (mut stream, _) = opened.unwrap().unwrap();
    let answer = timeout(PATIENCE, read_answer(&mut stream.recv)).await;
    assert!(answer.unwrap().unwrap().is_ok());
    stream
}

/// Bytes that say where they belong.
pub fn text(from: usize, length: usize) -> Vec<u8> {
    (from..from + length).map(|at| (at.wrapping_mul(31) >> 3) as u8).collect()
}

pub async fn echo(stream: &mut TunnelStream, at: usize, length: usize) {
    let sent = text(at, length);
    let mut back = vec![0; length];
    let (send, recv) = (&mut stream.send, &mut stream.recv);
    let both = async { tokio::join!(send.write_all(&sent), recv.read_exact(&mut back)) };
    let (wrote, read) = timeout(PATIENCE, both).await.expect("an echo in time");
    wrote.unwrap();
    read.unwrap();
    assert!(back == sent, "the bytes are those that were sent");
}

pub async fn until(condition: impl Fn() -> bool) {
    timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the condition comes true in time");
}

/// A peer that speaks the transport and then whatever a test makes it say.
pub struct Stranger {
    pub connection: Connection,
    endpoint: Endpoint,
}

impl Stranger {
    pub async fn dial(node: &TestNode, alpn: &[u8]) -> Result<Self, String> {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::generate())
            .alpns(vec![b"pollen-bulk/1".to_vec()])
            .relay_mode(RelayMode::Disabled)
            .bind()
            .await
            .unwrap();
        let id = PublicKey::from_bytes(&node.net.id()).unwrap();
        let to = EndpointAddr::new(id).with_ip_addr(node.address());
        match timeout(PATIENCE, endpoint.connect(to, alpn)).await.expect("an answer in time") {
            Ok(connection) => Ok(Self { connection, endpoint }),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Another connection of the same node.
    pub async fn connect(&self, node: &TestNode, alpn: &[u8]) -> Connection {
        let id = PublicKey::from_bytes(&node.net.id()).unwrap();
        let to = EndpointAddr::new(id).with_ip_addr(node.address());
        timeout(PATIENCE, self.endpoint.connect(to, alpn)).await.unwrap().unwrap()
    }

    pub fn id(&self) -> Id {
        *self.endpoint.id().as_bytes()
    }

    /// Makes a connection its link to that node, which admits it; a carrier to it.
    pub async fn join(&self, node: &mut TestNode, connection: &Connection) -> Connection {
        let (mut send, recv) = greet(connection).await;
        let link = node.hello().await;
        node.net.admit(link);
        write(&mut send, |out| Control::Admitted.encode(out)).await;
        until(|| node.net.link(self.id()).is_some()).await;
        // Its control stream stays open.
        std::mem::forget((send, recv));
        self.connect(node, b"pollen-mesh/1").await
    }

    /// Answers every request for content with `size` zeros, whatever is asked for; each when it is let.
    pub async fn lie(self, size: u64, asked: Arc<Semaphore>, lets: Arc<Semaphore>) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            recv.read_to_end(1 << 16).await.unwrap();
            asked.add_permits(1);
            lets.acquire().await.unwrap().forget();
            write(&mut send, |out| FetchAnswer { slug: "", size: Some(size), skip: 0 }.encode(out))
                .await;
            send.write_all(&size.to_le_bytes()).await.unwrap();
            let _ = send.write_all(&vec![0; 1 << 20]).await;
            let _ = send.finish();
        }
    }

    /// Answers requests for content as a holder does that knows no rests of pieces: by what comes from
    /// another one that is asked for whole pieces, over a connection to it.
    pub async fn give_whole_pieces(self, from: Connection) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        while let Ok((mut send, mut recv)) = connection.accept_bi().await {
            let asked = read_frame(&mut recv, 1 << 16).await.unwrap();
            let asked = FetchRequest { skip: 0, ..FetchRequest::decode(&asked).unwrap() };
            let (mut to, mut given) = from.open_bi().await.unwrap();
            write(&mut to, |out| asked.encode(out)).await;
            let _ = to.finish();
            tokio::spawn(async move {
                while let Ok(Some(chunk)) = given.read_chunk(1 << 16).await {
                    if send.write_chunk(chunk).await.is_err() {
                        return;
                    }
                }
                let _ = send.finish();
            });
        }
    }

    /// Refuses each connection that it is dialled for, a while after it came; counts them.
    pub async fn refuse(self, after: Duration, dials: Arc<AtomicUsize>) {
        while let Some(incoming) = self.endpoint.accept().await {
            dials.fetch_add(1, Relaxed);
            tokio::time::sleep(after).await;
            incoming.refuse();
        }
    }

    /// Opens the control stream with a good Hello.
    pub async fn greet(&self) -> (SendStream, RecvStream) {
        greet(&self.connection).await
    }

    /// The code with which the node closed.
    pub async fn close_code(&self) -> u64 {
        match timeout(PATIENCE, self.connection.closed()).await.expect("closed in time") {
            iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
                close.error_code.into_inner()
            }
            other => panic!("closed without a code: {other}"),
        }
    }
}

async fn greet(connection: &Connection) -> (SendStream, RecvStream) {
    let (mut send, recv) = connection.open_bi().await.unwrap();
    let said = Hello { cluster: CLUSTER, minor_min: 0, minor_max: 3, boot: [2; 16], chain: b"" };
    write(&mut send, |out| said.encode(out)).await;
    (send, recv)
}

pub async fn write(send: &mut SendStream, body: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    frame::append(&mut out, 0, body);
    send.write_all(&out).await.unwrap();
}

/// A member that speaks the protocol and then whatever a test makes it say.
pub async fn hostile(node: &mut TestNode) -> (Stranger, Connection) {
    let stranger = Stranger::dial(node, b"pollen/1").await.unwrap();
    let carrier = stranger.join(node, &stranger.connection).await;
    (stranger, carrier)
}
