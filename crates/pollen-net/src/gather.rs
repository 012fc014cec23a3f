//! A content from its holders: piece by piece, from several at once, each piece verified by itself.
//!
//! Decides: which holder is asked for which piece, and when one is asked no more.
//! Does not know: who holds it and who may have it; where it is kept.
//! Invariants: a piece that came is on disk, so whatever is killed repeats at most what was on its way. A
//!     holder that fails, is silent, stalls or lies gets no further piece, and what it had goes to another one.
//! Source: docs/internals/content.md#transfer.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use pollen_wire::{
    Id,
    fetch::{FetchRequest, PIECE, pieces},
};
use tokio::sync::Notify;

use crate::{Net, NetError, Part, Readers, Rest, arriving::Coming, bulk::Given};

/// Holders that are asked at once. The next one takes the place of one that is out.
const HOLDERS: usize = 4;
/// Pieces that are on their way from one holder, so that it never waits for the next request.
const WINDOW: usize = 2;
/// A holder that sends less than this in such a time is passed over while there is another one.
const STALL: Duration = Duration::from_secs(2);
const STALL_BYTES: u64 = 64 * 1024;
/// The only holder left may be slow, and is given up when nothing comes for so long.
const SILENT: Duration = Duration::from_secs(15);
/// When no piece waits, one that is under way for so long is asked of a second holder, too.
const LATE: Duration = Duration::from_millis(500);

/// Where a piece is.
#[derive(Default)]
struct Piece {
    is_held: bool,
    /// Groups of it that are held from its begin; unknown once somebody began to send the rest.
    skip: Option<u32>,
    /// Who sends it, and since when.
    from: Vec<(Id, Instant)>,
}

/// What is missing, and who sends what.
struct State {
    pieces: HashMap<u32, Piece>,
    waiting: VecDeque<u32>,
    left: usize,
    /// Holders that send.
    holders: HashSet<Id>,
}

/// One content on its way.
struct Gathering<'a> {
    net: &'a Net,
    request: FetchRequest<'a>,
    size: u64,
    readers: &'a Readers,
    state: Mutex<State>,
    moved: Notify,
}

impl Net {
    /// Fetches content from linked peers into the store, from the first in the list first; pinned and
    /// on disk when this returns. Nothing is done when it is held. What came of it before is not
    /// fetched again.
    ///
    /// `owner` is the one of the spec: what is held for specs of others only has to be shown by a holder
    /// of this one. `Invalid` when it has more than `most` bytes; else the error of the last holder that
    /// was asked. What came is kept for the next try.
    pub async fn fetch(
        &self,
        holders: &[Id],
        request: FetchRequest<'_>,
        most: u64,
        owner: Id,
    ) -> Result<(), NetError> {
        let content = self.content();
        let is_for_owner = content.is_for(request.content, owner).await?;
        if is_for_owner && content.keep(request.content).await? {
            return Ok(());
        }
        match content.size(request.content).await? {
            Some(size) if !is_for_owner => self.prove(holders, request, size).await?,
            _ => self.gather(holders, request, most, &Readers::default()).await?,
        }
        content.note_for(request.content, Some(owner)).await?;
        match content.keep(request.content).await? {
            true => Ok(()),
            false => Err(NetError::State("what was fetched is not held".to_owned())),
        }
    }

    /// For readers alone, so nothing is noted: has what is not here come, and asks for a proof of what is
    /// here for other owners' specs. `lets_in` of the readers becomes true when a holder let this node
    /// pass: what came for other specs meanwhile is not for these readers before. A limited pace has
    /// one piece after the other come, from one holder.
    pub async fn fetch_for_readers(
        &self,
        holders: &[Id],
        request: FetchRequest<'_>,
        most: u64,
        readers: &Readers,
    ) -> Result<(), NetError> {
        match self.content().size(request.content).await? {
            Some(size) => {
                self.prove(holders, request, size).await?;
                readers.lets_in.store(true, Relaxed);
                Ok(())
            }
            None => self.gather(holders, request, most, readers).await,
        }
    }

    /// Has a holder show that it has what is held here for another owner's specs already, and that the
    /// gate of this spec lets it pass: by one piece, drawn by chance and verified.
    async fn prove(
        &self,
        holders: &[Id],
        request: FetchRequest<'_>,
        size: u64,
    ) -> Result<(), NetError> {
        let mut drawn = [0; 8];
        getrandom::fill(&mut drawn).map_err(|e| NetError::State(format!("no randomness: {e}")))?;
        let count = pieces(size).max(1);
        let piece = u32::try_from(u64::from_le_bytes(drawn) % count).unwrap_or(0);
        let (nobody, mut last) = (Readers::default(), NetError::Missing);
        for holder in holders.iter().copied().filter(|holder| *holder != self.id()) {
            let come = Coming::new(&nobody);
            let asked = async {
                let asked = FetchRequest { piece: Some(piece), ..request };
                let given = self.ask_content(holder, asked).await?;
                let part = Part { piece: given.size.map(|_| piece), skip: 0, size };
                self.content().receive(request.content, part, given.recv, &come).await
            };
            match self.unless_gone(holder, &come, || true, asked).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_own() => return Err(error),
                Err(error) => last = told(holder, error),
            }
        }
        Err(last)
    }

    /// Has it come, and leaves it unpinned: it is kept until it is forgotten.
    async fn gather(
        &self,
        holders: &[Id],
        request: FetchRequest<'_>,
        most: u64,
        readers: &Readers,
    ) -> Result<(), NetError> {
        self.content().begin(request.content).await?;
        let mut holders: VecDeque<Id> =
            holders.iter().copied().filter(|holder| *holder != self.id()).collect();
        let mut last = NetError::Missing;
        let size = loop {
            let Some(holder) = holders.front().copied() else { return Err(last) };
            match self.first(holder, request, most, readers).await {
                Ok(size) => break size,
                Err(error) if error.is_own() => return Err(error),
                Err(error) => last = told(holder, error),
            }
            holders.pop_front();
        };
        // A size shows nothing: who holds the bytes shows it by a piece.
        let Some(size) = size else {
            readers.lets_in.store(true, Relaxed);
            return Ok(());
        };
        let missing = self.content().missing(request.content, size).await?;
        if !missing.is_empty() {
            let gathering = Gathering::new(self, request, size, readers, &missing);
            gathering.run(holders.clone()).await?;
        }
        if !readers.lets_in.load(Relaxed) {
            // All of it came for another spec meanwhile.
            self.prove(holders.make_contiguous(), request, size).await?;
            readers.lets_in.store(true, Relaxed);
        }
        Ok(())
    }

    /// Asks one holder for the whole. What fits into a piece comes at once; else its size.
    async fn first(
        &self,
        holder: Id,
        request: FetchRequest<'_>,
        most: u64,
        readers: &Readers,
    ) -> Result<Option<u64>, NetError> {
        let come = Coming::new(readers);
        let asked = async {
            let probe = FetchRequest { piece: Some(0), ..request };
            let Given { size, recv, busy: _busy, .. } = self.ask_content(holder, probe).await?;
            match size {
                Some(size) if size > most => {
                    Err(NetError::Invalid(format!("content over {most} bytes was refused")))
                }
                // The piece that comes is asked for again only if it is missing.
                Some(size) if size > PIECE => Ok(Some(size)),
                // All of it, also from a holder that knows no pieces.
                _ => {
                    let part = Part { piece: None, skip: 0, size: most };
                    self.content().receive(request.content, part, recv, &come).await?;
                    Ok(None)
                }
            }
        };
        self.unless_gone(holder, &come, || false, asked).await
    }

    /// Ends with an error when the peer is silent or nothing comes; of one that has a deputy also when
    /// little comes.
    async fn unless_gone<T>(
        &self,
        holder: Id,
        come: &Coming<'_>,
        has_deputy: impl Fn() -> bool,
        transfer: impl Future<Output = Result<T, NetError>>,
    ) -> Result<T, NetError> {
        let unreachable = |reason: &str| NetError::Unreachable(reason.to_owned());
        let link = self.link(holder).ok_or_else(|| unreachable("no link to that peer"))?;
        let _watched = link.watch();
        let stalled = async {
            let (mut held, mut since) = (0, Instant::now());
            loop {
                tokio::time::sleep(STALL).await;
                let now = come.bytes();
                if now - held < STALL_BYTES && has_deputy() {
                    return;
                }
                if now != held {
                    since = Instant::now();
                } else if since.elapsed() >= SILENT {
                    return;
                }
                held = now;
            }
        };
        tokio::select! {
            biased;
            done = transfer => done,
            () = link.ejected() => Err(unreachable("the holder is silent")),
            () = stalled => Err(unreachable("the holder sends too little")),
        }
    }
}

fn told(holder: Id, error: NetError) -> NetError {
    let holder = short(&holder);
    if matches!(error, NetError::Corrupt(_)) {
        tracing::warn!(%holder, %error, "a holder sent wrong bytes");
    } else {
        tracing::debug!(%holder, %error, "a holder is passed over");
    }
    error
}

fn short(peer: &Id) -> String {
    peer.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

impl<'a> Gathering<'a> {
    fn new(
        net: &'a Net,
        request: FetchRequest<'a>,
        size: u64,
        readers: &'a Readers,
        missing: &[Rest],
    ) -> Self {
        let rest = |rest: &Rest| (rest.piece, Piece { skip: Some(rest.skip), ..Piece::default() });
        let state = State {
            pieces: missing.iter().map(rest).collect(),
            waiting: missing.iter().map(|rest| rest.piece).collect(),
            left: missing.len(),
            holders: HashSet::new(),
        };
        Self { net, request, size, readers, state: Mutex::new(state), moved: Notify::new() }
    }

    /// Until all is held, or nobody is left to ask.
    async fn run(&self, mut holders: VecDeque<Id>) -> Result<(), NetError> {
        let mut arms = FuturesUnordered::new();
        let mut last = NetError::Missing;
        let (most, window) =
            if self.readers.pace.is_limited() { (1, 1) } else { (HOLDERS, WINDOW) };
        loop {
            while self.state.lock().holders.len() < most {
                let Some(holder) = holders.pop_front() else { break };
                if self.state.lock().holders.insert(holder) {
                    arms.extend((0..window).map(|_| self.carry(holder)));
                }
            }
            match arms.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) if error.is_own() => return Err(error),
                Some(Err(error)) => last = error,
                None => break,
            }
        }
        if self.state.lock().left == 0 { Ok(()) } else { Err(last) }
    }

    /// Takes one piece after another from one holder. An error puts the holder out.
    async fn carry(&self, holder: Id) -> Result<(), NetError> {
        while let Some(piece) = self.next(holder).await {
            let came = tokio::select! {
                biased;
                came = self.bring(holder, piece) => came,
                () = self.until_held(piece) => Ok(()),
            };
            let error = match came {
                Ok(()) => {
                    self.note_held(piece);
                    continue;
                }
                Err(error) => error,
            };
            self.put_back(holder, piece);
            return Err(told(holder, error));
        }
        Ok(())
    }

    /// The next piece for a holder to send; `None` when all is held or the holder is out.
    async fn next(&self, holder: Id) -> Option<u32> {
        loop {
            let moved = self.moved.notified();
            if let Some(next) = self.choose(holder) {
                return next;
            }
            let _ = tokio::time::timeout(LATE, moved).await;
        }
    }

    /// The piece to ask of a holder, `Some(None)` when there is nothing more to do, and `None` while
    /// there may be something later.
    fn choose(&self, holder: Id) -> Option<Option<u32>> {
        let mut state = self.state.lock();
        if state.left == 0 || !state.holders.contains(&holder) {
            return Some(None);
        }
        let now = Instant::now();
        let waiting = state.waiting.pop_front();
        let chosen = waiting.or_else(|| {
            let is_late = |piece: &&Piece| match *piece.from {
                [(from, since)] => from != holder && now >= since + LATE,
                _ => false,
            };
            let late = state.pieces.iter().filter(|(_, piece)| !piece.is_held);
            let late = late.filter(|(_, piece)| is_late(piece));
            late.min_by_key(|(_, piece)| piece.from.first().map(|from| from.1)).map(|late| *late.0)
        });
        let piece = chosen?;
        state.pieces.get_mut(&piece)?.from.push((holder, now));
        Some(Some(piece))
    }

    async fn bring(&self, holder: Id, piece: u32) -> Result<(), NetError> {
        let Some(Rest { skip, .. }) = self.rest_of(piece).await? else { return Ok(()) };
        let come = Coming::new(self.readers);
        let transfer = async {
            let request = FetchRequest { piece: Some(piece), skip, ..self.request };
            let given = self.net.ask_content(holder, request).await?;
            // A holder that knows no pieces sends all of it.
            let piece = given.size.map(|_| piece);
            let part = Part { piece, skip: given.skip, size: self.size };
            self.net.content().receive(self.request.content, part, given.recv, &come).await
        };
        let has_deputy = || self.state.lock().holders.len() > 1;
        self.net.unless_gone(holder, &come, has_deputy, transfer).await?;
        self.readers.lets_in.store(true, Relaxed);
        Ok(())
    }

    /// What is to be asked for of a piece: of one that was begun before only what did not come.
    async fn rest_of(&self, piece: u32) -> Result<Option<Rest>, NetError> {
        let known = self.state.lock().pieces.get_mut(&piece).and_then(|held| held.skip.take());
        if let Some(skip) = known {
            return Ok(Some(Rest { piece, skip }));
        }
        let start = u64::from(piece) * PIECE;
        let until = self.net.content().held_from(self.request.content, start).await?;
        Ok(Rest::of(piece, self.size, until))
    }

    async fn until_held(&self, piece: u32) {
        loop {
            let moved = self.moved.notified();
            if self.state.lock().pieces.get(&piece).is_none_or(|piece| piece.is_held) {
                return;
            }
            moved.await;
        }
    }

    fn note_held(&self, piece: u32) {
        let mut state = self.state.lock();
        if let Some(held) = state.pieces.get_mut(&piece)
            && !std::mem::replace(&mut held.is_held, true)
        {
            held.from.clear();
            state.left -= 1;
        }
        drop(state);
        self.moved.notify_waiters();
    }

    /// The holder is out; what it had waits again, unless another one sends it.
    fn put_back(&self, holder: Id, piece: u32) {
        let mut state = self.state.lock();
        state.holders.remove(&holder);
        if let Some(lost) = state.pieces.get_mut(&piece) {
            lost.from.retain(|(from, _)| *from != holder);
            if !lost.is_held && lost.from.is_empty() {
                state.waiting.push_front(piece);
            }
        }
        drop(state);
        self.moved.notify_waiters();
    }
}
