//! What this process may: its user, its open files, and what an accept loop does without one.
//!
//! Decides: how long such a loop waits.
//! Does not know: what it accepts.
//! Invariants: a client's own fault makes nobody wait.
//! Source: `accept(2)`; asyncio and nginx wait half a second to a second without files.

use std::{io, time::Duration};

/// Without files the accept loops wait: first so long, doubled up to the second. asyncio waits 1 s.
const BACK_OFF: Duration = Duration::from_millis(50);
const BACK_OFF_MOST: Duration = Duration::from_secs(1);

/// How long a loop waits that could not accept.
#[derive(Default)]
pub struct Patience(Duration);

impl Patience {
    /// The wait after this error; none when it is one of the client's connection alone.
    pub fn after(&mut self, error: &io::Error) -> Option<Duration> {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        {
            return None;
        }
        self.0 = (self.0 * 2).clamp(BACK_OFF, BACK_OFF_MOST);
        Some(self.0)
    }
}

/// The files that this process may open.
#[allow(unsafe_code)]
pub fn files() -> usize {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is that of a live, writable struct of the type that the call wants.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    // POSIX promises 20 at least; every system gives 256.
    if asked == 0 { usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX) } else { 256 }
}

/// The user that this process acts as.
#[allow(unsafe_code)]
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}
