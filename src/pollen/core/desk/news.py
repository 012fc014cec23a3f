"""What a node's log tells of its cluster: silent nodes, versions at fault, what runs here.

Decides: which changes are worth a line, and their names.
Does not know: why something changed; the machines that decide it do.
Invariants: a line names nodes and seeds as people do, with the id beside it. A member that joins or
    comes up for the first time in this run is not news: a thousand of them would bury the rest.
Source: none; the log is for people.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from pollen.core.commands import Seeded, Unseeded
from pollen.core.effects import LoadSeed, Log, UnloadSeed
from pollen.core.ids import Hash, PeerId, short
from pollen.core.placement import Situation
from pollen.core.turn import Turn


class News:
    """Remembers what it told."""

    def __init__(self, own: PeerId, situation: Situation, name_of: Callable[[PeerId], str]) -> None:
        self._own = own
        self._situation = situation
        self._name_of = name_of
        self._halted: dict[Hash, str] = {}
        # Whom we saw alive, and whether they still are.
        self._live: dict[PeerId, bool] = {}
        self._names: dict[Hash, str] = {}

    def follow_live(self, moved: Iterable[PeerId], live: Collection[PeerId], turn: Turn) -> None:
        """Who is alive changed; a change costs what moved, however many live."""
        for peer in moved:
            is_live = peer in live
            was_live = self._live.get(peer)
            if is_live or was_live is not None:
                self._live[peer] = is_live
            if peer == self._own or was_live is None or was_live is is_live:
                continue
            back = self._of_node("info", "node-back", peer)
            turn.do(back if is_live else self._of_absence(peer))

    def _of_absence(self, peer: PeerId) -> Log:
        if self._situation.has_left(peer):
            return self._of_node("info", "node-left", peer)
        return self._of_node("warning", "node-offline", peer)

    def follow_halted(self, turn: Turn) -> None:
        """Versions that hosts found at fault since the last time, or do not any more."""
        halted = self._situation.halted
        if halted.keys() == self._halted.keys():
            return
        for key in halted:
            if key not in self._halted:
                role = self._situation.roles.get(key)
                self._halted[key] = "" if role is None else role.name
                turn.do(_of_seed("warning", "version-halted", self._halted[key], key))
        for key in [key for key in self._halted if key not in halted]:
            turn.do(_of_seed("info", "version-not-halted", self._halted.pop(key), key))

    def of_hosting(self, turn: Turn) -> None:
        """What begins and ends here by the plan: what the turn asked to do last."""
        for effect in turn.last:
            if isinstance(effect, LoadSeed):
                role = self._situation.roles.get(effect.seed)
                self._names[effect.seed] = "" if role is None else role.name
            elif isinstance(effect, UnloadSeed) and effect.seed in self._names:
                name = self._names.pop(effect.seed)
                turn.do(_of_seed("info", "unloaded", name, effect.seed))

    def of_load(self, seed: Hash, slug: str, reason: str, turn: Turn) -> None:
        """A load here ended."""
        role = self._situation.roles.get(seed)
        name = "" if role is None else role.name
        if not slug:
            self._names[seed] = name
            turn.do(_of_seed("info", "loaded", name, seed))
            return
        fields: dict[str, str | int] = {"seed": name, "version": short(seed)}
        fields |= {"slug": slug, "reason": reason}
        turn.do(Log(level="warning", event="load-failed", fields=fields))

    def of_publication(self, answer: Seeded | Unseeded, turn: Turn) -> None:
        """A user published or withdrew a seed here."""
        word = "withdrawn"
        if isinstance(answer, Seeded):
            word = "updated" if answer.replaced else "seeded"
        turn.do(_of_seed("info", word, answer.name, Hash(bytes.fromhex(answer.seed))))

    def _of_node(self, level: str, event: str, peer: PeerId) -> Log:
        fields: dict[str, str | int] = {"node": self._name_of(peer), "id": short(peer)}
        return Log(level=level, event=event, fields=fields)


def _of_seed(level: str, event: str, name: str, key: Hash) -> Log:
    return Log(level=level, event=event, fields={"seed": name, "version": short(key)})
