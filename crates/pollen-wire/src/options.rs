//! The options of a seed that the muscles obey; the names are those of `pollen.options`.
//!
//! The brain packs them as one msgpack map, so a row has room for any number. What only the brain
//! obeys (where a seed runs) is skipped here. An option that is missing here is an error: the
//! defaults stand in the brain's table alone.

use std::collections::BTreeMap;

use serde::Deserialize;

/// How a seed runs and who may call it.
#[derive(Debug, Clone, Deserialize)]
pub struct SeedOptions {
    /// Limit of one call, milliseconds.
    pub timeout_ms: u64,
    /// The function that is called on a new replica before it is open to callers; none when empty.
    pub check: String,
    /// Properties that a caller needs: values of one key are alternatives, all keys must match.
    pub allow: Vec<(String, String)>,
    /// The policy on callers as its publisher wrote it; its tree stands in the row.
    pub allow_if: String,
    /// Running a call twice does no harm.
    pub idempotent: bool,
    /// Anonymous clients may call it.
    pub public: bool,
    /// Services of members that its guests may ask.
    pub allow_services: Vec<String>,
    /// Those that the sandbox obeys.
    #[serde(flatten)]
    pub guest: GuestOptions,
}

/// What a guest is given and held to. The sandbox takes it as it is.
#[derive(Debug, Clone, Deserialize)]
pub struct GuestOptions {
    /// Limit of one guest: linear memory, host heap and variables, bytes.
    pub memory_bytes: u64,
    /// It is an ordinary program, whatever functions it has beside `_start`.
    pub program: bool,
    /// It is a library of functions, whatever its `_start` is.
    pub library: bool,
    /// Hosts that `http_request` may reach; a leading `*.` or a lone `*` are patterns.
    pub allow_hosts: Vec<String>,
    /// Outputs are read as tail calls.
    pub tail_call: bool,
    /// A fresh instance for each call. Each runs its own initialisation, ahead of the call where it can.
    pub isolate: bool,
    /// Instances are reused across the identities of callers.
    pub shared: bool,
    /// Values for `config_get`.
    pub config: BTreeMap<String, String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
}
