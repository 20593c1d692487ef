"""One call of a step, ready to be executed: its name, its key, how it is treated, its code, how its result is written.

A declared step makes one where it is called. What executes a call knows no declarations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import msgspec

from offramp.core.retry import Retry

Lane = Literal["loop", "thread", "process"]
Effect = Literal["repeatable", "once"]
StepKind = Literal["step", "tool", "agent", "llm"]


class Policy(msgspec.Struct, frozen=True):
    """How attempts are made.

    Attributes:
        lane: where the code runs.
        timeout: seconds for one attempt; None for none.
        retry: when another attempt follows.
        effect: `once` where the code must not run again while its effect is unknown.
        short: whether the code ends within moments. An engine may then skip what makes a long step recoverable.
    """

    lane: Lane
    timeout: float | None
    retry: Retry
    effect: Effect = "repeatable"
    short: bool = False


class Codec(Protocol):
    """How a result is written and read; see `Signature`."""

    names: list[str]
    """Of the arguments."""

    def encode_result(self, value: Any) -> bytes:
        """A returned value as JSON."""

    def bounded(self, encoded: bytes, bytes_max: int) -> bytes:
        """An encoded result; raises where it is too large."""

    def decode_result(self, encoded: bytes, live: Any = None) -> Any:
        """The result; `live` is the value that it was encoded from, where that is at hand."""


class Call(msgspec.Struct, frozen=True):
    """One call of a step.

    Attributes:
        name: of the step.
        key: in the journal.
        kind: what traces show it as.
        policy: how attempts are made.
        function: the code itself, which a process lane imports by its name.
        is_async: whether the code is awaited.
        thunk: copies the arguments and gives the code, to be called once without any.
        codec: of the result.
        arguments: as a JSON object.
        decider: makes the call that finds out the outcome of an interrupted `once`; None where nothing can.
        label: formats its label; None where the step has none.
    """

    name: str
    key: str
    kind: StepKind
    policy: Policy
    function: Callable[..., Any]
    is_async: bool
    thunk: Callable[[], Callable[[], Any]]
    codec: Codec
    arguments: bytes
    decider: Callable[[], Call] | None = None
    label: Callable[[], str | None] | None = None
