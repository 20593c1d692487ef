"""The operator's secrets: each process gets those it needs, and user code finds none in its environment.

A worker gets them over its stdin: every user of the machine can see arguments, and every child the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import fields

import msgspec

from offramp.settings import Settings

VARIABLES = (
    *(f"OFFRAMP_{each.name.upper()}" for each in fields(Settings) if each.metadata.get("secret") or not each.repr),
    "OFFRAMP_API_KEY",
)
"""The variables of secret settings, of the store (its URL may contain a password) and of a client's key."""
_OF_WORKERS = ("store", "temporal_api_key")
_LINE_BYTES_MAX = 1 << 16


def withdraw(environment: MutableMapping[str, str] | None = None) -> None:
    """Remove every secret from the environment, once the settings are read and before user code is imported.

    Args:
        environment: `os.environ` by default.
    """
    given = os.environ if environment is None else environment
    for name in VARIABLES:
        given.pop(name, None)


def for_worker(settings: Settings) -> bytes:
    """The secrets that a worker needs, as the first line of its stdin."""
    return msgspec.json.encode({name: getattr(settings, name) for name in _OF_WORKERS}) + b"\n"


def received(descriptor: int = 0) -> Mapping[str, str]:
    """Read the line of `for_worker` from stdin and not a byte more: the process watches the rest."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES_MAX:
        byte = os.read(descriptor, 1)
        if not byte:
            return {}  # the serving process has ended, as this one is about to notice
        line += byte
    return msgspec.json.decode(line, type=dict[str, str])
