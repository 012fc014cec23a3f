"""``http_hosts``: which sites the TCP door answers with, by the Host of a request.

Decides: what a rule is, and which two contradict each other.
Does not know: which sites there are; a rule may name one that comes later.
Invariants: what ``rules_of`` gives, the muscles take as it is.
Source: docs/internals/content.md#hosts; RFC 1123, 2.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pollen.core.labels import check_name

_LABEL: Final = "[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HOST_MAX: Final = 253
# The rule that lets the path of a request name a site.
_BY_PATH: Final = ("/~site/", "")
EXAMPLE: Final = "www.example.org=shop,*.example.org,*=home"


def rules_of(texts: Sequence[str]) -> list[tuple[str, str]]:
    """Hosts and sites: ``HOST=SITE``, ``*.SUFFIX=SITE``, ``*=SITE``, and ``*.SUFFIX`` alone, whose
    site is the empty text. Raises ``ValueError`` with what is wrong, to stand behind the key."""
    found: dict[str, str] = {}
    for text in texts:
        written, equals, site = (part.strip() for part in text.partition("="))
        host = written.lower()
        host = host if host == "*." else host.removesuffix(".")
        name = host.removeprefix("*.")
        if host != "*" and (_HOST.fullmatch(name) is None or len(host) > _HOST_MAX):
            raise ValueError(f"has {text!r}, where {written!r} is neither a host nor *.SUFFIX")
        if bool(site) != bool(equals) or not (site or host.startswith("*.")):
            raise ValueError(f"has {text!r}, which names no site")
        refusal = check_name(site) if site else None
        if refusal is not None:
            raise ValueError(f"has {text!r}: {refusal.reason}")
        if host in found:
            raise ValueError(f"has two rules for {host!r}")
        found[host] = site
    return list(found.items())


def of_door(texts: Sequence[str], by_path: str) -> list[tuple[str, str]]:
    """The rules as the door takes them; ``by_path`` is the setting ``http_paths``."""
    return rules_of(texts) + [_BY_PATH] * (by_path == "on")
