"""From a user's ``seed`` or ``unseed`` to a spec record.

Decides: whether a publication is allowed and new, and the spec that states it.
Does not know: links, hosts, the muscles (it is told what they found in the module).
Invariants: nothing is published that ``specs`` or ``names`` refuse, and both are asked again once
    the module was inspected, since the names may have changed meanwhile.
Source: docs/design/protocol.md#names-and-specs, docs/design/cli.md#seeding.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping

import msgspec

from pollen.core import limits
from pollen.core.codec import Refusal, encode
from pollen.core.commands import CheckSeedCommand, SeedCommand, Seeded, Unseeded
from pollen.core.effects import BUNDLE, MODULE
from pollen.core.events import ModuleInspected
from pollen.core.ids import Hash, PeerId, is_hash_text
from pollen.core.labels import check_name
from pollen.core.names import (
    Holding,
    check_may_hold,
    check_may_seed,
    find_named,
    has_authority,
    next_epoch,
)
from pollen.core.seeds import descriptions, sealing, specs
from pollen.core.seeds.specs import Seed
from pollen.core.trust import Certificate
from pollen.options import DEFAULTS, OPTIONS, SeedOptions

# How a program begins, and what newer toolchains export beside it.
_START, _MAIN = "_start", "__main_void"
# What is said when this node's own records are as many as its tier may hold.
REFUSED_FULL = Refusal(
    "denied",
    "this node holds as many records as its tier may",
    "unseed what is not needed, or publish from another node",
)


class Writer(msgspec.Struct, frozen=True, kw_only=True):
    """Who publishes, and what it may; ``certificates`` are those of all members, ``halted`` the
    versions that their hosts found at fault. ``refusal`` is what the root's policy on publishers
    says against a name; ``top_epoch`` the highest epoch under a name, refused or not; ``fallen``
    what a node publishes under a name without counting, because of that policy."""

    node: PeerId
    certificate: Certificate
    certificates: Mapping[PeerId, Certificate]
    halted: Container[Hash] = ()
    refusal: Callable[[str, Certificate], Refusal | None] = lambda name, certificate: None
    top_epoch: Callable[[str], int] = lambda name: 0
    fallen: Callable[[str, PeerId], Seed | None] = lambda name, node: None

    def check_name(self, name: str) -> Refusal | None:
        """Why it may not publish under this name, whoever holds it: its tier, the root's policy."""
        return check_may_seed(self.certificate) or self.refusal(name, self.certificate)

    def lineage_of(self, owner: PeerId) -> list[PeerId]:
        """The ancestors of an owner, as far as its certificate is known."""
        certificate = self.certificates.get(owner)
        return [] if certificate is None else certificate.lineage


class Publication(msgspec.Struct, frozen=True, kw_only=True):
    """What to write under the name, and what to answer when it is on disk."""

    name: str
    payload: bytes
    answer: Seeded | Unseeded


def check_seed(
    command: SeedCommand, writer: Writer, held: Mapping[str, Holding[Seed]]
) -> Hash | Refusal:
    """What can be said before the module is looked at: its content id, or the refusal."""
    if not is_hash_text(command.content):
        return Refusal(
            "bad-request",
            f"{command.content[:80]!r} is not a content id",
            "upload the module first (PUT /content); its answer carries the id",
        )
    if command.kind not in specs.KINDS:
        return Refusal(
            "bad-request", f"{command.kind[:40]!r} is no kind of seed", f"one of {specs.KINDS}"
        )
    refusal = sealing.check_sealed(command.kind, command.options, command.recipients)
    if refusal is not None:
        return refusal
    if command.bundle and not is_hash_text(command.bundle):
        return Refusal(
            "bad-request",
            f"{command.bundle[:80]!r} is not a content id",
            "upload the bundle first (PUT /content); its answer carries the id",
        )
    return check_wish(command, writer, held) or Hash(bytes.fromhex(command.content))


def check_wish(
    command: SeedCommand | CheckSeedCommand, writer: Writer, held: Mapping[str, Holding[Seed]]
) -> Refusal | None:
    """What can be said before there is a module: name, options, tier, who holds the name."""
    refusal = check_name(command.name) or specs.check_options(command.options)
    return refusal or _check_name(command, writer, held)


def _check_name(
    command: SeedCommand | CheckSeedCommand, writer: Writer, held: Mapping[str, Holding[Seed]]
) -> Refusal | None:
    holding = held.get(command.name)
    lineage = [] if holding is None else writer.lineage_of(holding.holder.owner)
    return writer.check_name(command.name) or check_may_hold(
        command.name, holding, writer.node, writer.certificate, lineage, command.take_over
    )


def plan_seed(
    command: SeedCommand, module: ModuleInspected, writer: Writer, held: Mapping[str, Holding[Seed]]
) -> Publication | Seeded | Refusal:
    """What to publish for an inspected module; ``Seeded`` alone when it stands already."""
    functions: list[str] = []
    if command.kind != MODULE:
        refusal = _check_held(module) or _check_blob(command.kind, command.options)
    else:
        functions = _functions_of(module, command.options)
        refusal = _check_module(module, functions, command.options)
    refusal = refusal or _check_name(command, writer, held)
    if refusal is not None:
        return refusal
    holding = held.get(command.name)
    spec = specs.make_spec(
        name=command.name,
        name_epoch=next_epoch(holding, writer.top_epoch(command.name)),
        content=module.content,
        size=module.size,
        functions=functions,
        options=command.options,
        manifest={BUNDLE: Hash(module.bundle)} if module.bundle else {},
        description=descriptions.fitted(module.description),
        kind=command.kind,
        recipients=sealing.stated(command.recipients),
    )
    current = holding.holder if holding is not None and holding.is_live else None
    if (
        current is not None
        and current.seed not in writer.halted
        and current.owner == writer.node
        and specs.is_same_wish(current.spec, spec)
    ):
        return _answer(current.seed, current.spec, None, changed=None)
    return publication(spec, command.options, current, writer)


def publication(
    spec: specs.Spec, options: SeedOptions, current: Seed | None, writer: Writer
) -> Publication | Refusal:
    """What to write for a spec that takes the place of the current version, if there is one."""
    raw = encode(spec)
    if len(raw) > limits.SPEC_MAX_BYTES:
        return Refusal(
            "config-invalid",
            f"the spec has {len(raw)} bytes, over {limits.SPEC_MAX_BYTES}",
            "shorten --config and --env, or put large data into the module",
        )
    former = [] if current is None else _former_of(current, spec, options.keep, writer)
    previous = former[0] if former else None
    changed = [] if current is None else specs.changed_options(current.options, options)
    answer = _answer(specs.seed_hash(writer.node, raw), spec, previous, changed=changed)
    payload = specs.encode_record(raw, former)
    return Publication(name=spec.name, payload=payload, answer=answer)


def _former_of(current: Seed, spec: specs.Spec, keep: int, writer: Writer) -> list[Seed]:
    """The versions before a new spec that its record names, the newest first: the one that serves
    until the new one does, and as many in all as are to be kept. Of a halted version the one that
    it was to replace takes the place. What the new spec repeats is not kept beside it."""
    first, older = current, current.kept
    if current.seed in writer.halted:
        # A halted version replaces one, which is the newest not halted.
        assert current.previous is not None
        first = current.previous
    kept = [
        seed
        for seed in older
        if seed.seed != first.seed
        and seed.owner == writer.node
        and not specs.is_same_wish(seed.spec, spec)
    ]
    return [first, *kept][: max(keep, 1)]


def _functions_of(module: ModuleInspected, options: SeedOptions) -> list[str]:
    """What can be called: of a program its beginning alone."""
    return [_START] if options.program else module.functions


def _check_reading(module: ModuleInspected, options: SeedOptions) -> Refusal | None:
    """Why the module is not what its publisher says, or that nobody can tell what it is."""
    own = [name for name in module.functions if name not in (_START, _MAIN)]
    if options.program and not module.may_be_program:
        return Refusal(
            "module-invalid",
            "the module is not a program: one has a _start, no _initialize, and imports WASI alone",
            "leave --program out",
        )
    if options.library and not own:
        return Refusal(
            "module-invalid",
            "the module is not a library: it exports no function beside _start",
            "leave --library out",
        )
    if module.may_be_program and own and not (options.program or options.library):
        return Refusal(
            "ambiguous",
            f"the module may be a program or a library: it exports _start and {', '.join(own)}",
            "say which: --program runs it with the input on stdin,\n"
            "--library has its functions called by name",
        )
    return None


def _check_held(module: ModuleInspected) -> Refusal | None:
    """Why the content cannot be published, whatever it is to be."""
    if module.slug == "blob-not-found":
        return Refusal(
            module.slug,
            f"no content with the hash {module.content.hex()[:8]} was sent to this node",
            "send it first: PUT /content; pln seed FILE does both",
        )
    return Refusal(module.slug, module.reason, module.remedy) if module.slug else None


# The options that mean something for a file: who may have it, and where its copies are.
_OF_BLOBS = frozenset(
    {
        "min_replicas",
        "everywhere",
        "allow",
        "host",
        "allow_if",
        "host_if",
        "public",
        "sealed",
        "keep",
    }
)


def _check_blob(kind: str, options: SeedOptions) -> Refusal | None:
    """The first option that only a module can obey, or None."""
    for name, option in OPTIONS.items():
        if name not in _OF_BLOBS and getattr(options, name) != getattr(DEFAULTS, name):
            return Refusal(
                "config-invalid",
                f"{option.flag} is for what runs, and a {kind} does not run",
                f"leave {option.flag} out",
            )
    return None


def _check_module(
    module: ModuleInspected, functions: list[str], options: SeedOptions
) -> Refusal | None:
    """Why the inspected module makes no seed, or None."""
    refusal = _check_held(module)
    if refusal is not None:
        return refusal
    if not module.functions:
        return Refusal(
            "module-invalid",
            "the module exports no function that can be called",
            "export one without parameters that returns nothing or an i32",
        )
    refusal = _check_reading(module, options)
    if refusal is not None:
        return refusal
    if options.check and options.check not in functions:
        return Refusal(
            "function-not-found",
            f"--check names {options.check[:80]!r}, which the module does not export",
            f"name one of: {', '.join(functions)}",
        )
    if module.memory_bytes > options.memory_bytes:
        return Refusal(
            "config-invalid",
            f"the module begins with {module.memory_bytes} bytes of memory, "
            f"over the limit of {options.memory_bytes}",
            f"raise the limit: --memory {-(-module.memory_bytes // (1 << 20))}MiB or more",
        )
    return None


def plan_unseed(
    target: str, writer: Writer, held: Mapping[str, Holding[Seed]]
) -> Publication | Refusal:
    """The withdrawal of what ``target`` means, as a value of its own."""
    refusal = check_may_seed(writer.certificate)
    if refusal is not None:
        return refusal
    fallen = writer.fallen(target.removeprefix("seed/"), writer.node)
    if fallen is not None:
        # Its own epoch, so that this withdraws nothing of whoever has the name meanwhile.
        return _withdrawal(fallen, fallen.name_epoch)
    holding = find_named(target, held)
    if isinstance(holding, Refusal):
        return holding
    refusal = writer.check_name(holding.name)
    if refusal is not None:
        return refusal
    seed = holding.holder
    lineage = writer.lineage_of(seed.owner)
    if not has_authority(writer.node, writer.certificate, seed, lineage):
        return Refusal(
            "denied",
            f"node {seed.owner.hex()[:8]} published {holding.name!r}",
            "unseed it there, or on an admin node",
        )
    return _withdrawal(seed, next_epoch(holding, writer.top_epoch(holding.name)))


def _withdrawal(seed: Seed, epoch: int) -> Publication:
    spec = specs.withdrawn(seed.spec, epoch)
    answer = Unseeded(name=seed.spec.name, seed=seed.seed.hex())
    payload = specs.encode_record(encode(spec))
    return Publication(name=seed.spec.name, payload=payload, answer=answer)


def _answer(
    seed: Hash, spec: specs.Spec, replaced: specs.Seed | None, *, changed: list[str] | None
) -> Seeded:
    """What to tell; ``changed``: the options that are not as before, None when nothing is new."""
    return Seeded(
        name=spec.name,
        seed=seed.hex(),
        content=spec.content.hex(),
        size_bytes=spec.size_bytes,
        functions=spec.functions,
        name_epoch=spec.name_epoch,
        replaced="" if replaced is None else replaced.seed.hex(),
        kind=str(spec.options.get(specs.KIND, MODULE)),
        unchanged=changed is None,
        changed=changed or [],
    )
