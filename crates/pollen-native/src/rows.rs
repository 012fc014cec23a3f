//! The brain's rows and what a listener is to be, read attribute by attribute: there is no second set of classes.

use std::{net::SocketAddr, sync::Arc};

use pollen_plane::tables::{
    Kind, Lane, PeerRow, Policy, SeedPolicy, SeedRow, ServedRow, ServiceRow, Words,
};
use pollen_tunnel::{Listener, Probe};
use pollen_wire::Id;
use pyo3::prelude::*;

use crate::error::native;

/// Exactly 32 bytes.
pub(crate) fn id(bytes: &[u8], what: &str) -> PyResult<Id> {
    bytes
        .try_into()
        .map_err(|_| native("bad-request", format!("{what} must be 32 bytes, not {}", bytes.len())))
}

pub(crate) fn ids(list: &[Vec<u8>], what: &str) -> PyResult<Vec<Id>> {
    list.iter().map(|bytes| id(bytes, what)).collect()
}

/// Each of them as an address.
pub(crate) fn addresses(texts: &[String]) -> PyResult<Vec<SocketAddr>> {
    texts.iter().map(|text| address(text)).collect()
}

/// An `IP:PORT`.
pub(crate) fn address(text: &str) -> PyResult<SocketAddr> {
    let remedy = "write 192.0.2.1:60611 or [::1]:60611";
    let refused = || native("bad-request", format!("\"{text}\" is not an address; {remedy}"));
    text.parse().map_err(|_| refused())
}

/// `pollen.core.effects.LaneRows`; the rows are read as those of their lane.
#[derive(FromPyObject)]
pub(crate) struct PyLane {
    rows: Vec<Py<PyAny>>,
    gone: Vec<Vec<u8>>,
}

impl PyLane {
    /// The lane, each of its rows read by `read`.
    pub(crate) fn lane<P, R>(self, read: impl Fn(P) -> PyResult<R>) -> PyResult<Lane<R>>
    where
        P: for<'a, 'py> FromPyObject<'a, 'py, Error = PyErr>,
    {
        Python::attach(|py| {
            let rows = self.rows.iter().map(|row| read(row.bind(py).extract::<P>()?));
            let rows = rows.collect::<PyResult<_>>()?;
            Ok(Lane { rows, gone: ids(&self.gone, "gone")? })
        })
    }
}

/// `pollen.core.effects.PolicyRow`.
#[derive(FromPyObject)]
pub(crate) struct PyPolicyRow {
    tree: String,
    seed: Vec<(String, String)>,
    lets_strangers: bool,
}

impl PyPolicyRow {
    fn policy(self) -> SeedPolicy {
        SeedPolicy {
            policy: Policy::read(&self.tree, words(self.seed)),
            lets_strangers: self.lets_strangers,
        }
    }
}

fn words(words: Vec<(String, String)>) -> Words {
    words.into_iter().map(|(word, text)| (word.into(), text.into())).collect()
}

/// `pollen.core.effects.SeedRow`.
#[derive(FromPyObject)]
pub(crate) struct PySeedRow {
    name: String,
    seed: Vec<u8>,
    publisher: Vec<u8>,
    content: Vec<u8>,
    functions: Vec<String>,
    replicas: Vec<Vec<u8>>,
    wake: Vec<Vec<u8>>,
    packed_options: Vec<u8>,
    policy: Option<PyPolicyRow>,
    kind: String,
    size: u64,
    manifest: Vec<(String, Vec<u8>)>,
    former: Vec<Vec<u8>>,
    host: Vec<(String, String)>,
    host_policy: Option<PyPolicyRow>,
}

impl PySeedRow {
    pub(crate) fn row(self) -> PyResult<SeedRow> {
        Ok(SeedRow {
            name: self.name.into(),
            seed: id(&self.seed, "seed")?,
            publisher: id(&self.publisher, "publisher")?,
            content: id(&self.content, "content")?,
            functions: self.functions.into_iter().map(Arc::from).collect(),
            replicas: ids(&self.replicas, "replicas")?,
            wake: ids(&self.wake, "wake")?,
            options: rmp_serde::from_slice(&self.packed_options)
                .map_err(|error| native("bad-request", format!("options: {error}")))?,
            policy: self.policy.map(|held| Arc::new(held.policy())),
            kind: kind_of(&self.kind)?,
            size: self.size,
            manifest: self
                .manifest
                .into_iter()
                .map(|(role, content)| Ok((role.into(), id(&content, "manifest")?)))
                .collect::<PyResult<_>>()?,
            former: ids(&self.former, "former")?,
            host: self.host,
            host_policy: self.host_policy.map(|held| Arc::new(held.policy())),
        })
    }
}

/// A word of `pollen.core.effects.KINDS`.
pub(crate) fn kind_of(word: &str) -> PyResult<Kind> {
    match word {
        "module" => Ok(Kind::Module),
        "blob" => Ok(Kind::Blob),
        "site" => Ok(Kind::Site),
        "sealed" => Ok(Kind::Sealed),
        other => Err(native("bad-request", format!("{other:?} is no kind of seed"))),
    }
}

/// `pollen.core.effects.PeerRow`.
#[derive(FromPyObject)]
pub(crate) struct PyPeerRow {
    peer: Vec<u8>,
    name: String,
    properties: String,
    price_us: u64,
    words: Vec<(String, String)>,
    hops: Vec<Vec<u8>>,
}

impl PyPeerRow {
    pub(crate) fn row(self) -> PyResult<PeerRow> {
        Ok(PeerRow {
            peer: id(&self.peer, "peer")?,
            name: self.name,
            properties: self.properties.into(),
            price_us: self.price_us,
            words: words(self.words),
            hops: ids(&self.hops, "hops")?,
            held: Arc::default(),
        })
    }
}

/// `pollen.core.effects.ServiceRow`.
#[derive(FromPyObject)]
pub(crate) struct PyServiceRow {
    key: Vec<u8>,
    name: String,
    providers: Vec<Vec<u8>>,
    datagrams: bool,
    failing: Vec<Vec<u8>>,
}

impl PyServiceRow {
    pub(crate) fn row(self) -> PyResult<ServiceRow> {
        Ok(ServiceRow {
            key: id(&self.key, "key")?,
            name: self.name.into(),
            providers: ids(&self.providers, "providers")?,
            datagrams: self.datagrams,
            failing: ids(&self.failing, "failing")?,
        })
    }
}

/// `pollen.core.effects.ServedRow`.
#[derive(FromPyObject)]
pub(crate) struct PyServedRow {
    key: Vec<u8>,
    name: String,
    target: String,
    datagrams: bool,
    allow: Vec<(String, String)>,
    policy: Option<PyPolicyRow>,
    proxy_header: bool,
    idle_ms: u64,
}

impl PyServedRow {
    pub(crate) fn row(self) -> PyResult<ServedRow> {
        Ok(ServedRow {
            key: id(&self.key, "key")?,
            name: self.name.into(),
            target: self.target.into(),
            datagrams: self.datagrams,
            allow: self.allow,
            policy: self.policy.map(|held| Arc::new(held.policy())),
            proxy_header: self.proxy_header,
            idle_ms: self.idle_ms,
        })
    }
}

/// `pollen.core.effects.OpenListener`.
#[derive(FromPyObject)]
pub(crate) struct PyListener {
    listener: u64,
    bind: String,
    service: String,
    datagrams: bool,
    provider: Option<Vec<u8>>,
    any_user: bool,
    idle_ms: u64,
    auth: String,
}

impl PyListener {
    pub(crate) fn listener(self) -> PyResult<Listener> {
        Ok(Listener {
            listener: self.listener,
            bind: self.bind,
            service: self.service,
            datagrams: self.datagrams,
            provider: self.provider.map(|provider| id(&provider, "provider")).transpose()?,
            any_user: self.any_user,
            idle_ms: self.idle_ms,
            auth: self.auth,
        })
    }
}

/// `pollen.core.effects.ProbeService`.
#[derive(FromPyObject)]
pub(crate) struct PyProbe {
    number: u64,
    target: String,
    path: String,
    proxy_header: bool,
    timeout_ms: u64,
}

impl PyProbe {
    pub(crate) fn probe(self) -> Probe {
        let Self { number, target, path, proxy_header, timeout_ms } = self;
        Probe { number, target, path, proxy_header, timeout_ms }
    }
}

/// `pollen.core.events.SignedRecord`.
#[derive(FromPyObject)]
pub(crate) struct PySignedRecord {
    owner: Vec<u8>,
    pub(crate) body: Vec<u8>,
    signature: Vec<u8>,
}

impl PySignedRecord {
    pub(crate) fn parts(&self) -> PyResult<(Id, [u8; 64])> {
        let signature = self
            .signature
            .as_slice()
            .try_into()
            .map_err(|_| native("bad-request", "a signature must be 64 bytes"))?;
        Ok((id(&self.owner, "owner")?, signature))
    }
}
