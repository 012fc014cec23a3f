//! Components that answer HTTP: the request in, the answer out, and every way in which there is none.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{World, call, checkout, short};
use pollen_wasm::{
    Call, Host, HostFuture, LogLevel, Outcome, Sandbox, SandboxError, Seed, SeedSettings,
    WriteFuture, wat_to_wasm,
};
use pollen_wire::http::{AnswerHead, HANDLE, RequestHead};

/// Who asks: with a head, and as one who takes the answer in pieces or as a whole.
#[derive(Default)]
struct Client {
    head: Bytes,
    streams: bool,
    /// It takes nothing any more.
    gone: AtomicBool,
    /// It does not read.
    stalls: bool,
    pieces: Mutex<Vec<(Instant, Bytes)>>,
    bytes: AtomicUsize,
    lines: Mutex<Vec<String>>,
}

impl Host for Client {
    fn request(&self, _uri: String, _input: Bytes) -> HostFuture<'_> {
        Box::pin(std::future::pending())
    }

    fn head(&self) -> Bytes {
        self.head.clone()
    }

    fn streams(&self) -> bool {
        self.streams
    }

    fn write(&self, piece: Bytes) -> WriteFuture<'_> {
        Box::pin(async move {
            if self.stalls {
                std::future::pending::<()>().await;
            }
            self.bytes.fetch_add(piece.len(), Ordering::SeqCst);
            let mut pieces = self.pieces.lock().unwrap();
            if pieces.len() < 64 {
                pieces.push((Instant::now(), piece));
            }
            !self.gone.load(Ordering::SeqCst)
        })
    }

    fn log(&self, _level: LogLevel, message: &str) {
        self.lines.lock().unwrap().push(message.to_owned());
    }

    fn caller_json(&self) -> String {
        "{}".to_owned()
    }
}

fn head(method: &str, path: &str, fields: Vec<(&str, &[u8])>) -> Bytes {
    let head = RequestHead { method, scheme: "http", authority: "here:80", path, fields };
    let mut out = Vec::new();
    head.encode(&mut out);
    out.into()
}

fn client(path: &str, streams: bool) -> Client {
    Client { head: head("GET", path, Vec::new()), streams, ..Client::default() }
}

fn component() -> Vec<u8> {
    std::fs::read(checkout().join("examples/components/http/answers.wasm")).unwrap()
}

fn seed(world: &World) -> Arc<Seed> {
    world.load(component(), SeedSettings::new("answers"))
}

fn ask(world: &World, seed: &Arc<Seed>, call: Call, client: Client) -> (Outcome, Arc<Client>) {
    let client = Arc::new(client);
    (world.call_with(seed, call, client.clone()), client)
}

/// The status, the headers as lines, and the body of what came whole.
fn read(outcome: Outcome) -> (u16, Vec<String>, Vec<u8>) {
    let bytes = outcome.result.unwrap().bytes;
    let (head, length) = AnswerHead::split(&bytes).unwrap().unwrap();
    let lines = head
        .fields
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value)));
    (head.status, lines.collect(), bytes[length..].to_vec())
}

/// The error of a path.
fn error(world: &World, seed: &Arc<Seed>, path: &str) -> SandboxError {
    ask(world, seed, call(HANDLE, ""), client(path, false)).0.result.unwrap_err()
}

#[test]
fn a_component_that_answers_has_one_function() {
    let info = Sandbox::inspect(&component()).unwrap();
    assert_eq!(info.functions, [HANDLE]);
    assert!(info.description.is_empty() && !info.may_be_program && !info.takes_bundle);
}

#[test]
fn request_and_answer_pass_with_their_heads() {
    let world = World::new();
    let seed = seed(&world);
    let fields = vec![("x-in", &b"one"[..]), ("x-in", b"two"), ("connection", b"x")];
    for method in ["POST", "DELETE", "PROPFIND"] {
        let head = head(method, "/echo?q=1", fields.clone());
        for streams in [false, true] {
            let client = Client { head: head.clone(), streams, ..Client::default() };
            let (outcome, client) = ask(&world, &seed, call(HANDLE, "the body"), client);
            let (status, lines, body) = read(outcome);
            assert_eq!((status, &*body), (200, &b"the body"[..]));
            let wanted = [
                "content-type: text/plain".to_owned(),
                format!("x-method: {method}"),
                "x-path: /echo?q=1".to_owned(),
                "x-authority: here:80".to_owned(),
                "x-out: one".to_owned(),
                "x-out: two".to_owned(),
            ];
            assert_eq!(lines, wanted);
            // What never had to wait is one output, which may be tried elsewhere.
            assert_eq!(client.bytes.load(Ordering::SeqCst), 0);
        }
    }
}

#[test]
fn an_instance_answers_once_and_the_next_one_too() {
    let world = World::new();
    let seed = seed(&world);
    for _ in 0..20 {
        let (outcome, _) = ask(&world, &seed, call(HANDLE, ""), client("/", true));
        assert_eq!(read(outcome).2, b"hello\n");
    }
}

#[test]
fn a_streamed_answer_arrives_while_the_guest_runs() {
    let world = World::new();
    let seed = seed(&world);
    let (outcome, client) = ask(&world, &seed, call(HANDLE, ""), client("/ticks?3", true));
    let ended = Instant::now();
    let last = outcome.result.unwrap().bytes;
    let pieces = client.pieces.lock().unwrap();
    let first = pieces[0].0;
    assert!(ended - first > Duration::from_millis(500), "{:?}", ended - first);
    let all: Vec<u8> =
        pieces.iter().flat_map(|(_, piece)| piece.to_vec()).chain(last.to_vec()).collect();
    let (head, length) = AnswerHead::split(&all).unwrap().unwrap();
    assert_eq!((head.status, &all[length..]), (200, &b"tick\ntick\ntick\n"[..]));
}

#[test]
fn a_large_answer_is_streamed_in_pieces() {
    let world = World::new();
    let seed = seed(&world);
    let size = 64 << 20;
    let path = format!("/large?{size}");
    let (outcome, client) = ask(&world, &seed, call(HANDLE, ""), client(&path, true));
    let all = client.bytes.load(Ordering::SeqCst) + outcome.result.unwrap().bytes.len();
    assert!((size + 10..size + 100).contains(&all), "{all}");
    let largest = client.pieces.lock().unwrap().iter().map(|(_, piece)| piece.len()).max();
    assert!(largest.unwrap() <= 64 << 10, "{largest:?}");
}

#[test]
fn an_answer_that_is_not_streamed_has_the_limit_of_an_output() {
    let world = World::new();
    let seed = seed(&world);
    let size = 3 << 20;
    let path = format!("/large?{size}");
    let (outcome, _) = ask(&world, &seed, call(HANDLE, ""), client(&path, false));
    assert_eq!(read(outcome).2.len(), size);
    assert_eq!(error(&world, &seed, "/large?5000000").slug(), "guest-output-too-large");
}

#[test]
fn a_handler_without_an_answer_is_an_error_that_says_so() {
    let world = World::new();
    let seed = seed(&world);
    for (path, slug, reason) in [
        ("/none", "guest-failed", "the handler returned without an answer"),
        ("/error", "guest-failed", "InternalError(Some(\"no luck\"))"),
        ("/half", "guest-failed", "before the body of its answer did"),
        ("/trap", "guest-trapped", "unreachable"),
        ("/grow", "guest-failed", "without an answer"),
    ] {
        let error = error(&world, &seed, path);
        assert_eq!(error.slug(), slug, "{path}: {error}");
        assert!(error.reason().contains(reason), "{path}: {error}");
        assert!(error.may_have_executed());
    }
    let (outcome, _) = ask(&world, &seed, call(HANDLE, ""), client("/forbidden", false));
    assert_eq!(read(outcome).2, b"forbidden\n");
}

#[test]
fn a_deadline_and_a_cancel_end_a_handler() {
    let world = World::new();
    let seed = seed(&world);
    for (path, stalls) in [("/spin", false), ("/large?99999999", true), ("/ticks?99", false)] {
        let client = Client { stalls, ..client(path, true) };
        let began = Instant::now();
        let (outcome, _) = ask(&world, &seed, short(HANDLE, "", 300), client);
        assert_eq!(outcome.result.unwrap_err().slug(), "deadline", "{path}");
        assert!(began.elapsed() < Duration::from_secs(5), "{path}");
        let pending = Arc::new(Client { stalls, ..self::client(path, true) });
        world.net.block_on(async {
            let call = world.sandbox.call(seed.clone(), call(HANDLE, ""), pending.clone());
            assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
        });
        world.wait("the guest is gone", |_| Arc::strong_count(&pending) == 1);
    }
}

#[test]
fn a_client_that_goes_away_closes_the_body() {
    let world = World::new();
    let seed = seed(&world);
    let client = Client { gone: AtomicBool::new(true), ..client("/ticks?1000", true) };
    let (outcome, _) = ask(&world, &seed, call(HANDLE, ""), client);
    assert_eq!(outcome.result.unwrap_err().slug(), "guest-failed");
}

#[test]
fn a_call_that_is_no_request_is_refused_before_anything_runs() {
    let world = World::new();
    let seed = seed(&world);
    for bytes in [&b""[..], b"no head", b"\x90"] {
        let client = Client { head: Bytes::from_static(bytes), ..Client::default() };
        let error = ask(&world, &seed, call(HANDLE, ""), client).0.result.unwrap_err();
        assert_eq!(error.slug(), "bad-request");
        assert!(!error.may_have_executed() && error.remedy().contains("/http/"), "{error}");
    }
    for (method, path) in [("G T", "/"), ("GET", "/a b")] {
        let client = Client { head: head(method, path, Vec::new()), ..Client::default() };
        let error = ask(&world, &seed, call(HANDLE, ""), client).0.result.unwrap_err();
        assert!(error.reason().contains("not valid"), "{error}");
    }
}

#[test]
fn a_guest_asks_only_hosts_that_its_spec_allows() {
    let world = World::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = [0; 4096];
        let length = stream.read(&mut asked).unwrap();
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        String::from_utf8_lossy(&asked[..length]).into_owned()
    });
    let path = format!("/fetch?127.0.0.1:{port}");
    let (outcome, client) = ask(&world, &seed(&world), call(HANDLE, ""), client(&path, true));
    // The number of HTTP-request-denied.
    assert_eq!(read(outcome).2, b"015\n");
    let lines = client.lines.lock().unwrap().join("\n");
    assert!(lines.contains("--allow-host 127.0.0.1"), "{lines}");
    let mut settings = SeedSettings::new("answers");
    settings.guest.allow_hosts = vec![format!("127.0.0.1:{port}")];
    let allowed = world.load(component(), settings);
    let (outcome, _) = ask(&world, &allowed, call(HANDLE, ""), self::client(&path, true));
    assert_eq!(read(outcome).2, b"204\n");
    let asked = served.join().unwrap();
    assert!(asked.starts_with("GET / HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains(&format!("host: 127.0.0.1:{port}")), "{asked}");
}

#[test]
fn others_may_not_import_what_asks_over_http() {
    let instance = r#"(instance (export "handle" (func)))"#;
    let text = format!(r#"(component (import "wasi:http/outgoing-handler@0.2.0" {instance}))"#);
    let error = Sandbox::inspect(&wat_to_wasm(&text).unwrap()).unwrap_err();
    assert_eq!(error.slug(), "import-unknown");
    assert!(error.remedy().contains("wasi:http/incoming-handler"), "{error}");
}
