//! What a guest may import, by name and type, and the exports that the entry protocol owns.
//!
//! Kept as a table so that a module can be checked without an engine; a test compares it with what
//! the linker really defines.

/// Parameters and results, one letter a value: `i` is i32, `I` is i64.
pub(crate) type Signature = (&'static str, &'static str);

/// A module of imports.
pub(crate) type Group = (&'static str, &'static [(&'static str, Signature)]);

/// Everything a guest may import.
pub(crate) const GROUPS: [Group; 3] = [
    (crate::imports::MODULE, EXTISM),
    (crate::user::MODULE, POLLEN),
    ("wasi_snapshot_preview1", WASI),
];

const EXTISM: &[(&str, Signature)] = &[
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

const POLLEN: &[(&str, Signature)] = &[
    ("pollen_caller_info", ("", "I")),
    ("pollen_log", ("II", "")),
    ("pollen_request", ("II", "I")),
];

const WASI: &[(&str, Signature)] = &[
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

/// Exports that the entry protocol runs; they cannot be called.
pub(crate) fn is_entry(name: &str) -> bool {
    matches!(name, "_initialize" | "__wasm_call_ctors" | "hs_init" | "wizer.initialize")
}

/// Helpers that toolchains export beside a module's own functions; nobody means them by a call.
///
/// The names are those of binaryen's asyncify, emscripten's runtime, wasm-ld and wasi-libc.
pub(crate) fn is_helper(name: &str) -> bool {
    const PREFIXES: [&str; 6] = [
        "asyncify_",
        "emscripten_stack_",
        "_emscripten_stack_",
        "__emscripten_",
        "__wasm_",
        "__indirect_function_table",
    ];
    const NAMES: [&str; 9] = [
        "stackSave",
        "stackRestore",
        "stackAlloc",
        "__errno_location",
        "__get_temp_ret",
        "getTempRet0",
        "setTempRet0",
        "__cxa_get_exception_ptr",
        "fflush",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The signature of an import, if there is one of this name.
pub(crate) fn signature(module: &str, name: &str) -> Option<Signature> {
    let (_, names) = GROUPS.iter().find(|(group, _)| *group == module)?;
    names.iter().find(|(known, _)| *known == name).map(|(_, signature)| *signature)
}

/// All imports as module, name, parameters and results (each a list of text-format types); for
/// tests and documentation.
#[must_use]
pub fn known_imports() -> Vec<(&'static str, &'static str, String, String)> {
    let text = |letters: &str| {
        letters.chars().map(|c| if c == 'i' { "i32" } else { "i64" }).collect::<Vec<_>>().join(" ")
    };
    GROUPS
        .iter()
        .flat_map(|(module, names)| {
            names.iter().map(move |(name, signature)| (*module, *name, *signature))
        })
        .map(|(module, name, (params, results))| (module, name, text(params), text(results)))
        .collect()
}
