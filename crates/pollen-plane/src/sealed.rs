//! Sealed blobs: what comes in is sealed on its way to the store, and what is read is opened on its way out.
//!
//! Decides: when a reader that went away ends the work for it.
//! Does not know: the format (`pollen-seal`); which nodes a blob is sealed for, and who may read it (the brain).
//! Invariants: plain text is neither written to disk nor held beyond a few parts. Of a file that could
//!     not be sealed to its end nothing is kept.
//! Source: docs/internals/content.md#sealed-blobs.

use std::{
    io::{self, BufRead, BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    sync::OnceLock,
};

use bytes::{Buf as _, Bytes};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use pollen_net::Parts;
use pollen_seal::{Layout, SealError, seal};
use pollen_wire::Id;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::sync::CancellationToken;

use crate::{
    call::{CallError, SeedRef},
    plane::Plane,
};

/// Parts that wait for the disk, or for their reader.
const WAITING: usize = 4;
/// Bytes of a part.
const PART: usize = 128 * 1024;

impl Plane {
    /// Keeps what comes in parts, sealed for these nodes; returns its id and size. Of what breaks off
    /// nothing is kept.
    ///
    /// `bad-request` when there is no node, or an id is no key; else what the store says.
    pub async fn add_sealed(&self, nodes: Vec<Id>, parts: Parts) -> Result<(Id, u64), CallError> {
        let (to, sealed) = mpsc::channel(WAITING);
        let sealing = tokio::task::spawn_blocking(move || {
            let done = seal_parts(&nodes, parts, to.clone());
            if let Err(error) = &done {
                // What ends with an error is not kept.
                let _ = to.blocking_send(Err(io::Error::other(error.to_string())));
            }
            done
        });
        let (sealing, kept) = tokio::join!(sealing, self.net().content().add_parts(sealed));
        match sealing {
            Ok(Err(error @ (SealError::NoKey(_) | SealError::ForNobody))) => {
                let remedy = "name the nodes that pln seed --sealed names";
                Err(CallError::refused("bad-request", error.to_string(), remedy))
            }
            _ => kept.map_err(|error| CallError::of_store(&error)),
        }
    }
}

impl Plane {
    /// Seals anew what this node sealed under a name, for these nodes; returns its id and size.
    ///
    /// As `open_own` and `add_sealed`; `unreachable` when it breaks off.
    pub async fn reseal(&self, seed: &SeedRef, nodes: Vec<Id>) -> Result<(Id, u64), CallError> {
        let blob = self.open_own(seed).await?;
        let size = blob.size();
        let (to, parts) = mpsc::channel(WAITING);
        let broken = OnceLock::new();
        let read = async {
            let mut plain = blob.read(0..size);
            while let Some(part) = plain.next().await {
                let part = part.map_err(|error| {
                    let reason = error.reason.clone();
                    let _ = broken.set(error);
                    io::Error::other(reason)
                });
                let is_last = part.is_err();
                if to.send(part).await.is_err() || is_last {
                    break;
                }
            }
            drop(to);
        };
        let ((), kept) = tokio::join!(read, self.add_sealed(nodes, parts));
        broken.into_inner().map_or(kept, Err)
    }
}

fn seal_parts(
    nodes: &[Id],
    mut parts: Parts,
    to: mpsc::Sender<io::Result<Bytes>>,
) -> Result<(), SealError> {
    let mut file = seal(nodes, BufWriter::with_capacity(PART, Outgoing(to)))?;
    while let Some(part) = parts.blocking_recv() {
        file.write_all(&part?)?;
    }
    Ok(file.finish()?.flush()?)
}

struct Outgoing(mpsc::Sender<io::Result<Bytes>>);

impl Write for Outgoing {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(Bytes::copy_from_slice(part)));
        sent.map(|()| part.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The bytes within a range of a sealed file, as they come.
type Raw = Box<dyn Fn(Range<u64>) -> BoxStream<'static, Result<Bytes, CallError>> + Send>;

/// A sealed file that is read from its store, or while it comes, by a thread that waits for it.
pub(crate) struct SealedFile {
    raw: Raw,
    at: u64,
    end: u64,
    held: Bytes,
    coming: Option<BoxStream<'static, Result<Bytes, CallError>>>,
    handle: Handle,
    /// Whoever reads it went away.
    stop: CancellationToken,
}

impl SealedFile {
    /// Its first `end` bytes.
    pub(crate) fn new(raw: Raw, end: u64, handle: Handle) -> Self {
        let stop = CancellationToken::new();
        Self { raw, at: 0, end, held: Bytes::new(), coming: None, handle, stop }
    }

    /// Where the plain text is, if this node can open it.
    pub(crate) async fn look(mut self, plane: Plane) -> Result<Layout, Unopened> {
        let _guard = self.stop.clone().drop_guard();
        let size = self.end;
        let looked = tokio::task::spawn_blocking(move || plane.opener().look(&mut self, size));
        match looked.await {
            Ok(Ok(layout)) => Ok(layout),
            Ok(Err(SealError::ForOthers)) => Err(Unopened::ForOthers),
            Ok(Err(error)) => Err(Unopened::Failed(told(error))),
            Err(error) => Err(Unopened::Failed(unread(&error.to_string()))),
        }
    }

    /// The bytes within a range of the plain text.
    pub(crate) fn read(
        self,
        plane: Plane,
        range: Range<u64>,
    ) -> BoxStream<'static, Result<Bytes, CallError>> {
        let (to, parts) = mpsc::channel(WAITING);
        let guard = self.stop.clone().drop_guard();
        self.handle.clone().spawn_blocking(move || {
            if let Err(error) = self.open(&plane, range, &to) {
                let _ = to.blocking_send(Err(told(error)));
            }
        });
        let next = |(mut parts, guard): (mpsc::Receiver<_>, _)| async move {
            parts.recv().await.map(|part| (part, (parts, guard)))
        };
        stream::unfold((parts, guard), next).boxed()
    }

    fn open(
        self,
        plane: &Plane,
        range: Range<u64>,
        to: &mpsc::Sender<Result<Bytes, CallError>>,
    ) -> Result<(), SealError> {
        let mut left = range.end - range.start;
        let mut plain = plane.opener().open(self, range.start)?;
        while left > 0 {
            let mut part = vec![0; PART.min(usize::try_from(left).unwrap_or(PART))];
            plain.read_exact(&mut part)?;
            left -= part.len() as u64;
            if to.blocking_send(Ok(part.into())).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let coming = self.coming.get_or_insert_with(|| (self.raw)(self.at..self.end));
        let next = async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => None,
                part = coming.next() => part,
            }
        };
        self.handle.block_on(next).transpose().map_err(|error| io::Error::other(Broken(error)))
    }
}

impl BufRead for SealedFile {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.held.is_empty() && self.at < self.end {
            match self.next()? {
                Some(part) => self.held = part,
                None => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
        Ok(&self.held)
    }

    fn consume(&mut self, count: usize) {
        self.at += count as u64;
        self.held.advance(count);
    }
}

impl Read for SealedFile {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl Seek for SealedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        if at != self.at {
            (self.held, self.coming) = (Bytes::new(), None);
        }
        self.at = at;
        Ok(at)
    }
}

/// Why a sealed file is not read here.
pub(crate) enum Unopened {
    ForOthers,
    Failed(CallError),
}

/// What broke off below, on its way through the library.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason)]
struct Broken(CallError);

fn told(error: SealError) -> CallError {
    if let SealError::Io(cause) = &error
        && let Some(Broken(below)) = cause.get_ref().and_then(|held| held.downcast_ref())
    {
        return below.clone();
    }
    unread(&error.to_string())
}

fn unread(reason: &str) -> CallError {
    let reason = format!("the sealed blob cannot be read: {reason}");
    CallError::refused("state-unusable", reason, "have its publisher seed it again")
}
