"""An awaitable that is executed in a context of its own, inside the task that awaits it.

A task would do the same, but costs several times as much, and a step is awaited for each call of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator
from contextvars import Context
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class InContext(Generic[T]):
    """Await it to execute `work` in `context`: what it sets there, the awaiting code does not see."""

    __slots__ = ("_context", "_work")

    def __init__(self, context: Context, work: Awaitable[T]) -> None:
        self._context = context
        self._work = work

    def __await__(self) -> Generator[Any, Any, T]:
        run, work = self._context.run, self._work.__await__()
        try:
            waits_for = run(next, work)
            while True:
                try:
                    given = yield waits_for
                except GeneratorExit:
                    close = getattr(work, "close", None)
                    if close is not None:
                        run(close)
                    raise
                except BaseException as error:
                    throw = getattr(work, "throw", None)
                    if throw is None:
                        raise
                    waits_for = run(throw, error)
                else:
                    waits_for = run(next, work) if given is None else run(work.send, given)
        except StopIteration as ended:
            return ended.value  # type: ignore[no-any-return]
