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


class FirstToken(msgspec.Struct, frozen=True):
    """What is expected of the first token of an attempt: its first emit, or the first byte of an answer.

    Attributes:
        within: seconds; a later one ends the attempt, if another target is left. None for no limit.
        slow_after: seconds; a later one counts as slow.
        hedge: whether a late one has the code executed a second time beside it.
    """

    within: float | None = None
    slow_after: float | None = None
    hedge: bool = False


class Policy(msgspec.Struct, frozen=True):
    """How attempts are made.

    Attributes:
        lane: where the code runs.
        timeout: seconds for one attempt; None for none.
        retry: when another attempt follows.
        effect: `once` where the code must not run again while its effect is unknown.
        short: whether the code ends within moments. An engine may then skip what makes a long step recoverable.
        first: what is expected of its first token; None for nothing.
        uses: the names of the resources whose permits an attempt has before it begins, in their one order.
    """

    lane: Lane
    timeout: float | None
    retry: Retry
    effect: Effect = "repeatable"
    short: bool = False
    first: FirstToken | None = None
    uses: tuple[str, ...] = ()


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
        target: in a failover, the name of the step whose code this is; else None.
        targets: what else the failover can call; None in another step.
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
    target: str | None = None
    targets: Targets | None = None


class Targets(Protocol):
    """The steps of a failover, for one call of it."""

    names: tuple[str, ...]
    """In their order."""

    def call(self, place: int, *, is_last: bool) -> Call:
        """The call of the step at this place; whether it is the last that is left."""
