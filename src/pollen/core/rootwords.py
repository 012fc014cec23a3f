"""What a user can ask a running node about the root and its policies, and how each is answered.

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


class PoliciesCommand(_Command, frozen=True, kw_only=True, tag="policies"):
    """Ask which policies the root has set for the whole cluster; answered by ``Policies``."""


class SetPolicyCommand(_Command, frozen=True, kw_only=True, tag="set_policy"):
    """Have the root say who may do what ``about`` names; answered by ``PolicySet``.

    ``clear`` takes the policy away. With ``dry_run`` nothing is done, and with ``by_root`` neither:
    the answer then holds the request for the root to sign.
    """

    about: str = "publish"
    expression: str = ""
    clear: bool = False
    dry_run: bool = False
    by_root: bool = False


class SignReleaseCommand(_Command, frozen=True, kw_only=True, tag="sign_release"):
    """Have the root key here sign that nodes may run a wheel; answered by ``ReleaseSigned``.

    ``wheel`` is the SHA-256 of the file, ``size`` its bytes; ``tags`` are those of its platforms.
    ``allow_older``: also in place of a higher version.
    """

    wheel: str
    size: int
    version: str
    tags: str
    allow_older: bool = False


class TakeReleaseCommand(_Command, frozen=True, kw_only=True, tag="take_release"):
    """Whether this node takes a release (base64) that came over the mesh; ``ReleaseTaken``.

    ``takes_from``: the setting ``upgrade.from``. ``last`` is the release that was taken last, as
    base64, or empty.
    """

    release: str
    takes_from: str
    last: str = ""


class ReleaseSigned(msgspec.Struct, frozen=True, kw_only=True):
    """A release as base64, to be handed to nodes until it expires."""

    release: str
    issued_unix_ms: int
    expires_unix_ms: int


class ReleaseTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What the root signed: the wheel that this node may run now."""

    wheel: str
    size: int
    version: str
    tags: str
    allow_older: bool


class RootLink(msgspec.Struct, frozen=True, kw_only=True):
    """One root of the line. ``since_unix_ms``: when the one before it signed it, 0 for the first.

    ``members``: the names of those whose certificate it signed itself.
    """

    root: str
    since_unix_ms: int = 0
    members: list[str] = []


class DisplacedRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A successor that another one took the place of: nothing that it signed counts.

    ``before``: the root that signed it, at ``since_unix_ms``. ``denied``: the names of the members
    that it, or an admin that it made, denied in vain; ``ids``: their ids, in the same order.
    """

    root: str
    before: str
    since_unix_ms: int
    denied: list[str] = []
    ids: list[str] = []


class RootView(msgspec.Struct, frozen=True, kw_only=True):
    """The roots, oldest first. ``held``: the one whose key is on this node and counts, or empty.

    ``here`` is this node's name; ``admins`` are those of the members that are admins now.
    ``displaced`` are the successors that do not count, oldest first.
    """

    cluster: str
    here: str
    held: str
    line: list[RootLink]
    admins: list[str]
    displaced: list[DisplacedRoot] = []


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What was published: a sentence each. ``changed`` False: it was so already."""

    done: list[str]
    changed: bool = True


class RefusedName(msgspec.Struct, frozen=True, kw_only=True):
    """A name whose publisher may not publish it: ``why`` has the parts of the policy that say so.

    ``node`` is that publisher's id, ``node_name`` its name.
    """

    name: str
    node: str
    node_name: str
    why: str


class GainedName(msgspec.Struct, frozen=True, kw_only=True):
    """A name that counts again or goes to another node: ``node`` has it then.

    ``from_node`` has it now; empty when nobody does.
    """

    name: str
    node: str
    node_name: str
    from_node: str = ""
    from_name: str = ""


class PolicyView(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of the root. ``text`` is empty for none; ``number`` 0: there never was one.

    ``readable`` False: this node cannot read it, and counts no name. ``refused``: published names
    that do not count because of it; ``refused_more``: how many beside those that are listed.
    """

    about: str
    text: str = ""
    number: int = 0
    since_unix_ms: int = 0
    root: str = ""
    readable: bool = True
    refused: list[RefusedName] = []
    refused_more: int = 0


class Policies(msgspec.Struct, frozen=True, kw_only=True):
    """Each policy that there can be, set or not."""

    policies: list[PolicyView]


class PolicySet(msgspec.Struct, frozen=True, kw_only=True):
    """The policy as it is set, and what it does to names. ``changed`` False: it was so already.

    ``falls``: names that nobody has then. ``gains``: names that somebody has who has not now.
    ``falls_more``, ``gains_more``: how many beside those that are listed.
    ``request``: what the root is asked to sign, as base64, when that was asked for.
    """

    policy: PolicyView
    falls: list[RefusedName]
    falls_more: int = 0
    gains: list[GainedName] = []
    gains_more: int = 0
    changed: bool = True
    request: str = ""


RootCommands = (
    RootCommand
    | HoldRootCommand
    | SucceedCommand
    | ApplyCommand
    | PoliciesCommand
    | SetPolicyCommand
    | SignReleaseCommand
    | TakeReleaseCommand
)
