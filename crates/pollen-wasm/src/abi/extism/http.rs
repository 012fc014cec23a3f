//! `http_request` and what belongs to it: a guest's way out to the hosts that its spec allows.
//!
//! Redirects are not followed: the target may be a host that the spec does not allow, and the guest
//! sees the status and the headers. A status of 4xx or 5xx is a reply, not an error.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http1;
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::task::JoinHandle;
use wasmtime::{AsContextMut, Caller, Linker, Result};

use super::State;
use super::names::ENV as MODULE;
use crate::abi::outbound::{CONNECT, Stream, connect, is_allowed};
use crate::abi::state::SLICE;
use crate::envelope::MAX_ANSWER;
use crate::error::SandboxError;

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
