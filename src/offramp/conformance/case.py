"""A case: an async function that proves obligations, marked with their ids; and the obligations themselves.

The docstrings of the ports are the only text of the obligations; this module reads them from there.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from types import ModuleType
from typing import Any, Generic, NamedTuple, TypeVar

from offramp.conformance.harness import Capability
from offramp.ports import blobs, clock, engine, limits, outbox, store

StageT = TypeVar("StageT")
_MARK = "__conformance_case__"
_OBLIGATION = re.compile(r"^(?P<indent> *)(?P<id>[SQWNCBR]\d+) (?P<text>\S.*)$")

LOOK_EVERY_S = 0.002
PATIENCE_S: ContextVar[float] = ContextVar("patience_s", default=10.0)
"""Seconds that a case waits for an expected event, on an idle machine."""


class Case(NamedTuple, Generic[StageT]):
    """One proof. `needs` is the capability without which it does not apply, `lacks` the one with which it does not."""

    id: str
    obligations: tuple[str, ...]
    prove: Callable[[StageT], Awaitable[None]]
    needs: tuple[Capability, ...]
    lacks: Capability | None

    def applies(self, capabilities: frozenset[Capability]) -> bool:
        """Whether an adapter with these capabilities has to pass it."""
        return set(self.needs) <= capabilities and self.lacks not in capabilities


Proof = TypeVar("Proof", bound=Callable[..., Awaitable[None]])


def case(
    *obligations: str, needs: tuple[Capability, ...] = (), lacks: Capability | None = None
) -> Callable[[Proof], Proof]:
    """Mark a function as the proof of these obligations."""

    def mark(prove: Proof) -> Proof:
        setattr(prove, _MARK, Case(prove.__name__, obligations, prove, needs, lacks))
        return prove

    return mark


def cases_in(*modules: ModuleType) -> list[Case[Any]]:
    """The cases that modules define, in the order they are written."""
    return [made for module in modules for value in vars(module).values() if (made := getattr(value, _MARK, None))]


class Obligation(NamedTuple):
    """What a port demands of every adapter."""

    id: str
    text: str


def store_obligations() -> list[Obligation]:
    """Those of the store, the lease and the outbox port."""
    return [*_read(store), *_read(store.Ownership), *_read(outbox)]


def engine_obligations() -> list[Obligation]:
    """Those of the engine port."""
    return list(_read(engine))


def clock_obligations() -> list[Obligation]:
    """Those of the clock port."""
    return list(_read(clock.Clock))


def blobs_obligations() -> list[Obligation]:
    """Those of the blobs port."""
    return list(_read(blobs))


def limits_obligations() -> list[Obligation]:
    """Those of the limits port."""
    return list(_read(limits))


def _read(documented: object) -> Iterator[Obligation]:
    """An obligation is a line that begins with its id, and the deeper indented ones below it."""
    lines = (inspect.getdoc(documented) or "").splitlines()
    at = 0
    while at < len(lines):
        found = _OBLIGATION.match(lines[at])
        at += 1
        if found is None:
            continue
        text = [found["text"]]
        while at < len(lines) and lines[at].startswith(found["indent"] + "   "):
            text.append(lines[at].strip())
            at += 1
        yield Obligation(found["id"], " ".join(text))


async def until(condition: Callable[[], Awaitable[bool]] | Callable[[], bool]) -> None:
    """Wait for a condition that no signal announces.

    Patience is counted in checks, not by the clock: on a busy machine both the adapter and the checks take longer.
    """
    for _ in range(int(PATIENCE_S.get() / LOOK_EVERY_S)):
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(LOOK_EVERY_S)
    raise AssertionError(f"the expected event did not happen within {PATIENCE_S.get():g} s")
