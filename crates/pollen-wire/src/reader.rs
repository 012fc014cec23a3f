//! A cursor over one msgpack value, zero-copy.

use rmp::decode;

use crate::{Id, WireError};

pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// An array header of at least `least` elements; returns how many there are.
    pub(crate) fn array(&mut self, least: u32) -> Result<u32, WireError> {
        let len = decode::read_array_len(&mut self.rest).map_err(|_| WireError::Shape("array"))?;
        if len < least {
            return Err(WireError::Shape("array too short"));
        }
        Ok(len)
    }

    pub(crate) fn uint<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, WireError> {
        let value: u64 = decode::read_int(&mut self.rest).map_err(|_| WireError::Shape(what))?;
        T::try_from(value).map_err(|_| WireError::Limit(what))
    }

    pub(crate) fn int32(&mut self, what: &'static str) -> Result<i32, WireError> {
        decode::read_int(&mut self.rest).map_err(|_| WireError::Shape(what))
    }

    pub(crate) fn boolean(&mut self, what: &'static str) -> Result<bool, WireError> {
        decode::read_bool(&mut self.rest).map_err(|_| WireError::Shape(what))
    }

    pub(crate) fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let len = decode::read_bin_len(&mut self.rest).map_err(|_| WireError::Shape(what))?;
        self.take(len)
    }

    /// At most so many bytes.
    pub(crate) fn bytes_of(
        &mut self,
        what: &'static str,
        most: usize,
    ) -> Result<&'a [u8], WireError> {
        let raw = self.bytes(what)?;
        if raw.len() > most { Err(WireError::Limit(what)) } else { Ok(raw) }
    }

    pub(crate) fn str(&mut self, what: &'static str, most: usize) -> Result<&'a str, WireError> {
        let len = decode::read_str_len(&mut self.rest).map_err(|_| WireError::Shape(what))?;
        let raw = self.take(len)?;
        if raw.len() > most {
            return Err(WireError::Limit(what));
        }
        std::str::from_utf8(raw).map_err(|_| WireError::Shape(what))
    }

    pub(crate) fn array_of<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], WireError> {
        self.bytes(what)?.try_into().map_err(|_| WireError::Shape(what))
    }

    pub(crate) fn id(&mut self, what: &'static str) -> Result<Id, WireError> {
        self.array_of::<32>(what)
    }

    /// `None` for empty bytes, else an id.
    pub(crate) fn optional_id(&mut self, what: &'static str) -> Result<Option<Id>, WireError> {
        match self.bytes(what)? {
            [] => Ok(None),
            raw => raw.try_into().map(Some).map_err(|_| WireError::Shape(what)),
        }
    }

    /// Consumes a nil and says so, else leaves everything as it was.
    pub(crate) fn nil(&mut self) -> bool {
        match self.rest {
            [0xc0, rest @ ..] => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, len: u32) -> Result<&'a [u8], WireError> {
        let len = usize::try_from(len).map_err(|_| WireError::Truncated)?;
        let (head, rest) = self.rest.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }
}
