"""An awaitable that is executed in a context of its own, inside the task that awaits it.

A task would do the same, but costs several times as much, and a step is awaited for each call of it.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Generator
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")


@types.coroutine
def in_context(context: Context, work: Awaitable[T]) -> Generator[Any, Any, T]:
    """Await `work` in `context`: what it sets there, the awaiting code does not see."""
    run, steps = context.run, work.__await__()
    try:
        waits_for = run(next, steps)
        while True:
            try:
                given = yield waits_for
            except GeneratorExit:
                close = getattr(steps, "close", None)
                if close is not None:
                    run(close)
                raise
            except BaseException as error:
                throw = getattr(steps, "throw", None)
                if throw is None:
                    raise
                waits_for = run(throw, error)
            else:
                waits_for = run(next, steps) if given is None else run(steps.send, given)
    except StopIteration as ended:
        return ended.value  # type: ignore[no-any-return]
