//! A blob read on this node: what is held here from the disk, the rest from its holders meanwhile.
//!
//! Single flight: however many read, it is fetched once. What was fetched for readers is not a copy that
//! counts: the store lets go of it some time after the last one ended.
//! Source: docs/internals/content.md#reading.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use pollen_net::{NetError, Readers};
use pollen_seal::Layout;
use pollen_wire::{
    Id,
    fetch::{FetchRequest, PIECE},
};

use crate::{
    call::{CallError, Principal, SeedRef},
    candidates::resolve,
    events::Event,
    hex::hex,
    plane::Plane,
    refused::{denied, not_a_recipient, not_had},
    sealed::{SealedFile, Unopened},
    tables::{MODULE, Reading, SeedEntry, SeedRow, Tables},
};

/// A hash is known by its first digits, as many as are shown.
const DIGITS_LEAST: usize = 8;
/// For so long holders are sought that send it, and so often.
const PATIENCE: Duration = Duration::from_secs(8);
const PAUSE: Duration = Duration::from_millis(200);
/// How often a reader looks whether what it waits for has come for others.
const LOOK: Duration = Duration::from_millis(20);

/// A blob that may be read.
#[derive(Clone)]
pub struct Blob {
    plane: Plane,
    entry: Arc<SeedEntry>,
    /// The fetch for the readers of what is not held here.
    reading: Option<Arc<Reading>>,
    /// Where the plain text is of one that is sealed.
    layout: Option<Layout>,
}

/// The next part of a blob for a reader.
enum Part {
    /// Verified as it came.
    Fresh(Bytes),
    /// Up to here it is held.
    Held(u64),
}

/// A blob that who asked may read; where its bytes are was not looked at yet.
#[derive(Clone)]
pub struct FoundBlob(Arc<SeedEntry>);

impl FoundBlob {
    /// The hash of its bytes.
    pub fn content(&self) -> Id {
        self.0.row.content
    }

    /// Who published it.
    pub fn publisher(&self) -> Id {
        self.0.row.publisher
    }

    /// Whether its bytes are an archive that is served as a site.
    pub fn is_site(&self) -> bool {
        self.0.row.is_site()
    }
}

impl Plane {
    /// Finds a blob and judges whether who asks may read it. What is not here comes at most at this
    /// many bytes a second (0: no limit), unless somebody reads it faster.
    ///
    /// `seed-not-found`, `denied`; `bad-request` for something that is not a blob.
    pub async fn open_blob(
        &self,
        seed: &SeedRef,
        who: Principal,
        bytes_per_s: u64,
    ) -> Result<Blob, CallError> {
        self.open_found(self.find_blob(seed, who)?, bytes_per_s).await
    }

    /// As `open_blob`, without a look at the disk.
    pub fn find_blob(&self, seed: &SeedRef, who: Principal) -> Result<FoundBlob, CallError> {
        let tables = self.tables().load();
        let entry = match resolve(&tables, seed) {
            Ok(entry) => entry.clone(),
            Err(unknown) => by_digest(&tables, &seed.to_string(), who)?.ok_or(unknown)?,
        };
        let row = &entry.row;
        if !row.is_blob() {
            let reason =
                format!("seed \"{}\" is a module: it is called, and not fetched", row.name);
            return Err(CallError::refused(
                "bad-request",
                reason,
                &format!("pln call {}", row.name),
            ));
        }
        if !may_read(&tables, row, who) {
            let member = match who {
                Principal::Node(id) => tables.peers.get(&id).map(|peer| &peer.row),
                Principal::Anonymous => None,
            };
            return Err(denied(self, row, member));
        }
        Ok(FoundBlob(entry))
    }

    /// Looks where the bytes of a blob are; what is not held here begins to come, as fast as it may.
    pub async fn open_found(&self, found: FoundBlob, bytes_per_s: u64) -> Result<Blob, CallError> {
        let entry = found.0;
        let held = self.net().content().size(entry.row.content).await.map_err(|e| not_had(&e))?;
        let is_had = held.is_some() && self.has_for(&entry.row).await.map_err(|e| not_had(&e))?;
        let reading = (!is_had).then(|| self.fetch_for_readers(&entry, bytes_per_s));
        if let Some(reading) = reading.as_ref().filter(|_| held.is_some()) {
            // It is here for another owner's specs: no byte goes out before a holder let this node pass.
            reading.flight.clone().await?;
        }
        Blob { plane: self.clone(), entry, reading, layout: None }.opened().await
    }

    /// The plain text of a sealed blob that this node published, whoever may read it now.
    ///
    /// `denied` for one of another node, `bad-request` for what is not sealed.
    pub async fn open_own(&self, seed: &SeedRef) -> Result<Blob, CallError> {
        let entry = resolve(&self.tables().load(), seed)?.clone();
        let name = &entry.row.name;
        if !entry.row.is_sealed() {
            let reason = format!("\"{name}\" is not sealed");
            return Err(CallError::refused("bad-request", reason, "pln seed FILE NAME --sealed"));
        }
        if entry.row.publisher != self.id() {
            let reason = format!("another node published \"{name}\"");
            return Err(CallError::refused("denied", reason, "ask for it on that node"));
        }
        self.open_found(FoundBlob(entry), 0).await
    }

    /// Whether the content of a blob was got for the specs of its publisher.
    async fn has_for(&self, row: &SeedRow) -> Result<bool, NetError> {
        self.net().content().is_for(row.content, row.publisher).await
    }

    /// A copy that could not be read is read whole. When it is damaged, the brain hears that its seeds
    /// cannot be had from here; it decides whether others hold them.
    pub(crate) fn look_for_damage(&self, content: Id) {
        let is_it =
            move |entry: &&Arc<SeedEntry>| entry.row.is_blob() && entry.row.content == content;
        let tables = self.tables().load_full();
        let Some(first) = tables.seeds().find(is_it).cloned() else { return };
        if first.local.is_looked_at.swap(true, Relaxed) {
            return;
        }
        let plane = self.clone();
        self.handle().spawn(async move {
            let is_damaged = plane.net().content().is_damaged(content).await;
            first.local.is_looked_at.store(false, Relaxed);
            if !is_damaged {
                return;
            }
            let content = hex(&content);
            tracing::warn!(%content, "the copy of a blob on this disk is damaged");
            for entry in tables.seeds().filter(is_it) {
                let (seed, slug) = (entry.row.seed, "state-unusable".to_owned());
                let reason = "the copy on this disk is damaged".to_owned();
                plane.events().emit(Event::LoadFinished { seed, slug, reason }).await;
            }
        });
    }

    fn fetch_for_readers(&self, entry: &Arc<SeedEntry>, bytes_per_s: u64) -> Arc<Reading> {
        let mut held = entry.local.reading.lock();
        if let Some(reading) = held.upgrade() {
            reading.readers.pace.join(bytes_per_s);
            return reading;
        }
        let readers = Arc::new(Readers::of(bytes_per_s));
        let (plane, owned, read_by) = (self.clone(), entry.clone(), readers.clone());
        let fetch = self.handle().spawn(async move {
            let began = Instant::now();
            loop {
                // Who holds it is told within a moment, and a link to them may be on its way.
                let tables = plane.tables().load_full();
                let row = &tables.seed(&owned.row.seed).unwrap_or(&owned).row;
                let (seed, content) = (row.seed, row.content);
                let request = FetchRequest { seed, path: MODULE, content, piece: None, skip: 0 };
                let (net, held_by) = (plane.net(), &row.replicas);
                let fetched = net.fetch_for_readers(held_by, request, row.size, &read_by).await;
                let Err(error) = fetched else { return Ok(()) };
                if error.is_own() || began.elapsed() >= PATIENCE {
                    return Err(not_had(&error));
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        let (plane, content, task) = (self.clone(), entry.row.content, fetch.abort_handle());
        let ended = move || {
            task.abort();
            let net = plane.net().clone();
            plane.handle().spawn(async move {
                if let Err(error) = net.content().forget(content).await {
                    tracing::warn!(%error, "what was fetched for readers could not be let go");
                }
            });
        };
        let fetched = fetch.map(|ended| ended.unwrap_or_else(|_| Err(CallError::shutting_down())));
        let flight = fetched.boxed().shared();
        let reading = Arc::new(Reading { flight, readers, ended: Box::new(ended) });
        *held = Arc::downgrade(&reading);
        reading
    }
}

fn may_read(tables: &Tables, row: &SeedRow, who: Principal) -> bool {
    match who {
        Principal::Node(id) => tables.peers.get(&id).is_some_and(|peer| row.lets(&peer.row)),
        Principal::Anonymous => row.lets_stranger(),
    }
}

/// The blob whose content has a hash that begins so, among those that who asks may read: of the others
/// nothing is told. `ambiguous` for several contents.
fn by_digest(
    tables: &Tables,
    digits: &str,
    who: Principal,
) -> Result<Option<Arc<SeedEntry>>, CallError> {
    let digits = digits.to_ascii_lowercase();
    if digits.len() < DIGITS_LEAST || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut found: Vec<&Arc<SeedEntry>> = tables
        .seeds()
        .filter(|entry| entry.row.is_blob() && may_read(tables, &entry.row, who))
        .filter(|entry| hex(&entry.row.content).starts_with(&digits))
        .collect();
    found.sort_by(|one, other| one.row.name.cmp(&other.row.name));
    let Some(first) = found.first() else { return Ok(None) };
    if let Some(other) = found.iter().find(|entry| entry.row.content != first.row.content) {
        let reason =
            format!("\"{digits}\" may be the blob {} or {}", first.row.name, other.row.name);
        return Err(CallError::refused("ambiguous", reason, "give more digits, or the name"));
    }
    // A row without a name is one that is being replaced.
    let named = found.iter().find(|entry| !entry.row.name.is_empty());
    Ok(Some(Arc::clone(named.unwrap_or(first))))
}

impl Blob {
    /// Whether who published this seed may read it, too. Its own blobs it may; of others with a gate
    /// only a member that is there can be judged.
    pub(crate) fn lets_publisher(&self, seed: &SeedRow) -> bool {
        let row = &self.entry.row;
        let publisher = seed.publisher;
        row.publisher == publisher
            || row.has_no_gate()
            || may_read(&self.plane.tables().load(), row, Principal::Node(publisher))
    }

    /// Bytes of all that is read of it.
    pub fn size(&self) -> u64 {
        self.layout.map_or(self.entry.row.size, Layout::plain)
    }

    /// The same blob, to be read as plain text if it is sealed. `not-a-recipient` for whom it is not.
    async fn opened(mut self) -> Result<Self, CallError> {
        let row = &self.entry.row;
        if !row.is_sealed() {
            return Ok(self);
        }
        let layout = match self.entry.local.layout.get() {
            Some(layout) => *layout,
            None => {
                let found = self.sealed(row.size).look(self.plane.clone()).await;
                let found = found.map_err(|why| match why {
                    Unopened::ForOthers => not_a_recipient(row),
                    Unopened::Failed(error) => error,
                })?;
                *self.entry.local.layout.get_or_init(|| found)
            }
        };
        self.layout = Some(layout);
        Ok(self)
    }

    /// Its first bytes as they are held.
    fn sealed(&self, end: u64) -> SealedFile {
        let blob = self.clone();
        let raw = Box::new(move |range| blob.clone().raw(range));
        SealedFile::new(raw, end, self.plane.handle().clone())
    }

    /// Whether its bytes are an archive that is served as a site.
    pub fn is_site(&self) -> bool {
        self.entry.row.is_site()
    }

    /// Whether it comes from its holders while it is read, and stays for readers only.
    pub fn is_fetched(&self) -> bool {
        self.reading.is_some()
    }

    /// The former versions of its name that are kept, that `who` may read, and that are on this node
    /// or on their way to it; the newest first.
    pub async fn former(&self, who: Principal) -> Vec<Self> {
        let tables = self.plane.tables().load_full();
        let mut found = Vec::new();
        for entry in self.entry.row.former.iter().filter_map(|seed| tables.seed(seed)) {
            let row = &entry.row;
            if !row.is_blob() || row.is_sealed() || !may_read(&tables, row, who) {
                continue;
            }
            let held = self.plane.net().content().size(entry.row.content).await;
            let is_held = matches!(held, Ok(Some(_)));
            let is_had = is_held && matches!(self.plane.has_for(&entry.row).await, Ok(true));
            let reading = entry.local.reading.lock().upgrade();
            if is_had || reading.is_some() {
                let (plane, entry) = (self.plane.clone(), entry.clone());
                found.push(Self { plane, entry, reading, layout: None });
            }
        }
        found
    }

    /// The hash of its bytes.
    pub fn content(&self) -> Id {
        self.entry.row.content
    }

    /// Who published it.
    pub fn publisher(&self) -> Id {
        self.entry.row.publisher
    }

    /// The bytes within `range`, each verified. What is not here yet comes as its holders send it.
    pub fn read(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, CallError>> {
        let range = range.start..range.end.min(self.size());
        match self.layout {
            Some(_) if range.is_empty() => stream::empty().boxed(),
            Some(layout) => {
                let end = layout.end_of(range.end).min(self.entry.row.size);
                self.sealed(end).read(self.plane.clone(), range)
            }
            None => self.raw(range),
        }
    }

    /// The bytes as they are held: of what is sealed no plain text.
    fn raw(self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, CallError>> {
        let Some(reading) = self.reading.clone() else { return self.held(range) };
        let next = |(blob, reading, range): (Self, Arc<Reading>, Range<u64>)| async move {
            if range.is_empty() {
                return Ok::<_, CallError>(None);
            }
            let part = blob.next_part(&reading, range.clone()).await?;
            let (part, end) = match part {
                Part::Fresh(bytes) => {
                    let end = range.start + bytes.len() as u64;
                    (stream::iter([Ok(bytes)]).boxed(), end)
                }
                Part::Held(end) => (blob.held(range.start..end), end),
            };
            Ok(Some((part, (blob, reading, end..range.end))))
        };
        stream::try_unfold((self, reading, range), next).try_flatten().boxed()
    }

    /// All bytes within `range` in one piece, which stands in memory: the caller bounds it.
    ///
    /// `unreachable` when it breaks off, or when the blob ends within the range.
    pub async fn read_whole(self, range: Range<u64>) -> Result<Bytes, CallError> {
        let wanted = range.end.saturating_sub(range.start);
        let mut parts = self.read(range);
        let mut all = BytesMut::new();
        while let Some(part) = parts.try_next().await? {
            if all.is_empty() && part.len() as u64 == wanted {
                return Ok(part);
            }
            all.extend_from_slice(&part);
        }
        if all.len() as u64 != wanted {
            let reason = "the blob broke off while it was read";
            return Err(CallError::refused("unreachable", reason, "ask again"));
        }
        Ok(all.freeze())
    }

    fn held(&self, range: Range<u64>) -> BoxStream<'static, Result<Bytes, CallError>> {
        let (plane, content) = (self.plane.clone(), self.content());
        let read = plane.net().content().read_range(content, range);
        read.map_err(move |error| {
            plane.look_for_damage(content);
            not_had(&error)
        })
        .boxed()
    }

    /// The next part of a range, which is not empty: what just came for these readers, or what is held,
    /// once a holder let this node pass for this blob. Waits until there is one.
    async fn next_part(&self, reading: &Reading, range: Range<u64>) -> Result<Part, CallError> {
        let Readers { lets_in, fresh, .. } = &*reading.readers;
        let mut ended = None;
        loop {
            if let Some(bytes) = fresh.take(&range) {
                return Ok(Part::Fresh(bytes));
            }
            if lets_in.load(Relaxed) {
                let held = self.plane.net().content().held_from(self.content(), range.start).await;
                let most = range.end.min(range.start + PIECE);
                let most = fresh.next_behind(range.start).map_or(most, |next| most.min(next));
                let end = held.map_err(|error| not_had(&error))?.min(most);
                if end > range.start {
                    return Ok(Part::Held(end));
                }
            }
            match ended {
                None => {}
                Some(Ok(())) => return Err(not_had(&NetError::Missing)),
                Some(Err(error)) => return Err(error),
            }
            ended = tokio::select! {
                biased;
                () = fresh.until_came(range.start) => None,
                ended = reading.flight.clone() => Some(ended),
                () = tokio::time::sleep(LOOK) => None,
            };
        }
    }
}
