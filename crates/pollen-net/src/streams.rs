//! Frames on QUIC streams.

use std::time::Duration;

use iroh::{
    PublicKey, Signature,
    endpoint::{RecvStream, SendStream},
};
use pollen_wire::{
    control::{RECORD_DOMAIN, SignedRecord},
    frame,
};

use crate::NetError;

/// How long a peer may take for the first frame of a link or an exchange.
pub(crate) const FIRST_FRAME: Duration = Duration::from_secs(5);

/// Reads one frame of at most `most` bytes. What was read is lost when the future is dropped.
pub async fn read_frame(recv: &mut RecvStream, most: usize) -> Result<Vec<u8>, NetError> {
    let mut prefix = [0; frame::PREFIX];
    recv.read_exact(&mut prefix).await.map_err(|e| NetError::lost("reading a frame", e))?;
    let length = frame::length(prefix, most)
        .map_err(|e| NetError::Invalid(format!("a frame was refused: {e}")))?;
    let mut body = vec![0; length];
    recv.read_exact(&mut body).await.map_err(|e| NetError::lost("reading a frame", e))?;
    Ok(body)
}

/// Writes what `body` appends as one frame.
pub(crate) async fn write_frame(
    send: &mut SendStream,
    body: impl FnOnce(&mut Vec<u8>),
) -> Result<(), NetError> {
    let mut out = Vec::new();
    frame::append(&mut out, 0, body);
    send.write_all(&out).await.map_err(|e| NetError::lost("writing a frame", e))
}

/// Whether the owner signed exactly this body.
pub fn verify_record(record: &SignedRecord<'_>) -> bool {
    let Ok(owner) = PublicKey::from_bytes(&record.owner) else {
        return false;
    };
    let mut message = Vec::with_capacity(RECORD_DOMAIN.len() + record.body.len());
    message.extend_from_slice(RECORD_DOMAIN);
    message.extend_from_slice(record.body);
    owner.verify(&message, &Signature::from_bytes(&record.signature)).is_ok()
}
