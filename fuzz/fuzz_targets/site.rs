//! The table of a site: its size from the first block, and itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pollen_wire::site::{BLOCK, Coding, TABLE_MAX, Table, table_size};

fuzz_target!(|data: &[u8]| {
    if let Some(size) = table_size(data) {
        assert!(size <= TABLE_MAX);
    }
    let size = BLOCK * 4 + data.len() as u64;
    if let Ok(table) = Table::read(data, size) {
        for file in table.files() {
            assert!(table.span(file).end <= size);
            for coding in Coding::ALL {
                assert!(table.packed_span(file, coding).is_none_or(|span| span.end <= size));
            }
        }
    }
});
