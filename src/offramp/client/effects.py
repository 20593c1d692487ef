"""What a conversation with a gateway asks its shell to do, and what it gets back. Knows nothing of sockets and clocks.

A conversation is a generator: it yields effects, is sent what came of each, and `Lost` is thrown into it where the
connection failed. The shells in `sync.py` and `asynchronous.py` carry the effects out.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, NamedTuple, TypeAlias, TypeVar

from offramp.errors import OfframpError

T = TypeVar("T")


class Request(NamedTuple):
    """One request; `silence_s` is how long the gateway may send nothing before the connection counts as lost."""

    method: str
    path: str
    headers: Mapping[str, str]
    params: Mapping[str, str]
    content: bytes | None
    silence_s: float


class Open(NamedTuple):
    """Send the request; gets the `Head` of the answer. Leaves the answer before it, if there is one."""

    request: Request


class Head(NamedTuple):
    """The start of an answer; its headers are found whatever their case."""

    status: int
    reason: str
    headers: Mapping[str, str]


class Read(NamedTuple):
    """Read on in the answer; gets bytes as they come, empty at its end."""


class Retrying(NamedTuple):
    """What failed, how often in a row, and in how many seconds the client tries again.

    `run_id` and `after` say how far a stream has come; `answered` whether the gateway has answered this call before.
    """

    error: OfframpError
    failures: int
    delay_s: float
    run_id: str | None
    after: int
    answered: bool


class Pause(NamedTuple):
    """Leave the answer, report `retrying`, and wait as long as it says."""

    retrying: Retrying


class Give(NamedTuple):
    """Hand a value to the caller."""

    value: Any


Effect: TypeAlias = Open | Read | Pause | Give
Conversation: TypeAlias = Generator[Effect, Any, T]


class Lost(Exception):
    """The connection failed.

    Args:
        message: how.
        connecting: whether it never came about.
        silent: whether it was given up because nothing came for `silence_s`.
        hopeless: whether trying again cannot help.
    """

    def __init__(self, message: str, *, connecting: bool = False, silent: bool = False, hopeless: bool = False) -> None:
        super().__init__(message)
        self.connecting = connecting
        self.silent = silent
        self.hopeless = hopeless
