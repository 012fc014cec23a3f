//! A host without a mesh, for measuring what the sandbox alone costs.

use bytes::Bytes;
use pollen_wasm::{Host, HostFuture, LogLevel};

/// It refuses every request, and says nothing.
pub struct Quiet;

impl Host for Quiet {
    fn request(&self, _uri: String, _input: Bytes) -> HostFuture<'_> {
        Box::pin(async { Err("no mesh here".into()) })
    }
    fn log(&self, _level: LogLevel, _message: &str) {}
    fn caller_json(&self) -> String {
        "{}".into()
    }
}
