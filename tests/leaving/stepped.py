"""What a simulated process runs on: loops whose calls the test makes, and its end of a store whose writes it commits.

Nothing here has a thread, a socket or a clock of its own, so that one order of events is one execution.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import NamedTuple

from offramp.engines.leased.lease_keeper import LeaseKeeper
from offramp.errors import StoreError
from offramp.execution.body_loop import give_body_timers
from offramp.execution.loops import LoopThread, RunLoop
from offramp.ports.commit import Commit
from offramp.ports.store import Lease
from offramp.stores.memory import MemoryStore


class SteppedLoop(asyncio.BaseEventLoop):
    """An event loop that makes a call when it is asked to; its time is a clock's.

    Args:
        clock: the time.
        member: the process it belongs to.
    """

    def __init__(self, clock, member):
        super().__init__()
        self._clock_of_test = clock
        self.member = member
        self._thread_id = threading.get_ident()

    def time(self):
        return self._clock_of_test.monotonic()

    def is_running(self):
        return asyncio._get_running_loop() is self

    def _write_to_self(self):
        """No selector has to be woken."""

    def _process_events(self, _events):
        """No socket is looked at."""

    def step(self):
        """Make the next call; False where there is none."""
        while self._scheduled and (self._scheduled[0]._cancelled or self._scheduled[0]._when <= self.time()):
            handle = self._scheduled.pop(0)
            self._scheduled.sort()
            handle._scheduled = False
            if not handle._cancelled:
                self._ready.append(handle)
        while self._ready:
            handle = self._ready.popleft()
            if handle._cancelled:
                continue
            before = asyncio._get_running_loop()
            asyncio._set_running_loop(self)
            try:
                handle._run()
            finally:
                asyncio._set_running_loop(before)
            return True
        return False

    def end(self):
        """Throw away what it had to do."""
        for _ in range(10):
            for task in asyncio.all_tasks(self):
                task.cancel()
            for _ in range(1000):
                if not self.step():
                    break
        self.close()


def stepped(kind, clock, member, *, body_timers=False):
    """A class of loop threads without threads: `LoopThread` or `RunLoop`."""

    def new_loop():
        loop = SteppedLoop(clock, member)
        if body_timers:
            give_body_timers(loop)
        return loop

    class Stepped(kind):
        def start(self):
            """The test makes the calls."""

    Stepped.new_loop = staticmethod(new_loop)
    return Stepped


def control_loop(clock, member):
    return stepped(LoopThread, clock, member)(f"{member.name}-control")


def run_loops(clock, member):
    """What makes the run loops of a process."""
    return stepped(RunLoop, clock, member, body_timers=True)


class SteppedKeeper(LeaseKeeper):
    """Renews when the test says so."""

    def start_thread(self):
        """The test calls `renew`."""


class OwnClock:
    """A clock as one process has it: after the death of that process it makes no call any more."""

    def __init__(self, clock):
        self._clock = clock
        self.time, self.monotonic = clock.time, clock.monotonic
        self.random, self.random_bytes = clock.random, clock.random_bytes
        self.is_dead = False

    def call_at(self, when, callback):
        return self._clock.call_at(when, lambda: None if self.is_dead else callback())


class Hints:
    """Between the processes of one world: each hint is a call on the other's control loop."""

    port = 0

    def __init__(self, member):
        self._member = member
        self.hearer = None
        self._lost = None

    def lose(self):
        """No hint reaches this process any more, until `hear`."""
        self._lost = self._lost or self.hearer
        self.hearer = None

    def hear(self):
        self.hearer = self.hearer or self._lost

    async def open(self, hearer):
        self.hearer = hearer

    def send(self, kind, ids=()):
        for other in self._member.world.alive():
            if other is not self._member and other.hints.hearer is not None:
                other.control.call(other.hints.hearer.hinted, kind, list(ids))

    def peers(self, _owners):
        """All are known."""

    def follow(self, _run_id):
        """Everything is heard."""

    unfollow = follow

    async def close(self):
        self.hearer = None


def now(coroutine):
    """The result of a coroutine of the store in memory, which never waits."""
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(before or _NO_LOOP)
    try:
        coroutine.send(None)
    except StopIteration as ended:
        return ended.value
    finally:
        asyncio._set_running_loop(before)
    raise AssertionError("the store in memory waited")


_NO_LOOP = object()
"""In place of a running loop, which a commit asks for also where it need not wait."""


class Operation(NamedTuple):
    """Something that a process asked of its store. A request is refused where the disk is full, the rest kept."""

    name: str
    lease: object
    apply: object
    commit: Commit
    is_request: bool


class SteppedStore:
    """One process's end of a store: what it asks for waits, in order, until the test commits it.

    As in the stores that are on a disk: one queue for all writes; what is not committed dies with the process; reads
    see what is committed.

    Args:
        memory: what all processes share.
        member: the process.
        watch: is shown every write when it is asked for, and its outcome.
    """

    def __init__(self, memory, member, watch):
        self._memory = memory
        self._member = member
        self._watch = watch
        self._queue = deque()
        self._reads = deque()
        self._listeners = []
        self._lost = lambda _lease: None
        self.is_dead = False

    # What the test does.

    @property
    def pending(self):
        return len(self._queue) + len(self._reads)

    def commit(self, most=None):
        """Commit the first operations together, then answer what was asked; False where there was nothing."""
        count = len(self._queue) if most is None else min(most, len(self._queue))
        taken = [self._queue.popleft() for _ in range(count)]
        lost, visible, resolved = [], [], []
        self._memory.on_lost(lost.append)
        self._memory.visible = visible
        for operation in taken:
            made = operation.apply()
            resolved.append((operation, made))
        for lease in lost:
            self._watch.refused(lease)
            self._lost(lease)
        for operation, (value, error) in resolved:
            self._watch.committed(self._member, operation, value, error)
            operation.commit.resolve(value, error)
        self._watch.visible(visible)
        for listener in self._listeners if visible else ():
            listener(list(visible))
        reads, self._reads = self._reads, deque()
        for commit, read in reads:
            commit.resolve(read())
        return bool(taken or reads)

    def refuse(self):
        """The disk is full for a moment: requests are refused, what belongs to accepted runs is kept."""
        waiting, self._queue = self._queue, deque()
        for operation in waiting:
            if operation.is_request:
                self._watch.not_made(operation)
                operation.commit.resolve(error=StoreError("the disk is full"))
            else:
                self._queue.append(operation)
        return len(waiting) > len(self._queue)

    def die(self):
        self.is_dead = True
        self._queue.clear()
        self._reads.clear()

    # What the process asks for.

    def ask(self, name, lease, apply, *, request=False):
        commit = Commit()
        if not self.is_dead:
            self._watch.asked(self._member, name, lease)
            self._queue.append(Operation(name, lease, apply, commit, request))
        return commit

    def listen(self, listener):
        self._listeners.append(listener)

    def on_lost(self, callback):
        self._lost = callback

    def trouble(self):
        return None

    def create(self, record, event, *, owner, durable, idempotency=None, entries=(), signals=()):
        lease = None if owner is None else Lease(record.id, owner, 1)
        log = None if lease is None else self.log(lease)

        def apply():
            given = {"owner": owner, "durable": durable, "idempotency": idempotency}
            return _outcome(self._memory.create(record, event, **given, entries=entries, signals=signals)[0])

        return self.ask("create", lease, apply, request=True), log

    def log(self, lease):
        return SteppedLog(self, self._memory.log(lease))

    def adopt(self, lease, demotion):
        return self.ask("adopt", lease, lambda: _outcome(self._memory.adopt(lease, demotion)), request=True)

    def renew(self, owner, expires_at):
        return self._memory.renew(owner, expires_at)

    def expire(self, now, *, blames=True):
        owners = self._memory.expire(now, blames=blames)
        for owner in owners:
            self._watch.taken(owner, "silence")
        return owners

    def leave(self):
        """Nothing to close."""

    async def close(self):
        """The world ends all at once."""

    async def release(self, lease, parked=None):
        await self._call("release", lease, lambda: self._memory.release(lease, parked))

    async def retire(self, owner):
        return await self._call("retire", owner, lambda: self._memory.retire(owner))

    async def _call(self, name, lease, call):
        def apply():
            try:
                return now(call()), None
            except Exception as error:  # noqa: BLE001 - it is the answer
                return None, error

        return await self.ask(name, lease, apply, request=True)

    async def _read(self, read):
        commit = Commit()
        if not self.is_dead:
            self._reads.append((commit, lambda: now(read())))
        return await commit

    def __getattr__(self, name):
        method = getattr(self._memory, name)
        if name in _READS:
            return lambda *given, **named: self._read(lambda: method(*given, **named))
        if name in _CALLS:
            return lambda *given, **named: self._call(name, None, lambda: method(*given, **named))
        raise AttributeError(name)


_READS = {"get", "journal", "events", "signals", "ahead", "owners", "open_runs", "holder", "queued", "overdue", "runs"}
_READS |= {"summed_cells", "unfinished", "due", "runs_of_key", "learned", "turns_of"}
_CALLS = {"register", "claim", "claim_one", "send_signal", "request_cancel", "add_cells", "purge", "sweep"}
_CALLS |= {"take_duty", "describe", "learn", "forget"}


class SteppedLog:
    """The log of a run at such a store."""

    def __init__(self, store, log):
        self._store = store
        self._log = log
        self.lease = log.lease

    def append(self, entry, event, *, durable=False):
        name = "append" if event is None else event.type
        self._store.ask(name, self.lease, lambda: (self._log.append(entry, event), None))

    def durable(self):
        return self._store.ask("durable", self.lease, lambda: _outcome(self._log.durable()))

    def survived(self):
        self._store.ask("survived", self.lease, lambda: (self._log.survived(), None))

    def finish(self, outcome, event, at):
        return self._store.ask("finish", self.lease, lambda: _outcome(self._log.finish(outcome, event, at)))


class SharedMemory(MemoryStore):
    """The store in memory, and what became visible in it."""

    def __init__(self):
        super().__init__()
        self.visible = []
        self.listen(lambda batches: self.visible.extend(batches))  # noqa: PLW0108 - another list each time


def _outcome(commit):
    """The outcome of a commit of the store in memory, which resolves at once."""
    made = []
    commit.then(lambda each: made.append((each._value, each.error)))
    return made[0]
