//! The standard input and output of a program, bound to its call.
//!
//! Invariants: an output never grows past the seed's limit, and what it takes is charged to the
//! node's memory for guests until the guest is dropped. To a caller that streams each write goes at
//! once, and the program waits until it was taken: no more than one write is held here.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use wasmtime_wasi::cli::{IsTerminal, StdinStream, StdoutStream};
use wasmtime_wasi::p2::{InputStream, OutputStream, Pollable, StreamError, StreamResult};

use crate::engine::registry::Registry;
use crate::envelope::{Host, WriteFuture};
use crate::error::SandboxError;

/// Room for an output at first, bytes.
const ROOM: usize = 16 << 10;

/// What a program may write at once, bytes.
const CHUNK: usize = 64 << 10;

/// Standard input and output of one guest, bound to its call.
#[derive(Clone)]
pub(crate) struct Pipes(Arc<Mutex<State>>);

struct State {
    registry: Arc<Registry>,
    nested: bool,
    input: Bytes,
    output: Vec<u8>,
    limit: usize,
    charged: u64,
    failure: Option<SandboxError>,
    /// The way to a caller that streams, and the write that is on it.
    caller: Option<Arc<dyn Host>>,
    sending: Option<WriteFuture<'static>>,
}

impl Pipes {
    pub(crate) fn new(registry: Arc<Registry>, limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            registry,
            nested: false,
            input: Bytes::new(),
            output: Vec::new(),
            limit,
            charged: 0,
            failure: None,
            caller: None,
            sending: None,
        })))
    }

    /// Binds the pipes to a call.
    pub(crate) fn begin(&self, input: Bytes, nested: bool, host: Option<&Arc<dyn Host>>) {
        let mut state = self.0.lock();
        state.input = input;
        state.nested = nested;
        state.caller = host.filter(|host| host.streams()).cloned();
    }

    /// Whether a write is on its way to a caller that streams.
    pub(crate) fn is_sending(&self) -> bool {
        self.0.lock().sending.is_some()
    }

    /// Resolves when what was written so far was taken.
    pub(crate) async fn taken(self) {
        poll_fn(|cx| self.poll_taken(cx)).await;
    }

    fn poll_taken(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        let Some(sending) = state.sending.as_mut() else { return Poll::Ready(()) };
        let is_taken = ready!(sending.as_mut().poll(cx));
        state.sending = None;
        if !is_taken {
            state.failure.get_or_insert_with(SandboxError::not_taken);
        }
        Poll::Ready(())
    }

    /// Whether what is written goes to a caller at once.
    pub(crate) fn streams(&self) -> bool {
        self.0.lock().caller.is_some()
    }

    /// Writes without a copy; false when no more is taken.
    pub(crate) fn hand_on(&self, bytes: Bytes) -> bool {
        let mut state = self.0.lock();
        let Some(host) = state.caller.clone() else {
            drop(state);
            return self.write(&bytes);
        };
        if !bytes.is_empty() && state.failure.is_none() {
            state.sending = Some(Box::pin(async move { host.write(bytes).await }));
        }
        state.failure.is_none()
    }

    /// What was written, or why no more could be.
    pub(crate) fn finish(&self) -> Result<Bytes, SandboxError> {
        let mut state = self.0.lock();
        // A spent guest lies about for a while, and the way to its caller holds a slot.
        (state.caller, state.sending) = (None, None);
        match state.failure.take() {
            Some(failure) => Err(failure),
            None => Ok(Bytes::from(std::mem::take(&mut state.output))),
        }
    }

    fn read(&self, size: usize) -> Bytes {
        let mut state = self.0.lock();
        let size = size.min(state.input.len());
        state.input.split_to(size)
    }

    /// False when the guest has to end.
    fn write(&self, bytes: &[u8]) -> bool {
        if self.streams() {
            return self.hand_on(Bytes::copy_from_slice(bytes));
        }
        let mut state = self.0.lock();
        let result = state.append(bytes);
        if let Err(error) = result {
            state.failure.get_or_insert(error);
        }
        state.failure.is_none()
    }
}

impl State {
    fn append(&mut self, bytes: &[u8]) -> Result<(), SandboxError> {
        let length = self.output.len().saturating_add(bytes.len());
        if length > self.limit {
            return Err(SandboxError::output_too_large(length, self.limit));
        }
        if length > self.output.capacity() {
            let doubled = self.output.capacity().saturating_mul(2).max(ROOM).min(self.limit);
            self.grow(doubled.max(length))?;
        }
        self.output.extend_from_slice(bytes);
        Ok(())
    }

    fn grow(&mut self, capacity: usize) -> Result<(), SandboxError> {
        let more = capacity.saturating_sub(self.output.capacity()) as u64;
        let full =
            || SandboxError::out_of_memory("the node's memory for guests was used up while it ran");
        if !self.registry.charge(more, self.nested) {
            return Err(full());
        }
        self.charged = self.charged.saturating_add(more);
        let room = capacity.saturating_sub(self.output.len());
        self.output.try_reserve_exact(room).map_err(|_| full())
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.registry.budget.release(self.charged);
    }
}

impl IsTerminal for Pipes {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for Pipes {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

impl StdoutStream for Pipes {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl InputStream for Pipes {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        let bytes = Pipes::read(self, size);
        // An empty read would mean that more may come.
        if bytes.is_empty() && size > 0 { Err(StreamError::Closed) } else { Ok(bytes) }
    }
}

impl OutputStream for Pipes {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if Pipes::write(self, &bytes) { Ok(()) } else { Err(StreamError::trap("no more output")) }
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(if self.is_sending() { 0 } else { CHUNK })
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Pipes {
    async fn ready(&mut self) {
        self.clone().taken().await;
    }
}

impl AsyncRead for Pipes {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let bytes = Pipes::read(&self, to.remaining());
        to.put_slice(&bytes);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipes {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_taken(cx));
        let written = Pipes::write(&self, bytes);
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        Poll::Ready(if written { Ok(bytes.len()) } else { Err(full()) })
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_taken(cx).map(Ok)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
