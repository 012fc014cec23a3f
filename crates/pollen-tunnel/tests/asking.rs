//! A guest asks a service: all that it says, and then all that the service says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener},
    thread,
    time::Duration,
};

use bytes::Bytes;
use pollen_net::Refusal;
use pollen_plane::{ServiceAsk, tables::PeerRow};
use pollen_wire::Id;

use common::{NODES, Node, accept, at_b, link, member, read_all, reset, service, until};

const MOST: usize = 1 << 20;
/// A member that runs no node here.
const PUBLISHER: Id = [7; 32];

fn asked(node: &Node, publisher: Id, name: &str, input: &[u8]) -> Result<Bytes, Refusal> {
    let input = Bytes::copy_from_slice(input);
    let ask = ServiceAsk { service: name.into(), publisher: Some(publisher), input, most: MOST };
    node.plane.handle().block_on(node.tunnels.ask(ask))
}

/// As this node would ask for a seed of its own.
fn own(name: &str, input: &[u8]) -> Result<Bytes, Refusal> {
    asked(&NODES.0, NODES.0.id(), name, input)
}

#[test]
fn all_of_it_is_said_before_the_answer_and_each_end_is_told() {
    let (server, served) = at_b("asked");
    let question: Vec<u8> = (0..3_000_000u32).map(|i| (i * 31 % 251) as u8).collect();
    let expected = question.clone();
    let program = thread::spawn(move || {
        for _ in 0..3 {
            let mut end = accept(&server);
            let heard = read_all(&mut end);
            end.write_all(format!("{} {}", heard.len(), heard == expected).as_bytes()).unwrap();
        }
    });
    assert_eq!(own("asked", &question).unwrap(), &b"3000000 true"[..]);
    assert_eq!(own("asked", b"").unwrap(), &b"0 false"[..]);
    // At the node where it is served, no peer is between.
    let (a, b) = &*NODES;
    b.knows(&served, &[b]);
    assert_eq!(asked(b, a.id(), "asked", &question).unwrap(), &b"3000000 true"[..]);
    program.join().unwrap();
    let counted = a.plane.tables().load().services.named("asked").unwrap().local.clone();
    let read =
        |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!((read(&counted.opened), read(&counted.open)), (2, 0));
    assert_eq!((read(&counted.bytes_in), read(&counted.bytes_out)), (3_000_000, 12 + 7));
}

#[test]
fn an_answer_that_comes_before_the_question_was_read_counts() {
    let (server, _) = at_b("hasty");
    let program = thread::spawn(move || {
        let mut end = accept(&server);
        end.read_exact(&mut [0; 1]).unwrap();
        end.write_all(b"no").unwrap();
        end.shutdown(Shutdown::Write).unwrap();
        // Open until the answer has arrived: a close with bytes unread is a reset.
        end
    });
    assert_eq!(own("hasty", &vec![1; 8_000_000]).unwrap(), &b"no"[..]);
    drop(program.join().unwrap());
}

#[test]
fn an_answer_that_breaks_off_or_is_too_long_is_no_answer() {
    let (server, _) = at_b("broken");
    let program = thread::spawn(move || {
        let mut end = accept(&server);
        // The question's end: a reset before it may come while the provider still connects.
        assert_eq!(end.read(&mut [0; 1]).unwrap(), 0);
        end.write_all(b"half of").unwrap();
        reset(end);
        let mut end = accept(&server);
        let _ = end.write_all(&vec![0; MOST + 1]);
        let mut end = accept(&server);
        end.write_all(&vec![0; MOST]).unwrap();
    });
    assert_eq!(own("broken", b"").unwrap_err().slug, "unreachable");
    let told = own("broken", b"").unwrap_err();
    assert_eq!(told.slug, "bad-request");
    assert!(told.reason.contains("over the limit of 1048576 bytes"), "{}", told.reason);
    assert_eq!(own("broken", b"").unwrap().len(), MOST);
    program.join().unwrap();
}

#[test]
fn the_node_and_the_publisher_of_the_seed_must_both_be_let_in() {
    let (a, b) = (Node::start(), Node::start());
    link(&a, &b);
    let publisher = |team: &str| PeerRow {
        peer: PUBLISHER,
        properties: format!("{{\"team\": \"{team}\"}}").into(),
        ..member(&a)
    };
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut served = service("both", &server.local_addr().unwrap().to_string());
    served.allow = vec![("team".to_owned(), "x".to_owned())];
    b.serve(&served);
    for node in [&a, &b] {
        node.knows(&served, &[&b]);
    }
    // The publisher is no member: at its own node and at another one.
    for node in [&a, &b] {
        let told = asked(node, PUBLISHER, "both", b"").unwrap_err();
        assert_eq!(told.slug, "denied");
        assert!(told.reason.contains("publisher of the guest's seed"), "{}", told.reason);
    }
    // It is one, of another team.
    b.push(|push| push.peers.rows.push(publisher("y")));
    assert_eq!(asked(&a, PUBLISHER, "both", b"").unwrap_err().slug, "denied");
    b.push(|push| push.peers.rows.push(publisher("x")));
    let program = thread::spawn(move || {
        accept(&server).write_all(b"yes").unwrap();
        let held = accept(&server);
        (held, server)
    });
    assert_eq!(asked(&a, PUBLISHER, "both", b"").unwrap(), &b"yes"[..]);
    // It loses what lets it in while it asks: the tunnel is cut at the push.
    let asking = thread::scope(|scope| {
        let asking = scope.spawn(|| asked(&a, PUBLISHER, "both", b"").unwrap_err().slug);
        let held = program.join().unwrap();
        b.push(|push| push.peers.rows.push(publisher("y")));
        let slug = asking.join().unwrap();
        drop(held);
        slug
    });
    assert_eq!(asking, "unreachable");
    // The publisher is let in, and the node is not.
    b.push(|push| {
        let shut = PeerRow { properties: r#"{"team": "y"}"#.into(), ..member(&a) };
        push.peers.rows.extend([publisher("x"), shut]);
    });
    let told = asked(&a, PUBLISHER, "both", b"").unwrap_err();
    assert_eq!(told.slug, "denied");
    assert!(!told.reason.contains("publisher"), "{}", told.reason);
}

#[test]
fn one_that_is_given_up_breaks_the_tunnel() {
    let (server, _) = at_b("given-up");
    let node = &NODES.0;
    let input = Bytes::from_static(b"hello");
    let ask =
        ServiceAsk { service: "given-up".into(), publisher: Some(node.id()), input, most: MOST };
    let soon = Duration::from_millis(300);
    let late = node
        .plane
        .handle()
        .block_on(async { tokio::time::timeout(soon, node.tunnels.ask(ask)).await.is_err() });
    assert!(late);
    let mut end = accept(&server);
    end.read_exact(&mut [0; 5]).unwrap();
    until(|| (&end).write(&[0]).is_err());
}

#[test]
fn what_is_not_there_is_refused() {
    assert_eq!(own("nobody-asked", b"").unwrap_err().slug, "service-not-found");
    let served = service("not-there", "127.0.0.1:9");
    NODES.1.serve(&served);
    NODES.0.knows(&served, &[&NODES.1]);
    assert_eq!(own("not-there", b"").unwrap_err().slug, "provider-refused");
}
