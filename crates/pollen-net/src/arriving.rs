//! A part of a content as it goes over a stream.
//!
//! Decides: when a content that is new is in the store's database. Does not know: holders; who reads.
//! Invariants: a group of chunks goes to the store, and to whoever reads, only when its hash is right.
//! Source: docs/internals/content.md#transfer.

use std::{
    io,
    num::NonZeroU64,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use bao_tree::{
    BaoTree, BlockSize, ChunkNum,
    io::{
        BaoContentItem,
        fsm::{ResponseDecoder, ResponseDecoderNext},
    },
};
use bytes::Bytes;
use iroh::endpoint::{RecvStream, VarInt};
use iroh_blobs::{
    Hash, HashAndFormat,
    api::blobs::BlobStatus,
    protocol::{ChunkRanges, ChunkRangesExt as _},
    store::fs::FsStore,
    util::{RecvStream as BaoRecv, RecvStreamAsyncStreamReader},
};
use pollen_wire::{
    Id,
    fetch::{GROUP, PIECE, pieces},
};

use crate::{
    NetError,
    fresh::{Fresh, Readers},
    pins::Failure,
};

/// Chunks of BLAKE3 in a group, as a power of two: the library's size of what is verified at once.
const GROUP_LOG: u8 = 4;
const _: () = assert!(GROUP == 1024 << GROUP_LOG);
/// Items that wait for the store: two batches, each of groups and the hashes above them.
const WAITING: usize = 64;
/// Groups that go to the store together, 256 KiB: each time its actor is woken. What comes slowly goes
/// when the last batch is so old.
const BATCH: usize = 16;
const BATCH_TIME: Duration = Duration::from_millis(20);
/// A content that is new is entered in the database when so many groups of it came, whole batches. A
/// guess: 1 MiB.
const NEW_GROUPS: usize = 64;

/// Which part of a content is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The number of a piece; all of it without one.
    pub piece: Option<u32>,
    /// Groups that are not meant, from the begin of the piece.
    pub skip: u32,
    /// Bytes of the whole content; when all is asked for, at most so many.
    pub size: u64,
}

impl Part {
    /// Its chunks of 1 KiB; none when there is no such piece.
    pub(crate) fn chunks(self) -> Option<ChunkRanges> {
        let Some(piece) = self.piece.map(u64::from) else { return Some(ChunkRanges::all()) };
        if piece == 0 && self.size <= PIECE && self.skip == 0 {
            return Some(ChunkRanges::all());
        }
        let end = self.size.min((piece + 1) * PIECE);
        let start = piece * PIECE + u64::from(self.skip) * GROUP;
        (piece < pieces(self.size) && start < end).then(|| ChunkRanges::bytes(start..end))
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

/// What is missing of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rest {
    /// The number of the piece.
    pub piece: u32,
    /// Groups that are held, from its begin.
    pub skip: u32,
}

impl Rest {
    /// Of each piece that is not held whole.
    pub(crate) fn all_of(held: &ChunkRanges, size: u64) -> Vec<Self> {
        let count = u32::try_from(pieces(size)).unwrap_or(u32::MAX);
        let rest = |piece| Self::of(piece, size, held_from(held, u64::from(piece) * PIECE));
        (0..count).filter_map(rest).collect()
    }

    /// Of the piece `piece` of what has `size` bytes, when all before `until` is held; none when nothing
    /// is missing.
    pub(crate) fn of(piece: u32, size: u64, until: u64) -> Option<Self> {
        let start = u64::from(piece) * PIECE;
        let is_missing = until < size.min(start + PIECE);
        let groups = until.saturating_sub(start) / GROUP;
        is_missing.then(|| Self { piece, skip: u32::try_from(groups).unwrap_or(0) })
    }
}

/// Up to where all is held from a place on. Groups of chunks are held as a whole.
pub(crate) fn held_from(held: &ChunkRanges, at: u64) -> u64 {
    let missing = &ChunkRanges::from(ChunkNum::full_chunks(at)..) - held;
    match missing.boundaries().first() {
        Some(first) => first.to_bytes().max(at),
        None => u64::MAX,
    }
}

/// What came of a part so far, and for whom.
pub struct Coming<'a> {
    bytes: AtomicU64,
    readers: &'a Readers,
}

impl<'a> Coming<'a> {
    pub(crate) fn new(readers: &'a Readers) -> Self {
        Self { bytes: AtomicU64::new(0), readers }
    }

    fn fresh(&self) -> &'a Fresh {
        &self.readers.fresh
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    async fn note(&self, length: usize) {
        self.bytes.fetch_add(length as u64, Relaxed);
        self.readers.pace.pay(length).await;
    }
}

/// A stream whose first 8 bytes, the size, were read and judged already; its bytes are counted.
pub(crate) struct Arriving<'a> {
    size: u64,
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
        let size = u64::from_le_bytes(size);
        part.check(size)?;
        Ok(Self { size, rest, come })
    }

    /// Verifies these chunks of a content and hands them to the store, and to those who read. What came
    /// before an error is kept.
    pub(crate) async fn keep(
        self,
        store: &FsStore,
        content: Id,
        chunks: ChunkRanges,
    ) -> Result<(), Failure> {
        let hash = Hash::from_bytes(content);
        let _guard = store.tags().temp_tag(HashAndFormat::raw(hash)).await?;
        let Some(size) = NonZeroU64::new(self.size) else {
            if hash != Hash::EMPTY {
                return Err("hash mismatch: it is said to be empty".into());
            }
            let _guard = store.blobs().add_bytes(Bytes::new()).temp_tag().await?;
            return Ok(store.sync_db().await?);
        };
        // A content that is new enters the database with a batch of 0.5 s. A process that is killed
        // before would keep its bytes and not know of them.
        let is_new = matches!(store.blobs().status(hash).await?, BlobStatus::NotFound);
        let into = store.blobs().import_bao(hash, size, WAITING).await?;
        let (fresh, to) = (self.come.fresh(), into.tx);
        let tree = BaoTree::new(size.get(), BlockSize::from_chunk_log(GROUP_LOG));
        let encoded = RecvStreamAsyncStreamReader::new(self);
        let mut decoder = ResponseDecoder::new(hash.into(), chunks, tree, encoded);
        let verified = async move {
            let (mut batch, mut broken, mut groups, mut sent) =
                (Vec::new(), None, 0, Instant::now());
            while let ResponseDecoderNext::More((rest, item)) = decoder.next().await {
                let item = match item {
                    Ok(item) => item,
                    Err(cause) => {
                        broken = Some(cause);
                        break;
                    }
                };
                if let BaoContentItem::Leaf(leaf) = &item {
                    fresh.put(leaf.offset, &leaf.data);
                    groups += 1;
                }
                let is_due =
                    item.is_leaf() && (groups % BATCH == 0 || sent.elapsed() >= BATCH_TIME);
                batch.push(item);
                if is_due {
                    for item in batch.drain(..) {
                        to.send(item).await?;
                    }
                    sent = Instant::now();
                }
                if is_due && is_new && groups == NEW_GROUPS {
                    store.sync_db().await?;
                }
                decoder = rest;
            }
            for item in batch {
                to.send(item).await?;
            }
            broken.map_or(Ok(()), |cause| Err(Failure::from(io::Error::from(cause))))
        };
        let kept = async { Ok::<_, Failure>(into.rx.await??) };
        // A store that fails ends the way to it, and its own cause is the one to tell.
        let (verified, kept) = tokio::join!(verified, kept);
        fresh.tell();
        kept?;
        verified?;
        if is_new {
            store.sync_db().await?;
        }
        Ok(())
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
        BaoRecv::recv_exact(&mut self.rest, target).await?;
        self.come.note(target.len()).await;
        Ok(())
    }

    fn stop(&mut self, code: VarInt) -> io::Result<()> {
        BaoRecv::stop(&mut self.rest, code)
    }

    fn id(&self) -> u64 {
        BaoRecv::id(&self.rest)
    }
}
