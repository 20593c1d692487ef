"""For tests of your own pipelines: a clock that jumps, a runtime in memory, and a check that a replay fits.

async with testing.runtime(app, clock=clock, fakes={"search": ["a note"]}) as runtime:
    handle = await runtime.start("research", question="…")
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import inspect
import itertools
import random
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any, TypeVar, Unpack

import msgspec

from offramp.app import App
from offramp.core.names import did_you_mean
from offramp.core.spec import StepSpec, is_async
from offramp.errors import DeclarationError, EncodingError
from offramp.execution.clock import SystemTimer
from offramp.paths.local import Handle, LocalRuntime
from offramp.paths.replay import Case, texts_in
from offramp.ports.clock import Clock
from offramp.rehearsal import RehearsalFailed, elsewhere, place_of
from offramp.settings import Given
from offramp.wiring import local

T = TypeVar("T")
_JUMP_EVERY_S = 0.002
"""Real seconds in which other threads do what a jump of the clock set going."""


class FakeClock:
    """A clock that stands still until a test moves it. Safe to use from any thread.

    Args:
        start: epoch seconds at the beginning.
        seed: of its random numbers.
    """

    def __init__(self, start: float = 1_700_000_000.0, seed: int = 0) -> None:
        self._now = start
        self._elapsed = 0.0
        self._random = random.Random(seed)  # noqa: S311 - reproducible on purpose
        self._heap: list[tuple[float, int, SystemTimer]] = []
        self._order = itertools.count()
        self._lock = threading.RLock()

    def time(self) -> float:
        """Seconds since the epoch."""
        return self._now + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._elapsed

    def random(self) -> float:
        """A reproducible number in [0, 1)."""
        return self._random.random()

    def random_bytes(self, count: int) -> bytes:
        """Reproducible bytes."""
        return self._random.randbytes(count)

    def call_at(self, when: float, callback: Callable[[], object]) -> SystemTimer:
        """Call back during the `advance` that reaches this monotonic time."""
        timer = SystemTimer(callback)
        with self._lock:
            heapq.heappush(self._heap, (when, next(self._order), timer))
        return timer

    def next_timer(self) -> float | None:
        """Seconds until the next pending call; None when nothing is pending."""
        with self._lock:
            while self._heap and self._heap[0][2].callback is None:
                heapq.heappop(self._heap)
            return max(0.0, self._heap[0][0] - self._elapsed) if self._heap else None

    def advance(self, seconds: float) -> None:
        """Jump ahead, making the calls that become due, in order, on this thread.

        What these set going in other threads is not waited for, and a call that one of them asks for meanwhile is made
        by the next jump at the latest: let a run's time pass in small jumps, as `run_until` does.

        Raises:
            ValueError: `seconds` is negative; a monotonic clock does not go back.
        """
        if seconds < 0:
            raise ValueError(f"a clock does not go back: advance({seconds})")
        with self._lock:
            target = self._elapsed + seconds
        while True:
            with self._lock:
                if not self._heap or self._heap[0][0] > target:
                    self._elapsed = target
                    return
                when, _, timer = heapq.heappop(self._heap)
                self._elapsed = max(self._elapsed, when)
            if timer.callback is not None:
                timer.callback()

    async def run_until(self, waiting: Awaitable[T], step: float = 0.1, *, within: float = 30.0) -> T:
        """Let time pass until what is awaited is there, and return that.

        Args:
            waiting: for example `handle.result()`.
            step: seconds of this clock in one jump; one is made about every 2 ms.
            within: real seconds after which it is given up.

        Raises:
            TimeoutError: it is not there by then.
            Exception: what the awaited raised.
        """
        began = self.monotonic()
        task = asyncio.ensure_future(waiting)
        try:
            async with asyncio.timeout(within):
                while not task.done():
                    self.advance(step)
                    await asyncio.wait([task], timeout=_JUMP_EVERY_S)
        except TimeoutError:
            passed = self.monotonic() - began
            raise TimeoutError(f"not there after {within:g} s, in which {passed:g} s of the clock passed") from None
        finally:
            task.cancel()
        return task.result()

    def set_wall(self, epoch: float) -> None:
        """Let the wall clock jump, as an operator or NTP may; the monotonic time stays."""
        with self._lock:
            self._now = epoch - self._elapsed


@asynccontextmanager
async def runtime(
    app: App, *, clock: Clock | None = None, fakes: Mapping[str, Any] | None = None, **settings: Unpack[Given]
) -> AsyncIterator[LocalRuntime]:
    """Both paths in this process, in memory: nothing touches a disk.

    Args:
        app: what is tested.
        clock: for example a `FakeClock`; the system's otherwise.
        fakes: what steps do instead, by their names: a function of the step's parameters (async or not, a `Mock`), an
            exception that each call raises, or any other value, which each call returns. They are in force in the
            whole app until the block ends, also in `replays`; a step's timeout, retries and annotations stay.
        settings: see `offramp.settings.Settings`.

    Raises:
        DeclarationError: a fake names no step, is in force already, does not take the step's arguments, or is a value
            that the step could not return.
    """
    with _faked(app, fakes or {}):
        async with local(app, {"store": "memory:", **settings}, clock, warms=False) as made:
            yield made


@contextmanager
def _faked(app: App, fakes: Mapping[str, Any]) -> Iterator[None]:
    real = {}
    for name in fakes:
        if name not in app.steps:
            raise DeclarationError(f"fakes: app {app.name!r} has no step {name!r}; {did_you_mean(name, app.steps)}")
        real[name] = app.steps[name].spec
        if real[name].function is not app.steps[name].fn:
            raise DeclarationError(f"fakes: step {name!r} has a fake already, in a runtime that is still open")
    faked = {name: _fake(real[name], fake) for name, fake in fakes.items()}
    for name, spec in faked.items():
        app.steps[name].spec = spec
    try:
        yield
    finally:
        for name, spec in real.items():
            app.steps[name].spec = spec


def _fake(spec: StepSpec, fake: Any) -> StepSpec:
    """The step with another function, which no other process could import."""
    fails = isinstance(fake, BaseException) or (isinstance(fake, type) and issubclass(fake, BaseException))
    is_function = callable(fake) and not fails
    function = _failing(fake) if fails else _checked(spec, fake) if is_function else _constant(spec, fake)
    awaited = is_function and is_async(fake)

    async def waiting(*args: Any, **kwargs: Any) -> Any:
        return await function(*args, **kwargs)

    def at_once(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    # A plain function may block, unless the step's own was declared not to.
    blocks = is_function and not awaited and (spec.is_async or spec.policy.lane != "loop")
    return replace(
        spec,
        function=functools.update_wrapper(waiting if awaited else at_once, spec.function),
        is_async=awaited,
        targets=(),
        policy=msgspec.structs.replace(spec.policy, lane="thread" if blocks else "loop"),
    )


def _checked(spec: StepSpec, fake: Callable[..., Any]) -> Callable[..., Any]:
    try:
        takes = inspect.signature(fake)
    except ValueError:  # a function of C code that does not say
        return fake
    wanted = inspect.signature(spec.function).parameters.values()
    by_place = [each.name for each in wanted if each.kind is not each.KEYWORD_ONLY]
    by_name = {each.name: None for each in wanted if each.kind is each.KEYWORD_ONLY}
    try:
        takes.bind(*by_place, **by_name)
    except TypeError as error:
        given = ", ".join([*by_place, *by_name])
        raise DeclarationError(f"fakes: step {spec.name!r} passes ({given}), and its fake takes {takes}") from error
    return fake


def _failing(error: BaseException | type[BaseException]) -> Callable[..., Any]:
    def fails(*_args: Any, **_kwargs: Any) -> Any:
        raise error

    return fails


def _constant(spec: StepSpec, value: Any) -> Callable[..., Any]:
    try:
        encoded = spec.signature.encode_result(value)
        spec.signature.decode_result(encoded)
    except EncodingError as error:
        raise DeclarationError(f"fakes: {error}") from error
    return lambda *_args, **_kwargs: spec.signature.decode_result(encoded)


async def result_of(handle: Handle, within: float = 10.0) -> Any:
    """The run's result; a test that would hang fails after `within` real seconds instead.

    Raises:
        TimeoutError: the run did not end; its note lists the steps and their states.
    """
    try:
        async with asyncio.timeout(within):
            return await handle.result()
    except TimeoutError as error:
        document = await handle.document()
        error.add_note(f"{handle.id} is {document['status']}; steps: {document['steps']}")
        raise


async def replays(app: App, pipeline: str, /, **inputs: Any) -> Any:
    """Run a pipeline, then run it again against its own journal, twice; each must end alike. Returns the result.

    A pipeline whose body depends on something that is not journaled (time, randomness, global state, effects outside
    steps) fails here instead of in production. The second replay is in another process under another hash seed, in
    which sets have another order. It imports the app, so that has to be a module's own; where it is not, there is one
    replay, in this process, and a `OneProcess` warning says so.

    Raises:
        AssertionError: a replay executed a step or ended otherwise, or the body uses `asyncio.as_completed`.
        Exception: what the pipeline raised.
    """
    async with runtime(app) as made:
        handle = await made.start(pipeline, **inputs)
        first = await handle.result()
        outcome, executed, racing, case = await made.service.replay(handle.id)
        recorded = await made.service.whole_result(await made.service.get(handle.id))
    assert racing is None, racing  # noqa: S101
    assert outcome.error is None, f"the replay failed: {outcome.error.message}"  # noqa: S101
    assert not executed, f"the replay executed {executed}, which the run had finished"  # noqa: S101
    assert outcome.result == recorded, f"the replay returned {outcome.result!r}, the run {recorded!r}"  # noqa: S101
    why_not = await asyncio.to_thread(_replayed_elsewhere, app, msgspec.structs.replace(case, result=recorded))
    if why_not is not None:
        text = f"replays checked {pipeline!r} under this process's hash seed only: {why_not}"
        warnings.warn(text, OneProcess, stacklevel=2)
    return first


class OneProcess(UserWarning):
    """`replays` checked a pipeline in one process, so under one hash seed: what depends on a set's order passes."""


def _replayed_elsewhere(app: App, case: Case) -> str | None:
    """Replay in another process; why that could not be done, None if it was."""
    place = place_of(app)
    if place is None:
        return f"app {app.name!r} is not a module's own; declare it at module level, and another process can import it"
    try:
        [verdict] = elsewhere(place, texts_in(case), cases=[case])
    except RehearsalFailed as error:
        return str(error)
    told = "in another process, under another hash seed, the replay failed (does the body iterate over a set?)"
    assert verdict.problem is None, f"{told}: {verdict.problem}"  # noqa: S101
    return None
