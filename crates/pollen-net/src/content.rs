//! Content by its BLAKE3 id, behind one trait: iroh-blobs calls itself not yet production quality.
//!
//! Everything held is pinned by a tag of its own; unpinned content goes with the next sweep.
//!
//! The file store has one actor for its metadata, which ends with the first write that fails, as on
//! a full disk. What fails then looks whether that happened, opens the folder again, one at a time,
//! and begins once more. What was acknowledged had been written to disk before.

use std::{
    fmt::Display,
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

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

use crate::{NetError, disk};

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
    /// Lets go; gone with the next sweep. Unknown content is not an error.
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
    folder: PathBuf,
    current: parking_lot::Mutex<Opened>,
    opening: tokio::sync::Mutex<()>,
    is_closed: AtomicBool,
}

/// One opened store; the next has the next number.
#[derive(Clone)]
struct Opened {
    number: u64,
    store: FsStore,
}

/// Time between sweeps of unpinned content.
const SWEEP: Duration = Duration::from_secs(600);
/// The database of a store that ended is let go of a moment later: so often, so long is waited.
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

impl BlobStore {
    /// Opens or creates the store in `folder`. `State` when it cannot be read or written.
    pub async fn open(folder: &Path) -> Result<Self, NetError> {
        let store = load(folder).await?;
        Ok(Self {
            folder: folder.to_owned(),
            current: parking_lot::Mutex::new(Opened { number: 0, store }),
            opening: tokio::sync::Mutex::new(()),
            is_closed: AtomicBool::new(false),
        })
    }

    fn opened(&self) -> Opened {
        self.current.lock().clone()
    }

    /// Does it, and once more on a store opened again when the first one had ended.
    async fn run<T>(
        &self,
        what: &str,
        size: u64,
        work: impl Fn(FsStore) -> BoxFuture<'static, Result<T, Failure>> + Send + Sync,
    ) -> Result<T, NetError> {
        let opened = self.opened();
        let cause = match work(opened.store.clone()).await {
            Ok(done) => return Ok(done),
            Err(cause) => cause,
        };
        if !self.is_mended(&opened).await? {
            return Err(self.failed(what, size, cause));
        }
        work(self.opened().store).await.map_err(|cause| self.failed(what, size, cause))
    }

    /// Whether the store had ended and another one is open now; `State` when none can be opened.
    async fn is_mended(&self, ended: &Opened) -> Result<bool, NetError> {
        if ended.store.sync_db().await.is_ok() {
            return Ok(false);
        }
        let _turn = self.opening.lock().await;
        if self.is_closed.load(Relaxed) {
            return Ok(false);
        }
        if self.opened().number != ended.number {
            return Ok(true);
        }
        let store = self.load_again().await?;
        *self.current.lock() = Opened { number: ended.number + 1, store };
        tracing::warn!("the content store had stopped and was opened again");
        Ok(true)
    }

    async fn load_again(&self) -> Result<FsStore, NetError> {
        let mut tries = 0;
        loop {
            match load(&self.folder).await {
                Ok(store) => return Ok(store),
                Err(error) if tries == OPEN_TRIES || disk::is_full(&self.folder, 0) => {
                    return Err(error);
                }
                Err(_) => tokio::time::sleep(OPEN_PAUSE).await,
            }
            tries += 1;
        }
    }

    /// The words for what failed: a full disk is told as one.
    fn failed(&self, what: &str, size: u64, cause: impl Display) -> NetError {
        failed(&self.folder, what, size, cause)
    }

    /// The words for a transfer that broke off, and the next one finds a store that is open.
    async fn broke_off(&self, opened: &Opened, what: &str, cause: impl Display) -> NetError {
        match self.is_mended(opened).await {
            Ok(true) => self.failed(what, 0, "it stopped meanwhile; it is open again"),
            Ok(false) if disk::is_full_by(&cause) || disk::is_full(&self.folder, 0) => {
                self.failed(what, 0, cause)
            }
            Ok(false) => NetError::lost(what, cause),
            Err(error) => error,
        }
    }
}

/// Why something failed inside; for the log and the reason.
type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn load(folder: &Path) -> Result<FsStore, NetError> {
    let unusable = |cause: &dyn Display| failed(folder, "opening", 0, cause);
    std::fs::create_dir_all(folder).map_err(|e| unusable(&e))?;
    let mut options = Options::new(folder);
    options.gc = Some(GcConfig { interval: SWEEP, add_protected: None });
    FsStore::load_with_opts(folder.join("blobs.db"), options).await.map_err(|e| unusable(&e))
}

fn failed(folder: &Path, what: &str, size: u64, cause: impl Display) -> NetError {
    if disk::is_full_by(&cause) || disk::is_full(folder, size) {
        return NetError::State(disk::full_text(folder, size));
    }
    NetError::State(format!("the content store {} failed at {what}: {cause}", folder.display()))
}

/// Pins what is held, on disk when this returns; what has a pin already costs no write.
async fn pin(store: &FsStore, content: Id) -> Result<(), Failure> {
    if store.tags().get(tag(content)).await?.is_some() {
        return Ok(());
    }
    store.tags().set(tag(content), HashAndFormat::raw(Hash::from_bytes(content))).await?;
    Ok(store.sync_db().await?)
}

fn tag(content: Id) -> Vec<u8> {
    [b"pin/".as_slice(), &content].concat()
}

impl ContentStore for BlobStore {
    fn add(&self, data: Bytes) -> BoxFuture<'_, Result<Id, NetError>> {
        Box::pin(async move {
            let size = data.len() as u64;
            self.run("adding", size, move |store| {
                let data = data.clone();
                Box::pin(async move {
                    let held = store.blobs().add_bytes(data).temp_tag().await?;
                    let content = *held.hash().as_bytes();
                    pin(&store, content).await?;
                    store.sync_db().await?;
                    Ok(content)
                })
            })
            .await
        })
    }

    fn has(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.run("looking up", 0, move |store| {
            Box::pin(async move { Ok(store.blobs().has(Hash::from_bytes(content)).await?) })
        }))
    }

    fn keep(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.run("pinning", 0, move |store| {
            Box::pin(async move {
                let is_held = store.blobs().has(Hash::from_bytes(content)).await?;
                if is_held {
                    pin(&store, content).await?;
                }
                Ok(is_held)
            })
        }))
    }

    fn read(&self, content: Id) -> BoxFuture<'_, Result<Bytes, NetError>> {
        Box::pin(async move {
            if !self.has(content).await? {
                return Err(NetError::Missing);
            }
            self.run("reading", 0, move |store| {
                Box::pin(
                    async move { Ok(store.blobs().get_bytes(Hash::from_bytes(content)).await?) },
                )
            })
            .await
        })
    }

    fn unpin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.run("unpinning", 0, move |store| {
            Box::pin(async move { Ok(store.tags().delete(tag(content)).await.map(drop)?) })
        }))
    }

    fn send<'a>(
        &'a self,
        content: Id,
        to: &'a mut SendStream,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let opened = self.opened();
            let export =
                opened.store.blobs().export_bao(Hash::from_bytes(content), ChunkRanges::all());
            let mut pieces = std::pin::pin!(export.into_byte_stream());
            while let Some(piece) = pieces.next().await {
                let piece = match piece {
                    Ok(piece) => piece,
                    Err(cause) => {
                        return Err(self.broke_off(&opened, "reading content", cause).await);
                    }
                };
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
            let opened = self.opened();
            let reader = Resumed { head: Some(size), rest: from };
            match receive_into(&opened.store, content, reader).await {
                Ok(()) => Ok(()),
                Err(cause) => Err(self.broke_off(&opened, "receiving content", cause).await),
            }
        })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let _turn = self.opening.lock().await;
            self.is_closed.store(true, Relaxed);
            if let Err(error) = self.opened().store.shutdown().await {
                tracing::warn!(%error, "the content store did not close cleanly");
            }
        })
    }
}

async fn receive_into(store: &FsStore, content: Id, reader: Resumed) -> Result<(), Failure> {
    let hash = Hash::from_bytes(content);
    let guard = store.tags().temp_tag(HashAndFormat::raw(hash)).await?;
    store.blobs().import_bao_reader(hash, ChunkRanges::all(), reader).await?;
    pin(store, content).await?;
    drop(guard);
    Ok(())
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
