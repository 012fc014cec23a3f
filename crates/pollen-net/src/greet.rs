//! A fresh connection is brought up to its Hello, and then run to its end.

use std::sync::Arc;

use iroh::endpoint::{Connection, RecvStream, SendStream, VarInt};
use pollen_rules::numbers::CONTROL_QUEUE;
use pollen_wire::{close, frame, hello::Hello};
use tokio::sync::mpsc;

use crate::{
    control_stream, doubt,
    error::NetError,
    link::{Link, close_code, remote_text},
    net::Net,
    paths, silence,
    streams::{FIRST_FRAME, read_frame, write_frame},
    up::{HelloData, NetEvent},
};

/// Brings a fresh connection up to its Hello and then runs it to its end.
pub(crate) async fn run(net: Net, connection: Connection, dialled: bool) {
    let peer = *connection.remote_id().as_bytes();
    let greeted = tokio::time::timeout(FIRST_FRAME, greet(&net, &connection, dialled)).await;
    let (send, recv, hello) = match greeted {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return refuse(&net, &connection, dialled, &error).await,
        Err(_) => {
            let error = NetError::Unreachable("no Hello came within 5 s".into());
            return refuse(&net, &connection, dialled, &error).await;
        }
    };
    let (control, frames) = mpsc::channel(CONTROL_QUEUE);
    let made = Link::new(net.next_id(), connection.clone(), (dialled, hello.boot), control);
    let link = Arc::new(made);
    link.sample_rtt();
    net.end_older(&link);
    net.insert(&link);
    let remote = remote_text(&connection);
    net.up().emit(hello.event(&link, remote)).await;

    // Whichever task ends first ends the link; the others end with it.
    let reason = tokio::select! {
        error = control_stream::read(&net, &link, recv) => error.to_string(),
        error = control_stream::write(send, frames) => error.to_string(),
        () = silence::read_probes(net.up(), &link) => "closed".to_owned(),
        () = accept_calls(&net, &link) => "closed".to_owned(),
        () = silence::watch(&net, &link) => "closed".to_owned(),
        never = paths::follow(&net, &link) => match never {},
        never = doubt::follow(&net, &link) => match never {},
        error = connection.closed() => error.to_string(),
    };
    if connection.close_reason().is_none() {
        tracing::warn!(%reason, "closing a link");
        connection.close(VarInt::from_u32(close::PROTOCOL_ERROR), reason.as_bytes());
    }
    net.remove(&link);
    let (code, reason) = close_code(&connection).unwrap_or((0, reason));
    net.up().emit(NetEvent::LinkClosed { link: link.id(), peer, code, reason }).await;
}

async fn refuse(net: &Net, connection: &Connection, dialled: bool, error: &NetError) {
    // Before it is closed from here: what the peer closed it with would be overwritten.
    let told = close_code(connection);
    connection.close(VarInt::from_u32(close::PROTOCOL_ERROR), error.to_string().as_bytes());
    tracing::debug!(%error, "a link ended before its Hello");
    if dialled {
        let (slug, reason) = match told {
            Some((close::VERSION_MISMATCH, reason)) => ("version-mismatch", reason),
            Some((_, reason)) => ("unreachable", reason),
            None => ("unreachable", error.to_string()),
        };
        let peer = *connection.remote_id().as_bytes();
        net.up().emit(NetEvent::DialFailed { peer, slug: slug.into(), reason }).await;
    }
}

async fn greet(
    net: &Net,
    connection: &Connection,
    dialled: bool,
) -> Result<(SendStream, RecvStream, OwnedHello), NetError> {
    let mine = net.hello().ok_or_else(|| NetError::Unreachable("this node is not ready".into()))?;
    let opened = if dialled { connection.open_bi().await } else { connection.accept_bi().await };
    let (mut send, mut recv) = opened.map_err(|e| NetError::lost("the control stream", e))?;
    let _ = send.set_priority(10);
    write_frame(&mut send, |out| mine.wire(net.boot()).encode(out)).await?;
    let body = read_frame(&mut recv, frame::MAX_HELLO).await?;
    let hello = Hello::decode(&body)
        .map_err(|e| NetError::Invalid(format!("the peer's Hello was refused: {e}")))?;
    Ok((send, recv, OwnedHello::of(&hello)))
}

struct OwnedHello {
    data: HelloData,
    boot: [u8; 16],
}

impl OwnedHello {
    fn of(hello: &Hello<'_>) -> Self {
        let data = HelloData {
            cluster: hello.cluster,
            minor_min: hello.minor_min,
            minor_max: hello.minor_max,
            chain: hello.chain.to_vec(),
        };
        Self { data, boot: hello.boot }
    }

    fn event(self, link: &Link, remote: String) -> NetEvent {
        NetEvent::Hello {
            link: link.id(),
            peer: link.peer(),
            dialled: link.dialled(),
            remote,
            hello: self.data,
            boot: self.boot,
        }
    }
}

async fn accept_calls(net: &Net, link: &Arc<Link>) {
    link.until_admitted_here().await;
    while let Ok((send, recv)) = link.connection.accept_bi().await {
        net.up().serve(link, send, recv);
    }
}
