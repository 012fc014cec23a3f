"""What users and the brain can reach stays small: 27 names of the SDK, 12 and 60 of the muscles."""

from __future__ import annotations

import ast

import pollen
from tests.style.tree import SOURCE

SDK_NAMES = 27
NATIVE_NAMES = 12
NATIVE_METHODS = 60

STUB = ast.parse((SOURCE / "_native.pyi").read_text())


def public(body: list[ast.stmt]) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n.name for n in body if isinstance(n, kinds) and not n.name.startswith("_")]


def test_the_sdk_has_at_most_27_names_and_all_of_them_load() -> None:
    assert len(pollen.__all__) <= SDK_NAMES
    assert [name for name in pollen.__all__ if getattr(pollen, name, None) is None] == []


def test_the_native_module_has_at_most_12_public_names() -> None:
    assert len(public(STUB.body)) <= NATIVE_NAMES


def test_the_native_module_has_at_most_60_methods() -> None:
    classes = [n for n in STUB.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    methods = [f"{held.name}.{name}" for held in classes for name in public(held.body)]
    assert 0 < len(methods) <= NATIVE_METHODS


def test_nothing_at_the_seam_is_typed_any() -> None:
    names = {n.id for n in ast.walk(STUB) if isinstance(n, ast.Name)}
    assert names & {"Any", "object"} == set()
