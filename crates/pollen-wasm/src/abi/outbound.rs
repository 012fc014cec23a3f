//! The way out to hosts of the network, whatever the guest's ABI: who may be asked, and connections.
//!
//! Does not know: what is said there.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Time for name resolution, connection and TLS.
pub(crate) const CONNECT: Duration = Duration::from_secs(10);

/// A pattern is a host, `*`, or `*.` and a domain (which does not match the domain itself); with a
/// port it allows that port only.
pub(crate) fn is_allowed(patterns: &[String], host: &str, port: u16) -> bool {
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
pub(crate) type Stream = Box<dyn Duplex>;

pub(crate) trait Duplex:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin
{
}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection; an error as text.
pub(crate) async fn connect(host: &str, port: u16, tls: bool) -> Result<Stream, String> {
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
