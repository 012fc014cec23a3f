//! Random numbers of the call path: ids of calls and spans, and where a call goes.

/// A fresh call id: 128 random bits.
pub(crate) fn call_id() -> [u8; 16] {
    let mut id = [0; 16];
    let (low, high) = id.split_at_mut(8);
    low.copy_from_slice(&draw().to_le_bytes());
    high.copy_from_slice(&draw().to_le_bytes());
    id
}

/// 64 random bits: a per-thread wyrand seeded by the system, since a syscall a call costs too much.
pub(crate) fn draw() -> u64 {
    use std::cell::Cell;
    thread_local!(static STATE: Cell<u64> = const { Cell::new(0) });
    STATE.with(|state| {
        if state.get() == 0 {
            let mut seed = [0; 8];
            // Without system entropy the address of a thread's own cell still differs by thread.
            if getrandom::fill(&mut seed).is_err() {
                seed = (std::ptr::from_ref(state) as u64).to_le_bytes();
            }
            state.set(u64::from_le_bytes(seed) | 1);
        }
        let next = state.get().wrapping_add(0xa076_1d64_78bd_642f);
        state.set(next);
        let wide = u128::from(next) * u128::from(next ^ 0xe703_7ed1_a0b4_28db);
        (wide >> 64) as u64 ^ wide as u64
    })
}
