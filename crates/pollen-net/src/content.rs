//! Content by its BLAKE3 id, behind one trait: iroh-blobs calls itself not yet production quality.
//!
//! Everything held is pinned by a tag of its own; unpinned content goes with the next sweep.

use std::{io, path::Path, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture};
use iroh::endpoint::{RecvStream, SendStream, VarInt};
use iroh_blobs::{
    Hash, HashAndFormat,
    protocol::ChunkRanges,
    store::{GcConfig, fs::FsStore, fs::options::Options},
    util::RecvStream as BaoRecv,
};
use pollen_wire::Id;

use crate::NetError;

/// Holds content and moves it verified: no byte of it is believed before its hash is.
pub trait ContentStore: Send + Sync {
    /// Keeps bytes, pinned; returns their id.
    fn add(&self, data: Bytes) -> BoxFuture<'_, Result<Id, NetError>>;
    /// Whether all of it is held.
    fn has(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>>;
    /// Pins what is held; false when it is not held whole.
    fn keep(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>>;
    /// All of it; `Refused("blob-not-found")` when it is not held.
    fn read(&self, content: Id) -> BoxFuture<'_, Result<Bytes, NetError>>;
    /// Lets go; gone with the next sweep. Unknown content is no error.
    fn unpin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>>;
    /// Writes the verifiable encoding; the stream is not finished.
    fn send<'a>(
        &'a self,
        content: Id,
        to: &'a mut SendStream,
    ) -> BoxFuture<'a, Result<(), NetError>>;
    /// Reads and verifies the encoding, and pins the content. On an error nothing wrong is kept.
    fn receive(
        &self,
        content: Id,
        most: u64,
        from: RecvStream,
    ) -> BoxFuture<'_, Result<(), NetError>>;
    /// Writes all to disk and stops. Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// [`ContentStore`] in a folder, by iroh-blobs' file store.
pub struct BlobStore {
    store: FsStore,
}

/// Time between sweeps of unpinned content.
const SWEEP: Duration = Duration::from_secs(600);

impl BlobStore {
    /// Opens or creates the store in `folder`. `State` when it cannot be read or written.
    pub async fn open(folder: &Path) -> Result<Self, NetError> {
        let unusable = |cause: &dyn std::fmt::Display| {
            NetError::State(format!("the content store {} is unusable: {cause}", folder.display()))
        };
        std::fs::create_dir_all(folder).map_err(|e| unusable(&e))?;
        let mut options = Options::new(folder);
        options.gc = Some(GcConfig { interval: SWEEP, add_protected: None });
        let store = FsStore::load_with_opts(folder.join("blobs.db"), options)
            .await
            .map_err(|e| unusable(&e))?;
        Ok(Self { store })
    }

    async fn pin(&self, content: Id) -> Result<(), NetError> {
        self.store
            .tags()
            .set(tag(content), HashAndFormat::raw(Hash::from_bytes(content)))
            .await
            .map_err(|e| store_failed("pinning", e))
    }
}

fn tag(content: Id) -> Vec<u8> {
    [b"pin/".as_slice(), &content].concat()
}

fn store_failed(what: &str, cause: impl std::fmt::Display) -> NetError {
    NetError::State(format!("the content store failed at {what}: {cause}"))
}

impl ContentStore for BlobStore {
    fn add(&self, data: Bytes) -> BoxFuture<'_, Result<Id, NetError>> {
        Box::pin(async move {
            let held = self
                .store
                .blobs()
                .add_bytes(data)
                .temp_tag()
                .await
                .map_err(|e| store_failed("adding", e))?;
            let content = *held.hash().as_bytes();
            self.pin(content).await?;
            self.store.sync_db().await.map_err(|e| store_failed("writing", e))?;
            Ok(content)
        })
    }

    fn has(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async move {
            self.store
                .blobs()
                .has(Hash::from_bytes(content))
                .await
                .map_err(|e| store_failed("looking up", e))
        })
    }

    fn keep(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(async move {
            let is_held = self.has(content).await?;
            if is_held {
                self.pin(content).await?;
            }
            Ok(is_held)
        })
    }

    fn read(&self, content: Id) -> BoxFuture<'_, Result<Bytes, NetError>> {
        Box::pin(async move {
            if !self.has(content).await? {
                return Err(NetError::Refused("blob-not-found".into()));
            }
            self.store
                .blobs()
                .get_bytes(Hash::from_bytes(content))
                .await
                .map_err(|e| store_failed("reading", e))
        })
    }

    fn unpin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            let gone = self.store.tags().delete(tag(content)).await;
            gone.map(drop).map_err(|e| store_failed("unpinning", e))
        })
    }

    fn send<'a>(
        &'a self,
        content: Id,
        to: &'a mut SendStream,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let export =
                self.store.blobs().export_bao(Hash::from_bytes(content), ChunkRanges::all());
            let mut pieces = std::pin::pin!(export.into_byte_stream());
            while let Some(piece) = pieces.next().await {
                let piece = piece.map_err(|e| store_failed("reading", e))?;
                to.write_chunk(piece).await.map_err(|e| NetError::lost("sending content", e))?;
            }
            Ok(())
        })
    }

    fn receive(
        &self,
        content: Id,
        most: u64,
        mut from: RecvStream,
    ) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            let mut size = [0; 8];
            from.read_exact(&mut size).await.map_err(|e| NetError::lost("receiving content", e))?;
            if u64::from_le_bytes(size) > most {
                return Err(NetError::Invalid(format!("content over {most} bytes was refused")));
            }
            let hash = Hash::from_bytes(content);
            let guard = self
                .store
                .tags()
                .temp_tag(HashAndFormat::raw(hash))
                .await
                .map_err(|e| store_failed("pinning", e))?;
            let reader = Resumed { head: Some(size), rest: from };
            self.store
                .blobs()
                .import_bao_reader(hash, ChunkRanges::all(), reader)
                .await
                .map_err(|e| NetError::lost("receiving content", e))?;
            self.pin(content).await?;
            drop(guard);
            Ok(())
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Err(error) = self.store.shutdown().await {
                tracing::warn!(%error, "the content store did not close cleanly");
            }
        })
    }
}

/// A stream whose first 8 bytes, the size, were already read and judged.
struct Resumed {
    head: Option<[u8; 8]>,
    rest: RecvStream,
}

impl BaoRecv for Resumed {
    async fn recv_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        BaoRecv::recv_bytes(&mut self.rest, len).await
    }

    async fn recv_bytes_exact(&mut self, len: usize) -> io::Result<Bytes> {
        BaoRecv::recv_bytes_exact(&mut self.rest, len).await
    }

    async fn recv_exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        match self.head.take() {
            Some(head) if target.len() == head.len() => {
                target.copy_from_slice(&head);
                Ok(())
            }
            Some(_) => Err(io::Error::other("the size was not read first")),
            None => BaoRecv::recv_exact(&mut self.rest, target).await,
        }
    }

    fn stop(&mut self, code: VarInt) -> io::Result<()> {
        BaoRecv::stop(&mut self.rest, code)
    }

    fn id(&self) -> u64 {
        BaoRecv::id(&self.rest)
    }
}
