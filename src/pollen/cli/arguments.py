"""Arguments of a call as people type them: ``name=world times:=2 photo=@cat.jpg``.

Decides: which words are arguments, and which JSON value each one is, by the function's signature.
Does not know: the function; its node checks all again.
Invariants: a word is an argument only where the function published a signature, so that an input
    that holds an ``=`` stays what it was for every other seed.
Source: docs/design/cli.md#arguments.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from pollen.cli.values import read_input
from pollen.errors import error_from

# Names of components have hyphens.
_ARGUMENT = re.compile(r"([A-Za-z_][\w-]*)(:?=)(.*)", re.DOTALL)
_WORDS = {
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a JSON list",
    "object": "a JSON object",
    "null": "null",
}


def is_argument(text: str) -> bool:
    """Whether a word has the form of an argument."""
    return _ARGUMENT.fullmatch(text) is not None


def is_name(text: str) -> bool:
    """Whether a word can be the name of a function in most languages."""
    return text.isidentifier()


def encode(function: str, signature: dict[str, Any], texts: Sequence[str]) -> bytes:
    """The input of a call. Raises ``usage`` for a word that is none, ``bad-argument`` for a value
    that is not what the signature says."""
    properties = signature.get("input", {}).get("properties", {})
    given: dict[str, Any] = {}
    for text in texts:
        found = _ARGUMENT.fullmatch(text)
        if found is None:
            reason = f"{text[:80]!r} is not an argument, and others are"
            raise error_from("usage", reason, "give each as name=value or name:=JSON")
        name, sign, value = found.groups()
        if name in given:
            raise error_from("usage", f"the argument {name} is given twice", "give it once")
        if signature.get("takes") == "bytes":
            return read_input(value)
        schema = properties.get(name)
        if sign == ":=":
            given[name] = _json(name, value)
        else:
            given[name] = _value(name, schema if isinstance(schema, dict) else {}, value)
    return json.dumps(given, ensure_ascii=False, separators=(",", ":")).encode()


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(read_input(text) if text.startswith("@") else text)
    except (ValueError, RecursionError) as error:
        remedy = f"text is typed as {name}={text[:40]}"
        raise error_from("bad-argument", f"{name}:= is not JSON: {error}", remedy) from None


def kinds_of(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a schema lets pass; empty for any."""
    held = schema.get("type", [])
    kinds = {held} if isinstance(held, str) else set(held)
    for one in schema.get("anyOf", []):
        inner = kinds_of(one)
        if not inner and "enum" not in one:
            return set()
        kinds |= inner
    return kinds


def _value(name: str, schema: dict[str, Any], text: str) -> Any:
    """What a word means: text where text may stand, else what it reads as."""
    data = read_input(text)
    for one in [schema, *schema.get("anyOf", [])]:
        if one.get("contentEncoding") == "base64":
            return base64.b64encode(data).decode()
    try:
        told = data.decode()
    except UnicodeDecodeError:
        reason = f"{name} takes text, and these bytes are not UTF-8"
        raise error_from("bad-argument", reason, "give a file of text") from None
    for one in [schema, *schema.get("anyOf", [])]:
        for word in one.get("enum", []):
            if told == (word if isinstance(word, str) else json.dumps(word)):
                return word
    kinds = kinds_of(schema)
    if not kinds or "string" in kinds:
        return told
    try:
        held = json.loads(told)
    except ValueError:
        held = told
    if _is_one_of(kinds, held):
        return held
    wanted = " or ".join(_WORDS.get(kind, kind) for kind in sorted(kinds))
    reason = f"argument {name}: expected {wanted}, got {told[:80]!r}"
    raise error_from("bad-argument", reason, f"or give JSON: {name}:=…")


def _is_one_of(kinds: set[str], value: Any) -> bool:
    if value is None or isinstance(value, bool):
        return ("null" if value is None else "boolean") in kinds
    if isinstance(value, int):
        return bool(kinds & {"integer", "number"})
    named = {float: "number", list: "array", dict: "object"}
    return named.get(type(value)) in kinds


def shown(output: bytes) -> bytes:
    """A result for people: text without its quotes, anything else as JSON."""
    try:
        value = json.loads(output)
    except ValueError:
        return output
    return value.encode() if isinstance(value, str) else output


def named(signature: dict[str, Any], texts: Sequence[str]) -> list[str]:
    """Words that stand alone as arguments in the order of the signature, and what else it needs.

    Empty where it takes no arguments, or fewer than there are words.
    """
    held = signature.get("input", {})
    names = signature.get("order") or list(held.get("properties", {}))
    if signature.get("takes") == "bytes" or not names or len(texts) > len(names):
        return []
    words = [shlex.quote(f"{name}={text}") for name, text in zip(names, texts, strict=False)]
    missing = [name for name in names[len(texts) :] if name in held.get("required", [])]
    return [*words, *(f"{name}=…" for name in missing)]


def example(functions: Sequence[str], signatures: dict[str, Any]) -> list[str]:
    """The words of a call of the first function, with what it needs."""
    if not functions:
        return []
    held = signatures.get(functions[0], {}).get("input", {})
    return [functions[0], *(f"{name}=…" for name in held.get("required", []))]
