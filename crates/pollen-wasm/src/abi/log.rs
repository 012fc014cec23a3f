//! What a guest says, bounded per call: log imports, `pollen_log`, standard output and error.
//!
//! Excess is dropped and counted, the guest is not killed; one line at the end of the call says
//! how much is missing. What a guest says while nobody has called it is kept for its first call.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::envelope::{Host, LogLevel};

/// A line of standard output is cut at this, bytes.
const LINE: usize = 8 << 10;

/// What a line costs beside its text, bytes: its time, seed, call and trace in the log of the node
/// (measured: 245).
const OVERHEAD: usize = 256;

#[derive(Default)]
struct State {
    host: Option<Arc<dyn Host>>,
    left: usize,
    dropped: u64,
    /// Lines of an initialisation that no call waited for.
    held: Vec<(LogLevel, String)>,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// The log of one guest, bound to the current call. Shared with the WASI streams.
#[derive(Clone, Default)]
pub(crate) struct Logs(Arc<Mutex<State>>);

/// Which standard stream.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stream {
    Out,
    Err,
}

impl Logs {
    /// Binds the log to a call.
    pub(crate) fn begin(&self, host: Option<Arc<dyn Host>>, bytes: usize) {
        let mut state = self.0.lock();
        state.host = host;
        if state.host.is_some() {
            state.tell_held();
        }
        state.left = bytes;
        state.dropped = 0;
    }

    /// Ends the call: unfinished lines go out, and the number of dropped bytes.
    pub(crate) fn end(&self) {
        let mut state = self.0.lock();
        if !state.out.is_empty() || !state.err.is_empty() {
            state.flush(Stream::Out);
            state.flush(Stream::Err);
        }
        state.tell_dropped();
        state.host = None;
    }

    /// One line, charged to the call's budget.
    pub(crate) fn line(&self, level: LogLevel, bytes: &[u8]) {
        self.0.lock().line(level, bytes);
    }

    /// A line of the node itself, not charged.
    pub(crate) fn notice(&self, level: LogLevel, text: &str) {
        if let Some(host) = &self.0.lock().host {
            host.log(level, text);
        }
    }

    /// Bytes of a standard stream: whole lines go out, the rest waits for its line end.
    pub(crate) fn write(&self, stream: Stream, mut bytes: &[u8]) {
        let mut state = self.0.lock();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            let (line, rest) = bytes.split_at(end);
            state.append(stream, line);
            state.flush(stream);
            bytes = rest.get(1..).unwrap_or(&[]);
        }
        state.append(stream, bytes);
    }
}

impl State {
    fn line(&mut self, level: LogLevel, bytes: &[u8]) {
        // Empty lines run out too.
        let cost = bytes.len().saturating_add(OVERHEAD);
        if cost > self.left {
            self.dropped = self.dropped.saturating_add(bytes.len().max(1) as u64);
            return;
        }
        self.left = self.left.saturating_sub(cost);
        let text = String::from_utf8_lossy(bytes);
        match &self.host {
            Some(host) => host.log(level, &text),
            None => self.held.push((level, text.into_owned())),
        }
    }

    /// Says how much is missing, once.
    fn tell_dropped(&mut self) {
        if self.dropped == 0 {
            return;
        }
        let Some(host) = &self.host else { return };
        let dropped = std::mem::take(&mut self.dropped);
        host.log(LogLevel::Warn, &format!("{dropped} bytes of log dropped: over the call's limit"));
    }

    /// What was said before there was a call.
    fn tell_held(&mut self) {
        let Some(host) = &self.host else { return };
        for (level, text) in std::mem::take(&mut self.held) {
            host.log(level, &text);
        }
        self.tell_dropped();
    }

    fn append(&mut self, stream: Stream, bytes: &[u8]) {
        let buffer = match stream {
            Stream::Out => &mut self.out,
            Stream::Err => &mut self.err,
        };
        let room = LINE.saturating_sub(buffer.len()).min(bytes.len());
        let (kept, excess) = bytes.split_at(room);
        buffer.extend_from_slice(kept);
        self.dropped = self.dropped.saturating_add(excess.len() as u64);
    }

    fn flush(&mut self, stream: Stream) {
        let (buffer, level) = match stream {
            Stream::Out => (&mut self.out, LogLevel::Info),
            Stream::Err => (&mut self.err, LogLevel::Warn),
        };
        let mut line = std::mem::take(buffer);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if !line.is_empty() {
            self.line(level, &line);
        }
    }
}
