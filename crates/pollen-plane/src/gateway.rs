//! The doors: a unix socket that speaks HTTP and `pollen-call/1`, and HTTP on TCP when configured.

use std::{
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
    header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER},
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
    CallError, Plane, Principal, Reply, Request, SeedRef,
    call::hex,
    door,
    metrics::count,
    plane::{MAX_INPUT, MAX_MODULE, PlaneError},
};

/// Budget of an HTTP call that names none.
const DEFAULT_BUDGET: Duration = Duration::from_secs(30);
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
            (&Method::GET, "/healthz") => {
                plain(StatusCode::OK, "text/plain", Bytes::from_static(b"ok\n"))
            }
            (_, "/healthz" | "/content") => problem(
                &CallError::refused("bad-request", "this path takes another method", ""),
                None,
                0,
            ),
            (_, path) if path.starts_with("/call/") => {
                let error = CallError::refused(
                    "bad-request",
                    "a call is a POST",
                    "POST /call/<seed>/<function>",
                );
                problem(&error, None, 0)
            }
            _ => problem(&unknown_path(), None, 0),
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
        let call = match self.read_call(request, door, started).await {
            Ok(call) => call,
            Err(error) => return problem(&error, None, 0),
        };
        count(&self.counters().door_calls);
        let reply = self.call(call).await;
        http_reply(reply, started, door.principal)
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
    ) -> Result<Request, CallError> {
        let (seed, function) = target(request.uri().path())?;
        let headers = request.headers();
        let budget = budget(headers)?;
        let idempotent = headers.get("pollen-idempotent").is_some_and(|v| v.as_bytes() == b"true");
        let trace = headers.get("traceparent").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let trace =
            if trace.len() <= pollen_wire::call::MAX_NAME { trace.into() } else { "".into() };
        let input = read_body(request.into_body(), MAX_INPUT).await?;
        Ok(Request {
            idempotent,
            principal: door.principal,
            traceparent: trace,
            ..self.request(seed, function, input, started + budget)
        })
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
            Err(error) => {
                let remedy = "free some disk space, or see pln doctor";
                problem(&CallError::refused("state-unusable", error.to_string(), remedy), None, 0)
            }
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
        Some(text) => Some(percent_decoded(text).ok_or_else(unknown_path)?.into()),
    };
    Ok((SeedRef::parse(&seed), function))
}

/// What a client of the TCP door is told of everything that is not public: one answer, so that
/// names and functions of private seeds do not show in it.
fn no_such_seed() -> CallError {
    let remedy = "ask for a seed that was published with --public";
    CallError::refused("seed-not-found", "there is no such seed here", remedy)
}

fn unknown_path() -> CallError {
    let remedy = "POST /call/<seed>/<function>, GET /healthz";
    CallError::refused("bad-request", "there is nothing at this path", remedy)
}

fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
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
    String::from_utf8(out).ok()
}

/// `Pollen-Timeout`: a number with the unit `ms`, `s`, `m` or `h`.
fn budget(headers: &HeaderMap) -> Result<Duration, CallError> {
    let Some(value) = headers.get("pollen-timeout") else { return Ok(DEFAULT_BUDGET) };
    let parsed = value.to_str().ok().and_then(parse_duration);
    parsed.ok_or_else(|| {
        let reason = "the header Pollen-Timeout is no duration";
        CallError::refused("bad-request", reason, "write a unit, as in 250ms, 2s, 1m")
    })
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
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero() && d.as_secs() <= 3600)
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

fn http_reply(reply: Reply, started: Instant, principal: Principal) -> Response<Full<Bytes>> {
    let (output, status) = match reply.result {
        Ok(done) => done,
        // A seed that stopped being public meanwhile.
        Err(error) if principal == Principal::Anonymous && &*error.slug == "denied" => {
            return problem(&no_such_seed(), None, 0);
        }
        Err(error) => return problem(&error, reply.node.as_ref(), reply.attempts),
    };
    let code = if status == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let mut response = plain(code, "application/octet-stream", output);
    let headers = response.headers_mut();
    if status != 0 {
        headers.insert("pollen-guest-status", HeaderValue::from(status));
    }
    if let Some(node) = &reply.node {
        insert(headers, "pollen-node", &hex(node));
    }
    headers.insert("pollen-attempts", HeaderValue::from(u16::from(reply.attempts)));
    let millis = |us: u32| f64::from(us) / 1000.0;
    let timing = format!(
        "queue;dur={:.3}, run;dur={:.3}, total;dur={:.3}",
        millis(reply.queue_us),
        millis(reply.run_us),
        started.elapsed().as_secs_f64() * 1000.0
    );
    insert(headers, "server-timing", &timing);
    response
}

fn plain(code: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// RFC 9457, with the fields of the error table.
fn problem(error: &CallError, node: Option<&[u8; 32]>, attempts: u8) -> Response<Full<Bytes>> {
    let code = http_status(&error.slug);
    let body = serde_json::json!({
        "type": format!("urn:pollen:error:{}", error.slug),
        "title": error.reason,
        "status": code.as_u16(),
        "slug": error.slug,
        "remedy": error.remedy,
        "node": node.map(|node| hex(node)),
        "attempts": attempts,
        "may_have_executed": error.may_have_executed,
    });
    let mut response = plain(code, "application/problem+json", body.to_string().into());
    if error.retry_after_ms > 0 {
        let seconds = error.retry_after_ms.div_ceil(1000);
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The HTTP column of the error table.
fn http_status(slug: &str) -> StatusCode {
    match slug {
        "usage" | "bad-request" | "module-invalid" | "import-unknown" | "name-invalid" => {
            StatusCode::BAD_REQUEST
        }
        "seed-not-found" | "function-not-found" | "peer-not-found" | "blob-not-found" => {
            StatusCode::NOT_FOUND
        }
        "denied" | "token-invalid" => StatusCode::FORBIDDEN,
        "unreachable" | "daemon-not-running" | "version-mismatch" => StatusCode::BAD_GATEWAY,
        "overloaded" => StatusCode::SERVICE_UNAVAILABLE,
        "deadline" => StatusCode::GATEWAY_TIMEOUT,
        "input-too-large" => StatusCode::PAYLOAD_TOO_LARGE,
        "hop-limit" | "call-limit" => StatusCode::LOOP_DETECTED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
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
        for bad in ["", "5", "s", "0s", "-1s", "1d", "2h", "1e3s", "NaNs"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }
}
