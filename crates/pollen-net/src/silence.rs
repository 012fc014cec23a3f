//! Whether the peer of a link is there: probes as datagrams, and the ejection of who is silent.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use bytes::Bytes;
use pollen_rules::{
    Heard, Silence,
    numbers::{HEARTBEAT, SILENCE},
};
use pollen_wire::probe::Probe;

use crate::{link::Link, net::Net, up::Upcalls};

/// Answers the peer's probes, and notes what they tell; ends with the connection.
pub(crate) async fn read_probes(up: &dyn Upcalls, link: &Link) {
    while let Ok(datagram) = link.connection.read_datagram().await {
        let Some(probe) = Probe::decode(&datagram) else { continue };
        link.brain_age_ms.store(probe.age_ms, Relaxed);
        *link.brain_heard.lock() = Instant::now();
        if probe.answer {
            link.answered.store(true, Relaxed);
        } else {
            send_probe(link, true, probe.nonce, up.brain_age_ms());
        }
    }
}

/// Probes while calls are under way and the link is silent; ejects it and takes it back.
pub(crate) async fn watch(net: &Net, link: &Link) {
    let up = net.up();
    let mut received = 0;
    let mut silence = Silence::default();
    let began = Instant::now();
    let mut heartbeat = began;
    loop {
        if link.calls() == 0 && !link.is_ejected() {
            tokio::select! {
                () = link.busy.notified() => {}
                () = tokio::time::sleep_until((heartbeat + HEARTBEAT).into()) => {}
            }
        }
        let now = Instant::now();
        if now >= heartbeat + HEARTBEAT {
            heartbeat = now;
            link.sample_rtt();
            link.received();
            send_probe(link, false, link.nonce.fetch_add(1, Relaxed), up.brain_age_ms());
        }
        if link.calls() == 0 && !link.is_ejected() {
            continue;
        }
        tokio::time::sleep(SILENCE).await;
        let bytes = link.received();
        let came = std::mem::replace(&mut received, bytes) != bytes;
        let answered = link.answered.swap(false, Relaxed);
        // Calls go both ways: packets of the peer alone take no link back.
        let heard = if link.is_ejected() { answered } else { came };
        let judged = silence.poll(heard, link.rtt(), began.elapsed());
        if judged != Heard::Again {
            send_probe(link, false, link.nonce.fetch_add(1, Relaxed), up.brain_age_ms());
        }
        match judged {
            Heard::Again => {
                if link.ejected.send_if_modified(|ejected| std::mem::replace(ejected, false)) {
                    net.usable_again();
                }
            }
            Heard::Nothing => {}
            Heard::Ejected => {
                link.ejected.send_if_modified(|ejected| !std::mem::replace(ejected, true));
            }
        }
    }
}

fn send_probe(link: &Link, answer: bool, nonce: u64, age_ms: u32) {
    let datagram = Probe { answer, nonce, age_ms }.encode();
    // A full buffer or a link without datagrams: the next probe tries again.
    let _ = link.connection.send_datagram(Bytes::copy_from_slice(&datagram));
}
