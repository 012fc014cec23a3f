"""What asks for the export of spans, and what is said when it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from pollen.errors import BadRequest
from pollen.paths import resolve
from pollen.runtime.daemon import run_daemon
from pollen.runtime.folder.config import Config, parse_config
from pollen.runtime.watch import otlp
from pollen.runtime.watch.otlp import Span, attributes_of, check_extra, endpoint_of, is_wanted

COLLECTOR = Config(otlp_endpoint="http://127.0.0.1:4318")


def test_without_the_extra_the_setting_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon does not start without what it is told to do; without the setting nothing is
    missed."""
    monkeypatch.setattr(otlp, "is_installed", lambda: False)
    check_extra(Config())
    with pytest.raises(BadRequest) as caught:
        run_daemon(resolve(str(tmp_path / "node")), COLLECTOR, with_text=False)
    assert caught.value.slug == "config-invalid"
    assert 'pip install "pollen-mesh[otel]"' in caught.value.remedy
    assert not (tmp_path / "node").exists()


def test_spans_are_wanted_by_the_setting_or_by_the_standard_variables() -> None:
    """Nothing goes anywhere unless an endpoint was named."""
    named = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    assert is_wanted(COLLECTOR, {})
    assert is_wanted(Config(), named)
    assert not is_wanted(Config(), {})
    assert not is_wanted(Config(), {"OTEL_SERVICE_NAME": "pollen"})
    assert not is_wanted(Config(), {**named, "OTEL_SDK_DISABLED": "true"})
    assert not is_wanted(Config(), {**named, "OTEL_TRACES_EXPORTER": "none"})


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("", None),
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otlp.example/tenant/v1/traces", "https://otlp.example/tenant/v1/traces"),
    ],
)
def test_an_endpoint_without_a_path_has_the_usual_one(url: str, whole: str | None) -> None:
    assert endpoint_of(Config(otlp_endpoint=url)) == whole


@pytest.mark.parametrize(
    "text",
    ['otlp_endpoint = "127.0.0.1:4318"', 'otlp_endpoint = "http:"', "otlp_sample_percent = 101"],
)
def test_a_setting_of_the_export_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_config(text, "config.toml")
    assert caught.value.slug == "config-invalid"
    assert caught.value.remedy


def test_a_failed_span_has_its_slug_as_the_error_type() -> None:
    span = Span(
        trace=b"t" * 16,
        span=b"s" * 8,
        parent=b"",
        ran=True,
        seed="echo",
        version=b"v" * 32,
        function="say",
        start_unix_ns=1,
        duration_ns=2,
        slug="deadline",
        node=b"n" * 32,
        attempts=1,
        queue_us=3,
        run_us=4,
    )
    said = attributes_of(span)
    assert (said["rpc.service"], said["error.type"]) == ("echo", "deadline")
    assert said["pollen.version"] == b"vvvv".hex()
