"""The off-ramp: a run leaves the fast path, or this process, without losing or repeating a finished step.

Order (invariant D1): journal durable, engine owns the run, `run.demoted` in the log, the client is notified.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence

import msgspec

from offramp.core import events
from offramp.core.belief import Estimate
from offramp.core.failure import Failure
from offramp.core.leaving import OVER
from offramp.core.run import Demotion, DemotionReason, Doubt, links
from offramp.core.timestamps import rfc3339
from offramp.errors import LeaseLost, StoreError
from offramp.execution.attempt import Attempt
from offramp.execution.waiting import sleep_for
from offramp.paths.live import LiveRun, LiveRuns
from offramp.paths.process import Process
from offramp.paths.shared_log import SharedLog
from offramp.ports.commit import call_threadsafe
from offramp.ports.engine import Engine, Handoff, Sharing
from offramp.ports.store import RunLog
from offramp.telemetry.logs import about

logger = logging.getLogger("offramp")

BOUNDARY_GRACE_S = 0.05
"""Seconds for a body without a step in flight to reach its next step, or its end, before it is stopped."""
RETRY_EVERY_S = 0.5
PARK_AFTER_S = 0.1
PARK_FOR_S_MIN = 5.0
"""A shorter wait is not worth a replay."""


class Demoter:
    """Demotes and hands over runs; its coroutines run on the control loop."""

    def __init__(self, process: Process, engine: Engine, live: LiveRuns) -> None:
        self._process = process
        self._engine = engine
        self._live = live

    async def demote(self, run: LiveRun, reason: DemotionReason, reasons: Sequence[str] = (), by: Doubt = "") -> None:
        """Move a run from the fast to the deep path; does nothing if it has ended or is already leaving.

        Args:
            run: the run.
            reason: why.
            reasons: the same in sentences for a person, where the reason alone does not say it.
            by: what the demotion says about the estimate of the run.
        """
        scope = run.execution.scope
        if scope.gate.ending.outcome is not None and reason != "drain":
            return  # it ends here, after its cleanup
        if run.record.path != "fast" or not scope.move("leave"):
            return
        self._live.waits_for_store(run.record.id)
        clock = self._process.clock
        elapsed_ms = round((run.waited_s + clock.monotonic() - run.began) * 1000, 3)
        budget_ms = run.record.budget_s * 1000
        moved_ms = round(run.moved().elapsed_s * 1000, 3)
        by = by or self._live.verdicts.doubt_of(run.record.id)
        demotion = Demotion(reason, clock.time(), elapsed_ms, budget_ms, {}, list(reasons), by, moved_ms)
        in_flight = list(scope.gate.in_flight)
        try:
            if run.trace is None:
                await self._hand_off(run, demotion, in_flight)
            else:
                with run.trace.send(run.record.pipeline) as sent:
                    await self._hand_off(run, msgspec.structs.replace(demotion, trace=sent.headers), in_flight)
        except LeaseLost:
            self._live.lost(run.lease)
            return
        if run.state in OVER:
            return  # its outcome is being written, or its lease was lost
        self._live.is_written(run.record.id)
        if not await self._shared(run):
            await self._leave(run)

    async def _hand_off(self, run: LiveRun, demotion: Demotion, in_flight: list[str]) -> None:
        while not await self._adopted(run, demotion, in_flight):
            await sleep_for(self._process.clock, RETRY_EVERY_S)

    async def _adopted(self, run: LiveRun, demotion: Demotion, in_flight: list[str]) -> bool:
        """Make the journal durable, the engine owner, the event visible, unless the run ends. False to retry."""
        record, execution, scope = run.record, run.execution, run.execution.scope
        try:
            await run.log.durable()
            if run.state not in OVER:
                await self._engine.adopt(Handoff(run.lease, demotion, in_flight))
        except StoreError as error:
            logger.error("%s cannot be demoted yet: %s", record.id, error)  # noqa: TRY400 - an operator's matter
            return run.state in OVER
        if run.state in OVER:
            return True
        record.path, record.demotion = "deep", demotion
        scope.facts.path = "deep"
        self._process.feed.left(record.id)  # before other processes write: readers here need their events, too
        if run.trace is not None:
            run.trace.demoted(demotion)
        body = events.RunDemoted(
            demotion.reason,
            demotion.budget_ms,
            demotion.elapsed_ms,
            execution.spec.demotion_message,
            links(record.id, record.mount),
        )
        run.log.append(None, events.draft(body, rfc3339(demotion.at)), durable=True)
        await run.log.durable()
        late_s = run.waited_s + self._process.clock.monotonic() - run.began - record.budget_s
        self._process.metrics.demoted(demotion.reason, late_s if demotion.reason == "budget" else None)
        logger.info(
            "%s was demoted (%s) after %.2f s",
            record.id,
            demotion.reason,
            demotion.elapsed_ms / 1000,
            extra=about(record) | {"reason": demotion.reason},
        )
        return True

    async def _shared(self, run: LiveRun) -> bool:
        """Let the engine continue at once, if it can, and deliver the steps in flight as they end."""
        scope, shared, sharing = run.execution.scope, run.log, self._engine.sharing
        if sharing is None or not isinstance(shared, SharedLog) or not scope.gate.in_flight:
            return False
        delivering: dict[str, Attempt] = {}

        def detach() -> bool:
            if not scope.move("detach"):
                return False
            delivering.update(scope.gate.in_flight)
            shared.keep(delivering)
            return True

        lease = await sharing.share(run.record, list(scope.gate.in_flight), detach)
        if lease is None:
            if run.state == "detached":  # the run has ended meanwhile
                self._live.drop(run)
            return run.state != "leaving"
        shared.share(lease)
        await self._deliver(run, shared, sharing, delivering)
        return True

    async def _deliver(self, run: LiveRun, shared: SharedLog, sharing: Sharing, delivering: dict[str, Attempt]) -> None:
        changed, scope = run.changes(), run.execution.scope
        while delivering and self._live.get(run.record.id) is run:
            changed.clear()
            ended = [key for key in delivering if key not in scope.gate.in_flight]
            if not ended:
                await changed.wait()
            for key in ended:
                attempt = delivering.pop(key)
                # The steps of a cancelled run have no further attempt.
                if key not in shared.over and not scope.replay.journal.has(key) and not scope.facts.cancelled:
                    self._give_up(attempt)
            if ended:
                try:
                    await shared.durable()
                    await sharing.delivered(run.record.id)
                except (LeaseLost, StoreError) as error:
                    logger.info("%s", error)
        if self._live.get(run.record.id) is run:
            self._live.drop(run)

    def _give_up(self, attempt: Attempt) -> None:
        """Offer a step again that the body abandoned here, as at its own timeout: it may not do so elsewhere."""
        name, key, number = attempt.call.name, attempt.key, attempt.number
        failure = Failure(events.INTERRUPTED, "the pipeline abandoned this attempt where it ran", name, number)
        body = events.StepRetrying(name, key, number, failure.public(), 0.0, attempt.call.target)
        attempt.announce(body, self._process.clock.time())

    def log_of(self, runlog: RunLog) -> RunLog:
        """A new run's log, in the form that this engine needs."""
        return SharedLog(self._process.store, runlog) if self._engine.sharing else runlog

    async def hand_over(self, run: LiveRun) -> None:
        """Give a deep run back at its next step boundary, for another process to continue."""
        if run.execution.scope.move("leave"):
            await self._leave(run)

    async def _leave(self, run: LiveRun) -> None:
        """Release the run once no step is in flight and the body waits or its grace is over, unless the run ends."""
        execution, scope, changed = run.execution, run.execution.scope, run.changes()
        while run.state == "leaving":
            changed.clear()
            if scope.gate.in_flight:
                await changed.wait()
                continue
            execution.call(scope.move_at_rest, "give_back", 0.0)
            if scope.gate.parked or not await self._progress(changed):
                scope.move("give_back")
        await self._give_back(run)

    async def _give_back(self, run: LiveRun) -> None:
        """Release a run that was stopped between two steps: queued, or parked if it was at rest."""
        if run.state != "given_back":
            return  # it has its outcome, or another owner
        self._live.drop(run)
        while True:
            try:
                await self._engine.release(run.lease, run.execution.scope.gate.rest)
            except StoreError as error:  # until the engine takes the run back, no process executes it
                logger.error("%s cannot be given back yet: %s", run.record.id, error)  # noqa: TRY400
            else:
                return
            await sleep_for(self._process.clock, RETRY_EVERY_S)

    def waits(self, run: LiveRun, until: float | None) -> None:
        """Demote a fast run that waits beyond its budget; park a deep one that only waits.

        Args:
            run: the run.
            until: the time, in epoch seconds, before which a step of it cannot continue; None if the run seems only to
                wait.
        """
        if run.record.path == "fast":
            self._leave_early(run, until)
            return
        if until is not None:
            return
        clock = self._process.clock
        clock.call_at(clock.monotonic() + PARK_AFTER_S, lambda: run.execution.call(self._park, run))

    def _park(self, run: LiveRun) -> None:
        beyond = self._process.clock.time() + PARK_FOR_S_MIN
        control = self._process.control
        run.execution.scope.move_at_rest("park", beyond, lambda: control.spawn(self._give_back(run)))

    def doomed(self, run: LiveRun, estimate: Estimate, reasons: Sequence[str]) -> None:
        """Demote a fast run that is expected to miss its budget."""
        self._process.control.spawn(self._doomed(run, estimate, reasons))

    async def _doomed(self, run: LiveRun, estimate: Estimate, reasons: Sequence[str]) -> None:
        await self.demote(run, "predicted", reasons, "belief")
        record = run.record
        if record.demotion is None or record.demotion.by != "belief":  # it has ended, or left for another reason
            self._live.verdicts.withdraw(record.id, record.pipeline, record.sla, estimate, "demote")

    def _leave_early(self, run: LiveRun, until: float | None) -> None:
        """Demote a run that waits until then, or as long as it seems, if its budget ends before.

        A signal without a timeout may come at any time.
        """
        scope, now = run.execution.scope, self._process.clock.time()
        left_s = scope.facts.remaining()
        ends = now + left_s

        def leave(until: float) -> None:
            if ends < until < math.inf:
                why = f"the run has to wait for {until - now:.3g} s, and {left_s:.3g} s of the budget are left"
                self._process.control.spawn(self.demote(run, "predicted", [why], "wait"))

        if until is None:
            scope.waits.at_rest(ends, lambda rest: leave(rest.until))
        else:
            leave(until)

    async def _progress(self, changed: asyncio.Event) -> bool:
        clock = self._process.clock
        loop = asyncio.get_running_loop()
        grace_over = asyncio.Event()

        def end() -> None:
            grace_over.set()
            changed.set()

        timer = clock.call_at(clock.monotonic() + BOUNDARY_GRACE_S, lambda: call_threadsafe(loop, end))
        await changed.wait()
        timer.cancel()
        return not grace_over.is_set()
