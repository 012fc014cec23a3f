//! wasmtime's settings of the two engines, and the pools that are tried from the largest down, until
//! this machine can map one.
//!
//! Decides: what an engine offers, and what one guest of it may take. Components have an engine of
//! their own: they need more than one memory and a deeper stack, and many core instances each.
//! Refused: one engine for both. Its settings would make each core call and each pool slot dearer.

use tracing::{info, warn};
use wasmparser::WasmFeatures;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

use crate::engine::code::Form;
use crate::error::SandboxError;
use crate::sys;

/// Tables of one module (JS and Python PDK modules carry two).
pub(crate) const MAX_TABLES: u32 = 4;

/// Elements of one table.
pub(crate) const MAX_TABLE_ELEMENTS: usize = 100_000;

/// Linear memories of one module.
pub(crate) const MAX_MEMORIES: u32 = 1;

/// Components that live at once, at most. Raising it takes 8 GiB of addresses and five mappings each.
/// Guess: one idle guest of each of 512 seeds.
pub(crate) const MAX_COMPONENTS: u32 = 512;

/// Core instances within one component: numpy by componentize-py has 34 (spin PR 2234).
const MAX_CORE_INSTANCES: u32 = 64;

/// Core instances of a component on average; measured: 14 for the Python runner, 8 for componentize-qjs.
const CORE_INSTANCES: u32 = 16;

/// Linear memories of one component; measured: 1 for the Python runner, 2 for componentize-qjs.
const COMPONENT_MEMORIES: u32 = 4;

/// Tables of one component; measured: 2 for the Python runner.
const COMPONENT_TABLES: u32 = 8;

/// WASM stack of a component: CPython's parser needs 1 MiB, ordinary recursion 2, its compiler raises
/// `RecursionError` with 4 (measured), where core modules have 512 KiB.
const COMPONENT_STACK: usize = 4 << 20;

/// The smallest pool worth having.
const SMALLEST: u32 = 64;

/// Mappings left to the rest of the process.
const MAPPINGS_LEFT: u64 = 8_000;

/// Mappings that a suspended guest costs.
const MAPPINGS_EACH: u64 = 5;

/// Which pool the machine could give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// 4 GiB of addresses for each guest, no bounds checks in the code.
    Full(u32),
    /// 256 MiB of addresses for each guest, bounds checks.
    Small(u32),
    /// No pool: memory is mapped when needed.
    OnDemand,
}

impl Rung {
    /// How many guests it holds at once.
    pub(crate) fn instances(self) -> u64 {
        match self {
            Self::Full(n) | Self::Small(n) => u64::from(n).max(1),
            Self::OnDemand => u64::MAX,
        }
    }
}

impl std::fmt::Display for Rung {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Full(n) => write!(f, "pool of {n} x 4 GiB"),
            Self::Small(n) => write!(f, "pool of {n} x 256 MiB with bounds checks"),
            Self::OnDemand => write!(f, "on demand, no pool"),
        }
    }
}

/// Builds the engine of a form on the first rung that holds; logs it.
pub(crate) fn build(form: Form, instances: u32) -> Result<(Engine, Rung), SandboxError> {
    let mut last = String::new();
    for rung in ladder(instances) {
        if !fits_address_space(form, rung) {
            continue;
        }
        match Engine::new(&config(form, rung)) {
            Ok(engine) => {
                info!(%rung, ?form, "sandbox ready");
                return Ok((engine, rung));
            }
            Err(error) => {
                last = format!("{error:#}");
                warn!(%rung, error = last, "this pool does not fit; trying a smaller one");
            }
        }
    }
    Err(SandboxError::internal(format!("wasmtime gives no engine: {last}"), false))
}

/// The instances that the kernel's limit on mappings allows.
fn capped(instances: u32) -> u32 {
    let maps = sys::max_map_count().unwrap_or(65_530);
    let cap = maps.saturating_sub(MAPPINGS_LEFT) / MAPPINGS_EACH;
    instances.min(u32::try_from(cap).unwrap_or(u32::MAX)).max(1)
}

fn ladder(instances: u32) -> Vec<Rung> {
    let top = capped(instances);
    let mut rungs = vec![Rung::Full(top)];
    let mut n = top / 2;
    while n >= SMALLEST {
        rungs.push(Rung::Full(n));
        n /= 2;
    }
    rungs.push(Rung::Small(top.min(1024)));
    rungs.push(Rung::Small(top.min(SMALLEST)));
    rungs.push(Rung::OnDemand);
    rungs
}

/// Under RLIMIT_AS a pool may map at most half of the limit: the rest is for everything else, and
/// a pool that just fits would starve the allocator.
fn fits_address_space(form: Form, rung: Rung) -> bool {
    let Some(limit) = sys::address_space_limit() else { return true };
    let needed = match rung {
        Rung::Full(n) => u64::from(memories(form, n)).saturating_mul(4 << 30),
        Rung::Small(n) => u64::from(memories(form, n)).saturating_mul(256 << 20),
        Rung::OnDemand => 0,
    };
    needed <= limit / 2
}

/// Linear memories of a pool for so many guests.
fn memories(form: Form, guests: u32) -> u32 {
    match form {
        Form::Core => guests,
        Form::Component => guests.saturating_mul(2),
    }
}

/// The settings that do not depend on the pool.
fn base(form: Form) -> Config {
    let mut config = Config::new();
    config.epoch_interruption(true);
    let stack = match form {
        Form::Core => 512 << 10,
        Form::Component => COMPONENT_STACK,
    };
    config.max_wasm_stack(stack);
    // 1.5 MiB are the host's own.
    config.async_stack_size(stack + (3 << 19));
    config.async_stack_zeroing(true);
    // The component model's bookkeeping of concurrent tasks costs each core call something too.
    config.concurrency_support(false);
    config.wasm_features(not_offered(form), false);
    if form == Form::Component {
        config.wasm_features(WasmFeatures::MULTI_MEMORY, true);
    }
    config
}

fn not_offered(form: Form) -> WasmFeatures {
    match form {
        Form::Core => NOT_OFFERED,
        // Two inner modules with a memory each are joined by an adapter that has both: without this
        // feature wasmtime panics while it compiles it.
        Form::Component => NOT_OFFERED.difference(WasmFeatures::MULTI_MEMORY),
    }
}

/// Features of the standard that guests do not get: they need the gc or threads feature of
/// wasmtime, or the ABI has no use for them and each is one more thing to limit.
const NOT_OFFERED: WasmFeatures = WasmFeatures::GC
    .union(WasmFeatures::GC_TYPES)
    .union(WasmFeatures::FUNCTION_REFERENCES)
    .union(WasmFeatures::EXCEPTIONS)
    .union(WasmFeatures::THREADS)
    .union(WasmFeatures::MULTI_MEMORY)
    .union(WasmFeatures::MEMORY64);

/// The WebAssembly features that guests may use. Builds no engine; a test compares it with one.
pub(crate) fn features(form: Form) -> WasmFeatures {
    let core = WasmFeatures::WASM3.difference(not_offered(form));
    match form {
        Form::Core => core,
        Form::Component => core.union(WasmFeatures::COMPONENT_MODEL),
    }
}

fn config(form: Form, rung: Rung) -> Config {
    let mut config = base(form);
    let (count, reservation) = match rung {
        Rung::OnDemand => {
            // Whoever is down here is short of addresses: map what is used and move when it grows.
            config.memory_reservation(0);
            config.memory_reservation_for_growth(1 << 20);
            config.memory_guard_size(64 << 10);
            return config;
        }
        Rung::Full(n) => (n, 4_u64 << 30),
        Rung::Small(n) => (n, 256 << 20),
    };
    let mut pool = PoolingAllocationConfig::new();
    match form {
        Form::Core => {
            pool.total_core_instances(count);
            pool.total_tables(count.saturating_mul(2));
        }
        Form::Component => {
            pool.total_component_instances(count);
            pool.total_core_instances(count.saturating_mul(CORE_INSTANCES));
            pool.total_tables(count.saturating_mul(4));
            pool.max_core_instances_per_component(MAX_CORE_INSTANCES);
            pool.max_memories_per_component(COMPONENT_MEMORIES);
            pool.max_tables_per_component(COMPONENT_TABLES);
            pool.max_component_instance_size(4 << 20);
        }
    }
    pool.total_memories(memories(form, count));
    pool.total_stacks(count);
    pool.max_core_instance_size(4 << 20);
    pool.max_tables_per_module(MAX_TABLES);
    pool.table_elements(MAX_TABLE_ELEMENTS);
    pool.max_memories_per_module(MAX_MEMORIES);
    pool.max_memory_size(usize::try_from(reservation).unwrap_or(usize::MAX));
    pool.async_stack_keep_resident(32 << 10);
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes);
        pool.linear_memory_keep_resident(1 << 20);
        pool.table_keep_resident(64 << 10);
    }
    config.memory_reservation(reservation);
    if reservation < 4 << 30 {
        config.memory_guard_size(64 << 10);
        config.memory_reservation_for_growth(0);
    }
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_features_checked_at_seed_time_are_those_of_the_engine() {
        let core_only = WasmFeatures::WASM3;
        for form in [Form::Core, Form::Component] {
            let (engine, _) = build(form, 4).unwrap();
            assert_eq!(features(form) & core_only, engine.get_wasm_features() & core_only);
        }
    }

    #[test]
    fn guests_grow_and_stay_within_their_memory_on_each_rung() {
        let wasm = wat::parse_str(
            r#"(module (memory 1) (func (export "grow") (result i32)
                (drop (memory.grow (i32.const 99)))
                (i32.store (i32.const 6553596) (i32.const 7)) (i32.load (i32.const 6553596)))
               (func (export "out") (result i32) (i32.load (i32.const 6553600))))"#,
        )
        .unwrap();
        for rung in [Rung::Full(4), Rung::Small(4), Rung::OnDemand] {
            let engine = Engine::new(&config(Form::Core, rung)).unwrap();
            let module = wasmtime::Module::new(&engine, &wasm).unwrap();
            let mut store = wasmtime::Store::new(&engine, ());
            store.set_epoch_deadline(1);
            let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
            let grow = instance.get_typed_func::<(), i32>(&mut store, "grow").unwrap();
            assert_eq!(7, grow.call(&mut store, ()).unwrap(), "{rung}");
            let out = instance.get_typed_func::<(), i32>(&mut store, "out").unwrap();
            let trap = out.call(&mut store, ()).unwrap_err();
            assert!(trap.to_string().contains("wasm"), "{rung}: {trap}");
            assert_eq!(Some(&wasmtime::Trap::MemoryOutOfBounds), trap.downcast_ref(), "{rung}");
        }
    }

    #[test]
    fn the_ladder_halves_down_to_64_and_ends_without_a_pool() {
        let rungs = ladder(300);
        let expected = [
            Rung::Full(300),
            Rung::Full(150),
            Rung::Full(75),
            Rung::Small(300),
            Rung::Small(64),
            Rung::OnDemand,
        ];
        assert_eq!(expected.as_slice(), rungs);
    }
}
