"""Makes a process ready before it takes work: process lanes, the app's start hooks, the clients of `per_loop`.

What a first run would otherwise wait for, inside its budget, happens here.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offramp.core.spec import as_awaitable, is_async
from offramp.errors import DeclarationError, StartFailed
from offramp.execution.endings import aborted
from offramp.execution.per_loop import make_clients

if TYPE_CHECKING:
    from offramp.execution.loops import RunLoops
    from offramp.execution.processes import ProcessLane

logger = logging.getLogger("offramp")


@dataclass(frozen=True, slots=True)
class StartHook:
    """A function that each process calls before it executes steps."""

    function: Callable[[], Any]
    name: str

    @property
    def place(self) -> tuple[str, str]:
        """Module and name, by which a process lane finds it.

        Raises:
            DeclarationError: it is not at module level.
        """
        name: str = self.function.__qualname__
        if "<" in name:
            raise DeclarationError(
                f"on_start {self.name!r} is local to a function, where process lanes cannot find it: move it to module "
                "level"
            )
        return self.function.__module__, name


def start_hook(function: Any) -> StartHook:
    """The hook that a user declares.

    Raises:
        DeclarationError: it is no function, or needs arguments.
    """
    if not inspect.isroutine(function):
        raise DeclarationError(f"on_start takes a function without arguments, got {function!r}")
    try:
        inspect.signature(function).bind()
    except TypeError:
        raise DeclarationError(f"on_start {function.__name__!r} has arguments: a process calls it with none") from None
    return StartHook(function, function.__name__)


class Warming:
    """The start of one process.

    Args:
        hooks: called one after the other, in order of declaration.
        loops: async hooks are called on the first of them, where runs execute; clients of `per_loop` are made there.
        processes: the process lane, if there is one; its children call the hooks themselves.
        limit_s: how long everything may take together.
        joins_first: whether the process joins the others before; it executes nothing for them.
        only_hooks: whether clients and lanes are left to the steps that need them, as in a test.
    """

    def __init__(
        self,
        hooks: Sequence[StartHook],
        loops: RunLoops,
        processes: ProcessLane | None,
        limit_s: float,
        *,
        joins_first: bool,
        only_hooks: bool = False,
    ) -> None:
        self.joins_first = joins_first
        self._only_hooks = only_hooks
        self._hooks = hooks
        self._loop = loops.loops[0]
        self._processes = processes
        self._limit_s = limit_s
        self.doing = "the store is opened"
        """What a start that is under way does now."""

    async def run(self) -> None:
        """Do everything.

        Raises:
            StartFailed: a hook or a process lane failed, or everything took longer than it may.
        """
        try:
            async with asyncio.timeout(self._limit_s) as limit:
                for hook in self._hooks:
                    self.doing = f"on_start {hook.name!r} runs"
                    await self._call(hook)
                if self._only_hooks:
                    return
                self.doing = "the clients of per_loop are made"
                await self._loop.run(make_clients())
                if self._processes is not None:
                    self.doing = "process lanes start"
                    await self._processes.started()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise StartFailed(
                f"not ready after {self._limit_s:g} s: {self.doing}; raise start_timeout, or do less there"
            ) from error
        self.doing = "the process joins the others"

    async def _call(self, hook: StartHook) -> None:
        try:
            await (self._loop.run(_awaited(hook)) if is_async(hook.function) else _in_thread(hook))
        except Exception as error:
            logger.exception("on_start %r failed", hook.name)
            raise StartFailed(f"on_start {hook.name!r} failed: {type(error).__name__}: {error}") from error


async def _awaited(hook: StartHook) -> None:
    try:
        await as_awaitable(hook.function())
    except (SystemExit, KeyboardInterrupt) as error:  # they would end the loop
        raise aborted(error, f"on_start {hook.name!r}") from error


async def _in_thread(hook: StartHook) -> None:
    """On a thread of its own, which ends with the process: the time limit cannot stop it."""
    called: Future[None] = Future()
    called.set_running_or_notify_cancel()

    def call() -> None:
        try:
            hook.function()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            called.set_exception(error)
        except BaseException as error:  # noqa: BLE001 - as above; a future cannot carry some of these
            called.set_exception(aborted(error, f"on_start {hook.name!r}"))
        else:
            called.set_result(None)

    threading.Thread(target=call, name=f"offramp-start-{hook.name}", daemon=True).start()
    await asyncio.wrap_future(called)
