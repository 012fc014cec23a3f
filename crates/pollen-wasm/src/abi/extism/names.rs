//! What a guest of the Extism ABI may import beside WASI, by name and type.
//!
//! Kept as tables so that a module can be checked without an engine; a test compares them with what
//! the linker really defines.

use crate::abi::shape::{Group, Signature};

/// The module name of the imports of Extism's own ABI.
pub(super) const ENV: &str = "extism:host/env";

/// The module name of the imports about the mesh.
pub(super) const USER: &str = "extism:host/user";

/// The imports of [`ENV`].
pub(super) const EXTISM: Group = (ENV, EXTISM_NAMES);

/// The imports of [`USER`].
pub(super) const POLLEN: Group = (USER, POLLEN_NAMES);

const EXTISM_NAMES: &[(&str, Signature)] = &[
    ("alloc", ("I", "I")),
    ("config_get", ("I", "I")),
    ("error_get", ("", "I")),
    ("error_set", ("I", "")),
    ("free", ("I", "")),
    ("get_log_level", ("", "i")),
    ("http_headers", ("", "I")),
    ("http_request", ("II", "I")),
    ("http_status_code", ("", "i")),
    ("input_length", ("", "I")),
    ("input_load_u64", ("I", "I")),
    ("input_load_u8", ("I", "i")),
    ("input_offset", ("", "I")),
    ("input_set", ("II", "")),
    ("length", ("I", "I")),
    ("length_unsafe", ("I", "I")),
    ("load_u64", ("I", "I")),
    ("load_u8", ("I", "i")),
    ("log_debug", ("I", "")),
    ("log_error", ("I", "")),
    ("log_info", ("I", "")),
    ("log_trace", ("I", "")),
    ("log_warn", ("I", "")),
    ("memory_bytes", ("", "I")),
    ("output_length", ("", "I")),
    ("output_offset", ("", "I")),
    ("output_set", ("II", "")),
    ("reset", ("", "")),
    ("store_u64", ("II", "")),
    ("store_u8", ("Ii", "")),
    ("var_get", ("I", "I")),
    ("var_set", ("II", "")),
];

const POLLEN_NAMES: &[(&str, Signature)] = &[
    ("pollen_caller_info", ("", "I")),
    ("pollen_head", ("", "I")),
    ("pollen_log", ("II", "")),
    ("pollen_request", ("II", "I")),
    ("pollen_write", ("I", "I")),
];
