"""A promise of the store: it resolves once a write is on disk (or visible, if that was requested)."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Commit(Generic[T]):
    """Awaitable from any event loop, any number of times; resolved once, from the store's thread."""

    __slots__ = ("_callbacks", "_done", "_error", "_lock", "_value", "_waiters")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done = False
        self._value: T | None = None
        self._error: BaseException | None = None
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        self._callbacks: list[Callable[[Commit[T]], object]] = []

    @property
    def error(self) -> BaseException | None:
        """Why the write did not happen; None while it is open and when it succeeded."""
        return self._error

    def then(self, callback: Callable[[Commit[T]], object]) -> None:
        """Call back once resolved, on the resolving thread (or here, at once, if it is)."""
        with self._lock:
            if not self._done:
                self._callbacks.append(callback)
                return
        callback(self)

    def __await__(self) -> Generator[Any, None, T]:
        loop = asyncio.get_running_loop()
        with self._lock:
            future = None
            if not self._done:
                future = loop.create_future()
                self._waiters.append((loop, future))
        if future is not None:
            yield from future
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def resolve(self, value: T | None = None, error: BaseException | None = None) -> None:
        """Resolve this one commit."""
        with self._lock:
            self._value, self._error, self._done = value, error, True
            waiters, self._waiters = self._waiters, []
            callbacks, self._callbacks = self._callbacks, []
        for loop, future in waiters:
            call_threadsafe(loop, _wake, [future])
        for callback in callbacks:
            callback(self)


def resolve_all(resolved: Iterable[tuple[Commit[Any], Any, BaseException | None]]) -> None:
    """Resolve a batch, waking each waiting event loop once."""
    wake: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    callbacks: list[tuple[Callable[[Commit[Any]], object], Commit[Any]]] = []
    for commit, value, error in resolved:
        with commit._lock:  # noqa: SLF001 - the batch form of resolve()
            commit._value, commit._error, commit._done = value, error, True  # noqa: SLF001
            for loop, future in commit._waiters:  # noqa: SLF001
                wake.setdefault(loop, []).append(future)
            callbacks += [(callback, commit) for callback in commit._callbacks]  # noqa: SLF001
            commit._waiters, commit._callbacks = [], []  # noqa: SLF001
    for loop, futures in wake.items():
        call_threadsafe(loop, _wake, futures)
    for callback, commit in callbacks:
        callback(commit)


def _wake(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


def call_threadsafe(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: Any) -> bool:
    """`loop.call_soon_threadsafe`, or False where that loop has been closed meanwhile.

    In an empty context: work that one request starts on that loop does not belong to it, and may outlive it.
    """
    try:
        loop.call_soon_threadsafe(callback, *args, context=contextvars.Context())
    except RuntimeError:
        return False
    return True
