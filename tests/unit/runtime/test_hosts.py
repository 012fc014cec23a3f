"""Which site a Host means: the rules of a node's operator."""

from __future__ import annotations

import pytest

from pollen.errors import BadRequest
from pollen.runtime.folder.config import Config, parse_config
from pollen.runtime.folder.hosts import EXAMPLE, of_door, rules_of


def test_a_rule_is_a_host_and_a_site() -> None:
    """Hosts are compared without case and without the dot at the end of a full name."""
    given = ["WWW.Example.org.=shop", "*.example.org", " *.shop.example.org = shop ", "*=home"]
    assert rules_of(given) == [
        ("www.example.org", "shop"),
        ("*.example.org", ""),
        ("*.shop.example.org", "shop"),
        ("*", "home"),
    ]
    assert rules_of(EXAMPLE.split(",")) and rules_of([]) == []


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (["example.org"], "names no site"),
        (["example.org="], "names no site"),
        (["*"], "names no site"),
        (["*.example.org="], "names no site"),
        (["=shop"], "neither a host"),
        (["a b=shop"], "neither a host"),
        (["a..b=shop"], "neither a host"),
        (["-a.org=shop"], "neither a host"),
        (["a.*.org=shop"], "neither a host"),
        (["**.org=shop"], "neither a host"),
        (["*.=shop"], "neither a host"),
        (["example.org:80=shop"], "neither a host"),
        (["b\u00fccher.example=shop"], "neither a host"),
        ([f"{'a' * 64}.org=shop"], "neither a host"),
        ([".".join(["a" * 60] * 5) + "=shop"], "neither a host"),
        (["example.org=Shop"], "not a valid name"),
        (["example.org=a=b"], "not a valid name"),
        (["a.org=x", "A.ORG.=y"], "two rules for 'a.org'"),
        (["*=x", "*=y"], "two rules for '*'"),
    ],
)
def test_what_is_no_rule_is_refused(texts: list[str], word: str) -> None:
    """By the settings file as well, with the key and an example."""
    with pytest.raises(ValueError, match=r"^has ") as raised:
        rules_of(texts)
    assert word in str(raised.value)
    with pytest.raises(BadRequest) as refused:
        parse_config(f"http_hosts = {texts!r}".replace("'", '"'))
    assert refused.value.slug == "config-invalid"
    assert refused.value.reason.startswith("http_hosts has") and EXAMPLE in refused.value.remedy


def test_no_rule_stands_by_default() -> None:
    assert Config().http_hosts == [] and Config().http_paths == "off"


def test_paths_are_a_rule_of_the_door_beside_those_of_hosts() -> None:
    assert of_door(["*=home"], "off") == [("*", "home")]
    assert of_door(["*=home"], "on") == [("*", "home"), ("/~site/", "")]
    with pytest.raises(BadRequest, match="http_paths"):
        parse_config('http_paths = "yes"')
