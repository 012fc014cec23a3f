//! Two endpoints on loopback: what passes a link, and what a peer that misbehaves meets.
//!
//! The brains are played by the tests, through the events that they get.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{
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
use pollen_net::{
    Arrived, HelloData, Link, Net, NetConfig, NetEvent, Upcalls, read_answer, read_frame,
};
use pollen_wire::{
    Id,
    control::{Control, RECORD_DOMAIN, SignedRecord},
    fetch::FetchRequest,
    frame,
    hello::Hello,
    open::Opened,
};
use tempfile::TempDir;
use tokio::{sync::mpsc, time::timeout};

const PATIENCE: Duration = Duration::from_secs(15);
const CLUSTER: Id = [7; 32];

/// What stands above a node's network in these tests: events go to a channel, calls are echoed.
struct Above {
    events: mpsc::UnboundedSender<NetEvent>,
    gives_content: AtomicBool,
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

    fn may_fetch(&self, _: &Id, _: &FetchRequest<'_>) -> Result<(), &'static str> {
        if self.gives_content.load(Relaxed) { Ok(()) } else { Err("denied") }
    }

    fn tunnel(&self, mut arrived: Arrived) {
        tokio::spawn(async move {
            if arrived.service != "echo" {
                let slug = "service-not-found";
                return arrived.stream.refuse(&Opened { slug, reason: "no", remedy: "" }).await;
            }
            arrived.stream.answer(&Opened::default()).await.unwrap();
            if let Some(mut session) = arrived.session {
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

struct TestNode {
    net: Net,
    key: SecretKey,
    above: Arc<Above>,
    events: mpsc::UnboundedReceiver<NetEvent>,
    _folder: TempDir,
}

impl TestNode {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (sender, events) = mpsc::unbounded_channel();
        let above = Arc::new(Above { events: sender, gives_content: AtomicBool::new(true) });
        let key = SecretKey::generate();
        let config = NetConfig {
            secret: key.clone(),
            boot: [1; 16],
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            content: folder.path().join("content"),
        };
        let net = Net::start(config, above.clone()).await.unwrap();
        net.set_hello(hello());
        Self { net, key, above, events, _folder: folder }
    }

    fn address(&self) -> SocketAddr {
        self.net.bound()[0]
    }

    /// The next event, within the patience of the tests.
    async fn event(&mut self) -> NetEvent {
        timeout(PATIENCE, self.events.recv()).await.expect("an event in time").unwrap()
    }

    /// The link of the Hello that comes next.
    async fn hello(&mut self) -> u64 {
        match self.event().await {
            NetEvent::Hello { link, .. } => link,
            other => panic!("no Hello: {other:?}"),
        }
    }

    async fn closed(&mut self) -> (u32, String) {
        match self.event().await {
            NetEvent::LinkClosed { code, reason, .. } => (code, reason),
            other => panic!("no end of a link: {other:?}"),
        }
    }
}

fn hello() -> HelloData {
    HelloData { cluster: CLUSTER, minor_min: 0, minor_max: 3, chain: b"opaque".to_vec() }
}

/// Two nodes whose brains admitted their link.
async fn linked() -> (TestNode, TestNode) {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    a.net.dial(b.net.id(), vec![b.address()]);
    let (at_a, at_b) = (a.hello().await, b.hello().await);
    a.net.admit(at_a);
    b.net.admit(at_b);
    until(|| a.net.link(b.net.id()).is_some() && b.net.link(a.net.id()).is_some()).await;
    (a, b)
}

async fn until(condition: impl Fn() -> bool) {
    timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
    .expect("the condition comes true in time");
}

/// A peer that speaks the transport and then whatever a test makes it say.
struct Stranger {
    connection: Connection,
    _endpoint: Endpoint,
}

impl Stranger {
    async fn dial(node: &TestNode, alpn: &[u8]) -> Result<Self, String> {
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(SecretKey::generate())
            .relay_mode(RelayMode::Disabled)
            .bind()
            .await
            .unwrap();
        let id = PublicKey::from_bytes(&node.net.id()).unwrap();
        let to = EndpointAddr::new(id).with_ip_addr(node.address());
        match timeout(PATIENCE, endpoint.connect(to, alpn)).await.expect("an answer in time") {
            Ok(connection) => Ok(Self { connection, _endpoint: endpoint }),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Opens the control stream with a good Hello.
    async fn greet(&self) -> (SendStream, RecvStream) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        let said =
            Hello { cluster: CLUSTER, minor_min: 0, minor_max: 3, boot: [2; 16], chain: b"" };
        write(&mut send, |out| said.encode(out)).await;
        (send, recv)
    }

    /// The code with which the node closed.
    async fn close_code(&self) -> u64 {
        match timeout(PATIENCE, self.connection.closed()).await.expect("closed in time") {
            iroh::endpoint::ConnectionError::ApplicationClosed(close) => {
                close.error_code.into_inner()
            }
            other => panic!("closed without a code: {other}"),
        }
    }
}

async fn write(send: &mut SendStream, body: impl FnOnce(&mut Vec<u8>)) {
    let mut out = Vec::new();
    frame::append(&mut out, 0, body);
    send.write_all(&out).await.unwrap();
}

#[tokio::test]
async fn a_hello_is_told_to_both_brains_with_its_chain_unread() {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    a.net.dial(b.net.id(), vec![b.address()]);
    let (a_id, b_id) = (a.net.id(), b.net.id());
    for (node, peer, by_us) in [(&mut a, b_id, true), (&mut b, a_id, false)] {
        let NetEvent::Hello { peer: told, dialled, hello: said, boot, .. } = node.event().await
        else {
            panic!("no Hello")
        };
        assert_eq!((told, dialled, said, boot), (peer, by_us, hello(), [1; 16]));
    }
}

#[tokio::test]
async fn nothing_flows_before_the_brain_admits() {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    a.net.dial(b.net.id(), vec![b.address()]);
    let (at_a, _at_b) = (a.hello().await, b.hello().await);
    assert!(a.net.send_message(b.net.id(), b"early").is_err());
    a.net.admit(at_a);
    a.net.send_message(b.net.id(), b"said when admitted here").unwrap();
    // The other brain has not agreed: no calls, and what was said waits unread.
    assert!(a.net.link(b.net.id()).is_none());
    assert!(timeout(Duration::from_millis(200), b.events.recv()).await.is_err());
}

#[tokio::test]
async fn messages_arrive_whole_and_in_order() {
    let (a, mut b) = linked().await;
    let large = vec![3; 1_000_000];
    a.net.send_message(b.net.id(), b"first").unwrap();
    a.net.send_message(b.net.id(), &large).unwrap();
    for expected in [b"first".to_vec(), large] {
        let NetEvent::Message { peer, body, .. } = b.event().await else { panic!("no message") };
        assert_eq!((peer, body), (a.net.id(), expected));
    }
    assert!(a.net.send_message(b.net.id(), &vec![0; 2 << 20]).is_err());
}

#[tokio::test]
async fn a_forged_record_is_counted_and_never_told() {
    let (a, mut b) = linked().await;
    let signed = |body: &[u8]| a.key.sign(&[RECORD_DOMAIN, body].concat()).to_bytes();
    let good = SignedRecord { owner: a.net.id(), body: b"good", signature: signed(b"good") };
    let altered = SignedRecord { owner: a.net.id(), body: b"bad!", signature: signed(b"good") };
    let foreign = SignedRecord { owner: b.net.id(), body: b"good", signature: signed(b"good") };
    a.net.send_records(b.net.id(), &[altered, good, foreign]).unwrap();
    let NetEvent::Records { records, rejected, .. } = b.event().await else { panic!("no records") };
    assert_eq!((records.len(), records[0].body.as_slice(), rejected), (1, b"good".as_slice(), 2));
}

#[tokio::test]
async fn a_call_stream_is_served_at_the_other_end() {
    let (a, b) = linked().await;
    let mut call = a.net.link(b.net.id()).unwrap().open_call().await.unwrap();
    call.send.write_all(b"ping").await.unwrap();
    call.send.finish().unwrap();
    assert_eq!(call.recv.read_to_end(64).await.unwrap(), b"ping");
    assert_eq!(a.net.link(b.net.id()).unwrap().calls(), 1);
    call.complete();
    drop(call);
    assert_eq!(a.net.link(b.net.id()).unwrap().calls(), 0);
}

#[tokio::test]
async fn probes_carry_the_age_of_the_brain() {
    let (a, b) = linked().await;
    let link = a.net.link(b.net.id()).unwrap();
    // 5 ms is what the other brain says; the rest is the time since the probe, under a heartbeat.
    until(|| (5..1_500).contains(&link.brain_age_ms()) && link.silent_ms() < 1_500).await;
    assert!(!link.is_ejected());
}

#[tokio::test]
async fn content_moves_verified_to_whoever_may_have_it() {
    let (a, b) = linked().await;
    let content = b.net.content().add(vec![9; 300_000].into()).await.unwrap();
    let request = || FetchRequest { seed: [1; 32], path: "module", content };
    b.above.gives_content.store(false, Relaxed);
    assert!(a.net.fetch(b.net.id(), request(), 1 << 20).await.is_err());
    assert!(!a.net.content().has(content).await.unwrap());
    b.above.gives_content.store(true, Relaxed);
    // Over the limit that the fetcher set: refused by it, nothing kept.
    assert!(a.net.fetch(b.net.id(), request(), 1_000).await.is_err());
    assert!(!a.net.content().has(content).await.unwrap());
    a.net.fetch(b.net.id(), request(), 1 << 20).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), vec![9; 300_000]);
}

#[tokio::test]
async fn a_key_that_is_no_member_may_ask_to_join() {
    let (a, mut b) = (TestNode::start().await, TestNode::start().await);
    let asking = tokio::spawn({
        let (net, peer, address) = (a.net.clone(), b.net.id(), b.address());
        async move { net.ask_join(peer, &[address], b"token").await }
    });
    let NetEvent::Join { request, peer, body, .. } = b.event().await else { panic!("no join") };
    assert_eq!((peer, body.as_slice()), (a.net.id(), b"token".as_slice()));
    b.net.answer_join(request, b"welcome".to_vec());
    assert_eq!(asking.await.unwrap().unwrap(), b"welcome");
}

#[tokio::test]
async fn a_refused_peer_sees_the_code_and_the_reason() {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    a.net.dial(b.net.id(), vec![b.address()]);
    let (at_b, _) = (b.hello().await, a.hello().await);
    b.net.close_link(at_b, 1, "not a member");
    assert_eq!(a.closed().await, (1, "not a member".to_owned()));
}

#[tokio::test]
async fn a_dial_to_nobody_is_told_as_failed() {
    let mut a = TestNode::start().await;
    let nobody = *SecretKey::generate().public().as_bytes();
    a.net.dial(nobody, vec!["127.0.0.1:9".parse().unwrap()]);
    let NetEvent::DialFailed { peer, slug, .. } = a.event().await else { panic!("no failure") };
    assert_eq!((peer, slug.as_str()), (nobody, "unreachable"));
}

#[tokio::test]
async fn garbage_instead_of_a_hello_ends_that_connection_only() {
    let mut b = TestNode::start().await;
    let stranger = Stranger::dial(&b, b"pollen/1").await.unwrap();
    let (mut send, _recv) = stranger.connection.open_bi().await.unwrap();
    write(&mut send, |out| out.extend_from_slice(b"\xc1 no Hello")).await;
    assert_eq!(stranger.close_code().await, 6);
    // Nothing was told to the brain, and the node takes the next one.
    let a = TestNode::start().await;
    a.net.dial(b.net.id(), vec![b.address()]);
    b.hello().await;
}

#[tokio::test]
async fn garbage_on_the_control_stream_ends_the_link() {
    for garbage in [b"\xc1".as_slice(), b"\x92\x02\xa1x", b"\x92\x01", b""] {
        let mut b = TestNode::start().await;
        let stranger = Stranger::dial(&b, b"pollen/1").await.unwrap();
        let (mut send, _recv) = stranger.greet().await;
        let link = b.hello().await;
        b.net.admit(link);
        write(&mut send, |out| out.extend_from_slice(garbage)).await;
        assert_eq!(stranger.close_code().await, 6, "{garbage:?}");
        b.closed().await;
    }
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_the_link_unread() {
    let mut b = TestNode::start().await;
    let stranger = Stranger::dial(&b, b"pollen/1").await.unwrap();
    let (mut send, _recv) = stranger.greet().await;
    let link = b.hello().await;
    b.net.admit(link);
    send.write_all(&u32::MAX.to_be_bytes()).await.unwrap();
    assert_eq!(stranger.close_code().await, 6);
}

#[tokio::test]
async fn a_control_frame_of_a_later_version_is_ignored() {
    let mut b = TestNode::start().await;
    let stranger = Stranger::dial(&b, b"pollen/1").await.unwrap();
    let (mut send, mut recv) = stranger.greet().await;
    let link = b.hello().await;
    b.net.admit(link);
    write(&mut send, |out| Control::Admitted.encode(out)).await;
    // [99, "x"]: a kind that nobody speaks yet.
    write(&mut send, |out| out.extend_from_slice(b"\x92\x63\xa1x")).await;
    write(&mut send, |out| Control::Message(b"known").encode(out)).await;
    let NetEvent::Message { body, .. } = b.event().await else { panic!("no message") };
    assert_eq!(body, b"known");
    // The node's own Hello and its yes have come.
    let own = read_frame(&mut recv, frame::MAX_HELLO).await.unwrap();
    assert_eq!(Hello::decode(&own).unwrap().cluster, CLUSTER);
}

#[tokio::test]
async fn a_node_of_another_protocol_version_is_told_apart_from_nobody() {
    let later = Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .alpns(vec![b"pollen/2".to_vec()])
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap()
        .bind()
        .await
        .unwrap();
    let serving = tokio::spawn({
        let later = later.clone();
        async move {
            let incoming = later.accept().await.expect("somebody dials");
            assert!(incoming.await.is_err());
        }
    });
    let mut a = TestNode::start().await;
    a.net.dial(*later.id().as_bytes(), vec![later.bound_sockets()[0]]);
    let NetEvent::DialFailed { slug, .. } = a.event().await else { panic!("no failure") };
    assert_eq!(slug, "version-mismatch");
    serving.await.unwrap();
}

#[tokio::test]
async fn closing_tells_the_peers_why() {
    let (a, mut b) = linked().await;
    a.net.close().await;
    assert_eq!(b.closed().await, (5, "shutting down".to_owned()));
    until(|| b.net.link(a.net.id()).is_none()).await;
}

#[tokio::test]
async fn a_tunnel_carries_bytes_that_were_sent_before_its_answer() {
    let (a, b) = linked().await;
    let (mut stream, _) = a.net.open_tunnel(b.net.id(), "echo", false).await.unwrap();
    stream.send.write_all(b"early").await.unwrap();
    assert_eq!(read_answer(&mut stream.recv).await.unwrap(), Ok(()));
    stream.send.finish().unwrap();
    assert_eq!(stream.recv.read_to_end(16).await.unwrap(), b"early");
    let (mut stream, _) = a.net.open_tunnel(b.net.id(), "other", false).await.unwrap();
    let refused = read_answer(&mut stream.recv).await.unwrap().unwrap_err();
    assert_eq!((&*refused.slug, &*refused.reason), ("service-not-found", "no"));
}

#[tokio::test]
async fn readers_that_never_read_do_not_stop_another_stream() {
    const STALLED: usize = 300;
    let (a, b) = linked().await;
    let written = Arc::new(AtomicUsize::new(0));
    for _ in 0..STALLED {
        let opened = async {
            let (mut stream, _) = a.net.open_tunnel(b.net.id(), "echo", false).await.unwrap();
            read_answer(&mut stream.recv).await.unwrap().unwrap();
            stream.send.write_all(b"stall").await.unwrap();
            stream
        };
        let mut stream = timeout(PATIENCE, opened).await.expect("those before stop nobody");
        let written = written.clone();
        tokio::spawn(async move {
            while let Ok(length) = stream.send.write(&[0; 16 * 1024]).await {
                written.fetch_add(length, Relaxed);
            }
        });
    }
    // The windows of all of them: 75 MiB of one connection.
    until(|| written.load(Relaxed) >= STALLED * 255 * 1024).await;
    let opened = timeout(PATIENCE, a.net.open_tunnel(b.net.id(), "echo", false)).await;
    let (mut stream, _) = opened.expect("in time").unwrap();
    stream.send.write_all(b"on").await.unwrap();
    timeout(PATIENCE, read_answer(&mut stream.recv)).await.expect("in time").unwrap().unwrap();
    stream.send.finish().unwrap();
    let back = timeout(PATIENCE, stream.recv.read_to_end(16)).await.expect("in time");
    assert_eq!(back.unwrap(), b"on");
}

#[tokio::test]
async fn datagrams_of_two_sessions_never_cross() {
    let (a, b) = linked().await;
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let (mut stream, session) = a.net.open_tunnel(b.net.id(), "echo", true).await.unwrap();
        read_answer(&mut stream.recv).await.unwrap().unwrap();
        sessions.push((stream, session.unwrap()));
    }
    for round in 0..200u32 {
        for (at, (_, session)) in sessions.iter().enumerate() {
            assert!(session.send(format!("{at} {round}").as_bytes()).unwrap());
        }
        for (at, (_, session)) in sessions.iter_mut().enumerate() {
            let back = timeout(PATIENCE, session.next()).await.expect("in time").unwrap();
            assert_eq!(back, format!("{at} {round}"));
        }
    }
    assert!(!sessions[0].1.send(&[0; 8000]).unwrap(), "too large for a datagram");
}
