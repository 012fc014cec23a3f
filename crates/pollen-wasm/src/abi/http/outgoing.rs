//! The requests that a guest sends: to the hosts that its spec allows, as `http_request` of Extism.
//!
//! Decides: which requests are refused, and with which error code of WASI.
//! Invariant: a connection ends with its guest.
//! Refused: redirects. The target may be a host that the spec does not allow, and the guest sees them.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::abi::log::Logs;
use crate::abi::outbound::{self, CONNECT};
use crate::envelope::{LogLevel, SeedSettings};

/// Connections of one guest at once. Guess: as many as requests of Python's guests.
const CONNECTIONS: usize = 64;

/// How much a guest may write ahead of who reads it, bytes at once.
const CHUNK: usize = 64 << 10;

type Worker = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Worker), Error>;

/// What a guest may send.
pub(super) struct Outgoing {
    settings: Arc<SeedSettings>,
    logs: Logs,
    room: Arc<Semaphore>,
}

impl Outgoing {
    pub(super) fn new(settings: &Arc<SeedSettings>, logs: &Logs) -> Self {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        Self { settings: settings.clone(), logs: logs.clone(), room }
    }

    /// Where a request goes: the host, the port, and whether by TLS.
    fn target(&self, uri: &Uri) -> Result<(String, u16, bool), Error> {
        let host = uri.host().ok_or(Error::HttpRequestUriInvalid)?;
        let tls = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        // A user or password there would be sent to nobody, and stand in logs.
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Error::HttpRequestUriInvalid);
        }
        if !outbound::is_allowed(&self.settings.guest.allow_hosts, host, port) {
            let line = format!(
                "a request to {host} was denied: seed it with --allow-host {host} to allow it"
            );
            self.logs.line(LogLevel::Warn, line.as_bytes());
            return Err(Error::HttpRequestDenied);
        }
        Ok((host.to_owned(), port, tls))
    }
}

impl WasiHttpHooks for Outgoing {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        _processed: Worker,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        let target = self.target(request.uri());
        let room = self.room.clone().try_acquire_owned();
        Box::new(async move {
            let (host, port, tls) = target?;
            let room = room.map_err(|_| Error::ConnectionLimitReached)?;
            let options = options.unwrap_or_default();
            let connect = outbound::connect(&host, port, tls);
            let limit = options.connect_timeout.unwrap_or(CONNECT).min(CONNECT);
            let stream = tokio::time::timeout(limit, connect)
                .await
                .map_err(|_| Error::ConnectionTimeout)?
                .map_err(|error| {
                    tracing::debug!(%error, %host, port, "a guest's request found nobody");
                    Error::DestinationUnavailable
                })?;
            let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
            let driver = spawn(async move {
                // An error of the connection also reaches who reads of it.
                let _ = connection.await;
                drop(room);
            });
            let first = options.first_byte_timeout.unwrap_or(Duration::MAX);
            let response = tokio::time::timeout(first, sender.send_request(to_origin(request)))
                .await
                .map_err(|_| Error::ConnectionReadTimeout)??;
            let response = response.map(|body| body.map_err(Error::from).boxed_unsync());
            let worker: Worker = Box::new(async move {
                driver.await;
                Ok(())
            });
            Ok((response, worker))
        })
    }

    /// In silence, as the next two: what a guest's request meets is the guest's matter, and would fill the
    /// node's log.
    fn p2_error_from_hyper(&mut self, _error: &hyper::Error) -> ErrorCode {
        ErrorCode::HttpProtocolError
    }

    fn p2_error_from_connect(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::ConnectionRefused
    }

    fn p2_error_from_tls(&mut self, _error: &std::io::Error) -> ErrorCode {
        ErrorCode::TlsProtocolError
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        CHUNK
    }
}

/// The request as its server wants it: with a path, and the host as a header.
fn to_origin(mut request: Request<WasiBody>) -> Request<WasiBody> {
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    if let Ok(uri) = path.parse() {
        *request.uri_mut() = uri;
    }
    debug_assert!(request.headers().contains_key(HOST));
    request
}
