//! The memory that a guest began with, and what it has written to of it: its own copies of those pages.
//!
//! All guests of a component share that memory until they write to it, and wasmtime tells nobody of a
//! write. So the pages are looked at whenever the guest stops: at the end of a call, and each time it
//! waits or gives way.
//!
//! A look takes as long as the memory is large: up to 0.5 ms for that of the Python runner. So the
//! page faults of the thread stand for the pages at first: each brings one at most, of whichever
//! memory.
//!
//! Decides: what of a first memory is charged, and when it is looked at.
//! Does not know: what becomes of a guest that cannot pay.
//! Invariants: a guest that has stopped is charged for each page that it wrote to, or it ends. Of what
//! is charged at most [`UNSEEN`] was not looked at, and nothing where it would not fit. While its
//! pages cannot be looked at, all of them count as written to. What runs at this moment is not
//! charged yet: at most the first memory of one guest for each thread of both runtimes.
//! Source: docs/design/sandbox.md#components.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::engine::registry::{Purpose, Registry};
use crate::sys;

/// Bytes that are charged for faults before the pages are looked at. Guess: a guest is charged so
/// much too much at most, a fifth of its first charge, and 256 faults take as long as a look.
const UNSEEN: u64 = 1 << 20;

/// The account of one guest's first memory.
pub(crate) struct Touched {
    registry: Arc<Registry>,
    account: Mutex<Account>,
}

#[derive(Default)]
struct Account {
    /// Where it lies: its address and its bytes. None while it is unknown.
    place: Option<(usize, usize)>,
    /// The bytes of it that were not charged when they were mapped.
    shared: u64,
    /// What is charged at least: what a guest writes to before its first call has ended.
    least: u64,
    /// What of it is charged.
    charged: u64,
    /// What of that stands for faults, and was not looked at.
    unseen: u64,
    /// Page faults of this thread when the guest was last looked at, or began to run on it.
    faults: u64,
    /// Pages were looked at, and nothing of the account has changed since.
    is_settled: bool,
    /// It runs for a call that another guest made, which may use the reserve.
    nested: bool,
    /// Nobody waits for it: nobody makes room for it.
    spare: bool,
}

impl Touched {
    pub(crate) fn new(registry: Arc<Registry>, purpose: Purpose) -> Self {
        let (nested, spare) = (purpose == Purpose::Nested, purpose == Purpose::Stock);
        let account = Account { nested, spare, ..Account::default() };
        Self { registry, account: Mutex::new(account) }
    }

    /// What is charged of it, bytes.
    pub(crate) fn charged(&self) -> u64 {
        self.account.lock().charged
    }

    /// So many more bytes are shared.
    pub(crate) fn share(&self, bytes: u64) {
        let mut account = self.account.lock();
        account.shared = account.shared.saturating_add(bytes);
        account.is_settled = false;
    }

    /// The first memory is all that lies at this address, and `shared` of it was not charged when it
    /// was mapped. At least the `least` of it is charged until [`Touched::used`].
    pub(crate) fn found(&self, address: usize, bytes: usize, least: u64) {
        let mut account = self.account.lock();
        account.place = (bytes > 0).then_some((address, bytes));
        account.shared = bytes as u64;
        account.least = least.min(bytes as u64);
        account.is_settled = false;
    }

    /// The guest has served a call: only what it wrote to is charged from now on.
    pub(crate) fn used(&self) {
        let mut account = self.account.lock();
        if account.least > 0 {
            account.least = 0;
            account.is_settled = false;
        }
    }

    /// The guest begins a call, which another guest made or not, on this thread.
    pub(crate) fn begin(&self, nested: bool) {
        let mut account = self.account.lock();
        (account.nested, account.spare) = (nested, false);
        account.faults = sys::thread_faults();
    }

    /// The guest is about to run on this thread.
    pub(crate) fn resume(&self) {
        self.account.lock().faults = sys::thread_faults();
    }

    /// The guest has stopped: charges what it wrote to since. False when the node has no memory for
    /// it: the guest must not go on.
    pub(crate) fn settle(&self) -> bool {
        let mut account = self.account.lock();
        // A page is copied by a fault of the thread that writes to it, so without one nothing changed.
        let faults = sys::thread_faults();
        if account.is_settled && faults == account.faults {
            return true;
        }
        let brought = faults.wrapping_sub(account.faults).saturating_mul(sys::fault_bytes());
        account.faults = faults;
        account.unseen = account.unseen.saturating_add(brought);
        if account.is_settled && account.unseen <= UNSEEN {
            let due = account.charged.saturating_add(brought).min(account.shared);
            if self.charge(&mut account, due, true) {
                return true;
            }
        }
        let written = account.place.and_then(|(address, bytes)| sys::private_bytes(address, bytes));
        let due = written.unwrap_or(account.shared).max(account.least).min(account.shared);
        if !self.charge(&mut account, due, false) {
            return false;
        }
        (account.unseen, account.is_settled) = (0, true);
        true
    }

    /// Has `due` bytes charged; false, and nothing changed, when the node has no memory for them. For a
    /// guess nobody makes room.
    fn charge(&self, account: &mut Account, due: u64, is_guess: bool) -> bool {
        if due > account.charged {
            let more = due - account.charged;
            let fits = if is_guess || account.spare {
                self.registry.budget.charge(more, account.nested && !account.spare)
            } else {
                self.registry.charge(more, account.nested)
            };
            if !fits {
                return false;
            }
        } else {
            self.registry.budget.release(account.charged - due);
        }
        account.charged = due;
        true
    }
}

impl Drop for Touched {
    fn drop(&mut self) {
        self.registry.budget.release(self.account.lock().charged);
    }
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::indexing_slicing)]
mod tests {
    use std::sync::Arc;

    use crate::engine::registry::{Purpose, Registry};
    use crate::engine::touched::Touched;

    const PAGE: usize = 4096;

    fn write(memory: &mut [u8], pages: std::ops::Range<usize>) {
        pages.for_each(|page| memory[page * PAGE] = 1);
        // Nobody reads them: they are to be written all the same.
        std::hint::black_box(memory);
    }

    /// 40 MiB that nobody has written to, which no allocator takes from its heap, and their account on
    /// a node with `total` bytes.
    fn found(total: u64) -> (Vec<u8>, Touched) {
        let memory = vec![0_u8; 40 << 20];
        let touched = Touched::new(Arc::new(Registry::new(total)), Purpose::Nested);
        touched.begin(true);
        touched.found(memory.as_ptr().addr(), memory.len(), 0);
        assert!(touched.settle());
        (memory, touched)
    }

    #[test]
    fn faults_stand_for_pages_until_they_are_many() {
        if crate::sys::fault_bytes() != PAGE as u64 {
            eprintln!("huge pages come unasked: nothing is guessed");
            return;
        }
        let (mut memory, touched) = found(1 << 30);
        let begun = touched.charged();
        write(&mut memory, 100..110);
        assert!(touched.settle());
        assert!(touched.charged() >= begun + 10 * PAGE as u64);
        assert!(touched.account.lock().unseen >= 10 * PAGE as u64);
        write(&mut memory, 200..500);
        assert!(touched.settle());
        assert_eq!(touched.account.lock().unseen, 0);
        assert!(touched.charged() >= begun + 310 * PAGE as u64);
        // Faults elsewhere are charged, and taken back by the next look.
        let mut other = vec![0_u8; 4 << 20];
        write(&mut other, 0..200);
        assert!(touched.settle());
        let guessed = touched.charged();
        write(&mut other, 200..500);
        assert!(touched.settle());
        assert!(touched.charged() < guessed, "{} of {guessed}", touched.charged());
    }

    #[test]
    fn what_would_not_fit_by_faults_is_looked_at_first() {
        if crate::sys::fault_bytes() != PAGE as u64 {
            eprintln!("huge pages come unasked: nothing is guessed");
            return;
        }
        let (mut memory, touched) = found(1 << 19);
        write(&mut memory, 10..20);
        assert!(touched.settle());
        let mut other = vec![0_u8; 1 << 20];
        write(&mut other, 0..240);
        assert!(touched.settle(), "those pages are of somebody else");
        assert!(touched.charged() <= 30 * PAGE as u64, "{}", touched.charged());
        write(&mut memory, 20..400);
        assert!(!touched.settle());
    }
}
