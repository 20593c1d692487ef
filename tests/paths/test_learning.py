"""What processes learn of ended runs: the time that a run moves, shared through the store."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from types import SimpleNamespace

import msgspec
import pytest

import offramp
from offramp import SLA, App
from offramp.core.belief import NOTES, RUNS, Belief, Progress
from offramp.core.blocks import Blocks
from offramp.core.run import Outcome, Seen
from offramp.errors import StoreError
from offramp.paths import learning
from offramp.paths.learning import OBSERVED_MAX, Learning, digest
from offramp.paths.submission import Retrial, Submission
from offramp.ports.learning import BeliefCell, SessionTurns
from offramp.ports.seams import Seams
from offramp.stores.memory import MemoryStore
from offramp.testing import FakeClock
from tests.paths import victim
from tests.paths.test_recovery import in_step_two, kill, process
from tests.paths.waiting import is_parked, until
from tests.support import GUARD_S, a_record, eventually, frames_of, member


def moving(clock):
    """Pipelines whose steps take a second each of the fake clock."""
    app = App("moving", classes=[SLA("quick", budget=2.5), SLA("patient", budget=50)])

    @app.step
    async def work(number: int) -> int:
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 1.0)
        return number

    @app.step
    async def breaks() -> None:
        await asyncio.get_running_loop().run_in_executor(None, clock.advance, 1.0)
        raise ValueError("broken")

    @app.pipeline(sla="patient")
    async def some(steps: int) -> int:
        for number in range(steps):
            await work(number)
        return steps

    @app.pipeline(sla="quick")
    async def many(steps: int) -> int:
        for number in range(steps):
            await work(number)
        return steps

    @app.pipeline(sla="patient")
    async def asks() -> int:
        await work(1)
        await offramp.signal("go")
        return await work(2)

    @app.pipeline(sla="patient")
    async def rests() -> int:
        await work(1)
        await offramp.sleep(20)
        await work(2)
        await asyncio.sleep(20)
        return await work(3)

    @app.pipeline(sla="quick")
    async def fails(after: int) -> None:
        for number in range(after):
            await work(number)
        await breaks()

    return app


@pytest.fixture
def lessons(monkeypatch):
    """What the processes of a test learn, by run."""
    lessons, begin = {}, Learning.__init__

    def begun(learned, process):
        begin(learned, process)
        learned.on_learned(lambda record, past: lessons.__setitem__(record.id, past))

    monkeypatch.setattr(Learning, "__init__", begun)
    return lessons


def asked(pipeline, respond_async=False, **given):
    return Submission(pipeline=pipeline, respond_async=respond_async, input=msgspec.json.encode(given))


async def submitted(service, submission):
    return (await service.submit(submission)).record.id


def seconds(past):
    return round(past.took_s, 1), [round(at, 1) for _, at in past.steps]


@pytest.fixture
def clock():
    return FakeClock()


async def test_a_fast_run_teaches_how_long_it_took(tmp_path, clock, lessons):
    async with member(moving(clock), tmp_path, "gateway", clock=clock) as gateway:
        run = await submitted(gateway, asked("some", steps=3))
        await frames_of(gateway, run)
        await eventually(lambda: run in lessons)
        assert seconds(lessons[run]) == (3.0, [1.0, 2.0, 3.0])
        assert gateway.live.learning.doubts("some", "patient", 2.0)
        assert not gateway.live.learning.doubts("some", "patient", 50.0)
        assert not gateway.live.learning.doubts("some", "quick", 2.0)
        estimate = gateway.live.learning.estimate("some", "patient", lessons[run].features, 2.0)
        assert estimate.runs == 1
        assert estimate.p50_s == pytest.approx(3.0, rel=0.4)


@pytest.mark.parametrize("respond_async", [True, False])
async def test_queue_and_handoff_do_not_count(tmp_path, clock, respond_async, lessons):
    app = moving(clock)
    async with member(app, tmp_path, "gateway", clock=clock, lease=600) as gateway:
        run = await submitted(gateway, asked("many", respond_async, steps=5))
        await eventually(lambda: gateway.live.get(run) is None)
        clock.advance(100.0)
        async with member(app, tmp_path, "worker", clock=clock, lease=600):
            await clock.run_until(frames_of(gateway, run), 0.01)
            await eventually(lambda: run in lessons)
            took, ends = seconds(lessons[run])
    assert 5.0 <= took < 6.0
    assert ends == pytest.approx([1.0, 2.0, 3.0, 4.0], abs=0.9)


@contextlib.asynccontextmanager
async def local(app, tmp_path, clock):
    async with member(app, tmp_path, "local", clock=clock, lease=600) as service:
        yield service


@pytest.mark.parametrize("respond_async", [True, False])
async def test_a_wait_for_a_signal_does_not_count(tmp_path, clock, respond_async, lessons):
    async with local(moving(clock), tmp_path, clock) as service:
        run = await submitted(service, asked("asks", respond_async))
        if respond_async:
            await until(lambda: is_parked(service, run), clock)
        else:
            await until(lambda: service.live.get(run).execution.scope.waits.until() is not None)
        clock.advance(30.0)
        await service.signal(run, "go")
        await clock.run_until(frames_of(service, run), 0.01)
        await eventually(lambda: run in lessons)
        took, ends = seconds(lessons[run])
    assert 2.0 <= took < 3.0
    assert ends == pytest.approx([1.0, 2.0], abs=0.9)


@pytest.mark.parametrize("respond_async", [True, False])
async def test_own_sleeps_count_once_parked_or_not(tmp_path, clock, respond_async, lessons):
    async with local(moving(clock), tmp_path, clock) as service:
        run = await submitted(service, asked("rests", respond_async))
        await clock.run_until(frames_of(service, run), 0.1)
        await eventually(lambda: run in lessons)
        assert seconds(lessons[run])[0] == pytest.approx(43.0, abs=1.5)


async def test_a_run_without_an_answer_teaches_if_it_missed_its_budget(tmp_path, clock, lessons):
    async with local(moving(clock), tmp_path, clock) as service:
        early = await submitted(service, asked("fails", after=0))
        await frames_of(service, early)
        late = await submitted(service, asked("fails", after=3))
        await clock.run_until(frames_of(service, late), 0.01)
        await eventually(lambda: late in lessons)
        assert seconds(lessons[late])[0] == pytest.approx(4.0, abs=0.5)
        again = (await service.retry(Retrial(run_id=late, start="breaks"))).record.id
        whole = await submitted(service, asked("some", steps=1))
        for run in (again, whole):
            await clock.run_until(frames_of(service, run), 0.01)
        await eventually(lambda: whole in lessons)
    assert lessons.keys() == {late, whole}


class Slow:
    """A seam that admits a step after ten seconds of the fake clock."""

    def __init__(self, clock):
        self._clock = clock

    async def admit(self, asked, says):
        await asyncio.get_running_loop().run_in_executor(None, self._clock.advance, 10.0)
        return lambda: None


async def test_a_wait_for_a_permit_does_not_count(tmp_path, clock, lessons):
    seams = Seams(before=(Slow(clock),))
    async with member(moving(clock), tmp_path, "gateway", clock=clock, seams=seams, lease=600) as gateway:
        run = await submitted(gateway, asked("some", steps=3))
        await frames_of(gateway, run)
        await eventually(lambda: run in lessons)
        assert seconds(lessons[run]) == (3.0, [1.0, 2.0, 3.0])


async def test_a_run_recovered_after_a_kill_counts_what_was_executed(tmp_path, monkeypatch, lessons):
    monkeypatch.setattr(victim, "folder", tmp_path)
    async with member(victim.app, tmp_path, "gateway", owner="gateway", lease=0.5, poll=0.1) as gateway:
        with process(tmp_path, "gateway", "first", "fast_five", lease_s=0.5) as first:
            [run] = first.runs
            await in_step_two(gateway, run)
            await kill(first)
        killed = time.time()
        (tmp_path / "go").touch()
        await asyncio.to_thread(time.sleep, 0.3)
        gap_s = time.time() - killed
        async with member(victim.app, tmp_path, "worker", owner="second", lease=0.5, poll=0.1):
            await frames_of(gateway, run)
            await eventually(lambda: run in lessons)
            record = await gateway.get(run)
    assert 0 < lessons[run].took_s <= record.finished_at - record.created_at - gap_s
    assert [name for name, _ in lessons[run].steps] == ["work"] * 4


def short():
    app = App("short", classes=[SLA("certain", early_demotion=0)])

    @app.pipeline
    async def pipe() -> str:
        return "done"

    return app


async def test_a_run_is_stored_with_what_it_is_compared_by(tmp_path, monkeypatch):
    monkeypatch.setattr("offramp.paths.entry.FEATURES_S_MAX", 10.0)
    app = short()

    @app.pipeline
    async def described(text: str) -> str:
        return text

    @described.features
    def words(text):
        return {"words": len(text.split())}

    async with member(app, tmp_path, "gateway") as gateway:
        given = {"pipeline": "described", "input": b'{"text": "two words"}'}
        asked = {
            "of a session": Submission(**given, session_id="s"),
            "deep": Submission(**given, respond_async=True),
            "where no decision is asked for": Submission(**given, session_id="s", sla="certain"),
            "without anything": Submission(pipeline="pipe"),
        }
        lessons = {}
        for what, submission in asked.items():
            lessons[what] = (await gateway.get(await submitted(gateway, submission))).seen
    assert lessons == {
        "of a session": Seen(0, (), {"words": 2}),
        "deep": Seen(None, (), {"words": 2}),
        "where no decision is asked for": None,
        "without anything": None,
    }


@pytest.mark.parametrize("sla", [None, "certain"])
async def test_a_route_shows_what_is_expected_once_a_run_has_ended(tmp_path, clock, sla):
    async with member(short(), tmp_path, "gateway", clock=clock) as gateway:
        submission = Submission(pipeline="pipe", sla=sla)
        routes, learned = [], gateway.live.learning
        for runs in (1, 2):
            run = await submitted(gateway, submission)
            await frames_of(gateway, run)
            await eventually(lambda runs=runs: learned.expected("pipe", sla or "default", 6.0).runs == runs)
            routes.append((await gateway.document(run))["route"])
        before, after = routes
        dry = await gateway.decide(submission)
    assert (before["predicted_ms"], before["confidence"]) == (None, 0)
    assert (after["path"], after["by"], after["confidence"]) == ("fast", "default", 1)
    assert after["predicted_ms"]["p50"] < after["predicted_ms"]["p95"] < 100
    assert dry.confidence == 2


async def test_gateways_share_one_belief_and_a_restart_keeps_it(tmp_path, monkeypatch):
    assert 2 * learning.SHARE_EVERY_S < 10
    monkeypatch.setattr(learning, "SHARE_EVERY_S", 0.01)

    def runs(*services):
        return [round(service.live.learning.belief("pipe", "default").runs) for service in services]

    async with member(short(), tmp_path, "gateway") as one, member(short(), tmp_path, "gateway") as other:
        for service in (one, one, other):
            await frames_of(service, await submitted(service, asked("pipe")))
        await eventually(lambda: runs(one, other) == [3, 3])
        await frames_of(other, await submitted(other, asked("pipe")))
    async with member(short(), tmp_path, "gateway") as later:
        await eventually(lambda: runs(later) == [4])


async def test_a_process_learns_from_a_bounded_number_of_runs(tmp_path, clock, lessons):
    async with member(short(), tmp_path, "gateway", clock=clock) as gateway:
        for _ in range(OBSERVED_MAX + 10):
            await frames_of(gateway, await submitted(gateway, asked("pipe")))
        await eventually(lambda: len(lessons) == OBSERVED_MAX)
        await frames_of(gateway, await submitted(gateway, asked("pipe")))
    assert len(lessons) == OBSERVED_MAX


def sessions(service):
    async def seen(session="s", tenant=""):
        return await service.live.learning.seen(tenant, "pipe", session)

    return seen


async def test_a_session_is_known_wherever_its_next_turn_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(learning, "SHARE_EVERY_S", 0.01)
    async with member(short(), tmp_path, "gateway") as one, member(short(), tmp_path, "gateway") as other:
        here, there = sessions(one), sessions(other)
        assert await here() == await there() == Seen(0)
        for turns, service in enumerate((one, other, other), 1):
            submission = Submission(pipeline="pipe", session_id="s")
            await frames_of(service, await submitted(service, submission))

            async def known(turns=turns):
                return [(await seen()).turns for seen in (here, there)] == [turns, turns]

            await eventually(known)
        assert len((await here()).last_s) == 3
        assert await here("another") == await here("s", "another tenant") == Seen(0)


class Alone:
    """As much of a process as learning needs."""

    def __init__(self, store, clock, names=()):
        self.store, self.clock = store, clock
        spec = SimpleNamespace(signature=SimpleNamespace(declared=frozenset()))
        self.pipelines, self.classes = dict.fromkeys(names, spec), dict.fromkeys(names)
        self.control = self

    def call(self, callback, *given):
        callback(*given)


class Flaky(MemoryStore):
    """A store that refuses half of what it is asked, and has small pages."""

    def __init__(self, random):
        super().__init__()
        self.random = random
        self.is_well = False

    def _refuse(self):
        if not self.is_well and self.random.random() < 0.5:
            raise StoreError("not now")

    async def learn(self, cells, turns):
        self._refuse()
        await super().learn(cells, turns)

    async def learned(self, after, limit):
        self._refuse()
        return await super().learned(after, self.random.randint(1, 5))


@pytest.mark.parametrize("seed", range(20))
async def test_nothing_is_lost_or_counted_twice_whatever_the_store_refuses(seed, clock, monkeypatch):
    chance = random.Random(seed)
    monkeypatch.setattr(learning, "CELLS_PER_WRITE", chance.randint(1, 5))
    store = Flaky(chance)
    processes = [Learning(Alone(store, clock, ["p", "q"])) for _ in range(3)]
    counted = [Blocks() for _ in processes]
    for each, counts in zip(processes, counted, strict=True):
        each.share("p", "q", "counts", counts)
    runs = {"p": 0, "q": 0}
    for _ in range(60):
        number = chance.randrange(3)
        with contextlib.suppress(StoreError):
            await processes[number].sync()
        record = a_record(pipeline=chance.choice("pq"), sla="q", input=b'{"n": %d}' % chance.randint(0, 9))
        progress = Progress(2.0, (("one", 0.5),))
        processes[chance.randrange(3)].ended(record, Outcome("completed"), progress)
        counted[number].add(7, {"all": {record.pipeline: 1.0}})
        runs[record.pipeline] += 1
        clock.advance(chance.choice([1, 60, 600]))
    processes.append(Learning(Alone(store, clock, ["p", "q"])))
    store.is_well = True
    for each in processes * 3:  # what a write left over, what has come since, what others have written
        await each.sync()
    whole = [cell for cell in (await MemoryStore.learned(store, 0, 100_000)).cells if cell.name == NOTES]
    stored = {name: sum(cell.weights[RUNS] for cell in whole if cell.pipeline == name) for name in runs}
    assert stored == runs
    for pipeline, expected in runs.items():
        believed = [each.belief(pipeline, "q").runs for each in processes]
        assert believed == [pytest.approx(expected, rel=0.02)] * 4, "older ones count a little less"
    assert [{name: each.sum(7, "all", name) for name in runs} for each in counted] == [runs] * 3


async def test_an_error_that_no_code_expects_ends_neither_sharing_nor_the_last_write(clock, monkeypatch, caplog):
    store = MemoryStore()
    one = Learning(Alone(store, clock, ["p"]))
    failing = iter([TypeError("a page that cannot be read"), TypeError("another")])

    async def learned(after, limit):
        if (error := next(failing, None)) is not None:
            raise error
        one.is_over = True
        return await MemoryStore.learned(store, after, limit)

    monkeypatch.setattr(store, "learned", learned)
    await clock.run_until(one.work(), learning.SHARE_EVERY_S)
    record = a_record(pipeline="p", sla="p", input=b"{}")
    one.on_learned(lambda record, _past: 1 / (record.session_id != "broken"))
    for session in ("broken", None):
        one.ended(msgspec.structs.replace(record, session_id=session), Outcome("completed"), Progress(2.0))
    await one.close()
    stored = (await MemoryStore.learned(store, 0, 9)).cells
    assert [cell.weights for cell in stored if cell.name == NOTES] == [{RUNS: 1.0}]
    assert [each.message for each in caplog.records] == [
        *["what is known about the durations of runs is not up to date"] * 2,
        "a run was not learned from",
    ]


async def is_not_shared_or_believed(store, clock):
    cells = [BeliefCell("p", "p", 7, name, {"2": weight}) for name, weight in (("|", 3.0), ("|n:a:1", math.nan))]
    await store.learn(cells, [])
    await store.learn(cells, [])
    one, counts = Learning(Alone(store, clock, ["p"])), Blocks()
    one.share("p", "p", "counts", counts)
    counts.add(7, {"all": {"open": math.nan}, "some": {"open": 1.0}})
    await one.sync()
    await one.sync()
    assert (one.belief("p", "p").runs, one.belief("p", "p").cells) == (6.0, 1)
    assert [cell.name for cell in (await store.learned(0, 9)).cells if cell.sla == "p#counts"] == ["some"]


async def test_what_is_no_number_is_neither_shared_nor_believed(clock, tmp_path):
    await is_not_shared_or_believed(MemoryStore(), clock)
    async with member(short(), tmp_path, "gateway") as service:
        await is_not_shared_or_believed(service.process.store, clock)


async def test_how_features_are_believed_together_is_learned_from_budgets(clock):
    store = MemoryStore()
    one = Learning(Alone(store, clock, ["p"]))
    pasts = []
    one.on_learned(lambda _record, past: pasts.append(past))
    for budget_s, session in ((6.0, None), (0.0, "s")):
        record = a_record(pipeline="p", sla="p", tenant="acme", budget_s=budget_s, session_id=session)
        one.ended(record, Outcome("completed"), Progress(2.0))
    assert [past.budget_s for past in pasts] == [6.0, None]
    assert [past.sources for past in pasts] == [("acme", ""), ("acme", digest("acme", "p", "s"))]


async def test_a_process_keeps_no_more_cells_than_a_store(clock, monkeypatch):
    monkeypatch.setattr(learning, "CELLS_KEPT", 50)
    one, counts = Learning(Alone(MemoryStore(), clock, ["p"])), Blocks()
    one.share("p", "p", "counts", counts)
    for block in range(10):
        counts.add(block, {f"cell {number}": {"2": 1.0} for number in range(12)})
        await one.sync()
    assert counts.numbers() == [9, 8, 7, 6]


async def test_many_cells_that_others_changed_are_added_without_summing_all_anew(clock, monkeypatch):
    store = MemoryStore()
    one, other = (Learning(Alone(store, clock, ["p"])) for _ in range(2))

    def learn(value):
        given = {f"field{number}": value for number in range(4)}
        record = a_record(pipeline="p", sla="p", input=msgspec.json.encode(given))
        one.ended(record, Outcome("completed"), Progress(2.0, tuple((f"step{number}", 0.5) for number in range(4))))

    learn("a")
    for each in (one, other):
        await each.sync()
    for number in range(OBSERVED_MAX):
        learn(f"value{number}")
    await one.sync()
    monkeypatch.setattr(Belief, "replace", None)
    await other.sync()
    one_has, other_has = (each.belief("p", "p") for each in (one, other))
    assert one_has.cells == other_has.cells > 500
    assert one_has.runs == other_has.runs == OBSERVED_MAX


class Hung:
    """A store that does not answer."""

    def __init__(self):
        self.asked = 0

    async def turns_of(self, _session):
        self.asked += 1
        await asyncio.Event().wait()


class Refusing:
    """A store that refuses."""

    async def turns_of(self, _session):
        raise StoreError("the disk is gone")


@pytest.mark.parametrize("store", [Hung(), Refusing()])
async def test_a_request_does_not_wait_for_a_store_that_does_not_know(store, clock):
    async with asyncio.timeout(GUARD_S):
        assert await Learning(Alone(store, clock)).seen("", "pipe", "s") is None


class Counting:
    """A store that knows one session."""

    def __init__(self):
        self.asked = []

    async def turns_of(self, session):
        self.asked.append(session)
        return SessionTurns(session, 7, (1.0,)) if session == digest("", "pipe", "old") else None


async def test_a_known_session_is_not_looked_up_again_and_few_are_remembered(clock, monkeypatch):
    monkeypatch.setattr(learning, "SESSIONS_CACHED", 2)
    store = Counting()
    learned = Learning(Alone(store, clock))
    for _ in range(3):
        assert await learned.seen("", "pipe", "old") == Seen(7, (1.0,))
        assert await learned.seen("", "pipe", "new") == Seen(0)
    assert len(store.asked) == 2
    await learned.seen("", "pipe", "third")
    await learned.seen("", "pipe", "new")
    await learned.seen("", "pipe", "old")
    assert len(store.asked) == 4, "the one that was asked for longest ago was forgotten"
