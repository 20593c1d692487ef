"""A failover is one step in the journal, whose attempts call one step after another."""

from __future__ import annotations

import asyncio
import threading

import pytest

from offramp import App, Retry, current_run, emit, testing
from offramp.core.failover import TARGETS_MAX
from offramp.errors import DeclarationError, EncodingError
from offramp.testing import FakeClock
from tests.support import Signal, failure_of, log_of, of, reading, result_of, types

BUDGETS = {"fast": 60, "deep": 0}


class Down(Exception):
    """The provider does not answer."""


def declared(app, *steps, first_token=None):
    """A failover of these steps, and a pipeline on each path that calls it."""
    answer = app.failover(*steps, first_token=first_token, name="answer")

    @app.pipeline(budget=BUDGETS["fast"])
    async def fast(text: str) -> str:
        return await answer(text)

    @app.pipeline(budget=BUDGETS["deep"])
    async def deep(text: str) -> str:
        return await answer(text)

    return answer


def broken(app, name="write", *, words=1, error=Down):
    """A step that emits so many words and then fails."""

    @app.step(name=name, retry=Retry(attempts=9, base=60.0))
    async def write(text: str) -> str:
        for word in range(words):
            emit(f"{name} {word}")
        raise error(f"{name} is down")

    return write


def working(app, name="spare"):
    @app.step(name=name)
    async def spare(text: str) -> str:
        emit(f"{name} 0")
        return f"{name}: {text}"

    return spare


@pytest.mark.parametrize("path", BUDGETS)
async def test_the_next_step_is_called_when_one_breaks_off_in_mid_stream(path):
    app = App("failover")
    declared(app, broken(app, words=2), working(app))
    async with testing.runtime(app) as runtime:
        handle = await runtime.start(path, text="why")
        assert await result_of(handle) == "spare: why"
        seen = [event for event in await log_of(handle) if event.type.startswith("step.")]
        [step] = (await handle.document())["steps"]
        failovers = reading(runtime.service, "offramp_failovers_total", reason="error")
    assert types(seen) == [
        *("step.started", "step.delta", "step.delta", "step.retrying"),
        *("step.started", "step.delta", "step.completed"),
    ]
    assert {event.data["step"] for event in seen} == {"answer"}
    assert [event.data["target"] for event in of(seen, "step.started")] == ["write", "spare"]
    [retrying] = of(seen, "step.retrying")
    assert (retrying.data["target"], retrying.data["attempt"], retrying.data["delay_ms"]) == ("write", 1, 0.0)
    assert retrying.data["error"]["message"] == "Down: write is down"
    assert (step["name"], step["attempts"], step["target"]) == ("answer", 2, "spare")
    assert failovers == 1


async def test_the_last_error_is_the_failovers_and_says_how_those_before_it_failed():
    app = App("failover")
    declared(app, broken(app, "a"), broken(app, "b"), broken(app, "c", error=ValueError))
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("fast", text="why")
        error = await failure_of(handle)
        seen = await log_of(handle)
        [step] = (await handle.document(include=["steps"]))["steps"]
    assert (type(error), str(error)) == (ValueError, "c is down")
    assert error.__notes__[:2] == ["before it, a failed: Down: a is down", "before it, b failed: Down: b is down"]
    assert [event.data["target"] for event in of(seen, "step.started")] == ["a", "b", "c"]
    assert types(seen)[-2:] == ["step.failed", "run.failed"]
    assert [(each["attempt"], each.get("target")) for each in step["failures"]] == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize("path", BUDGETS)
async def test_a_step_whose_first_token_is_late_is_cancelled_and_the_next_one_called(path):
    app, clock, waits, ended = App("failover"), FakeClock(), Signal(), []

    @app.step(timeout=60)
    async def write(text: str) -> str:
        waits.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            ended.append(asyncio.current_task().cancelling())
        return text

    declared(app, write, working(app), first_token=3.0)
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start(path, text="why")
        await waits.wait()
        clock.advance(2.9)
        assert not ended
        clock.advance(0.2)
        assert await result_of(handle) == "spare: why"
        seen = await log_of(handle)
        late = reading(runtime.service, "offramp_failovers_total", reason="first-token")
        timeouts = reading(runtime.service, "offramp_step_timeouts_total", pipeline=path, step="answer")
    [retrying] = of(seen, "step.retrying")
    assert retrying.data["error"]["code"] == "first-token-timeout"
    assert retrying.data["error"]["message"] == (
        "FirstTokenTimeout: step 'write' emitted nothing within 3 s (first_token)"
    )
    assert (late, timeouts, len(ended)) == (1, 0, 1)


async def test_what_has_emitted_in_time_may_take_long():
    app, clock, emitted, may_end = App("failover"), FakeClock(), Signal(), Signal()

    @app.step
    async def write(text: str) -> str:
        emit("first")
        emitted.set()
        await may_end.wait()
        return text

    declared(app, write, working(app), first_token=3.0)
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await emitted.wait()
        clock.advance(50)
        may_end.set()
        assert await result_of(handle) == "why"
        assert of(await log_of(handle), "step.retrying") == []


async def test_the_last_step_may_be_late():
    app, clock, waits, may_end = App("failover"), FakeClock(), Signal(), Signal()

    @app.step
    async def last(text: str) -> str:
        waits.set()
        await may_end.wait()
        return f"late: {text}"

    declared(app, broken(app), last, first_token=3.0)
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await waits.wait()
        clock.advance(50)
        may_end.set()
        assert await result_of(handle) == "late: why"


async def test_a_thread_is_left_to_itself_and_what_it_emits_later_is_dropped():
    app, clock, begun, may_end, is_over = App("failover"), FakeClock(), Signal(), Signal(), threading.Event()

    @app.step
    def write(text: str) -> str:
        begun.set()
        may_end.block()
        emit("too late")
        is_over.set()
        return text

    declared(app, write, working(app), first_token=3.0)
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await begun.wait()
        clock.advance(3.1)
        assert await result_of(handle) == "spare: why"
        may_end.set()
        assert await asyncio.to_thread(is_over.wait, 20)
        seen = await log_of(handle)
    assert [event.data["delta"] for event in of(seen, "step.delta")] == ["spare 0"]


async def test_a_step_in_a_thread_that_emits_in_time_is_left_alone():
    app, clock, emitted, may_end = App("failover"), FakeClock(), Signal(), Signal()

    @app.step
    def write(text: str) -> str:
        emit("first")
        emitted.set()
        may_end.block()
        return text

    declared(app, write, working(app), first_token=3.0)
    async with testing.runtime(app, clock=clock) as runtime:
        handle = await runtime.start("fast", text="why")
        await emitted.wait()
        clock.advance(50)
        may_end.set()
        assert await result_of(handle) == "why"


async def test_a_timeout_of_a_step_leads_to_the_next_one():
    app = App("failover")

    @app.step(timeout=0.05)
    async def write(text: str) -> str:
        emit("first")
        await asyncio.get_running_loop().create_future()
        return text

    declared(app, write, working(app), first_token=30.0)
    async with testing.runtime(app) as runtime:
        assert await result_of(await runtime.start("fast", text="why")) == "spare: why"
        assert reading(runtime.service, "offramp_failovers_total", reason="timeout") == 1


async def test_what_no_other_step_would_do_better_is_final():
    app = App("failover")

    @app.step
    async def write(text: str) -> str:
        return object()

    declared(app, write, working(app))
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("fast", text="why")
        assert type(await failure_of(handle)) is EncodingError
        assert len(of(await log_of(handle), "step.started")) == 1


async def test_a_step_that_is_named_twice_is_called_twice():
    app, calls = App("failover"), []

    @app.step
    async def write(text: str) -> str:
        calls.append(current_run().attempt)
        if len(calls) == 1:
            raise Down("once")
        return text

    declared(app, write, broken(app, "spare"), write)
    async with testing.runtime(app) as runtime:
        handle = await runtime.start("fast", text="why")
        assert await result_of(handle) == "why"
        seen = await log_of(handle)
    assert [event.data["target"] for event in of(seen, "step.started")] == ["write", "spare", "write"]
    assert calls == [1, 3]


async def test_inside_its_code_the_step_is_the_failover_with_one_idempotency_key():
    app, seen = App("failover"), []

    def seeing(name, error):
        @app.step(name=name)
        async def step(text: str) -> str:
            run = current_run()
            seen.append((run.step, run.attempt, run.idempotency_key))
            if error is not None:
                raise error
            return text

        return step

    declared(app, seeing("write", Down()), seeing("spare", None))
    async with testing.runtime(app) as runtime:
        await result_of(await runtime.start("fast", text="why"))
    assert [each[:2] for each in seen] == [("answer", 1), ("answer", 2)]
    assert seen[0][2] == seen[1][2]


async def test_a_recorded_failover_is_replayed():
    app = App("failover")
    declared(app, broken(app), working(app))
    assert await testing.replays(app, "fast", text="why") == "spare: why"


async def test_fakes_of_its_steps_are_called_and_one_of_itself():
    app = App("failover")
    declared(app, broken(app), working(app))
    async with testing.runtime(app, fakes={"write": TimeoutError("late"), "spare": "faked"}) as runtime:
        handle = await runtime.start("fast", text="why")
        assert await result_of(handle) == "faked"
        assert reading(runtime.service, "offramp_failovers_total", reason="timeout") == 1
    async with testing.runtime(app, fakes={"answer": lambda text: f"all of {text}"}) as runtime:
        assert await result_of(await runtime.start("fast", text="why")) == "all of why"


async def test_outside_of_a_run_its_steps_are_called_in_turn():
    app = App("failover")
    answer = declared(app, broken(app), working(app))
    assert await answer("why") == "spare: why"
    assert await answer.fn("why") == "spare: why"
    with pytest.raises(Down, match="b is down"):
        await app.failover(broken(app, "a"), broken(app, "b"))("why")


async def test_its_name_is_made_of_those_of_its_steps():
    app = App("failover")
    assert app.failover(broken(app), working(app)).spec.name == "write_or_spare"


def other(app, **options):
    @app.step(name="other", **options)
    async def step(text: str, more: str) -> str:
        return text + more

    return step


def typed(app):
    @app.step(name="typed")
    async def step(text: bytes) -> str:
        return str(text)

    return step


def returning(app):
    @app.step(name="returning")
    async def step(text: str) -> list[str]:
        return [text]

    return step


def once(app):
    @app.step(name="once", effect="once")
    async def step(text: str) -> str:
        return text

    return step


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (other, r"step 'other' cannot stand in for 'write': it takes \(text, more\), not \(text\); give both the same"),
        (typed, "its parameter 'text' is <class 'bytes'>, not <class 'str'>"),
        (returning, r"it returns list\[str\], not <class 'str'>"),
        (once, "'once' has effect='once'"),
        (lambda app: app.failover(working(app, "x"), working(app, "y"), name="z"), "'z' is a failover itself"),
        (lambda _app: working(App("another")), "takes steps of app 'failover', got <step 'spare'"),
        (lambda _app: "spare", "takes steps of app 'failover', got 'spare'"),
    ],
)
def test_what_cannot_stand_in_is_refused_where_it_is_declared(second, says):
    app = App("failover")
    first = broken(app)
    with pytest.raises(DeclarationError, match=says):
        app.failover(first, second(app))


def test_bounds_of_a_declaration():
    app = App("failover")
    steps = [working(app, f"step{n}") for n in range(TARGETS_MAX + 1)]
    app.failover(*steps[:-1], name="most")
    with pytest.raises(DeclarationError, match=f"takes 2 to {TARGETS_MAX} steps, in the order of preference, got 11"):
        app.failover(*steps, name="more")
    with pytest.raises(DeclarationError, match="got 1"):
        app.failover(steps[0], name="alone")
    with pytest.raises(DeclarationError, match="first_token= is in seconds, above 0, got 0"):
        app.failover(*steps[:2], first_token=0)
    with pytest.raises(DeclarationError, match="failover name 'a b'"):
        app.failover(*steps[:2], name="a b")
    with pytest.raises(DeclarationError, match="step 'step0' is declared twice"):
        app.failover(*steps[:2], name="step0")
