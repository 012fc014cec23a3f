"""``pln run``, ``pln new`` and ``pln stubs`` as a user types them, with a home of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pollen.testing import until
from tests import recorder
from tests.e2e.conftest import example

pytestmark = pytest.mark.timeout(300)

HELLO = """
import sys

def greet(name: str, times: int = 1) -> str:
    print("greeting", name)
    return "hello " * times + name

def count(to: int):
    yield from range(to)

def boom():
    raise ValueError("no")

def spin():
    while True:
        pass
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home without a node, whose cache the tests share: one compiles the interpreter."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "hello.py").write_text(HELLO)
    yield folder
    assert left_over(folder) == []


def begin(home: Path, *line: str) -> subprocess.Popen[bytes]:
    """A command there."""
    without = {"PLN_DIR", "PLN_HOST", "XDG_CACHE_HOME"}
    env = {key: text for key, text in os.environ.items() if key not in without}
    pipe = subprocess.PIPE
    whole = [sys.executable, "-m", "pollen.cli", *line]
    return subprocess.Popen(
        whole, cwd=home, env={**env, "HOME": str(home)}, stdin=pipe, stdout=pipe, stderr=pipe
    )


def pln(home: Path, *line: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Its exit code, output and errors."""
    with begin(home, *line) as process:
        out, err = process.communicate(stdin, timeout=120)
        recorder.note_words(err)
        return process.returncode, out.decode(), err.decode()


def left_over(home: Path) -> list[int]:
    """Processes of nodes below a home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line: Any = process.info["cmdline"] or []
        if "pollen.runtime" in line and any(str(home) in word for word in line):
            found.append(process.pid)
    return found


def test_a_function_is_tried_without_a_node(home: Path) -> None:
    """Output on one side, what it logs on the other; nothing stays that runs."""
    code, out, err = pln(home, "run", "hello.py", "greet", "name=world", "times=2")
    assert (code, out) == (0, "hello hello world"), err
    assert "greeting world" in err.splitlines()
    assert pln(home, "run", "hello.py", "count", "to=3")[1].split() == ["0", "1", "2"]
    code, out, err = pln(home, "run", str(example("echo")), "echo", "-", stdin=b"as it is")
    assert (code, out) == (0, "as it is"), err
    assert left_over(home) == [] and not (home / ".pln").exists()


def test_what_goes_wrong_is_told_of_the_file(home: Path) -> None:
    """With the command to type, and no word of a node that nobody started."""
    (home / "hello.txt").write_text("hello")
    code, _, err = pln(home, "run", "hello.py", "boom")
    assert code == 1 and "[guest-failed]" in err and 'raise ValueError("no")' in err
    for line, slug, words in (
        (("hello.py",), "function-not-found", "hello.py has 4 functions"),
        (("hello.py", "greet", "world"), "bad-argument", "pln run hello.py greet name=world"),
        (("hello.py", "spin", "--timeout", "300ms"), "deadline", "time ran out"),
        (("missing.py", "f"), "usage", "missing.py"),
        (("hello.txt", "f"), "usage", "hello.txt is not something that runs"),
    ):
        code, out, err = pln(home, "run", *line)
        assert code != 0 and out == "" and f"[{slug}]" in err and words in err, err
        assert "trial" not in err and "said by node" not in err, err


def test_two_at_once_do_not_share_a_node(home: Path) -> None:
    running = [begin(home, "run", "hello.py", "greet", f"name={name}") for name in "ab"]
    for name, process in zip("ab", running, strict=True):
        out, err = process.communicate(timeout=120)
        assert out.decode() == f"hello {name}", err.decode()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_whoever_ends_it_ends_its_node(home: Path, number: signal.Signals) -> None:
    process = begin(home, "run", "hello.py", "spin")

    async def is_up() -> bool:
        return bool(left_over(home))

    await until(is_up, 60, "the node of the command")
    process.send_signal(number)
    process.communicate(timeout=60)

    async def is_gone() -> bool:
        return not left_over(home)

    # After a kill the system ends the node, a moment later.
    await until(is_gone, 10, "the node has ended as well")
    code, out, err = pln(home, "run", "hello.py", "greet", "name=you")
    assert (code, out) == (0, "hello you"), err
    assert left_over(home) == []


def test_a_first_seed_is_written_and_works(home: Path) -> None:
    code, out, err = pln(home, "new", "python", "first")
    assert code == 0 and "wrote first.py" in out, err
    line = [sys.executable, "-m", "unittest", "test_first"]
    done = subprocess.run(line, cwd=home, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert pln(home, "run", "first.py", "greet", "name=you")[1] == "hello you"
    code, _, err = pln(home, "new", "python", "first")
    assert code != 0 and "[file-exists]" in err
    for name in ("2fast", "a-b", "../x", "é", ""):
        code, _, err = pln(home, "new", "python", name)
        assert code == 2 and "[usage]" in err, name
    assert not (home.parent / "x.py").exists()


def test_the_functions_of_a_seed_are_written_as_classes(home: Path) -> None:
    """From a node that runs; and not over a file that is there."""
    folder = str(home / "node")
    assert pln(home, "--dir", folder, "up", "-d")[0] == 0
    try:
        assert pln(home, "--dir", folder, "seed", "hello.py")[0] == 0
        assert pln(home, "--dir", folder, "seed", str(example("echo")), "echo")[0] == 0
        code, out, err = pln(home, "--dir", folder, "stubs", "hello")
        assert code == 0 and "async def greet(self, name: str, times: int" in out, err
        assert pln(home, "--dir", folder, "stubs", "hello", "typed.py")[0] == 0
        assert (home / "typed.py").read_text() == out
        assert "[file-exists]" in pln(home, "--dir", folder, "stubs", "hello", "typed.py")[2]
        assert pln(home, "--dir", folder, "stubs", "hello", "typed.py", "--force")[0] == 0
        assert "[bad-request]" in pln(home, "--dir", folder, "stubs", "echo")[2]
        assert "[seed-not-found]" in pln(home, "--dir", folder, "stubs", "nothing")[2]
    finally:
        assert pln(home, "--dir", folder, "down")[0] == 0
