"""The activities: steps, and a body's access to the store; on the control loop, which no user code can block.

A step's own code runs where the host puts it. This module takes its turn, sends its heartbeats, and reports its outcome
to Temporal. The store has the outcome first, so the death of the worker in between repeats nothing.
"""

from __future__ import annotations

import asyncio
import functools
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Literal

import msgspec
from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from offramp.core.events import POSTPONED, StepState
from offramp.core.failure import failure_of
from offramp.core.journal import ORDER, Entry, as_seen, reordered, steps_in
from offramp.core.ownership import ENGINE
from offramp.core.run import Outcome, RunRecord
from offramp.engines.temporal.body import LOST, SHORT_MARGIN_S, STEP_MARGIN_S, WAITS
from offramp.engines.temporal.held import LOOK, TAKE
from offramp.engines.temporal.known import BEGIN, FINISH, FINISH_LARGE, JOURNAL, RECORD, SIGNALS, VALUE
from offramp.engines.temporal.payloads import (
    Begin,
    Begun,
    Elsewhere,
    End,
    Look,
    Looked,
    Notes,
    Page,
    Read,
    Signals,
    Take,
    Ticket,
    oversized,
    page_of,
    raw,
    read,
    signals_of,
    value_in,
)
from offramp.errors import LeaseLost, ObjectLost, TooLarge
from offramp.ports.bodies import AttemptContext, BodyHost, Known, StepCall, TryAgain
from offramp.ports.clock import Clock
from offramp.ports.store import Claim, Lease, Leases, Store, Turn

HEARTBEATS_PER_TIMEOUT = 3
RECORDS_KEPT = 1_000
"""Run records that a worker remembers between the steps of their runs."""


class Activities:
    """The activities that a worker process executes for Temporal.

    Args:
        host: executes attempts.
        store: runs.
        leases: the leases of the runs; of the same store.
        clock: time.
        heartbeat_s: how long Temporal waits for a heartbeat.
        takes_large: whether payloads may be of any size.
    """

    def __init__(
        self,
        host: BodyHost,
        store: Store,
        leases: Leases,
        clock: Clock,
        heartbeat_s: float,
        *,
        takes_large: bool = False,
    ) -> None:
        self._takes_large = takes_large
        self._host = host
        self._store = store
        self._leases = leases
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._records: OrderedDict[str, RunRecord] = OrderedDict()

    @property
    def all(self) -> list[Callable[..., Any]]:
        """For the worker."""
        reads = (self.begin, self.journal, self.value, self.signals, self.look)
        return [self.step, *reads, self.take, self.record, self.finish, self.finish_large]

    @activity.defn(name=BEGIN)
    async def begin(self, asked: Begin) -> Begun:
        """Take the run for the engine, and read its history."""
        run_id = _run_id()
        claim = await self._leases.assign_to_engine(run_id, self._clock.time())
        if claim is None:
            return Begun(over=True)
        self._remember(claim.record)
        token, cancel = claim.lease.token, claim.record.cancel_requested
        if asked.fresh and claim.fresh:
            part = self._host.began(claim, 0, first=True)
            signals = bool(await self._store.signals(run_id))
            return Begun(token=token, first=True, cancel=cancel, signals=signals, part=part)
        known = await self._seen(claim.lease, await self._host.known(run_id), asked.seen)
        replayed = steps_in(known.entries)
        reason = _why_resumed(claim, asked)
        part = asked.part or self._host.began(claim, replayed, first=reason is not None)
        await self._host.resumed(claim.lease, replayed, reason)
        large = None if self._takes_large else oversized(known.entries)
        if large is not None:
            text = (
                f"step {large.name!r}: its result has {len(large.value or b'')} bytes as JSON, more than Temporal takes"
            )
            await self._host.conclude(claim, Outcome("failed", error=failure_of(TooLarge(text), large.name)), part)
            return Begun(over=True)
        elsewhere = set() if asked.held is None else set(asked.held.steps)
        page = page_of(known.entries, 0)
        return Begun(
            token=token,
            cancel=cancel,
            signals=bool(known.signals),
            page=page,
            interrupted={key: step for key, step in known.interrupted.items() if key not in elsewhere},
            waiting=known.waiting,
            part=part,
            refused=known.refused,
        )

    async def _seen(self, lease: Lease, known: Known, seen: list[str]) -> Known:
        """The history in the order in which the body of the last one saw it; that order is recorded if it differs."""
        entries = reordered(known.entries, seen)
        if not seen or entries == known.entries:
            return known
        entry = Entry(f"{ORDER}:{len(entries)}", ORDER, "value", msgspec.json.encode(seen))
        self._store.log(lease.of_step(entry.key)).append(entry, None)
        await self._store.log(lease).durable()
        return msgspec.structs.replace(known, entries=entries)

    @activity.defn(name=JOURNAL)
    async def journal(self, asked: Read) -> Page:
        """A further page of the journal."""
        return page_of(as_seen(await self._store.journal(_run_id())), asked.after)

    @activity.defn(name=VALUE)
    async def value(self, asked: Elsewhere) -> RawValue:
        """A value that an entry refers to: the codec fetches it on the way to the body."""
        return raw(asked.stored)

    @activity.defn(name=SIGNALS)
    async def signals(self, asked: Read) -> Signals:
        """Signals that the run was sent."""
        return signals_of(await self._store.signals(_run_id()), asked.after)

    @activity.defn(name=LOOK)
    async def look(self, asked: Look) -> Looked:
        """The outcomes of steps in the gateway that demoted the run."""
        now = self._clock.time()
        lives = any(owner.id == asked.by and owner.expires_at > now for owner in await self._leases.owners())
        if not asked.steps:
            return Looked(lives)
        known = await self._host.known(_run_id())  # after the look at the gateway, so that its last writes are seen
        page = page_of([entry for entry in known.entries if entry.key in asked.steps], 0)
        ended, listed = {entry.key for entry in known.entries}, {entry.key for entry in page.entries}
        held = [key for key in asked.steps if key not in ended and lives and _under_way(known.interrupted.get(key))]
        held += [key for key in asked.steps if key in ended - listed]
        return Looked(lives, page.entries, held, more=page.following is not None)

    @activity.defn(name=TAKE)
    async def take(self, asked: Take) -> None:
        """Take a step that the body gave up from its process, which may then write nothing more of it."""
        with _refusals():
            await self._leases.take_step(Lease(_run_id(), ENGINE, asked.token), asked.step)

    @activity.defn(name=RECORD)
    async def record(self, notes: Notes) -> None:
        """Write the records of a body; an entry that is written already is skipped."""
        with _refusals():
            await self._write(notes)

    @activity.defn(name=FINISH)
    async def finish(self, end: End) -> None:
        """Give the run its outcome, unless it has one."""
        record = await self._known_record()
        lease = Lease(record.id, ENGINE, end.notes.token)
        try:
            await self._write(end.notes)
            await self._host.conclude(Claim(record, lease, fresh=False), end.outcome, end.part)
        except LeaseLost:
            activity.logger.info("%s has its outcome already", record.id)
        self._records.pop(record.id, None)

    @activity.defn(name=FINISH_LARGE)
    async def finish_large(self, end: End, result: RawValue) -> None:
        """The same with a result as a payload of its own."""
        outcome = msgspec.structs.replace(end.outcome, result=value_in(result))
        await self.finish(msgspec.structs.replace(end, outcome=outcome))

    @activity.defn(dynamic=True)
    async def step(self, args: Sequence[RawValue]) -> RawValue:
        """One attempt of the step that the activity is named after."""
        info = activity.info()
        ticket: Ticket = read(args[1], Ticket)
        call = StepCall(info.activity_type, ticket.key, ticket.attempt, ticket.decides, bool(ticket.cleans_up))
        first = ticket.first and info.attempt == 1  # which Temporal assigns to one worker, once
        if self._host.terms(call.name) is None:
            raise ApplicationError(f"step {call.name!r} is not declared: this worker has other code")
        with _refusals():
            record = await self._known_record(fresh=not first)
            whole = Lease(record.id, ENGINE, ticket.token)
            for drawn in ticket.drawn:  # on disk at the latest with the step's entry, and before it
                self._store.log(whole.of_step(drawn.key)).append(drawn, None)
            if first:
                turn = Turn(whole.of_step(call.key), finished=False)
            else:
                turn = await self._leases.take_step(whole, call.key)
        if turn.finished:
            entry = await self._written(call.key)
        elif record.cancel_requested and ticket.cleans_up is False:
            # The workflow hears of the request later than this worker if the last one died: it cancels this activity.
            raise _benign("the run is to be cancelled", type="Interrupted")
        else:
            entry = await self._executed(turn.lease, record, call, _arguments(args[0]), _Signs(info, ticket))
        if entry.failure is not None:
            raise _benign(entry.failure.message, entry.failure, call.key, type=entry.failure.type, non_retryable=True)
        return raw(entry.value or b"null", answers=call.key)

    async def _executed(
        self, lease: Lease, record: RunRecord, call: StepCall, arguments: bytes, signs: _Signs
    ) -> Entry:
        try:
            async with self._heartbeats(signs):
                return await self._host.attempt(lease, record, call, arguments, signs.context)
        except TryAgain as again:
            if again.failure.code == POSTPONED and activity.info().is_local:
                raise _benign(str(again), type=WAITS, non_retryable=True) from None
            delay = timedelta(seconds=again.delay_s)
            raise _benign(str(again), again.failure, type=again.failure.type, next_retry_delay=delay) from None
        except LeaseLost as lost:  # the new holder of the step reports to Temporal
            raise _benign(str(lost), type="Interrupted") from None
        except asyncio.CancelledError:
            if activity.is_worker_shutdown():
                # Another worker should have it now, and not only after missed heartbeats.
                moment = timedelta(milliseconds=1)
                if not activity.info().is_local:
                    activity.heartbeat(signs.context.left + 1)
                raise _benign("the worker is stopping", type="Interrupted", next_retry_delay=moment) from None
            why = activity.cancellation_details()
            if why is not None and why.not_found:  # the run ended without this step
                raise _benign("the run has ended", type="Interrupted") from None
            raise

    async def _written(self, key: str) -> Entry:
        """An outcome that another worker recorded but did not report to Temporal."""
        return next(entry for entry in await self._store.journal(_run_id()) if entry.key == key)

    @asynccontextmanager
    async def _heartbeats(self, signs: _Signs) -> AsyncIterator[None]:
        if activity.info().is_local:
            yield
            return

        async def beat() -> None:
            while True:
                await asyncio.sleep(self._heartbeat_s / HEARTBEATS_PER_TIMEOUT)
                activity.heartbeat(*signs.details())

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            beating.cancel()

    async def _write(self, notes: Notes) -> None:
        whole = Lease(_run_id(), ENGINE, notes.token)
        for entry, event in notes.written:
            lease = whole if entry is None else whole.of_step(entry.key)
            self._store.log(lease).append(entry, event)
        await self._store.log(whole).durable()

    async def _known_record(self, *, fresh: bool = False) -> RunRecord:
        """The record of the run; one that is not `fresh` may lack a cancel request."""
        run_id = _run_id()
        record = (None if fresh else self._records.get(run_id)) or await self._store.get(run_id)
        if record is None:
            raise LeaseLost(f"{run_id} is not in the store")
        self._remember(record)
        return record

    def _remember(self, record: RunRecord) -> None:
        self._records[record.id] = record
        self._records.move_to_end(record.id)
        while len(self._records) > RECORDS_KEPT:
            self._records.popitem(last=False)


class _Signs:
    """The context of an attempt, and its heartbeats' details: how many workers left the step because they stopped, and
    what it waits for before it begins.
    """

    def __init__(self, info: activity.Info, ticket: Ticket) -> None:
        queued_s = 0.0
        if not info.is_local:
            queued_s = max(0.0, (info.started_time - info.current_attempt_scheduled_time).total_seconds())
        left = int(info.heartbeat_details[0]) if info.heartbeat_details else 0
        patience_s = (SHORT_MARGIN_S if info.is_local else STEP_MARGIN_S) / 2
        opens = ticket.opens and info.attempt == 1
        self.context = AttemptContext(ticket.part, queued_s, opens, left, patience_s, self._says, not info.is_local)
        self._waits_for: str | None = None

    def _says(self, what: str | None) -> None:
        self._waits_for = what

    def details(self) -> list[int | str]:
        """The details of the next heartbeat."""
        return [self.context.left] if self._waits_for is None else [self.context.left, f"waits for {self._waits_for}"]


def _why_resumed(claim: Claim, asked: Begin) -> Literal["demotion", "retry"] | None:
    """Why a run comes to its engine with records; None for one that has been there before."""
    if not (claim.fresh or asked.held is not None):
        return None
    if claim.record.demotion is not None:
        return "demotion"
    return None if claim.record.retry_of is None else "retry"


def _under_way(step: StepState | None) -> bool:
    return step is not None and step.status == "running" and not step.left


def _run_id() -> str:
    found = activity.info().workflow_id
    assert found is not None, "an activity of ours outside a workflow"  # noqa: S101 - a worker of ours schedules none
    return found


def _arguments(value: RawValue) -> bytes:
    """A step's arguments; if they are lost, the step fails for good."""
    try:
        return value_in(value)
    except ObjectLost as error:
        failure = failure_of(error)
        raise _benign(failure.message, failure, type=failure.type, non_retryable=True) from None


class _refusals:  # noqa: N801 - reads as a word at its call
    """End a workflow that has lost its run, quietly."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, LeaseLost):
            raise _benign(str(error), type=LOST, non_retryable=True) from None


# The run's own log and document have the error already: Temporal's SDK need not log a traceback as well.
_benign = functools.partial(ApplicationError, category=ApplicationErrorCategory.BENIGN)
