//! For whom a store has a content: across restarts, and in stores of before.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use bytes::Bytes;
use iroh_blobs::{Hash, HashAndFormat, store::fs::FsStore};
use pollen_net::{ContentStore as _, content::BlobStore};
use pollen_wire::Id;

const OWN: Id = [1; 32];
const OTHER: Id = [2; 32];

async fn is_for(folder: &Path, content: Id, owner: Id) -> bool {
    let store = BlobStore::open(folder, OWN).await.unwrap();
    let is_for = store.is_for(content, owner).await.unwrap();
    store.close().await;
    is_for
}

/// A store as an older node left it: with these marks, and contents that are pinned, each noted for some.
async fn left(folder: &Path, marks: &[&str], contents: &[(Hash, &[Id])]) {
    let store = FsStore::load(folder).await.unwrap();
    for mark in marks {
        store.tags().set(mark.as_bytes(), HashAndFormat::raw(Hash::EMPTY)).await.unwrap();
    }
    for (hash, owners) in contents {
        let raw = HashAndFormat::raw(*hash);
        store.tags().set([b"pin/".as_slice(), hash.as_bytes()].concat(), raw).await.unwrap();
        for owner in *owners {
            let tag = [b"own/".as_slice(), hash.as_bytes(), b"/", owner].concat();
            store.tags().set(tag, raw).await.unwrap();
        }
    }
    store.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_a_store_of_before_had_for_nobody_is_for_all() {
    let (blob, module) = (Hash::new(b"a blob"), Hash::new(b"a module"));
    let contents: [(Hash, &[Id]); 2] = [(blob, &[OTHER]), (module, &[])];
    for (marks, blob_for_all) in [(&["format/owners"][..], false), (&[], true)] {
        let folder = tempfile::tempdir().unwrap();
        left(folder.path(), marks, &contents).await;
        assert!(is_for(folder.path(), *module.as_bytes(), [9; 32]).await);
        assert!(is_for(folder.path(), *blob.as_bytes(), OTHER).await);
        assert_eq!(is_for(folder.path(), *blob.as_bytes(), [9; 32]).await, blob_for_all);
        // Once: what is pinned later and noted for nobody is for nobody.
        let later = Hash::new(b"later");
        left(folder.path(), &[], &[(later, &[])]).await;
        assert!(!is_for(folder.path(), *later.as_bytes(), OTHER).await);
    }
}

#[tokio::test]
async fn an_upload_of_what_is_here_for_others_is_on_disk_when_it_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let data = Bytes::from_static(b"the same bytes");
    // For another owner, as after a fetch.
    let store = BlobStore::open(folder.path(), OTHER).await.unwrap();
    let content = store.add(data.clone()).await.unwrap();
    store.close().await;
    let store = BlobStore::open(folder.path(), OWN).await.unwrap();
    assert!(!store.is_for(content, OWN).await.unwrap());
    let (to, parts) = tokio::sync::mpsc::channel(1);
    to.send(Ok(data)).await.unwrap();
    drop(to);
    assert_eq!(store.add_parts(parts).await.unwrap(), (content, 14));
    // What a process that is killed now would leave.
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    store.close().await;
    assert!(is_for(copy.path(), content, OWN).await);
    assert!(is_for(copy.path(), content, OTHER).await);
}
