//! A content from several holders on loopback: pieces, holders that fail, and what is not fetched again.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod common;

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use pollen_net::{NetError, Readers, RecvStream, Rest, SendStream};
use pollen_wire::{
    Id,
    control::Control,
    fetch::{FetchRequest, GROUP, PIECE, pieces},
};
use tokio::time::timeout;

use tokio::sync::Semaphore;

use common::*;

/// Five pieces, of which the last has five bytes.
const SIZE: usize = 4 * PIECE as usize + 5;

fn noise(size: usize) -> Bytes {
    let mut state = 7u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(&mut next).take(size / 8 + 1).flatten().collect();
    bytes.truncate(size);
    bytes.into()
}

/// Whose specs the contents are for.
const OWNER: Id = [5; 32];

/// A node and its holders, each linked with it.
async fn town(holders: usize) -> (TestNode, Vec<TestNode>) {
    let mut a = TestNode::start().await;
    let mut held = Vec::new();
    for _ in 0..holders {
        let mut holder = TestNode::start().await;
        *holder.above.owner.write() = OWNER;
        link(&mut a, &mut holder).await;
        held.push(holder);
    }
    (a, held)
}

fn ids(holders: &[TestNode]) -> Vec<Id> {
    holders.iter().map(|holder| holder.net.id()).collect()
}

/// A node holds a content for the specs of the owner.
async fn hold(node: &TestNode, data: &Bytes) -> Id {
    let content = node.net.content().add(data.clone()).await.unwrap();
    node.net.content().note_for(content, Some(OWNER)).await.unwrap();
    content
}

fn asks(content: Id) -> FetchRequest<'static> {
    FetchRequest { seed: [1; 32], path: "module", content, piece: None, skip: 0 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_read_one_content_at_once() {
    let (a, _) = town(0).await;
    let data = noise(300_000);
    let content = a.net.content().add(data.clone()).await.unwrap();
    let readers = (0..400).map(|at| {
        let (net, data) = (a.net.clone(), data.clone());
        tokio::spawn(async move {
            let range = at * 100..at * 100 + 200_000;
            let read = net.content().read_range(content, range.clone());
            let parts: Vec<Bytes> = read.try_collect().await.unwrap();
            assert_eq!(parts.concat(), data[usize::try_from(range.start).unwrap()..][..200_000]);
            assert!(net.content().missing(content, 300_000).await.unwrap().is_empty());
        })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
}

#[tokio::test]
async fn a_content_comes_from_all_holders_at_once() {
    let (a, holders) = town(3).await;
    let data = noise(SIZE);
    let mut content = [0; 32];
    for holder in &holders {
        content = hold(holder, &data).await;
    }
    a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
    let asked: Vec<usize> = holders.iter().map(|h| h.above.asked.load(Relaxed)).collect();
    assert!(asked.iter().all(|asked| *asked > 0), "asked {asked:?}");
    // A piece that is late is asked of a second holder, too.
    assert!(asked.iter().sum::<usize>() >= 6, "asked {asked:?}");
}

#[tokio::test]
async fn what_came_is_not_fetched_again() {
    let (a, holders) = town(2).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    hold(&holders[1], &data).await;
    // The question how large it is, and three pieces.
    holders[0].above.allowance.store(4, Relaxed);
    let first = a.net.fetch(&ids(&holders[..1]), asks(content), u64::MAX, OWNER).await;
    assert!(matches!(first, Err(NetError::Refused(slug)) if slug == "denied"));
    let missing = a.net.content().missing(content, SIZE as u64).await.unwrap();
    assert_eq!(missing.len() as u64, pieces(SIZE as u64) - 3);
    a.net.fetch(&ids(&holders[1..]), asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(holders[1].above.asked.load(Relaxed), 1 + missing.len());
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
}

/// A fetch that ends within the first piece; what is missing then.
async fn broken_off(a: &TestNode, from: Id, content: Id) -> Vec<Rest> {
    let readers = Readers::of(PIECE / 2);
    let from = [from];
    let fetching = a.net.fetch_for_readers(&from, asks(content), u64::MAX, &readers);
    assert!(timeout(Duration::from_millis(700), fetching).await.is_err(), "it was too fast");
    // What was verified may be on its way to the disk yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    a.net.content().missing(content, SIZE as u64).await.unwrap()
}

#[tokio::test]
async fn a_piece_that_broke_off_goes_on_where_it_stopped() {
    let (a, holders) = town(2).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    hold(&holders[1], &data).await;
    let missing = broken_off(&a, holders[0].net.id(), content).await;
    let first = missing[0];
    assert_eq!(missing.len() as u64, pieces(SIZE as u64), "no piece is whole");
    assert!(first.piece == 0 && first.skip > 0, "{first:?}");
    assert!(missing[1..].iter().all(|rest| rest.skip == 0), "{missing:?}");
    let held = a.net.content().held_from(content, 0).await.unwrap();
    assert_eq!(held, u64::from(first.skip) * GROUP);
    a.net.fetch(&ids(&holders[1..]), asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
    let asked = holders[1].above.pieces.lock().clone();
    // The first request is the question how large it is.
    assert_eq!(asked[1..].iter().find(|one| one.0 == 0), Some(&(0, first.skip)), "{asked:?}");
}

#[tokio::test]
async fn a_holder_that_knows_no_rests_of_pieces_sends_all_of_one() {
    let (mut a, mut holders) = town(1).await;
    let holder = &mut holders[0];
    let data = noise(SIZE);
    let content = hold(holder, &data).await;
    let missing = broken_off(&a, holder.net.id(), content).await;
    assert!(missing[0].skip > 0, "{missing:?}");
    // One of the version before, which has the bytes from the holder.
    let (older, _carrier) = hostile(holder).await;
    let from = older.connect(holder, b"pollen-bulk/1").await;
    let link = older.connect(&a, b"pollen/1").await;
    let _carrier = older.join(&mut a, &link).await;
    let id = older.id();
    tokio::spawn(older.give_whole_pieces(from));
    a.net.fetch(&[id], asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
    assert!(holder.above.pieces.lock().iter().all(|one| one.1 == 0));
}

#[tokio::test]
async fn what_comes_is_there_for_a_reader_before_its_piece_is_whole() {
    let (a, holders) = town(1).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    let readers = Readers::of(PIECE / 2);
    let holder = ids(&holders);
    let read = async {
        readers.fresh.until_came(0).await;
        readers.fresh.take(&(0..SIZE as u64)).unwrap()
    };
    let first = tokio::select! {
        ended = a.net.fetch_for_readers(&holder, asks(content), u64::MAX, &readers) => {
            panic!("it ended before anything was read: {ended:?}")
        }
        first = read => first,
    };
    assert_eq!(first, data[..first.len()]);
    // What came for other specs before stays back until a piece of it is whole.
    assert!(!readers.lets_in.load(Relaxed));
}

#[tokio::test]
async fn a_holder_that_refuses_is_replaced() {
    let (a, holders) = town(3).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    hold(&holders[2], &data).await;
    holders[0].above.allowance.store(2, Relaxed);
    // The second one never had it.
    a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
}

/// A member that says how large a content is, and has no byte of it.
struct Liar {
    id: Id,
    asked: Arc<Semaphore>,
    lets: Arc<Semaphore>,
    _control: (SendStream, RecvStream),
}

impl Liar {
    async fn join(a: &mut TestNode) -> Self {
        let liar = Stranger::dial(a, b"pollen/1").await.unwrap();
        let (mut send, recv) = liar.greet().await;
        let at_a = a.hello().await;
        a.net.admit(at_a);
        write(&mut send, |out| Control::Admitted.encode(out)).await;
        let id = liar.id();
        until(|| a.net.link(id).is_some()).await;
        let (asked, lets) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        tokio::spawn(liar.lie(SIZE as u64, asked.clone(), lets.clone()));
        Self { id, asked, lets, _control: (send, recv) }
    }
}

#[tokio::test]
async fn wrong_bytes_are_refused_and_come_from_another_holder() {
    let (mut a, holders) = town(1).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    let liar = Liar::join(&mut a).await;
    liar.lets.add_permits(100);
    let id = liar.id;
    let alone = a.net.fetch(&[id], asks(content), u64::MAX, OWNER).await;
    assert!(matches!(alone, Err(NetError::Corrupt(_))), "{alone:?}");
    let both = [id, holders[0].net.id()];
    a.net.fetch(&both, asks(content), u64::MAX, OWNER).await.unwrap();
    assert_eq!(a.net.content().read(content).await.unwrap(), data);
}

#[tokio::test]
async fn a_copy_that_rots_is_suspected_and_found_out() {
    let (a, holders) = town(1).await;
    let holder = &holders[0];
    let data = noise(SIZE);
    let content = hold(holder, &data).await;
    assert!(!holder.net.content().is_damaged(content).await);
    let rotten = holder.folder.path().join("content/data").read_dir().unwrap();
    let rotten = rotten.map(|file| file.unwrap().path());
    let rotten = rotten.into_iter().find(|path| path.metadata().unwrap().len() == SIZE as u64);
    let file = std::fs::OpenOptions::new().write(true).open(rotten.unwrap()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[!data[SIZE - 9]], SIZE as u64 - 9).unwrap();
    let fetched = a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await;
    assert!(matches!(fetched, Err(NetError::Unreachable(_))), "{fetched:?}");
    until(|| *holder.above.suspected.lock() == [content]).await;
    assert!(holder.net.content().is_damaged(content).await);
    assert!(!a.net.content().is_damaged(content).await, "there is no copy to be damaged");
}

#[tokio::test]
async fn an_empty_content_and_one_of_whole_pieces_come_whole() {
    let (a, holders) = town(1).await;
    for size in [0, 1, PIECE as usize, 2 * PIECE as usize] {
        let data = noise(size);
        let content = hold(&holders[0], &data).await;
        a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await.unwrap();
        assert_eq!(a.net.content().read(content).await.unwrap(), data, "{size}");
        assert_eq!(a.net.content().size(content).await.unwrap(), Some(size as u64));
    }
}

#[tokio::test]
async fn any_range_of_what_is_held_is_read() {
    let (a, _) = town(0).await;
    let data = noise(1 << 20);
    let (to, parts) = tokio::sync::mpsc::channel(4);
    let sent = data.clone();
    tokio::spawn(async move {
        for part in sent.chunks(70_001) {
            to.send(Ok(Bytes::copy_from_slice(part))).await.unwrap();
        }
    });
    let (content, size) = a.net.content().add_parts(parts).await.unwrap();
    assert_eq!(size, 1 << 20);
    for range in [0..size, 0..1, 5..6, 16_383..16_385, 100_000..900_000, size - 1..size] {
        let parts = a.net.content().read_range(content, range.clone());
        let read: Vec<Bytes> = parts.try_collect().await.unwrap();
        let expected = &data[range.start as usize..range.end as usize];
        assert_eq!(read.concat(), expected, "{range:?}");
    }
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let (a, _) = town(0).await;
    let (to, parts) = tokio::sync::mpsc::channel(4);
    to.send(Ok(noise(100_000))).await.unwrap();
    to.send(Err(std::io::Error::other("gone"))).await.unwrap();
    drop(to);
    assert!(a.net.content().add_parts(parts).await.is_err());
}

#[tokio::test]
async fn a_size_shows_nothing() {
    let (mut a, holders) = town(1).await;
    let data = noise(SIZE);
    let content = hold(&holders[0], &data).await;
    let thief = [6; 32];
    let liar = Liar::join(&mut a).await;
    // Three pieces are here for their owner: readers of the thief's spec get none of them.
    holders[0].above.allowance.store(4, Relaxed);
    a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await.unwrap_err();
    liar.lets.add_permits(10);
    let readers = Readers::default();
    let read = a.net.fetch_for_readers(&[liar.id], asks(content), u64::MAX, &readers).await;
    assert!(matches!(read, Err(NetError::Corrupt(_))), "{read:?}");
    assert!(!readers.lets_in.load(Relaxed), "nobody showed a byte");
    // All of it comes for its owner while the liar has its answer wait.
    liar.lets.forget_permits(usize::MAX);
    let before = liar.asked.available_permits();
    let (net, id) = (a.net.clone(), liar.id);
    let stolen =
        tokio::spawn(async move { net.fetch(&[id], asks(content), u64::MAX, thief).await });
    until(|| liar.asked.available_permits() > before).await;
    holders[0].above.allowance.store(usize::MAX, Relaxed);
    a.net.fetch(&ids(&holders), asks(content), u64::MAX, OWNER).await.unwrap();
    liar.lets.add_permits(10);
    let stolen = stolen.await.unwrap();
    assert!(matches!(stolen, Err(NetError::Corrupt(_))), "{stolen:?}");
    assert!(!a.net.content().is_for(content, thief).await.unwrap());
}

#[tokio::test]
async fn whoever_publishes_the_hash_of_another_gets_no_byte() {
    let (a, holders) = town(2).await;
    let thief = [6; 32];
    for size in [9, SIZE] {
        let data = noise(size);
        let content = hold(&holders[0], &data).await;
        a.net.fetch(&ids(&holders[..1]), asks(content), u64::MAX, OWNER).await.unwrap();
        // The thief's spec names the hash, and its node says that it lets everybody have it.
        *holders[0].above.owner.write() = thief;
        *holders[1].above.owner.write() = thief;
        let holder = ids(&holders[..1]);
        let stolen = holders[1].net.fetch(&holder, asks(content), u64::MAX, thief).await;
        assert!(stolen.is_err());
        // A node that has the bytes for their owner takes them for the thief from nobody.
        let proof = a.net.fetch(&ids(&holders), asks(content), u64::MAX, thief).await;
        assert!(matches!(proof, Err(NetError::Refused(slug)) if slug == "blob-not-found"));
        assert!(!a.net.content().is_for(content, thief).await.unwrap());
        // Who really has them for that owner shows it by a piece.
        holders[1].net.content().add(data.clone()).await.unwrap();
        holders[1].net.content().note_for(content, Some(thief)).await.unwrap();
        a.net.fetch(&ids(&holders[1..]), asks(content), u64::MAX, thief).await.unwrap();
        assert!(a.net.content().is_for(content, thief).await.unwrap());
        *holders[0].above.owner.write() = OWNER;
    }
}
