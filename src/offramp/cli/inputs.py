"""Reads a run's input and metadata, and a signal's value, from the command line: JSON, @file or stdin; KEY=VALUE."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from offramp.cli.output import CommandError


def read_input(text: str) -> bytes:
    """The JSON object that `--input` names.

    Raises:
        CommandError: it cannot be read, is not JSON, or is not an object.
    """
    encoded, source = _source(text, "--input")
    decoded = _decoded(encoded, source, '--input \'{"question": "why?"}\'')
    if not isinstance(decoded, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(decoded), "a bare value")
        raise CommandError(f"{source} is {kind}: give an object with the pipeline's arguments by name")
    return encoded


def read_value(text: str) -> bytes:
    """The JSON value that `--data` names, of any type.

    Raises:
        CommandError: it cannot be read or is not JSON.
    """
    encoded, source = _source(text, "--data")
    _decoded(encoded, source, "--data true or --data '\"a text\"'")
    return encoded


def _decoded(encoded: bytes, source: str, example: str) -> Any:
    try:
        return msgspec.json.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{source} is not JSON: {error}; for example {example}") from error


def _source(text: str, option: str) -> tuple[bytes, str]:
    if text == "-":
        return sys.stdin.buffer.read(), "stdin"
    if not text.startswith("@"):
        return text.encode("utf-8", "surrogateescape"), option
    file = Path(text[1:])
    try:
        return file.read_bytes(), str(file)
    except OSError as error:
        raise CommandError(f"{option} {text}: {error.strerror or error}") from error


def read_metadata(pairs: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` pairs as a mapping.

    Raises:
        CommandError: a pair has no `=` or no key.
    """
    metadata: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CommandError(f"--metadata {pair!r}: write KEY=VALUE, for example --metadata team=core")
        metadata[key] = value
    return metadata
