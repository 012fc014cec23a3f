"""Components made by toolchains of other languages, from ``examples/components``.

``.ci/toolchains`` installs what they need. A toolchain that is not there skips its test.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.style.tree import ROOT

SOURCES = ROOT / "examples" / "components"
WIT = SOURCES / "wit"
HTTP = SOURCES / "http"
TOOLS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pollen" / "toolchains"

Build = Callable[[Path], Path]


def tool(name: str) -> str:
    """Where a program is; the test is skipped without it."""
    for place in (TOOLS / "venv" / "bin" / name, TOOLS / "bin" / name):
        if place.exists():
            return str(place)
    if found := shutil.which(name):
        return found
    pytest.skip(f"{name} is not installed: .ci/toolchains")


def run(*line: str | Path, at: Path | None = None, **environment: str) -> None:
    done = subprocess.run(
        [str(word) for word in line],
        check=False,
        cwd=at,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{line}:\n{done.stdout}{done.stderr}"


def component(core: Path, *, world: str = "", adapter: str = "") -> Path:
    """A component of a core module: of a world, of an adapter for WASI preview 1, or both."""
    tools, made = tool("wasm-tools"), core.with_suffix(".component.wasm")
    if world:
        run(tools, "component", "embed", WIT, "--world", world, core, "-o", core)
    adapted = []
    if adapter:
        held = next(TOOLS.glob(f"adapter-*/wasi_snapshot_preview1.{adapter}.wasm"), None)
        if held is None:
            pytest.skip("the adapter is not installed: .ci/toolchains")
        adapted = ["--adapt", str(held)]
    run(tools, "component", "new", core, *adapted, "-o", made)
    return made


def wat(folder: Path) -> Path:
    """The text format."""
    out = folder / "wat.wasm"
    run(tool("wasm-tools"), "parse", SOURCES / "wat" / "numbers.wat", "-o", out)
    return out


def zig(folder: Path) -> Path:
    out = folder / "zig.wasm"
    run(
        *(tool("python-zig"), "build-exe", SOURCES / "zig" / "numbers.zig", "-fno-entry"),
        *("-target", "wasm32-freestanding", "-rdynamic", "-O", "ReleaseSmall"),
        f"-femit-bin={out}",
        at=folder,
    )
    return component(out, world="numbers")


def assemblyscript(folder: Path) -> Path:
    out, asc = folder / "as.wasm", TOOLS / "assemblyscript" / "node_modules" / ".bin" / "asc"
    if not asc.exists():
        pytest.skip("assemblyscript is not installed: .ci/toolchains")
    source = folder / "numbers.ts"
    shutil.copy(SOURCES / "assemblyscript" / "numbers.ts", source)
    run(asc, source.name, "-o", out.name, "--runtime", "stub", "-O", at=folder)
    return component(out, world="numbers")


def c_program(folder: Path) -> Path:
    """A program in C that knows nothing of components."""
    out = folder / "lines.wasm"
    shutil.copy(ROOT / "examples" / "wasi" / "lines.wasm", out)
    return component(out, adapter="command")


def python(folder: Path) -> Path:
    """An interpreter of its own, not the runner's."""
    out = folder / "python.wasm"
    run(
        *(tool("componentize-py"), "-d", WIT, "-w", "words", "componentize", "app"),
        *("-p", SOURCES / "python", "-o", out),
        at=folder,
        VIRTUAL_ENV=str(folder),
    )
    return out


def javascript(folder: Path) -> Path:
    """SpiderMonkey with a script; its tool takes the world as text."""
    build = TOOLS / "javascript" / "build.mjs"
    if not (build.parent / "node_modules").exists():
        pytest.skip("componentize-js is not installed: .ci/toolchains")
    out = folder / "javascript.wasm"
    source = SOURCES / "javascript" / "words.js"
    run(tool("node"), build, source, WIT / "examples.wit", "words", out)
    return out


def http_python(folder: Path) -> Path:
    """An interpreter that answers HTTP."""
    out = folder / "http-python.wasm"
    run(
        *(tool("componentize-py"), "-d", HTTP / "wit", "-w", "proxy", "componentize", "app"),
        *("-p", HTTP / "python", "-o", out),
        at=folder,
        VIRTUAL_ENV=str(folder),
    )
    return out


def http_javascript(folder: Path) -> Path:
    """SpiderMonkey with a script that answers HTTP by the event ``fetch``."""
    build = TOOLS / "javascript" / "build.mjs"
    if not (build.parent / "node_modules").exists():
        pytest.skip("componentize-js is not installed: .ci/toolchains")
    out = folder / "http-javascript.wasm"
    source = HTTP / "javascript" / "upper.js"
    run(tool("node"), build, source, HTTP / "wit", "proxy", out)
    return out


BUILDS: dict[str, Build] = {
    "wat": wat,
    "zig": zig,
    "assemblyscript": assemblyscript,
    "c-program": c_program,
    "javascript": javascript,
    "python": python,
    "http-python": http_python,
    "http-javascript": http_javascript,
}
