"""The harness of the engine on Temporal: processes that each reach the server through a line that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

from offramp.core.shares import Tenancy
from offramp.engines.leased.membership import Links
from offramp.engines.leased.queue_bound import COUNT_EVERY_S
from offramp.engines.leased.seat import Member
from offramp.execution.clock import SystemClock
from offramp.ports.listing import RunFilter
from offramp.ports.parts import close_all, drain_all, start_all
from tests import temporal
from tests.conformance.adapters import ADAPTERS, QUEUE_LIMITS, QUEUE_MAX, SQLITE, die, fall_silent
from tests.conformance.blobs import OBJECTS
from tests.conformance.on_redis import EMBEDDED_REDIS, REDIS
from tests.limits.redis.site import REDIS as LIMITS_ON_REDIS
from tests.limits.sites import LIMITS

LEASE_S = 2.0
POLL_S = 0.1
# Also how long a count of the queue is believed.
NOTICE_S = 2 * COUNT_EVERY_S
# A lease that no process renews, and a renewal by the process that looks; Temporal's heartbeat timeout is as long.
TAKEOVER_S = 2.5 * LEASE_S


class Line:
    """A TCP line to the server: a process whose line is cut is dead to all other processes, whatever it does."""

    def __init__(self, port):
        self._port = port
        self._pairs = set()
        self._cut = False

    async def open(self):
        self._listener = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        return self._listener.sockets[0].getsockname()[1]

    async def _connected(self, reader, writer):
        if self._cut:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pair = (writer, far_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        finally:
            self._pairs.discard(pair)

    @staticmethod
    async def _pump(reader, writer):
        with contextlib.suppress(OSError, asyncio.CancelledError):  # cancelled as the loop ends
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    def cut(self):
        self._cut = True
        for pair in list(self._pairs):
            for writer in pair:
                writer.transport.abort()

    def mend(self):
        self._cut = False

    def close(self):
        self.cut()
        self._listener.close()


class TemporalMember:
    """One process."""

    def __init__(self, owner, instance, line, clock):
        self.owner = owner
        self.instance = instance
        self.store = instance.store
        self._line = line
        self._clock = clock
        self._gone = self._dead = False

    async def open(self, site, host, *, works):
        from offramp.engines.temporal.address import Address
        from offramp.engines.temporal.engine import Options, TemporalEngine

        port = await self._line.open()
        address = Address.parse(f"temporal://127.0.0.1:{port}/default?task_queue={site.task_queue}")
        member = Member(
            id=self.owner,
            kind="worker" if works else "gateway",
            works=works,
            lease_s=LEASE_S,
            poll_s=POLL_S,
            queue_max=site.queue_max,
            queue_limits=site.queue_limits,
            tenancy=site.tenancy,
        )
        room = host.free() or site.queue_max
        options = Options(address=address, activities_max=room, heartbeat_s=LEASE_S, grace_s=0.3)
        leases = self.instance.leases
        self.engine = TemporalEngine(member, options, self.store, leases, self._clock, host, Links())
        self.store.on_lost(host.lost)
        await start_all(self.engine.parts)
        if works:
            async with asyncio.timeout(20):
                while not self.engine.takes():  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)

    async def stop(self):
        await drain_all(self.engine.parts)
        await self.end()

    async def end(self):
        if not self._gone:
            self._gone = True
            self._line.mend()
            await close_all(self.engine.parts)
        self._line.close()

    async def mute(self):
        self._line.cut()
        fall_silent(self.engine)

    async def kill(self):
        self._line.cut()
        await die(self.engine)
        self.instance.die(self.owner)


class TemporalSite:
    """Processes over one store and one task queue, in real time."""

    notice_s = NOTICE_S
    takeover_s = TAKEOVER_S
    queue_max = QUEUE_MAX
    queue_limits = QUEUE_LIMITS

    def __init__(self, stores):
        self.clock = SystemClock()
        self._stores = stores
        self.task_queue = uuid.uuid4().hex
        self.tenancy = Tenancy(0.5)
        self._instances = []
        self._members = []

    def now(self):
        return self.clock.time()

    async def join(self, owner, host_of, *, works=True):
        first = not self._instances
        self._instances.append(await (self._stores.open() if first else self._stores.reopen(self._instances[0])))
        member = TemporalMember(owner, self._instances[-1], Line(temporal.server().port), self.clock)
        self._members.append(member)
        await member.open(self, host_of(member.store), works=works)
        return member

    async def advance(self, seconds):
        await asyncio.sleep(seconds)

    async def close(self):
        await self._end_workflows()
        for member in self._members:
            await member.end()
        for instance in reversed(self._instances):
            await instance.close()

    async def _end_workflows(self):
        from temporalio.client import Client
        from temporalio.service import RPCError

        client = await Client.connect(temporal.server().target)
        for record in (await self._instances[0].store.runs(RunFilter(tenant=None, limit=100))).runs:
            with contextlib.suppress(RPCError):
                await client.get_workflow_handle(record.id).terminate()


class Temporal:
    """The engine on Temporal, over one of the stores."""

    def __init__(self, stores):
        self.name = f"temporal, {stores.name}"
        self.capabilities = stores.capabilities | {"sharing"}
        self._stores = stores

    async def open(self):
        return TemporalSite(self._stores)


TEMPORAL, TEMPORAL_REDIS = Temporal(SQLITE), Temporal(REDIS)
EVERY = [*ADAPTERS, REDIS, EMBEDDED_REDIS, TEMPORAL, TEMPORAL_REDIS, *OBJECTS, *LIMITS, LIMITS_ON_REDIS]
