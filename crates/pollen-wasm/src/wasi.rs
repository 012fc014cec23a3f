//! WASI preview 1: clocks, random, environment, and standard streams that end in the call's log.
//! A program has its call's input and output as standard streams, and arguments. No files, no
//! network.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::envelope::SeedSettings;
use crate::log::{Logs, Stream};
use crate::program::Pipes;

/// How much a guest may write to a stream at once, bytes.
const CHUNK: usize = 64 << 10;

/// The WASI context of one guest.
pub(crate) fn context(
    settings: &SeedSettings,
    logs: &Logs,
    pipes: Option<&Pipes>,
    arguments: &[String],
) -> WasiP1Ctx {
    let mut builder = WasiCtxBuilder::new();
    match pipes {
        Some(pipes) => builder.stdin(pipes.clone()).stdout(pipes.clone()),
        None => builder.stdout(Sink { logs: logs.clone(), stream: Stream::Out }),
    };
    builder.stderr(Sink { logs: logs.clone(), stream: Stream::Err });
    builder.arg(&*settings.name).args(arguments);
    for (name, value) in &settings.env {
        builder.env(name, value);
    }
    builder.build_p1()
}

/// A standard stream of a guest. Never waits: what is too much is dropped by the log.
#[derive(Clone)]
struct Sink {
    logs: Logs,
    stream: Stream,
}

impl IsTerminal for Sink {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Sink {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl OutputStream for Sink {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.logs.write(self.stream, &bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(CHUNK)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Sink {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.logs.write(self.stream, bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
