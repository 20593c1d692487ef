"""From a request to a run: checked, budgeted, routed, recorded, started."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import math
from collections.abc import Awaitable, Callable, Coroutine
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from offramp.core import events
from offramp.core.addresses import parse_allowed
from offramp.core.departures import room_in_s, room_rate
from offramp.core.names import did_you_mean
from offramp.core.quotas import Quota
from offramp.core.routing import Decision, Facts, decide
from offramp.core.run import Path, Route, RunRecord, key_digest, run_id
from offramp.core.seed import NO_SEED, Seed
from offramp.core.sla import SLA
from offramp.core.spec import PipelineSpec
from offramp.core.timestamps import rfc3339
from offramp.core.webhooks import refused
from offramp.errors import (
    InputError,
    Overloaded,
    QueueLength,
    RunGone,
    StoreError,
    StoreTimeout,
    TenantBusy,
    TenantLimit,
    UnknownPipeline,
)
from offramp.paths.admission import Admission
from offramp.paths.demote import Demoter
from offramp.paths.entry import Entry
from offramp.paths.fast import FastPath
from offramp.paths.live import LiveRuns, Watcher
from offramp.paths.patience import Patience
from offramp.paths.process import Process
from offramp.paths.room import Room
from offramp.paths.submission import Accepted, Submission
from offramp.ports.engine import Engine
from offramp.ports.store import Created, Idempotency


def _accepted_event(record: RunRecord) -> events.Draft:
    body = events.RunAccepted(record.pipeline, record.session_id, record.path, record.sla, record.route.shown())
    return events.draft(body, rfc3339(record.created_at))


def _put_on_the_fast_path(record: RunRecord, decision: Decision, waited_s: float, now: float) -> None:
    """Change a run that was to go deep, and waited for a place instead."""
    says = f"the queue is full, and it waited {waited_s:.1f} s for a place on the fast path"
    record.path, record.started_at = "fast", now
    record.route = replace(decision, path="fast", reasons=[*decision.reasons, says]).route()


class _Known(NamedTuple):
    """What is known of a request that is about to be decided."""

    spec: PipelineSpec
    facts: Facts
    run_id: str
    """Of the run that it starts, unless it attaches to another one."""
    now: float


Waits = Callable[[Coroutine[Any, Any, Path]], Awaitable[Path]]


def _nothing() -> None:
    pass


async def patiently(place: Coroutine[Any, Any, Path]) -> Path:
    """Wait as long as it takes."""
    return await place


class Submitter:
    """Takes requests for runs."""

    def __init__(
        self,
        process: Process,
        live: LiveRuns,
        demoter: Demoter,
        fast: FastPath,
        engine: Engine,
        patience: Patience,
    ) -> None:
        self._process = process
        self._patience = patience
        self._live = live
        self._admission = Admission(process, live)
        self._entry = Entry(process, live.learning, live.verdicts)
        self._demoter = demoter
        self._fast = fast
        self._engine = engine
        self.room = Room(process, live.learning)
        self.closed = False
        self.arriving = 0
        """Admitted requests whose runs have not begun yet."""
        self._writing: set[str] = set()
        self._refused_late: dict[str, Callable[[], None]] = {}
        """Runs that are being written although their requests were refused: what to do if none turns up."""

    @staticmethod
    async def require_input(spec: PipelineSpec, encoded: bytes) -> dict[str, Any]:
        """Check an input; returns the pipeline's arguments.

        Raises:
            InputError: the pipeline does not take it.
        """
        if spec.signature.runs_user_code:
            # Validators are user code: they must not block this loop (invariant L1).
            return await asyncio.get_running_loop().run_in_executor(None, spec.signature.decode_input, encoded)
        return spec.signature.decode_input(encoded)

    async def accept(
        self, record: RunRecord, key: Idempotency | None, seed: Seed, quota: Quota | None = None
    ) -> Accepted:
        """Take a run that goes deep at once, with records of another; continues as a write does; raises as `submit`."""
        self._require_open()
        try:
            return await self._accepted(record, _accepted_event(record), key, quota, seed)
        except (TenantLimit, Overloaded) as refusal:
            await self._explain(refusal, record.sla)
            raise

    async def require_room(self, record: RunRecord, key: Idempotency | None, quota: Quota | None = None) -> None:
        """Check that the run would be accepted now, and leave the room to others.

        Raises:
            TenantLimit: the tenant has reached its limit of open runs.
            RateLimited: the API key has used its quota.
            Overloaded: this process is stopping.
        """
        self._require_open()
        self.room.give_back(record, await self.room.take(record, quota, key))

    def _require_open(self) -> None:
        if self.closed:
            raise Overloaded("this gateway is stopping; send the request to another one", retry_after=1.0)

    async def submit(
        self,
        submission: Submission,
        watcher: Watcher | None = None,
        waits: Waits = patiently,
        wait_s: float = math.inf,
    ) -> Accepted:
        """Take a request.

        Args:
            submission: the request.
            watcher: gets the exception if the run fails in this process.
            waits: awaits a place on the fast path, or room in the queue; it may give up, as when the client leaves.
            wait_s: how long it may wait for that, at most its budget.

        Raises:
            UnknownPipeline: no pipeline has that name.
            InputError: input, class, budget or webhook are invalid.
            IdempotencyMismatch: the key was used with another request.
            RunGone: the key's run has ended, and its data was removed.
            TenantLimit: the tenant has reached its limit of open runs.
            RateLimited: the API key has used its quota.
            TenantBusy: the tenant has used its share of the fast path, or of the queue.
            Overloaded: this process is stopping, or the queue is full.
            StoreTimeout: the store did not answer in time; the run may have been accepted.
            StoreError: the store cannot take the run, which was not accepted.
        """
        self._require_open()
        self.arriving += 1
        try:
            return await self._take(submission, watcher, waits, wait_s)
        except (TenantLimit, Overloaded) as refusal:
            await self._explain(refusal, submission.sla or self.pipeline(submission.pipeline).sla)
            raise
        finally:
            self.arriving -= 1

    async def _take(self, submission: Submission, watcher: Watcher | None, waits: Waits, wait_s: float) -> Accepted:
        known = await self._known(submission)
        facts = self._entry.judged(submission.pipeline, known.facts, known.run_id, explores=True)
        if facts is not known.facts:
            known = known._replace(facts=facts)
        withdraw = functools.partial(self._entry.withdraw, submission.pipeline, facts, known.run_id)
        try:
            accepted = await self._take_known(submission, known, watcher, waits, wait_s)
        except Exception as error:
            if isinstance(error, StoreTimeout) and known.run_id in self._writing:
                self._refused_late[known.run_id] = withdraw
            else:
                withdraw()
            raise
        if accepted.attached:
            withdraw()
        return accepted

    async def _take_known(
        self, submission: Submission, known: _Known, watcher: Watcher | None, waits: Waits, wait_s: float
    ) -> Accepted:
        facts, now = known.facts, known.now
        key = self._idempotency(submission, now)
        if submission.quota is not None:
            await self.room.require_quota(submission, submission.quota, key, facts)
        decision = decide(facts, self._admission.load(submission, facts))
        if decision.path == "refused":
            if not await self.room.attaches(submission.tenant, key, now):
                raise self._share_is_taken(submission, decision)
            load = self._admission.load(submission, facts)
            decision = decide(facts, replace(load, share_is_taken=False))
        record = self._record(submission, known, decision.route())
        if record.path == "fast":
            self._live.reserve(record)
        queued: QueueLength | None = None
        try:
            if not await self._has_to_wait(record, decision, key):
                begin = self._begin(record, key, submission.quota, watcher)
                return await (
                    begin if decision.displaces is None else self._displacing(decision.displaces, decision, begin)
                )
        except Overloaded as refusal:
            if decision.by != "load":  # else the queue is full, but a place on the fast path may become free
                raise
            queued = refusal.in_queue
        finally:
            self._live.give_up(record)
        try:
            if submission.quota is not None:
                await self.room.hold(record, submission.quota)
            return await self._wait(submission, record, decision, watcher, waits, wait_s, queued)
        finally:
            self.room.let_go(record)

    async def _wait(
        self,
        submission: Submission,
        record: RunRecord,
        decision: Decision,
        watcher: Watcher | None,
        waits: Waits,
        wait_s: float,
        queued: QueueLength | None,
    ) -> Accepted:
        """Wait for a place on the fast path or in the queue, which refused the run with this length, and begin."""
        began = self._process.clock.monotonic()
        key = self._idempotency(submission, record.created_at)
        rate = await self._queue_rate(queued)
        with self._admission.waiting(record, min(wait_s, record.budget_s), rate) as waiting:
            try:
                while await waits(self._admission.turn(waiting)) == "deep":
                    try:
                        return await self._begin(record, key, submission.quota, watcher)
                    except (Overloaded, TenantBusy) as refusal:
                        self._admission.again(waiting, refusal)
                waited_s = self._process.clock.monotonic() - began
                _put_on_the_fast_path(record, decision, waited_s, self._process.clock.time())
                return await self._begin(record, key, submission.quota, watcher)
            finally:
                self._live.give_up(record)

    async def _has_to_wait(self, record: RunRecord, decision: Decision, key: Idempotency | None) -> bool:
        """Whether requests that wait go before this one, which wants the same as they do."""
        if decision.by != "load" or decision.path != "deep" or not self._admission.ahead(self._class(record.sla)):
            return False
        return not await self.room.attaches(record.tenant, key, record.created_at)

    async def _queue_rate(self, queued: QueueLength | None) -> float:
        """How many runs a second the queue that refused one has room for; 0 if that is not known."""
        with contextlib.suppress(StoreError):
            rates = await self._patience.read(self._live.stats.queue_rates())
            return room_rate(self._class_of(queued), rates)
        return 0.0

    def _class_of(self, queued: QueueLength | None) -> SLA | None:
        return None if queued is None or queued.sla is None else self._process.classes.get(queued.sla)

    async def _explain(self, refusal: TenantLimit | Overloaded, sla: str) -> None:
        """Count a refusal, and say when the queue is expected to have room, if that is the reason."""
        self._process.metrics.refused(sla, refusal.code)
        queued = refusal.in_queue
        if queued is None:
            return
        with contextlib.suppress(StoreError):
            rates = await self._patience.read(self._live.stats.queue_rates())
            refusal.retry_after = room_in_s(queued.runs, self._class_of(queued), rates)

    def _share_is_taken(self, submission: Submission, decision: Decision) -> TenantBusy:
        return TenantBusy(decision.reasons[0], self._admission.share_in_s(submission.tenant))

    async def decide(self, submission: Submission) -> Decision:
        """The decision for a request now; starts and stores nothing.

        Raises:
            UnknownPipeline: no pipeline has that name.
            InputError: input, class, budget or webhook are invalid.
            TenantBusy: the request would be refused.
            Overloaded: this process is stopping.
        """
        self._require_open()
        known = await self._known(submission)
        facts = self._entry.judged(submission.pipeline, known.facts, known.run_id, explores=False)
        decision = decide(facts, self._admission.load(submission, facts))
        if decision.path == "refused":
            raise self._share_is_taken(submission, decision)
        return decision

    async def _known(self, submission: Submission) -> _Known:
        """What is known of a valid request."""
        spec = self.pipeline(submission.pipeline)
        sla = self._class(submission.sla or spec.sla)
        arguments = await self.require_input(spec, submission.input)
        self._check_webhook(submission)
        facts = await self._entry.facts(submission, spec, sla, arguments)
        now = self._process.clock.time()
        return _Known(spec, facts, run_id(now, self._process.clock.random_bytes(10)), now)

    async def _displacing(self, run_id: str, decision: Decision, begin: Awaitable[Accepted]) -> Accepted:
        """Begin in the place of a run, which leaves once the new one is there: that may be refused, or attach."""
        with self._admission.gives_way(run_id):
            try:
                accepted = await begin
            except StoreTimeout:
                self._make_room(decision)  # the new run may begin yet
                raise
            if not accepted.attached:
                self._make_room(decision)
            return accepted

    def _make_room(self, decision: Decision) -> None:
        run = None if decision.displaces is None else self._live.get(decision.displaces)
        if run is not None:
            self._process.control.spawn(self._demoter.demote(run, "overload", [decision.gave_way]))

    def _begin(
        self, record: RunRecord, key: Idempotency | None, quota: Quota | None, watcher: Watcher | None
    ) -> Awaitable[Accepted]:
        if watcher is not None:
            self._live.watchers[record.id] = watcher
        return self._patience.write(self._accepted, record, _accepted_event(record), key, quota)

    async def _accepted(
        self,
        record: RunRecord,
        accepted: events.Draft,
        key: Idempotency | None,
        quota: Quota | None,
        seed: Seed = NO_SEED,
    ) -> Accepted:
        """The store's answer; continues even if the request no longer waits for it."""
        self.arriving += 1
        self._writing.add(record.id)
        try:
            created = await self._start(record, accepted, key, quota, seed)
            if created.existing is None or created.existing == record.id:
                self._refused_late.pop(record.id, None)
                self._process.metrics.accepted(record)
                return Accepted(record, attached=False)
            return await self._attached(created.existing)
        finally:
            self.arriving -= 1
            self._writing.discard(record.id)
            self._refused_late.pop(record.id, _nothing)()

    async def _attached(self, run_id: str) -> Accepted:
        """The run that holds the key of the request."""
        existing = await self._process.store.get(run_id)
        if existing is None or existing.purged:
            # The run of the key was executed: it is neither shown without its result nor executed again.
            raise RunGone(
                f"{run_id}, which this Idempotency-Key started, has ended, and its result was removed when "
                "its retention ended; nothing was started: use a new key to run it again"
            )
        return Accepted(existing, attached=True)

    async def _start(
        self,
        record: RunRecord,
        accepted: events.Draft,
        key: Idempotency | None,
        quota: Quota | None,
        seed: Seed,
    ) -> Created:
        """Create the run within the bounds of its tenant and key; attaching to an existing run is always allowed."""
        until = self._patience.until()
        taken = await self.room.take(record, quota, key)
        self._process.feed.expect(record.id, self._process.clock.monotonic())
        try:
            self._patience.require(until)
            if record.path == "fast":
                created = await self._fast.start(record, accepted, key)
            elif self._process.tracing is None:
                created = await self._engine.start(record, accepted, key, seed)
            else:
                with self._process.tracing.send(record):
                    created = await self._engine.start(record, accepted, key, seed)
        except Exception:
            self.room.give_back(record, taken)
            raise
        if created.existing is not None:
            self.room.give_back(record, taken)
        else:
            self.room.created(record, taken)
        return created

    def close(self) -> None:
        """Take no more requests."""
        self.closed = True
        self._admission.close()
        self.room.close()

    def pipeline(self, name: str) -> PipelineSpec:
        """A pipeline by name; raises `UnknownPipeline`."""
        spec = self._process.pipelines.get(name)
        if spec is None:
            raise UnknownPipeline(f"no pipeline {name[:100]!r}; {did_you_mean(name, self._process.pipelines)}")
        return spec

    def _class(self, name: str) -> SLA:
        sla = self._process.classes.get(name)
        if sla is None:
            message = f"no class {name[:100]!r}; {did_you_mean(name, self._process.classes)}"
            raise InputError(message, [("/class", message)])
        return sla

    def _check_webhook(self, submission: Submission) -> None:
        if submission.webhook is None:
            return
        settings = self._process.settings
        allowed = parse_allowed(settings.webhook_allow, settings.webhook_ports)
        problems = refused(submission.webhook, signed=bool(settings.webhook_secret), allowed=allowed)
        if problems:
            pointer, message = problems[0]
            raise InputError(f"{pointer}: {message}", problems)

    def _record(self, submission: Submission, known: _Known, route: Route) -> RunRecord:
        spec, facts, now = known.spec, known.facts, known.now
        return RunRecord(
            id=known.run_id,
            pipeline=spec.name,
            version=spec.version,
            status="queued",
            path=route.path,
            sla=facts.sla,
            route=route,
            created_at=now,
            input=submission.input,
            budget_s=facts.budget_s,
            priority=self._class(facts.sla).priority,
            session_id=submission.session_id,
            metadata=submission.metadata,
            tenant=submission.tenant,
            api_key=None if submission.quota is None else submission.quota.key,
            trace=submission.trace,
            deadline_at=None if spec.deadline is None else now + spec.deadline,
            retention_s=spec.retention,
            webhook=submission.webhook,
            mount=submission.mount,
            seen=facts.seen,
        )

    def _idempotency(self, submission: Submission, now: float) -> Idempotency | None:
        """The key with a fingerprint of the body: headers and white space may differ on a retry."""
        if submission.idempotency_key is None:
            return None
        body = (
            submission.pipeline,
            msgspec.json.decode(submission.input),
            submission.session_id,
            submission.sla,
            submission.metadata,
            submission.budget,
            submission.webhook,
        )
        fingerprint = blake2b(msgspec.json.encode(body, order="deterministic"), digest_size=16).hexdigest()
        key = key_digest(submission.idempotency_key)
        return Idempotency(key, fingerprint, now + self._process.settings.idempotency)
