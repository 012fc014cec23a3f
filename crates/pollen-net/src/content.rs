//! Content by its BLAKE3 id, behind one trait: iroh-blobs calls itself not yet production quality.
//!
//! Everything held is pinned by a tag of its own; unpinned content goes with the next sweep.
//!
//! The file store has one actor for its metadata, which ends with the first write that fails, as on a full disk. What
//! fails then looks whether that happened, opens the folder again, one at a time, and begins once more. What was
//! acknowledged had been written to disk before.

use std::{
    fmt::Display,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt, TryFutureExt as _, future::BoxFuture, stream, stream::BoxStream,
};
use iroh::endpoint::{RecvStream, SendStream};
use iroh_blobs::{
    Hash, HashAndFormat,
    api::blobs::{BlobStatus, EncodedItem},
    protocol::{ChunkRanges, ChunkRangesExt as _},
    store::{GcConfig, fs::FsStore, fs::options::Options},
};
use pollen_wire::Id;
use tokio::sync::mpsc;

use crate::{
    NetError,
    arriving::{Arriving, Coming, Part, Rest, held_from},
    damage,
    disk::{self, failed},
    pins::{Failure, PINS, pin, tag, unfinished},
    possession::{self, Uploads},
    turns::Turns,
};

/// A content that comes in parts; one that is an error ends it.
pub type Parts = mpsc::Receiver<io::Result<Bytes>>;

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
    /// Whether it was got for the specs of this owner: uploaded here, or fetched for one of them.
    fn is_for(&self, content: Id, owner: Id) -> BoxFuture<'_, Result<bool, NetError>>;
    /// Notes that it was; without an owner, that it is for the specs of all.
    fn note_for(&self, content: Id, owner: Option<Id>) -> BoxFuture<'_, Result<(), NetError>>;
    /// Whether it was uploaded here after that: a spec that names it may be on its way.
    fn is_newer(&self, content: Id, than: Instant) -> bool;
    /// Lets go; gone with the next sweep. Unknown content is not an error.
    fn unpin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>>;
    /// Keeps what comes in parts, pinned and on disk; returns its id and size. A part that is an error
    /// ends it, and nothing is kept.
    fn add_parts(&self, parts: Parts) -> BoxFuture<'_, Result<(Id, u64), NetError>>;
    /// `Full` when the disk has no room for so many bytes more.
    fn check_room(&self, size: u64) -> Result<(), NetError>;
    /// Bytes of what is held whole.
    fn size(&self, content: Id) -> BoxFuture<'_, Result<Option<u64>, NetError>>;
    /// What comes of it from now on, and came before, is kept until it is unpinned or forgotten.
    fn begin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>>;
    /// Lets go of what `begin` keeps, unless it is pinned.
    fn forget(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>>;
    /// The pieces that are missing of content of this size, and what of them.
    fn missing(&self, content: Id, size: u64) -> BoxFuture<'_, Result<Vec<Rest>, NetError>>;
    /// Up to where all is held from this place on, bytes; the place itself when its group is missing.
    fn held_from(&self, content: Id, at: u64) -> BoxFuture<'_, Result<u64, NetError>>;
    /// Verified bytes of what is held of it within `range`; ends early with an error only.
    fn read_range(
        &self,
        content: Id,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, NetError>>;
    /// Whether what is whole by the store's account is not what its hash says, or cannot be read. All of
    /// it is read for that, up to the first fault.
    fn is_damaged(&self, content: Id) -> BoxFuture<'_, bool>;
    /// Writes the verifiable encoding of all of it or of a piece; the stream is not finished.
    fn send<'a>(
        &'a self,
        content: Id,
        part: Part,
        to: &'a mut SendStream,
    ) -> BoxFuture<'a, Result<(), NetError>>;
    /// Reads and verifies the encoding of a part; `come` counts its bytes as they arrive. On an error
    /// nothing wrong is kept. Not pinned: `keep` does that to what is whole.
    fn receive<'a>(
        &'a self,
        content: Id,
        part: Part,
        from: RecvStream,
        come: &'a Coming<'a>,
    ) -> BoxFuture<'a, Result<(), NetError>>;
    /// Writes all to disk and stops. Later calls fail.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// [`ContentStore`] in a folder, by iroh-blobs' file store.
pub struct BlobStore {
    folder: PathBuf,
    /// This node, for whose specs uploads are.
    own: Id,
    current: parking_lot::Mutex<Opened>,
    opening: tokio::sync::Mutex<()>,
    uploads: Uploads,
    turns: Turns,
    is_closed: AtomicBool,
}

/// One opened store; the next has the next number.
#[derive(Clone)]
struct Opened {
    number: u64,
    store: FsStore,
}

/// What the store has read is taken from it together, as many items as it lets wait: each time that it
/// waits for room and gets some, a thread is woken.
const BATCH: usize = 32;
/// Time between sweeps of unpinned content.
const SWEEP: Duration = Duration::from_secs(600);
/// The database of a store that ended is let go of a moment later: so often, so long is waited.
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

impl BlobStore {
    /// Opens or creates the store in `folder`. `State` when it cannot be read or written.
    pub async fn open(folder: &Path, own: Id) -> Result<Self, NetError> {
        let store = load(folder).await?;
        Ok(Self {
            folder: folder.to_owned(),
            own,
            current: parking_lot::Mutex::new(Opened { number: 0, store }),
            opening: tokio::sync::Mutex::new(()),
            uploads: Uploads::default(),
            turns: Turns::new(),
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

    /// The chunks that are held.
    fn held(&self, content: Id) -> BoxFuture<'_, Result<ChunkRanges, NetError>> {
        Box::pin(self.run("looking up", 0, move |store| {
            let turns = self.turns.clone();
            Box::pin(async move {
                let observed = store.blobs().observe(Hash::from_bytes(content));
                Ok(turns.within(observed.into_future()).await?.ranges)
            })
        }))
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

async fn load(folder: &Path) -> Result<FsStore, NetError> {
    let unusable = |cause: &dyn Display| failed(folder, "opening", 0, cause);
    std::fs::create_dir_all(folder).map_err(|e| unusable(&e))?;
    let mut options = Options::new(folder);
    options.gc = Some(GcConfig { interval: SWEEP, add_protected: None });
    let store = FsStore::load_with_opts(folder.join("blobs.db"), options).await;
    let store = store.map_err(|e| unusable(&e))?;
    possession::adopt(&store, PINS).await.map_err(|e| unusable(&e))?;
    Ok(store)
}

impl ContentStore for BlobStore {
    fn add(&self, data: Bytes) -> BoxFuture<'_, Result<Id, NetError>> {
        Box::pin(async move {
            let adding = self.run("adding", data.len() as u64, move |store| {
                let (folder, own, data) = (self.folder.clone(), self.own, data.clone());
                Box::pin(async move {
                    let held = store.blobs().add_bytes(data).temp_tag().await?;
                    possession::own(&folder, &store, *held.hash().as_bytes(), own).await
                })
            });
            adding.await.inspect(|content| self.uploads.note(*content))
        })
    }

    fn has(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.run("looking up", 0, move |store| {
            Box::pin(async move { Ok(store.blobs().has(Hash::from_bytes(content)).await?) })
        }))
    }

    fn keep(&self, content: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.run("pinning", 0, move |store| {
            let folder = self.folder.clone();
            Box::pin(async move {
                let is_held = store.blobs().has(Hash::from_bytes(content)).await?;
                if is_held {
                    pin(&folder, &store, content).await?;
                }
                Ok(is_held)
            })
        }))
    }

    fn is_for(&self, content: Id, owner: Id) -> BoxFuture<'_, Result<bool, NetError>> {
        Box::pin(self.run("looking up", 0, move |store| {
            Box::pin(async move { possession::is_for(&store, content, owner).await })
        }))
    }

    fn note_for(&self, content: Id, owner: Option<Id>) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.run("noting", 0, move |store| {
            Box::pin(async move {
                possession::note(&store, content, owner).await?;
                Ok(store.sync_db().await?)
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

    fn is_newer(&self, content: Id, than: Instant) -> bool {
        self.uploads.is_newer(content, than)
    }

    fn unpin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.run("unpinning", 0, move |store| {
            Box::pin(async move {
                possession::forget(&store, content).await?;
                store.tags().delete(unfinished(content)).await?;
                Ok(store.tags().delete(tag(content)).await.map(drop)?)
            })
        }))
    }

    fn add_parts(&self, mut parts: Parts) -> BoxFuture<'_, Result<(Id, u64), NetError>> {
        Box::pin(async move {
            let opened = self.opened();
            let size = Arc::new(AtomicU64::new(0));
            let counted = size.clone();
            let parts = futures_util::stream::poll_fn(move |cx| {
                parts.poll_recv(cx).map(|part| {
                    let length =
                        part.as_ref().map_or(0, |part| part.as_ref().map_or(0, Bytes::len));
                    counted.fetch_add(length as u64, Relaxed);
                    part
                })
            });
            let added = async {
                let held = opened.store.blobs().add_stream(parts).await.temp_tag().await?;
                let content = *held.hash().as_bytes();
                self.uploads.note(content);
                possession::own(&self.folder, &opened.store, content, self.own).await
            };
            match added.await {
                Ok(content) => Ok((content, size.load(Relaxed))),
                Err(cause) => Err(self.broke_off(&opened, "adding", cause).await),
            }
        })
    }

    fn check_room(&self, size: u64) -> Result<(), NetError> {
        if disk::is_full(&self.folder, size) {
            return Err(NetError::Full(disk::full_text(&self.folder, size)));
        }
        Ok(())
    }

    fn size(&self, content: Id) -> BoxFuture<'_, Result<Option<u64>, NetError>> {
        Box::pin(self.run("looking up", 0, move |store| {
            Box::pin(async move {
                match store.blobs().status(Hash::from_bytes(content)).await? {
                    BlobStatus::Complete { size } => Ok(Some(size)),
                    BlobStatus::Partial { .. } | BlobStatus::NotFound => Ok(None),
                }
            })
        }))
    }

    fn is_damaged(&self, content: Id) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let is_held = async || matches!(self.size(content).await, Ok(Some(_)));
            let opened = self.opened();
            // A store that has stopped, or has let go of it, says nothing of the disk.
            is_held().await
                && !damage::is_sound(&opened.store, content).await
                && matches!(self.is_mended(&opened).await, Ok(false))
                && is_held().await
        })
    }

    fn begin(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.run("beginning", 0, move |store| {
            Box::pin(async move {
                let hash = HashAndFormat::raw(Hash::from_bytes(content));
                Ok(store.tags().set(unfinished(content), hash).await?)
            })
        }))
    }

    fn forget(&self, content: Id) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(self.run("forgetting", 0, move |store| {
            Box::pin(async move { Ok(store.tags().delete(unfinished(content)).await.map(drop)?) })
        }))
    }

    fn missing(&self, content: Id, size: u64) -> BoxFuture<'_, Result<Vec<Rest>, NetError>> {
        self.held(content).map_ok(move |held| Rest::all_of(&held, size)).boxed()
    }

    fn held_from(&self, content: Id, at: u64) -> BoxFuture<'_, Result<u64, NetError>> {
        self.held(content).map_ok(move |held| held_from(&held, at)).boxed()
    }

    fn read_range(
        &self,
        content: Id,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, NetError>> {
        let folder = self.folder.clone();
        let chunks = ChunkRanges::bytes(range.clone());
        let export = self.opened().store.blobs().export_bao(Hash::from_bytes(content), chunks);
        let failed = move |cause: String| failed(&folder, "reading content", 0, cause);
        let begun = self.turns.clone().begun(export.stream().boxed());
        let items = begun.flatten_stream().ready_chunks(BATCH).flat_map(stream::iter);
        let items = items.filter_map(move |item| {
            let read = match item {
                // A leaf is a whole group of chunks, which may begin before and end after.
                EncodedItem::Leaf(leaf) => {
                    let within = |at: u64| {
                        let at = at.saturating_sub(leaf.offset);
                        usize::try_from(at).unwrap_or(usize::MAX).min(leaf.data.len())
                    };
                    Some(Ok(leaf.data.slice(within(range.start)..within(range.end))))
                }
                EncodedItem::Error(cause) => Some(Err(failed(cause.to_string()))),
                EncodedItem::Size(_) | EncodedItem::Parent(_) | EncodedItem::Done => None,
            };
            std::future::ready(read)
        });
        items.boxed()
    }

    fn send<'a>(
        &'a self,
        content: Id,
        part: Part,
        to: &'a mut SendStream,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let opened = self.opened();
            let chunks = part.chunks().ok_or(NetError::Missing)?;
            let export = opened.store.blobs().export_bao(Hash::from_bytes(content), chunks);
            let pieces = self.turns.clone().begun(export.into_byte_stream().boxed());
            let mut batches = std::pin::pin!(pieces.await.ready_chunks(BATCH));
            while let Some(batch) = batches.next().await {
                let (read, broken): (Vec<_>, Vec<_>) = batch.into_iter().partition(Result::is_ok);
                let mut read: Vec<Bytes> = read.into_iter().flatten().collect();
                let written = to.write_all_chunks(&mut read).await;
                written.map_err(|e| NetError::lost("sending content", e))?;
                if let Some(Err(cause)) = broken.into_iter().next() {
                    return Err(self.broke_off(&opened, "reading content", cause).await.unread());
                }
            }
            Ok(())
        })
    }

    fn receive<'a>(
        &'a self,
        content: Id,
        part: Part,
        from: RecvStream,
        come: &'a Coming<'a>,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let chunks = part.chunks().ok_or(NetError::Missing)?;
            let arriving = Arriving::begin(part, from, come).await?;
            let opened = self.opened();
            match arriving.keep(&opened.store, content, chunks).await {
                Ok(()) => Ok(()),
                Err(cause) if is_forged(&cause) => Err(NetError::Corrupt(cause.to_string())),
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

/// Whether what came has another hash than it should. The library gives it as a text.
fn is_forged(cause: &Failure) -> bool {
    format!("{cause:#}").contains("hash mismatch")
}
