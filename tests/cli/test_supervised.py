"""A gateway and its workers drain at the same time, and neither keeps the other from it."""

from __future__ import annotations

import asyncio

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


def gateway_of(service, workers):
    service.other, workers.other = workers, service
    gateway = SupervisedGateway(lambda: service, lambda _retire: workers)
    gateway._service = service
    return gateway


async def test_they_drain_at_the_same_time():
    service, workers = Party(), Party()
    async with asyncio.timeout(10):
        await gateway_of(service, workers).drain()
    assert service.left
    assert workers.left


async def test_a_supervisor_is_told_which_processes_hold_a_lease():
    told = asyncio.Queue()
    workers = Party()
    workers.present = told.put_nowait
    gateway = gateway_of(Party(), workers)
    gateway.present({"too early"})
    gateway._loop = asyncio.get_running_loop()
    await asyncio.to_thread(gateway.present, {"worker-1"})
    assert await told.get() == {"worker-1"}
    assert told.empty()


async def test_workers_leave_in_order_where_the_gateways_drain_fails():
    service, workers = Party(RuntimeError("no store")), Party()
    with pytest.raises(RuntimeError, match="no store"):
        await gateway_of(service, workers).drain()
    assert workers.left


async def test_a_drain_that_is_cut_short_is_cut_short_for_both():
    service, workers = Party(), Party()
    gateway = gateway_of(service, workers)
    service.other = workers.other = Party()  # asked by nobody
    draining = asyncio.create_task(gateway.drain())
    await service.asked.wait()
    await workers.asked.wait()
    draining.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait([draining])
    assert draining.cancelled()
    assert not service.left
    assert not workers.left
