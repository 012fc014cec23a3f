"""Timer tokens: which timer is meant, as text that a log can show.

Decides: how a token is built from a purpose and a subject, and read back.
Does not know: the clock. ``SetTimer`` with the same token replaces the earlier one.
Invariants: a late, early or repeated ``TimerFired`` is harmless: every owner of a purpose checks
    its own state and the time before it acts.
Source: foca ``runtime.rs`` and quinn ``timer.rs`` (timers as data).
"""

from __future__ import annotations

from pollen.core.ids import Token

DIAL = "dial"
LOAD = "load"
OVERDUE = "overdue"
RENEW = "renew"
TABLES = "tables"
DRAIN = "drain"
ACCESS = "access"
EPOCH = "epoch"
STORE = "store"
WORK = "work"
DIGEST = "digest"
HAVE = "have"
GRAFT = "graft"
SWEEP = "sweep"
VERDICT = "verdict"
QUARANTINE = "quarantine"
JOIN = "join"
ASK = "ask"
ADMIN = "admin"
WAIT = "wait"
CHECK = "check"
LISTENER = "listener"
TIED = "tied"
PROBE = "probe"

# These only give the node a turn; each look at its own state follows in every turn anyhow.
TURN_ONLY = (WORK, RENEW, TABLES, OVERDUE, VERDICT, ASK)
# These name a batch on its way to the disk: ``Persisted`` carries them, never ``TimerFired``.
BATCHES = (EPOCH, STORE)
# These name a call that the brain began: ``CallEnded`` carries them, never ``TimerFired``.
CALLS = (CHECK,)


def token_for(purpose: str, subject: bytes = b"") -> Token:
    """``<purpose>`` or ``<purpose>/<hex>``."""
    return Token(f"{purpose}/{subject.hex()}" if subject else purpose)


def parse_token(token: Token) -> tuple[str, bytes]:
    """The purpose and the subject; text that no ``token_for`` made has the subject ``b""``."""
    purpose, _, subject = token.partition("/")
    try:
        return purpose, bytes.fromhex(subject)
    except ValueError:
        return purpose, b""
