//! What the product is measured against, and the load that measures both (`make bench`).
//!
//! `hello SOCKET`: hyper that answers at once. `bare SOCKET WASM FN`: hyper and the sandbox, nothing
//! between them. `serve WASM FN` and `front SOCKET ID ADDRESS`: the same bare loop behind one iroh
//! stream a call. `load SOCKET PATH CONCURRENCY SECONDS [BODY]`: closed loop over keep-alive
//! connections, prints one JSON object. All doors are unix sockets, as the product's, but `hello` may have a port
//! of loopback instead; the bare side uses the product's engine settings, imports, instance reuse and live deadline.
//! `file PORT FILE`: hyper that reads a file for each request and sends it, on a port of loopback.
//! `fount PORT` and `spring`: bytes without end, by TCP and on iroh streams. `pull ADDRESS SECONDS` and
//! `pull ID ADDRESS SECONDS` read them and print the MB/s. `hold FOLDER FILE` and `get FOLDER ID ADDRESS HASH TO`:
//! a file by iroh-blobs, and `hash FILE` on one thread; both print seconds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::panic)]

mod blobs;
mod bulk;

use std::{
    convert::Infallible,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use iroh::{
    Endpoint, EndpointAddr, PublicKey, RelayMode, SecretKey,
    endpoint::{QuicTransportConfig, VarInt, presets},
};
use pollen_door::workload::{WorkPlan, run};
use pollen_wasm::{Call, Host, HostFuture, LogLevel, Sandbox, SandboxConfig, Seed, SeedSettings};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
    runtime::{Builder, Runtime},
};

const ALPN: &[u8] = b"bare/1";
const BODY: &[u8] = b"0123456789abcdef0123456789abcdef";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let net = runtime("net");
    let guest = runtime("guest");
    match args.as_slice() {
        ["hello", socket] => {
            net.block_on(serve_http(socket, |_| async { Bytes::from_static(b"hello") }))
        }
        ["file", port, file] => {
            let file = Arc::<std::path::Path>::from(std::path::Path::new(file));
            // In the page cache: a pool for blocking calls would cost more than the read.
            let read = move |_| {
                let read = std::fs::read(&file).expect("the file");
                async { Bytes::from(read) }
            };
            net.block_on(serve_http(port, read));
        }
        ["bare", socket, wasm, function] => {
            let bare = net.block_on(Bare::load(&guest, wasm, function));
            net.block_on(serve_http(socket, move |body| bare.clone().call(body)));
        }
        ["serve", wasm, function] => {
            let bare = net.block_on(Bare::load(&guest, wasm, function));
            net.block_on(serve_quic(bare));
        }
        ["front", socket, id, address] => net.block_on(front(socket, id, address)),
        ["fount", port] => bulk::fount(port),
        ["spring"] => net.block_on(bulk::spring()),
        ["pull", address, seconds] => bulk::pull_tcp(address, seconds),
        ["pull", id, address, seconds] => net.block_on(bulk::pull_iroh(id, address, seconds)),
        ["hold", folder, file] => net.block_on(blobs::hold(folder, file)),
        ["get", folder, id, address, hash, to] => {
            net.block_on(blobs::get(folder, id, address, hash, to));
        }
        ["hash", file] => blobs::hash(file),
        ["load", socket, path, concurrency, seconds, body @ ..] => {
            let plan = WorkPlan {
                rate: None,
                concurrency: concurrency.parse().expect("CONCURRENCY is a number"),
                duration: Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number")),
                warm_up: Duration::ZERO,
            };
            let body =
                body.first().map_or(Bytes::from_static(BODY), |text| (*text).to_owned().into());
            net.block_on(load(socket, path, body, plan));
        }
        _ => {
            eprintln!(
                "usage: hello | file | bare | serve | front | fount | spring | pull | hold | get | hash | load; see the head of main.rs"
            );
            std::process::exit(2);
        }
    }
}

fn runtime(name: &str) -> Runtime {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(cores).event_interval(13).thread_name(name).enable_all();
    builder.build().expect("a runtime")
}

/// The guest and nothing else: no tables, no gate, no admission, no counters, no trace.
#[derive(Clone)]
struct Bare {
    sandbox: Sandbox,
    seed: Arc<Seed>,
    function: Arc<str>,
    host: Arc<Nothing>,
}

struct Nothing;

impl Host for Nothing {
    fn request(&self, _: String, _: Bytes) -> HostFuture<'_> {
        Box::pin(async { Err("there are no peers here".into()) })
    }
    fn log(&self, _: LogLevel, _: &str) {}
    fn caller_json(&self) -> String {
        "{}".to_owned()
    }
}

impl Bare {
    async fn load(guest: &Runtime, wasm: &str, function: &str) -> Self {
        let sandbox = Sandbox::new(SandboxConfig {
            memory_bytes: 1 << 30,
            instances: 10_000,
            cache_dir: None,
            cache_key: [0; 32],
            cache_quota_bytes: 0,
            guest: guest.handle().clone(),
        })
        .expect("a sandbox");
        let wasm = std::fs::read(wasm).expect("the module");
        let seed =
            sandbox.load(wasm.into(), [0; 32], SeedSettings::new("bare")).await.expect("a seed");
        Self { sandbox, seed, function: function.into(), host: Arc::new(Nothing) }
    }

    async fn call(self, input: Bytes) -> Bytes {
        let call = Call {
            function: self.function,
            input,
            identity: [0; 32],
            deadline: Instant::now() + Duration::from_secs(30),
            nested: false,
        };
        self.sandbox.call(self.seed, call, self.host).await.result.expect("the guest answers").bytes
    }
}

async fn serve_http<F, R>(socket: &str, answer: F)
where
    F: Fn(Bytes) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Bytes> + Send + 'static,
{
    if socket.parse::<u16>().is_ok() {
        let address = format!("127.0.0.1:{socket}");
        let listener = TcpListener::bind(address).await.expect("the port");
        println!("ready");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            stream.set_nodelay(true).expect("a socket of TCP");
            tokio::spawn(serve_one(stream, answer.clone()));
        }
    }
    let listener = UnixListener::bind(socket).expect("the socket");
    println!("ready");
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(serve_one(stream, answer.clone()));
    }
}

async fn serve_one<F, R>(stream: impl AsyncRead + AsyncWrite + Unpin, answer: F)
where
    F: Fn(Bytes) -> R + Clone,
    R: Future<Output = Bytes> + Send,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            Ok::<_, Infallible>(Response::new(Full::new(answer(body).await)))
        }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(30))
        .pipeline_flush(true)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// The product's transport settings.
async fn endpoint(alpn: &[u8]) -> Endpoint {
    let transport = QuicTransportConfig::builder()
        .max_concurrent_bidi_streams(VarInt::from_u32(16_448))
        .stream_receive_window(VarInt::from_u32(512 * 1024))
        .receive_window(VarInt::from_u32(64 * 1024 * 1024))
        .send_window(64 * 1024 * 1024)
        .build();
    Endpoint::builder(presets::Minimal)
        .secret_key(SecretKey::generate())
        .relay_mode(RelayMode::Disabled)
        .alpns(vec![alpn.to_vec()])
        .transport_config(transport)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .expect("an address")
        .bind()
        .await
        .expect("an endpoint")
}

async fn serve_quic(bare: Bare) {
    let endpoint = endpoint(ALPN).await;
    println!("{} {}", endpoint.id(), endpoint.bound_sockets()[0]);
    while let Some(incoming) = endpoint.accept().await {
        let connection = incoming.await.expect("a connection");
        let bare = bare.clone();
        tokio::spawn(async move {
            while let Ok((mut send, mut recv)) = connection.accept_bi().await {
                let bare = bare.clone();
                tokio::spawn(async move {
                    let Ok(input) = recv.read_to_end(1 << 22).await else { return };
                    let output = bare.call(input.into()).await;
                    let _ = send.write_chunk(output).await;
                    let _ = send.finish();
                });
            }
        });
    }
}

async fn front(socket: &str, id: &str, address: &str) {
    let id: PublicKey = id.parse().expect("an id");
    let to = EndpointAddr::new(id).with_ip_addr(address.parse().expect("an address"));
    let endpoint = endpoint(ALPN).await;
    let connection = endpoint.connect(to, ALPN).await.expect("a connection");
    serve_http(socket, move |body| {
        let connection = connection.clone();
        async move {
            let (mut send, mut recv) = connection.open_bi().await.expect("a stream");
            send.write_chunk(body).await.expect("the input goes out");
            send.finish().expect("the input ends");
            recv.read_to_end(1 << 22).await.expect("an answer").into()
        }
    })
    .await;
}

async fn load(socket: &str, path: &str, body: Bytes, plan: WorkPlan) {
    let (_end, ended) = tokio::sync::watch::channel(false);
    let report = run(plan, ended, |_lane| {
        let (socket, path, body) = (socket.to_owned(), path.to_owned(), body.clone());
        let sender = Arc::new(tokio::sync::Mutex::new(None));
        move || {
            let (socket, path, body) = (socket.clone(), path.clone(), body.clone());
            let sender = sender.clone();
            async move {
                let mut sender = sender.lock().await;
                if sender.is_none() {
                    let stream = UnixStream::connect(&socket).await.map_err(|e| e.to_string())?;
                    let (opened, connection) =
                        hyper::client::conn::http1::handshake(TokioIo::new(stream))
                            .await
                            .map_err(|e| e.to_string())?;
                    tokio::spawn(connection);
                    *sender = Some(opened);
                }
                let Some(open) = sender.as_mut() else {
                    return Err("no connection".to_owned().into());
                };
                let request = Request::post(&path).body(Full::new(body));
                let request = request.map_err(|e| e.to_string())?;
                open.ready().await.map_err(|e| e.to_string())?;
                let response = open.send_request(request).await.map_err(|e| e.to_string())?;
                let status = response.status();
                let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
                if !status.is_success() {
                    return Err(status.to_string().into());
                }
                Ok(body.to_bytes().len() as u64)
            }
        }
    })
    .await;
    println!("{}", serde_json::to_string(&report).expect("a report"));
}
