"""What a user can ask a running node about the root key, and the shape of each answer.

Decides: nothing; these commands and answers belong to ``commands``, which lists them.
Does not know: files and passphrases (``runtime.folder``), which the brain never sees.
Invariants: as in ``commands``: ids are lower-case hex, signed bytes base64.
Source: docs/design/cli.md#the-root-key; docs/internals/control-api.md.
"""

from __future__ import annotations

import msgspec


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="c"):
    """Base of these commands, with the tag of all commands."""


class RootCommand(_Command, frozen=True, kw_only=True, tag="root"):
    """Ask what this node knows of the root; answered by ``RootView``."""


class HoldRootCommand(_Command, frozen=True, kw_only=True, tag="hold_root"):
    """From now on the key of this root can be asked to sign, or none; answered by ``RootView``.

    ``root``: its id, or empty when the key left this machine. One of another cluster is refused.
    """

    root: str = ""


class SucceedCommand(_Command, frozen=True, kw_only=True, tag="succeed"):
    """Sign a successor of the root, whose key is here; answered by ``RootView``."""

    successor: str


class ApplyCommand(_Command, frozen=True, kw_only=True, tag="apply"):
    """Publish what the root signed elsewhere, as base64; answered by ``Applied``."""

    answer: str


class RootLink(msgspec.Struct, frozen=True, kw_only=True):
    """One root of the line. ``since_unix_ms``: when the one before it signed it, 0 for the first.

    ``members``: the names of those whose certificate it signed itself.
    """

    root: str
    since_unix_ms: int = 0
    members: list[str] = []


class RootView(msgspec.Struct, frozen=True, kw_only=True):
    """The roots, oldest first. ``held``: the one whose key is on this node and counts, or empty.

    ``here`` is this node's name; ``admins`` are those of the members that are admins now.
    """

    cluster: str
    here: str
    held: str
    line: list[RootLink]
    admins: list[str]


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What was published: a sentence each. ``changed`` False: it was so already."""

    done: list[str]
    changed: bool = True


RootCommands = RootCommand | HoldRootCommand | SucceedCommand | ApplyCommand
