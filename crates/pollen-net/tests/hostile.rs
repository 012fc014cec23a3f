//! A member in the middle that drops, delays, alters, repeats or forges packets: the ends lose some,
//! and never take a wrong byte. One who forges sources can cut connections; so can one who drops all.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use iroh::endpoint::Connection;
use pollen_net::{Carries, read_answer};
use pollen_wire::packet::{HEADER, Header, Short, short};

use common::*;
use tokio::time::timeout;

/// What the member in the middle does with one packet of so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mischief {
    Drop,
    Delay,
    Alter,
    Repeat,
    Forge,
}

/// One packet of so many.
const ONE_OF: u64 = 12;
/// So long it is tried again.
const LONG: Duration = Duration::from_secs(40);
const LATE: Duration = Duration::from_millis(80);

/// Passes packets on as a member does, but for some; how often it did something else.
async fn pass(
    from: Connection,
    to: Connection,
    mischief: Mischief,
    of: Short,
    done: Arc<AtomicU64>,
) {
    let mut before = Bytes::new();
    for number in 1u64.. {
        let Ok(frame) = from.read_datagram().await else { return };
        let Some((header, body)) = Header::decode(&frame) else { continue };
        let passed = header.passed_on().unwrap();
        let mut onward = [&passed.encode()[..], body].concat();
        if !number.is_multiple_of(ONE_OF) {
            before = onward.into();
            let _ = to.send_datagram(before.clone());
            continue;
        }
        done.fetch_add(1, Relaxed);
        match mischief {
            Mischief::Drop => continue,
            Mischief::Delay => {
                let to = to.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LATE).await;
                    let _ = to.send_datagram(onward.into());
                });
                continue;
            }
            Mischief::Alter => {
                let at = HEADER + (onward.len() - HEADER) / 2;
                onward[at] ^= 0x10;
            }
            Mischief::Repeat => {
                for again in [&before, &before] {
                    let _ = to.send_datagram(again.clone());
                }
            }
            Mischief::Forge => {
                let forged = Header::new(of, header.destination).passed_on().unwrap();
                onward.splice(..HEADER, forged.encode());
            }
        }
        let _ = to.send_datagram(onward.into());
    }
}

/// One attempt to send bytes through a tunnel and have them back. An error is a connection that did
/// not last; wrong bytes are none.
async fn attempt(a: &TestNode, b: &TestNode) -> Result<(), Box<dyn Error>> {
    let opened = a.net.open_tunnel(b.net.id(), "echo", Carries::Stream).await;
    let (mut stream, _) = opened?;
    read_answer(&mut stream.recv).await?.map_err(|refused| format!("{refused:?}"))?;
    let sent = text(0, 200_000);
    let mut back = vec![0; sent.len()];
    let (send, recv) = (&mut stream.send, &mut stream.recv);
    let both = async { tokio::join!(send.write_all(&sent), recv.read_exact(&mut back)) };
    let (wrote, read) = timeout(PATIENCE, both).await?;
    wrote?;
    read?;
    assert!(back == sent, "the bytes are those that were sent");
    Ok(())
}

async fn through_one_who(mischief: Mischief) {
    let (mut a, mut b) = (TestNode::start_on(V4).await, TestNode::start_on(V6).await);
    let third = TestNode::start().await;
    introduce(&[&a, &b, &third]);
    let (middle, at_a) = hostile(&mut a).await;
    let link = middle.connect(&b, b"pollen/1").await;
    let at_b = middle.join(&mut b, &link).await;
    for (node, other) in [(&a, &b), (&b, &a)] {
        node.above.set_member(middle.id(), &[]);
        node.above.set_member(other.net.id(), &[middle.id()]);
    }
    let done = Arc::new(AtomicU64::new(0));
    let forged = short(&third.net.id());
    for (from, to) in [(&at_a, &at_b), (&at_b, &at_a)] {
        tokio::spawn(pass(from.clone(), to.clone(), mischief, forged, done.clone()));
    }
    through(&mut a, &mut b).await;
    // QUIC answers to where a packet seems to come from, so a forged source can cut a connection.
    // A dial that failed stands for a second.
    let end = Instant::now() + if mischief == Mischief::Forge { LONG } else { Duration::ZERO };
    let mut last = attempt(&a, &b).await;
    while last.is_err() && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(100)).await;
        last = attempt(&a, &b).await;
    }
    last.unwrap();
    assert!(done.load(Relaxed) > 10, "{mischief:?}: {done:?}");
    assert_eq!(a.net.via(b.net.id()), Some(middle.id()));
    assert!(b.net.link(third.net.id()).is_none(), "no link came of a forged source");
}

#[tokio::test]
async fn one_who_drops_packets_costs_time_alone() {
    through_one_who(Mischief::Drop).await;
}

#[tokio::test]
async fn one_who_delays_packets_costs_time_alone() {
    through_one_who(Mischief::Delay).await;
}

#[tokio::test]
async fn one_who_alters_packets_changes_no_byte() {
    through_one_who(Mischief::Alter).await;
}

#[tokio::test]
async fn one_who_repeats_packets_says_nothing_twice() {
    through_one_who(Mischief::Repeat).await;
}

#[tokio::test]
async fn one_who_forges_sources_cuts_connections_and_speaks_for_nobody() {
    through_one_who(Mischief::Forge).await;
}
