"""The Prometheus page: counters of the muscles, the driver and the core, as pushed.

Names are ``pollen_<name>``; a map of the muscles becomes one metric with the label ``key``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class PushedCollector(Collector):
    """Turns nested maps of numbers into metric families."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family a number, one labelled family a map of numbers."""
        for name in sorted(self._values):
            value = self._values[name]
            metric = _name(name)
            if isinstance(value, bool | int | float):
                yield GaugeMetricFamily(metric, name, value=float(value))
            elif isinstance(value, dict):
                family = GaugeMetricFamily(metric, name, labels=["key"])
                for key, number in value.items():
                    if isinstance(number, bool | int | float):
                        family.add_metric([_label(key)], float(number))
                yield family


def metrics_page(native: bytes, own: Mapping[str, object]) -> str:
    """The page of what the muscles report (a msgpack map) and of our own counters."""
    values: dict[str, object] = dict(own)
    decoded = msgspec.msgpack.decode(native)
    if isinstance(decoded, dict):
        values |= {str(key): value for key, value in decoded.items()}
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PushedCollector(values))
    return generate_latest(registry).decode()


def _name(raw: str) -> str:
    return "pollen_" + "".join(c if c.isalnum() else "_" for c in raw)


def _label(raw: object) -> str:
    return raw.hex() if isinstance(raw, bytes) else str(raw)
