//! The two questions to the operating system that the standard library cannot ask.

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

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}
