"""What ssh says becomes an error that says what to do."""

from __future__ import annotations

import pytest

from pollen.errors import error_from_dict
from pollen.sdk import diagnosis, hosts

CHANGED = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
Host key for [pi]:2222 has changed and you have requested strict checking.
Host key verification failed.
"""


@pytest.mark.parametrize(
    ("code", "said", "slug", "reason", "remedy"),
    [
        (255, CHANGED, "unreachable", "has changed", "ssh-keygen -R '[pi]:2222'"),
        (
            255,
            "Host key verification failed.",
            "unreachable",
            "not known",
            "ssh -p 2222 me@pi true",
        ),
        (
            255,
            "No ED25519 host key is known for pi and you have requested strict checking.",
            "unreachable",
            "not known",
            "compare the key",
        ),
        (255, "me@pi: Permission denied (publickey).", "denied", "(publickey)", "BatchMode"),
        (
            255,
            "ssh: connect to host pi port 22: Connection refused",
            "unreachable",
            "refused",
            "-v",
        ),
        (255, "ssh: Could not resolve hostname pi: x", "unreachable", "resolve hostname", "-v"),
        (127, "sh: 1: pln: not found", "unreachable", "has no pln", "command -v pln"),
        (126, "sh: 1: pln: Permission denied", "unreachable", "has no pln", "command -v"),
        (
            2,
            "error: there is no command '_stdio'",
            "unreachable",
            "has an older pln",
            "pln version",
        ),
        (255, "Bad owner or permissions on config", "unreachable", "Bad owner", "ssh -v"),
        (None, "", "unreachable", "failed: it ended", "ssh -v"),
        (1, "a\x1b[2Jb", "unreachable", r"a\x1b[2Jb", "ssh -v"),
    ],
)
def test_each_failure_of_ssh_has_its_words(
    code: int | None, said: str, slug: str, reason: str, remedy: str
) -> None:
    error = error_from_dict(diagnosis.of_ssh(hosts.parse("ssh://me@pi:2222"), code, said))
    assert error.slug == slug and error.may_have_executed is False
    assert reason in error.reason and remedy in error.remedy


@pytest.mark.parametrize(
    ("why", "slug", "remedy"),
    [
        ("no-daemon", "daemon-not-running", "ssh me@pi pln --dir /x up -d"),
        ("no-folder", "daemon-not-running", "--dir"),
        ("not-ours", "unreachable", "owner"),
        ("busy", "daemon-not-answering", "ssh me@pi pln --dir /x doctor"),
        ("other", "unreachable", "doctor"),
    ],
)
def test_each_word_of_the_far_end_has_its_error(why: str, slug: str, remedy: str) -> None:
    error = error_from_dict(diagnosis.of_socket(hosts.parse("ssh://me@pi/x"), why, "text"))
    assert error.slug == slug and "/x on me@pi" in error.reason and remedy in error.remedy
