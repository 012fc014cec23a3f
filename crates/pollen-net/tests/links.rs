//! Two endpoints on loopback: what passes a link, and what a peer that misbehaves meets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::time::Duration;

use iroh::{Endpoint, RelayMode, SecretKey, endpoint::presets};
use pollen_net::{NetEvent, read_frame};
use pollen_wire::{
    control::{Control, RECORD_DOMAIN, SignedRecord},
    frame,
    hello::Hello,
};
use tokio::time::timeout;

use common::*;

#[tokio::test]
async fn a_hello_is_told_to_both_brains_with_its_chain_unread() {
    let (mut a, mut b) = (TestNode::start().await, TestNode::start().await);
    a.net.dial(b.net.id(), vec![b.address()], false);
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
    a.net.dial(b.net.id(), vec![b.address()], false);
    let (at_a, _at_b) = (a.hello().await, b.hello().await);
    assert!(a.net.send_message(b.net.id(), b"early").is_err());
    a.net.admit(at_a);
    a.net.send_message(b.net.id(), b"said when admitted here").unwrap();
    // The other brain has not agreed: no calls, and what was said waits unread.
    assert!(a.net.link(b.net.id()).is_none());
    assert!(timeout(Duration::from_millis(200), b.event()).await.is_err());
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
    a.net.dial(b.net.id(), vec![b.address()], false);
    let (at_b, _) = (b.hello().await, a.hello().await);
    b.net.close_link(at_b, 1, "not a member");
    assert_eq!(a.closed().await, (1, "not a member".to_owned()));
}

#[tokio::test]
async fn a_dial_to_nobody_is_told_as_failed() {
    let mut a = TestNode::start().await;
    let nobody = *SecretKey::generate().public().as_bytes();
    a.net.dial(nobody, vec!["127.0.0.1:9".parse().unwrap()], false);
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
    a.net.dial(b.net.id(), vec![b.address()], false);
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
    a.net.dial(*later.id().as_bytes(), vec![later.bound_sockets()[0]], false);
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
