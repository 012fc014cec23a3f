//! Enrolment over `pollen-join/1`: one question, one answer, both opaque to the muscles.

use std::{net::SocketAddr, time::Duration};

use iroh::endpoint::{Connection, VarInt};
use pollen_wire::{Id, close, frame::MAX_HELLO};

use crate::{
    error::NetError,
    link::remote_text,
    net::{Aim, Net},
    streams::{FIRST_FRAME, read_frame, write_frame},
    transports::JOIN,
    up::NetEvent,
};

/// How long the brain may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

impl Net {
    /// Asks the node `peer` to enrol this key; the answer's body says whether it did.
    pub async fn ask_join(
        &self,
        peer: Id,
        addresses: &[SocketAddr],
        body: &[u8],
    ) -> Result<Vec<u8>, NetError> {
        let connection = self.connect(peer, Aim { addresses, by_mesh: false }, JOIN).await?;
        let (mut send, mut recv) =
            connection.open_bi().await.map_err(|e| NetError::lost("asking to join", e))?;
        write_frame(&mut send, |out| out.extend_from_slice(body)).await?;
        let answer = read_frame(&mut recv, MAX_HELLO).await;
        connection.close(VarInt::from_u32(0), b"");
        answer
    }

    /// Answers a [`NetEvent::Join`]; an unknown or answered request is not an error.
    pub fn answer_join(&self, request: u64, body: Vec<u8>) {
        if let Some(waiting) = self.joins().lock().remove(&request) {
            let _ = waiting.send(body);
        }
    }

    /// Who asks comes over IP: for a node that is no member yet, nobody passes packets on.
    pub(crate) async fn serve_join(self, connection: Connection) {
        if remote_text(&connection).is_empty() {
            return connection.close(VarInt::from_u32(close::NOT_A_MEMBER), b"");
        }
        let peer = *connection.remote_id().as_bytes();
        let served =
            tokio::time::timeout(FIRST_FRAME + ANSWER, self.serve_one_join(&connection, peer));
        if let Ok(Err(error)) | Err(error) =
            served.await.map_err(|_| NetError::Unreachable("a join took too long".into()))
        {
            tracing::debug!(%error, "a join ended early");
            connection.close(VarInt::from_u32(close::NOT_A_MEMBER), b"");
        }
    }

    async fn serve_one_join(&self, connection: &Connection, peer: Id) -> Result<(), NetError> {
        let (mut send, mut recv) =
            connection.accept_bi().await.map_err(|e| NetError::lost("a join", e))?;
        let body = read_frame(&mut recv, MAX_HELLO).await?;
        let (answer, answered) = tokio::sync::oneshot::channel();
        let request = self.next_id();
        self.joins().lock().insert(request, answer);
        let remote = remote_text(connection);
        self.up().emit(NetEvent::Join { request, peer, remote, body }).await;
        let answer = answered.await.map_err(|e| NetError::lost("a join", e))?;
        write_frame(&mut send, |out| out.extend_from_slice(&answer)).await?;
        let _ = send.finish();
        // The asker closes once it has read the answer.
        connection.closed().await;
        Ok(())
    }
}
