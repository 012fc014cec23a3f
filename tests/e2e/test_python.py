"""A Python file is a seed: published on one node, called from all, with arguments and values."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import BadRequest, GuestError, NotFound, PollenError
from pollen.testing import Cluster, Node
from tests import recorder
from tests.e2e.conftest import example, running
from tests.e2e.talk import over_http
from tests.unit.python.test_requirements import wheel

pytestmark = pytest.mark.timeout(300)

# Three nodes on two cores compile the runner at once: 10 s each when alone.
COMPILED = 150.0

HELLO = '''"""Says hello, and more."""
import asyncio
import dataclasses
import typing

import pollen


@dataclasses.dataclass
class Order:
    item: str
    count: int = 1


def greet(name: str, times: int = 1, *, loud: bool = False) -> str:
    """Greet somebody.

    As often as asked."""
    print("greets", name)
    text = "hello " * times + name
    return text.upper() if loud else text


def total(orders: list[Order]) -> int:
    return sum(order.count for order in orders)


def double(n: int) -> int:
    return n * 2


def size(data: bytes) -> bytes:
    return str(len(data)).encode() + data[:1]


async def both(n: int) -> list[int]:
    other = pollen.use("hello")
    return await asyncio.gather(other.double(n), other.double(n=n + 1))


def relayed(n: int) -> int:
    """Through a module in C back to Python."""
    text = f"pln://seed/hello/double\\n[{n}]"
    return int(pollen.request("pln://seed/relay/relay", text))


def count(n: int) -> typing.Iterator[dict[str, int]]:
    for i in range(n):
        yield {"i": i}


async def ticks(n: int) -> typing.AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


def many() -> typing.Iterator[bytes]:
    while True:
        yield b"x" * 65536


def nested(depth: int):
    return inner(depth)


def inner(depth: int):
    return {}["absent"]


def leave():
    raise SystemExit(3)


def recurse(n: int = 0) -> int:
    return recurse(n + 1)


def burn():
    while True:
        pass


def who() -> str:
    return pollen.caller().node


def unit() -> str | None:
    return pollen.config("unit")


def file() -> str:
    return open("/etc/passwd").read()


def thread():
    import threading

    threading.Thread(target=print).start()


def thing():
    return object()
'''


def write(folder: Path, text: str, name: str = "hello.py") -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return str(path)


async def seeded(cluster: Cluster, *line: str, at: int = 0) -> str:
    """What ``pln seed`` prints."""
    done = await cluster[at].pln("seed", *line)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes with ``hello`` on each of them, and relay."""
    with running(Cluster(3)) as cluster:
        asyncio.run(_publish(cluster, tmp_path_factory.mktemp("hello")))
        yield cluster


async def _publish(cluster: Cluster, folder: Path) -> None:
    await cluster.seed(example("relay"), "relay")
    path = write(folder, HELLO)
    await seeded(cluster, path, "--everywhere", "--config", "unit=metre")
    await cluster.ready("hello", COMPILED)


async def called(node: Node, *words: str) -> str:
    done = await node.pln("call", "hello", *words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def refused(node: Node, *words: str) -> tuple[int, str]:
    done = await node.pln("call", "hello", *words)
    return done.returncode, done.stderr.decode()


async def test_a_file_is_called_from_every_node_by_name(three: Cluster) -> None:
    for node in three:
        assert await called(node, "greet", "name=world") == "hello world"
        assert await called(node, "greet", "name=world", "times:=2") == "hello hello world"
        assert await called(node, "greet", "name=w", "loud=true") == "HELLO W"
        assert await called(node, "greet", '["w", 2]') == '"hello hello w"'
        assert await called(node, "greet", "--input", '{"name":"w"}') == '"hello w"'


async def test_values_are_converted_both_ways(three: Cluster, tmp_path: Path) -> None:
    orders = '[{"item": "nut", "count": 3}, {"item": "bolt"}]'
    assert await called(three[1], "total", f"orders={orders}") == "4"
    file = tmp_path / "orders.json"
    file.write_text(orders)
    assert await called(three[1], "total", f"orders:=@{file}") == "4"
    assert await called(three[1], "size", f"data=@{file}") == f"{len(orders)}["
    assert await called(three[1], "size", "--input", "abc") == "3a"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["greet", "world"], " call hello greet name=world"),
        (["greet"], " call hello greet name=…"),
        (["greet", "my world", "2"], " call hello greet 'name=my world' times=2"),
    ],
)
async def test_words_without_names_are_told_with_their_names(
    three: Cluster, words: list[str], line: str
) -> None:
    """As the signature wants them, in its order; the line can be typed as it stands."""
    code, said = await refused(three[1], *words)
    assert code == 2 and line in said, said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["greet", '{"name": 3}'], "argument name: expected text, got an integer"),
        (["greet", "{}"], "greet needs the argument 'name'"),
        (["greet", '{"name": "x", "time": 1}'], "did you mean 'times'"),
        (["greet", '["a", 1, true]'], "greet takes 2 at most, by place"),
        (["greet", "world"], "the input is not JSON"),
        (["greet", "name=x", "times=y"], "argument times: expected a whole number"),
        (
            ["total", 'orders=[{"item": "x"}, {"item": "y", "count": "z"}]'],
            "argument orders[1].count: expected an integer, got text",
        ),
        (["double", "[NaN]"], "NaN"),
        (["double", "[" * 5000], "nested deeper than 200"),
    ],
)
async def test_arguments_that_do_not_fit_are_told_by_name(
    three: Cluster, words: list[str], told: str
) -> None:
    code, said = await refused(three[1], *words)
    assert code == 2
    assert told in said and "[bad-argument]" in said
    assert await called(three[1], "double", "n=4") == "8"


async def test_a_function_that_is_not_there_is_named_with_those_that_are(three: Cluster) -> None:
    code, said = await refused(three[1], "absent", "{}")
    assert (code, "[function-not-found]" in said) == (3, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["leave"], "SystemExit: 3"),
        (["recurse"], "RecursionError"),
        (["file"], "FileNotFoundError"),
        (["thread"], "can't start new thread"),
        (["thing"], "the result holds a object, which JSON cannot carry"),
    ],
)
async def test_what_fails_is_a_clear_error_and_the_next_call_is_fine(
    three: Cluster, words: list[str], told: str
) -> None:
    code, said = await refused(three[1], *words)
    assert code == 1
    assert told in said and "[guest-failed]" in said
    assert await called(three[1], "double", "n=4") == "8"


async def test_a_traceback_has_the_seeds_own_frames_and_lines(three: Cluster) -> None:
    code, said = await refused(three[2], "nested", "depth:=1")
    assert code == 1 and "[guest-failed]" in said
    lines = HELLO.splitlines()
    for name, text in (("nested", "return inner(depth)"), ("inner", 'return {}["absent"]')):
        number = next(n for n, line in enumerate(lines, 1) if line.strip() == text)
        assert f'File "hello.py", line {number}, in {name}' in said
    assert "KeyError: 'absent'" in said
    assert "pollen_runner" not in said


async def test_a_loop_ends_at_the_deadline_and_harms_nobody(three: Cluster) -> None:
    done = await three[0].pln("call", "hello", "burn", "--timeout", "500ms")
    assert done.returncode == 1 and b"[deadline]" in done.stderr
    assert await called(three[0], "double", "n=4") == "8"


async def test_seeds_call_seeds_at_once_and_through_other_languages(three: Cluster) -> None:
    assert await called(three[1], "both", "n=20") == "[40,42]"
    assert await called(three[2], "relayed", "n=21") == "42"


async def test_a_seed_knows_its_caller_and_configuration(three: Cluster) -> None:
    health = await three[2].get("/v1/health")
    assert await called(three[2], "who") == json.dumps(health["node"])
    assert await called(three[2], "unit") == '"metre"'


async def test_what_is_printed_is_in_the_log(three: Cluster) -> None:
    for node in three:
        await called(node, "greet", "name=log-me")
    said = [(await node.pln("logs", "--seed", "hello")).stdout for node in three]
    assert any(b"greets log-me" in text for text in said)


async def test_a_generator_streams_and_ends_with_its_reader(three: Cluster) -> None:
    assert await called(three[1], "count", "n=3") == '{"i":0}\n{"i":1}\n{"i":2}\n'
    assert await called(three[1], "ticks", "n=2") == "0\n1\n"
    async with three[1].connect() as mesh:
        use = mesh.use("hello")
        assert [item async for item in use.count.stream(n=2)] == [{"i": 0}, {"i": 1}]
        came = 0
        async with mesh.stream("hello", "many") as pieces:
            async for piece in pieces:
                came += len(piece)
                if came > 8 << 20:
                    break
        assert await use.double(3) == 6


async def test_a_program_gets_values_and_typed_errors(three: Cluster) -> None:
    async with three[2].connect() as mesh:
        hello = mesh.use("hello")
        assert await hello.greet("world", loud=True) == "HELLO WORLD"
        assert await hello.total([{"item": "nut", "count": 3}]) == 3
        assert await hello.size(b"abc") == b"3a"
        assert await hello.count(n=2) == [{"i": 0}, {"i": 1}]
        with pytest.raises(BadRequest) as wrong:
            await hello.greet(name=3)
        assert wrong.value.slug == "bad-argument"
        assert not wrong.value.may_have_executed
        with pytest.raises(NotFound):
            await hello.absent()
        with pytest.raises(GuestError) as failed:
            await hello.nested(1)
        assert "KeyError" in failed.value.reason
        values = await asyncio.gather(*[hello.double(n) for n in range(200)])
        assert values == [n * 2 for n in range(200)]
    answer = over_http(three[0].paths.call_socket, "/call/hello/greet", b'{"name": "http"}')
    assert (answer.status, answer.body) == (200, b'"hello http"')


async def test_inspect_shows_signatures_and_docs(three: Cluster) -> None:
    for node in three:
        done = await node.pln("inspect", "seed/hello")
        said = done.stdout.decode()
        assert "greet(name: str, times: int = 1, *, loud: bool = False) -> str" in said
        assert "    Greet somebody." in said
    held = json.loads((await three[0].pln("inspect", "seed/hello", "--json")).stdout)
    greet: dict[str, Any] = held["description"]["functions"]["greet"]
    assert greet["input"]["required"] == ["name"]


BAD = [
    ("x = 1\ndef f(:\n    pass\n", 'File "hello.py", line 2'),
    ("import os\nimport not_there_at_all\n", 'File "hello.py", line 2'),
    ("\n\nraise ValueError('no')\n", 'File "hello.py", line 3'),
    ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ("x = 1\n", "has no public function"),
    ("def f(a: 'Absent'): pass\n", "names what is not there"),
    ("import pollen\npollen.request('pln://seed/relay/relay', b'')\n", 'File "hello.py", line 2'),
    ("held = []\nwhile True:\n    held.append(bytearray(1 << 20))\n", "emory"),
]


@pytest.mark.parametrize(("source", "told"), BAD)
async def test_a_file_that_cannot_be_a_seed_is_refused_with_its_line(
    three: Cluster, tmp_path: Path, source: str, told: str
) -> None:
    done = await three[0].pln("seed", write(tmp_path, source), "bad")
    recorder.note_words(done.stderr)
    assert done.returncode != 0, done.stdout.decode()
    assert told in done.stderr.decode()
    assert "bad" not in {seed["name"] for seed in (await three[0].status())["seeds"]}


async def test_an_endless_loop_at_the_top_is_refused_within_seconds(
    three: Cluster, tmp_path: Path
) -> None:
    began = time.monotonic()
    done = await three[0].pln("seed", write(tmp_path, "while True:\n    pass\n"), "endless")
    assert done.returncode != 0
    said = done.stderr.decode()
    assert "outside of all functions did not end within 5 s" in said and "[bundle-invalid]" in said
    assert time.monotonic() - began < 45
    assert await called(three[0], "double", "n=4") == "8"


async def test_a_circular_import_is_refused_with_both_files(three: Cluster, tmp_path: Path) -> None:
    write(tmp_path, "from other import y\nx = 1\ndef f(): pass\n", "ring/__main__.py")
    write(tmp_path, "from third import x\ny = 1\n", "ring/other.py")
    write(tmp_path, "from other import y\nx = 1\n", "ring/third.py")
    done = await three[0].pln("seed", str(tmp_path / "ring"))
    said = done.stderr.decode()
    assert done.returncode == 2 and "ImportError" in said
    assert 'File "other.py", line 1' in said and 'File "third.py", line 1' in said


async def test_a_folder_with_packages_and_data_is_a_seed(
    three: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its dependency comes from a folder that stands for an index."""
    index = tmp_path / "index"
    index.mkdir()
    wheel(index, "outer", "1.2", files={"outer/__init__.py": "def up(t): return t.upper()\n"})
    for name, value in (("PIP_NO_INDEX", "1"), ("PIP_FIND_LINKS", str(index))):
        monkeypatch.setenv(name, value)
    project = '[project]\nname = "my-app"\ndependencies = ["outer"]\n'
    write(tmp_path, project, "my-app/pyproject.toml")
    write(
        tmp_path,
        "import importlib.metadata, importlib.resources, outer\n"
        "def say() -> list[str]:\n"
        "    text = importlib.resources.files(__package__).joinpath('word.txt').read_text()\n"
        "    return [outer.up(text), importlib.metadata.version('outer')]\n",
        "my-app/src/my_app/__init__.py",
    )
    write(tmp_path, "word", "my-app/src/my_app/word.txt")
    done = await three[1].pln("seed", str(tmp_path / "my-app"))
    assert done.returncode == 0, done.stderr.decode()
    assert b"outer 1.2" in done.stderr
    await three.ready("my-app", COMPILED)
    answer = await three[2].pln("call", "my-app", "say")
    assert answer.stdout == b'["WORD","1.2"]'


async def test_a_second_seed_is_quick_and_an_update_rolls_out(
    three: Cluster, tmp_path: Path
) -> None:
    began = time.monotonic()
    await seeded(three, write(tmp_path, "def one() -> int: return 1\n", "quick.py"), at=1)
    assert time.monotonic() - began < 10
    await three.ready("quick")
    assert (await three[2].pln("call", "quick", "one")).stdout == b"1"
    out = await seeded(three, write(tmp_path, "def two() -> int: return 2\n", "quick.py"), at=1)
    assert "updated quick" in out
    deadline = time.monotonic() + 60
    while (await three[2].pln("call", "quick", "two")).stdout != b"2":
        assert time.monotonic() < deadline
    await three[1].pln("unseed", "quick")


async def test_the_host_is_killed_and_the_seed_serves_on(tmp_path: Path) -> None:
    """A node that gets the seed after its publisher died has runner and bundle from another."""
    async with Cluster(3) as cluster:
        text = "def answer(n: int) -> int: return n + 1\n"
        await seeded(cluster, write(tmp_path, text, "keep.py"))
        await cluster.ready("keep", COMPILED)
        await cluster[0].kill()
        async with cluster[1].connect() as mesh:
            keep = mesh.use("keep")
            deadline = time.monotonic() + COMPILED
            good = 0
            while good < 20:
                try:
                    assert await keep.answer(1) == 2
                    good += 1
                except PollenError:
                    assert time.monotonic() < deadline
        await cluster.ready("keep", COMPILED)
