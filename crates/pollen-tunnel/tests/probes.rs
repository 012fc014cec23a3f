//! Checks of programs: what passes, and how each thing that does not is told, in bounded time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::net::UnixListener,
    thread,
    time::{Duration, Instant},
};

use common::*;

const QUICK: u64 = 400;
const LONG: u64 = 20_000;

/// A program that does `with` its one client; where it is.
fn program(with: impl FnOnce(TcpStream) + Send + 'static) -> String {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = server.local_addr().unwrap().to_string();
    thread::spawn(move || with(accept(&server)));
    target
}

/// The head of a request.
fn asked(client: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

/// What comes of a program that answers so, and then ends.
fn answered(answer: &'static [u8]) -> (String, String) {
    let target = program(move |mut client| {
        asked(&mut client);
        client.write_all(answer).unwrap();
    });
    NODES.0.probe(&target, "/healthz", LONG, false)
}

fn fails(said: (String, String), why: &str) {
    assert_eq!(said.0, "provider-refused");
    assert!(said.1.contains(why), "{}", said.1);
}

#[test]
fn a_status_from_200_to_399_passes_and_no_other() {
    for good in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.0 204\r\n\r\n", b"HTTP/1.1 399 x\r\n"] {
        assert_eq!(answered(good), (String::new(), String::new()));
    }
    fails(answered(b"HTTP/1.1 500 no\r\n\r\n"), "it answered HTTP 500");
    fails(answered(b"HTTP/1.1 404 no\r\n\r\n"), "HTTP 404");
    fails(answered(b"HTTP/1.1 199 no\r\n\r\n"), "HTTP 199");
    fails(answered(b"HTTP/1.1 400 no\r\n\r\n"), "HTTP 400");
}

#[test]
fn the_path_is_asked_for_as_it_stands_and_the_rest_is_read() {
    let (tell, told) = std::sync::mpsc::channel();
    let target = program(move |mut client| {
        let head = asked(&mut client);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        client.write_all(&[b'x'; 30_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        // Read to its end, and not reset: the other side read all that was said.
        tell.send((head, client.read(&mut [0; 8]).unwrap())).unwrap();
    });
    assert_eq!(NODES.0.probe(&target, "/up?deep=1", LONG, false).0, "");
    let (head, left) = told.recv_timeout(PATIENCE).unwrap();
    assert!(head.starts_with("GET /up?deep=1 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("\r\nHost: {target}\r\n")), "{head}");
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    assert_eq!(left, 0);
}

#[test]
fn what_is_not_http_is_said_at_once() {
    let began = Instant::now();
    let target = program(|mut client| {
        client.write_all(b"220 mail.example ESMTP\r\n").unwrap();
        // It stays, and says nothing more.
        let _ = client.read_to_end(&mut Vec::new());
    });
    fails(NODES.0.probe(&target, "/", LONG, false), "not HTTP");
    let digits = program(|mut client| {
        asked(&mut client);
        client.write_all(b"HTTP/1.1 OK!").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    });
    fails(NODES.0.probe(&digits, "/", LONG, false), "not HTTP");
    assert!(began.elapsed() < Duration::from_millis(LONG / 2));
}

#[test]
fn a_program_that_ends_or_resets_fails() {
    fails(answered(b""), "without an answer");
    fails(answered(b"HTTP/1"), "without an answer");
    let target = program(|mut client| {
        asked(&mut client);
        reset(client);
    });
    fails(NODES.0.probe(&target, "/", LONG, false), "reset");
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(NODES.0.probe(&gone, "", LONG, false), "refused");
    let said = NODES.0.probe(&gone, "/", LONG, false);
    assert!(!said.1.contains(&gone), "an address is nobody's business: {}", said.1);
}

#[test]
fn a_check_that_hangs_ends_in_its_time() {
    let silent = program(|mut client| {
        let _ = client.read_to_end(&mut Vec::new());
    });
    let halfway = program(|mut client| {
        asked(&mut client);
        client.write_all(b"HTTP/1.1 20").unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    });
    for target in [silent, halfway] {
        let began = Instant::now();
        fails(NODES.0.probe(&target, "/", QUICK, false), "no answer within 400 ms");
        assert!(began.elapsed() < Duration::from_millis(QUICK) + SOON, "{:?}", began.elapsed());
    }
}

#[test]
fn one_that_sends_without_end_passes_and_is_left() {
    let (tell, told) = std::sync::mpsc::channel();
    let target = program(move |mut client| {
        asked(&mut client);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        let mut sent = 0;
        while client.write_all(&[b'x'; 4096]).is_ok() {
            sent += 4096;
        }
        tell.send(sent).unwrap();
    });
    assert_eq!(NODES.0.probe(&target, "/", LONG, false).0, "");
    // What the buffers of both ends hold besides is not the check's.
    let sent: u64 = told.recv_timeout(Duration::from_millis(LONG / 2)).unwrap();
    assert!(sent < 64 << 20, "{sent}");
}

#[test]
fn a_program_that_accepts_passes_without_a_word() {
    let (tell, told) = std::sync::mpsc::channel();
    let target = program(move |mut client| tell.send(read_all(&mut client)).unwrap());
    assert_eq!(NODES.0.probe(&target, "", LONG, false), (String::new(), String::new()));
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), b"");
}

#[test]
fn a_program_that_wants_a_proxy_header_gets_it_first() {
    let (tell, told) = std::sync::mpsc::channel();
    let target = program(move |mut client| {
        let mut header = [0; 16 + 79];
        client.read_exact(&mut header).unwrap();
        let head = asked(&mut client);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        tell.send((header.to_vec(), head)).unwrap();
    });
    assert_eq!(NODES.0.probe(&target, "/", LONG, true).0, "");
    let (header, head) = told.recv_timeout(PATIENCE).unwrap();
    assert!(header.starts_with(b"\r\n\r\n\0\r\nQUIT\n\x21"));
    let own: String = NODES.0.id().iter().map(|byte| format!("{byte:02x}")).collect();
    assert!(header.ends_with(own.as_bytes()));
    assert!(head.starts_with("GET / "), "{head}");
}

#[test]
fn a_unix_socket_is_checked_alike() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let server = UnixListener::bind(&path).unwrap();
    let asking = thread::spawn(move || {
        let (mut client, _) = server.accept().unwrap();
        let head = asked(&mut client);
        client.write_all(b"HTTP/1.1 503 x\r\n\r\n").unwrap();
        head
    });
    fails(NODES.0.probe(&format!("unix:{}", path.display()), "/", LONG, false), "HTTP 503");
    assert!(asking.join().unwrap().contains("\r\nHost: localhost\r\n"));
    fails(NODES.0.probe("unix:/nowhere", "", LONG, false), "No such file");
}

/// Who comes to a program, in time.
fn comes(server: &TcpListener) -> TcpStream {
    server.set_nonblocking(true).unwrap();
    let mut came = None;
    let end = Instant::now() + PATIENCE;
    while came.is_none() {
        assert!(Instant::now() < end, "nobody came");
        came = server.accept().ok();
        thread::yield_now();
    }
    let (stream, _) = came.unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn a_provider_that_fails_is_passed_over_and_tried_when_nobody_is_left() {
    let (a, b) = &*NODES;
    let (good, bad) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let there = service("unfit", &good.local_addr().unwrap().to_string());
    let here = service("unfit", &bad.local_addr().unwrap().to_string());
    b.serve(&there);
    a.serve(&here);
    // This node's own is the nearest, and fails.
    a.knows_of(&there, &[a, b], &[a]);
    let mut client = a.client("unfit");
    client.write_all(b"x").unwrap();
    comes(&good).read_exact(&mut [0]).unwrap();
    a.knows_of(&there, &[a, b], &[a, b]);
    let mut client = a.client("unfit");
    client.write_all(b"x").unwrap();
    comes(&bad).read_exact(&mut [0]).unwrap();
    // One that refuses is followed by one that fails: nobody is worse off than without a check.
    drop(good);
    a.knows_of(&there, &[b, a], &[a]);
    let mut client = a.client("unfit");
    client.write_all(b"x").unwrap();
    comes(&bad).read_exact(&mut [0]).unwrap();
}

#[test]
fn one_that_lacks_a_link_is_waited_for_before_one_that_fails() {
    let (a, b) = &*NODES;
    let c = Node::start();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let bad = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = service("unlinked", &server.local_addr().unwrap().to_string());
    let near = service("unlinked", &bad.local_addr().unwrap().to_string());
    for node in [a, b, &c] {
        node.push(|push| push.peers.rows.extend([member(a), member(b), member(&c)]));
    }
    c.serve(&far);
    b.serve(&near);
    a.knows_of(&far, &[&c, b], &[b]);
    let mut client = a.client("unlinked");
    client.write_all(b"x").unwrap();
    bad.set_nonblocking(true).unwrap();
    until(|| a.wanted.lock().contains(&c.id()));
    assert!(bad.accept().is_err(), "it went to the one that fails");
    link(a, &c);
    comes(&server).read_exact(&mut [0]).unwrap();
    c.tunnels.close();
}
