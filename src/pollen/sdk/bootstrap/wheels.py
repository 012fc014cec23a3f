"""Which wheels fit a machine, and the wheel of the pollen that runs here; reads installed files.

Decides: whether a wheel's tags fit, which tags to ask pip for, how an installation is packed again.
Does not know: the network; ``bundle`` fetches and keeps.
Invariants: a wheel that is packed again has the very bytes that were installed: each file is held
against the hash of its RECORD, and the same files give the same bytes.
Source: PEP 425, PEP 427, PEP 600, PEP 656.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Final

from pollen.errors import PollenError, error_from

DISTRIBUTION: Final = "pollen-mesh"
_NAME: Final = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)-([\w.]+)-([\w.]+)-([\w.]+)\.whl")
_GLIBC: Final = re.compile(r"glibc (\d+)\.(\d+)")
_LEGACY: Final = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
# The oldest glibc for which wheels of the dependencies are looked for: 2.5, manylinux1.
_GLIBC_LEAST: Final = 5
_MUSL_NEWEST: Final = 2
_GIVE: Final = "make a wheel that fits: make wheel, then: pln bootstrap ssh --wheel dist/FILE.whl"


def platforms(machine: str, libc: str) -> list[str]:
    """The platform tags that a machine runs, the newest first; empty for a libc unknown to us."""
    if found := _GLIBC.fullmatch(libc):
        if found[1] != "2":
            return []
        least = _GLIBC_LEAST if machine in ("x86_64", "i686") else 17
        minor = range(int(found[2]), least - 1, -1)
        tags = [f"manylinux_2_{number}_{machine}" for number in minor]
        old = [f"{name}_{machine}" for name, needs in _LEGACY.items() if least <= needs in minor]
        return [*tags, *old]
    if libc.startswith("musl 1."):
        return [f"musllinux_1_{number}_{machine}" for number in range(_MUSL_NEWEST, -1, -1)]
    return []


def misfit(name: str, machine: str, libc: str, python: tuple[int, int]) -> str:
    """Why a wheel of this file name does not run there; empty when it does."""
    found = _NAME.fullmatch(name)
    if found is None:
        return "its name is not that of a wheel"
    pythons, abis, wanted = (found[number].split(".") for number in (3, 4, 5))
    runs = {*platforms(machine, libc), "any"}
    if not runs & set(wanted):
        return (
            f"it is for {', '.join(wanted)}, and the machine is {machine} with {libc or 'no libc'}"
        )
    if any(_takes_python(tag, abi, python) for tag in pythons for abi in abis):
        return ""
    return f"it is for {', '.join(pythons)}, and the machine has Python {python[0]}.{python[1]}"


def _takes_python(tag: str, abi: str, python: tuple[int, int]) -> bool:
    if tag in ("py3", f"py3{python[1]}"):
        return True
    found = re.fullmatch(r"cp3(\d+)", tag)
    if found is None:
        return False
    least = int(found[1])
    return least <= python[1] if abi == "abi3" else least == python[1]


def check_file(path: Path) -> str:
    """The version in the name of a wheel of pollen. Raises ``usage`` for anything else."""
    found = _NAME.fullmatch(path.name)
    if found is None or found[1].replace("_", "-") != DISTRIBUTION:
        raise _unusable(f"{path} is not a wheel of pollen (pollen_mesh-….whl)")
    if not zipfile.is_zipfile(path):
        raise _unusable(f"{path} is not a wheel: it cannot be read as an archive")
    return found[2]


def running_wheel() -> tuple[str, bytes]:
    """File name and bytes of a wheel of the pollen that runs here.

    Raises ``usage`` when it was not installed from a wheel, or was changed since.
    """
    import pollen

    place = Path(pollen.__file__).parent
    try:
        held = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise _unusable("this pollen was not installed from a wheel") from None
    files = held.files or []
    if Path(str(held.locate_file("pollen"))).resolve() != place.resolve() or not files:
        raise _unusable(f"the pollen in {place} was not installed from a wheel")
    kept: list[tuple[str, bytes]] = []
    for file in files:
        name = file.as_posix()
        if not _belongs(name):
            continue
        try:
            data = Path(str(file.locate())).read_bytes()
        except OSError as error:
            raise _unusable(f"{file.locate()} cannot be read: {error.strerror}") from None
        if file.hash is None or hash_of(data) != file.hash.value:
            raise _unusable(f"{file.locate()} was changed since it was installed")
        kept.append((name, data))
    return _packed(held, sorted(kept))


def _belongs(name: str) -> bool:
    """Whether a file came with the wheel; the others were written by who installed it."""
    if name.startswith(("..", "/")) or "/__pycache__/" in name:
        return False
    made = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    return not (name.split("/")[0].endswith(".dist-info") and name.split("/")[-1] in made)


def hash_of(data: bytes) -> str:
    """A hash as RECORD has it."""
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def _packed(held: metadata.Distribution, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    tags = re.findall(r"^Tag: (\S+)$", held.read_text("WHEEL") or "", re.MULTILINE)
    folder = next(name.split("/")[0] for name, _ in files if ".dist-info/" in name)
    if not tags:
        raise _unusable("the installed pollen does not say what it runs on")
    record = "".join(f"{name},sha256={hash_of(data)},{len(data)}\n" for name, data in files)
    record += f"{folder}/RECORD,,\n"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in [*files, (f"{folder}/RECORD", record.encode())]:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return f"{folder.removesuffix('.dist-info')}-{tags[0]}.whl", out.getvalue()


def _unusable(reason: str) -> PollenError:
    return error_from("usage", reason, _GIVE)
