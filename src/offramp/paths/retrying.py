"""Starts runs that retry others: a new run with the records of an old one, on the deep path."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec

from offramp.core.journal import Entry, as_seen, steps_in
from offramp.core.names import did_you_mean
from offramp.core.quotas import Quota
from offramp.core.reference import reference_in
from offramp.core.run import Route, RunRecord, key_digest, run_id
from offramp.core.seed import NO_SEED, Seed, calls_of, seed_of
from offramp.core.spec import PipelineSpec
from offramp.errors import InputError, ObjectLost, ObjectsUnavailable, RunConflict, RunGone, StoreError
from offramp.execution.waiting import sleep_for
from offramp.paths.deep import steps_of
from offramp.paths.patience import Patience
from offramp.paths.process import Process
from offramp.paths.submission import Accepted, Retrial
from offramp.paths.submit import Submitter
from offramp.ports.store import Idempotency
from offramp.telemetry.logs import about

logger = logging.getLogger("offramp")

RETRIES_MAX = 100
"""Retries of one run, all of which its document names; a retry can be retried in turn."""
FORGET_AGAIN_S = 30.0
"""Seconds until a second and last attempt to remove what was copied for a run that was not started."""


class Retrier:
    """Retries the runs of one process.

    Args:
        process: this process.
        submitter: accepts the new runs.
        patience: of requests with the store.
        find: returns a tenant's run, or raises `UnknownRun`.
    """

    def __init__(
        self,
        process: Process,
        submitter: Submitter,
        patience: Patience,
        find: Callable[[str, str], Awaitable[RunRecord]],
    ) -> None:
        self._process = process
        self._submitter = submitter
        self._patience = patience
        self._find = find

    async def retry(self, asked: Retrial) -> Accepted:
        """Start a run that retries another; see `Service.retry`.

        Only the start is a write. A request that is refused or cancelled before it starts nothing.
        """
        old = await self._patience.read(self._find(asked.run_id, asked.tenant))
        _require_retriable(old, asked)
        spec = self._submitter.pipeline(old.pipeline)
        await self._submitter.require_input(spec, old.input)
        made = self._record(old, spec, asked)
        key = self._idempotency(asked, made.created_at)
        seed = await self._patience.read(self._possible(old, made, key, asked))
        if _has_objects(seed):
            seed = await self._copied(seed, old, made.id)
        return await self._patience.write(self._start, made, key, seed, asked.quota)

    async def _possible(self, old: RunRecord, made: RunRecord, key: Idempotency | None, asked: Retrial) -> Seed:
        """What the new run begins with, if it may be started."""
        attaches = self._submitter.room.attaches
        if len(old.retried_as) >= RETRIES_MAX and not await attaches(old.tenant, key, made.created_at):
            raise RunConflict(f"{old.id} was retried {RETRIES_MAX} times (RETRIES_MAX): retry the last of them instead")
        seed = NO_SEED if asked.fresh else await self._seed(old, asked.start)
        await self._submitter.require_room(made, key, asked.quota)
        return seed

    async def _start(self, made: RunRecord, key: Idempotency | None, seed: Seed, quota: Quota | None) -> Accepted:
        started = False
        try:
            accepted = await self._submitter.accept(made, key, seed, quota)
            started = not accepted.attached
        finally:
            if not started and _has_objects(seed):
                self._forget(made.id)
        if started:
            recorded = steps_in(seed.entries)
            logger.info("%s retries %s (%d steps recorded)", made.id, made.retry_of, recorded, extra=about(made))
        return accepted

    def _forget(self, run_id: str) -> None:
        """Remove, in the background, what was copied for a run, unless it exists."""
        self._process.control.spawn(self._forgotten(run_id))

    async def _forgotten(self, run_id: str) -> None:
        left: object = "this process stopped"
        try:
            for wait_s in (0.0, FORGET_AGAIN_S):
                await sleep_for(self._process.clock, wait_s)
                try:
                    if await self._patience.read(self._process.store.get(run_id)) is None:
                        await self._process.values.forget(run_id)
                except StoreError as error:
                    left = error
                else:
                    left = None
                    return
        finally:
            if left is not None:
                logger.warning("objects of %s, which may not exist, were not removed: %s", run_id, left)

    async def _seed(self, old: RunRecord, start: str | None) -> Seed:
        store = self._process.store
        entries, signals = as_seen(await store.journal(old.id)), await store.signals(old.id)
        steps = await steps_of(store, old.id)
        await self._require_kept(old)
        calls = calls_of(entries, steps)
        if start is not None and start not in calls and start not in calls.values():
            known = did_you_mean(start, dict.fromkeys(calls.values()))
            message = f"{old.id} has no step with the name or key {start[:100]!r}; {known}"
            raise InputError(message, [("/from", message)])
        return seed_of(entries, signals, steps, start)

    async def _require_kept(self, old: RunRecord) -> None:
        """A purge marks a run before it removes its data: what was read before this is complete."""
        if (await self._find(old.id, old.tenant)).purged:
            raise _gone(old)

    async def _copied(self, seed: Seed, old: RunRecord, run_id: str) -> Seed:
        """The seed of this run, with copies of large values: those of the old run end with its retention.

        Raises:
            ObjectLost: one no longer exists.
            ObjectsUnavailable: one cannot be copied, or all of them not in time.
        """
        copying = asyncio.ensure_future(self._process.values.copies(seed.entries, run_id))
        limit_s = max(self._process.settings.objects_patience, self._process.settings.write_timeout)
        try:
            await asyncio.wait([copying], timeout=limit_s)
            if not copying.done():
                raise ObjectsUnavailable(
                    f"the large results of {old.id} were not copied within {limit_s:g} s (OFFRAMP_OBJECTS_PATIENCE); "
                    "nothing was started: try again"
                )
            return seed._replace(entries=copying.result())
        except BaseException as error:
            copying.cancel()
            copying.add_done_callback(lambda ended: self._abandoned(ended, run_id))
            if isinstance(error, ObjectLost):
                await self._patience.read(self._require_kept(old))
            raise

    def _abandoned(self, copying: asyncio.Future[list[Entry]], run_id: str) -> None:
        if not copying.cancelled():
            copying.exception()  # reported already, or of no interest any more
        self._forget(run_id)

    def _record(self, old: RunRecord, spec: PipelineSpec, asked: Retrial) -> RunRecord:
        now = self._process.clock.time()
        sla = self._process.classes.get(old.sla) or self._process.classes[spec.sla]
        return RunRecord(
            id=run_id(now, self._process.clock.random_bytes(10)),
            pipeline=spec.name,
            version=spec.version if asked.fresh else old.version,  # of the code that made the records
            status="queued",
            path="deep",
            sla=sla.name,
            route=Route("deep", [f"it retries {old.id}"]),
            created_at=now,
            input=old.input,
            budget_s=old.budget_s,
            priority=sla.priority,
            session_id=old.session_id,
            metadata=old.metadata,
            tenant=old.tenant,
            api_key=None if asked.quota is None else asked.quota.key,
            trace=asked.trace,
            deadline_at=None if spec.deadline is None else now + spec.deadline,
            retention_s=spec.retention,
            webhook=old.webhook,
            mount=asked.mount,
            retry_of=old.id,
            keys_of=None if asked.fresh else old.keys_of or old.id,
        )

    def _idempotency(self, asked: Retrial, now: float) -> Idempotency | None:
        if asked.idempotency_key is None:
            return None
        body = msgspec.json.encode(("retry", asked.run_id, asked.start, asked.fresh))
        fingerprint = blake2b(body, digest_size=16).hexdigest()
        return Idempotency(key_digest(asked.idempotency_key), fingerprint, now + self._process.settings.idempotency)


def _has_objects(seed: Seed) -> bool:
    return any(reference_in(entry.value) is not None for entry in seed.entries)


def _require_retriable(old: RunRecord, asked: Retrial) -> None:
    if old.purged:
        raise _gone(old)
    if not old.finished:
        raise RunConflict(f"{old.id} is {old.status}: it can be retried once it has ended; cancel it, or wait")
    if asked.fresh and asked.start is not None:
        message = "give either a step, or fresh: a fresh run has no step to begin from"
        raise InputError(message, [("/from", message)])
    if old.status == "completed" and not asked.fresh and asked.start is None:
        raise RunConflict(
            f"{old.id} has completed, so there is nothing left to execute: name a step to begin from, or retry it fresh"
        )


def _gone(old: RunRecord) -> RunGone:
    return RunGone(f"{old.id} cannot be retried: its input and its journal were removed when its retention ended")
