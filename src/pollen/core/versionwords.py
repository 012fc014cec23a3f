"""What users ask of the versions of a name, and how each is answered.

Decides: nothing; these commands and answers belong to ``commands``, which lists them.
Does not know: which versions a record keeps (``seeds``).
Invariants: as in ``commands``. A version is named by its number, which is the ``name_epoch`` of its
    spec, or by the first digits of its hash or of its content's.
Source: docs/internals/content.md#former-versions; docs/internals/control-api.md.
"""

from __future__ import annotations

import msgspec


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="c"):
    """Base of these commands, with the tag of all commands."""


class VersionsCommand(_Command, frozen=True, kw_only=True, tag="versions"):
    """Ask which versions a name can be rolled back to; answered by ``VersionList``."""

    target: str


class RollbackCommand(_Command, frozen=True, kw_only=True, tag="rollback"):
    """Publish a former version again with the options that it had; answered by ``Seeded`` once the
    record is on disk. ``version`` is as in ``VersionList``; empty for the one before."""

    target: str
    version: str = ""


VersionCommands = VersionsCommand | RollbackCommand


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One version. ``copies``: on how many nodes it is ready; ``kind`` as in ``Seeded``."""

    number: int
    seed: str
    content: str
    size_bytes: int
    kind: str
    owner: str
    owner_name: str
    copies: int


class VersionList(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of a name: the one that counts, then those that are kept, the newest first."""

    name: str
    versions: list[VersionView]
