//! `Muscles`: the commands of the brain, each non-blocking but for `start`, `ask_join` and `close`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::{fd::IntoRawFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI32, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use pollen_door::{
    Doors, Hosts,
    workload::{Target, WorkPlan, Workloads},
};
use pollen_net::HelloData;
use pollen_plane::{
    Plane, PlaneConfig,
    begin::OwnCall,
    tables::{Lane, Push},
};
use pollen_tunnel::Tunnels;
use pollen_wire::control::SignedRecord;
use pyo3::{prelude::*, types::PyBytes};

use crate::{
    error::{native, of_net, of_plane},
    keys::KeyPair,
    logging, packed,
    rows::{
        PyLane, PyListener, PyPeerRow, PyProbe, PySeedRow, PyServedRow, PyServiceRow,
        PySignedRecord, address, addresses, id, ids, kind_of,
    },
};

/// The data plane of one node: endpoint, sandbox, gateway. One a process; closes idempotently.
#[pyclass(frozen, module = "pollen._native")]
pub struct Muscles {
    config: Config,
    running: Mutex<Option<Running>>,
    event_fd: AtomicI32,
    process: u32,
}

/// What a start leaves.
struct Running {
    plane: Plane,
    doors: Doors,
    tunnels: Tunnels,
    workloads: Workloads,
}

struct Config {
    secret: pollen_net::SecretKey,
    boot: [u8; 16],
    directory: PathBuf,
    memory_bytes: u64,
    code_cache_bytes: u64,
    event_capacity: usize,
}

impl Muscles {
    /// The running plane; refused in a forked child, whose threads are gone.
    fn plane(&self) -> PyResult<Plane> {
        self.part(|running| running.plane.clone())
    }

    /// The workloads made from here; refused as the plane is.
    fn workloads(&self) -> PyResult<Workloads> {
        self.part(|running| running.workloads.clone())
    }

    fn part<T>(&self, take: impl FnOnce(&Running) -> T) -> PyResult<T> {
        self.check_process()?;
        let held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(take).ok_or_else(not_running)
    }

    fn check_process(&self) -> PyResult<()> {
        if std::process::id() == self.process {
            return Ok(());
        }
        Err(native("forked", "the muscles were built before a fork; start a new process instead"))
    }
}

#[pymethods]
impl Muscles {
    #[new]
    #[pyo3(signature = (*, key, boot, directory, memory_bytes, code_cache_bytes = 2147483648, event_capacity = 8192))]
    fn new(
        key: &Bound<'_, KeyPair>,
        boot: &[u8],
        directory: PathBuf,
        memory_bytes: u64,
        code_cache_bytes: u64,
        event_capacity: usize,
    ) -> PyResult<Self> {
        let boot = boot.try_into().map_err(|_| native("bad-request", "boot must be 16 bytes"))?;
        let secret = key.get().0.clone();
        Ok(Self {
            config: Config {
                secret,
                boot,
                directory,
                memory_bytes,
                code_cache_bytes,
                event_capacity,
            },
            running: Mutex::new(None),
            event_fd: AtomicI32::new(-1),
            process: std::process::id(),
        })
    }

    /// Bind and serve; returns the bound addresses.
    #[pyo3(signature = (*, listen, call_socket, http = None, hosts = Vec::new()))]
    fn start(
        &self,
        py: Python<'_>,
        listen: Vec<String>,
        call_socket: PathBuf,
        http: Option<String>,
        hosts: Vec<(String, String)>,
    ) -> PyResult<Vec<String>> {
        self.check_process()?;
        let mut held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if held.is_some() {
            return Err(native("already-running", "the muscles are already running"));
        }
        let listen = addresses(&listen)?;
        let http = http.map(|text| address(&text)).transpose()?;
        let system = |e: std::io::Error| native("state-unusable", format!("no socket pair: {e}"));
        let (reader, wake) = UnixStream::pair().map_err(system)?;
        reader.set_nonblocking(true).and_then(|()| wake.set_nonblocking(true)).map_err(system)?;
        let started = py.detach(|| self.begin(listen, &call_socket, http, Hosts::new(hosts), wake));
        let (running, bound) = started.map_err(|error| of_plane(&error))?;
        logging::direct(Some(running.plane.clone()));
        self.event_fd.store(reader.into_raw_fd(), SeqCst);
        *held = Some(running);
        Ok(bound)
    }

    /// The read end to watch. It stays open until `close`; remove the reader before that.
    fn event_fd(&self) -> PyResult<i32> {
        let fd = self.event_fd.load(SeqCst);
        if fd == -1 { Err(not_running()) } else { Ok(fd) }
    }

    /// At most 512 events as one msgpack array of maps tagged `t`.
    fn drain<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let plane = self.plane()?;
        let packed = py.detach(|| rmp_serde::to_vec_named(&plane.events().drain()));
        let packed =
            packed.map_err(|e| native("internal", format!("events do not encode: {e}")))?;
        Ok(PyBytes::new(py, &packed))
    }

    #[pyo3(signature = (*, cluster, minor_min, minor_max, chain))]
    fn set_hello(
        &self,
        cluster: &[u8],
        minor_min: u16,
        minor_max: u16,
        chain: Vec<u8>,
    ) -> PyResult<()> {
        let cluster = id(cluster, "cluster")?;
        self.plane()?.net().set_hello(HelloData { cluster, minor_min, minor_max, chain });
        Ok(())
    }

    #[pyo3(signature = (peer, addresses, by_mesh = false))]
    fn dial(&self, peer: &[u8], addresses: Vec<String>, by_mesh: bool) -> PyResult<()> {
        let (peer, to) = (id(peer, "peer")?, self::addresses(&addresses)?);
        let plane = self.plane()?;
        let _inside = plane.handle().enter();
        plane.net().dial(peer, to, by_mesh);
        Ok(())
    }

    fn set_relay(&self, relays: bool, bytes_per_s: u64) -> PyResult<()> {
        self.plane()?.net().set_relay(relays, bytes_per_s);
        Ok(())
    }

    fn set_seen(&self, addresses: Vec<String>) -> PyResult<()> {
        let seen = self::addresses(&addresses)?;
        let plane = self.plane()?;
        let _inside = plane.handle().enter();
        plane.net().set_seen(seen);
        Ok(())
    }

    /// What is known of the ways to a peer, as a msgpack map; waits for the endpoint, a millisecond.
    fn paths<'py>(&self, py: Python<'py>, peer: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
        let (plane, peer) = (self.plane()?, id(peer, "peer")?);
        packed(py, py.detach(|| rmp_serde::to_vec_named(&plane.paths(peer))))
    }

    /// What each provider of a service said to the last client of this node, as a msgpack list.
    fn answers<'py>(&self, py: Python<'py>, service: &str) -> PyResult<Bound<'py, PyBytes>> {
        let answers = self.part(|running| running.tunnels.answers(service))?;
        packed(py, rmp_serde::to_vec_named(&answers))
    }

    fn admit_link(&self, link: u64) -> PyResult<()> {
        self.plane()?.net().admit(link);
        Ok(())
    }

    fn close_link(&self, link: u64, code: u32, reason: &str) -> PyResult<()> {
        let plane = self.plane()?;
        let _inside = plane.handle().enter();
        plane.net().close_link(link, code, reason);
        Ok(())
    }

    fn send_message(&self, peer: &[u8], body: &[u8]) -> PyResult<()> {
        self.plane()?.net().send_message(id(peer, "peer")?, body).map_err(|e| of_net(&e))
    }

    fn send_records(&self, peer: &[u8], records: Vec<PySignedRecord>) -> PyResult<()> {
        let signed = records
            .iter()
            .map(|record| {
                let (owner, signature) = record.parts()?;
                Ok(SignedRecord { owner, body: &record.body, signature })
            })
            .collect::<PyResult<Vec<_>>>()?;
        self.plane()?.net().send_records(id(peer, "peer")?, &signed).map_err(|e| of_net(&e))
    }

    fn answer_join(&self, request: u64, body: Vec<u8>) -> PyResult<()> {
        self.plane()?.net().answer_join(request, body);
        Ok(())
    }

    /// One `pollen-join/1` exchange; blocks with the interpreter released.
    fn ask_join<'py>(
        &self,
        py: Python<'py>,
        addresses: Vec<String>,
        peer: &[u8],
        body: &[u8],
        timeout_ms: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (peer, to) = (id(peer, "peer")?, self::addresses(&addresses)?);
        let plane = self.plane()?;
        let answer = py.detach(|| {
            let asked = plane.net().ask_join(peer, &to, body);
            plane.handle().block_on(async {
                tokio::time::timeout(Duration::from_millis(timeout_ms), asked).await
            })
        });
        match answer {
            Ok(Ok(answer)) => Ok(PyBytes::new(py, &answer)),
            Ok(Err(error)) => Err(of_net(&error)),
            Err(_) => Err(native("unreachable", format!("no answer within {timeout_ms} ms"))),
        }
    }

    /// Check held content; with a bundle, prepare that by its runner. A blob has to be held.
    /// `Inspected` follows.
    #[pyo3(signature = (request, content, bundle = None, kind = "module"))]
    fn inspect_module(
        &self,
        request: u64,
        content: &[u8],
        bundle: Option<Vec<u8>>,
        kind: &str,
    ) -> PyResult<()> {
        let bundle = bundle.filter(|bundle| !bundle.is_empty());
        let bundle = bundle.map(|bundle| id(&bundle, "bundle")).transpose()?;
        self.plane()?.inspect(request, id(content, "content")?, bundle, kind_of(kind)?);
        Ok(())
    }

    fn load_seed(&self, seed: &[u8], holders: Vec<Vec<u8>>) -> PyResult<()> {
        self.plane()?.load_seed(id(seed, "seed")?, ids(&holders, "holders")?);
        Ok(())
    }

    /// Call a function as this node; `CallEnded` with the token follows.
    #[pyo3(signature = (*, token, seed, function, input, budget_ms, here))]
    fn begin_call(
        &self,
        token: String,
        seed: &[u8],
        function: &str,
        input: Vec<u8>,
        budget_ms: u64,
        here: bool,
    ) -> PyResult<()> {
        let (seed, budget) = (id(seed, "seed")?, Duration::from_millis(budget_ms));
        let call =
            OwnCall { token, seed, function: function.into(), input: input.into(), budget, here };
        self.plane()?.begin_call(call);
        Ok(())
    }

    #[pyo3(signature = (seed, keep = false))]
    fn unload_seed(&self, seed: &[u8], keep: bool) -> PyResult<()> {
        self.plane()?.unload_seed(id(seed, "seed")?, keep);
        Ok(())
    }

    #[pyo3(signature = (*, generation, base, lanes, lease_ms))]
    fn push_tables(
        &self,
        generation: u64,
        base: u64,
        lanes: HashMap<String, PyLane>,
        lease_ms: u64,
    ) -> PyResult<()> {
        let lease = Duration::from_millis(lease_ms);
        let mut push = Push {
            generation,
            base,
            lease,
            seeds: Lane::default(),
            peers: Lane::default(),
            services: Lane::default(),
            served: Lane::default(),
        };
        for (name, lane) in lanes {
            match name.as_str() {
                "seeds" => push.seeds = lane.lane(PySeedRow::row)?,
                "peers" => push.peers = lane.lane(PyPeerRow::row)?,
                "services" => push.services = lane.lane(PyServiceRow::row)?,
                "served" => push.served = lane.lane(PyServedRow::row)?,
                _ => {
                    let reason = format!("there is no lane of rows {name:?}");
                    return Err(native("bad-request", reason));
                }
            }
        }
        let plane = self.plane()?;
        let _inside = plane.handle().enter();
        plane.push(push).map_err(|e| native("stale-generation", e.to_string()))
    }

    /// Take clients of this machine for a service; `ListenerOpened` with the number follows.
    fn open_listener(&self, asked: PyListener) -> PyResult<()> {
        let asked = asked.listener()?;
        self.part(|running| running.tunnels.open_listener(asked))
    }

    fn close_listener(&self, listener: u64) -> PyResult<()> {
        self.part(|running| running.tunnels.close_listener(listener))
    }

    /// Check the program of a service; `ServiceProbed` with the number follows.
    fn probe_service(&self, asked: PyProbe) -> PyResult<()> {
        self.part(|running| running.tunnels.probe(asked.probe()))
    }

    fn beat(&self) -> PyResult<()> {
        self.plane()?.beat();
        Ok(())
    }

    /// Call a seed from this node; blocks with the interpreter released. The report as JSON.
    ///
    /// `rate` 0 is closed loop. Each call has the seed's own time-out. With a service it is asked,
    /// and no seed is called.
    #[pyo3(signature = (*, name, seed, function, service, input, rate, concurrency, duration_ms, warm_up_ms))]
    #[allow(clippy::too_many_arguments)]
    fn run_workload<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        seed: &str,
        function: &str,
        service: &str,
        input: Vec<u8>,
        rate: u32,
        concurrency: usize,
        duration_ms: u64,
        warm_up_ms: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (plane, workloads) = (self.plane()?, self.workloads()?);
        let tunnels = self.part(|running| running.tunnels.clone())?;
        let target = Target { seed, function, service };
        let plan = WorkPlan {
            rate: (rate > 0).then_some(rate),
            concurrency,
            duration: Duration::from_millis(duration_ms),
            warm_up: Duration::from_millis(warm_up_ms),
        };
        let report =
            py.detach(|| workloads.run(&plane, &tunnels, name, target, input.into(), plan));
        let json = serde_json::to_vec(&report).map_err(|e| native("internal", e.to_string()))?;
        Ok(PyBytes::new(py, &json))
    }

    /// End the workloads of this name, whose reports come at once; how many there were.
    fn end_workload(&self, name: &str) -> PyResult<usize> {
        Ok(self.workloads()?.end(Some(name)))
    }

    /// A msgpack map of counters, gauges and histograms.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let plane = self.plane()?;
        let doors = {
            let held = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_ref().map_or_else(Vec::new, |running| {
                let tunnels = running.tunnels.metrics();
                running.doors.metrics().into_iter().chain(tunnels).collect()
            })
        };
        let all = plane.metrics().into_iter().chain(doors);
        let map: std::collections::BTreeMap<_, _> = all.collect();
        packed(py, rmp_serde::to_vec_named(&map))
    }

    /// Keep the spans of sampled calls, and sample this share (millionths) of the traces begun here.
    fn keep_spans(&self, millionths: u32) -> PyResult<()> {
        self.plane()?.spans().turn_on(millionths);
        Ok(())
    }

    /// The spans that ended since the last time, as one msgpack array of maps.
    fn drain_spans<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let plane = self.plane()?;
        let packed = py.detach(|| rmp_serde::to_vec_named(&plane.spans().drain()));
        let packed = packed.map_err(|e| native("internal", format!("spans do not encode: {e}")))?;
        Ok(PyBytes::new(py, &packed))
    }

    /// Refuse new calls, wait for those in flight up to `grace_ms`, stop all threads.
    fn close(&self, py: Python<'_>, grace_ms: u64) -> PyResult<()> {
        self.check_process()?;
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take();
        logging::direct(None);
        if let Some(Running { plane, doors, tunnels, workloads }) = running {
            py.detach(|| {
                let end = Instant::now() + Duration::from_millis(grace_ms);
                plane.refuse_calls();
                workloads.end(None);
                // An answer that is being written belongs to a call under way.
                doors.drain(Duration::from_millis(grace_ms));
                tunnels.close();
                plane.close(end.saturating_duration_since(Instant::now()));
            });
        }
        let fd = self.event_fd.swap(-1, SeqCst);
        if fd >= 0 {
            // SAFETY: the descriptor came from `into_raw_fd` in `start` and is closed once: it was
            // swapped out.
            drop(unsafe { <UnixStream as std::os::fd::FromRawFd>::from_raw_fd(fd) });
        }
        Ok(())
    }
}

impl Muscles {
    fn begin(
        &self,
        listen: Vec<SocketAddr>,
        call_socket: &Path,
        http: Option<SocketAddr>,
        hosts: Hosts,
        wake: UnixStream,
    ) -> Result<(Running, Vec<String>), pollen_plane::PlaneError> {
        let config = PlaneConfig {
            secret: self.config.secret.clone(),
            boot: self.config.boot,
            directory: self.config.directory.clone(),
            memory_bytes: self.config.memory_bytes,
            code_cache_bytes: self.config.code_cache_bytes,
            event_capacity: self.config.event_capacity,
            listen,
        };
        let plane = Plane::start(config, wake)?;
        let tunnels = Tunnels::new(plane.clone());
        let doors = Doors::new(plane.clone(), tunnels.clone(), self.config.memory_bytes, hosts);
        let opened = doors
            .open_socket(call_socket)
            .and_then(|()| http.map_or(Ok(()), |address| doors.open_http(address).map(drop)));
        if let Err(error) = opened {
            plane.close(Duration::ZERO);
            return Err(error);
        }
        let bound = plane.net().bound().iter().map(ToString::to_string).collect();
        Ok((Running { plane, doors, tunnels, workloads: Workloads::default() }, bound))
    }
}

fn not_running() -> PyErr {
    native("daemon-not-running", "the muscles are not running")
}
