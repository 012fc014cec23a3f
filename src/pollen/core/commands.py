"""What a user can ask of a running node, and the shape of each answer.

Decides: nothing; a closed union of commands, and the result struct of each.
Does not know: HTTP, the command line or who asked (the runtime checks the socket's peer).
Invariants: commands and results speak text as a person types and reads it: ids and hashes are
    lower-case hex, sizes bytes, times integers with the unit in the name. The core parses them.
Source: docs/design/cli.md; docs/internals/control-api.md, which carries these structs as JSON.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pollen.core import limits
from pollen.core.figures import Figures
from pollen.core.rootwords import RootCommands
from pollen.core.servicewords import ServiceCommands
from pollen.core.versionwords import VersionCommands
from pollen.core.whywords import WhyCommands
from pollen.options import SeedOptions


class _Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="c"):
    """Base of every command; ``c`` tells them apart."""


class StatusCommand(_Command, frozen=True, kw_only=True, tag="status"):
    """Ask for one screen of everything; answered by ``Status``."""


class FiguresCommand(_Command, frozen=True, kw_only=True, tag="figures"):
    """Ask for this node's own figures; answered by ``OwnFigures``, with the nodes that are online
    when ``nodes`` says so."""

    nodes: bool = False


class SeedCommand(_Command, frozen=True, kw_only=True, tag="seed"):
    """Publish held content under a name; answered by ``Seeded`` once the record is on disk.

    ``bundle``: the id of held content with the files that the module is to run; empty for a module
    that stands alone. With one, an empty ``content`` is this node's Python runner. ``kind``:
    ``module``; ``blob`` for a file that is held and handed out; ``site`` for an archive of files.
    ``recipients``: the ids of the nodes that a sealed blob was sealed for.
    """

    name: str
    content: str
    bundle: str = ""
    kind: str = "module"
    options: SeedOptions = SeedOptions()
    take_over: bool = False
    recipients: list[str] = []


class CheckSeedCommand(_Command, frozen=True, kw_only=True, tag="check_seed"):
    """Whether ``SeedCommand`` would be refused whatever the module; answered by ``SeedChecked``."""

    name: str
    options: SeedOptions = SeedOptions()
    take_over: bool = False


class WaitSeedCommand(_Command, frozen=True, kw_only=True, tag="wait_seed"):
    """Wait until a name is ready where it is wanted; answered by ``SeedState``.

    ``seed``: the hash of the version that is waited for, in hex; empty for any. With another one
    under the name the wait ends at once. ``rest_ms``: where it is ready on some node, so long for
    the others; 0 is all of ``wait_ms``.
    """

    name: str
    seed: str = ""
    wait_ms: int = 0
    rest_ms: int = 0


class UnseedCommand(_Command, frozen=True, kw_only=True, tag="unseed"):
    """Withdraw a seed by name, hash or unique hash prefix; answered by ``Unseeded``."""

    target: str


class InviteCommand(_Command, frozen=True, kw_only=True, tag="invite"):
    """Make a token; answered by ``Invited``.

    ``subject``: hex id of the only key that may use it, else it is single use. ``access_ms``: how
    long the member that comes of it has access, 0 for ever. ``lease_ms``: how long it is a member
    without hearing from an admin, 0 for the default. ``properties``: a JSON object.
    """

    subject: str = ""
    ttl_ms: int = limits.INVITE_TTL_NS // 1_000_000
    tier: str = "leaf"
    properties: str = "{}"
    access_ms: int = 0
    lease_ms: int = 0


class GrantCommand(_Command, frozen=True, kw_only=True, tag="grant"):
    """Change what a member may do; answered by ``Granted``.

    ``target``: a name or the first digits of an id. ``tier``: empty leaves it. ``properties``: a
    JSON object of those to set; ``drops``: those to take away. ``until_unix_ms``: when its access
    ends, 0 for never, below 0 leaves it. ``dry_run``: only say what would come of it. ``by_root``:
    only answer with the request for the root to sign.
    """

    target: str
    tier: str = ""
    properties: str = "{}"
    drops: list[str] = []
    until_unix_ms: int = -1
    dry_run: bool = False
    by_root: bool = False


class DenyCommand(_Command, frozen=True, kw_only=True, tag="deny"):
    """Put members out; answered by ``Denied``. All of them, or none when one may not be.

    ``cascade`` False certifies those directly below them from here first. ``dry_run``: only say
    what would fall. ``by_root`` as for ``GrantCommand``.
    """

    targets: list[str]
    reason: str = ""
    cascade: bool = True
    dry_run: bool = False
    by_root: bool = False


class UndenyCommand(_Command, frozen=True, kw_only=True, tag="undeny"):
    """Let a denied member in again with what it had; answered by ``Granted``. ``by_root`` as for
    ``GrantCommand``."""

    target: str
    by_root: bool = False


class MembersCommand(_Command, frozen=True, kw_only=True, tag="members"):
    """Ask who is a member, by whom, and until when; answered by ``MemberList``."""


class AuditCommand(_Command, frozen=True, kw_only=True, tag="audit"):
    """Ask what admins did, the newest ``most`` first; answered by ``Acts``."""

    most: int = 100


class PinCommand(_Command, frozen=True, kw_only=True, tag="pin"):
    """Keep a copy of what a name leads to on this node, whatever the plan says, or no more;
    answered by ``Pinned`` once that is on disk."""

    target: str
    is_pinned: bool = True


class DrainCommand(_Command, frozen=True, kw_only=True, tag="drain"):
    """Stop being chosen for new calls; answered by ``Drained`` when the others know."""


class AdminCommand(_Command, frozen=True, kw_only=True, tag="admin"):
    """Have another node do something; answered by ``Administered``. ``node`` is its full id."""

    node: str
    verb: str
    args: bytes
    wait_ms: int


Command = (
    AuditCommand
    | CheckSeedCommand
    | DenyCommand
    | GrantCommand
    | MembersCommand
    | UndenyCommand
    | WaitSeedCommand
    | StatusCommand
    | FiguresCommand
    | SeedCommand
    | UnseedCommand
    | InviteCommand
    | DrainCommand
    | AdminCommand
    | RootCommands
    | ServiceCommands
    | PinCommand
    | VersionCommands
    | WhyCommands
)


class Pinned(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a name is pinned on this node now, and was before."""

    name: str
    is_pinned: bool
    was_pinned: bool


class ReplicaView(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a version: ``state`` is loading, ready, draining or refused (with its reason).

    ``seed`` is the version's hash: the one that serves, or the newest while that is halted.
    """

    seed: str
    node: str
    name: str
    state: str
    reason: str = ""


class BeforeView(msgspec.Struct, frozen=True, kw_only=True):
    """The version that answers while the newer one is ready nowhere, on ``ready`` nodes."""

    seed: str
    functions: list[str]
    ready: int


class SeedView(msgspec.Struct, frozen=True, kw_only=True):
    """One seed: the version that its name leads to. ``halted`` is the hash of a newer one that its
    hosts found at fault. The counters are this node's own executions, but ``cancelled``: calls that
    began here, wherever they ran, and whose caller went away. ``run_us`` is smoothed. ``manifest``:
    by role, the contents that it needs beside its module (``bundle``: the files of a Python seed).
    ``kind``: ``module``, ``blob`` or ``site``. ``is_pinned``: this node keeps a copy,
    whatever the plan says. ``before``: the version that answers until this one is ready somewhere;
    None when it is this one. ``recipients``: the first digits of the ids of the nodes that a sealed
    blob was sealed for, and their names.
    """

    name: str
    seed: str
    content: str
    size_bytes: int
    functions: list[str]
    publisher: str
    publisher_name: str
    name_epoch: int
    ready: int
    wanted: int
    replicas: list[ReplicaView]
    options: SeedOptions
    shadowed: list[str] = []
    halted: str = ""
    before: BeforeView | None = None
    kind: str = "module"
    is_pinned: bool = False
    manifest: dict[str, str] = {}
    recipients: dict[str, str] = {}
    calls: int = 0
    failures: int = 0
    cancelled: int = 0
    in_flight: int = 0
    queued: int = 0
    run_us: int = 0


class NodeView(msgspec.Struct, frozen=True, kw_only=True):
    """One member. ``state`` is self, online, left (``pln down``) or offline. ``disk_bytes`` is
    about what is free where it keeps content; it and ``rtt_us`` are 0 while unknown. ``path``:
    ``direct`` or ``via NAME``, for ``path_ms``; empty without a link."""

    node: str
    name: str
    state: str
    tier: str
    properties: str
    addresses: list[str]
    version: str
    ready: int
    memory_bytes: int
    rtt_us: int = 0
    direct: bool = False
    path: str = ""
    path_ms: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    disk_bytes: int = 0


class ClockView(msgspec.Struct, frozen=True, kw_only=True):
    """The time: ``raw_unix_ms`` by this machine, ``wall_unix_ms`` as the node works with it.

    ``members_ahead_ms``: by how much the clocks of the members heard lately are ahead of this
    machine's, ascending. ``in_doubt``: the node works with a later time than its machine shows.
    """

    raw_unix_ms: int = 0
    wall_unix_ms: int = 0
    in_doubt: bool = False
    members_ahead_ms: list[int] = []


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """One screen: ``summary`` is its first line, ``warnings`` and ``hints`` are sentences.
    ``member_until_unix_ms``: when this node's membership ends unless an admin renews it.
    ``shut_out``: the names of those that let this node in no more. ``denied_by``: who denied it, by
    their word; else empty."""

    cluster: str
    node: str
    name: str
    version: str
    healthy: bool
    summary: str
    warnings: list[str]
    hints: list[str]
    nodes: list[NodeView]
    seeds: list[SeedView]
    uptime_ms: int
    view_age_ms: int
    memory_bytes: int
    rejections: dict[str, int]
    events_dropped: int
    control_stalls: int
    member_until_unix_ms: int = 0
    shut_out: list[str] = []
    denied_by: str = ""
    clock: ClockView = ClockView()


class OwnFigures(msgspec.Struct, frozen=True, kw_only=True):
    """This node's figures; ``nodes``, when asked for: those online, this one first."""

    figures: Figures
    nodes: list[NodeView] = []


class SeedState(msgspec.Struct, frozen=True, kw_only=True):
    """One seed and what is wrong with it; None when nothing holds the name.

    ``description``: what its functions take and give, as its publisher's node found it; empty for a
    seed that says nothing. Its texts are the author's (docs/design/python.md#the-description).
    """

    seed: SeedView | None = None
    warnings: list[str] = []
    description: dict[str, Any] = {}


class SeedChecked(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing speaks against publishing under this name here.

    ``left_out``: flags of the version that counts, which these options put back to their defaults.
    ``recipients``: the ids of the nodes to seal it for, when it is to be sealed.
    """

    name: str
    left_out: list[str] = []
    recipients: list[str] = []


class Seeded(msgspec.Struct, frozen=True, kw_only=True):
    """A seed was published. ``replaced`` is the hash of the spec it updates, ``changed`` what that
    had else than the module, ``unchanged`` true when the same spec stood already and nothing was
    written. ``kind``: ``module``, ``blob`` or ``site``."""

    name: str
    seed: str
    content: str
    size_bytes: int
    functions: list[str]
    name_epoch: int
    replaced: str = ""
    kind: str = "module"
    unchanged: bool = False
    changed: list[str] = []


class Unseeded(msgspec.Struct, frozen=True, kw_only=True):
    """A seed was withdrawn."""

    name: str
    seed: str


class Invited(msgspec.Struct, frozen=True, kw_only=True):
    """A token, and what it grants. ``expires_unix_ms`` is by the issuer's clock."""

    token: str
    tier: str
    expires_unix_ms: int
    single_use: bool
    addresses: list[str]


class Fallen(msgspec.Struct, frozen=True, kw_only=True):
    """A member that falls, or stays, when another one is denied or has less; and why."""

    node: str
    name: str
    why: str = ""


class Granted(msgspec.Struct, frozen=True, kw_only=True):
    """What a member may do now. ``takes``: what it has no more; ``falls``: members that stand below
    it and fall with that. ``changed`` False: it was so before. ``request``: base64 of what the root
    is asked to sign, where it was asked."""

    node: str
    name: str
    tier: str
    properties: str
    access_until_unix_ms: int
    generation: int
    takes: list[str] = []
    falls: list[Fallen] = []
    changed: bool = True
    request: str = ""


class Denied(msgspec.Struct, frozen=True, kw_only=True):
    """Who is out now. ``falls``: members below them that fall as well; ``kept``: those that were
    certified from here instead. ``seeds``, ``services``: names that nobody publishes or serves any
    more; ``replicas`` run elsewhere soon. ``request`` as in ``Granted``."""

    denied: list[Fallen]
    falls: list[Fallen] = []
    kept: list[Fallen] = []
    seeds: list[str] = []
    services: list[str] = []
    replicas: int = 0
    request: str = ""


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One key that is or was a member. ``state``: self, online, offline, left, ended or denied.

    ``issuer``: the id of who certified it, ``issuer_name`` its name or "the root".
    ``access_until_unix_ms`` 0 is never; ``member_until_unix_ms`` is the end of its lease.
    """

    node: str
    name: str
    state: str
    tier: str
    properties: str
    issuer: str
    issuer_name: str
    generation: int
    access_until_unix_ms: int
    member_until_unix_ms: int
    denied_by: str = ""
    denied_unix_ms: int = 0
    reason: str = ""


class MemberList(msgspec.Struct, frozen=True, kw_only=True):
    """Everybody who is or was a member, as this node knows; ``root`` is the newest root's id."""

    root: str
    members: list[MemberView]


class ActView(msgspec.Struct, frozen=True, kw_only=True):
    """One administrative act: what ``by`` did to ``subject``, and when by its clock."""

    at_unix_ms: int
    by: str
    by_name: str
    verb: str
    subject: str
    subject_name: str
    detail: str = ""


class Acts(msgspec.Struct, frozen=True, kw_only=True):
    """The acts of the last year, the newest first."""

    acts: list[ActView]


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """This node is out of every route; ``seeds`` is how many it hosted."""

    seeds: int


class Administered(msgspec.Struct, frozen=True, kw_only=True):
    """What the verb gave at the node that was asked."""

    body: bytes
