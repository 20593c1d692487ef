"""The room that a new run takes: among its tenant's open runs, and in the quota of the API key that starts it."""

from __future__ import annotations

from typing import NamedTuple

from offramp.core.quotas import Quota, Use
from offramp.core.routing import Facts
from offramp.core.run import RunRecord
from offramp.errors import RateLimited, TenantLimit
from offramp.paths.bounds import open_runs
from offramp.paths.learning import Learning
from offramp.paths.process import Process
from offramp.paths.quotas import Known, Quotas
from offramp.paths.submission import Submission
from offramp.ports.store import Idempotency


class Taken(NamedTuple):
    """What a run took; nothing if it attaches to an existing one."""

    open: int | None = None
    known: Known | None = None


class Room:
    """Counts new runs against the bounds of their tenants and keys.

    Args:
        process: its store and settings.
        learning: tells how long runs take.
    """

    def __init__(self, process: Process, learning: Learning) -> None:
        self._process = process
        self._learning = learning
        self._open_runs = open_runs(process.store, process.clock, process.settings.tenant_runs)
        settings = process.settings
        self._quotas = Quotas(process.store, process.clock, settings.max_budget + settings.write_timeout)
        self._held: dict[str, Known] = {}
        """The quotas in which runs are counted whose requests wait."""

    async def take(self, record: RunRecord, quota: Quota | None, key: Idempotency | None) -> Taken:
        """Count a run, which the caller then creates without waiting for anything in between.

        Raises:
            TenantLimit: the tenant or the API key has no room, and the request is not for an existing run.
            StoreError: the store cannot count now.
        """
        known = self._held.get(record.id)
        try:
            if quota is not None and known is None:
                known = await self._quotas.take(quota, record.id, self._run_s(record))
            return Taken(await self._open_runs.take(record.tenant), known)
        except BaseException as error:
            self._uncount(record, known)
            if not isinstance(error, TenantLimit) or not await self.attaches(record.tenant, key, record.created_at):
                if isinstance(error, TenantLimit) and not isinstance(error, RateLimited):
                    # As many runs as are open end within the time that one takes.
                    error.retry_after = self._run_s(record) / self._process.settings.tenant_runs
                raise
            return Taken()

    def _run_s(self, record: RunRecord) -> float:
        return self._learning.expected_s(record.pipeline, record.sla, record.budget_s)

    async def require_quota(self, submission: Submission, quota: Quota, key: Idempotency | None, facts: Facts) -> None:
        """Refuse a request early, before a run has to make room for its own, if its key seems to have used its quota.

        Raises:
            RateLimited: it has, and the request is not for an existing run.
            StoreError: the store cannot be asked.
        """
        now = self._process.clock.time()
        if self._quotas.seems_used(quota) and not await self.attaches(submission.tenant, key, now):
            run_s = self._learning.expected_s(submission.pipeline, facts.sla, facts.budget_s)
            await self._quotas.require(quota, run_s)

    async def attaches(self, tenant: str, key: Idempotency | None, now: float) -> bool:
        """Whether the request is for an existing run, which takes no room."""
        return key is not None and await self._process.store.holder(tenant, key.key, now) is not None

    def created(self, record: RunRecord, taken: Taken) -> None:
        """The run exists."""
        if taken.known is not None:
            self._held.pop(record.id, None)
            taken.known.created_run(record.id)

    def give_back(self, record: RunRecord, taken: Taken) -> None:
        """The run was not created."""
        if taken.open is not None:
            self._open_runs.give_back(record.tenant, taken.open)
        self._uncount(record, taken.known)

    def _uncount(self, record: RunRecord, known: Known | None) -> None:
        if known is not None and record.id not in self._held:
            known.give_back(record.id)

    async def hold(self, record: RunRecord, quota: Quota) -> None:
        """Count a run in its key's quota while its request waits; then call `let_go`.

        Raises:
            RateLimited: the API key has used its quota.
            StoreError: the store cannot count now.
        """
        self._held[record.id] = await self._quotas.take(quota, record.id, self._run_s(record))

    def let_go(self, record: RunRecord) -> None:
        """The request waits no longer: unless its run was created, it does not count."""
        known = self._held.pop(record.id, None)
        if known is not None:
            known.give_back(record.id)

    async def use(self, quota: Quota) -> Use:
        """What of a quota is in use.

        Raises:
            StoreError: the store cannot be asked.
        """
        return await self._quotas.use(quota)

    def close(self) -> None:
        """Count no more."""
        self._open_runs.close()
