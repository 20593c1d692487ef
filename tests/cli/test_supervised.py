"""A gateway and its workers drain at the same time, and neither keeps the other from it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from offramp.cli.supervised import SupervisedGateway


class Party:
    """The service, or the supervisor: it leaves once the other one was asked to leave, too."""

    def __init__(self, error=None):
        self.asked = asyncio.Event()
        self.other = None
        self.left = False
        self._error = error

    async def drain(self):
        self.asked.set()
        if self._error is not None:
            raise self._error
        await self.other.asked.wait()
        await asyncio.sleep(0)
        self.left = True

    stop = drain


class Service(Party):
    crew = SimpleNamespace()
    metrics = SimpleNamespace(workers_wanted=lambda count: None, worker_started=None, worker_ended=None)

    async def start(self):
        self.on_joined()


class Workers(Party):
    count = 1

    def start(self):
        pass


def gateway_of(service, workers):
    service.other, workers.other = workers, service
    return SupervisedGateway(lambda: service, lambda _retire: workers)


async def started(service, workers):
    gateway = gateway_of(service, workers)
    await gateway.open()
    return gateway


async def test_they_drain_at_the_same_time():
    service, workers = Service(), Workers()
    gateway = await started(service, workers)
    async with asyncio.timeout(10):
        await gateway.drain()
    assert service.left
    assert workers.left


async def test_the_supervisor_learns_which_processes_hold_a_lease():
    reported = asyncio.Queue()
    workers = Workers()
    workers.present = reported.put_nowait
    gateway = gateway_of(Service(), workers)
    gateway.present({"too early"})
    await gateway.open()
    await asyncio.to_thread(gateway.present, {"worker-1"})
    assert await reported.get() == {"worker-1"}
    assert reported.empty()


async def test_workers_leave_in_order_where_the_gateways_drain_fails():
    service, workers = Service(RuntimeError("no store")), Workers()
    gateway = await started(service, workers)
    with pytest.raises(RuntimeError, match="no store"):
        await gateway.drain()
    assert workers.left


async def test_a_drain_that_is_cut_short_is_cut_short_for_both():
    service, workers = Service(), Workers()
    gateway = await started(service, workers)
    service.other = workers.other = Party()  # never asked
    draining = asyncio.create_task(gateway.drain())
    await service.asked.wait()
    await workers.asked.wait()
    draining.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([draining])
    assert draining.cancelled()
    assert not service.left
    assert not workers.left
