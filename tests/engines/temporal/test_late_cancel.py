"""Steps of a run that is to be cancelled, in a worker that knows so before the workflow does."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from temporalio.exceptions import ApplicationError
from temporalio.testing import ActivityEnvironment

from offramp.conformance.bodies import ScriptedBodyHost
from offramp.conformance.host import Ledger
from offramp.engines.temporal.payloads import Ticket, raw
from offramp.engines.temporal.steps import Activities
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock
from tests.support import NOW, a_record, accepted


class Worker:
    """The activities of a worker, for a run that is assigned to Temporal."""

    def __init__(self, store, run, token):
        self.store, self.run, self._token = store, run, token
        self._ledger = Ledger(lambda: NOW)
        host = ScriptedBodyHost("worker", store, self._ledger, room=1)
        self._activities = Activities(host, store, store, FakeClock(), heartbeat_s=2.0)

    async def execute(self, step, *, attempt, **ticket):
        environment = ActivityEnvironment()
        told = {"activity_type": step, "workflow_id": self.run.id, "attempt": attempt}
        environment.info = dataclasses.replace(environment.info, **told)
        made = Ticket(self._token, step, first=True, **ticket)
        await environment.run(self._activities.step, [raw(b"[]"), raw(msgspec.json.encode(made))])

    @property
    def executed(self):
        return self._ledger.steps(self.run)


@pytest.fixture
async def worker():
    store, run = MemoryStore(), a_record(status="queued")
    await store.create(run, accepted(run), owner=None, durable=True)[0]
    claim = await store.assign_to_engine(run.id, NOW)
    return Worker(store, run, claim.lease.token)


async def test_a_step_of_a_lost_worker_is_not_repeated(worker):
    await worker.execute("earlier", attempt=1, cleans_up=False)  # the worker remembers a record without the request
    await worker.store.request_cancel(worker.run.id)
    with pytest.raises(ApplicationError) as refused:
        await worker.execute("lost", attempt=2, cleans_up=False)
    assert (refused.value.type, refused.value.non_retryable) == ("Interrupted", False)
    assert worker.executed == ["earlier"]


async def test_one_that_has_ended_is_reported(worker):
    await worker.execute("ended", attempt=1, cleans_up=False)
    await worker.store.request_cancel(worker.run.id)
    await worker.execute("ended", attempt=2, cleans_up=False)
    assert worker.executed == ["ended"]


@pytest.mark.parametrize("cleans_up", [True, None], ids=["cleanup", "of an earlier version"])
async def test_a_step_that_may_clean_up_is_repeated(worker, cleans_up):
    await worker.store.request_cancel(worker.run.id)
    await worker.execute("lost", attempt=2, cleans_up=cleans_up)
    assert worker.executed == ["lost"]
