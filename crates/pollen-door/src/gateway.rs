//! HTTP at the doors: which requests there are, and how a call is read from one.
//!
//! Decides: what each path and method means, and what a stranger may know of.
//! Does not know: who may come in, and how much they may hold (`doors.rs`, `visitors.rs`).
//! Invariants: a request that is answered before its body was read is the last of its connection.
//! Source: RFC 9110, 9457.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use pollen_plane::{
    CallError, Plane, Principal, Reply, Request, SeedRef, Trace, own_uid, tables::SeedEntry,
};
use pollen_wire::{door::PREFACE, frame::MAX_INPUT, http::HANDLE, open};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use crate::{
    address::percent_decoded,
    answer::{http_reply, last_words, no_such_seed, plain, problem, problem_as},
    body::{self, Terms},
    contents::{self, Sent, Upload},
    doors::{Reason, Shared},
    framed, http,
    limits::{DEFAULT_BUDGET, FIRST_BYTE, MAX_BUDGET, READ_MAX},
    reading::{Readable, unknown_path},
    screen::{Screen, Told},
    tunnel,
    visitors::{Account, Hold, Visit},
};

/// What a door lets its clients do.
#[derive(Clone, Copy)]
struct Door {
    principal: Principal,
    may_upload: bool,
}

/// One connection's requests, and what they have in common.
struct Visitor {
    shared: Arc<Shared>,
    door: Door,
    /// Its address, or the name of the local door.
    from: String,
    account: Account,
    told: Arc<Told>,
}

/// Serves one connection of the owner to its end.
pub(crate) async fn serve_local(shared: Arc<Shared>, stream: UnixStream) {
    // The folder's mode already keeps others out; root and the owner pass.
    let owner = own_uid();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == owner || peer.uid() == 0 => {}
        _ => return,
    }
    match tokio::time::timeout(FIRST_BYTE, stream.readable()).await {
        Ok(Ok(())) => {}
        _ => return,
    }
    let principal = Principal::Node(shared.plane.id());
    match is_framed(&stream).await {
        Some(true) => serve_binary(&shared, stream).await,
        Some(false) => {
            let visitor = Visitor {
                shared,
                door: Door { principal, may_upload: true },
                from: "call.sock".to_owned(),
                account: Account::default(),
                told: Arc::default(),
            };
            visitor.serve(stream).await;
        }
        None => {}
    }
}

/// Serves a client that speaks no HTTP; the first eight bytes tell what it speaks.
async fn serve_binary(shared: &Shared, mut stream: UnixStream) {
    let Some(preface) = preface(&mut stream).await else { return };
    if preface == open::PREFACE {
        tunnel::serve(&shared.tunnels, stream).await;
    } else {
        framed::serve(shared.plane.clone(), stream, preface).await;
    }
}

/// None: it did not come whole, or not in time.
async fn preface(stream: &mut UnixStream) -> Option<[u8; PREFACE.len()]> {
    let mut preface = [0; PREFACE.len()];
    let read = tokio::time::timeout(FIRST_BYTE, stream.read_exact(&mut preface)).await;
    read.ok()?.ok()?;
    Some(preface)
}

/// Serves one connection of a stranger to its end.
pub(crate) async fn serve_stranger(
    shared: Arc<Shared>,
    stream: TcpStream,
    from: SocketAddr,
    visit: Visit,
) {
    let visitor = Visitor {
        shared,
        door: Door { principal: Principal::Anonymous, may_upload: false },
        from: from.ip().to_string(),
        account: visit.account(),
        told: Arc::default(),
    };
    visitor.serve(stream).await;
}

impl Visitor {
    async fn serve(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let this = Arc::new(self);
        let _open = this.shared.opened();
        // From here on by reference: a request is large, and each function that took it would copy it.
        let service = service_fn(|mut request| {
            let this = this.clone();
            async move { this.respond(&mut request).await }
        });
        let screen = Screen::new(stream, this.told.clone());
        let served = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(FIRST_BYTE)
            .max_buf_size(READ_MAX)
            .serve_connection(TokioIo::new(screen), service);
        let mut served = pin!(served);
        // A token of its own: each poll locks it, and one for all connections would be fought over.
        let stop = this.shared.stop.child_token();
        let ended = tokio::select! {
            biased;
            ended = served.as_mut() => ended,
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if this.told.is_slow() {
            this.shared.refuse(Reason::SlowReader, &this.from, "closed");
        } else if let Err(error) = ended {
            tracing::debug!(%error, "an HTTP connection ended early");
        }
    }

    /// An error closes the connection without a word.
    async fn respond(&self, request: &mut HttpRequest<Incoming>) -> Result<Response<Sent>, Mute> {
        let Some((refusal, text)) = self.told.next() else {
            return Ok(self.answer(request).await);
        };
        let reason = match refusal {
            _ if refusal.is_mute => Reason::NotHttp,
            _ if refusal.status == StatusCode::REQUEST_TIMEOUT => Reason::SlowHead,
            _ => Reason::Malformed,
        };
        let what = format!("{}: {text}", refusal.reason);
        self.shared.refuse(reason, &self.from, &what);
        if refusal.is_mute {
            return Err(Mute);
        }
        let error = CallError::refused(refusal.slug, refusal.reason, refusal.remedy);
        Ok(last_words(refusal.status, &error).map(Sent::Left))
    }

    fn plane(&self) -> &Plane {
        &self.shared.plane
    }

    async fn answer(&self, request: &mut HttpRequest<Incoming>) -> Response<Sent> {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        // In a box of its own: every request's future is as large as its largest route.
        let who = self.door.principal;
        let readable = Readable::of(&self.shared, who, request);
        let site = readable.as_ref().and_then(Readable::site);
        if http::is_asked(self.plane(), site, request.uri().path()) {
            let answered = Box::pin(self.answer_http(request)).await;
            return answered.unwrap_or_else(|response| response.map(Sent::Left));
        }
        match readable {
            Some(readable) if is_read => Box::pin(readable.read(&self.shared, who, request)).await,
            Some(readable) => other_method("GET, HEAD", readable.form()).map(Sent::Left),
            None => self.answer_at_once(request).await.map(Sent::Left),
        }
    }

    async fn answer_at_once(&self, request: &mut HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::POST, path) if path.starts_with("/call/") => self.answer_call(request).await,
            (&Method::PUT, "/content") if self.door.may_upload => {
                let asked = match Upload::of(request.uri(), request.headers()) {
                    Ok(asked) => asked,
                    Err(error) => return problem(&error, None, 0),
                };
                let body = request.body_mut();
                let kept = contents::upload(self.plane(), self.account.clone(), asked, body);
                Box::pin(kept).await.unwrap_or_else(|none| self.no_body(&none))
            }
            (&Method::GET | &Method::HEAD, "/healthz") => {
                plain(StatusCode::OK, "text/plain", Bytes::from_static(b"ok\n"))
            }
            (_, path) if path.starts_with("/call/") => {
                other_method("POST", "/call/<seed>/<function>")
            }
            (_, "/healthz") => other_method("GET, HEAD", "/healthz"),
            (_, "/content") if self.door.may_upload => other_method("PUT", "/content"),
            _ => problem_as(StatusCode::NOT_FOUND, &unknown_path(), None, 0),
        }
    }

    async fn answer_call(&self, request: &mut HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        let started = Instant::now();
        let principal = self.door.principal;
        let (seed, function) = match target(request.uri().path()) {
            Ok(found) => found,
            Err(_) if principal == Principal::Anonymous => {
                return problem(&no_such_seed(), None, 0);
            }
            Err(error) => return problem(&error, None, 0),
        };
        if principal == Principal::Anonymous && !self.is_public(&seed) {
            return problem(&no_such_seed(), None, 0);
        }
        let read = self.read_call(request, started, seed, function).await;
        let (call, is_traced, hold) = match read {
            Ok(call) => call,
            Err(response) => return *response,
        };
        self.plane().counters().door_calls.add(1);
        let trace = is_traced.then_some(call.trace);
        let mut reply = self.plane().call(call).await;
        self.hold_output(&mut reply, hold);
        http_reply(reply, trace.as_ref(), principal)
    }

    /// Has a component answer, whatever the method.
    async fn answer_http(
        &self,
        request: &mut HttpRequest<Incoming>,
    ) -> Result<Response<Sent>, Box<Response<Full<Bytes>>>> {
        let started = Instant::now();
        if request.method() == Method::CONNECT {
            let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
            return Err(Box::new(other_method(methods, "/http/<name>/")));
        }
        let seed = http::seed_of(request.uri().path());
        let seed = seed.map_err(|error| Box::new(problem(&error, None, 0)))?;
        if self.door.principal == Principal::Anonymous && !self.is_public(&seed) {
            return Err(Box::new(problem(&no_such_seed(), None, 0)));
        }
        let function = Some(Arc::from(HANDLE));
        let (mut call, _, hold) = self.read_call(request, started, seed.clone(), function).await?;
        call.idempotent |= request.method().is_idempotent();
        self.plane().counters().door_calls.add(1);
        let asked = http::Asked {
            plane: self.plane(),
            account: &self.account,
            seed: &seed,
            is_blob: self.entry(&seed).is_some_and(|entry| entry.row.is_blob()),
            method: request.method(),
            head: http::head_of(request, call.input.len())?,
        };
        http::answer(&asked, call, hold, |reply| self.hold_output(reply, Hold::default())).await
    }

    /// Binds the output to the client's account, in the place of the input. What has no room there is
    /// dropped: its client, or too many others, do not read their answers.
    fn hold_output(&self, reply: &mut Reply, mut hold: Hold) {
        let Ok((output, _)) = &mut reply.result else { return };
        if self.account.try_cover(&mut hold, output.len()) {
            hold.fit(output.len());
            *output = hold.bind(std::mem::take(output));
            return;
        }
        self.shared.refuse(Reason::Bytes, &self.from, "an answer was dropped");
        let reason = "the door holds as many bytes of answers as it may; this one was dropped";
        reply.result = Err(CallError::overloaded(reason, 1000).executed(true));
    }

    /// Whether a stranger may know of a seed.
    fn is_public(&self, seed: &SeedRef) -> bool {
        self.entry(seed).is_some_and(|entry| entry.row.lets_stranger())
    }

    /// What this node knows of a seed.
    fn entry(&self, seed: &SeedRef) -> Option<Arc<SeedEntry>> {
        let tables = self.plane().tables().load();
        match seed {
            SeedRef::Name(name) => tables.named(name).cloned(),
            SeedRef::Hash(hash) => tables.seed(hash).cloned(),
        }
    }

    async fn read_call(
        &self,
        request: &mut HttpRequest<Incoming>,
        started: Instant,
        seed: SeedRef,
        function: Option<Arc<str>>,
    ) -> Result<(Request, bool, Hold), Box<Response<Full<Bytes>>>> {
        let refused = |error: CallError| Box::new(problem(&error, None, 0));
        let (mut budget, mut idempotent, mut parent) = (DEFAULT_BUDGET, false, None);
        // One walk over the few headers that there are is quicker than three look-ups by hash.
        for (name, value) in request.headers() {
            match name.as_str() {
                "pollen-timeout" => budget = read_budget(value).map_err(refused)?,
                "pollen-idempotent" => idempotent = value == "true",
                "traceparent" => parent = Some(value.to_str().ok().and_then(Trace::parse)),
                _ => {}
            }
        }
        if !self.account.has_room().await {
            self.shared.refuse(Reason::Bytes, &self.from, "its answers wait to be read");
            let reason = "your address holds as many bytes of unread answers as it may";
            return Err(refused(CallError::overloaded(reason, 1000)));
        }
        let ends = started + budget;
        let (input, hold) = self.read_body(request.body_mut(), MAX_INPUT, ends, too_large).await?;
        let mut call = self.plane().request(seed, function, input, started, budget);
        (call.idempotent, call.principal) = (idempotent, self.door.principal);
        if let Some(Some(caller)) = parent {
            call.trace = caller.child();
        }
        // Who asks in a trace is told which one the call is in: a malformed context begins one.
        Ok((call, parent.is_some(), hold))
    }

    /// The body, or the answer that says why there is none.
    async fn read_body(
        &self,
        incoming: &mut Incoming,
        most: usize,
        ends: Instant,
        too_large: fn(usize) -> CallError,
    ) -> Result<(Bytes, Hold), Box<Response<Full<Bytes>>>> {
        let has_rate = self.door.principal == Principal::Anonymous;
        let terms = Terms { most, ends, account: self.account.clone(), has_rate, too_large };
        body::read(incoming, &terms).await.map_err(|none| Box::new(self.no_body(&none)))
    }

    /// Why there is no body, counted and said.
    fn no_body(&self, none: &body::NoBody) -> Response<Full<Bytes>> {
        let reason = match none.kind {
            body::Kind::TooLarge => Reason::TooLarge,
            body::Kind::Slow => Reason::SlowBody,
            body::Kind::NoRoom => Reason::Bytes,
            body::Kind::Broken => Reason::Malformed,
        };
        self.shared.refuse(reason, &self.from, &none.error.reason);
        last_words(none.status, &none.error)
    }
}

fn too_large(most: usize) -> CallError {
    let reason = format!("the body is over the limit of {most} bytes");
    CallError::refused("input-too-large", reason, "send less at once")
}

/// Ends a connection that no answer would help.
#[derive(Debug, thiserror::Error)]
#[error("what came is not HTTP")]
struct Mute;

/// Whether the first bytes are the preface of `pollen-call/1`; they stay unread. `None`: closed.
async fn is_framed(stream: &UnixStream) -> Option<bool> {
    use std::os::fd::AsRawFd;
    let mut first = [0u8; 1];
    loop {
        let peeked =
            stream.try_io(tokio::io::Interest::READABLE, || peek(stream.as_raw_fd(), &mut first));
        match peeked {
            Ok(0) => return None,
            Ok(_) => return Some(first.first() == PREFACE.first()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => stream.readable().await.ok()?,
            Err(_) => return None,
        }
    }
}

/// `recv` with MSG_PEEK: neither std nor tokio offers it for unix streams.
#[allow(unsafe_code)]
fn peek(fd: i32, into: &mut [u8]) -> std::io::Result<usize> {
    // SAFETY: the pointer and length are those of a live, writable buffer; the fd outlives the call.
    let got = unsafe {
        libc::recv(fd, into.as_mut_ptr().cast(), into.len(), libc::MSG_PEEK | libc::MSG_DONTWAIT)
    };
    usize::try_from(got).map_err(|_| std::io::Error::last_os_error())
}

/// `/call/<seed>[/<function>]`, percent-encoded; an encoded slash stays within its part.
fn target(path: &str) -> Result<(SeedRef, Option<Arc<str>>), CallError> {
    let rest = path.strip_prefix("/call/").unwrap_or_default();
    let (seed, function) = match rest.split_once('/') {
        Some((seed, function)) => (seed, Some(function)),
        None => (rest, None),
    };
    let seed = percent_decoded(seed).filter(|seed| !seed.is_empty()).ok_or_else(unknown_path)?;
    let function = match function {
        None | Some("") => None,
        Some(text) => Some(Arc::from(&*percent_decoded(text).ok_or_else(unknown_path)?)),
    };
    Ok((SeedRef::parse(&seed), function))
}

/// RFC 9110, 15.5.6: a 405 names the methods that there are.
fn other_method(allowed: &'static str, path: &str) -> Response<Full<Bytes>> {
    let reason = format!("this path takes {allowed} only");
    let (method, _) = allowed.split_once(',').unwrap_or((allowed, ""));
    let error = CallError::refused("bad-request", reason, &format!("{method} {path}"));
    let mut response = problem_as(StatusCode::METHOD_NOT_ALLOWED, &error, None, 0);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}

/// `Pollen-Timeout`: a number with the unit `ms`, `s`, `m` or `h`.
fn read_budget(value: &HeaderValue) -> Result<Duration, CallError> {
    let refused = |reason: &str, remedy: &str| {
        CallError::refused("bad-request", format!("the header Pollen-Timeout is {reason}"), remedy)
    };
    let parsed = value.to_str().ok().and_then(parse_duration);
    let budget =
        parsed.ok_or_else(|| refused("no duration", "write a unit, as in 250ms, 2s, 1m"))?;
    if budget.is_zero() || budget > MAX_BUDGET {
        return Err(refused("out of range", "give 1ms to 1h"));
    }
    Ok(budget)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
    let (number, unit) = text.split_at_checked(at)?;
    let scale = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * scale;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_target_is_decoded_part_by_part() {
        let parsed = |path| target(path).map(|(seed, function)| (seed.to_string(), function));
        assert_eq!(parsed("/call/echo/say").unwrap(), ("echo".into(), Some("say".into())));
        assert_eq!(parsed("/call/echo").unwrap(), ("echo".into(), None));
        assert_eq!(parsed("/call/echo/a%2Fb%20c").unwrap().1, Some("a/b c".into()));
        assert!(parsed("/call/").is_err());
        assert!(parsed("/call/echo/%zz").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_preface_that_never_comes_whole_is_not_waited_for() {
        let (mut near, mut client) = UnixStream::pair().unwrap();
        client.write_all(&open::PREFACE[..7]).await.unwrap();
        let waited = tokio::time::timeout(2 * FIRST_BYTE, super::preface(&mut near)).await;
        assert_eq!(waited.unwrap(), None);
        client.write_all(&open::PREFACE).await.unwrap();
        assert!(super::preface(&mut near).await.is_some());
    }

    #[test]
    fn a_timeout_wants_its_unit() {
        assert_eq!(parse_duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        for bad in ["", "5", "s", "-1s", "1d", "1e3s", "NaNs"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
        let read = |text| read_budget(&HeaderValue::from_static(text)).map_err(|e| e.reason);
        assert_eq!(read("1h").unwrap(), MAX_BUDGET);
        for far in ["0s", "2h"] {
            assert!(read(far).unwrap_err().contains("out of range"), "{far}");
        }
        assert!(read("soon").unwrap_err().contains("no duration"));
    }
}
