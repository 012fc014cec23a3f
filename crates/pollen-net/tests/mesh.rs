//! Nodes that reach each other only through others: what passes there, and what does not.
//!
//! A node with an address of IPv4 alone and one of IPv6 alone have no other way. One in the middle
//! has both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use bytes::Bytes;
use pollen_net::{Counts, NetEvent, SecretKey};
use pollen_wire::{
    Id,
    packet::{Header, short},
};
use tokio::time::timeout;

use common::*;

const BOTH: &[&str] = &["127.0.0.1:0", "[::1]:0"];

/// A and B, and the members in the middle that have links to both.
async fn around<const N: usize>(
    a: &'static [&'static str],
    b: &'static [&'static str],
) -> (TestNode, TestNode, [TestNode; N]) {
    let (mut a, mut b) = (TestNode::start_on(a).await, TestNode::start_on(b).await);
    let mut middle = Vec::new();
    for _ in 0..N {
        let mut one = TestNode::start_on(BOTH).await;
        one.net.set_relay(true, PLENTY);
        link(&mut a, &mut one).await;
        link(&mut b, &mut one).await;
        middle.push(one);
    }
    let all: Vec<_> = [&a, &b].into_iter().chain(&middle).collect();
    introduce(&all);
    let hops: Vec<Id> = middle.iter().map(|one| one.net.id()).collect();
    a.above.set_member(b.net.id(), &hops);
    b.above.set_member(a.net.id(), &hops);
    (a, b, middle.try_into().unwrap_or_else(|_| unreachable!()))
}

#[tokio::test]
async fn a_link_comes_up_through_a_member_and_goes_direct_by_itself() {
    let (mut a, mut b, [_r]) = around::<1>(V4, V4).await;
    while a.events.try_recv().is_ok() {}
    a.net.dial(b.net.id(), vec![], true);
    let (at_a, at_b) = (a.event().await, b.hello().await);
    let NetEvent::Hello { link, remote, .. } = at_a else { panic!("no Hello: {at_a:?}") };
    a.net.admit(link);
    b.net.admit(at_b);
    assert!(remote.is_empty() || remote == b.address().to_string(), "{remote}");
    until(|| a.net.link(b.net.id()).is_some_and(|link| link.address() == Some(b.address()))).await;
    until(|| b.net.link(a.net.id()).is_some_and(|link| link.is_direct())).await;
    let told = async { while a.moved().await != b.address().to_string() {} };
    timeout(PATIENCE, told).await.expect("the brain is told where the peer is");
}

#[tokio::test]
async fn where_nothing_is_direct_a_link_stays_on_the_mesh_and_carries_all() {
    let (mut a, mut b, [r]) = around::<1>(V4, V6).await;
    while a.events.try_recv().is_ok() {}
    a.net.dial(b.net.id(), vec![], true);
    let NetEvent::Hello { link, remote, .. } = a.event().await else { panic!("no Hello") };
    assert_eq!((remote.as_str(), a.moved().await.as_str()), ("", ""));
    let at_b = b.hello().await;
    a.net.admit(link);
    b.net.admit(at_b);
    until(|| a.net.link(b.net.id()).is_some() && b.net.link(a.net.id()).is_some()).await;
    a.net.send_message(b.net.id(), &text(0, 900_000)).unwrap();
    let NetEvent::Message { body, .. } = b.event().await else { panic!("no message") };
    assert!(body == text(0, 900_000));
    let mut stream = tunnel(&a, &b).await;
    echo(&mut stream, 0, 3_000_000).await;
    let link = a.net.link(b.net.id()).unwrap();
    assert_eq!((link.is_direct(), link.address()), (false, None));
    assert_eq!(a.net.via(b.net.id()), Some(r.net.id()));
    let (counts, own) = (r.net.mesh_counts(), a.net.mesh_counts());
    assert!(counts.passed_bytes > 6_900_000 && counts.carriers == 2, "{counts:?}");
    assert!(own.sent > 0 && own.received > 0 && own.passed_on == 0, "{own:?}");
    // The first packets are as large as QUIC's must be, and a fresh carrier takes less.
    assert!(own.halved + counts.halved > 0, "{own:?} {counts:?}");
    let known = a.net.paths(b.net.id()).await;
    assert_eq!((known.paths.len(), known.paths[0].via), (1, Some(r.net.id())));
    assert!(known.paths[0].is_selected && known.paths[0].address.is_none(), "{known:?}");
}

#[tokio::test]
async fn a_member_that_ends_is_replaced_under_a_stream() {
    let (mut a, mut b, [first, second]) = around::<2>(V4, V6).await;
    through(&mut a, &mut b).await;
    let mut stream = tunnel(&a, &b).await;
    echo(&mut stream, 0, 500_000).await;
    let link = a.net.link(b.net.id()).unwrap().id();
    assert!(first.net.mesh_counts().passed_on > 0);
    first.net.close().await;
    let began = Instant::now();
    for at in 1..20 {
        echo(&mut stream, at * 10_000, 10_000).await;
    }
    assert!(second.net.mesh_counts().passed_on > 0);
    assert_eq!(a.net.link(b.net.id()).unwrap().id(), link, "the link is the same");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// Whether the link to a peer has a path through others.
async fn has_second_path(node: &TestNode, peer: Id) -> bool {
    node.net.paths(peer).await.paths.iter().any(|path| path.address.is_none())
}

#[tokio::test]
async fn a_link_that_began_directly_has_a_second_path_while_a_tunnel_is_there() {
    for dials in [true, false] {
        let (mut a, mut b, [_r]) = around(V4, V4).await;
        // Whoever dialled the link: the other end opens the tunnel.
        if dials {
            link(&mut a, &mut b).await
        } else {
            link(&mut b, &mut a).await
        }
        let (at_a, at_b) = (a.net.id(), b.net.id());
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert!(!has_second_path(&a, at_b).await, "nothing needs one yet");
        let mut stream = tunnel(&a, &b).await;
        let end = Instant::now() + PATIENCE;
        while !(has_second_path(&a, at_b).await && has_second_path(&b, at_a).await) {
            assert!(Instant::now() < end, "both ends have a second path");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let used = a.net.paths(at_b).await.paths;
        assert!(used.iter().any(|path| path.is_selected && path.address.is_some()), "{used:?}");
        echo(&mut stream, 0, 100_000).await;
    }
}

#[tokio::test]
async fn where_nobody_passes_packets_on_a_tunnel_keeps_its_direct_path() {
    let (mut a, mut b, [r]) = around(V4, V4).await;
    r.net.set_relay(false, 0);
    link(&mut a, &mut b).await;
    let mut stream = tunnel(&a, &b).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    let used = a.net.paths(b.net.id()).await.paths;
    assert!(used.iter().any(|path| path.is_selected && path.address.is_some()), "{used:?}");
    echo(&mut stream, 0, 100_000).await;
    // A stale choice would send the first packet of a new connection through others only.
    a.net.dial(b.net.id(), b.net.bound(), false);
    assert_ne!(a.hello().await, 0);
}

#[tokio::test]
async fn a_chain_of_two_members_carries_a_link() {
    let (mut a, mut b) = (TestNode::start_on(V4).await, TestNode::start_on(V6).await);
    let (mut near, mut far) = (TestNode::start_on(V4).await, TestNode::start_on(BOTH).await);
    link(&mut a, &mut near).await;
    link(&mut near, &mut far).await;
    link(&mut b, &mut far).await;
    introduce(&[&a, &b, &near, &far]);
    for (node, peer, hop) in [(&a, &b, &near), (&near, &b, &far), (&b, &a, &far), (&far, &a, &near)]
    {
        node.above.set_member(peer.net.id(), &[hop.net.id()]);
    }
    near.net.set_relay(true, PLENTY);
    far.net.set_relay(true, PLENTY);
    through(&mut a, &mut b).await;
    let mut stream = tunnel(&a, &b).await;
    echo(&mut stream, 0, 300_000).await;
    assert!(near.net.mesh_counts().passed_on > 0 && far.net.mesh_counts().passed_on > 0);
}

#[tokio::test]
async fn who_was_dialled_answers_before_its_brain_has_a_way_back() {
    let (mut a, mut b, [_r]) = around::<1>(V4, V6).await;
    b.above.members.write().clear();
    through(&mut a, &mut b).await;
    b.net.send_message(a.net.id(), b"back").unwrap();
    assert!(matches!(a.event().await, NetEvent::Message { .. }));
}

/// What the member in the middle does with the packets of a link that was up.
async fn after(change: impl FnOnce(&TestNode, &TestNode, &TestNode)) -> (Counts, Counts) {
    let (mut a, mut b, [r]) = around::<1>(V4, V6).await;
    through(&mut a, &mut b).await;
    let mut stream = tunnel(&a, &b).await;
    echo(&mut stream, 0, 1_000).await;
    change(&a, &b, &r);
    let before = r.net.mesh_counts();
    stream.send.write_all(&text(0, 10_000)).await.unwrap();
    until(|| r.net.mesh_counts().not_allowed > before.not_allowed + 3).await;
    (before, r.net.mesh_counts())
}

#[tokio::test]
async fn of_one_who_is_no_member_any_more_nothing_is_passed_on() {
    let (before, later) = after(|a, _, r| {
        r.above.members.write().remove(&short(&a.net.id()));
    })
    .await;
    assert_eq!(before.passed_on, later.passed_on);
}

#[tokio::test]
async fn without_a_lease_nothing_is_passed_on() {
    let (before, later) = after(|_, _, r| r.above.is_leased.store(false, Relaxed)).await;
    assert_eq!(before.passed_on, later.passed_on);
}

#[tokio::test]
async fn one_who_relays_no_more_passes_nothing_on() {
    let (before, later) = after(|_, _, r| r.net.set_relay(false, PLENTY)).await;
    assert_eq!(before.passed_on, later.passed_on);
}

#[tokio::test]
async fn no_more_is_passed_on_than_the_budget() {
    let (mut a, mut b, [r]) = around::<1>(V4, V6).await;
    through(&mut a, &mut b).await;
    let mut stream = tunnel(&a, &b).await;
    echo(&mut stream, 0, 1_000).await;
    let before = r.net.mesh_counts();
    let began = Instant::now();
    r.net.set_relay(true, 400_000);
    echo(&mut stream, 0, 300_000).await;
    let (counts, took) = (r.net.mesh_counts(), began.elapsed());
    let allowed = 400_000.0 * took.as_secs_f64() + 100_000.0;
    assert!(((counts.passed_bytes - before.passed_bytes) as f64) < allowed, "{counts:?} {took:?}");
    assert!(counts.over_budget > 0, "{counts:?}");
}

#[tokio::test]
async fn packets_in_a_circle_end() {
    let mut nodes = Vec::new();
    for _ in 0..4 {
        nodes.push(TestNode::start().await);
    }
    let [a, r1, r2, r3] = &mut nodes[..] else { unreachable!() };
    link(a, r1).await;
    link(r1, r2).await;
    link(r2, r3).await;
    link(r3, r1).await;
    introduce(&[a, r1, r2, r3]);
    let nobody = *SecretKey::generate().public().as_bytes();
    let circle = [(&*a, &*r1), (r1, r2), (r2, r3), (r3, r1)];
    for (node, next) in circle {
        node.above.set_member(nobody, &[next.net.id()]);
        node.net.set_relay(true, PLENTY);
    }
    a.net.dial(nobody, vec![], true);
    until(|| circle.iter().any(|(node, _)| node.net.mesh_counts().expired > 0)).await;
    let sum =
        |of: fn(&Counts) -> u64| circle.iter().map(|(node, _)| of(&node.net.mesh_counts())).sum();
    let (passed, sent): (u64, u64) = (sum(|counts| counts.passed_on), a.net.mesh_counts().sent);
    // Three members pass each packet on, and a fresh carrier takes it in two halves.
    assert!(passed <= 3 * 2 * sent, "{passed} of {sent}");
}

fn packet(source: Id, destination: Id, body: &[u8]) -> Bytes {
    [&Header::new(short(&source), short(&destination)).encode()[..], body].concat().into()
}

#[tokio::test]
async fn a_forged_source_gets_nowhere() {
    let (mut a, mut r) = linked().await;
    let (hostile, carrier) = hostile(&mut r).await;
    introduce(&[&a, &r]);
    r.above.set_member(hostile.id(), &[]);
    r.net.set_relay(true, PLENTY);
    let (a_id, r_id) = (a.net.id(), r.net.id());
    // As A to R, as R to A, and as R to itself: whoever it says it is.
    for (source, destination) in [(a_id, r_id), (r_id, a_id), (r_id, r_id), (a_id, a_id)] {
        carrier.send_datagram(packet(source, destination, &[1; 100])).unwrap();
    }
    until(|| r.net.mesh_counts().not_allowed == 4).await;
    let counts = r.net.mesh_counts();
    assert_eq!((counts.passed_on, counts.received), (0, 0));
    // Under its own name it is passed on, and what is no connection ends at A.
    carrier.send_datagram(packet(hostile.id(), a_id, &[1; 100])).unwrap();
    until(|| a.net.mesh_counts().received == 1).await;
    a.net.send_message(r_id, b"still here").unwrap();
    assert!(matches!(r.event().await, NetEvent::Message { .. }));
    assert!(timeout(Duration::from_millis(100), a.event()).await.is_err(), "no link came of it");
}

#[tokio::test]
async fn garbage_on_a_carrier_harms_nobody() {
    let mut r = TestNode::start().await;
    let (hostile, carrier) = hostile(&mut r).await;
    introduce(&[&r]);
    r.above.set_member(hostile.id(), &[]);
    let whole = packet(hostile.id(), r.net.id(), &[0x40; 60]);
    for length in 0..whole.len() {
        carrier.send_datagram(whole.slice(..length)).unwrap();
    }
    for marks in 0..=255 {
        let mut frame = whole.to_vec();
        frame[0] = marks;
        carrier.send_datagram(frame.into()).unwrap();
    }
    carrier.send_datagram(whole).unwrap();
    until(|| r.net.mesh_counts().received > 40).await;
    assert!(carrier.close_reason().is_none());
    assert!(r.net.link(hostile.id()).is_some());
}

#[tokio::test]
async fn who_has_no_link_has_no_carrier() {
    let node = TestNode::start().await;
    let stranger = Stranger::dial(&node, b"pollen-mesh/1").await.unwrap();
    assert_eq!(stranger.close_code().await, 1);
}

#[tokio::test]
async fn the_carrier_of_a_peer_whose_link_ends_is_closed() {
    let mut node = TestNode::start().await;
    let (hostile, carrier) = hostile(&mut node).await;
    introduce(&[&node]);
    carrier.send_datagram(packet(hostile.id(), node.net.id(), &[1; 50])).unwrap();
    until(|| node.net.mesh_counts().carriers == 1).await;
    let link = node.net.link(hostile.id()).unwrap().id();
    node.net.close_link(link, 4, "denied");
    timeout(PATIENCE, carrier.closed()).await.expect("closed in time");
    assert_eq!(node.net.mesh_counts().carriers, 0);
}
