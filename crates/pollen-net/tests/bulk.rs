//! Two endpoints on loopback: content and tunnels beside their link.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use iroh::{Endpoint, EndpointAddr, PublicKey, RelayMode, endpoint::presets};
use pollen_net::{Carries, NetError, read_answer};
use pollen_wire::fetch::FetchRequest;
use tokio::time::timeout;

use common::*;

#[tokio::test]
async fn content_moves_verified_to_whoever_may_have_it() {
    let (a, b) = linked().await;
    let content = b.net.content().add(vec![9; 300_000].into()).await.unwrap();
    let request = FetchRequest { seed: [1; 32], path: "module", content, piece: None, skip: 0 };
    let holders = [b.net.id()];
    b.above.gives_content.store(false, Relaxed);
    assert!(a.net.fetch(&holders, request, 1 << 20, b.net.id()).await.is_err());
    assert!(!a.net.content().has(content).await.unwrap());
    b.above.gives_content.store(true, Relaxed);
    // Over the limit that the fetcher set: refused by it, nothing kept.
    assert!(a.net.fetch(&holders, request, 1_000, b.net.id()).await.is_err());
    assert!(!a.net.content().has(content).await.unwrap());
    a.net.fetch(&holders, request, 1 << 20, b.net.id()).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), vec![9; 300_000]);
}

#[tokio::test]
async fn a_tunnel_carries_bytes_that_were_sent_before_its_answer() {
    let (a, b) = linked().await;
    let (mut stream, _) = a.net.open_tunnel(b.net.id(), "echo", Carries::Stream).await.unwrap();
    stream.send.write_all(b"early").await.unwrap();
    assert_eq!(read_answer(&mut stream.recv).await.unwrap(), Ok(()));
    stream.send.finish().unwrap();
    assert_eq!(stream.recv.read_to_end(16).await.unwrap(), b"early");
    let (mut stream, _) = a.net.open_tunnel(b.net.id(), "other", Carries::Stream).await.unwrap();
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
            let (mut stream, _) =
                a.net.open_tunnel(b.net.id(), "echo", Carries::Stream).await.unwrap();
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
    let opened = timeout(PATIENCE, a.net.open_tunnel(b.net.id(), "echo", Carries::Stream)).await;
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
        let (mut stream, session) =
            a.net.open_tunnel(b.net.id(), "echo", Carries::Datagrams).await.unwrap();
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

#[tokio::test]
async fn what_a_peer_sent_is_read_however_late() {
    let (a, b) = linked().await;
    let (mut stream, _) = a.net.open_tunnel(b.net.id(), "echo", Carries::Stream).await.unwrap();
    read_answer(&mut stream.recv).await.unwrap().unwrap();
    stream.send.write_all(&[5; 200_000]).await.unwrap();
    stream.send.finish().unwrap();
    // Longer than an idle connection lives: at the other end nothing runs any more.
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(stream.recv.read_to_end(1 << 20).await.unwrap(), vec![5; 200_000]);
    stream.complete();
}

#[tokio::test]
async fn streams_that_are_opened_at_once_share_one_dial_and_its_failure() {
    let mut node = TestNode::start().await;
    let (stranger, _carrier) = hostile(&mut node).await;
    let (peer, dials) = (stranger.id(), Arc::new(AtomicUsize::new(0)));
    let link = stranger.connection.clone();
    tokio::spawn(stranger.refuse(Duration::from_millis(300), dials.clone()));
    let open = || node.net.open_tunnel(peer, "echo", Carries::Stream);
    assert!(timeout(Duration::from_millis(50), open()).await.is_err(), "it gives up waiting");
    let all = (0..100).map(|_| open());
    let all = timeout(PATIENCE, futures_util::future::join_all(all)).await.expect("in time");
    let unreachable =
        |opened: &Result<_, NetError>| matches!(opened, Err(NetError::Unreachable(_)));
    assert!(all.iter().all(unreachable));
    assert_eq!(dials.load(Relaxed), 1);
    // The failure stands for a moment only.
    let again = async {
        while dials.load(Relaxed) == 1 {
            assert!(unreachable(&open().await));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, again).await.expect("it is dialled another time");
    drop(link);
}

#[tokio::test]
async fn a_new_link_is_dialled_over_at_once() {
    let mut node = TestNode::start().await;
    let (stranger, _carrier) = hostile(&mut node).await;
    let (peer, dials) = (stranger.id(), Arc::new(AtomicUsize::new(0)));
    let before = node.net.link(peer).unwrap().id();
    let link = stranger.connect(&node, b"pollen/1").await;
    let _other = stranger.join(&mut node, &link).await;
    let held = stranger.connection.clone();
    tokio::spawn(stranger.refuse(Duration::ZERO, dials.clone()));
    let mut failed = node.net.open_tunnel(peer, "echo", Carries::Stream).await.is_err();
    let since = std::time::Instant::now();
    held.close(0u32.into(), b"");
    until(|| node.net.link(peer).is_some_and(|link| link.id() != before)).await;
    failed &= node.net.open_tunnel(peer, "echo", Carries::Stream).await.is_err();
    assert!(failed && (dials.load(Relaxed) == 2 || since.elapsed() > Duration::from_secs(1)));
}

#[tokio::test]
async fn a_peer_has_no_more_bulk_connections_than_it_needs() {
    let (a, b) = linked().await;
    let id = PublicKey::from_bytes(&b.net.id()).unwrap();
    let to = || EndpointAddr::new(id).with_ip_addr(b.address());
    let endpoint = Endpoint::builder(presets::Minimal)
        .secret_key(a.key.clone())
        .relay_mode(RelayMode::Disabled)
        .bind()
        .await
        .unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(endpoint.connect(to(), b"pollen-bulk/1").await.unwrap());
    }
    let more = endpoint.connect(to(), b"pollen-bulk/1").await.unwrap();
    timeout(PATIENCE, more.closed()).await.expect("closed in time");
    assert!(held.iter().all(|connection| connection.close_reason().is_none()));
}
