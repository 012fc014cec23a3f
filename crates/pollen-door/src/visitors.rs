//! Who is at the TCP door: connections and buffered bytes, in all and by address.
//!
//! Decides: who enters, and who may keep how many bytes.
//! Does not know: what is said to those who may not.
//! Invariants: what was entered or held is given back when its guard is dropped; an address without
//!     connections is forgotten.
//! Source: crates/pollen-door/src/limits.rs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;
use pollen_plane::files_of_strangers;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{
    BYTES_PART, BYTES_WAIT, CONNECTIONS_OF_ADDRESS, FREE_BYTES, NEWCOMER, NEWCOMERS_PART,
};

/// Unit of the account.
const KIB: usize = 1024;

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// The door is full.
    Door,
    /// The address has its share.
    Address,
}

/// The connections of strangers, and the account of their bytes.
pub(crate) struct Visitors {
    /// Connections for everybody.
    most: usize,
    /// Connections in all, those kept for newcomers included.
    most_of_all: usize,
    parties: Mutex<Parties>,
    bytes: Arc<Semaphore>,
    capacity: usize,
    /// The most that was held since the allocator was asked for its free pages, KiB.
    peak: AtomicUsize,
}

#[derive(Default)]
struct Parties {
    inside: usize,
    by_address: HashMap<IpAddr, Party>,
}

struct Party {
    inside: usize,
    bytes: Arc<Semaphore>,
}

impl Visitors {
    /// For a process that may open so many `files`, with an account of so many `bytes`.
    pub(crate) fn new(files: usize, bytes: u64) -> Arc<Self> {
        let most_of_all = files_of_strangers(files).max(NEWCOMER);
        let capacity = usize::try_from(bytes).unwrap_or(usize::MAX) / KIB;
        let capacity = capacity.min(Semaphore::MAX_PERMITS);
        Arc::new(Self {
            most: most_of_all - most_of_all / (NEWCOMERS_PART + 1),
            most_of_all,
            parties: Mutex::default(),
            bytes: Arc::new(Semaphore::new(capacity)),
            capacity,
            peak: AtomicUsize::new(0),
        })
    }

    /// A connection comes from `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Visit, Crowded> {
        let address = party_of(address);
        let mut parties = self.parties.lock();
        let inside = parties.by_address.get(&address).map_or(0, |party| party.inside);
        let most = if inside < NEWCOMER { self.most_of_all } else { self.most };
        if inside >= CONNECTIONS_OF_ADDRESS {
            return Err(Crowded::Address);
        }
        if parties.inside >= most {
            return Err(Crowded::Door);
        }
        parties.inside += 1;
        let share = self.capacity / BYTES_PART;
        let party = parties
            .by_address
            .entry(address)
            .or_insert_with(|| Party { inside: 0, bytes: Arc::new(Semaphore::new(share)) });
        party.inside += 1;
        let account = Account(Some((self.clone(), party.bytes.clone())));
        drop(parties);
        Ok(Visit { visitors: self.clone(), address, account })
    }

    /// Connections inside.
    pub(crate) fn inside(&self) -> usize {
        self.parties.lock().inside
    }

    /// Connections that there may be, without those kept for newcomers.
    pub(crate) fn most(&self) -> usize {
        self.most
    }

    /// Bytes of the account that are held.
    pub(crate) fn held(&self) -> usize {
        (self.capacity - self.bytes.available_permits().min(self.capacity)) * KIB
    }

    /// The most bytes that were held since the last time.
    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Relaxed) * KIB
    }

    /// Begins a new peak.
    pub(crate) fn forget_peak(&self) {
        self.peak.store(0, Relaxed);
    }
}

/// One connection; dropped, it leaves.
pub(crate) struct Visit {
    visitors: Arc<Visitors>,
    address: IpAddr,
    account: Account,
}

impl Visit {
    /// The account that its bytes are held on.
    pub(crate) fn account(&self) -> Account {
        self.account.clone()
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut parties = self.visitors.parties.lock();
        parties.inside -= 1;
        if let Some(party) = parties.by_address.get_mut(&self.address) {
            party.inside -= 1;
            if party.inside == 0 {
                parties.by_address.remove(&self.address);
            }
        }
    }
}

/// Where bytes are held: that of a stranger's address within that of the door, or none for the
/// owner's own connections.
#[derive(Clone, Default)]
pub(crate) struct Account(Option<(Arc<Visitors>, Arc<Semaphore>)>);

/// Bytes held on an account until it is dropped.
#[derive(Default)]
pub(crate) struct Hold {
    permits: Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)>,
    covered: usize,
}

impl Account {
    /// Makes `hold` cover `bytes`; waits for room for a second at most. Whether there was any.
    pub(crate) async fn cover(&self, hold: &mut Hold, bytes: usize) -> bool {
        if self.try_cover(hold, bytes) {
            return true;
        }
        let Some((visitors, party)) = &self.0 else { return true };
        let Some(wanted) = hold.wanted(bytes) else { return true };
        // The address first: who has used up his share keeps nothing of the others' meanwhile.
        let both = async {
            let own = party.clone().acquire_many_owned(wanted).await.ok()?;
            Some((visitors.bytes.clone().acquire_many_owned(wanted).await.ok()?, own))
        };
        match tokio::time::timeout(BYTES_WAIT, both).await {
            Ok(Some(permits)) => {
                hold.take(permits, wanted);
                self.note();
                true
            }
            _ => false,
        }
    }

    /// Makes `hold` cover `bytes` if there is room now.
    pub(crate) fn try_cover(&self, hold: &mut Hold, bytes: usize) -> bool {
        let Some((visitors, party)) = &self.0 else { return true };
        let Some(wanted) = hold.wanted(bytes) else { return true };
        let own = party.clone().try_acquire_many_owned(wanted);
        let all = visitors.bytes.clone().try_acquire_many_owned(wanted);
        match (all, own) {
            (Ok(all), Ok(own)) => {
                hold.take((all, own), wanted);
                self.note();
                true
            }
            _ => false,
        }
    }

    /// Whether this address has room for another answer, within a second: one that reads none gets
    /// no more calls.
    pub(crate) async fn has_room(&self) -> bool {
        let Some((_, party)) = &self.0 else { return true };
        party.available_permits() > 0
            || matches!(tokio::time::timeout(BYTES_WAIT, party.acquire()).await, Ok(Ok(_)))
    }

    fn note(&self) {
        if let Some((visitors, _)) = &self.0 {
            visitors.peak.fetch_max(visitors.held() / KIB, Relaxed);
        }
    }
}

impl Hold {
    /// The KiB that are missing to cover `bytes`.
    fn wanted(&self, bytes: usize) -> Option<u32> {
        let wanted = bytes.saturating_sub(FREE_BYTES).div_ceil(KIB).saturating_sub(self.covered);
        (wanted > 0).then(|| u32::try_from(wanted).unwrap_or(u32::MAX))
    }

    fn take(&mut self, more: (OwnedSemaphorePermit, OwnedSemaphorePermit), wanted: u32) {
        self.covered += usize::try_from(wanted).unwrap_or(usize::MAX);
        match &mut self.permits {
            Some((all, own)) => {
                all.merge(more.0);
                own.merge(more.1);
            }
            none => *none = Some(more),
        }
    }

    /// Gives back what it covers beyond `bytes`.
    pub(crate) fn fit(&mut self, bytes: usize) {
        let needed = bytes.saturating_sub(FREE_BYTES).div_ceil(KIB);
        let Some((all, own)) = &mut self.permits else { return };
        if self.covered > needed {
            drop((all.split(self.covered - needed), own.split(self.covered - needed)));
            self.covered = needed;
        }
    }

    /// Binds the hold to its bytes: it ends when the last reference to them goes.
    pub(crate) fn bind(self, bytes: Bytes) -> Bytes {
        if self.permits.is_none() {
            return bytes;
        }
        Bytes::from_owner(Bound { bytes, _hold: self })
    }
}

struct Bound {
    bytes: Bytes,
    _hold: Hold,
}

impl AsRef<[u8]> for Bound {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whoever has one address of a /64 of IPv6 has them all (RFC 6177).
fn party_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn an_address_has_its_share_of_connections_and_gets_it_back() {
        let visitors = Visitors::new(1 << 20, 1 << 20);
        let enter = |_| visitors.enter(address(1)).unwrap();
        let mut visits: Vec<_> = (0..CONNECTIONS_OF_ADDRESS).map(enter).collect();
        assert_eq!(visitors.enter(address(1)).err(), Some(Crowded::Address));
        assert!(visitors.enter(address(2)).is_ok());
        visits.pop();
        assert!(visitors.enter(address(1)).is_ok());
        drop(visits);
        assert_eq!(visitors.inside(), 0);
        assert!(visitors.parties.lock().by_address.is_empty());
    }

    #[test]
    fn a_full_door_still_opens_to_who_has_few_connections() {
        let visitors = Visitors::new(1 << 20, 1 << 20);
        let mut visits = Vec::new();
        let mut at = 0;
        while let Ok(visit) = visitors.enter(address(at % 40)) {
            visits.push(visit);
            at = at.wrapping_add(1) % 40;
        }
        assert_eq!(visits.len(), 4096);
        assert_eq!(visitors.enter(address(3)).err(), Some(Crowded::Door));
        let late: Vec<_> = (0..NEWCOMER).map(|_| visitors.enter(address(99)).unwrap()).collect();
        assert_eq!(visitors.enter(address(99)).err(), Some(Crowded::Door));
        assert_eq!(visitors.inside(), 4096 + late.len());
    }

    #[test]
    fn scarce_files_make_a_smaller_door() {
        let visitors = Visitors::new(1024, 1 << 20);
        assert_eq!((visitors.most, visitors.most_of_all), (456, 512));
        assert_eq!(Visitors::new(1 << 20, 1).most, 4096);
    }

    #[test]
    fn a_network_of_ipv6_is_one_party() {
        let party = |text: &str| party_of(text.parse().unwrap());
        assert_eq!(party("2001:db8::1"), party("2001:db8::ffff:1"));
        assert_ne!(party("2001:db8::1"), party("2001:db8:0:1::1"));
        assert_eq!(party("::ffff:192.0.2.1"), party("192.0.2.1"));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_held_until_the_last_reference_goes() {
        let visitors = Visitors::new(1 << 20, 4 << 20);
        let visit = visitors.enter(address(1)).unwrap();
        let account = visit.account();
        let mut hold = Hold::default();
        assert!(account.cover(&mut hold, FREE_BYTES).await);
        assert_eq!(visitors.held(), 0);
        assert!(account.cover(&mut hold, 1 << 20).await);
        // The share of an address is a quarter.
        assert!(!account.cover(&mut Hold::default(), 1 << 20).await);
        let other = visitors.enter(address(2)).unwrap().account();
        assert!(other.cover(&mut Hold::default(), 1 << 20).await);
        hold.fit(1 << 19);
        let bytes = hold.bind(Bytes::from_static(b"x"));
        let second = bytes.clone();
        drop(bytes);
        assert_eq!(visitors.held(), (1 << 19) - FREE_BYTES);
        assert_eq!(second, "x");
        drop(second);
        assert_eq!(visitors.held(), 0);
        assert_eq!(visitors.peak(), 2 * ((1 << 20) - FREE_BYTES));
    }
}
