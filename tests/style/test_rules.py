"""The rules of a request are a closed list: each has a sentence, two bodies, vectors, a model."""

from __future__ import annotations

import importlib
import re
from typing import NamedTuple

from tests.style.tree import CRATES, ROOT, SOURCE


class Rule(NamedTuple):
    """Where a rule stands. ``model``: the file of the simulator, or the rule, that asks it."""

    reference: str
    rust: str
    vectors: tuple[str, ...]
    model: str


# By the name that begins its sentence on the page of the seam. A new one needs a decision page.
RULES = {
    "attempts": Rule(
        "attempts.Attempts", "Attempts", ("attempts.json", "attempts_drawn.json"), "sim calls"
    ),
    "choose": Rule("routing.choose", "choose", ("routing_choose.json",), "rules attempts"),
    "rank": Rule("routing.choose", "choose_rank", ("routing_choose.json",), "rules attempts"),
    "retry class": Rule(
        "routing.classify_retry", "classify_retry", ("routing_retry.json",), "rules attempts"
    ),
    "gate match": Rule(
        "routing.match_gate", "match_gate", ("routing_gate.json", "policy.json"), "sim serving"
    ),
    "admit": Rule("routing.admit", "admit", ("routing_admit.json",), "sim serving"),
    "wake": Rule("routing.admit_wake", "admit_wake", ("routing_wake.json",), "sim serving"),
    "fullness": Rule("routing.fullness", "fullness", ("routing_fullness.json",), "sim serving"),
    "shed": Rule("routing.shed", "shed", ("routing_shed.json",), "sim serving"),
    "late": Rule(
        "routing.is_late", "is_late", ("routing_late.json", "backlog.json"), "sim serving"
    ),
    "split": Rule("routing.split", "split", ("routing_split.json",), "sim serving"),
    "silence": Rule("silence.Silence", "Silence", ("silence.json",), "sim calls end"),
}
# What the crate gives away beside them: parts of a rule, the words of its questions and answers.
PARTS = {
    *("Action", "Admission", "Aim", "Arrival", "Attempt", "Backlog", "Candidate", "End", "Event"),
    *(
        "Failure",
        "Fit",
        "Heard",
        "Met",
        "Party",
        "Place",
        "Policy",
        "Retry",
        "Room",
        "Share",
        "Step",
        "Stock",
        "View",
    ),
    *("Wait", "Wake", "Wakening", "Words", "aim", "eject_after", "is_short"),
}
SENTENCE = re.compile(r"^- \*\*([\w ]+)\*\*\(", re.MULTILINE)


def test_each_rule_has_its_sentence_and_each_sentence_its_rule() -> None:
    """Twelve, on the page of the seam."""
    page = (ROOT / "docs" / "internals" / "seam.md").read_text()
    section = page.split("## The rules of a request")[1].split("\n## ")[0]
    assert SENTENCE.findall(section) == list(RULES)
    assert len(RULES) == 12


def test_the_crate_gives_away_the_rules_and_nothing_else() -> None:
    """What is not a rule is a part of one."""
    lib = (CRATES / "pollen-rules" / "src" / "lib.rs").read_text()
    named = {
        name
        for group in re.findall(r"^pub use \w+::(\{[^}]*\}|\w+);", lib, re.MULTILINE)
        for name in re.findall(r"\w+", group)
    }
    assert named == {rule.rust for rule in RULES.values()} | PARTS


def test_each_rule_has_a_reference_vectors_that_both_run_and_a_model() -> None:
    """A file that only one side runs holds nobody."""
    rust = "".join(p.read_text() for p in (CRATES / "pollen-rules" / "tests").glob("*.rs"))
    python = "".join(p.read_text() for p in (ROOT / "tests" / "unit" / "rules").glob("*.py"))
    for name, rule in RULES.items():
        module, attribute = rule.reference.split(".")
        assert hasattr(importlib.import_module(f"pollen.core.rules.{module}"), attribute), name
        for vectors in rule.vectors:
            assert (ROOT / "tests" / "vectors" / vectors).exists(), vectors
            assert f"vectors/{vectors}" in rust, vectors
            short = re.sub(r"^routing_(\w+)\.json$", r"\1", vectors)
            assert f'"{vectors}"' in python or f'cases("{short}")' in python, vectors
        where, *files = rule.model.split()
        folder = SOURCE / ("sim/muscles" if where == "sim" else "core/rules")
        model = "".join((folder / f"{file}.py").read_text() for file in files)
        assert re.search(rf"\b{attribute}\(|=\s*{attribute}\b", model), name


def test_the_model_of_the_muscles_copies_no_number_of_theirs() -> None:
    """A number with "the muscles" for its source stands in ``rules.numbers``."""
    shared = importlib.import_module("pollen.core.rules.numbers")
    names = {name for name, value in vars(shared).items() if type(value) is int}
    for path in sorted((SOURCE / "sim" / "muscles").glob("*.py")):
        own = set(re.findall(r"^_?([A-Z][A-Z_]+) = ", path.read_text(), re.MULTILINE))
        assert not own & (names - {"SECOND"}), path.name
        assert "Source: the muscles" not in path.read_text(), path.name
