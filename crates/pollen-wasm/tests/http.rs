//! `http_request` against a server of the test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;

use common::{Recorder, World, call, wat_http};
use pollen_wasm::{SandboxError, SeedSettings, wat_to_wasm};

/// Answers one connection with these bytes; the request that came is sent back by the thread.
fn server(reply: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    server_when(reply, || true)
}

/// The same, but not before it may.
fn server_when(
    reply: &'static str,
    may: impl Fn() -> bool + Send + 'static,
) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        let mut buffer = [0; 4096];
        while !String::from_utf8_lossy(&request).contains("the body") {
            let read = stream.read(&mut buffer).unwrap();
            assert!(read > 0, "closed early");
            request.extend_from_slice(&buffer[..read]);
        }
        while !may() {
            std::thread::yield_now();
        }
        stream.write_all(reply.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (port, thread)
}

#[test]
fn a_guest_that_waits_for_a_reply_is_told_to_burn_nothing() {
    let world = World::new();
    let host = Recorder::new();
    let asked = host.clone();
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let (port, server) = server_when(reply, move || asked.turns()[0] > 0);
    let mut settings = SeedSettings::new("http");
    settings.guest.allow_hosts = vec!["*".to_owned()];
    let seed = world.load(wat_to_wasm(wat_http()).unwrap(), settings);
    let wish = format!(r#"{{"url":"http://127.0.0.1:{port}/"}}"#);
    world.call_with(&seed, call("run", &wish), host.clone()).result.unwrap();
    server.join().unwrap();
    let [waits, runs, burned] = host.turns();
    assert!(waits > 0 && waits == runs && burned == 0, "{waits} {runs} {burned}");
}

fn request(world: &World, hosts: &[&str], wish: &str) -> Result<(i32, String), SandboxError> {
    let mut settings = SeedSettings::new("http");
    settings.guest.allow_hosts = hosts.iter().map(ToString::to_string).collect();
    let seed = world.load(wat_to_wasm(wat_http()).unwrap(), settings);
    let output = world.call(&seed, "run", wish).result?;
    Ok((output.status, String::from_utf8(output.bytes.to_vec()).unwrap()))
}

#[test]
fn a_request_to_an_allowed_host_carries_method_headers_and_body() {
    let world = World::new();
    let (port, server) =
        server("HTTP/1.1 404 Not Found\r\nx-answer: 42\r\ncontent-length: 5\r\n\r\nnope!");
    let wish = format!(
        r#"{{"url":"http://127.0.0.1:{port}/a?b=c","method":"post","headers":{{"x-one":"1","Content-Length":"0"}}}}"#
    );
    assert_eq!((404, "nope!".to_owned()), request(&world, &["127.0.0.1"], &wish).unwrap());
    let request = server.join().unwrap();
    assert!(request.starts_with("POST /a?b=c HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("x-one: 1\r\n") && request.contains("content-length: 8\r\n"),
        "{request}"
    );
    assert!(request.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{request}");
}

#[test]
fn a_host_that_the_spec_does_not_allow_is_refused_with_its_slug() {
    let world = World::new();
    let error = request(&world, &["example.org"], r#"{"url":"http://127.0.0.1:1/"}"#).unwrap_err();
    assert_eq!("guest-host-refused", error.slug());
    assert_eq!("seed it with --allow-host 127.0.0.1", error.remedy());
}

#[test]
fn a_user_and_password_in_a_url_are_refused_and_not_shown() {
    let world = World::new();
    let wish = r#"{"url":"http://me:hunter2@127.0.0.1:1/"}"#;
    let error = request(&world, &["127.0.0.1"], wish).unwrap_err();
    assert_eq!("guest-failed", error.slug());
    assert!(error.reason().contains("user or password"), "{}", error.reason());
    assert!(error.remedy().contains("authorization"), "{}", error.remedy());
    assert!(!error.reason().contains("hunter2"), "{}", error.reason());
}

#[test]
fn a_bad_request_or_connection_fails_the_guest_with_the_reason() {
    let world = World::new();
    for (wish, part) in [
        ("{", "not valid"),
        (r#"{"url":"::"}"#, "bad URL"),
        (r#"{"url":"ftp://127.0.0.1/"}"#, "scheme ftp"),
        (r#"{"url":"http://127.0.0.1:1/"}"#, "refused"),
    ] {
        let error = request(&world, &["*"], wish).unwrap_err();
        assert_eq!("guest-failed", error.slug(), "{wish}");
        assert!(error.reason().contains(part), "{part}: {error}");
    }
}

#[test]
fn a_reply_over_the_limit_is_refused() {
    let world = World::new();
    let (port, server) = server("HTTP/1.1 200 OK\r\ncontent-length: 60000000\r\n\r\n");
    let wish = format!(r#"{{"url":"http://127.0.0.1:{port}/","method":"PUT"}}"#);
    let error = request(&world, &["*"], &wish).unwrap_err();
    assert!(error.reason().contains("limit of 52428800"), "{error}");
    server.join().unwrap();
}
