//! Sessions of datagrams through two nodes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    collections::HashSet,
    net::{SocketAddr, UdpSocket},
    os::unix::process::CommandExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use common::{NODES, PATIENCE, SOON, service, until};
use pollen_plane::tables::ServedRow;

/// A program that answers each datagram with its own text behind "re:", until it is dropped.
struct Echo {
    address: SocketAddr,
    asked: Arc<parking_lot::Mutex<HashSet<SocketAddr>>>,
    stop: Arc<AtomicBool>,
}

impl Echo {
    fn start(bind: &str) -> Self {
        let socket = UdpSocket::bind(bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(1 << 22).unwrap();
        let (asked, stop): (Arc<parking_lot::Mutex<HashSet<_>>>, Arc<AtomicBool>) =
            Default::default();
        let echo = Self {
            address: socket.local_addr().unwrap(),
            asked: asked.clone(),
            stop: stop.clone(),
        };
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while !stop.load(Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                asked.lock().insert(from);
                let answer = [b"re:", &buffer[..length]].concat();
                socket.send_to(&answer, from).unwrap();
            }
        });
        echo
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Served by b, known to a, with a listener at a.
fn at_b(name: &str, target: SocketAddr) -> (String, ServedRow) {
    let (a, b) = &*NODES;
    let mut served = service(name, &target.to_string());
    (served.datagrams, served.idle_ms) = (true, 60_000);
    b.serve(&served);
    a.knows(&served, &[b]);
    (listen(name, 60_000), served)
}

fn listen(name: &str, idle_ms: u64) -> String {
    let change = |asked: &mut pollen_tunnel::Listener| {
        (asked.datagrams, asked.idle_ms) = (true, idle_ms);
    };
    NODES.0.listen(name, change).unwrap()
}

fn client(bound: &str) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(bound).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(socket: &UdpSocket, text: &[u8]) -> Vec<u8> {
    socket.send(text).unwrap();
    let mut answer = vec![0; 1 << 16];
    let length = socket.recv(&mut answer).unwrap();
    answer[..length].to_vec()
}

#[test]
fn answers_never_come_to_another_client() {
    let echo = Echo::start("127.0.0.1:0");
    let (bound, _) = at_b("crossed", echo.address);
    let clients = [client(&bound), client(&bound)];
    for round in 0..500 {
        for (at, client) in clients.iter().enumerate() {
            client.send(format!("{at} {round}").as_bytes()).unwrap();
        }
        for (at, client) in clients.iter().enumerate() {
            let mut answer = [0; 64];
            let length = client.recv(&mut answer).unwrap();
            assert_eq!(answer[..length], *format!("re:{at} {round}").as_bytes());
        }
    }
    assert_eq!(echo.asked.lock().len(), 2, "a socket for each client");
}

#[test]
fn a_datagram_of_any_size_passes_whole() {
    let echo = Echo::start("127.0.0.1:0");
    let (bound, _) = at_b("sizes", echo.address);
    let client = client(&bound);
    for size in [0, 1, 1_200, 1_400, 1_472, 8_000, 65_000] {
        let text = vec![7; size];
        assert_eq!(ask(&client, &text), [b"re:", &text[..]].concat(), "{size}");
    }
}

#[test]
fn five_thousand_a_second_pass_without_loss() {
    const A_SECOND: u32 = 5_000;
    let echo = Echo::start("127.0.0.1:0");
    let (bound, _) = at_b("fast", echo.address);
    let client = client(&bound);
    socket2::SockRef::from(&client).set_recv_buffer_size(1 << 22).unwrap();
    assert_eq!(ask(&client, b"begin"), b"re:begin");
    let sender = client.try_clone().unwrap();
    let sending = thread::spawn(move || {
        let began = Instant::now();
        for number in 0..A_SECOND {
            sender.send(&number.to_be_bytes()).unwrap();
            let due = began + Duration::from_secs(1) * number / A_SECOND;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    });
    let mut seen = HashSet::new();
    let mut answer = [0; 64];
    while seen.len() < A_SECOND as usize {
        let length =
            client.recv(&mut answer).unwrap_or_else(|e| panic!("{} came: {e}", seen.len()));
        seen.insert(answer[..length].to_vec());
    }
    sending.join().unwrap();
}

#[test]
fn an_idle_session_ends_at_both_ends_and_the_next_datagram_begins_another() {
    let (a, b) = &*NODES;
    let echo = Echo::start("127.0.0.1:0");
    let (_, mut served) = at_b("idle", echo.address);
    let bound = listen("idle", 300);
    let client = client(&bound);
    assert_eq!(ask(&client, b"1"), b"re:1");
    let open = |node: &common::Node| {
        let tables = node.plane.tables().load();
        let there = tables.served.named("idle").map(|entry| entry.local.open.load(Relaxed));
        let here = tables.services.named("idle").map(|entry| entry.local.open.load(Relaxed));
        there.unwrap_or(0) + here.unwrap_or(0)
    };
    assert_eq!((open(a), open(b)), (1, 1));
    until(|| (open(a), open(b)) == (0, 0));
    assert_eq!(ask(&client, b"2"), b"re:2");
    // The provider's own time counts as well.
    served.idle_ms = 300;
    b.serve(&served);
    let client = self::client(&listen("idle", 60_000));
    assert_eq!(ask(&client, b"3"), b"re:3");
    until(|| (open(a), open(b)) == (0, 0));
}

#[test]
fn an_idle_time_that_no_clock_reaches_is_a_long_one() {
    let echo = Echo::start("127.0.0.1:0");
    let (_, mut served) = at_b("forever", echo.address);
    served.idle_ms = u64::MAX;
    NODES.1.serve(&served);
    assert_eq!(ask(&client(&listen("forever", u64::MAX)), b"1"), b"re:1");
}

#[test]
fn a_program_that_comes_back_is_reached_in_the_same_session() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (bound, _) = at_b("back", address);
    let client = client(&bound);
    let dropped = || NODES.1.metric("tunnel_datagrams_dropped");
    let before = dropped();
    until(|| {
        client.send(b"nobody").unwrap();
        dropped() > before
    });
    let _echo = Echo::start(&address.to_string());
    client.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    until(|| {
        client.send(b"again").unwrap();
        client.recv(&mut [0; 64]).is_ok()
    });
}

#[test]
fn a_gate_that_closes_cuts_the_session() {
    let echo = Echo::start("127.0.0.1:0");
    let (bound, mut served) = at_b("shut", echo.address);
    let client = client(&bound);
    assert_eq!(ask(&client, b"1"), b"re:1");
    served.allow = vec![("team".to_owned(), "y".to_owned())];
    let began = Instant::now();
    NODES.1.serve(&served);
    let open = || {
        let tables = NODES.1.plane.tables().load();
        tables.served.named("shut").unwrap().local.open.load(Relaxed)
    };
    until(|| open() == 0);
    assert!(began.elapsed() < SOON);
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    client.send(b"2").unwrap();
    assert!(client.recv(&mut [0; 64]).is_err());
}

#[test]
fn this_nodes_own_datagrams_take_no_link() {
    let (a, _) = &*NODES;
    let echo = Echo::start("127.0.0.1:0");
    let mut served = service("near", &echo.address.to_string());
    (served.datagrams, served.idle_ms) = (true, 60_000);
    a.serve(&served);
    a.knows(&served, &[a]);
    assert_eq!(ask(&client(&listen("near", 60_000)), b"x"), b"re:x");
}

#[test]
fn another_user_of_this_machine_is_not_heard() {
    if pollen_plane::own_uid() != 0 {
        eprintln!("not root: no other user to play");
        return;
    }
    let echo = Echo::start("127.0.0.1:0");
    let (bound, _) = at_b("others", echo.address);
    let (host, port) = bound.rsplit_once(':').unwrap();
    let before = NODES.0.refused("user");
    let script = format!("exec 3<>/dev/udp/{host}/{port}; echo hello >&3; read -t 1 <&3");
    let said = Command::new("bash").arg("-c").arg(script).uid(65534).gid(65534).output().unwrap();
    assert!(!said.status.success(), "{said:?}");
    assert_eq!(NODES.0.refused("user"), before + 1);
    assert!(echo.asked.lock().is_empty());
}
