//! `http_request` and what belongs to it: a guest's way out to the hosts that its spec allows.
//!
//! Redirects are not followed: the target may be a host that the spec does not allow, and the guest
//! sees the status and the headers. A status of 4xx or 5xx is a reply, not an error.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use wasmtime::{AsContextMut, Caller, Linker, Result};

use super::State;
use super::names::ENV as MODULE;
use crate::abi::state::SLICE;
use crate::envelope::MAX_ANSWER;
use crate::error::SandboxError;

/// Time for name resolution, connection and TLS.
const CONNECT: Duration = Duration::from_secs(10);

/// Status and headers of a guest's last request.
#[derive(Default)]
pub(crate) struct LastReply {
    status: u16,
    /// A JSON object; empty before the first request.
    headers: Bytes,
}

impl LastReply {
    pub(crate) fn clear(&mut self) {
        self.status = 0;
        self.headers = Bytes::new();
    }
}

/// The request as PDKs write it.
#[derive(Deserialize)]
struct Wish {
    url: String,
    #[serde(default)]
    method: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Bytes,
}

/// Defines the imports about HTTP.
pub(crate) fn define(linker: &mut Linker<State>) -> Result<()> {
    linker.func_wrap(MODULE, "http_status_code", |caller: Caller<'_, State>| {
        i32::from(caller.data().own.http.status)
    })?;
    linker.func_wrap(MODULE, "http_headers", |mut caller: Caller<'_, State>| {
        let state = caller.data_mut();
        let headers = state.own.http.headers.clone();
        state.put(&headers)
    })?;
    linker.func_wrap_async(
        MODULE,
        "http_request",
        |mut caller: Caller<'_, State>, (request, body): (u64, u64)| {
            Box::new(async move {
                let reply = request_into(caller.data_mut(), request, body).await;
                caller.as_context_mut().set_epoch_deadline(SLICE);
                reply
            })
        },
    )?;
    Ok(())
}

async fn request_into(state: &mut State, request: u64, body: u64) -> Result<u64> {
    let wish = serde_json::from_slice::<Wish>(state.own.kernel.block(request));
    let bytes = Bytes::copy_from_slice(state.own.kernel.block(body));
    state.own.kernel.free(request);
    state.own.kernel.free(body);
    state.own.http.clear();
    let replied = match wish {
        Ok(wish) => exchange(wish, bytes, &state.settings.guest.allow_hosts).await,
        Err(error) => Err(failed(format!("the request is not valid: {error}"))),
    };
    let reply = match replied {
        Ok(reply) => reply,
        Err(error) => return Err(state.fail(error)),
    };
    state.own.http.status = reply.status;
    state.own.http.headers =
        serde_json::to_vec(&reply.headers).map(Bytes::from).unwrap_or_default();
    if reply.body.is_empty() {
        return Ok(0);
    }
    match state.put(&reply.body) {
        0 => {
            let text = format!("no memory for a reply of {} bytes", reply.body.len());
            Err(state.fail(SandboxError::out_of_memory(text)))
        }
        offset => Ok(offset),
    }
}

fn failed(reason: String) -> SandboxError {
    SandboxError::ran("guest-failed", format!("http_request: {reason}"), "")
}

async fn exchange(wish: Wish, body: Bytes, allowed: &[String]) -> Result<Reply, SandboxError> {
    let uri: Uri =
        wish.url.parse().map_err(|error| failed(format!("bad URL {:?}: {error}", wish.url)))?;
    let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(failed(format!("bad URL {:?}: no scheme or host", wish.url)));
    };
    // Not in the text: it may be a password.
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        let reason = format!("http_request: the URL of {host} has a user or password before an @");
        let remedy = "send them as a header: {\"headers\": {\"authorization\": \"Basic ...\"}}";
        return Err(SandboxError::ran("guest-failed", reason, remedy));
    }
    let tls = match scheme {
        "http" => false,
        "https" => true,
        other => return Err(failed(format!("the scheme {other} is not supported"))),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    if !is_allowed(allowed, host, port) {
        return Err(SandboxError::ran(
            "guest-host-refused",
            format!("the spec does not allow requests to {host}"),
            format!("seed it with --allow-host {host}"),
        ));
    }
    let request = to_request(&wish, &uri, host, body)?;
    let stream = tokio::time::timeout(CONNECT, connect(host, port, tls))
        .await
        .map_err(|_| failed(format!("no connection to {host}:{port} within {CONNECT:?}")))?
        .map_err(|error| failed(format!("{host}:{port}: {error}")))?;
    send(stream, request).await.map_err(|error| failed(format!("{host}:{port}: {error}")))
}

fn to_request(
    wish: &Wish,
    uri: &Uri,
    host: &str,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, SandboxError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let method = wish.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
    let mut builder = Request::builder().method(method.as_str()).uri(path);
    let names_host = wish.headers.keys().any(|name| name.eq_ignore_ascii_case("host"));
    for (name, value) in &wish.headers {
        // The body's framing is ours: a guest that chooses it could smuggle a second request.
        if !["content-length", "transfer-encoding", "connection"]
            .iter()
            .any(|n| name.eq_ignore_ascii_case(n))
        {
            builder = builder.header(name, value);
        }
    }
    if !names_host {
        let authority = uri.port_u16().map_or(host.to_owned(), |port| format!("{host}:{port}"));
        builder = builder.header("host", authority);
    }
    builder.body(Full::new(body)).map_err(|error| failed(format!("bad request: {error}")))
}

/// A pattern is a host, `*`, or `*.` and a domain (which does not match the domain itself); with a
/// port it allows that port only.
fn is_allowed(patterns: &[String], host: &str, port: u16) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    patterns.iter().any(|pattern| {
        let pattern = pattern.to_ascii_lowercase();
        let (name, only) = match pattern.rsplit_once(':') {
            // An IPv6 address has colons of its own.
            Some((name, digits)) if !name.contains(':') || name.ends_with(']') => {
                match digits.parse::<u16>() {
                    Ok(only) => (name.to_owned(), Some(only)),
                    Err(_) => return false,
                }
            }
            _ => (pattern, None),
        };
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let fits = match name.strip_prefix('*') {
            Some("") => true,
            Some(suffix) => {
                suffix.starts_with('.') && host.len() > suffix.len() && host.ends_with(suffix)
            }
            None => name == host,
        };
        fits && only.is_none_or(|only| only == port)
    })
}

/// A plain or TLS stream.
type Stream = Box<dyn Duplex>;

trait Duplex: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin {}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

async fn connect(host: &str, port: u16, tls: bool) -> Result<Stream, String> {
    let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream = TcpStream::connect((name.as_str(), port)).await.map_err(|e| e.to_string())?;
    stream.set_nodelay(true).map_err(|e| e.to_string())?;
    if !tls {
        return Ok(Box::new(stream));
    }
    let server = ServerName::try_from(name).map_err(|e| e.to_string())?;
    let connector = TlsConnector::from(trust()?);
    let stream = connector.connect(server, stream).await.map_err(|e| e.to_string())?;
    Ok(Box::new(stream))
}

/// The client configuration that trusts what this machine trusts; made at the first request.
fn trust() -> Result<Arc<ClientConfig>, String> {
    static TRUST: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    TRUST
        .get_or_init(|| {
            let mut roots = RootCertStore::empty();
            let found = rustls_native_certs::load_native_certs();
            let (added, _) = roots.add_parsable_certificates(found.certs);
            if added == 0 {
                return Err(
                    "this machine has no trusted certificates (install ca-certificates)".into()
                );
            }
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder =
                builder.with_safe_default_protocol_versions().map_err(|e| e.to_string())?;
            Ok(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
        })
        .clone()
}

/// A connection's driver that ends with the request.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(stream: Stream, request: Request<Full<Bytes>>) -> Result<Reply, String> {
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let _driver = Driver(tokio::spawn(async move {
        // An error of the connection also reaches the request below.
        let _ = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status().as_u16();
    let mut headers = BTreeMap::<String, String>::new();
    for (name, value) in response.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|old| {
                old.push_str(", ");
                old.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    let body = collect(response.into_body()).await?;
    Ok(Reply { status, headers, body })
}

async fn collect(mut body: hyper::body::Incoming) -> Result<Bytes, String> {
    let too_large = || format!("the reply is over the limit of {MAX_ANSWER} bytes");
    if body.size_hint().lower() > MAX_ANSWER as u64 {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| e.to_string())?;
        if let Some(data) = frame.data_ref() {
            if bytes.len().saturating_add(data.len()) > MAX_ANSWER {
                return Err(too_large());
            }
            bytes.extend_from_slice(data);
        }
    }
    Ok(Bytes::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn only_hosts_that_a_pattern_names_are_allowed() {
        let patterns: Vec<String> =
            ["api.example.org", "*.cdn.example", "localhost:8080", "::1"].map(String::from).into();
        let allowed = |host, port| is_allowed(&patterns, host, port);
        for (host, port) in
            [("API.example.org", 443), ("a.b.cdn.example", 80), ("localhost", 8080), ("[::1]", 80)]
        {
            assert!(allowed(host, port), "{host}:{port}");
        }
        for (host, port) in [
            ("example.org", 443),
            ("evil-api.example.org", 443),
            ("cdn.example", 80),
            ("evilcdn.example", 80),
            ("localhost", 80),
            ("api.example.org.evil.net", 443),
        ] {
            assert!(!allowed(host, port), "{host}:{port}");
        }
        assert!(is_allowed(&["*".into()], "anything", 1) && !is_allowed(&[], "anything", 1));
    }
}
