//! WASI preview 1: clocks, random numbers, environment; standard output and standard error go to
//! the call's log. A program has its own standard input and output, and arguments. There are no
//! files and no network.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::AsyncWrite;
use wasmtime::Linker;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{I32Exit, WasiCtxBuilder, WasiView};

use crate::abi::log::{Logs, Stream};
use crate::abi::shape::{Group, Signature};
use crate::envelope::SeedSettings;

/// How much a guest may write to a stream at once, bytes.
const CHUNK: usize = 64 << 10;

/// The module name of these imports.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// The imports of [`MODULE`].
pub(crate) const GROUP: Group = (MODULE, NAMES);

/// Handles of one guest to what the host holds for it (streams, timers, errors), at most. Each takes a
/// few hundred bytes of the host that nobody is charged for. Guess: ten times what a program has open.
pub(crate) const HANDLES: usize = 4_096;

/// The WASI context of one guest: both output streams end in the log, the environment and the name
/// are the seed's. An ABI that has streams or arguments adds them.
pub(crate) fn context(settings: &SeedSettings, logs: &Logs) -> WasiCtxBuilder {
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(Sink { logs: logs.clone(), stream: Stream::Out });
    builder.stderr(Sink { logs: logs.clone(), stream: Stream::Err });
    builder.arg(&*settings.name);
    for (name, value) in &settings.guest.env {
        builder.env(name, value);
    }
    builder
}

/// The context as the guest of a core module has it. wasmtime's own limit is a million handles, of which
/// one `poll_oneoff` can take as many as its subscriptions.
pub(crate) fn preview1(builder: &mut WasiCtxBuilder) -> WasiP1Ctx {
    let mut made = builder.build_p1();
    made.ctx().table.set_max_capacity(HANDLES);
    made
}

/// Defines all imports of this module over the WASI context that `of` finds.
pub(crate) fn define<T: Send + 'static>(
    linker: &mut Linker<T>,
    of: fn(&mut T) -> &mut WasiP1Ctx,
) -> wasmtime::Result<()> {
    wasmtime_wasi::p1::add_to_linker_async(linker, of)?;
    // That one traps on a code over 125, which is a rule of its own command line.
    linker.allow_shadowing(true);
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> wasmtime::Result<()> {
        Err(I32Exit(code).into())
    })?;
    linker.allow_shadowing(false);
    Ok(())
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

const NAMES: &[(&str, Signature)] = &[
    ("args_get", ("ii", "i")),
    ("args_sizes_get", ("ii", "i")),
    ("clock_res_get", ("ii", "i")),
    ("clock_time_get", ("iIi", "i")),
    ("environ_get", ("ii", "i")),
    ("environ_sizes_get", ("ii", "i")),
    ("fd_advise", ("iIIi", "i")),
    ("fd_allocate", ("iII", "i")),
    ("fd_close", ("i", "i")),
    ("fd_datasync", ("i", "i")),
    ("fd_fdstat_get", ("ii", "i")),
    ("fd_fdstat_set_flags", ("ii", "i")),
    ("fd_fdstat_set_rights", ("iII", "i")),
    ("fd_filestat_get", ("ii", "i")),
    ("fd_filestat_set_size", ("iI", "i")),
    ("fd_filestat_set_times", ("iIIi", "i")),
    ("fd_pread", ("iiiIi", "i")),
    ("fd_prestat_dir_name", ("iii", "i")),
    ("fd_prestat_get", ("ii", "i")),
    ("fd_pwrite", ("iiiIi", "i")),
    ("fd_read", ("iiii", "i")),
    ("fd_readdir", ("iiiIi", "i")),
    ("fd_renumber", ("ii", "i")),
    ("fd_seek", ("iIii", "i")),
    ("fd_sync", ("i", "i")),
    ("fd_tell", ("ii", "i")),
    ("fd_write", ("iiii", "i")),
    ("path_create_directory", ("iii", "i")),
    ("path_filestat_get", ("iiiii", "i")),
    ("path_filestat_set_times", ("iiiiIIi", "i")),
    ("path_link", ("iiiiiii", "i")),
    ("path_open", ("iiiiiIIii", "i")),
    ("path_readlink", ("iiiiii", "i")),
    ("path_remove_directory", ("iii", "i")),
    ("path_rename", ("iiiiii", "i")),
    ("path_symlink", ("iiiii", "i")),
    ("path_unlink_file", ("iii", "i")),
    ("poll_oneoff", ("iiii", "i")),
    ("proc_exit", ("i", "")),
    ("proc_raise", ("i", "i")),
    ("random_get", ("ii", "i")),
    ("sched_yield", ("", "i")),
    ("sock_accept", ("iii", "i")),
    ("sock_recv", ("iiiiii", "i")),
    ("sock_send", ("iiiii", "i")),
    ("sock_shutdown", ("ii", "i")),
];
