//! Whole files by iroh-blobs between two processes: what the library does without a mesh; and a file
//! hashed on one thread.

use std::{
    io::Read as _,
    path::Path,
    time::{Duration, Instant},
};

use iroh::{EndpointAddr, PublicKey, endpoint::VarInt};
use iroh_blobs::{Hash, provider::events::EventSender, store::fs::FsStore};

use crate::endpoint;

/// Adds a file to a store in a folder and gives it away; its first line says from whom, where and by which hash.
pub(crate) async fn hold(folder: &str, file: &str) {
    let store = FsStore::load(folder).await.expect("a store");
    let path = std::path::absolute(file).expect("a path");
    let tag = store.blobs().add_path(path).await.expect("a file");
    let endpoint = endpoint(iroh_blobs::ALPN).await;
    println!("{} {} {}", endpoint.id(), endpoint.bound_sockets()[0], tag.hash);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await.expect("a connection");
        let store = store.clone().into();
        tokio::spawn(iroh_blobs::provider::handle_connection(
            connection,
            store,
            EventSender::DEFAULT,
        ));
    }
}

/// Gets it into a store in a folder, and exports it; both are synced. Prints the seconds of each.
pub(crate) async fn get(folder: &str, id: &str, address: &str, hash: &str, to: &str) {
    let store = FsStore::load(folder).await.expect("a store");
    let id: PublicKey = id.parse().expect("an id");
    let hash: Hash = hash.parse().expect("a hash");
    let at = EndpointAddr::new(id).with_ip_addr(address.parse().expect("an address"));
    let endpoint = endpoint(iroh_blobs::ALPN).await;
    let connection = endpoint.connect(at, iroh_blobs::ALPN).await.expect("a connection");
    let began = Instant::now();
    store.remote().fetch(connection.clone(), hash).await.expect("the content");
    store.sync_db().await.expect("a database");
    sync(&Path::new(folder).join("data").join(format!("{hash}.data")));
    let got = began.elapsed();
    let to = std::path::absolute(to).expect("a path");
    store.blobs().export(hash, &to).await.expect("a file");
    sync(&to);
    println!("{} {}", got.as_secs_f64(), began.elapsed().as_secs_f64());
    connection.close(VarInt::from_u32(0), b"");
    endpoint.close().await;
    store.shutdown().await.expect("a store that closes");
}

fn sync(path: &Path) {
    std::fs::File::open(path).and_then(|file| file.sync_all()).expect("a file on the disk");
}

/// Hashes a file on one thread, a piece at a time; prints the seconds.
pub(crate) fn hash(file: &str) {
    let mut file = std::fs::File::open(file).expect("a file");
    let (mut hasher, mut piece) = (blake3::Hasher::new(), vec![0; 1 << 20]);
    let began = Instant::now();
    loop {
        match file.read(&mut piece).expect("its bytes") {
            0 => break,
            count => drop(hasher.update(&piece[..count])),
        }
    }
    let taken: Duration = began.elapsed();
    println!("{} {}", taken.as_secs_f64(), hasher.finalize());
}
