//! Probe datagrams: `kind(1) nonce(8) age_ms(4)`, big-endian.

/// A question or its echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Whether this answers a probe.
    pub answer: bool,
    /// Chosen by the asker, repeated in the answer.
    pub nonce: u64,
    /// Milliseconds since the sender's brain last beat.
    pub age_ms: u32,
}

/// Bytes of a probe.
pub const LEN: usize = 13;

impl Probe {
    /// The datagram.
    pub fn encode(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let (kind, rest) = out.split_at_mut(1);
        let (nonce, age) = rest.split_at_mut(8);
        kind.copy_from_slice(&[u8::from(self.answer)]);
        nonce.copy_from_slice(&self.nonce.to_be_bytes());
        age.copy_from_slice(&self.age_ms.to_be_bytes());
        out
    }

    /// `None` for anything that is not a probe.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let (kind, rest) = datagram.split_first()?;
        let (nonce, rest) = rest.split_first_chunk::<8>()?;
        let (age, _) = rest.split_first_chunk::<4>()?;
        let answer = match kind {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self { answer, nonce: u64::from_be_bytes(*nonce), age_ms: u32::from_be_bytes(*age) })
    }
}
