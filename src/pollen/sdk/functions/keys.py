"""Texts that look like a key or a password, which must not leave a machine unseen.

Decides: what looks like one.
Does not know: where the text comes from.
Invariants: what is found is named by its kind and line, and is itself in no error.
Source: docs/design/functions.md#what-is-shipped. The forms are those that their issuers publish.
"""

from __future__ import annotations

import re
from typing import Final

_FORMS: Final = (
    ("a private key", r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"),
    ("an AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    ("a GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{22,})"),
    ("a GitLab token", r"\bglpat-[A-Za-z0-9_-]{20,}"),
    ("a Slack token", r"\bxox[abprs]-[A-Za-z0-9-]{10,}"),
    ("a Google key", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    ("a Stripe key", r"\b[rs]k_live_[0-9A-Za-z]{16,}"),
    ("a key of an API", r"\bsk-[A-Za-z0-9_-]{32,}"),
    ("a JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\."),
    (
        "a password or key",
        r"(?i:\b\w*(?:passw(?:or)?d|secret|token|api_?key|private_?key)\w*[\"']?\s*[:=]\s*"
        r"[\"'][^\"'\s{}<>]{12,}[\"'])",
    ),
)
_ANY: Final = re.compile("|".join(f"({form})" for _, form in _FORMS))


def find_key(text: str) -> tuple[str, int] | None:
    """The first thing that looks like a key: what it looks like, and its line from 1."""
    found = _ANY.search(text)
    if found is None:
        return None
    return _FORMS[(found.lastindex or 1) - 1][0], text.count("\n", 0, found.start()) + 1
