//! Sealed files: an age file that the nodes it is for can read, and nobody else.
//!
//! Decides: which key of a node a file is sealed for, and where the bytes of the plain text are in it.
//! Does not know: who may read a blob (the brain's `seeds`), where its bytes are (`pollen-plane`).
//! Invariants: the key that opens is made of the node's own, and leaves this crate in no form. What is
//!     handed out was authenticated, chunk by chunk.
//! Source: age-encryption.org/v1; RFC 7748 (4.1) for the map from Edwards25519 to Curve25519; Thormarker,
//!     "On using the same key pair for Ed25519 and an X25519 based KEM", 2021.

#![forbid(unsafe_code)]

use std::{
    io::{self, BufRead, Read, Seek, SeekFrom, Write},
    str::FromStr as _,
};

use age::{
    DecryptError, Decryptor, Encryptor,
    stream::{StreamReader, StreamWriter},
    x25519::{Identity, Recipient},
};
use bech32::{Bech32, Hrp};
use ed25519_dalek::{SigningKey, VerifyingKey};
use pollen_wire::Id;

/// Bytes of plain text in a chunk, and what sealing adds to each.
const CHUNK: u64 = 64 * 1024;
const TAG: u64 = 16;
/// Bytes that a head may have: some 100 for each node that it is for.
const HEAD_MAX: u64 = 256 * 1024;

/// Why a file was not sealed or opened.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A node's id is no key that a file can be sealed for.
    #[error("{0} is not the key of a node")]
    NoKey(String),
    /// Nobody could open it.
    #[error("a file is sealed for one node at least")]
    ForNobody,
    /// It was sealed for others.
    #[error("it is sealed for others")]
    ForOthers,
    /// The file is not a sealed one, or not whole.
    #[error("it is not a sealed file: {0}")]
    NotSealed(String),
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What opens files that are sealed for one node.
pub struct Opener(Identity);

/// Where the plain text is in a sealed file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Bytes before the first chunk.
    head: u64,
    /// Bytes of the plain text.
    plain: u64,
}

impl Layout {
    fn of(head: u64, size: u64) -> Option<Self> {
        let payload = size.checked_sub(head)?;
        let plain = payload.checked_sub(payload.div_ceil(CHUNK + TAG) * TAG)?;
        Some(Self { head, plain })
    }

    /// Bytes of the plain text.
    pub fn plain(self) -> u64 {
        self.plain
    }

    /// Where the chunk ends that has the last byte before `end` of the plain text, at most.
    pub fn end_of(self, end: u64) -> u64 {
        self.head + end.div_ceil(CHUNK).max(1) * (CHUNK + TAG)
    }
}

impl Opener {
    /// That of a node, by its secret key. Errors never for a key of 32 bytes.
    pub fn of(secret: &[u8; 32]) -> Result<Self, SealError> {
        let scalar = SigningKey::from_bytes(secret).to_scalar_bytes();
        let no_key = |cause: &dyn std::fmt::Display| SealError::NoKey(cause.to_string());
        let text = encoded("AGE-SECRET-KEY-", &scalar)?.to_uppercase();
        Identity::from_str(&text).map(Self).map_err(|cause| no_key(&cause))
    }

    /// Finds the plain text of a sealed file of `size` bytes, and whether this node can open it. The
    /// file stands behind its head afterwards.
    pub fn look<R: BufRead + Seek>(&self, file: &mut R, size: u64) -> Result<Layout, SealError> {
        drop(self.begun(Limited { file, left: HEAD_MAX })?);
        let head = file.stream_position()?;
        Layout::of(head, size).ok_or_else(|| SealError::NotSealed("it is too short".to_owned()))
    }

    /// Opens a sealed file that stands at its beginning, from a byte of the plain text on.
    pub fn open<R: BufRead + Seek>(
        &self,
        file: R,
        from: u64,
    ) -> Result<impl Read + use<R>, SealError> {
        let mut plain = self.begun(file)?;
        // To find the first byte of a chunk the library looks whether it is the end, and reads the last
        // chunk for that, which may not be here yet. The byte before is found without.
        if let Some(before) = from.checked_sub(1) {
            plain.seek(SeekFrom::Start(before))?;
            plain.read_exact(&mut [0])?;
        }
        Ok(plain)
    }

    fn begun<R: BufRead>(&self, file: R) -> Result<StreamReader<R>, SealError> {
        let sealed = Decryptor::new_buffered(file).map_err(unsealed)?;
        let identities = std::iter::once(&self.0 as &dyn age::Identity);
        sealed.decrypt(identities).map_err(unsealed)
    }
}

/// Writes a file sealed for these nodes; who writes it ends it with `finish`.
pub fn seal<W: Write>(nodes: &[Id], to: W) -> Result<StreamWriter<W>, SealError> {
    let recipients = nodes.iter().map(recipient).collect::<Result<Vec<_>, _>>()?;
    if recipients.is_empty() {
        return Err(SealError::ForNobody);
    }
    let held = recipients.iter().map(|held| held as &dyn age::Recipient);
    let sealed = Encryptor::with_recipients(held).map_err(|e| SealError::NoKey(e.to_string()))?;
    Ok(sealed.wrap_output(to)?)
}

/// Whether a file that begins so says that it is sealed.
pub fn is_sealed(begin: &[u8]) -> bool {
    begin.starts_with(b"age-encryption.org/v1\n")
}

/// The key of a node's id. A key of few multiples would make what is sealed readable to all.
fn recipient(node: &Id) -> Result<Recipient, SealError> {
    let no_key = || SealError::NoKey(node.iter().map(|byte| format!("{byte:02x}")).collect());
    let key = VerifyingKey::from_bytes(node).ok().filter(|key| !key.is_weak());
    let text = encoded("age", key.ok_or_else(no_key)?.to_montgomery().as_bytes())?;
    Recipient::from_str(&text).map_err(|_| no_key())
}

/// The text form of a key (BIP 173), which is how the library takes one.
fn encoded(prefix: &str, key: &[u8; 32]) -> Result<String, SealError> {
    let no_key = |cause: &dyn std::fmt::Display| SealError::NoKey(cause.to_string());
    let prefix = Hrp::parse(prefix).map_err(|cause| no_key(&cause))?;
    bech32::encode::<Bech32>(prefix, key).map_err(|cause| no_key(&cause))
}

fn unsealed(error: DecryptError) -> SealError {
    match error {
        DecryptError::NoMatchingKeys => SealError::ForOthers,
        DecryptError::Io(cause) if cause.kind() != io::ErrorKind::UnexpectedEof => cause.into(),
        other => SealError::NotSealed(other.to_string()),
    }
}

/// A file that ends early: a head without an end would else be read into memory.
struct Limited<'a, R> {
    file: &'a mut R,
    left: u64,
}

impl<R: BufRead> Read for Limited<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Limited<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        self.file.fill_buf().map(|held| &held[..held.len().min(left)])
    }

    fn consume(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count as u64);
        self.file.consume(count);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Cursor;

    use super::*;

    fn node(seed: u8) -> ([u8; 32], Id) {
        let secret = [seed; 32];
        (secret, SigningKey::from_bytes(&secret).verifying_key().to_bytes())
    }

    fn sealed(nodes: &[Id], plain: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut to = seal(nodes, &mut file).unwrap();
        to.write_all(plain).unwrap();
        to.finish().unwrap();
        file
    }

    fn noise(size: usize) -> Vec<u8> {
        (0..size).map(|at| (at * 31 % 251) as u8).collect()
    }

    #[test]
    fn each_node_that_it_is_for_reads_it_and_nobody_else() {
        let (a, b, c) = (node(1), node(2), node(3));
        let file = sealed(&[a.1, b.1], b"the plan");
        assert!(is_sealed(&file) && !file.windows(8).any(|held| held == b"the plan"));
        for (secret, _) in [a, b] {
            let mut plain = String::new();
            let opened = Opener::of(&secret).unwrap().open(Cursor::new(&file), 0);
            opened.unwrap().read_to_string(&mut plain).unwrap();
            assert_eq!(plain, "the plan");
        }
        let other = Opener::of(&c.0).unwrap();
        assert!(matches!(other.open(Cursor::new(&file), 0).err(), Some(SealError::ForOthers)));
    }

    #[test]
    fn the_plain_text_is_found_whatever_its_size_and_from_any_byte() {
        let (secret, id) = node(7);
        let opener = Opener::of(&secret).unwrap();
        let chunk = CHUNK as usize;
        for size in [0, 1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3 * chunk + 17] {
            let plain = noise(size);
            let file = sealed(&[id], &plain);
            let layout = opener.look(&mut Cursor::new(&file), file.len() as u64).unwrap();
            assert_eq!(layout.plain(), size as u64);
            for from in [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, size.max(1) - 1, size] {
                let from = from.min(size);
                let mut rest = Vec::new();
                let opened = opener.open(Cursor::new(&file), from as u64);
                opened.unwrap().read_to_end(&mut rest).unwrap();
                assert_eq!(rest, plain[from..], "{size} bytes from {from}");
            }
        }
    }

    #[test]
    fn a_range_needs_no_more_than_its_chunks() {
        let (secret, id) = node(7);
        let opener = Opener::of(&secret).unwrap();
        let plain = noise(300_000);
        let file = sealed(&[id], &plain);
        let layout = opener.look(&mut Cursor::new(&file), file.len() as u64).unwrap();
        for (from, to) in [(0, 1), (65_535, 65_537), (131_072, 131_073), (70_000, 131_072)] {
            let part = &file[..usize::try_from(layout.end_of(to)).unwrap()];
            let mut held = vec![0; usize::try_from(to - from).unwrap()];
            opener.open(Cursor::new(part), from).unwrap().read_exact(&mut held).unwrap();
            assert_eq!(held, plain[usize::try_from(from).unwrap()..usize::try_from(to).unwrap()]);
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let (secret, id) = node(7);
        let opener = Opener::of(&secret).unwrap();
        let mut file = sealed(&[id], &noise(100_000));
        let last = file.len() - 1;
        file[last] ^= 1;
        let mut held = Vec::new();
        assert!(opener.open(Cursor::new(&file), 0).unwrap().read_to_end(&mut held).is_err());
    }

    #[test]
    fn what_is_no_sealed_file_or_no_key_is_refused() {
        let opener = Opener::of(&node(7).0).unwrap();
        for file in [&b""[..], b"a text", b"age-encryption.org/v1\n", b"age-encryption.org/v1\n-> "]
        {
            let found = opener.look(&mut Cursor::new(file), file.len() as u64);
            assert!(matches!(found, Err(SealError::NotSealed(_))), "{found:?}");
        }
        let mut endless = Cursor::new(b"age-encryption.org/v1\n-> X25519 ".repeat(20_000));
        assert!(opener.look(&mut endless, 1).is_err());
        assert!(matches!(seal(&[], Vec::new()).err(), Some(SealError::ForNobody)));
        // A point of small order, and bytes that are no point.
        for id in [[0; 32], [2; 32]] {
            assert!(matches!(seal(&[id], Vec::new()).err(), Some(SealError::NoKey(_))), "{id:?}");
        }
    }
}
