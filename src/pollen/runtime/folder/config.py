"""``<dir>/config.toml``: what a daemon is told about its machine; ``pln set`` writes it.

Unknown keys and wrong types are ``config-invalid``, naming the key and the known ones. Comments and
order of a file survive a change. Every setting is read when the daemon starts, but those in
``AT_ONCE``.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import psutil

from pollen.core import limits
from pollen.core.config import RELAY_BYTES_PER_S
from pollen.core.ids import MILLISECOND
from pollen.core.labels import check_name
from pollen.errors import BadRequest, PollenError
from pollen.paths import cure
from pollen.runtime.folder import hosts

DEFAULT_PORT = 60611
DEFAULT_LISTEN = (f"0.0.0.0:{DEFAULT_PORT}", f"[::]:{DEFAULT_PORT}")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings; a command line option goes before the file.

    ``listen``: addresses to bind. ``http``: the TCP door of the gateway, none by default.
    ``http_hosts``: which sites it answers with, by the Host of a request, beside their names.
    ``http_paths``: ``on`` has it answer with a site by its path as well.
    ``metrics``: the TCP page for Prometheus, none by default.
    ``otlp_endpoint``: where spans of calls go, ``otlp_sample_percent`` of the traces begun here.
    ``memory_bytes``: for guests; 0 is half of the machine's. ``grace_ms``: for calls at shutdown.
    ``idle_ms``: a seed without a call from here for so long is in no demand from here.
    ``code_cache_bytes``: disk for compiled code. ``blob_bytes``: for copies of blobs and sites; 0
    is all that is free.
    ``relay``: ``auto`` passes on packets of members that cannot reach each other, ``off`` none;
    ``relay_bytes``: at most so many a second.
    ``discovery``: words, as in ``"static:192.0.2.7:60611 multicast"``.
    ``takes_from``: who may upgrade this node over the mesh; ``upgrade.from`` in the file. It is
    read each time that an upgrade comes.
    """

    listen: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_LISTEN))
    http: str = ""
    http_hosts: list[str] = msgspec.field(default_factory=list)
    http_paths: str = "off"
    metrics: str = ""
    name: str = ""
    memory_bytes: int = 0
    log_level: str = "info"
    grace_ms: int = 5_000
    idle_ms: int = limits.DEMAND_KEEP_NS // MILLISECOND
    code_cache_bytes: int = 2 << 30
    blob_bytes: int = 0
    discovery: str | list[str] = ""
    relay: str = "auto"
    relay_bytes: int = RELAY_BYTES_PER_S
    otlp_endpoint: str = ""
    otlp_sample_percent: int = 100
    takes_from: str = msgspec.field(default="nobody", name="upgrade.from")

    def guest_memory(self) -> int:
        """Bytes that guests may use."""
        return self.memory_bytes or int(psutil.virtual_memory().total) // 2

    def guest_slots(self) -> int:
        """Cores that guests share."""
        return psutil.cpu_count() or 1


# What each setting means, for people. A name that ends in a unit is written with one: 512MiB, 5s.
MEANINGS: dict[str, str] = {
    "listen": "addresses to bind for links, ip:port, with commas between",
    "http": "ip:port of the TCP door for public seeds; empty: none",
    "http_hosts": "sites by host, with commas between: HOST=SITE, *.SUFFIX=SITE, *.SUFFIX, *=SITE",
    "http_paths": "on: sites at /~site/NAME/ of the TCP door, too, all of one origin; off: none",
    "metrics": "ip:port of the page for Prometheus; empty: none",
    "name": "the node's name; empty: the one that it was enrolled under",
    "memory_bytes": "memory for guests; 0B: half of the machine's",
    "log_level": "debug, info or warning",
    "grace_ms": "time that calls are given to end at a shutdown",
    "idle_ms": "without a call from here for so long a seed may go to sleep",
    "code_cache_bytes": "disk for compiled modules; those unused for longest go first",
    "blob_bytes": "disk for copies of blobs and sites; 0B: all that is free",
    "discovery": "where to look for peers, as in: static:192.0.2.7:60611 multicast",
    "relay": "auto: pass on packets of members that cannot reach each other; off: none",
    "relay_bytes": "what is passed on for others at most, in a second",
    "otlp_endpoint": "URL of an OTLP collector for spans of calls; empty: none",
    "otlp_sample_percent": "share of the traces begun here that leave spans, 0 to 100",
    "upgrade.from": "who may upgrade this node over the mesh, from now on: root or nobody",
}
TAKES_FROM = ("root", "nobody")
# Read when it is asked for, not when the node starts.
AT_ONCE = frozenset({"upgrade.from"})
# The settings whose name is not that of a field.
_FIELDS = {"upgrade.from": "takes_from"}
LEVELS = ("debug", "info", "warning")
RELAYS = ("auto", "off")
SWITCH = ("on", "off")


def value_of(config: Config, key: str) -> str | int | list[str]:
    """A setting by its name."""
    value: str | int | list[str] = getattr(config, _FIELDS.get(key, key))
    return value


def read_config(path: Path) -> Config:
    """The settings in ``path``, or the defaults when there is no file."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return Config()
    except PermissionError:
        if not os.access(path.parent, os.X_OK):
            return Config()  # the folder itself is the trouble; who uses it says so
        raise BadRequest(
            "config-invalid", f"{path} cannot be read", "give it back: chown"
        ) from None
    except (OSError, ValueError) as error:
        raise BadRequest("config-invalid", f"{path}: {error}", "mend or remove the file") from error
    return parse_config(text, str(path))


def parse_config(text: str, where: str = "") -> Config:
    """The settings of a file's text; ``where`` begins the reasons, behind it stands the key."""
    at = f"{where}: " if where else ""
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise BadRequest("config-invalid", f"{at}{error}", "mend the file") from error
    if isinstance(table.get("upgrade"), dict):
        # ``upgrade.from = "root"`` without quotes is a table to TOML.
        table |= {f"upgrade.{key}": value for key, value in table.pop("upgrade").items()}
    for key in table:
        check_key(key, where)
    try:
        config = msgspec.convert(table, Config)
    except msgspec.ValidationError as error:
        raise BadRequest("config-invalid", f"{at}{error}", "mend the value") from error
    check_values(config, where)
    return config


def check_values(config: Config, where: str = "") -> None:
    """Raise ``config-invalid`` for a value that is none, be it from a file or from a flag."""
    at = f"{where}: " if where else ""
    for key, reason, remedy in _faults(config):
        raise BadRequest("config-invalid", f"{at}{key} {reason}", remedy)


def _faults(config: Config) -> Iterator[tuple[str, str, str]]:
    """What is wrong: the key, what is said of it, what would do."""
    addresses = [("listen", address) for address in config.listen]
    addresses += [("http", config.http), ("metrics", config.metrics)]
    for key, address in addresses:
        if (address or key == "listen") and not _is_address(address):
            yield key, f"has {address!r}", "write ip:port, as in 192.0.2.7:60611, [::]:0"
    if not config.listen:
        yield "listen", "is empty", "write ip:port, as in 192.0.2.7:60611, or: pln unset listen"
    try:
        hosts.rules_of(config.http_hosts)
    except ValueError as error:
        yield "http_hosts", str(error), f"write as in: pln set http_hosts '{hosts.EXAMPLE}'"
    url = config.otlp_endpoint
    if url and not re.match(r"https?://[^/\s]+", url):
        yield "otlp_endpoint", f"is {url!r}", "write a URL, as in http://192.0.2.9:4318"
    if not 0 <= config.otlp_sample_percent <= 100:
        percent = f"is {config.otlp_sample_percent}"
        yield "otlp_sample_percent", percent, "write a number from 0 to 100"
    least = limits.DEMAND_KEEP_MIN_NS // MILLISECOND
    if config.idle_ms < least:
        yield "idle_ms", f"is {config.idle_ms} ms", f"{least} or more: pln set idle_ms 5m"
    for key, example in (
        ("memory_bytes", "1GiB"),
        ("code_cache_bytes", "2GiB"),
        ("blob_bytes", "20GiB"),
        ("grace_ms", "5s"),
    ):
        if (held := getattr(config, key)) < 0:
            yield key, f"is {held}", f"0 or more: pln set {key} {example}"
    refusal = check_name(config.name) if config.name else None
    if refusal is not None:
        yield "name", f"cannot be so: {refusal.reason}", refusal.remedy
    if config.http_paths not in SWITCH:
        yield "http_paths", f"is {config.http_paths!r}", f"one of: {', '.join(SWITCH)}"
    if config.relay not in RELAYS:
        yield "relay", f"is {config.relay!r}", f"one of: {', '.join(RELAYS)}"
    if config.relay_bytes < 1:
        yield "relay_bytes", f"is {config.relay_bytes}", "to pass on nothing: pln set relay off"
    if config.takes_from not in TAKES_FROM:
        yield "upgrade.from", f"is {config.takes_from!r}", f"one of: {', '.join(TAKES_FROM)}"
    if config.log_level not in LEVELS:
        yield "log_level", f"is {config.log_level!r}", f"one of: {', '.join(LEVELS)}"


def check_key(key: str, where: str = "") -> None:
    """Raise ``config-invalid`` for a setting that does not exist, with the nearest that does."""
    if key in MEANINGS:
        return
    near = difflib.get_close_matches(key, MEANINGS, n=1)
    hint = f"did you mean: {near[0]}" if near else f"known keys: {', '.join(MEANINGS)}"
    at = f"{where}: " if where else ""
    raise BadRequest("config-invalid", f"{at}there is no setting {key!r}", hint)


def _is_address(address: str) -> bool:
    host, colon, port = address.rpartition(":")
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        return bool(colon) and 0 <= int(port) <= 65_535
    except ValueError:
        return False


def write_setting(
    path: Path,
    key: str,
    value: str | int | list[str] | None,
    check: Callable[[Config], None] = lambda config: None,
) -> Config:
    """Set one key, or with None take it out, and keep everything else as it stands.

    The file is replaced in one step; a value that the daemon would refuse, or ``check``, changes
    nothing (``config-invalid``).
    """
    import tomlkit

    check_key(key)
    read_config(path)
    held = path.read_text(encoding="utf-8") if path.exists() else ""
    document = tomlkit.parse(held)
    outer, _, inner = key.partition(".")
    if inner and isinstance(document.get(outer), dict):
        document[outer].pop(inner, None)
        if not document[outer]:
            document.pop(outer)
    if value is None:
        document.pop(key, None)
    else:
        document[key] = value
    text = tomlkit.dumps(document)
    config = parse_config(text)
    check(config)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        reason = f"{path} cannot be written: {error.strerror}"
        raise PollenError("state-unusable", reason, cure(path, error)) from error
    return config
