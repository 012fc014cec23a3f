//! The control stream of a link: admission, messages and records, each frame in its order.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use iroh::endpoint::{RecvStream, SendStream};
use pollen_wire::{
    control::{Control, SignedRecord},
    frame,
};
use tokio::sync::mpsc;

use crate::{
    error::NetError,
    link::Link,
    net::Net,
    streams::{read_frame, verify_record},
    up::{NetEvent, VerifiedRecord},
};

/// Reads it to its end; says why it ended.
pub(crate) async fn read(net: &Net, link: &Arc<Link>, mut recv: RecvStream) -> NetError {
    loop {
        let body = match read_frame(&mut recv, frame::MAX_CONTROL).await {
            Ok(body) => body,
            Err(error) => return error,
        };
        let control = match Control::decode(&body) {
            Ok(control) => control,
            Err(error) => {
                return NetError::Invalid(format!("a control frame was refused: {error}"));
            }
        };
        match control {
            Control::Admitted => {
                link.admitted_there.store(true, Relaxed);
                net.refresh(link.peer());
            }
            // Before this side admitted the peer, nothing it says reaches the brain.
            _ if !link.admitted_here.load(Relaxed) => link.until_admitted_here().await,
            _ => {}
        }
        match control {
            Control::Message(body) => {
                let (id, peer, body) = (link.id(), link.peer(), body.to_vec());
                net.up().emit(NetEvent::Message { link: id, peer, body }).await;
            }
            Control::Records(records) => {
                let event = verified(link, &records).await;
                net.up().emit(event).await;
            }
            Control::Admitted | Control::Unknown(_) => {}
        }
    }
}

/// Verifies a batch; large ones leave the network's threads alone.
async fn verified(link: &Link, records: &[SignedRecord<'_>]) -> NetEvent {
    const INLINE: usize = 8;
    let owned: Vec<VerifiedRecord> = records
        .iter()
        .map(|r| VerifiedRecord { owner: r.owner, body: r.body.to_vec(), signature: r.signature })
        .collect();
    let count = owned.len();
    let check = move || {
        let genuine = |r: &VerifiedRecord| {
            verify_record(&SignedRecord { owner: r.owner, body: &r.body, signature: r.signature })
        };
        owned.into_iter().filter(genuine).collect::<Vec<_>>()
    };
    let records = if count <= INLINE {
        check()
    } else {
        tokio::task::spawn_blocking(check).await.unwrap_or_default()
    };
    let rejected = count - records.len();
    NetEvent::Records { link: link.id(), peer: link.peer(), records, rejected }
}

/// Writes what is queued; says why it ended.
pub(crate) async fn write(mut send: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) -> NetError {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = send.write_all(&frame).await {
            return NetError::lost("the control stream", error);
        }
    }
    NetError::Unreachable("the link was dropped".into())
}
