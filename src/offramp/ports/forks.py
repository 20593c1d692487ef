"""Resets, in a child forked by user code, everything that it must not share with this process.

A fork copies signal handlers, descriptors and locks, but no threads. The child drops whatever would act on the parent,
or keep open what the parent closes. It leaves everything set up by other code alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

logger = logging.getLogger("offramp")


class Inherited(Protocol):
    """An object that a fork copies, and whose copy must not be used."""

    def forked(self) -> object:
        """In the child, on its only thread: drop everything of the parent. No locks: another thread may hold one."""


# Of the process, as the hooks are: Python has no way to take one back.
_inherited: dict[int, weakref.ref[Inherited]] = {}
_handled: set[signal.Signals] = set()
_thread = threading.local()
_lock = threading.Lock()
_is_hooked = False


def on_fork(owner: Inherited) -> None:
    """Call `owner.forked()` in every child forked from here on, as long as the owner is referred to."""
    _hook()
    number = id(owner)
    _inherited[number] = weakref.ref(owner, lambda _gone: _inherited.pop(number, None))


@contextlib.contextmanager
def signals(numbers: Sequence[signal.Signals], handler: Callable[[signal.Signals], object]) -> Iterator[None]:
    """Handle signals on the running loop, which is the main thread's; a forked child takes them as any process does.

    Without this a child that is sent SIGTERM, as `multiprocessing.Pool` does with its own, writes the number into the
    descriptor that wakes the parent's loop, and the parent stops.
    """
    loop = asyncio.get_running_loop()
    _hook()
    for number in numbers:
        loop.add_signal_handler(number, handler, number)
    _handled.update(numbers)
    try:
        yield
    finally:
        _handled.difference_update(numbers)
        for number in numbers:
            loop.remove_signal_handler(number)


def close_copy(*descriptors: int) -> None:
    """Close the child's copies of descriptors; the parent's stay open."""
    for descriptor in descriptors:
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)


def descriptor_of(transport: Any) -> int:
    """The descriptor behind a transport or stream writer of asyncio's, -1 where there is none any more."""
    own = transport.get_extra_info("socket") or transport.get_extra_info("pipe")
    try:
        return -1 if own is None else int(own.fileno())
    except (OSError, ValueError):
        return -1


def keep_forever(value: object) -> None:
    """Keep an object alive even at the interpreter's exit: closing it would do harm in the child."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))


def _hook() -> None:
    global _is_hooked  # noqa: PLW0603 - as above
    with _lock:
        if not _is_hooked and sys.platform != "win32":
            os.register_at_fork(before=_before, after_in_parent=_unmask, after_in_child=_in_child)
        _is_hooked = True


def _before() -> None:
    # A signal that comes before the child has reset its handlers has to wait until then.
    if _handled:
        _thread.mask = signal.pthread_sigmask(signal.SIG_BLOCK, tuple(_handled))


def _unmask() -> None:
    mask = getattr(_thread, "mask", None)
    if mask is not None:
        _thread.mask = None
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _in_child() -> None:
    interrupts = signal.SIGINT in _handled
    if _handled:
        _reset_signals(tuple(_handled))
    owners = [reference() for reference in _inherited.values()]
    _inherited.clear()  # a child of the child has no copy of it
    _handled.clear()
    for owner in owners:
        try:
            if owner is not None:
                owner.forked()
        except Exception:
            logger.exception("a forked child keeps something of its parent's: %r", owner)
    _unmask()
    if interrupts:  # only now: KeyboardInterrupt would be lost in this hook, while the system's default ends the child
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _reset_signals(numbers: Sequence[signal.Signals]) -> None:
    signal.set_wakeup_fd(-1)  # the forking thread is the main thread here, whatever it was there
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    if signal.getsignal(signal.SIGCHLD) in {signal.SIG_DFL, None}:  # then the handler there is uvloop's
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
