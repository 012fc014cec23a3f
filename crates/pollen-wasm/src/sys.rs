//! The questions to the operating system that the standard library cannot ask.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use parking_lot::Mutex;

/// Lowers the priority of the calling thread by ten steps; a refusal changes nothing.
pub(crate) fn lower_thread_priority() {
    #[cfg(target_os = "linux")]
    // Why unsafe: a plain system call without pointers. On Linux `who` 0 with PRIO_PROCESS is the
    // calling thread alone, so neither the net threads nor the ticker are slowed.
    #[allow(unsafe_code)]
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 10);
    }
}

/// Gives the system the free pages that the allocator keeps. Takes tens of milliseconds: it is nothing
/// for a network thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[allow(unsafe_code)]
pub fn trim() {
    // Why unsafe: a plain call without pointers, which takes the allocator's own locks.
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give back by themselves.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn trim() {}

/// The number of mappings this process may have; none where the system does not say.
pub(crate) fn max_map_count() -> Option<u64> {
    read_number("/proc/sys/vm/max_map_count")
}

/// The number of mappings this process has now; none where the system does not say.
pub(crate) fn mapping_count() -> Option<u64> {
    let maps = std::fs::read("/proc/self/maps").ok()?;
    Some(maps.iter().filter(|byte| **byte == b'\n').count() as u64)
}

/// Size of this process's page tables in bytes; none where the system does not say.
pub(crate) fn page_table_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPTE:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

/// RLIMIT_AS in bytes; none when unlimited or unknown.
pub(crate) fn address_space_limit() -> Option<u64> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max address space"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// The pages that faults have brought to the calling thread since it began, and where nobody counts
/// them another number each time.
pub(crate) fn thread_faults() -> u64 {
    #[cfg(target_os = "linux")]
    {
        let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
        // Why unsafe: the kernel fills the structure that it is given, and zeroes are one as well.
        #[allow(unsafe_code)]
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_THREAD, usage.as_mut_ptr());
            usage.assume_init()
        };
        usage.ru_minflt.wrapping_add(usage.ru_majflt) as u64
    }
    #[cfg(not(target_os = "linux"))]
    {
        static COUNT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }
}

/// The bytes that one fault brings at most: a page, or a huge one where those come unasked.
pub(crate) fn fault_bytes() -> u64 {
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        const HUGE: &str = "/sys/kernel/mm/transparent_hugepage";
        let comes =
            |path: &str| std::fs::read_to_string(path).is_ok_and(|text| text.contains("[always]"));
        let sizes = std::fs::read_dir(HUGE).into_iter().flatten().flatten();
        let any = comes(&format!("{HUGE}/enabled"))
            || sizes.into_iter().any(|size| comes(&size.path().join("enabled").to_string_lossy()));
        let huge = any.then(|| read_number(&format!("{HUGE}/hpage_pmd_size"))).flatten();
        huge.unwrap_or(0).max(page_bytes())
    })
}

/// What of these addresses is this process's own memory, in bytes: neither that of a file nor a page
/// that was never written to. None where the kernel (before Linux 6.7) does not say.
pub(crate) fn private_bytes(address: usize, bytes: usize) -> Option<u64> {
    /// Regions that one question is answered with.
    const REGIONS: usize = 128;
    let (begin, end) = (address as u64, address.checked_add(bytes)? as u64);
    let page = page_bytes();
    let (mut at, end) = (begin - begin % page, end.div_ceil(page) * page);
    let mut sum = 0_u64;
    while at < end {
        let mut regions = [Region::default(); REGIONS];
        let (found, reached) = pagemap(at, end, &mut regions)?;
        let found = regions.get(..found)?;
        sum = found.iter().fold(sum, |sum, region| sum.saturating_add(region.end - region.start));
        if reached <= at {
            return None;
        }
        at = reached;
    }
    Some(sum)
}

fn page_bytes() -> u64 {
    // Why unsafe: a plain call without pointers.
    #[allow(unsafe_code)]
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(bytes).ok().filter(|bytes| *bytes > 0).unwrap_or(4096)
}

/// `struct page_region` of Linux.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of Linux.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// Asks for the regions of private pages between two addresses: how many it found, and how far it
/// looked.
fn pagemap(start: u64, end: u64, regions: &mut [Region]) -> Option<(usize, u64)> {
    /// `_IOWR('f', 16, struct pm_scan_arg)`.
    const PAGEMAP_SCAN: u64 = 0xc060_6610;
    const FILE: u64 = 1 << 2;
    const PRESENT: u64 = 1 << 3;
    const SWAPPED: u64 = 1 << 4;
    const ZERO: u64 = 1 << 5;
    /// This process's map, and the process: a fork would ask for its parent's.
    static MAP: Mutex<Option<(u32, File)>> = Mutex::new(None);
    let mut scan = Scan {
        size: size_of::<Scan>() as u64,
        flags: 0,
        start,
        end,
        walk_end: start,
        vec: regions.as_mut_ptr().addr() as u64,
        vec_len: regions.len() as u64,
        max_pages: 0,
        category_inverted: FILE | ZERO,
        category_mask: FILE | ZERO,
        category_anyof_mask: PRESENT | SWAPPED,
        return_mask: 0,
    };
    let map = {
        let mut map = MAP.lock();
        if map.as_ref().is_none_or(|(process, _)| *process != std::process::id()) {
            *map = Some((std::process::id(), File::open("/proc/self/pagemap").ok()?));
        }
        map.as_ref()?.1.as_raw_fd()
    };
    // Why unsafe: the kernel reads the structure and writes to it and to as many regions as it names;
    // both live until the call is over.
    #[allow(unsafe_code)]
    let found = unsafe { libc::ioctl(map, PAGEMAP_SCAN as _, &raw mut scan) };
    usize::try_from(found).ok().map(|found| (found, scan.walk_end))
}

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn memory_counts_as_private_when_it_is_written_to() {
        let size = 16 << 20;
        let mut fresh = vec![0_u8; size];
        let of = |memory: &[u8]| private_bytes(memory.as_ptr().addr(), memory.len()).unwrap();
        assert!(of(&fresh) < 1 << 20, "nothing was written: {}", of(&fresh));
        // Every other page: many regions, so that it is asked more than once.
        let before = thread_faults();
        for at in (0..size).step_by(8192) {
            fresh[at] = 1;
        }
        assert!(thread_faults() > before);
        assert!(of(&fresh) as usize >= size / 2, "{}", of(&fresh));
    }

    #[test]
    fn memory_of_a_file_is_not_private_until_it_is_written_to() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        // Why unsafe: a mapping of its own that nobody else knows.
        #[allow(unsafe_code)]
        let mapped = unsafe {
            let (read, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE);
            let at = libc::mmap(std::ptr::null_mut(), 1 << 20, read, private, file.as_raw_fd(), 0);
            std::slice::from_raw_parts_mut(at.cast::<u8>(), 1 << 20)
        };
        let of = |memory: &[u8]| private_bytes(memory.as_ptr().addr(), memory.len());
        assert_eq!(0, mapped.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        assert_eq!(Some(0), of(mapped));
        (mapped[5], mapped[70_000]) = (1, 1);
        assert_eq!(Some(2 * page_bytes()), of(mapped));
    }
}
