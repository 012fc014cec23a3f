//! What lies under all guest ABIs: wasmtime's settings, the clock of ticks, compiling, and memory.
//!
//! Does not know: what a module imports or how a call of it begins and ends.

pub(crate) mod budget;
pub(crate) mod cache;
pub(crate) mod code;
pub(crate) mod compile;
pub(crate) mod engines;
pub(crate) mod meter;
pub(crate) mod pool;
pub(crate) mod registry;
pub(crate) mod ticker;
pub(crate) mod touched;
