//! The writing twin of [`crate::reader::Reader`]: msgpack into a `Vec`, smallest encodings.
//!
//! `rmp` is generic over writers that can fail; a `Vec` takes every write, so results are dropped.

use rmp::encode;

pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self { out }
    }

    pub(crate) fn array(&mut self, len: u32) -> &mut Self {
        let _ = encode::write_array_len(self.out, len);
        self
    }

    pub(crate) fn uint(&mut self, value: impl Into<u64>) -> &mut Self {
        let _ = encode::write_uint(self.out, value.into());
        self
    }

    pub(crate) fn int32(&mut self, value: i32) -> &mut Self {
        let _ = encode::write_sint(self.out, i64::from(value));
        self
    }

    pub(crate) fn boolean(&mut self, value: bool) -> &mut Self {
        let _ = encode::write_bool(self.out, value);
        self
    }

    pub(crate) fn nil(&mut self) -> &mut Self {
        let _ = encode::write_nil(self.out);
        self
    }

    pub(crate) fn str(&mut self, value: &str) -> &mut Self {
        let _ = encode::write_str(self.out, value);
        self
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        let _ = encode::write_bin(self.out, value);
        self
    }

    /// The header of bytes that the caller writes itself, after everything else.
    pub(crate) fn bytes_len(&mut self, len: u32) -> &mut Self {
        let _ = encode::write_bin_len(self.out, len);
        self
    }
}
