"""Which machine a text means, and which of flag, environment and context is asked first."""

from __future__ import annotations

import errno
import os
import shlex
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pollen.errors import PollenError
from pollen.paths import Paths, contexts_file, has_contexts
from pollen.sdk import hosts
from pollen.sdk.tunnel import ssh_line


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without contexts and without PLN_ in the environment."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("PLN_HOST", "PLN_DIR", "PLN_SSH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def slug(error: pytest.ExceptionInfo[PollenError]) -> str:
    return error.value.slug


@pytest.mark.parametrize(
    ("text", "host", "folder", "words"),
    [
        ("me@pi", "ssh://me@pi", "", ["me@pi"]),
        ("pi.example", "ssh://pi.example", "", ["pi.example"]),
        ("ssh://pi", "ssh://pi", "", ["pi"]),
        ("ssh://me@pi:2222", "ssh://me@pi:2222", "", ["-p", "2222", "me@pi"]),
        ("ssh://a:b@pi:22", "ssh://a:b@pi:22", "", ["-p", "22", "a:b@pi"]),
        ("a:b@pi", "ssh://a:b@pi", "", ["a:b@pi"]),
        (":@0", "ssh://:@0", "", [":@0"]),
        ("ssh://me@pi/srv/pln", "ssh://me@pi", "/srv/pln", ["me@pi"]),
        ("ssh://pi:22/~/x", "ssh://pi:22", "~/x", ["-p", "22", "pi"]),
        ("ssh://pi/a%20b", "ssh://pi", "/a b", ["pi"]),
        ("ssh://pi/", "ssh://pi", "", ["pi"]),
        (
            "ssh://[2001:db8::7]:2222/x",
            "ssh://[2001:db8::7]:2222",
            "/x",
            ["-p", "2222", "2001:db8::7"],
        ),
        ("me@2001:db8::7", "ssh://me@[2001:db8::7]", "", ["me@2001:db8::7"]),
    ],
)
def test_a_host_is_read(text: str, host: str, folder: str, words: list[str]) -> None:
    found = hosts.parse(text)
    assert (found.host, found.is_given, found.ssh_words) == (host, bool(folder), words)
    assert str(found.home) == (folder or "~/.pln")


@pytest.mark.parametrize(
    "text",
    [
        *("-oProxyCommand=x", "ssh://-oProxyCommand=x", "-l@pi", "me@-pi", "ssh://me@-pi/x"),
        *("", "ssh://", "ssh:///x", "@pi", "me@", "a b", "me@p i", "pi\n", "me@pi\t", "\x7f@pi"),
        *("pi;id", "$(id)@pi", "`id`", "me@pi|id", "a&b", "pi:22", "ssh://pi:x", "ssh://pi:0"),
        *(
            "ssh://pi:99999",
            "ssh://pi:",
            "me@a/b",
            "ssh://pi/a%0ab",
            "ssh://me@you@pi",
            "http://pi",
        ),
        *("[", "]", "[]", "pi[", "me[@pi", "ssh://[", "\x85@pi", "p\u202ei"),
    ],
)
def test_what_is_no_host_is_usage(text: str) -> None:
    """Nothing that ssh takes for an option, or a shell for more than a word."""
    with pytest.raises(PollenError) as error:
        hosts.parse(text)
    assert slug(error) == "usage" and error.value.remedy


@given(st.text(max_size=30))
def test_no_text_becomes_an_option_or_leaves_its_word(text: str) -> None:
    try:
        found = hosts.parse(text)
    except PollenError as error:
        assert error.slug == "usage"
        return
    *options, dashes, target, _ = ssh_line(found, "status")
    assert dashes == "--" and not target.startswith("-")
    assert shlex.split(target) == [target]
    assert "-p" not in options or options[options.index("-p") + 1].isdigit()


@given(st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=30))
def test_the_folder_there_is_one_word_of_the_shell(folder: str) -> None:
    found = hosts.parse("me@pi", folder)
    assert shlex.split(ssh_line(found, "status")[-1]) == ["pln", "--dir", str(found.home), "status"]


def test_the_ssh_of_git_and_the_like_may_be_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLN_SSH", "ssh -F 'my config'")
    assert ssh_line(hosts.parse("me@pi"), "status")[:3] == ["ssh", "-F", "my config"]


def test_contexts_are_kept_in_a_file_of_the_user_alone(home: Path) -> None:
    assert hosts.read() == ("local", {})
    hosts.write("lab", {"lab": "ssh://me@lab", "a.b": "me@attic"})
    assert hosts.read() == ("lab", {"lab": "ssh://me@lab", "a.b": "me@attic"})
    path = contexts_file()
    assert path == home / "config" / "pollen" / "contexts.toml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [held.name for held in path.parent.iterdir()] == ["contexts.toml"]


def test_what_a_user_wrote_into_the_file_stays(home: Path) -> None:
    hosts.write("local", {"lab": "ssh://me@lab"})
    path = contexts_file()
    path.write_text(f"# mine\n{path.read_text()}")
    hosts.write("lab", {"lab": "ssh://me@lab", "attic": "me@attic"})
    assert path.read_text().startswith("# mine\n")
    assert hosts.read()[1].keys() == {"lab", "attic"}


@pytest.mark.parametrize("text", ["use = ", "use = 1", "hosts = 1", "[hosts]\nlab = 1"])
def test_a_damaged_file_is_named(home: Path, text: str) -> None:
    path = contexts_file()
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(PollenError) as error:
        hosts.read()
    assert slug(error) == "state-unusable" and str(path) in str(error.value)


@pytest.mark.parametrize("name", ["", "local", "-x", "a b", "a/b", "x" * 65, "a@b", "é\n"])
def test_what_is_no_name_of_a_context_is_usage(name: str) -> None:
    with pytest.raises(PollenError) as error:
        hosts.check_name(name)
    assert slug(error) == "usage"


def told(paths: Paths) -> str:
    return f"{paths.host}{paths.home}" if paths.host else "here"


@pytest.mark.parametrize(
    ("flag", "directory", "environment", "use", "wanted"),
    [
        (None, None, {}, "local", "here"),
        (None, None, {}, "lab", "ssh://me@lab/srv"),
        ("me@pi", None, {"PLN_HOST": "attic"}, "lab", "ssh://me@pi~/.pln"),
        ("lab", "/other", {}, "local", "ssh://me@lab/other"),
        ("attic", None, {"PLN_DIR": "/here"}, "lab", "ssh://attic~/.pln"),
        ("local", None, {"PLN_HOST": "attic"}, "lab", "here"),
        (None, "/here", {"PLN_HOST": "attic"}, "lab", "here"),
        (None, None, {"PLN_HOST": "attic", "PLN_DIR": "/here"}, "lab", "ssh://attic~/.pln"),
        (None, None, {"PLN_DIR": "/here"}, "lab", "here"),
        (None, None, {"PLN_HOST": "local"}, "lab", "here"),
    ],
)
def test_the_flag_goes_first_then_the_environment_then_the_context(
    monkeypatch: pytest.MonkeyPatch,
    flag: str | None,
    directory: str | None,
    environment: dict[str, str],
    use: str,
    wanted: str,
) -> None:
    hosts.write(use, {"lab": "ssh://me@lab/srv", "attic": "ssh://attic"})
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert told(hosts.chosen(flag, directory)) == wanted


def test_a_program_follows_the_environment_and_not_the_context_in_use(
    monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """What a person chose at a desk does not move a program; ``docs/design/sdk.md``."""
    hosts.write("lab", {"lab": "ssh://me@lab"})
    assert told(hosts.connecting(None)) == "here"
    assert told(hosts.connecting("lab")) == "ssh://me@lab~/.pln"
    assert told(hosts.connecting("ssh://me@pi/x")) == "ssh://me@pi/x"
    assert hosts.connecting("./lab").home == home / "lab"
    assert hosts.connecting(Path("lab")).home == home / "lab"
    assert hosts.connecting("attic").home == home / "attic"
    monkeypatch.setenv("PLN_HOST", "lab")
    assert told(hosts.connecting(None)) == "ssh://me@lab~/.pln"
    assert told(hosts.connecting(home)) == "here"


def test_a_context_that_is_not_there_is_usage() -> None:
    with pytest.raises(PollenError) as error:
        hosts.named("lab")
    assert slug(error) == "usage" and "pln context list" in error.value.remedy
    hosts.write("lab", {})
    with pytest.raises(PollenError) as error:
        hosts.chosen(None, None)
    assert error.value.remedy == "pln context use local"


def test_a_command_for_the_machine_names_it_with_its_folder() -> None:
    assert hosts.parse("ssh://me@pi:2222/a b").command("up -d") == (
        """ssh -p 2222 me@pi pln --dir "'/a b'" up -d"""
    )
    assert hosts.parse("me@pi").command("down --force") == "ssh me@pi pln -H local down --force"
    assert Paths(Path("/x")).command("up -d") == "pln up -d"


WORDS = st.text(st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=20)


@given(WORDS, WORDS)
@example("it's", "$HOME `id` \\ ! \" '")
def test_a_command_for_the_machine_passes_two_shells_whole(folder: str, word: str) -> None:
    """The shell here takes one layer of quotes away, and ssh hands the rest to another one."""
    line = hosts.parse("me@pi", folder).command(shlex.join(["up", word]))
    ssh, target, *there = shlex.split(line)
    folder = str(Path(folder))
    assert (ssh, target) == ("ssh", "me@pi")
    assert shlex.split(" ".join(there)) == ["pln", "--dir", folder, "up", word]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ESTALE])
def test_contexts_that_cannot_be_looked_for_are_an_error_and_not_none(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A verb that is meant for another machine would act on this one."""

    def refuse(path: Path, *_: object, **__: object) -> os.stat_result:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    assert has_contexts()
    with pytest.raises(PollenError) as error:
        hosts.chosen(None, None)
    assert slug(error) == "state-unusable" and str(contexts_file()) in str(error.value)
    assert "-H local" in error.value.remedy


def test_without_a_file_or_its_folder_there_are_no_contexts(home: Path) -> None:
    assert not has_contexts()
    (home / "config").write_text("no folder")
    assert not has_contexts() and hosts.read() == ("local", {})
    (home / "config").unlink()
    hosts.write("local", {})
    assert has_contexts()


def test_an_address_with_colons_and_a_port_needs_brackets() -> None:
    """Whether its last part is a port cannot be told."""
    for text in ("ssh://2001:db8::5:22", "ssh://me@2001:db8::5", "ssh://2001:db8::5/x"):
        with pytest.raises(PollenError, match="brackets") as error:
            hosts.parse(text)
        assert slug(error) == "usage"
    assert hosts.parse("ssh://[2001:db8::5]:22").ssh_words == ["-p", "22", "2001:db8::5"]
    assert hosts.parse("ssh://[2001:db8::5]").ssh_words == ["2001:db8::5"]
