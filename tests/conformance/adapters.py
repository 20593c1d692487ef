"""The harnesses of Offramp's own adapters: `python -m offramp.conformance tests.conformance.adapters:SQLITE`."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from offramp import wiring
from offramp.app import App
from offramp.core.shares import Tenancy
from offramp.engines.embedded.engine import EmbeddedEngine
from offramp.engines.leased.lease_keeper import RENEWALS_PER_LEASE
from offramp.engines.leased.membership import Links
from offramp.engines.leased.seat import Member
from offramp.errors import NotSupported
from offramp.execution.clock import SystemClock
from offramp.ports.parts import close_all, drain_all, start_all
from offramp.settings import Settings
from offramp.stores.memory import MemoryStore
from offramp.stores.sqlite.database import FILE_NAME
from offramp.stores.sqlite.outbox import SQLiteOutbox
from offramp.testing import FakeClock
from tests.support import GUARD_S, Files

EVERYTHING = frozenset({"shared", "durable", "signals", "purge", "webhooks"})
ALONE = frozenset({"signals", "purge", "webhooks"})

LEASE_S = 12.0
# Exact in binary, so that no renewal is due a rounding error later than the clock stands.
STEP_S = LEASE_S / 6
POLL_S = 1.0
QUEUE_MAX = 12
QUEUE_LIMITS = {"scarce": 3}
# How long nobody may say a word before what he held has been taken: his lease, and a renewal of who looks.
TAKEOVER_S = 2 * LEASE_S
LOOK_EVERY_S = 0.0005


def refuse_second():
    """What the wiring says to another process at a store in memory."""
    wiring.build(App("none"), Settings(store="memory:"), role="gateway")


def no_wrap(made):
    return made


def no_engine_wrap(made, _host):
    return made


def lose_unwritten(writer):
    """What a process had not begun to write when it died."""
    with writer._changed:
        writer._operations.clear()


class OpenMemory:
    """The store in memory."""

    def __init__(self, made):
        self.store = self.leases = made
        self.outbox = made.outbox

    def die(self, owner):
        """A process at this store died."""

    async def close(self):
        self.leases.leave()
        await self.store.close()


class Memory:
    """A store that is gone with its process."""

    name = "memory"
    capabilities = ALONE

    def __init__(self, make=MemoryStore):
        self._make = make

    async def open(self):
        return OpenMemory(self._make())

    async def reopen(self, _instance):
        refuse_second()

    async def crash(self, _instance):
        raise NotSupported("a store in memory leaves nothing behind; use the one on SQLite")


class OpenSQLite:
    """A database as one process has it open; the first one to open it removes it."""

    def __init__(self, folder, wrap_store, wrap_leases, *, first):
        self.folder = folder
        self._files = Files(folder)
        self._first = first
        self.store, self.leases = wrap_store(self._files.store), wrap_leases(self._files.leases)
        self.outbox = SQLiteOutbox(self._files.database, self._files.writer)

    def copy_as_killed(self, folder):
        """What a dead process leaves: the files as they are between two transactions."""
        connection = self._files.database.connect()
        with contextlib.closing(connection):
            connection.execute("BEGIN IMMEDIATE")
            for end in ("", "-wal"):
                shutil.copy(self.folder / f"{FILE_NAME}{end}", folder)
            connection.execute("ROLLBACK")

    def die(self, _owner):
        """What the writer has not begun to write dies with its process."""
        lose_unwritten(self._files.writer)

    async def close(self):
        self.leases.leave()
        await self.store.close()
        await self._files.close()
        if self._first:
            shutil.rmtree(self.folder)


class SQLite:
    """A database in a folder, shared by processes."""

    name = "sqlite"
    capabilities = EVERYTHING

    def __init__(self, wrap_store=no_wrap, wrap_leases=no_wrap):
        self._wraps = wrap_store, wrap_leases

    def _open(self, folder, *, first):
        return OpenSQLite(folder, *self._wraps, first=first)

    async def open(self):
        return self._open(Path(tempfile.mkdtemp(prefix="offramp-store-")), first=True)

    def left(self, folder):
        """These are the files that a crash left."""

    async def reopen(self, instance):
        return self._open(instance.folder, first=False)

    async def crash(self, instance):
        folder = Path(tempfile.mkdtemp(prefix="offramp-crash-"))
        instance.copy_as_killed(folder)
        self.left(folder)
        return self._open(folder, first=True)


class Renewals:
    """Leases that know until when their owner has done what was due."""

    def __init__(self, leases, now):
        self._leases = leases
        self.done_at = now

    def __getattr__(self, name):
        return getattr(self._leases, name)

    def expire(self, now, *, blames=True):
        found = self._leases.expire(now, blames=blames)
        self.done_at = now
        return found


def fall_silent(engine):
    """Take no run and renew nothing more, as a process that is stopped or cut off."""
    engine.seat.takes = False
    engine.membership.cut()


async def die(engine):
    """Do and hear nothing more."""
    fall_silent(engine)
    await engine.taking.close()
    await engine.membership.links.hints.close()


class EmbeddedMember:
    """One process of the embedded engine."""

    def __init__(self, site, owner, instance, *, works):
        self.instance = instance
        self.store = instance.store
        self.owner = owner
        self.renewals = Renewals(instance.leases, site.clock.time())
        self.silent = self._gone = False
        self._works = works

    async def open(self, site, host):
        member = Member(
            id=self.owner,
            kind="worker",
            works=self._works,
            lease_s=LEASE_S,
            poll_s=POLL_S,
            queue_max=QUEUE_MAX,
            queue_limits=QUEUE_LIMITS,
            tenancy=site.tenancy,
        )
        embedded = self._embedded = EmbeddedEngine(member, self.store, self.renewals, site.clock, host, Links())
        self.engine = site.wrap_engine(embedded, host)
        site.wire(self.store, host)
        await start_all(embedded.parts)

    async def stop(self):
        await drain_all(self._embedded.parts)
        await self.end()

    async def end(self):
        """Leave, unless it is gone already."""
        if not self._gone:
            self.silent = self._gone = True
            await close_all(self._embedded.parts)

    async def mute(self):
        self.silent = True
        fall_silent(self._embedded)

    async def kill(self):
        self.silent = True
        await die(self._embedded)
        self.instance.die(self.owner)
        self._gone = True


class EmbeddedSite:
    """Processes of the embedded engine over one store, under a clock that jumps."""

    notice_s = POLL_S
    takeover_s = TAKEOVER_S
    queue_max = QUEUE_MAX
    queue_limits = QUEUE_LIMITS

    def __init__(self, stores, capabilities, wrap_engine):
        self.clock = FakeClock()
        self.wrap_engine = wrap_engine
        self._stores = stores
        self._capabilities = capabilities
        self.tenancy = Tenancy(0.5)
        self._instances = []
        self._members = []

    def now(self):
        return self.clock.time()

    @staticmethod
    def wire(store, host):
        """As the wiring does."""
        store.on_lost(host.lost)

    async def join(self, owner, host_of, *, works=True):
        if not self._instances:
            self._instances.append(await self._stores.open())
        elif "shared" in self._capabilities:
            self._instances.append(await self._stores.reopen(self._instances[0]))
        else:
            refuse_second()
        member = EmbeddedMember(self, owner, self._instances[-1], works=works)
        self._members.append(member)
        await member.open(self, host_of(member.store))
        return member

    async def advance(self, seconds):
        """In steps that are shorter than the time between two renewals, each of which is waited for."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            self.clock.advance(min(STEP_S, left))
            async with asyncio.timeout(GUARD_S):
                while not all(self._has_renewed(member) for member in self._members):  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(LOOK_EVERY_S)

    def _has_renewed(self, member):
        return member.silent or self.clock.time() - member.renewals.done_at < LEASE_S / RENEWALS_PER_LEASE

    async def close(self):
        for member in self._members:
            await member.end()
        for instance in reversed(self._instances):
            await instance.close()


class Embedded:
    """The embedded engine over one of the stores."""

    site = EmbeddedSite

    def __init__(self, stores, wrap_engine=no_engine_wrap, capabilities=None):
        self.name = f"embedded, {stores.name}"
        self.capabilities = stores.capabilities if capabilities is None else capabilities
        self._stores = stores
        self._wrap_engine = wrap_engine

    async def open(self):
        return self.site(self._stores, self.capabilities, self._wrap_engine)


class FakeTime:
    """The clock of `offramp.testing`, which jumps."""

    name = "fake"
    capabilities = frozenset({"wall"})

    def __init__(self, make=FakeClock):
        self.make = make

    async def let_pass(self, clock, seconds):
        clock.advance(seconds)

    def set_wall(self, clock, epoch):
        clock.set_wall(epoch)


class SystemTime:
    """The operating system's clock."""

    name = "system"
    capabilities = frozenset()
    make = SystemClock

    async def let_pass(self, _clock, seconds):
        await asyncio.sleep(seconds)

    def set_wall(self, _clock, _epoch):
        raise NotSupported("the operating system's clock is not a test's to set; use FakeClock")


MEMORY, SQLITE = Memory(), SQLite()
EMBEDDED_SQLITE, EMBEDDED_MEMORY = Embedded(SQLITE), Embedded(MEMORY)
STORES = [SQLITE, MEMORY]
ENGINES = [EMBEDDED_SQLITE, EMBEDDED_MEMORY]
CLOCKS = [SystemTime(), FakeTime()]
ADAPTERS = [*STORES, *ENGINES, *CLOCKS]
