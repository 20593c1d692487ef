"""A run says what it waits for, asks for an answer of a schema, and takes no other."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import offramp
from offramp import App
from offramp.core.events import Frame, WaitEnded, WaitStarted, draft, frame
from offramp.core.question import Question
from offramp.core.timestamps import rfc3339
from offramp.core.waits import WAITS_SHOWN_MAX
from offramp.errors import InputError, SignalTimeout
from offramp.paths.signalling import is_awaited
from offramp.ports.listing import RunFilter
from tests.paths.waiting import deep, is_parked, parked, started, until
from tests.support import GUARD_S, NOW, Signal, a_record, failure_of, log_of, of, reach, result_of

SCHEMA = {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]}
ASK = {"text": "Refund?", "sum": 90}


@dataclass
class Decision:
    approved: bool
    by: str = ""


def app_of(body):
    app = App("asking")
    app.pipeline(name="ask")(body)
    return app


async def waiting(handle, count=1):
    """The document once the run waits for so many things."""
    while True:
        document = await handle.document()
        if len(document["waiting_for"]) >= count:
            return document
        await asyncio.sleep(0.005)


async def test_the_document_says_what_a_run_waits_for_until_it_has_it(place):
    async def ask() -> Any:
        return await offramp.signal("approved", timeout=3600, ask=ASK, schema=SCHEMA)

    async with started(app_of(ask), place) as runtime:
        handle = await runtime.start("ask")
        began = (await reach(handle, "wait.started"))[-1]
        (wait,) = (await handle.document())["waiting_for"]
        assert wait == {
            "kind": "signal",
            "name": "approved",
            "since": began.at,
            "until": began.data["until"],
            "ask": ASK,
            "schema": SCHEMA,
        }
        assert (began.data["ask"], began.data["schema"]) == (ASK, SCHEMA)
        assert wait["until"] > wait["since"]
        assert await handle.signal("approved", {"approved": True}) is True
        assert await result_of(handle) == {"approved": True}
        assert (await handle.document())["waiting_for"] == []


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_a_value_that_does_not_fit_is_refused_and_changes_nothing(place, path):
    async def ask() -> str:
        decision = await offramp.signal("approved", schema=Decision)
        return f"{decision.approved} by {decision.by}"

    async with started(app_of(ask), place) as runtime:
        handle = await runtime.submit(deep("ask")) if path == "deep" else await runtime.start("ask")
        before = await waiting(handle)
        for value in ({"approved": "yes"}, {}, None):
            with pytest.raises(InputError, match="signal 'approved'") as refused:
                await handle.signal("approved", value)
            assert refused.value.errors[0][0] in {"/approved", ""}
        assert await runtime.service.process.store.signals(handle.id) == []
        assert (await handle.document())["waiting_for"] == before["waiting_for"]
        assert await handle.signal("approved", {"approved": False, "by": "ada"}) is True
        assert await result_of(handle) == "False by ada"


async def test_a_signal_that_nothing_waits_for_is_kept(place):
    async def ask() -> list[Any]:
        return [await offramp.signal("a"), await offramp.signal("b")]

    async with started(app_of(ask), place) as runtime:
        handle = await runtime.start("ask")
        await waiting(handle)
        assert await handle.signal("b", 2) is False
        assert await handle.signal("approvd", 0) is False
        assert await handle.signal("a", 1) is True
        assert await result_of(handle) == [1, 2]


class Log:
    """What a store has of one run: its events, and its signals."""

    def __init__(self, *signals, **more):
        self._signals = list(signals)
        bodies = [WaitStarted("signal", "n", f"k{number}", None) for number in range(2)]
        bodies += [WaitEnded("signal", "n", f"k{number}", "received") for number in range(more.get("received", 0))]
        drafts = [draft(body, rfc3339(NOW)) for body in bodies]
        self._frames = [Frame(seq, frame(made, "run", seq)) for seq, made in enumerate(drafts, 1)]

    async def events(self, _run, after, **_):
        return self._frames[after:]

    async def signals(self, _run):
        return self._signals


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        (Log(), True),
        (Log(("n", b"1"), ("other", b"1")), True),
        (Log(("n", b"1"), ("n", b"2")), False),
        (Log(("n", b"1"), received=1), True),
        (Log(("n", b"1"), ("n", b"2"), received=1), False),
        (Log(("n", b"1"), ("n", b"2"), received=2), False),
    ],
)
async def test_a_wait_that_another_signal_is_on_its_way_to_awaits_none(log, expected):
    assert await is_awaited(log, a_record(), "n", b"3", keyed=False) is expected


@pytest.mark.parametrize("path", ["fast", "deep"])
async def test_an_early_value_that_does_not_fit_is_recorded_and_goes_to_a_call_that_it_fits(place, path, monkeypatch):
    hold, app, checked, check = Signal(), App("early"), [], Question.problems

    def counted(question: Question, value: bytes) -> list[Any]:
        checked.append((question.schema, value))
        return check(question, value)

    monkeypatch.setattr(Question, "problems", counted)

    @app.step
    async def gate() -> None:
        await hold.wait()

    @app.pipeline
    async def ask() -> list[Any]:
        await gate()
        return [await offramp.signal("n", schema=int), await offramp.signal("n", schema=str)]

    async with started(app, place) as runtime:
        handle = await runtime.submit(deep("ask")) if path == "deep" else await runtime.start("ask")
        await reach(handle, "step.started")
        assert await handle.signal("n", "early") is False
        hold.set()
        await reach(handle, "signal.refused")
        if path == "deep":
            await parked(runtime.service, handle.id)
        assert await handle.signal("n", 1) is True
        assert await result_of(handle) == [1, "early"]
        (refused,) = of(await log_of(handle), "signal.refused")
    assert (refused.data["name"], refused.data["signal"]) == ("n", 1)
    assert refused.data["errors"] == [{"pointer": "", "message": "expected an integer, got a string"}]
    assert checked.count((Question("n", schema=int).schema, b'"early"')) == 1, "a recorded misfit was checked again"


async def test_waits_of_parallel_branches_are_all_there_and_each_gets_what_fits_it(place):
    async def branch(name: str, schema: Any) -> Any:
        return await offramp.signal(name, schema=schema)

    async def ask() -> list[Any]:
        sums = asyncio.gather(branch("n", int), branch("n", str), branch("other", None), offramp.sleep(0.2))
        return list(await sums)

    async with started(app_of(ask), place) as runtime:
        handle = await runtime.start("ask")
        document = await waiting(handle, 4)
        assert [(wait["kind"], wait["name"]) for wait in document["waiting_for"]] == [
            ("signal", "n"),
            ("signal", "n"),
            ("signal", "other"),
            ("time", None),
        ]
        with pytest.raises(InputError):
            await handle.signal("n", [])
        sent = [await handle.signal(name, value) for name, value in (("n", "s"), ("other", 0), ("n", 1))]
        assert await result_of(handle) == [1, "s", 0, None]
    assert sent == [True, True, True]


async def test_a_document_shows_a_bounded_number_of_waits_and_every_one_takes_its_signal(place):
    count = WAITS_SHOWN_MAX + 5

    async def ask() -> int:
        return len(await asyncio.gather(*(offramp.signal(f"s{number}") for number in range(count))))

    async with started(app_of(ask), place) as runtime:
        handle = await runtime.start("ask")
        document = await waiting(handle, WAITS_SHOWN_MAX)
        assert [wait["name"] for wait in document["waiting_for"]] == [f"s{number}" for number in range(WAITS_SHOWN_MAX)]
        for number in reversed(range(count)):
            await handle.signal(f"s{number}")
        assert await result_of(handle) == count


async def test_a_parked_run_waits_since_its_first_time(place, clock):
    async def ask() -> Any:
        try:
            return await offramp.signal("never", timeout=3600)
        except SignalTimeout:
            return await offramp.signal("go", schema=bool, ask="Go?")

    async with started(app_of(ask), place, clock) as runtime:
        handle = await runtime.submit(deep("ask"))
        await parked(runtime.service, handle.id, clock=clock)
        first = (await waiting(handle))["waiting_for"]
        clock.advance(100)
        await handle.signal("unknown")  # wakes it
        await until(lambda: not is_parked(runtime.service, handle.id), clock)
        await parked(runtime.service, handle.id, clock=clock)
        assert (await handle.document())["waiting_for"] == first
        clock.advance(3600)
        document = await until_asked(handle, clock)
        assert [(wait["name"], wait["until"], wait["ask"]) for wait in document["waiting_for"]] == [("go", None, "Go?")]
        assert document["waiting_for"][0]["since"] > first[0]["until"]
        assert await handle.signal("go", value=True) is True
        await until(lambda: runtime.service.live.get(handle.id) is None, clock)
        assert await result_of(handle) is True


async def until_asked(handle, clock):
    while True:
        document = await handle.document()
        if any(wait["name"] == "go" for wait in document["waiting_for"]):
            return document
        clock.advance(0.05)
        await asyncio.sleep(0.002)


async def test_a_schema_that_cannot_be_checked_fails_the_run_at_once(place):
    async def ask() -> Any:
        return await offramp.signal("go", schema={"if": {}})

    async with started(app_of(ask), place) as runtime:
        failure = await failure_of(await runtime.start("ask"))
    assert "schema= of signal 'go': the schema at /if" in str(failure)


async def asked_again(handle):
    """Read the events until the second wait begins."""
    begun = 0
    async with asyncio.timeout(GUARD_S), contextlib.aclosing(handle.events()) as stream:
        async for event in stream:
            begun += event.type == "wait.started"
            if begun == 2:
                return


async def test_a_repeated_signal_is_no_misfit_of_a_later_wait(place):
    async def ask() -> list[Any]:
        return [await offramp.signal("n", schema=int), await offramp.signal("n", schema=str)]

    async with started(app_of(ask), place) as runtime:
        handle, service = await runtime.start("ask"), runtime.service
        await waiting(handle)
        sent = await service.signal(handle.id, "n", b"1", key="k")
        assert sent == (sent.record, True)
        await asked_again(handle)
        again = await service.signal(handle.id, "n", b"1", key="k")
        assert (again.awaited, len(await service.process.store.signals(handle.id))) == (False, 1)
        with pytest.raises(InputError):
            await service.signal(handle.id, "n", b"2", key="other")
        await handle.signal("n", "s")
        assert await result_of(handle) == [1, "s"]


async def test_waiting_runs_are_listed_and_counted_for_the_metrics(place, clock):
    async def ask(number: int) -> Any:
        return await offramp.signal("go", timeout=3600) if number else number

    def shown():
        registry = CollectorRegistry()
        for collector in runtime.service.collectors:
            registry.register(collector)
        kinds = ("signal", "time")
        labels = [{"pipeline": "ask", "kind": kind} for kind in kinds]
        return [registry.get_sample_value("offramp_runs_waiting", each) for each in labels]

    async with started(app_of(ask), place, clock) as runtime:
        list_waiting = RunFilter(waiting=True)
        handles = [await runtime.start("ask", number=number) for number in range(3)]
        for handle in handles[1:]:
            await reach(handle, "wait.started")
        await result_of(handles[0])
        documents, _ = await runtime.service.list(list_waiting)
        assert [document["id"] for document in documents] == [handles[2].id, handles[1].id]
        assert [wait["name"] for document in documents for wait in document["waiting_for"]] == ["go", "go"]
        await until(lambda: shown()[0] == 2, clock, step=1.0)
        for handle in handles[1:]:
            await handle.signal("go")
            await until(lambda handle=handle: runtime.service.live.get(handle.id) is None, clock)
        await until(lambda: shown()[0] == 0, clock, step=1.0)
        assert await runtime.service.list(list_waiting) == ([], None)
