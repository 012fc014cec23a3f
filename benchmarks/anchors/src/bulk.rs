//! Bytes as fast as they go: an endless source of them, by TCP and on an iroh stream, and whoever
//! reads it for a while and says how fast they came.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use iroh::{EndpointAddr, PublicKey, endpoint::VarInt};

use crate::{ALPN, endpoint};

/// What is written or read at once, bytes.
const PIECE: usize = 256 * 1024;
/// The first part is left out: windows open, paths grow.
const WARM: f64 = 0.2;

/// A TCP server that writes as long as its client reads.
pub(crate) fn fount(port: &str) {
    let address = format!("127.0.0.1:{port}");
    let listener = TcpListener::bind(address).expect("an address");
    println!("ready");
    for stream in listener.incoming() {
        let mut stream = stream.expect("a client");
        std::thread::spawn(move || {
            let piece = vec![7; PIECE];
            while stream.write_all(&piece).is_ok() {}
        });
    }
}

/// The same on iroh streams, each of which begins with a byte.
pub(crate) async fn spring() {
    let endpoint = endpoint(ALPN).await;
    println!("{} {}", endpoint.id(), endpoint.bound_sockets()[0]);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await.expect("a connection");
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                tokio::spawn(async move {
                    let piece = vec![7; PIECE];
                    let _ = recv.read_exact(&mut [0]).await;
                    while send.write_all(&piece).await.is_ok() {}
                });
            }
        });
    }
}

/// Reads a TCP server for so many seconds.
pub(crate) fn pull_tcp(address: &str, seconds: &str) {
    let mut stream = TcpStream::connect(address).expect("a connection");
    let mut piece = vec![0; PIECE];
    let mut clock = Clock::new(seconds);
    while clock.goes_on() {
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => clock.note(count),
            other => panic!("the source ended: {other:?}"),
        }
    }
    clock.print();
}

/// Reads a stream of `spring` for so many seconds.
pub(crate) async fn pull_iroh(id: &str, address: &str, seconds: &str) {
    let id: PublicKey = id.parse().expect("an id");
    let to = EndpointAddr::new(id).with_ip_addr(address.parse().expect("an address"));
    let endpoint = endpoint(ALPN).await;
    let connection = endpoint.connect(to, ALPN).await.expect("a connection");
    let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
    send.write_all(&[1]).await.expect("the stream begins");
    let mut piece = vec![0; PIECE];
    let mut clock = Clock::new(seconds);
    while clock.goes_on() {
        match recv.read(&mut piece).await {
            Ok(Some(count)) => clock.note(count),
            other => panic!("the source ended: {other:?}"),
        }
    }
    clock.print();
    connection.close(VarInt::from_u32(0), b"");
    endpoint.close().await;
}

/// What came, since it is warm.
struct Clock {
    seconds: f64,
    began: Instant,
    warm: Option<Instant>,
    bytes: u64,
}

impl Clock {
    fn new(seconds: &str) -> Self {
        let seconds = seconds.parse().expect("SECONDS is a number");
        Self { seconds, began: Instant::now(), warm: None, bytes: 0 }
    }

    fn goes_on(&self) -> bool {
        self.began.elapsed() < Duration::from_secs_f64(WARM + self.seconds)
    }

    fn note(&mut self, count: usize) {
        if self.warm.is_some() {
            self.bytes += count as u64;
        } else if self.began.elapsed().as_secs_f64() >= WARM {
            self.warm = Some(Instant::now());
        }
    }

    fn print(&self) {
        let seconds = self.warm.map_or(f64::INFINITY, |warm| warm.elapsed().as_secs_f64());
        println!("{}", self.bytes as f64 / 1e6 / seconds);
    }
}
