//! Where the memory of a component lies in this process.
//!
//! wasmtime shows no memory of a component's inside. But a value that passes into a component is put
//! into the memory of the function that takes it, by the type of the value. So a call with a value of a
//! type of our own learns the address, and then fails: no instruction of the guest runs.
//!
//! Decides: nothing. Does not know: what is done with the address (`engine/touched.rs`).
//! Refused: `guest_debug`, which shows all memories and makes other, slower code of every guest.
//! Refused: to find the pool of all memories in /proc/self/maps: it does not say whose a slot is.

use std::fmt;
use std::mem::MaybeUninit;

use wasmtime::component::__internal::{
    CanonicalAbiInfo, InstanceType, InterfaceType, LowerContext,
};
use wasmtime::component::{ComponentNamedList, ComponentType, Func, Lower, TypedFunc};
use wasmtime::{Result, Store};

/// Arguments that no function ever gets.
struct Probe;

/// What a probe found: a memory's address and bytes.
#[derive(Debug, Clone, Copy)]
struct Found(usize, usize);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a memory of {} bytes", self.1)
    }
}

impl std::error::Error for Found {}

/// The address and the bytes of the memory that the first of these functions works on which has one;
/// nothing else of the guest changes. Zero bytes when none has.
pub(crate) async fn memory_of<T: Send + 'static>(
    functions: &[Func],
    store: &mut Store<T>,
) -> (usize, usize) {
    for function in functions {
        // Why unsafe: the promise is that the function takes a `Probe`. None ever gets one, since
        // passing it fails, and what fails to be passed is not called.
        #[allow(unsafe_code)]
        let probed = unsafe { TypedFunc::<Probe, ()>::new_unchecked(*function) };
        let Err(error) = probed.call_async(&mut *store, Probe).await else { continue };
        if let Some(Found(address, bytes)) = error.downcast_ref::<Found>().copied()
            && bytes > 0
        {
            return (address, bytes);
        }
    }
    (0, 0)
}

// Why unsafe: a type that says wrong things of itself breaks memory. This one takes the place of no
// value, in registers and in memory, and neither is ever written.
#[allow(unsafe_code)]
unsafe impl ComponentType for Probe {
    type Lower = <() as ComponentType>::Lower;

    const ABI: CanonicalAbiInfo = <() as ComponentType>::ABI;

    fn typecheck(_ty: &InterfaceType, _types: &InstanceType<'_>) -> Result<()> {
        Err(wasmtime::Error::msg("a probe is no value"))
    }
}

// Why unsafe: the same.
#[allow(unsafe_code)]
unsafe impl ComponentNamedList for Probe {}

// Why unsafe: the same.
#[allow(unsafe_code)]
unsafe impl Lower for Probe {
    fn linear_lower_to_flat<T>(
        &self,
        cx: &mut LowerContext<'_, T>,
        _ty: InterfaceType,
        _dst: &mut MaybeUninit<Self::Lower>,
    ) -> Result<()> {
        let memory = cx.as_slice_mut();
        Err(wasmtime::Error::new(Found(memory.as_ptr().addr(), memory.len())))
    }

    fn linear_lower_to_memory<T>(
        &self,
        _cx: &mut LowerContext<'_, T>,
        _ty: InterfaceType,
        _offset: usize,
    ) -> Result<()> {
        Err(wasmtime::Error::msg("a probe is no value"))
    }
}
