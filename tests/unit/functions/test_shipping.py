"""A function is shipped with what it reads of its program, and with nothing else."""

from __future__ import annotations

import functools
import linecache
from pathlib import Path
from typing import Any

import pytest

import pollen
from pollen.errors import BadRequest, GuestError
from pollen.sdk.functions import frames
from pollen.sdk.functions.shelf import Options, Wish, wish_of
from pollen.sdk.functions.ship import gather, seed_name
from tests.unit.functions.abroad import abroad, module, run, unpacked


def sources(shipment: Any) -> dict[str, str]:
    """The files of the program's own."""
    return {name: text for name, text in unpacked(shipment).items() if not name.startswith(".")}


def test_a_function_takes_what_it_reads_and_no_more(tmp_path: Path) -> None:
    """Other functions, a class, constants, imports; at their own lines."""
    own = module(
        tmp_path,
        "import json, socket\n"
        "import threading as th\n"
        "RATE = {'a': 3}\n"
        "SECRET = object()\n"
        "def unused():\n    return SECRET, th\n"
        "class Base:\n    factor = 2\n"
        "class Scale(Base):\n    def by(self, n):\n        return n * self.factor * RATE['a']\n"
        "def helper(n):\n    return Scale().by(n)\n"
        "def score(n):\n    return json.dumps([helper(n)])\n",
    )
    shipment = gather([own.score])
    (text,) = sources(shipment).values()
    assert "SECRET" not in text and "socket" not in text and "unused" not in text
    lines = text.splitlines()
    original = Path(own.__file__ or "").read_text().splitlines()
    kept = [(at, line) for at, line in enumerate(lines) if line and "import" not in line]
    assert kept and all(original[at] == line for at, line in kept)
    assert run(own.score, 5) == "[30]"


def test_a_function_runs_there_as_it_does_here(tmp_path: Path) -> None:
    """Arguments by place and name, defaults, a dataclass both ways, an enumeration, recursion."""
    own = module(
        tmp_path,
        "import dataclasses, enum\n"
        "@dataclasses.dataclass\nclass Order:\n    item: str\n    count: int = 1\n"
        "class Kind(enum.Enum):\n    A = 1\n"
        "START = 7\n"
        "def more(order: Order, *rest, start=START, kind: Kind = Kind.A, **named):\n"
        "    order.count += start + sum(rest)\n"
        "    return order, kind, named\n"
        "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    )
    got = run(own.more, own.Order("nut", 2), 10, 20, kind=own.Kind.A, x={1: (2,)})
    assert got == (own.Order("nut", 39), own.Kind.A, {"x": {1: (2,)}})
    assert run(own.fib, 10) == 55


def test_a_coroutine_function_is_awaited_there(tmp_path: Path) -> None:
    """On the loop that the runner has."""
    own = module(
        tmp_path,
        "import asyncio\nasync def slow(n):\n    await asyncio.sleep(0)\n    return n + 1\n"
        "async def both(n):\n    return await asyncio.gather(slow(n), slow(n + 1))\n",
    )
    assert gather([own.both]).is_async
    assert run(own.both, 3) == [4, 5]


def test_decorated_functions_are_plain_ones_there(tmp_path: Path) -> None:
    """``@pollen.remote`` with and without options, on the one called and on one it calls."""
    own = module(
        tmp_path,
        "import functools\nimport pollen\nfrom pollen import remote\n"
        "@remote\ndef inner(n: int) -> int:\n    return n + 1\n"
        "@pollen.remote(timeout=5)\n@functools.lru_cache\ndef outer(n: int) -> int:\n"
        "    return inner(n) + inner.local(n)\n",
    )
    assert own.outer(2) == own.outer.local(2) == 6
    assert run(own.outer.local, 2) == 6


def test_modules_of_the_program_go_along_whole(tmp_path: Path, monkeypatch: Any) -> None:
    """With the packages above them, what they import relatively, and imports within a function."""
    package = tmp_path / "own_pack" / "deep"
    package.mkdir(parents=True)
    (tmp_path / "own_pack" / "__init__.py").write_text("NAME = __name__\n")
    (package / "__init__.py").write_text("")
    (package / "maths.py").write_text(
        "from .. import NAME\nfrom . import more\ndef twice(n):\n    return more.two() * n\n"
    )
    (package / "more.py").write_text("def two():\n    return 2\n")
    (package / "late.py").write_text("def three():\n    return 3\n")
    (package / "other.py").write_text("raise RuntimeError('not needed')\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = module(
        tmp_path,
        "import own_pack.deep.maths as m\nfrom own_pack.deep.maths import twice\n"
        "def work(n):\n    from own_pack.deep.late import three\n"
        "    return twice(n) + three(), m.NAME\n",
    )
    shipment = gather([own.work])
    assert sorted(name for name in shipment.files if name.startswith("own_pack")) == [
        "own_pack/__init__.py", "own_pack/deep/__init__.py", "own_pack/deep/late.py",
        "own_pack/deep/maths.py", "own_pack/deep/more.py",
    ]  # fmt: skip
    assert run(own.work, 4) == (11, "own_pack")


def test_a_module_that_its_own_imports_lead_back_to_is_whole(
    tmp_path: Path, monkeypatch: Any
) -> None:
    """Then nothing of it is cut."""
    (tmp_path / "own_a.py").write_text("import own_b\nLIMIT = 4\ndef go():\n    return own_b.x()\n")
    (tmp_path / "own_b.py").write_text("import own_a\ndef x():\n    return own_a.LIMIT\n")
    monkeypatch.syspath_prepend(tmp_path)
    import own_a  # type: ignore[import-not-found]

    assert run(own_a.go) == 4
    assert sources(gather([own_a.go]))["own_a.py"] == (tmp_path / "own_a.py").read_text()


def test_what_the_program_does_itself_stays(tmp_path: Path) -> None:
    """Under ``if __name__ == "__main__"``; a value that was made there is a constant."""
    own = module(
        tmp_path,
        "import sys\nN = 1\nif __name__ == '__main__' or 'own' in __name__:\n    N = 2\n"
        "    sys.stderr.write('')\ndef go():\n    return N\n",
    )
    (text,) = sources(gather([own.go])).values()
    assert "stderr" not in text
    assert run(own.go) == 2


def test_an_import_in_a_block_keeps_the_block(tmp_path: Path) -> None:
    """Which one is done is decided there."""
    own = module(
        tmp_path,
        "try:\n    import absent_module_x as toml\n"
        "except ImportError:\n    import tomllib as toml\n"
        "if len('x'):\n    def inner(text):\n        return toml.loads(text)\n"
        "def go(text):\n    return inner(text)\n",
    )
    assert run(own.go, "a = 1") == {"a": 1}


def test_values_without_a_form_are_made_again(tmp_path: Path) -> None:
    """By the statement that made them: patterns, locks, loggers, instances."""
    own = module(
        tmp_path,
        "import re, threading, logging\nfrom typing import TypeVar\n"
        "T = TypeVar('T')\nWORD: re.Pattern[str] = re.compile('[a-z]+')\n"
        "LOCK, LOG = threading.Lock(), logging.getLogger(__name__)\n"
        "class Table:\n    def __init__(self, n):\n        self.n = n\n"
        "TABLE = Table(5)\n"
        "def go(text: T) -> T:\n    with LOCK:\n        return WORD.findall(text), TABLE.n\n",
    )
    assert run(own.go, "ab 1 c") == (["ab", "c"], 5)


def test_a_function_within_a_function_goes_when_it_reads_none_of_its_names(tmp_path: Path) -> None:
    """Its lines stay as they are."""
    own = module(
        tmp_path,
        "K = 3\ndef make():\n    def inner(n):\n        text = '''\n    kept\n'''\n"
        "        return n * K, text\n    return inner\n"
        "def bound(k):\n    def inner(n):\n        return n * k\n    return inner\n",
    )
    assert run(own.make(), 2) == (6, "\n    kept\n")
    with pytest.raises(TypeError, match=r"reads 'k' of the function around it"):
        gather([own.bound(1)])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("go = lambda n: n\n", "a lambda has no source"),
        ("exec('def go(): pass')\n", "has no source here"),
        ("class A:\n    def m(self): pass\ngo = A().m\n", "bound to an object"),
        ("go = ''.join\n", "bound to an object"),
        ("globals()['X'] = (n for n in ())\ndef go():\n    return X\n",
         "go reads 'X', which cannot be shipped: a generator cannot travel"),
        ("X = ['x' * 300_000]\ndef go():\n    return X\n", "the most of them 'X'"),
        ("import pollen\nfrom pollen import connect as go\n", "a function of Pollen"),
    ],
)  # fmt: skip
def test_what_cannot_be_shipped_is_told(tmp_path: Path, text: str, told: str) -> None:
    """With what cannot."""
    own = module(tmp_path, text)
    with pytest.raises(TypeError, match=told):
        gather([own.go])


def test_a_file_that_was_changed_since_is_not_shipped(tmp_path: Path) -> None:
    """Another function would run."""
    own = module(tmp_path, "def go():\n    return 1\n")
    Path(own.__file__ or "").write_text("\n\n\ndef go():\n    return 2\n")
    linecache.checkcache(own.__file__)
    with pytest.raises(TypeError, match="its file was changed since"):
        gather([own.go])


def test_a_package_that_is_not_named_is_told(tmp_path: Path) -> None:
    """With the name that pip has for it; one that is guarded is not asked for."""
    own = module(
        tmp_path,
        "def go():\n    import msgspec\n    return msgspec\n"
        "def may():\n    try:\n        import msgspec\n    except ImportError:\n        return 0\n",
    )
    with pytest.raises(BadRequest) as caught:
        gather([own.go])
    assert "imports msgspec, a package that is not shipped" in caught.value.reason
    assert caught.value.remedy == 'name it: requirements=["msgspec"]'
    assert gather([own.may]).files


@pytest.mark.parametrize(
    "text",
    [
        "KEY = 'AKIA' + 'ABCDEFGHIJKLMNOP'\ndef go():\n    return KEY\n",
        "def go():\n    return 'ghp_0123456789abcdefghijklmnopqrstuvwxyz'\n",
        "def go():\n    api_key = 'hunter2hunter2'\n    return api_key\n",
    ],
)
def test_text_that_looks_like_a_key_is_refused_unless_told(tmp_path: Path, text: str) -> None:
    """In the source and in constants; the key itself is in no error."""
    own = module(tmp_path, text)
    with pytest.raises(BadRequest) as caught:
        gather([own.go])
    assert "has what looks like" in caught.value.reason and "with_keys=True" in caught.value.remedy
    assert not {"ABCDEFGH", "0123456789abc", "hunter2"} & {
        part for part in ("ABCDEFGH", "0123456789abc", "hunter2") if part in str(caught.value)
    }
    assert gather([own.go], with_keys=True).files


def test_a_key_as_an_argument_is_nobodys_business(tmp_path: Path) -> None:
    """Names and calls that hold the words are no keys."""
    own = module(
        tmp_path,
        "import os\ndef go(token):\n    password = os.environ.get('PASSWORD')\n"
        "    return token, password, 'token: '\n",
    )
    assert gather([own.go]).files


def test_the_same_program_gives_the_same_name(tmp_path: Path) -> None:
    """Another constant, option or node gives another."""
    own = module(tmp_path, "N = 1\ndef go():\n    return N\n")
    one, two = gather([own.go]), gather([own.go])
    options = Options().of_seed()
    assert one.bundle == two.bundle
    assert seed_name(one, "a", options) == seed_name(two, "a", options)
    assert one.is_current()
    own.N = 2
    assert not one.is_current()
    names = {
        seed_name(one, "a", options), seed_name(gather([own.go]), "a", options),
        seed_name(one, "b", options), seed_name(one, "a", Options(replicas=1).of_seed()),
    }  # fmt: skip
    assert len(names) == 4
    assert all(name.startswith("fn-go-") and len(name) < 64 for name in names)


def test_a_name_that_comes_later_is_noticed(tmp_path: Path) -> None:
    """A notebook defines what a function calls after it, as often as not."""
    own = module(tmp_path, "def go():\n    return len(later())\n")
    shipment = gather([own.go])
    assert shipment.is_current()
    with pytest.raises(NameError, match="later"):
        run(own.go)
    own.later = str
    assert not shipment.is_current()
    assert run(own.go) == 0


def test_functions_of_the_library_go_by_name() -> None:
    """Nothing is shipped for them."""
    assert run(pow, 2, 8) == 256
    assert run(str.upper, "a") == "A"
    assert gather([pow]).files == []


def test_cells_of_a_notebook_are_files_of_one_module() -> None:
    """Names of earlier cells are found in them; tracebacks have the lines of the cell."""
    cells = [
        "import math\nBASE = 10\n",
        "def helper(n):\n    return math.sqrt(n) + BASE\n",
        "class Late:\n    x = 1\n\ndef go(n):\n    if n < 0:\n        raise KeyError(n)\n"
        "    return helper(n), Late.x\n",
    ]
    main: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    for number, text in enumerate(cells):
        file = f"/tmp/ipykernel_7/{number}.py"
        linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
        exec(compile(text, file, "exec"), main)
    try:
        shipment = gather([main["go"]])
        assert shipment.files == ["cell_1.py", "cell_2.py", "cell_3.py"]
        with abroad(shipment) as call:
            good = call(frames.request(shipment.targets[0], [4], {}, shipment.names), "call")
            bad = call(frames.request(shipment.targets[0], [-4], {}, shipment.names), "call")
        assert frames.value_of(good, shipment.names, "go") == (12.0, 1)
        with pytest.raises(KeyError) as caught:
            frames.value_of(bad, shipment.names, "go")
        assert 'File "cell_3.py", line 6, in go' in str(caught.value.__cause__)
        assert "raise KeyError(n)" in str(caught.value.__cause__)
    finally:
        for number in range(len(cells)):
            del linecache.cache[f"/tmp/ipykernel_7/{number}.py"]


def test_a_constant_that_is_an_instance_of_an_own_class_is_made_again(tmp_path: Path) -> None:
    """Its statement goes, since its class is only there once the module runs."""
    own = module(
        tmp_path,
        "import dataclasses\n@dataclasses.dataclass\nclass Order:\n    n: int\n"
        "FIRST = Order(3)\ndef go(order=FIRST):\n    return order.n\n",
    )
    assert run(own.go) == 3


def test_errors_come_as_themselves_with_their_traceback(tmp_path: Path) -> None:
    """Builtins, the library's and the program's own; what cannot be is ``guest-failed``."""
    own = module(
        tmp_path,
        "import json\nclass Mine(ValueError):\n    pass\n"
        "class Odd(Exception):\n    def __init__(self, a, b):\n        super().__init__('odd')\n"
        "def fail(kind):\n"
        "    if kind == 'own':\n        raise Mine('x', 3)\n"
        "    if kind == 'odd':\n        raise Odd(1, 2)\n"
        "    if kind == 'json':\n        return json.loads('{')\n"
        "    if kind == 'os':\n        raise FileNotFoundError(2, 'gone', 'a.txt')\n"
        "    if kind == 'exit':\n        raise SystemExit(3)\n"
        "    if kind == 'result':\n        return [object()]\n"
        "    return deeper()\n"
        "def deeper():\n    return 1 / 0\n",
    )
    with pytest.raises(ZeroDivisionError) as caught:
        run(own.fail, "")
    told = str(caught.value.__cause__)
    name = Path(own.__file__ or "").name
    assert f'File "{name}", line 20, in fail' in told and "return 1 / 0" in told
    assert "glue" not in told and "pollen_runner" not in told
    with pytest.raises(own.Mine) as mine:
        run(own.fail, "own")
    assert mine.value.args == ("x", 3)
    with pytest.raises(FileNotFoundError) as gone:
        run(own.fail, "os")
    assert gone.value.filename == "a.txt"
    for kind, text in (("odd", "Odd: odd"), ("exit", "SystemExit: 3")):
        with pytest.raises(GuestError, match=text):
            run(own.fail, kind)
    with pytest.raises(TypeError, match=r"the result\[0\]: an object cannot travel"):
        run(own.fail, "result")
    with pytest.raises(ValueError, match="Expecting property name"):
        run(own.fail, "json")


def test_an_argument_that_cannot_travel_is_named() -> None:
    """By place or by name."""
    names = gather([pow]).names
    with pytest.raises(TypeError, match=r"argument 1\[0\]: "):
        frames.request("builtins:pow", [1, [object()]], {}, names)
    with pytest.raises(TypeError, match="argument mod: "):
        frames.request("builtins:pow", [], {"mod": object()}, names)


@pytest.mark.parametrize(
    "answer",
    [b"", b"[]", b'{"x":1}', b'{"e":1}', b'{"e":{"c":"builtins:SystemExit","a":[1],"t":"x"}}',
     b'{"e":{"c":"os:system","a":["x"],"t":"x"}}', b'{"e":{"c":"builtins:KeyError","a":7}}'],
)  # fmt: skip
def test_an_answer_of_a_stranger_is_a_failed_call(answer: bytes) -> None:
    """It ends no program and calls nothing."""
    with pytest.raises(GuestError):
        frames.value_of(answer, gather([pow]).names, "pow()")


def test_several_calls_in_one_stop_at_the_first_error() -> None:
    """With the values before it."""
    shipment = gather([divmod])
    data = frames.requests("builtins:divmod", [(1, 2), (1, 0), (5, 5)], shipment.names)
    with abroad(shipment) as call:
        answer = call(data, "call")
    values, error = frames.values_of(answer, shipment.names, "divmod()")
    assert values == [(0, 1)]
    assert isinstance(error, ZeroDivisionError)


def test_what_an_instance_does_first_is_done_once(tmp_path: Path) -> None:
    """Before the first call; its error is told as such."""
    own = module(
        tmp_path,
        "DONE = []\ndef init(x):\n    DONE.append(x)\n    if x is None:\n"
        "        raise ValueError('no')\ndef seen():\n    return list(DONE)\n",
    )
    shipment = gather([own.seen, own.init])
    target, init = shipment.targets
    with abroad(shipment) as call:
        for _ in range(2):
            data = frames.request(target, [], {}, shipment.names, ("a", init, ("x",)))
            assert frames.value_of(call(data, "call"), shipment.names, "seen()") == ["x"]
        data = frames.request(target, [], {}, shipment.names, ("b", init, (None,)))
        with pytest.raises(frames.FirstFailed) as caught:
            frames.value_of(call(data, "call"), shipment.names, "seen()")
    assert isinstance(caught.value.cause, ValueError)


def test_a_wish_is_the_function_below_its_partials() -> None:
    """With the options of what decorates it."""
    marked = pollen.remote(replicas=3)(divmod)
    wish = wish_of(functools.partial(functools.partial(marked, 7), 2))
    assert wish == Wish(divmod, Options(replicas=3), (7, 2), {})
    with pytest.raises(TypeError, match="give it and its arguments apart"):
        wish_of(divmod(7, 2))


def test_a_generator_is_no_remote_function() -> None:
    """It says what there is for it."""

    def count() -> Any:
        yield 1

    with pytest.raises(TypeError, match="is a generator: publish its file as a seed"):
        pollen.remote(count)
    with pytest.raises(TypeError, match=r'requirements=\["attrs"\]'):
        pollen.remote(requirements="attrs")
