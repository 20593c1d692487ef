"""Starts runs that retry others: a new run with the records of an old one, on the deep path."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from hashlib import blake2b

import msgspec

from offramp.core.journal import as_seen, steps_in
from offramp.core.names import did_you_mean
from offramp.core.run import Route, RunRecord, key_digest, run_id
from offramp.core.seed import NO_SEED, Seed, calls_of, seed_of
from offramp.core.spec import PipelineSpec
from offramp.errors import (
    IdempotencyMismatch,
    InputError,
    ObjectLost,
    Overloaded,
    RunConflict,
    RunGone,
    TenantBusy,
    TenantLimit,
)
from offramp.paths.deep import steps_of
from offramp.paths.process import Process
from offramp.paths.submission import Accepted, Retrial
from offramp.paths.submit import Submitter
from offramp.ports.store import Idempotency
from offramp.telemetry.logs import about

logger = logging.getLogger("offramp")

RETRIES_MAX = 100
"""Retries of one run, all of which its document names; a retry can be retried in turn."""


class Retrier:
    """Retries the runs of one process.

    Args:
        process: this process.
        submitter: accepts the new runs.
        find: returns a tenant's run, or raises `UnknownRun`.
    """

    def __init__(
        self, process: Process, submitter: Submitter, find: Callable[[str, str], Awaitable[RunRecord]]
    ) -> None:
        self._process = process
        self._submitter = submitter
        self._find = find

    async def retry(self, asked: Retrial) -> Accepted:
        """Start a run that retries another; see `Service.retry`."""
        old = await self._find(asked.run_id, asked.tenant)
        _require_retriable(old, asked)
        spec = self._submitter.pipeline(old.pipeline)
        await self._submitter.require_input(spec, old.input)
        made = self._record(old, spec, asked)
        key = self._idempotency(asked, made.created_at)
        if len(old.retried_as) >= RETRIES_MAX and not await self._submitter.attaches(old.tenant, key, made.created_at):
            raise RunConflict(f"{old.id} was retried {RETRIES_MAX} times (RETRIES_MAX): retry the last of them instead")
        seed = NO_SEED if asked.fresh else await self._seed(old, asked.start)
        try:
            accepted = await self._submitter.accept(made, key, lambda: self._own(seed, old, made.id))
        except (IdempotencyMismatch, Overloaded, TenantBusy, TenantLimit):
            await self._process.values.forget(made.id)
            raise
        if accepted.attached:
            await self._process.values.forget(made.id)
        else:
            logger.info("%s retries %s (%d steps recorded)", made.id, old.id, steps_in(seed.entries), extra=about(made))
        return accepted

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

    async def _own(self, seed: Seed, old: RunRecord, run_id: str) -> Seed:
        """The seed of this run, with copies of large values: those of the old run end with its retention."""
        try:
            return seed._replace(entries=await self._process.values.copies(seed.entries, run_id))
        except ObjectLost:
            await self._require_kept(old)
            raise

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
