//! Nodes of one process with real sockets; the brains are played here.
//!
//! The nodes are shared by the tests of a file: each reserves much address space. So each test has
//! services of its own.
#![allow(dead_code)]

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use pollen_net::{HelloData, Refusal, SecretKey};
use pollen_plane::{
    Metric, Plane, PlaneConfig,
    events::Event,
    tables::{Lane, PeerRow, Push, ServedRow, ServiceRow, Words},
};
use pollen_tunnel::{Listener, Missed, Probe, Socket, Tunnels, Want};
use pollen_wire::Id;
use tempfile::TempDir;

pub const PATIENCE: Duration = Duration::from_secs(20);
/// Tunnels that may not stay end within this time.
pub const SOON: Duration = Duration::from_secs(1);
static NUMBERS: AtomicU64 = AtomicU64::new(1);

pub struct Node {
    pub plane: Plane,
    pub tunnels: Tunnels,
    generation: Mutex<u64>,
    opened: Arc<Mutex<HashMap<u64, (String, String)>>>,
    /// To whom a client of this node wanted a link.
    pub wanted: Arc<Mutex<HashSet<Id>>>,
    _folder: TempDir,
}

pub static NODES: LazyLock<(Node, Node)> = LazyLock::new(|| {
    let (a, b) = (Node::start(), Node::start());
    link(&a, &b);
    (a, b)
});

impl Node {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (reader, wake) = UnixStream::pair().unwrap();
        wake.set_nonblocking(true).unwrap();
        let config = PlaneConfig {
            secret: SecretKey::generate(),
            boot: [1; 16],
            directory: folder.path().to_owned(),
            memory_bytes: 1 << 28,
            code_cache_bytes: 0,
            event_capacity: 1024,
            listen: vec!["127.0.0.1:0".parse().unwrap()],
        };
        let plane = Plane::start(config, wake).unwrap();
        let tunnels = Tunnels::new(plane.clone());
        let hello = HelloData { cluster: [7; 32], minor_min: 0, minor_max: 0, chain: Vec::new() };
        plane.net().set_hello(hello);
        let (opened, wanted) = (Arc::default(), Arc::default());
        let brain = brain(plane.clone(), reader, Arc::clone(&opened), Arc::clone(&wanted));
        std::thread::spawn(brain);
        Self { plane, tunnels, generation: Mutex::new(0), opened, wanted, _folder: folder }
    }

    pub fn id(&self) -> Id {
        self.plane.id()
    }

    /// Changes the tables.
    pub fn push(&self, fill: impl FnOnce(&mut Push)) {
        let mut generation = self.generation.lock();
        let mut push = Push {
            generation: *generation + 1,
            base: *generation,
            seeds: Lane::default(),
            peers: Lane::default(),
            services: Lane::default(),
            served: Lane::default(),
            lease: Duration::from_secs(3600),
        };
        fill(&mut push);
        self.plane.push(push).unwrap();
        *generation += 1;
    }

    /// This node serves what a test made.
    pub fn serve(&self, served: &ServedRow) {
        self.push(|push| push.served.rows.push(served.clone()));
    }

    /// Who provides a service, as this node sees it.
    pub fn knows(&self, served: &ServedRow, providers: &[&Node]) {
        self.knows_of(served, providers, &[]);
    }

    /// The same, where the programs of some of them fail.
    pub fn knows_of(&self, served: &ServedRow, providers: &[&Node], failing: &[&Node]) {
        let ids = |nodes: &[&Node]| nodes.iter().map(|node| node.id()).collect();
        let (providers, failing) = (ids(providers), ids(failing));
        let ServedRow { key, name, datagrams, .. } = served.clone();
        let row = ServiceRow { key, name, providers, datagrams, failing };
        self.push(|push| push.services.rows.push(row));
    }

    /// What comes of a check: slug and reason.
    pub fn probe(
        &self,
        target: &str,
        path: &str,
        timeout_ms: u64,
        proxied: bool,
    ) -> (String, String) {
        let number = NUMBERS.fetch_add(1, Relaxed);
        let (target, path) = (target.to_owned(), path.to_owned());
        let asked = Probe { number, target, path, proxy_header: proxied, timeout_ms };
        self.tunnels.probe(asked);
        until(|| self.opened.lock().contains_key(&number));
        self.opened.lock().remove(&number).unwrap()
    }

    /// Opens a listener; where it is, or the slug.
    pub fn listen(
        &self,
        service: &str,
        change: impl FnOnce(&mut Listener),
    ) -> Result<String, String> {
        let listener = NUMBERS.fetch_add(1, Relaxed);
        let mut asked = Listener {
            listener,
            bind: "127.0.0.1:0".to_owned(),
            service: service.to_owned(),
            datagrams: false,
            provider: None,
            any_user: false,
            idle_ms: 1_000,
            auth: String::new(),
        };
        change(&mut asked);
        self.tunnels.open_listener(asked);
        until(|| self.opened.lock().contains_key(&listener));
        let (bound, slug) = self.opened.lock().remove(&listener).unwrap();
        if slug.is_empty() { Ok(bound) } else { Err(slug) }
    }

    /// A client of a listener for the service.
    pub fn client(&self, service: &str) -> TcpStream {
        let bound = self.listen(service, |_| ()).unwrap();
        connect(&bound)
    }

    /// What a client is told who gets no tunnel.
    pub fn refusal(&self, service: &str) -> Refusal {
        let (near, _other) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        let want = Want::stream(service, None);
        self.plane.handle().block_on(async {
            let near = Socket::Unix(tokio::net::UnixStream::from_std(near).unwrap());
            match self.tunnels.open(&near, &want).await {
                Err(Missed::Left) | Ok(_) => panic!("a tunnel was opened"),
                Err(Missed::Refused(refusal)) => refusal,
            }
        })
    }

    pub fn metric(&self, name: &str) -> u64 {
        let found = self.tunnels.metrics().into_iter().find(|(named, _)| *named == name);
        match found {
            Some((_, Metric::Number(number))) => number,
            _ => panic!("no metric {name}"),
        }
    }

    /// How many clients were turned away for a reason.
    pub fn refused(&self, reason: &str) -> u64 {
        let found =
            self.tunnels.metrics().into_iter().find(|(named, _)| *named == "tunnel_refused");
        match found {
            Some((_, Metric::Counts(counts))) => counts[reason],
            _ => panic!("no counts"),
        }
    }
}

/// Beats, admits every link, and notes what listeners came to.
fn brain(
    plane: Plane,
    mut reader: UnixStream,
    opened: Arc<Mutex<HashMap<u64, (String, String)>>>,
    wanted: Arc<Mutex<HashSet<Id>>>,
) -> impl FnOnce() {
    reader.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    move || {
        let mut bytes = [0; 64];
        loop {
            plane.beat();
            let _ = reader.read(&mut bytes);
            for event in plane.events().drain() {
                match event {
                    Event::Hello { link, .. } => plane.net().admit(link),
                    Event::ListenerOpened { listener, bound, slug, .. } => {
                        opened.lock().insert(listener, (bound, slug));
                    }
                    Event::LinkWanted { peer } => {
                        wanted.lock().insert(peer);
                    }
                    Event::ServiceProbed { number, slug, reason } => {
                        let twice = opened.lock().insert(number, (slug, reason));
                        assert!(twice.is_none(), "a check has one result");
                    }
                    _ => {}
                }
            }
        }
    }
}

pub fn member(node: &Node) -> PeerRow {
    PeerRow {
        peer: node.id(),
        name: "node".to_owned(),
        properties: r#"{"team": "x"}"#.into(),
        price_us: 0,
        words: Words::default(),
        hops: Vec::new(),
        held: Arc::default(),
    }
}

/// Both are members of one cluster with a link between them.
pub fn link(a: &Node, b: &Node) {
    for node in [a, b] {
        node.push(|push| push.peers.rows.extend([member(a), member(b)]));
    }
    let inside = a.plane.handle().enter();
    a.plane.net().dial(b.id(), b.plane.net().bound(), false);
    drop(inside);
    until(|| a.plane.net().link(b.id()).is_some() && b.plane.net().link(a.id()).is_some());
}

pub fn until(condition: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "the condition comes true in time");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A service with a name that no other test has.
pub fn service(name: &str, target: &str) -> ServedRow {
    let mut key = [0; 32];
    key[..name.len()].copy_from_slice(name.as_bytes());
    ServedRow {
        key,
        name: name.into(),
        target: target.into(),
        datagrams: false,
        allow: Vec::new(),
        policy: None,
        proxy_header: false,
        idle_ms: 1_000,
    }
}

/// A server of which the test plays the program, at `served` by b and known to a.
pub fn at_b(name: &str) -> (TcpListener, ServedRow) {
    let (a, b) = &*NODES;
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let served = service(name, &server.local_addr().unwrap().to_string());
    b.serve(&served);
    a.knows(&served, &[b]);
    (server, served)
}

pub fn connect(bound: &str) -> TcpStream {
    let address: SocketAddr = bound.parse().unwrap();
    patient(TcpStream::connect(address).unwrap())
}

pub fn accept(server: &TcpListener) -> TcpStream {
    patient(server.accept().unwrap().0)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Both ends of an open tunnel, which has carried a byte.
pub fn tunnel(name: &str) -> (TcpStream, TcpStream, ServedRow) {
    let (server, served) = at_b(name);
    let mut client = NODES.0.client(name);
    client.write_all(b"x").unwrap();
    let mut end = accept(&server);
    end.read_exact(&mut [0]).unwrap();
    (client, end, served)
}

pub fn read_all(stream: &mut impl Read) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Waits for the end of a stream, which must be a reset.
pub fn is_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 64]).expect_err("a reset, not an end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Closes with a reset.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
