"""From a run to its receiver: what is announced, in which order, and what happens while the receiver fails."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import sqlite3
import threading
import time

import pytest

from offramp import SLA, App, emit, wiring
from offramp.core.events import TERMINAL
from offramp.core.run import Webhook
from offramp.core.webhooks import DELAYS_S, EVENT_NAMES, GIVE_UP_AFTER_S, JITTER
from offramp.errors import InputError
from offramp.paths.submission import Submission
from offramp.paths.webhooks import WebhookDispatcher
from offramp.ports.listing import RunFilter
from offramp.settings import Settings
from offramp.testing import FakeClock, runtime
from tests.support import GUARD_S, eventually, know_each_other, member, reach, reading
from tests.webhooks.receiver import SECRET, receiving, types

SETTINGS = {"webhook_secret": SECRET, "webhook_allow": "127.0.0.1"}


def make_app():
    app = App("demo", classes=[SLA("interactive", budget=30.0), SLA("batch", budget=0)])
    app.gate = asyncio.Event()
    app.loop = None

    @app.step
    async def write(text: str) -> str:
        emit("a delta")
        return text * 2

    @app.step
    async def wait() -> None:
        app.loop = asyncio.get_running_loop()
        await app.gate.wait()

    @app.pipeline(sla="interactive")
    async def echo(text: str) -> str:
        return await write(text)

    @app.pipeline(sla="interactive")
    async def broken(text: str) -> str:
        raise ValueError(text)

    @app.pipeline(sla="interactive")
    async def gated(text: str) -> str:
        await wait()
        return await write(text)

    return app


def open_gate(app):
    app.loop.call_soon_threadsafe(app.gate.set)


@pytest.fixture(params=["memory", "sqlite"])
async def made(request, tmp_path):
    """A runtime that sends, on either store."""
    app = make_app()
    store = {"store": "memory:"} if request.param == "memory" else {"store": "", "data": str(tmp_path)}
    async with runtime(app, **SETTINGS, **store) as made:
        made.app = app
        yield made


@pytest.fixture
def clock():
    # The receiver's library compares timestamps with the real time.
    return FakeClock(start=time.time())


@pytest.fixture
async def faked(clock):
    """A runtime whose time stands still."""
    async with runtime(make_app(), clock=clock, **SETTINGS) as made:
        yield made


async def start(made, url, *events, pipeline="echo", text='"hi"', **more):
    webhook = Webhook(url, events) if events else Webhook(url)
    body = f'{{"text": {text}}}'.encode()
    return await made.submit(Submission(pipeline=pipeline, input=body, webhook=webhook, **more))


async def arriving(receiver):
    """The next request, without holding up this loop."""
    return await asyncio.get_running_loop().run_in_executor(None, receiver.next)


def counted(made, result):
    return reading(made.service, "offramp_webhook_attempts_total", result=result)


def pending(made):
    """The entries of the outbox in memory."""
    return made.service.process.store.outbox.entries


async def test_the_end_of_a_run_is_announced_with_its_document(made, receiver):
    handle = await start(made, receiver.url, session_id="s", metadata={"k": "v"})
    request = await arriving(receiver)
    message = request.verified()
    assert set(message) == {"type", "timestamp", "data"}
    assert message["type"] == "run.completed"
    assert message["data"] == await handle.document()
    assert (message["data"]["status"], message["data"]["result"]) == ("completed", "hihi")
    assert message["timestamp"] == message["data"]["finished_at"]
    assert request.id == f"{handle.id}-5"
    await eventually(lambda: counted(made, "delivered") == 1)
    assert len(receiver.seen) == 1
    assert "hidden" not in str(message)


async def test_a_failed_run(made, receiver):
    await start(made, receiver.url, pipeline="broken", text='"no luck"')
    message = (await arriving(receiver)).verified()
    assert message["type"] == "run.failed"
    assert "no luck" in message["data"]["error"]["message"]


async def test_a_cancelled_run(made, receiver):
    handle = await start(made, receiver.url, pipeline="gated")
    await reach(handle, "step.started", "wait")
    await handle.cancel()
    assert (await arriving(receiver)).verified()["type"] == "run.cancelled"


async def test_a_demotion_is_announced_when_it_happens_and_then_the_end(made, receiver):
    handle = await start(made, receiver.url, pipeline="gated", budget=0.05)
    demoted = await arriving(receiver)
    assert (demoted.json["type"], demoted.json["data"]["path"]) == ("run.demoted", "deep")
    assert demoted.json["data"]["demotion"]["reason"] == "budget"
    open_gate(made.app)
    completed = await arriving(receiver)
    assert completed.verified()["type"] == "run.completed"
    first, second = (int(request.id.removeprefix(f"{handle.id}-")) for request in (demoted, completed))
    assert first < second


async def test_everything_asked_for_in_order_and_nothing_else(made, receiver):
    every = [name for name in EVENT_NAMES if name != "step.started"]
    handle = await start(made, receiver.url, *every)
    events = [event async for event in handle]
    expected = [event for event in events if event.type in every]
    requests = [await arriving(receiver) for _ in expected]
    assert types(requests) == [event.type for event in expected]
    assert [request.id for request in requests] == [f"{handle.id}-{event.seq}" for event in expected]
    assert [request.json["timestamp"] for request in requests] == [event.at for event in expected]


async def test_a_run_whose_end_is_not_asked_for_leaves_nothing_behind(clock, faked, receiver):
    handle = await start(faked, receiver.url, "run.demoted")
    await handle.result()
    await eventually(lambda: not pending(faked))
    assert not receiver.seen


async def test_a_large_result_is_left_out(made, receiver):
    handle = await start(made, receiver.url, text='"%s"' % ("x" * 20_000))
    message = (await arriving(receiver)).verified()
    assert "result" not in message["data"]
    assert message["data"]["links"]["result"] == f"/v1/runs/{handle.id}/result"
    assert len(await handle.result()) == 40_000


async def test_a_result_that_is_kept_elsewhere_is_left_out_and_not_null(receiver):
    async with runtime(make_app(), objects="memory:", objects_above=1024, **SETTINGS) as made:
        handle = await start(made, receiver.url, text='"%s"' % ("x" * 2000))
        message = (await arriving(receiver)).verified()
        assert "result" not in message["data"]
        assert message["data"]["status"] == "completed"
        assert len(await handle.result()) == 4000


async def test_the_same_key_announces_once(made, receiver):
    for _ in range(3):
        await start(made, receiver.url, idempotency_key="k")
    await arriving(receiver)
    await start(made, receiver.url, idempotency_key="other")
    await arriving(receiver)
    assert len({request.id for request in receiver.seen}) == len(receiver.seen) == 2


@pytest.mark.parametrize(
    ("settings", "url", "pointer"),
    [
        ({}, "https://example.com/", "/webhook"),
        ({"webhook_secret": SECRET}, "http://127.0.0.1:1/", "/webhook/url"),
        ({"webhook_secret": SECRET}, "http://[::1]:1/", "/webhook/url"),
        ({"webhook_secret": SECRET}, "http://localhost/", "/webhook/url"),
        (SETTINGS, "http://127.0.0.2:1/", "/webhook/url"),
        (SETTINGS, "nonsense", "/webhook/url"),
    ],
)
async def test_what_would_not_be_delivered_is_refused_and_nothing_starts(settings, url, pointer):
    async with runtime(make_app(), **settings) as made:
        with pytest.raises(InputError) as caught:
            await start(made, url)
        assert [found for found, _ in caught.value.errors] == [pointer]
        assert not (await made.service.process.store.runs(RunFilter(tenant=None, limit=1))).runs


# While the receiver fails.


def dispatcher(service):
    return next((part for part in service.parts if isinstance(part, WebhookDispatcher)), None)


async def advance_until(clock, made, condition, step=0.5):
    """Let time pass until something is the case, but none while a message is on its way."""
    async with asyncio.timeout(GUARD_S):
        while not condition():
            if not dispatcher(made.service).attempts:
                clock.advance(step)
            await asyncio.sleep(0.001)


async def test_a_message_is_tried_again_after_the_delays_of_the_table(clock, faked, receiver, caplog):
    caplog.set_level(logging.INFO, "offramp")
    receiver.answer = lambda _: 500
    handle = await start(faked, receiver.url)
    await arriving(receiver)
    for number, delay in enumerate(DELAYS_S[:4], 1):
        entry = pending(faked)[handle.id]
        await eventually(lambda entry=entry, number=number: entry.progress.attempts == number)
        left = entry.due_at - clock.time()
        assert delay * (1 - JITTER) <= left <= delay * (1 + JITTER)
        clock.advance(left - 0.01)
        await eventually(lambda: clock.next_timer() is not None)
        assert len(receiver.seen) == number
        receiver.answer = lambda _, number=number: 204 if number == 4 else 500
        await advance_until(clock, faked, lambda number=number: len(receiver.seen) > number)
    await eventually(lambda: not pending(faked))
    assert len({request.id for request in receiver.seen}) == 1
    # Each attempt is signed anew; the first four have a time that the library takes for too old or too new by now.
    assert len({request.headers["webhook-timestamp"] for request in receiver.seen}) == 5
    assert (counted(faked, "refused"), counted(faked, "delivered")) == (4, 1)
    told = [record.getMessage() for record in caplog.records if "webhook" in record.getMessage()]
    assert len(told) == 2
    assert "did not reach 127.0.0.1" in told[0]
    assert "reached 127.0.0.1 again" in told[1]
    assert "hidden" not in caplog.text
    assert SECRET not in caplog.text


async def test_later_events_of_the_run_wait_for_the_one_that_fails(clock, faked, receiver):
    receiver.answer = lambda request: 500 if len(receiver.seen) < 3 else 204
    await (await start(faked, receiver.url, "run.accepted", "run.completed")).result()
    await arriving(receiver)
    await advance_until(clock, faked, lambda: len(receiver.seen) == 4)
    assert types(receiver.seen) == ["run.accepted"] * 3 + ["run.completed"]


async def test_a_receiver_that_asks_for_time_gets_it(clock, faked, receiver):
    receiver.answer = lambda _: (429, {"retry-after": "300"})
    handle = await start(faked, receiver.url)
    await arriving(receiver)
    entry = pending(faked)[handle.id]
    await eventually(lambda: entry.progress.attempts)
    assert entry.due_at == pytest.approx(clock.time() + 300)


async def test_410_ends_it_for_the_run(clock, faked, receiver):
    receiver.answer = lambda _: 410
    await (await start(faked, receiver.url, "run.accepted", "run.completed")).result()
    await arriving(receiver)
    await eventually(lambda: not pending(faked))
    assert len(receiver.seen) == 1
    assert counted(faked, "gone") == 1


async def test_after_a_day_it_is_given_up(clock, faked, receiver, caplog):
    receiver.answer = lambda _: 500
    await start(faked, receiver.url)
    began = clock.time()
    await advance_until(clock, faked, lambda: not pending(faked), step=20.0)
    assert clock.time() - began >= GIVE_UP_AFTER_S
    assert 11 <= len(receiver.seen) <= 18
    assert "given up after a day" in caplog.text
    assert reading(faked.service, "offramp_webhooks_given_up_total") == 1


async def test_a_dead_receiver_does_not_hold_up_the_others(receiver, tmp_path):
    release = threading.Event()
    settings = {**SETTINGS, "webhook_allow": "127.0.0.1 localhost", "webhook_attempts": 3}
    with receiving() as dead:
        dead.answer = lambda _: release.wait(GUARD_S) and 204
        async with runtime(make_app(), **settings, webhook_attempts_per_host=2, data=str(tmp_path), store="") as made:
            for _ in range(10):
                await start(made, dead.url)
            await arriving(dead)
            await arriving(dead)
            for _ in range(10):
                await start(made, receiver.url.replace("127.0.0.1", "localhost"))
            for _ in range(10):
                await arriving(receiver)
            assert len(dead.seen) == 2
            release.set()
            for _ in range(8):
                await arriving(dead)
    assert len({request.id for request in dead.seen}) == 10


# Several processes.


@contextlib.asynccontextmanager
async def gateway_and_worker(app, folder, **more):
    async with member(app, folder, "gateway", **SETTINGS, **more) as gateway, member(app, folder, "worker") as worker:
        yield gateway, worker


async def submit(service, url, *events, pipeline="echo", **more):
    webhook = Webhook(url, events) if events else Webhook(url)
    body = Submission(pipeline=pipeline, input=b'{"text": "hi"}', webhook=webhook, **more)
    return (await service.submit(body)).record


async def test_a_worker_that_ends_a_run_wakes_the_gateway(tmp_path, receiver):
    # Polling alone would take longer than the test may.
    async with gateway_and_worker(make_app(), tmp_path, poll=60.0) as (gateway, worker):
        await know_each_other(gateway, worker)
        record = await submit(gateway, receiver.url, "step.completed", "run.completed", respond_async=True)
        requests = [await arriving(receiver), await arriving(receiver)]
    assert types(requests) == ["step.completed", "run.completed"]
    assert all(request.id.startswith(record.id) for request in requests)


async def test_several_gateways_deliver_each_message_once(tmp_path, receiver):
    app = make_app()
    async with (
        member(app, tmp_path, "gateway", poll=0.05, **SETTINGS) as one,
        member(app, tmp_path, "gateway", poll=0.05, **SETTINGS) as other,
        member(app, tmp_path, "worker"),
    ):
        for number in range(20):
            await submit((one, other)[number % 2], receiver.url, respond_async=number % 3 == 0)
        for _ in range(20):
            await arriving(receiver)
        delivered = functools.partial(reading, name="offramp_webhook_attempts_total", result="delivered")
        await eventually(lambda: delivered(one) + delivered(other) == 20)
    assert len({request.id for request in receiver.seen}) == len(receiver.seen) == 20


async def test_what_was_not_delivered_before_a_stop_is_delivered_after_the_start(tmp_path, receiver):
    release = threading.Event()
    receiver.answer = lambda _: release.wait(GUARD_S) and 204
    app = make_app()
    async with member(app, tmp_path, "local", **SETTINGS) as service:
        await submit(service, receiver.url)
        first = await arriving(receiver)
    release.set()
    async with member(app, tmp_path, "local", **SETTINGS):
        second = await arriving(receiver)
    assert second.id == first.id
    assert second.verified()["type"] in TERMINAL


async def test_without_a_secret_nothing_is_sent_and_with_one_again_it_is(tmp_path, receiver):
    app = make_app()
    receiver.answer = lambda _: (503, {"retry-after": "1"})
    # A delay of the table would take too long: as if it had waited already.
    async with member(app, tmp_path, "local", **SETTINGS) as service:
        await submit(service, receiver.url)
        first = await arriving(receiver)
        await eventually(lambda: reading(service, "offramp_webhook_attempts_total", result="refused") == 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "offramp.db")) as connection, connection:
        connection.execute("UPDATE webhooks SET due_at = 1")
    receiver.answer = lambda _: 204
    async with member(app, tmp_path, "local") as service:
        assert dispatcher(service) is None
    assert len(receiver.seen) == 1
    async with member(app, tmp_path, "local", **SETTINGS):
        assert (await arriving(receiver)).id == first.id


async def test_a_service_that_never_started_stops(tmp_path):
    settings = Settings.load({}, tmp_path / "none", data=str(tmp_path), **SETTINGS)
    service = wiring.build(make_app(), settings, role="local")
    async with asyncio.timeout(GUARD_S):
        await service.stop()
