//! What was read and is not sent yet, and the buffer that is lent for reading.
//!
//! Decides: nothing.
//! Does not know: where it goes.
//! Invariants: one buffer a thread, as large as any datagram.
//! Source: docs/internals/seam.md#tunnels.

use std::cell::RefCell;

use crate::limits::SCRATCH;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; SCRATCH]);
}

/// Lends the thread's buffer, which is at least as large as any datagram.
pub(crate) fn with_buffer<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BUFFER.with_borrow_mut(|buffer| use_it(buffer))
}

/// What was read of the near side and is not sent yet.
#[derive(Default)]
pub(crate) struct Rest {
    pub(crate) bytes: Vec<u8>,
    /// So much of it is sent.
    pub(crate) sent: usize,
    /// The near side has ended its half.
    pub(crate) is_over: bool,
}

impl Rest {
    /// All that is said.
    pub(crate) fn whole(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), sent: 0, is_over: true }
    }

    pub(crate) fn unsent(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or_default()
    }
}
