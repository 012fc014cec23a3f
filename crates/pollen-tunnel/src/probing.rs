//! Whether the program of a service works.
//!
//! Decides: which answer passes, and what is said of one that does not.
//! Does not know: when a program is checked, and what follows from it.
//! Invariants: a check ends within its time, and reads [`PROBE_BYTES`] at most. Its result is told
//!     once, without the address.
//! Source: docs/design/services.md#health; RFC 9112, 4 (the status line).

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use pollen_plane::events::Event;
use tokio::time::{Instant, timeout_at};

use crate::{
    limits::PROBE_BYTES,
    shared::{Shared, Tunnels},
    socket::Socket,
    target::{UNIX, reach, reason_of},
};

/// What the brain asks for. The fields are those of `ProbeService` in `pollen.core.effects`.
#[derive(Debug, Clone)]
#[allow(missing_docs)]
pub struct Probe {
    pub number: u64,
    pub target: String,
    /// What is asked for by HTTP; empty: the program has to accept, and nothing is said.
    pub path: String,
    pub proxy_header: bool,
    pub timeout_ms: u64,
}

impl Tunnels {
    /// Checks a program; `ServiceProbed` follows.
    pub fn probe(&self, asked: Probe) {
        let shared = self.0.clone();
        self.0.plane.handle().spawn(async move {
            tokio::select! {
                () = shared.stop.cancelled() => {}
                () = run(&shared, &asked) => {}
            }
        });
    }
}

async fn run(shared: &Arc<Shared>, asked: &Probe) {
    let Some(_file) = shared.file() else {
        let reason = "this node has as many tunnels as its open files allow";
        return tell(shared, asked.number, "overloaded", reason.to_owned()).await;
    };
    // A clock cannot add every number of milliseconds.
    let patience = Duration::from_millis(asked.timeout_ms).min(Duration::from_hours(1));
    let until = Instant::now() + patience;
    let told = asked.proxy_header.then(|| shared.plane.id());
    let answered = async {
        let socket = reach(&asked.target, told.as_ref()).await.map_err(|e| reason_of(&e))?;
        if !asked.path.is_empty() {
            check(&socket, asked).await?;
        }
        Ok(socket)
    };
    match timeout_at(until, answered).await {
        Ok(Ok(socket)) => {
            tell(shared, asked.number, "", String::new()).await;
            if !asked.path.is_empty() {
                // Closed with bytes unread, the program would see a reset.
                let _ = timeout_at(until, drain(&socket)).await;
            }
        }
        Ok(Err(reason)) => tell(shared, asked.number, "provider-refused", reason).await,
        Err(_) => {
            let reason = format!("no answer within {} ms", patience.as_millis());
            tell(shared, asked.number, "provider-refused", reason).await;
        }
    }
}

async fn tell(shared: &Shared, number: u64, slug: &str, reason: String) {
    let event = Event::ServiceProbed { number, slug: slug.to_owned(), reason };
    shared.plane.events().emit(event).await;
}

/// The beginning of an answer: `HTTP/1.1 200`.
const STATUS: usize = 12;
const VERSION: &[u8] = b"HTTP/1.";

/// Asks for the path; an error says what is wrong with the answer.
async fn check(socket: &Socket, asked: &Probe) -> Result<(), String> {
    let host = if asked.target.starts_with(UNIX) { "localhost" } else { asked.target.as_str() };
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: pollen-check\r\nAccept: */*\r\n\
         Connection: close\r\n\r\n",
        asked.path
    );
    socket.write_all(request.as_bytes()).await.map_err(|e| reason_of(&e))?;
    let mut head = [0; STATUS];
    let mut held = 0;
    while held < STATUS {
        let room = head.get_mut(held..).unwrap_or_default();
        match read(socket, room).await.map_err(|e| reason_of(&e))? {
            0 => return Err("it ended the connection without an answer".to_owned()),
            count => held += count,
        }
        let is_like = head.iter().take(held).zip(VERSION).all(|(byte, wanted)| byte == wanted);
        if !is_like {
            return Err(NOT_HTTP.to_owned());
        }
    }
    match status_of(&head) {
        Some(200..400) => Ok(()),
        Some(status) => Err(format!("it answered HTTP {status}")),
        None => Err(NOT_HTTP.to_owned()),
    }
}

const NOT_HTTP: &str = "its answer is not HTTP";

/// The status of `HTTP/1.x ddd`.
fn status_of(head: &[u8; STATUS]) -> Option<u16> {
    let [_, _, _, _, _, _, _, minor, b' ', digits @ ..] = head else { return None };
    let is_read = minor.is_ascii_digit() && digits.iter().all(u8::is_ascii_digit);
    let text = str::from_utf8(digits).ok().filter(|_| is_read)?;
    text.parse().ok().filter(|status| (100..600).contains(status))
}

async fn read(socket: &Socket, into: &mut [u8]) -> io::Result<usize> {
    poll_fn(|cx| socket.poll_read(cx, into)).await
}

/// Reads to the end, or until that is too much.
async fn drain(socket: &Socket) {
    let mut scratch = vec![0; 4096];
    let mut left = PROBE_BYTES;
    while left > 0 {
        match read(socket, &mut scratch).await {
            Ok(count @ 1..) => left = left.saturating_sub(count),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_three_digits_behind_the_version() {
        assert_eq!(status_of(b"HTTP/1.1 200"), Some(200));
        assert_eq!(status_of(b"HTTP/1.0 503"), Some(503));
        for odd in
            [b"HTTP/1.1 099", b"HTTP/1.1 600", b"HTTP/1.1 2x0", b"HTTP/1.1-200", b"HTTP/1.x 200"]
        {
            assert_eq!(status_of(odd), None);
        }
        assert_eq!(status_of(b"HTTP/1.1 +20"), None);
    }
}
