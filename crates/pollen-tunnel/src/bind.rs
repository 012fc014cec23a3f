//! The sockets of listeners.
//!
//! Decides: when the file of a unix socket may be replaced.
//! Does not know: who comes.
//! Invariants: a file that is no socket, a socket of another user, and one that somebody serves, stay.
//!     Nothing waits for whoever serves it.
//! Source: `unix(7)`: a socket nobody listens on refuses; one with a full backlog says EAGAIN.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use pollen_net::Refusal;
use pollen_plane::own_uid;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use crate::{
    refusal::refused,
    target::{UNIX, reason_of},
};

/// Where clients come to.
pub(crate) enum Bound {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, Unlink),
}

impl Bound {
    /// Whether only programs of this machine come there.
    pub(crate) fn is_of_this_machine(&self) -> bool {
        match self {
            Self::Tcp(_, address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(..) => true,
        }
    }

    /// As the brain and people read it.
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, Unlink(path, _)) => format!("{UNIX}{}", path.display()),
        }
    }
}

/// The file of a unix socket; dropped, it goes, unless another one stands in its place.
pub(crate) struct Unlink(PathBuf, Option<(u64, u64)>);

impl Unlink {
    fn of(path: &Path) -> Self {
        Self(path.to_owned(), identity(path))
    }
}

impl Drop for Unlink {
    fn drop(&mut self) {
        if self.1.is_some() && identity(&self.0) == self.1 {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// Device and inode of a file, no link followed.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let held = std::fs::symlink_metadata(path).ok()?;
    Some((held.dev(), held.ino()))
}

/// Binds a listener of streams.
pub(crate) async fn bind(text: &str, any_user: bool) -> Result<Bound, Refusal> {
    if let Some(path) = text.strip_prefix(UNIX) {
        return bind_unix(Path::new(path), any_user).await;
    }
    let address = address(text)?;
    let listener = TcpListener::bind(address).await.map_err(|e| taken(text, &e))?;
    let bound = listener.local_addr().map_err(|e| taken(text, &e))?;
    Ok(Bound::Tcp(listener, bound))
}

/// An address to bind.
pub(crate) fn address(text: &str) -> Result<SocketAddr, Refusal> {
    text.parse().map_err(|_| {
        let reason = format!("\"{text}\" is not an address to listen on");
        refused("usage", reason, "write 127.0.0.1:8080, [::1]:8080 or unix:/path")
    })
}

/// The system does not give the address.
pub(crate) fn taken(text: &str, error: &io::Error) -> Refusal {
    let reason = format!("cannot listen on {text}: {}", reason_of(error));
    match error.kind() {
        io::ErrorKind::AddrInUse => refused("port-in-use", reason, "take another one; 0 is any"),
        io::ErrorKind::PermissionDenied => refused("usage", reason, "take a port over 1023"),
        _ => refused("usage", reason, "take an address of this machine"),
    }
}

async fn bind_unix(path: &Path, any_user: bool) -> Result<Bound, Refusal> {
    let shown = path.display();
    let failed = |e: io::Error| {
        let reason = format!("cannot listen on {UNIX}{shown}: {}", reason_of(&e));
        refused("usage", reason, "take a path in a folder of yours, of 107 bytes at most")
    };
    if let Ok(held) = std::fs::symlink_metadata(path) {
        if !held.file_type().is_socket() {
            let reason = format!("{shown} is there and is not a socket");
            return Err(refused("usage", reason, "take another path"));
        }
        if held.uid() != own_uid() {
            let reason = format!("the socket {shown} belongs to user id {}", held.uid());
            return Err(refused("usage", reason, "remove it as that user, or take another path"));
        }
        // Not a connect that blocks: where the backlog is full it would wait for a stranger.
        match UnixStream::connect(path).await {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            _ => {
                let reason = format!("somebody listens on {UNIX}{shown}");
                return Err(refused("port-in-use", reason, "take another path"));
            }
        }
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    let file = Unlink::of(path);
    let mode = if any_user { 0o666 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
    Ok(Bound::Unix(listener, file))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_socket_that_another_user_left_stays() {
        if own_uid() != 0 {
            eprintln!("not root: no other user to play");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let text = format!("{UNIX}{}", path.display());
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let Err(refusal) = bind(&text, false).await else { panic!("it was replaced") };
        assert_eq!((&*refusal.slug, path.exists()), ("usage", true));
        std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        bind(&text, false).await.unwrap();
    }

    #[tokio::test]
    async fn a_socket_that_somebody_put_in_its_place_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let text = format!("{UNIX}{}", path.display());
        drop(bind(&text, false).await.unwrap());
        assert!(!path.exists());
        let first = bind(&text, false).await.unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = bind(&text, false).await.unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }
}
