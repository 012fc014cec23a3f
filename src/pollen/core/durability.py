"""What must be on disk before something may be said.

Decides: which rows go to disk together, and which effects wait for them.
Does not know: what rows mean; the disk itself.
Invariants: an effect that was held leaves after the ``Persisted`` of the batch it was held with,
    never before; a token is used once, so a late or repeated ``Persisted`` releases nothing.
Source: docs/design/protocol.md#durability (``Persist(batch, token)`` -> ``Persisted``; what depends
on it waits).
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core import timers
from pollen.core.codec import Refusal
from pollen.core.effects import Effect, Persist, Reply, Row
from pollen.core.ids import RequestId, Token

# What a node keeps of itself, by key.
META_TABLE = "meta"
CHAIN_KEY = b"chain"


class Durability:
    """Rows on their way to disk, and what waits for them."""

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._last: dict[tuple[str, bytes], bytes | None] = {}
        self._held: list[Effect] = []
        self._waiting: dict[Token, list[Effect]] = {}
        self._batches = 0

    def write(self, rows: Sequence[Row]) -> None:
        """These rows go with the next batch."""
        self._rows += rows

    def write_last(self, rows: Sequence[Row]) -> None:
        """These go with the next batch, behind all others: of each key the last, where its first
        would stand."""
        self._last.update({(table, key): value for table, key, value in rows})

    def hold(self, effect: Effect) -> None:
        """This effect leaves when the next batch is on disk."""
        self._held.append(effect)

    def flush(self) -> Persist | None:
        """The batch of what was written and held since the last one, if there is any."""
        if not self._rows and not self._last and not self._held:
            return None
        rows = [*self._rows, *((table, key, value) for (table, key), value in self._last.items())]
        self._batches += 1
        token = Token(f"{timers.STORE}/{self._batches:08x}")
        self._waiting[token] = self._held
        self._rows, self._last, self._held = [], {}, []
        return Persist(token=token, batch=rows)

    def release(self, token: Token) -> list[Effect]:
        """What waited for this batch."""
        return self._waiting.pop(token, [])

    def take_waiting(self) -> dict[RequestId, Refusal | None]:
        """The requests whose answers wait for a batch, with what would have refused them.

        They wait no more, whatever else does.
        """
        found: dict[RequestId, Refusal | None] = {}
        for token, held in self._waiting.items():
            for reply in held:
                if isinstance(reply, Reply):
                    refusal = Refusal(reply.slug, reply.reason, reply.remedy)
                    found[reply.request] = refusal if reply.slug else None
            self._waiting[token] = [effect for effect in held if not isinstance(effect, Reply)]
        return found


def chain_row(chain: bytes) -> Row:
    """The credentials that this node shows from its next start on."""
    return META_TABLE, CHAIN_KEY, chain
