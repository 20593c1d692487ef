"""The timers that a pipeline's own code sets by plain asyncio: `asyncio.timeout`, `wait_for`, `sleep`, `call_later`.

Its place in the order in which the body sets timers identifies each timer. Its firing is journaled, and given to the
body in its turn among the results of steps; a cancelled timer leaves no record. Its due time is recorded when the run
changes hands, and after a moment in case the process dies, so that it counts from its first start.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import math
import threading
from asyncio import futures
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from offramp.core.journal import DUE, TIMER, Entry
from offramp.execution.alarm import Alarm
from offramp.execution.context import current
from offramp.execution.endings import ExecutionOver
from offramp.execution.turns import SETTLE_TURNS

if TYPE_CHECKING:
    from offramp.core.events import Draft
    from offramp.execution.gate import Gate
    from offramp.execution.replay import Replay
    from offramp.execution.waits import Waits
    from offramp.ports.clock import Clock
    from offramp.ports.store import RunLog

NOTED_AFTER_S = 0.2
"""The age at which the due time of a timer is recorded, in case the process dies; a shorter timer costs no write."""
FRONTIER_S = 0.05
"""How long after the last recorded result a replayed body sets timers of its earlier execution."""
_SLEEP: Any = futures._set_result_unless_cancelled  # type: ignore[attr-defined]  # noqa: SLF001 - how asyncio.sleep ends


class BodyTimer(asyncio.TimerHandle):
    """The body's handle of a timer; `due` and `made` in epoch seconds."""

    __slots__ = ("_timers", "alarm", "due", "key", "made", "mark", "noted", "sleeps", "turn")

    def __init__(
        self, timers: Timers, key: str, when: float, callback: Any, args: Any, context: contextvars.Context | None
    ) -> None:
        super().__init__(when, callback, args, asyncio.get_running_loop(), context)
        self._timers = timers
        self.key = key
        self.due = self.made = 0.0
        self.noted = self.sleeps = False
        self.mark: object = None
        self.alarm: Any = None
        self.turn: asyncio.Future[None] | None = None

    def fire(self) -> None:
        """Call back, as the loop would."""
        self._run()

    def cancel(self) -> None:
        """Cancel the timer; if its firing is on its way into the body, that passes unseen."""
        if not self._cancelled:
            self._timers.dropped(self)
        asyncio.Handle.cancel(self)  # not the loop's method: the loop never had this timer


class Timers:
    """The timers of one executing run; used on its loop, except `note_all`.

    Args:
        replay: knows the timers that fired, and the due times of the others.
        gate: the state of the run.
        waits: the waits of the run, which timers are too.
        clock: the injected clock.
        append: records a firing, unless the execution is over.
        log: takes the due times, also when it is over.
        keeps: whether the timers of the clock survive the death of the process.
    """

    def __init__(
        self,
        replay: Replay,
        gate: Gate[Any],
        waits: Waits,
        clock: Clock,
        append: Callable[[Entry | None, Draft | None], object],
        log: RunLog,
        *,
        keeps: bool,
    ) -> None:
        self._replay = replay
        self._gate = gate
        self._waits = waits
        self._clock = clock
        self._append = append
        self._log = log
        self._keeps = keeps
        self._counts = {"sleep": 0, "timer": 0}
        self._pending: dict[str, BodyTimer] = {}
        self.alarm: Alarm | None = None
        self._shift: float | None = None
        self._lock = threading.Lock()
        self.sweeping = False
        """Whether a time is set at which the timers that are pending then are written down."""
        self._stalled = False
        self._live = not replay.journal.replayable
        if not self._live:
            replay.result_order.on_stall = self._stall
        self._catching: asyncio.Task[None] | None = None
        self._seen = None if replay.began_at is None else (replay.began_at, clock.monotonic())
        self.counts_anew = False
        """Whether a timer that did not fire in a run that has ended counts from the end of its replay."""

    # Time as the body sees it.

    @property
    def shift(self) -> float:
        """The loop's time minus epoch seconds."""
        if self._shift is None:
            self._shift = self._clock.monotonic() - self._clock.time()
        return self._shift

    def now(self) -> float:
        """Epoch seconds. In a replay, the time of the last result given to the body, plus the time since."""
        live = self._clock.monotonic() - self.shift
        if self._seen is None:
            return live
        then, at = self._seen
        passed = self._clock.monotonic() - at
        if passed > FRONTIER_S and not self._replay.journal.missing:
            self._seen = None
            return live
        return min(live, then + passed)

    def saw(self, entry: Entry) -> None:
        """Note that a recorded result goes into the body."""
        if self._seen is not None:
            ended = entry.started_at + entry.duration_ms / 1000
            self._seen = (max(self._seen[0], ended), self._clock.monotonic())

    # Setting, firing, cancelling.

    @property
    def pending(self) -> bool:
        """Whether a timer may still fire."""
        return bool(self._pending)

    def set(
        self, due: float, callback: Callable[..., object], args: Any, context: contextvars.Context | None
    ) -> BodyTimer:
        """Set a timer that fires once; `due` in epoch seconds."""
        replay = self._replay
        kind = "sleep" if callback is _SLEEP else "timer"
        number = self._counts[kind]
        self._counts[kind] = number + 1
        timer = BodyTimer(self, f"{TIMER}:{kind}:{number}", due + self.shift, callback, args, context)
        if not self._live:
            entry = replay.journal.ask(timer.key)
            if entry is not None:
                enters = functools.partial(self._enter, timer, entry)
                timer.turn = replay.result_order.call(replay.journal.position(timer.key), enters)
                return timer
        timer.made = self.now()
        timer.due = replay.dues.get(timer.key, due)
        timer.noted = timer.key in replay.dues
        self._pending[timer.key] = timer
        timer.sleeps = kind == "sleep"
        timer.mark = self._waits.begin(timer.due, bounds=not timer.sleeps)
        self._keep(timer)  # first: its call is the earlier one, and the clock sees only that
        if self._live:
            self._arm(timer)
        elif self._catching is None:
            self._begin_catching_up()
        if timer.sleeps:
            self._waits.look()
        return timer

    def _arm(self, timer: BodyTimer) -> None:
        timer.alarm = self._at(timer.due + self.shift, functools.partial(self._due, timer))

    def _at(self, when: float, callback: Callable[[], object]) -> Any:
        token = current.set(None)  # calls of the clock do not belong to the body
        try:
            if self._keeps:
                return self._clock.call_at(when, callback)
            if self.alarm is None:
                self.alarm = Alarm(self._clock)
            return self.alarm.call_at(when, callback)
        finally:
            current.reset(token)

    def _due(self, timer: BodyTimer) -> None:
        """Record that a timer is due, then fire it in its turn."""
        replay = self._replay
        timer.alarm = None
        if self._gate.state == "detached":
            return  # it fires in the process that continues the body
        self._end(timer)
        try:
            self._append(Entry(timer.key, TIMER, "sleep", started_at=max(timer.due, self._clock.time())), None)
        except ExecutionOver:  # it belongs to a task that the pipeline left behind
            timer.fire()
            return
        position, enters = replay.journal.position(timer.key), functools.partial(self._enter, timer, None)
        timer.turn = replay.result_order.call(position, enters, at_once=True)

    def _enter(self, timer: BodyTimer, recorded: Entry | None) -> None:
        timer.turn = None
        if recorded is not None:
            self.saw(recorded)
        if self._gate.state == "detached":
            return
        if not timer.cancelled():
            timer.fire()
        self._waits.look()

    def dropped(self, timer: BodyTimer) -> None:
        """Note that the body cancelled a timer, or has seen it fire."""
        if timer.alarm is not None:
            timer.alarm.cancel()
            timer.alarm = None
        if timer.turn is not None:
            timer.turn.cancel()
            timer.turn = None
        if self._pending.get(timer.key) is timer:
            self._end(timer)
            if timer.sleeps:
                self._waits.look()

    def _end(self, timer: BodyTimer) -> None:
        del self._pending[timer.key]
        self._waits.end(timer.mark)

    # During a replay, an unrecorded timer does not fire: the body may see that it never did.

    def _begin_catching_up(self) -> None:
        context = contextvars.copy_context()
        context.run(current.set, None)  # otherwise it would be a branch of the body
        self._catching = context.run(asyncio.get_running_loop().create_task, self._catch_up())

    async def _catch_up(self) -> None:
        replay = self._replay
        await replay.caught_up(replay.grace_s)
        # A signal received already goes first: it may have come before the timer was due.
        seen = asyncio.get_running_loop().create_future()
        replay.result_order.turns.after(SETTLE_TURNS, functools.partial(seen.set_result, None))
        await seen
        await replay.result_order.settled()
        if self._gate.state != "detached":
            self.release()

    def release(self) -> bool:
        """Finish the replay; returns whether a timer was overdue, and has fired."""
        self._seen = None
        if self._live:
            return False
        self._live = True
        now, fired = self._clock.time(), False
        for timer in sorted(self._pending.values(), key=lambda timer: timer.due):
            if timer.due > now:
                self._arm(timer)
            elif self.counts_anew:
                timer.due = now + timer.due - timer.made
                self._arm(timer)
            else:
                fired = True
                self._due(timer)
        return fired

    def _stall(self) -> None:
        """A recorded firing waits for its turn in a stalled replay: after some time it goes ahead."""
        if self._stalled:
            return
        self._stalled, result_order = True, self._replay.result_order
        passed = result_order.passed

        def over() -> None:
            self._stalled = False
            result_order.hurry(passed)

        self._at(self._clock.monotonic() + self._replay.grace_s, over)

    # The records of timers that have not fired.

    def _keep(self, timer: BodyTimer) -> None:
        if timer.noted:
            return
        if self._gate.state == "leaving":
            self._note(timer)
        elif not (self._keeps or self.sweeping) and timer.due - timer.made > NOTED_AFTER_S:
            self.sweeping = True
            self._at(self._clock.monotonic() + NOTED_AFTER_S, self._sweep)

    def _sweep(self) -> None:
        self.sweeping = False
        if self._gate.is_open:
            self.note_all()

    def note_all(self) -> None:
        """Record the due times; another process may continue the run. From any thread."""
        for timer in list(self._pending.values()):
            self._note(timer)

    def _note(self, timer: BodyTimer) -> None:
        with self._lock:
            if timer.noted:
                return
            timer.noted = True
        due = msgspec.json.encode(timer.due if math.isfinite(timer.due) else None)
        self._log.append(Entry(f"{timer.key}:due", DUE, "value", due, started_at=timer.made), None)

    def close(self) -> bool:
        """End with the execution; returns whether no timer is left that a task may wait for. From any thread."""
        if self._pending:
            return False
        if self.alarm is not None:
            self.alarm.close()
        return True
