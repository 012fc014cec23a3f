//! Users and passwords of a proxy that other machines reach.
//!
//! Decides: whether a file may be trusted to be secret, and whether a client knows what stands in it.
//! Does not know: which protocol carried a password.
//! Invariants: a comparison takes the same time whatever is right of it. Only hashes are kept.
//! Source: docs/design/services.md#by-name; RFC 1929, RFC 7617.

use std::{
    fs::File,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
};

use pollen_net::Refusal;
use pollen_plane::own_uid;

use crate::refusal::refused;

/// What SOCKS5 has room for, bytes.
const MOST: usize = 255;
/// Of the whole file, bytes. Guess: some thousand users.
const FILE: u64 = 256 * 1024;

/// Who may come.
pub(crate) struct Credentials(Vec<blake3::Hash>);

impl Credentials {
    /// Reads a file of lines `USER:PASSWORD`. Empty lines, and those that begin with `#`, say nothing.
    pub(crate) fn read(path: &str) -> Result<Self, Refusal> {
        let failed = |e: std::io::Error| bad(path, &e.to_string(), "name a file that is there");
        let file = File::open(path).map_err(failed)?;
        let held = file.metadata().map_err(failed)?;
        if !held.is_file() {
            return Err(bad(path, "it is not a file", "name a file of lines USER:PASSWORD"));
        }
        if held.uid() != own_uid() && held.uid() != 0 {
            return Err(bad(path, "it belongs to another user", "copy it"));
        }
        let mode = held.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            let why = format!("others may read or write it (mode {mode:04o})");
            return Err(bad(path, &why, &format!("chmod 600 {path}")));
        }
        let mut text = String::new();
        file.take(FILE + 1).read_to_string(&mut text).map_err(failed)?;
        if text.len() as u64 > FILE {
            return Err(bad(path, "it is too large", "256 KiB is the most"));
        }
        Self::parse(&text).map_err(|why| bad(path, &why, "a line for each user: USER:PASSWORD"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut held = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (user, password) =
                line.split_once(':').ok_or_else(|| format!("line {} has no colon", number + 1))?;
            if ![user, password].iter().all(|word| (1..=MOST).contains(&word.len())) {
                let why = format!("line {}: user and password have 1 to 255 bytes", number + 1);
                return Err(why);
            }
            held.push(hash(user.as_bytes(), password.as_bytes()));
        }
        if held.is_empty() {
            return Err("it names no user".to_owned());
        }
        Ok(Self(held))
    }

    /// Whether somebody has this name and password. All are compared, each in constant time.
    pub(crate) fn lets(&self, user: &[u8], password: &[u8]) -> bool {
        let told = hash(user, password);
        self.0.iter().fold(false, |found, held| found | (*held == told))
    }
}

/// The length ahead tells a name from the password behind it.
fn hash(user: &[u8], password: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("pollen proxy user and password");
    hasher.update(&(user.len() as u64).to_be_bytes()).update(user).update(password);
    hasher.finalize()
}

fn bad(path: &str, why: &str, remedy: &str) -> Refusal {
    refused("config-invalid", format!("{path} holds no users and passwords: {why}"), remedy)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_whole_pair_of_the_file_is_let_in() {
        let held = Credentials::parse("# who\n\nann:se:cret\nbob:x\n").unwrap();
        assert!(held.lets(b"ann", b"se:cret") && held.lets(b"bob", b"x"));
        for (user, password) in
            [("ann", "x"), ("ann:se", "cret"), ("", ""), ("bob", ""), ("bobx", ""), ("# who", "")]
        {
            assert!(!held.lets(user.as_bytes(), password.as_bytes()), "{user}:{password}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_or_nonsense_is_refused_with_its_line() {
        let why = |text: &str| Credentials::parse(text).err().unwrap();
        assert_eq!(why("# nobody\n"), "it names no user");
        assert_eq!(why("ann:x\nbob\n"), "line 2 has no colon");
        assert!(why(&format!("ann:{}\n", "x".repeat(256))).starts_with("line 1: "));
        assert!(why(":x\n").starts_with("line 1: "));
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let shown = path.to_str().unwrap();
        let why = || Credentials::read(shown).err().map(|refusal| (refusal.slug, refusal.remedy));
        assert_eq!(why().unwrap().0, "config-invalid");
        std::fs::write(&path, "ann:x\n").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(why().unwrap(), ("config-invalid".into(), format!("chmod 600 {shown}")));
        }
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(why(), None);
        assert!(Credentials::read(folder.path().to_str().unwrap()).is_err());
    }
}
