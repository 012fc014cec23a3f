//! What this process may and holds: its user, its open files and who has which part, and an accept
//! loop without one.
//!
//! Decides: how long such a loop waits; how the open files are shared.
//! Does not know: what is accepted.
//! Invariants: a client's own fault makes nobody wait. Strangers and tunnels leave files for the rest.
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

/// Connections of strangers at the TCP door, at most: 4,096 for all and an eighth more for addresses
/// that hold few. 16 KiB of buffers each make 72 MiB. Guess.
const STRANGERS: usize = 4096 + 4096 / 8;

/// Of so many open `files`, what connections of strangers may hold: at most half. The rest is for both
/// unix sockets, QUIC, the stores, tunnels and what guests ask for. Guess.
pub fn files_of_strangers(files: usize) -> usize {
    (files / 2).min(STRANGERS)
}

/// Of so many open `files`, what sockets of tunnels may hold: two thirds of what strangers leave, which
/// is 10,000 of 20,000. A quiet node has about 40 open. Guess.
pub fn files_of_tunnels(files: usize) -> usize {
    ((files - files_of_strangers(files)) / 3 * 2).max(4)
}

/// The user that this process acts as.
#[allow(unsafe_code)]
pub fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_tunnels_leave_files_for_the_rest() {
        for files in [20, 256, 1_024, 20_000, 65_536] {
            let left = files - files_of_strangers(files) - files_of_tunnels(files);
            assert!(left * 6 >= files, "{left} of {files}");
        }
        assert_eq!(files_of_strangers(1 << 20), 4_608);
        assert!(files_of_tunnels(20_000) >= 10_000);
    }
}
