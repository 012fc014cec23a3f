"""Build the Python runner: a component with CPython inside, compressed, as the package carries it.

``python runner/build.py`` writes ``src/pollen/runtime/runner.wasm.xz``. A build of the same inputs
(the files here, the lock) is taken from the cache instead: two builds of the same inputs differ in
their bytes, so a checkout that builds again would have a runner with another hash.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOCK = ROOT / "requirements-runner.lock"
ASSET = ROOT / "src" / "pollen" / "runtime" / "runner.wasm.xz"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pollen" / "runner"


def inputs() -> list[Path]:
    """What a build depends on."""
    sources = [path for path in sorted(HERE.rglob("*")) if path.suffix in (".py", ".wit")]
    return [LOCK, *sources]


def digest() -> str:
    """The hash of the inputs, by which the cache knows a build."""
    seen = hashlib.sha256()
    for path in inputs():
        seen.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return seen.hexdigest()


def run(*line: str | Path, **environment: str) -> None:
    subprocess.run([str(word) for word in line], check=True, env={**os.environ, **environment})


def build(folder: Path) -> bytes:
    """The component. The stdlib in it is componentize-py's own; tzdata is laid beside our files."""
    tools, site, app, out = (folder / name for name in ("tools", "site", "app", "runner.wasm"))
    run(sys.executable, "-m", "venv", tools)
    pip = [
        tools / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    run(*pip, "--require-hashes", "--no-deps", "-r", LOCK)
    # It mounts the packages of the environment that VIRTUAL_ENV names: an empty one has none.
    run(sys.executable, "-m", "venv", "--without-pip", folder / "empty")
    (found,) = tools.glob("lib/python3*/site-packages/tzdata")
    shutil.copytree(found, site / "tzdata")
    app.mkdir()
    shutil.copy(HERE / "app.py", app)
    shutil.copytree(HERE / "pollen_runner", app / "pollen_runner")
    run(
        tools / "bin" / "componentize-py",
        *("-d", HERE / "wit", "-w", "runner", "componentize", "app"),
        *("-p", app, "-p", site, "-o", out),
        VIRTUAL_ENV=str(folder / "empty"),
        PYTHONPATH="",
    )
    return out.read_bytes()


def main() -> None:
    kept = CACHE / f"{digest()}.wasm.xz"
    if not kept.is_file():
        print("building the Python runner (half a minute) ...", flush=True)
        with tempfile.TemporaryDirectory(prefix="runner-") as made:
            component = build(Path(made))
        kept.parent.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}")
        beside.write_bytes(lzma.compress(component, preset=6))
        beside.replace(kept)
    ASSET.unlink(missing_ok=True)
    shutil.copyfile(kept, ASSET)
    print(f"{ASSET.relative_to(ROOT)}: {ASSET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
