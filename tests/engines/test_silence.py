"""A process that was stopped for longer than its lease repeats nothing, and does not call others silent for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offramp import App
from offramp.engines.leased.lease_keeper import LeaseKeeper
from offramp.errors import StoreError
from offramp.paths.submission import Submission
from offramp.testing import FakeClock
from tests.support import (
    GUARD_S,
    Files,
    Signal,
    a_record,
    accepted,
    assert_one_log,
    eventually,
    frames_of,
    know_each_other,
    let_leases_pass,
    member,
)

LEASE_S = 10.0


class Ledger:
    """What a keeper asks of the leases, round by round; `renewing` runs inside each renewal."""

    def __init__(self):
        self.rounds = threading.Semaphore(0)
        self.judged = []
        self.blamed = []
        self.renewing = lambda: None

    def renew(self, owner, expires_at):
        try:
            self.renewing()
        except StoreError:
            self.rounds.release()
            raise
        return True, []

    def expire(self, now, *, blames):
        self.judged.append(now)
        self.blamed.append(blames)
        return []

    def renewed(self, **_):
        self.rounds.release()


@pytest.fixture
def keeper():
    clock, ledger = FakeClock(), Ledger()
    made = LeaseKeeper(ledger, clock, "me", LEASE_S, ledger.renewed)
    made.start()

    def after(seconds):
        """How many rounds judged others, once one more is over, this long after the last."""
        clock.advance(seconds)
        assert ledger.rounds.acquire(timeout=GUARD_S)
        return len(ledger.judged)

    after.clock, after.ledger = clock, ledger
    yield after
    made.close()


def test_whoever_renews_in_time_releases_what_silent_processes_held(keeper):
    assert [keeper(LEASE_S / 3) for _ in range(3)] == [1, 2, 3]


def test_whoever_was_silent_from_its_start_lets_the_others_renew_first(keeper):
    assert [keeper(LEASE_S * 2), keeper(LEASE_S / 3)] == [0, 0]


def test_whoever_was_silent_itself_lets_the_others_renew_first(keeper):
    assert keeper(LEASE_S / 3) == 1
    assert keeper(LEASE_S * 2) == 1
    assert [keeper(LEASE_S / 3) for _ in range(4)] == [1, 1, 2, 3]


def test_whoever_is_always_late_still_releases_what_others_held(keeper):
    assert [keeper(LEASE_S * 2) for _ in range(4)] == [0, 1, 1, 2]


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_nobody_is_called_silent_because_the_wall_clock_jumped(keeper, jump):
    assert keeper(LEASE_S / 3) == 1
    keeper.clock.set_wall(keeper.clock.time() + jump)
    assert [keeper(LEASE_S / 3) for _ in range(5)] == [1, 1, 1, 2, 3]


def test_silence_counts_as_a_death_while_the_store_does_what_it_should(keeper):
    assert [keeper(LEASE_S / 3) for _ in range(3)] == [1, 2, 3]
    assert keeper.ledger.blamed == [True] * 3


def test_no_run_is_blamed_for_silence_while_renewals_have_to_wait_for_the_store(keeper):
    waits_s = [LEASE_S / 2]
    keeper.ledger.renewing = lambda: waits_s and keeper.clock.advance(waits_s.pop())
    keeper(LEASE_S / 3)
    assert keeper.ledger.rounds.acquire(timeout=GUARD_S)  # the next one was due while that one waited
    for _ in range(4):
        keeper(LEASE_S / 3)
    assert keeper.ledger.blamed == [False] * 4 + [True] * 2


def test_no_run_is_blamed_for_silence_after_a_renewal_that_failed(keeper):
    def fails():
        raise StoreError("the disk is full")

    keeper.ledger.renewing = fails
    assert keeper(LEASE_S / 3) == 0
    keeper.ledger.renewing = lambda: None
    for _ in range(4):
        keeper(LEASE_S / 3)
    assert keeper.ledger.blamed == [False, False, True, True]


async def test_a_process_that_lost_its_lease_unnoticed_starts_no_step(tmp_path):
    app, begun, gate, executed, clock = App("silent"), Signal(), Signal(), [], FakeClock()

    @app.step
    async def first() -> None:
        executed.append("first")
        begun.set()
        await gate.wait()

    @app.step
    async def second() -> None:
        executed.append("second")

    @app.pipeline
    async def pipe() -> None:
        await first()
        await second()

    files = Files(tmp_path)
    try:
        async with member(app, tmp_path, "gateway", clock=clock) as gateway:
            run = (await gateway.submit(Submission(pipeline="pipe"))).record.id
            await begun.wait()
            # What a SIGSTOP does: time passes for all other processes, and its own renewals stand still.
            gateway.engine.membership.keeper.close()
            gateway.process.lease_window.extend(clock.monotonic())
            await files.leases.retire(gateway.id)
            [claim] = await files.leases.claim("other", 1, ["pipe"], clock.time())
            gate.set()
            await eventually(lambda: not gateway.live.all())
            assert executed == ["first"]
            assert claim.record.id == run
            assert await files.store.journal(run) == []
    finally:
        await files.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0])
@pytest.mark.parametrize("asked", [{}, {"respond_async": True}], ids=["fast", "deep"])
async def test_a_wall_clock_that_jumps_ends_no_run_and_repeats_no_step(tmp_path, jump, asked):
    app, begun, gate, executed, clock = App("jumping"), Signal(), Signal(), [], FakeClock()

    @app.step
    async def step(n: int) -> int:
        executed.append(n)
        begun.set()
        await gate.wait()
        return n

    @app.pipeline
    async def pipe() -> list[int]:
        return [await step(n) for n in range(3)]

    async with (
        member(app, tmp_path, "gateway", clock=clock, lease=LEASE_S) as gateway,
        member(app, tmp_path, "worker", clock=clock, lease=LEASE_S) as worker,
    ):
        await know_each_other(gateway, worker)
        run = (await gateway.submit(Submission(pipeline="pipe", budget=60.0, **asked))).record.id
        await begun.wait()
        clock.set_wall(clock.time() + jump)
        await let_leases_pass(clock, LEASE_S, gateway, worker)
        gate.set()
        assert_one_log(await frames_of(gateway, run))
        record = await gateway.get(run)
    assert (record.status, executed) == ("completed", [0, 1, 2])


async def test_a_process_that_takes_a_run_again_which_it_lost_unnoticed_executes_it_once(tmp_path):
    app, begun, gate, executed = App("again"), [Signal(), Signal()], Signal(), []

    @app.step
    async def first() -> None:
        executed.append("first")
        begun[len(executed) - 1].set()
        await gate.wait()

    @app.step
    async def second() -> None:
        executed.append("second")

    @app.pipeline
    async def pipe() -> None:
        await first()
        await second()

    files = Files(tmp_path)
    try:
        async with (
            member(app, tmp_path, "gateway", lease=600) as gateway,
            member(app, tmp_path, "worker", lease=600, poll=0.05) as worker,
        ):
            run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
            await begun[0].wait()
            await files.leases.retire(worker.id)
            await begun[1].wait()  # the step in flight again, by the same process under a newer lease
            gate.set()
            assert_one_log(await frames_of(gateway, run))
            assert executed == ["first", "first", "second"]
            await eventually(lambda: worker.live.count("deep") == 0)
    finally:
        await files.close()


async def test_a_process_that_may_have_been_given_up_takes_nothing(tmp_path):
    app = App("careful")

    @app.pipeline
    async def pipe() -> None:
        pass

    async with (
        member(app, tmp_path, "gateway", lease=600) as gateway,
        member(app, tmp_path, "worker", lease=600, poll=0.05) as worker,
    ):
        worker.engine.seat.hold(0.0)
        run = (await gateway.submit(Submission(pipeline="pipe", respond_async=True))).record.id
        await asyncio.sleep(0.2)  # several polls
        assert (await gateway.get(run)).status == "queued"
        worker.engine.membership.renewed(held_until=worker.process.clock.monotonic() + 600, cancels=[], expired=[])
        assert_one_log(await frames_of(gateway, run))


class Thief:
    """Takes a run away from a process while that waits for its store, and gives the process the time to forget it."""

    def __init__(self, files, clock):
        self.files = files
        self.clock = clock
        self.taken = []
        self.victim = None

    async def strike(self):
        if self.taken:
            return
        self.clock.advance(2 * LEASE_S)
        await self.files.leases.retire(self.victim.id)
        self.taken += await self.files.leases.claim("thief", 1, ["pipe"], self.clock.time())
        assert self.taken, "there was nothing to take"
        await self.victim.process.control.run(self.victim.engine.membership.rejoin())
        assert self.victim.process.lease_window.holds(self.clock.monotonic())

    def around(self, call):
        """The call, and then the theft before its answer is heard."""

        async def struck(*args):
            answer = await call(*args)
            await self.strike()
            return answer

        return struck

    def behind(self, create):
        """The same, of a run that is created."""

        def struck(*args, **options):
            commit, log = create(*args, **options)
            return Struck(commit, self.strike), log

        return struck


class Struck:
    def __init__(self, commit, strike):
        self._commit, self._strike = commit, strike

    def __await__(self):
        return self._wait().__await__()

    async def _wait(self):
        created = await self._commit
        await self._strike()
        return created


async def nothing(*_):
    return []


@pytest.mark.parametrize("while_it", ["claims", "reads", "starts", "accepts"])
async def test_a_run_that_is_taken_away_on_its_way_in_is_not_executed(tmp_path, monkeypatch, while_it):
    app, executed, clock = App("robbed"), [], FakeClock()

    @app.step
    async def step() -> None:
        executed.append("step")

    @app.pipeline
    async def pipe() -> None:
        await step()

    @app.pipeline
    async def another() -> None:
        """Executes behind it, on the same loop."""
        await asyncio.sleep(0)

    files = Files(tmp_path)
    thief = Thief(files, clock)
    role = "gateway" if while_it == "accepts" else "local"
    try:
        async with (
            member(app, tmp_path, "gateway", clock=clock, lease=LEASE_S) as gateway,
            member(app, tmp_path, role, clock=clock, lease=LEASE_S) as victim,
        ):
            await know_each_other(gateway, victim)
            thief.victim = victim
            asked = Submission(pipeline="pipe", respond_async=while_it != "accepts", idempotency_key="once")
            store, leases = victim.process.store, victim.engine.leases
            # That a write was refused is heard too late.
            monkeypatch.setattr(store.writer, "on_lost", lambda _: None)
            if while_it == "claims":
                monkeypatch.setattr(leases, "claim", thief.around(leases.claim))
            elif while_it == "reads":
                monkeypatch.setattr(store, "journal", thief.around(store.journal))
            else:
                monkeypatch.setattr(store, "create", thief.behind(store.create))
                monkeypatch.setattr(leases, "claim", nothing)  # the victim must not be quicker than the thief
            taker = victim if while_it in {"starts", "accepts"} else gateway
            if while_it == "reads":  # nothing is read of a run that no process has executed
                record = a_record(pipeline="pipe")
                commit, log = files.store.create(record, accepted(record), owner="before", durable=True)
                await commit
                await files.leases.release(log.lease)
                gateway.engine.taking.announce()
            else:
                await taker.submit(asked)
            await eventually(lambda: thief.taken)
            behind = (await victim.submit(Submission(pipeline="another"))).record.id
            assert_one_log(await frames_of(victim, behind))
            assert executed == []
    finally:
        await files.close()
