"""What can go wrong, as types: one tree, one table of slugs.

::

    PollenError
      CallError                 whatever a call can raise
        BadRequest              usage, bad-request, name-invalid, config-invalid,
                                module-invalid, import-unknown, root-file-invalid,
                                bad-policy, wheel-invalid, bundle-invalid, bad-argument
        NotFound                seed-not-found, function-not-found, peer-not-found, blob-not-found,
                                service-not-found, version-not-found
        Denied                  denied, not-a-recipient, token-invalid, root-not-here,
                                passphrase-wrong, release-denied, upgrade-not-taken
        Conflict                name-taken, already-in-cluster, file-exists,
                                root-file-foreign, root-file-stale, release-stale
        Ambiguous               ambiguous
        Unreachable             unreachable, daemon-not-running, daemon-not-answering,
                                version-mismatch, provider-refused
        Overloaded              overloaded
        DeadlineExceeded        deadline
        GuestError              guest-*
        TooLarge                input-too-large
        LimitExceeded           hop-limit, call-limit
      (PollenError itself)      port-in-use, state-unusable, storage-full, already-running,
                                path-too-long, forked, host-unfit, internal, upgrade-failed
    InvariantError              a bug of ours; never caught on purpose

Decides: class, exit code, HTTP status and "may have executed" of every slug.
Does not know: who prints an error, or how.
Invariants: a slug stands in ``SLUGS`` or it does not exist; importing this loads no other module
of ours and nothing heavy, since the CLI and the SDK start with it.
Source: docs/design/errors.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_PERMISSION = 4
EXIT_AMBIGUOUS = 5
EXIT_UNREACHABLE = 6


def is_command(remedy: str) -> bool:
    """One bare command is a proposal; several are a list to paste from, and a sentence speaks."""
    return remedy.startswith("pln ") and "\n" not in remedy


class PollenError(Exception):
    """An operating error: what happened (``reason``), its ``slug``, what to do (``remedy``).

    ``node`` is the hex id of the node that said so, ``attempts`` how many hosts were tried,
    ``retry_after`` seconds. ``may_have_executed`` follows the slug's rule unless it is stated.
    ``index`` is the place, from 0, of the input that failed in a ``map``.
    Remedy and slug are notes (PEP 678), so that a traceback shows them.
    """

    def __init__(
        self,
        slug: str,
        reason: str,
        remedy: str = "",
        *,
        node: str | None = None,
        attempts: int = 0,
        may_have_executed: bool | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(reason)
        row = SLUGS.get(slug, SLUGS["internal"])
        self.slug = slug
        self.reason = reason
        self.remedy = remedy
        self.node = node
        self.attempts = attempts
        self.retry_after = retry_after
        if may_have_executed is None:
            may_have_executed = row.may_have_executed is True
        self.may_have_executed = may_have_executed
        self.index: int | None = None
        # What ``pln`` prints beneath an error, a traceback shows beneath it too.
        if remedy:
            self.add_note(f"try: {remedy}" if is_command(remedy) else remedy)
        if may_have_executed:
            self.add_note("the function may have run")
        self.add_note(f"[{slug}]")

    def __str__(self) -> str:
        return self.reason if self.index is None else f"input {self.index}: {self.reason}"

    def __reduce__(self) -> tuple[object, ...]:
        body = {**self.to_dict(), "retry_after": self.retry_after}
        return error_from_dict, (body,), self.__dict__.copy()

    @property
    def exit_code(self) -> int:
        """The exit code of ``pln`` for this slug."""
        return SLUGS.get(self.slug, SLUGS["internal"]).exit_code

    @property
    def http_status(self) -> int:
        """The HTTP status for this slug."""
        return SLUGS.get(self.slug, SLUGS["internal"]).http_status

    def to_dict(self) -> dict[str, str | int | bool | None]:
        """The body of ``application/problem+json`` (RFC 9457), also printed by ``--json``."""
        return {
            "type": f"urn:pollen:error:{self.slug}",
            "title": self.reason,
            "status": self.http_status,
            "slug": self.slug,
            "remedy": self.remedy,
            "node": self.node,
            "attempts": self.attempts,
            "may_have_executed": self.may_have_executed,
        }


class CallError(PollenError):
    """Whatever a call can raise."""


class BadRequest(CallError):
    """What was asked is malformed; asking again will not help."""


class NotFound(CallError):
    """No such seed, function, peer or blob in this node's view."""


class Denied(CallError):
    """A gate, a certificate or a token says no."""


class Conflict(CallError):
    """What was asked contradicts what stands."""


class Ambiguous(CallError):
    """More than one thing is meant; the remedy lists them."""


class Unreachable(CallError):
    """Nobody answered."""


class Overloaded(CallError):
    """Refused for load, not executed; ``retry_after`` says when to come back."""


class DeadlineExceeded(CallError):
    """The budget ran out."""


class GuestError(CallError):
    """The guest itself failed.

    With ``guest-status`` the output was delivered all the same: ``output``, and the ``status`` that
    the function returned.
    """

    output: bytes = b""
    status: int | None = None


class TooLarge(CallError):
    """The input is over the limit."""


class LimitExceeded(CallError):
    """A chain of calls is too deep or too broad."""


class InvariantError(Exception):
    """A broken invariant: a bug of ours. Always raised, also under ``-O``."""


class SlugRow(NamedTuple):
    """One line of the table. ``may_have_executed`` None: each error states it."""

    error: type[PollenError]
    exit_code: int
    http_status: int
    may_have_executed: bool | None


SLUGS: Mapping[str, SlugRow] = {
    "usage": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "bad-request": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "seed-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "service-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "function-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "peer-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "blob-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "version-not-found": SlugRow(NotFound, EXIT_NOT_FOUND, 404, False),
    "denied": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "not-a-recipient": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "name-taken": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "already-in-cluster": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "root-not-here": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "passphrase-wrong": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "root-file-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "root-file-foreign": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "root-file-stale": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "release-denied": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "release-stale": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "upgrade-not-taken": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "file-exists": SlugRow(Conflict, EXIT_PERMISSION, 409, False),
    "ambiguous": SlugRow(Ambiguous, EXIT_AMBIGUOUS, 409, False),
    "unreachable": SlugRow(Unreachable, EXIT_UNREACHABLE, 502, None),
    "provider-refused": SlugRow(Unreachable, EXIT_UNREACHABLE, 502, False),
    "daemon-not-running": SlugRow(Unreachable, EXIT_UNREACHABLE, 502, None),
    "daemon-not-answering": SlugRow(Unreachable, EXIT_UNREACHABLE, 504, None),
    "overloaded": SlugRow(Overloaded, EXIT_FAILURE, 503, False),
    "deadline": SlugRow(DeadlineExceeded, EXIT_FAILURE, 504, None),
    "guest-failed": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-trapped": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-out-of-memory": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-output-too-large": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-status": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-host-refused": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "guest-vars-too-large": SlugRow(GuestError, EXIT_FAILURE, 500, True),
    "input-too-large": SlugRow(TooLarge, EXIT_FAILURE, 413, False),
    "hop-limit": SlugRow(LimitExceeded, EXIT_FAILURE, 508, None),
    "call-limit": SlugRow(LimitExceeded, EXIT_FAILURE, 508, None),
    "module-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "import-unknown": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "bundle-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "bad-argument": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "wheel-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "name-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "bad-policy": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "config-invalid": SlugRow(BadRequest, EXIT_USAGE, 400, False),
    "token-invalid": SlugRow(Denied, EXIT_PERMISSION, 403, False),
    "port-in-use": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "state-unusable": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "storage-full": SlugRow(PollenError, EXIT_FAILURE, 507, False),
    "already-running": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "path-too-long": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "upgrade-failed": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "forked": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "host-unfit": SlugRow(PollenError, EXIT_FAILURE, 500, False),
    "version-mismatch": SlugRow(Unreachable, EXIT_UNREACHABLE, 502, False),
    "internal": SlugRow(PollenError, EXIT_FAILURE, 500, None),
}


def error_from(
    slug: str,
    reason: str,
    remedy: str = "",
    *,
    node: str | None = None,
    attempts: int = 0,
    may_have_executed: bool | None = None,
    retry_after: float | None = None,
) -> PollenError:
    """The typed error of a slug. A slug that is not in the table becomes ``internal``, named."""
    row = SLUGS.get(slug)
    if row is None:
        reason, slug, row = f"unknown error {slug!r}: {reason}", "internal", SLUGS["internal"]
    return row.error(
        slug,
        reason,
        remedy,
        node=node,
        attempts=attempts,
        may_have_executed=may_have_executed,
        retry_after=retry_after,
    )


def error_from_dict(body: Mapping[str, object]) -> PollenError:
    """The typed error of a problem+json body; what is missing or misshapen is left out."""
    node = body.get("node")
    attempts = body.get("attempts")
    executed = body.get("may_have_executed")
    after = body.get("retry_after")
    return error_from(
        str(body.get("slug", "internal")),
        str(body.get("title", "the answer carries no reason")),
        str(body.get("remedy", "")),
        node=node if isinstance(node, str) else None,
        attempts=attempts if isinstance(attempts, int) else 0,
        may_have_executed=executed if isinstance(executed, bool) else None,
        retry_after=after if isinstance(after, int | float) else None,
    )
