//! The doors: a unix socket that speaks HTTP and `pollen-call/1`, and HTTP on TCP when configured.

use std::{
    borrow::Cow,
    convert::Infallible,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request as HttpRequest, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use pollen_net::NetError;
use pollen_wire::door::PREFACE;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener, UnixStream},
};

use crate::{
    CallError, Plane, Principal, Request, SeedRef, Trace,
    answer::{http_reply, no_such_seed, plain, problem, problem_as},
    call::hex,
    door,
    plane::{MAX_INPUT, MAX_MODULE, PlaneError, STORE_REMEDY},
};

/// Budget of an HTTP call that names none.
const DEFAULT_BUDGET: Duration = Duration::from_secs(30);
/// The longest that one may name.
const MAX_BUDGET: Duration = Duration::from_secs(3600);
/// A client that says nothing is dropped.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// What a door lets its clients do.
#[derive(Clone, Copy)]
struct Door {
    principal: Principal,
    may_upload: bool,
}

impl Plane {
    /// Opens the local door at `path`, which must be in a folder that only its owner enters.
    /// A socket left by a dead process is replaced; the caller holds the folder's lock.
    pub fn open_socket(&self, path: &Path) -> Result<(), PlaneError> {
        let failed = |what: &str, e: std::io::Error| {
            PlaneError::System(format!("cannot {what} {}: {e}", path.display()))
        };
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace", e)),
            _ => {}
        }
        let _inside = self.handle().enter();
        let listener = UnixListener::bind(path).map_err(|e| failed("bind", e))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
            .map_err(|e| failed("protect", e))?;
        let plane = self.clone();
        self.handle().spawn(async move {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => drop(tokio::spawn(plane.clone().serve_local(stream))),
                    Err(error) => out_of_files(&error).await,
                }
            }
        });
        Ok(())
    }

    /// Opens the TCP door; returns the bound address.
    pub fn open_http(&self, address: SocketAddr) -> Result<SocketAddr, PlaneError> {
        let taken = |e: std::io::Error| {
            PlaneError::Net(NetError::PortInUse(format!("cannot bind {address} (tcp): {e}")))
        };
        let listener = self.handle().block_on(TcpListener::bind(address)).map_err(taken)?;
        let bound = listener.local_addr().map_err(taken)?;
        let plane = self.clone();
        self.handle().spawn(async move {
            let door = Door { principal: Principal::Anonymous, may_upload: false };
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let _ = stream.set_nodelay(true);
                        tokio::spawn(plane.clone().serve_http(stream, door));
                    }
                    Err(error) => out_of_files(&error).await,
                }
            }
        });
        Ok(bound)
    }

    async fn serve_local(self, stream: UnixStream) {
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
        let door = Door { principal: Principal::Node(self.id()), may_upload: true };
        match is_framed(&stream).await {
            Some(true) => door::serve(self, stream).await,
            Some(false) => self.serve_http(stream, door).await,
            None => {}
        }
    }

    async fn serve_http(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        door: Door,
    ) {
        let service = service_fn(|request| {
            let plane = self.clone();
            async move { Ok::<_, Infallible>(plane.answer(request, door).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(hyper_util::rt::TokioTimer::new())
            .header_read_timeout(FIRST_BYTE)
            .pipeline_flush(true)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = served.await {
            tracing::debug!(%error, "an HTTP connection ended early");
        }
    }

    async fn answer(&self, request: HttpRequest<Incoming>, door: Door) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::POST, path) if path.starts_with("/call/") => {
                self.answer_call(request, door).await
            }
            (&Method::PUT, "/content") if door.may_upload => self.answer_upload(request).await,
            (&Method::GET | &Method::HEAD, "/healthz") => {
                plain(StatusCode::OK, "text/plain", Bytes::from_static(b"ok\n"))
            }
            (_, path) if path.starts_with("/call/") => {
                other_method("POST", "/call/<seed>/<function>")
            }
            (_, "/healthz") => other_method("GET, HEAD", "/healthz"),
            (_, "/content") if door.may_upload => other_method("PUT", "/content"),
            _ => problem_as(StatusCode::NOT_FOUND, &unknown_path(), None, 0),
        }
    }

    async fn answer_call(
        &self,
        request: HttpRequest<Incoming>,
        door: Door,
    ) -> Response<Full<Bytes>> {
        let started = Instant::now();
        if door.principal == Principal::Anonymous && !self.is_public(request.uri().path()) {
            return problem(&no_such_seed(), None, 0);
        }
        let (call, is_traced) = match self.read_call(request, door, started).await {
            Ok(call) => call,
            Err(error) => return problem(&error, None, 0),
        };
        self.counters().door_calls.add(1);
        let trace = is_traced.then_some(call.trace);
        let reply = self.call(call).await;
        http_reply(reply, trace.as_ref(), door.principal)
    }

    /// Whether a stranger may know of the seed that a path names.
    fn is_public(&self, path: &str) -> bool {
        let tables = self.tables().load();
        let found = match target(path) {
            Ok((SeedRef::Name(name), _)) => tables.named(&name).cloned(),
            Ok((SeedRef::Hash(hash), _)) => tables.seed(&hash).cloned(),
            Err(_) => None,
        };
        found.is_some_and(|entry| entry.row.public)
    }

    async fn read_call(
        &self,
        request: HttpRequest<Incoming>,
        door: Door,
        started: Instant,
    ) -> Result<(Request, bool), CallError> {
        let (seed, function) = target(request.uri().path())?;
        let (mut budget, mut idempotent, mut parent) = (DEFAULT_BUDGET, false, None);
        // One walk over the few headers that there are is quicker than three look-ups by hash.
        for (name, value) in request.headers() {
            match name.as_str() {
                "pollen-timeout" => budget = read_budget(value)?,
                "pollen-idempotent" => idempotent = value == "true",
                "traceparent" => parent = Some(value.to_str().ok().and_then(Trace::parse)),
                _ => {}
            }
        }
        let input = read_body(request.into_body(), MAX_INPUT).await?;
        let mut call = Request {
            idempotent,
            principal: door.principal,
            ..self.request(seed, function, input, started, budget)
        };
        if let Some(Some(caller)) = parent {
            call.trace = caller.child();
        }
        // Who asks in a trace is told which one the call is in: a malformed context begins one.
        Ok((call, parent.is_some()))
    }

    async fn answer_upload(&self, request: HttpRequest<Incoming>) -> Response<Full<Bytes>> {
        let most = usize::try_from(MAX_MODULE).unwrap_or(usize::MAX);
        let body = match read_body(request.into_body(), most).await {
            Ok(body) => body,
            Err(error) => return problem(&error, None, 0),
        };
        let size = body.len();
        match self.net().content().add(body).await {
            Ok(content) => {
                let answer = serde_json::json!({"content": hex(&content), "size": size});
                plain(StatusCode::OK, "application/json", answer.to_string().into())
            }
            Err(error) => problem(
                &CallError::refused("state-unusable", error.to_string(), STORE_REMEDY),
                None,
                0,
            ),
        }
    }
}

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

#[allow(unsafe_code)]
fn own_uid() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// Too many open files: wait for some to close rather than spin.
async fn out_of_files(error: &std::io::Error) {
    tracing::warn!(%error, "a door could not accept");
    tokio::time::sleep(Duration::from_millis(50)).await;
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

fn unknown_path() -> CallError {
    let remedy = "POST /call/<seed>/<function>, GET /healthz";
    CallError::refused("bad-request", "there is nothing at this path", remedy)
}

fn percent_decoded(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let high = char::from(bytes.next()?).to_digit(16)?;
        let low = char::from(bytes.next()?).to_digit(16)?;
        out.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(out).ok().map(Cow::Owned)
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

async fn read_body(body: Incoming, most: usize) -> Result<Bytes, CallError> {
    match Limited::new(body, most).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            let reason = format!("the body is over the limit of {most} bytes");
            Err(CallError::refused("input-too-large", reason, "send less at once"))
        }
        Err(error) => {
            let reason = format!("the body broke off: {error}");
            Err(CallError::refused("bad-request", reason, "send the request again"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
