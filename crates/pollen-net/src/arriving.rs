//! A part of a content as it goes over a stream.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use bytes::Bytes;
use iroh::endpoint::{RecvStream, VarInt};
use iroh_blobs::{
    protocol::{ChunkRanges, ChunkRangesExt as _},
    util::RecvStream as BaoRecv,
};
use pollen_wire::fetch::{PIECE, pieces};

use crate::{NetError, pace::Pace};

/// Which part of a content is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The number of a piece; all of it without one.
    pub piece: Option<u32>,
    /// Bytes of the whole content; when all is asked for, at most so many.
    pub size: u64,
}

impl Part {
    /// Its chunks of 1 KiB; none when there is no such piece.
    pub(crate) fn chunks(self) -> Option<ChunkRanges> {
        let Some(piece) = self.piece.map(u64::from) else { return Some(ChunkRanges::all()) };
        if piece == 0 && self.size <= PIECE {
            return Some(ChunkRanges::all());
        }
        let start = piece * PIECE;
        (piece < pieces(self.size)).then(|| ChunkRanges::bytes(start..self.size.min(start + PIECE)))
    }

    fn check(self, size: u64) -> Result<(), NetError> {
        if self.piece.is_none() && size > self.size {
            let reason = format!("content over {} bytes was refused", self.size);
            return Err(NetError::Invalid(reason));
        }
        if self.piece.is_some() && size != self.size {
            let reason = format!("a piece is of {size} bytes in all, and not of {}", self.size);
            return Err(NetError::Corrupt(reason));
        }
        Ok(())
    }
}

/// What came of a part so far, and how fast it may.
pub struct Coming<'a> {
    bytes: AtomicU64,
    pace: &'a Pace,
}

impl<'a> Coming<'a> {
    pub(crate) fn new(pace: &'a Pace) -> Self {
        Self { bytes: AtomicU64::new(0), pace }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    async fn note(&self, length: usize) {
        self.bytes.fetch_add(length as u64, Relaxed);
        self.pace.pay(length).await;
    }
}

/// A stream whose first 8 bytes, the size, were read and judged already; its bytes are counted.
pub(crate) struct Arriving<'a> {
    size: Option<[u8; 8]>,
    rest: RecvStream,
    come: &'a Coming<'a>,
}

impl<'a> Arriving<'a> {
    /// Reads the size and judges it.
    pub(crate) async fn begin(
        part: Part,
        mut rest: RecvStream,
        come: &'a Coming<'a>,
    ) -> Result<Self, NetError> {
        let mut size = [0; 8];
        rest.read_exact(&mut size).await.map_err(|e| NetError::lost("receiving content", e))?;
        part.check(u64::from_le_bytes(size))?;
        Ok(Self { size: Some(size), rest, come })
    }
}

impl BaoRecv for Arriving<'_> {
    async fn recv_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        let bytes = BaoRecv::recv_bytes(&mut self.rest, len).await?;
        self.come.note(bytes.len()).await;
        Ok(bytes)
    }

    async fn recv_bytes_exact(&mut self, len: usize) -> io::Result<Bytes> {
        let bytes = BaoRecv::recv_bytes_exact(&mut self.rest, len).await?;
        self.come.note(bytes.len()).await;
        Ok(bytes)
    }

    async fn recv_exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        match self.size.take() {
            Some(size) if target.len() == size.len() => {
                target.copy_from_slice(&size);
                Ok(())
            }
            Some(_) => Err(io::Error::other("the size was not read first")),
            None => {
                BaoRecv::recv_exact(&mut self.rest, target).await?;
                self.come.note(target.len()).await;
                Ok(())
            }
        }
    }

    fn stop(&mut self, code: VarInt) -> io::Result<()> {
        BaoRecv::stop(&mut self.rest, code)
    }

    fn id(&self) -> u64 {
        BaoRecv::id(&self.rest)
    }
}
