"""A store that hangs: requests are refused in time, and nothing that was refused happens late."""

from __future__ import annotations

import asyncio
import time

import pytest

import offramp
from offramp import SLA, App
from offramp.errors import StoreError, StoreTimeout
from offramp.paths.patience import Patience
from offramp.paths.submission import Submission
from offramp.ports.listing import RunFilter
from offramp.stores.sqlite.database import READERS
from tests.support import GUARD_S, Signal, eventually, frames_of, hung, member

TIMEOUT_S = 0.3


def made():
    app = App("hung", classes=[SLA("batch", budget=0)])

    @app.pipeline
    async def quick() -> str:
        return "done"

    @app.pipeline(sla="batch")
    async def asks() -> str:
        return await offramp.signal("go")

    return app


def asked(service, waiting, number):
    """One of the things that a request may ask for."""
    key = f"key {number}"
    return [
        lambda: service.submit(Submission(pipeline="quick", input=b"{}")),
        lambda: service.submit(Submission(pipeline="quick", input=b"{}", idempotency_key=key)),
        lambda: service.submit(Submission(pipeline="quick", input=b"{}", respond_async=True, idempotency_key=key)),
        lambda: service.signal(waiting, "other", key=key),
        lambda: service.signal(waiting, "other"),
    ][number % 5]()


async def refusal(request):
    try:
        async with asyncio.timeout(GUARD_S):
            await request
    except StoreError as error:
        return error
    raise AssertionError("it was not refused")


async def waits(service, run):
    async def does():
        return (await service.get(run)).status == "running"

    await eventually(does)


@pytest.mark.parametrize("counts", [True, False], ids=["known", "unknown"])
async def test_every_request_is_refused_in_time_and_none_of_them_happens_late(tmp_path, counts, monkeypatch):
    if not counts:  # then the first thing that a request does is to ask the store how many runs are open
        monkeypatch.setattr("offramp.paths.bounds.COUNT_AGAIN_S", 0.0)
    async with member(made(), tmp_path, "local", write_timeout=TIMEOUT_S) as service:
        waiting = (await service.submit(Submission(pipeline="asks", input=b"{}"))).record.id
        await waits(service, waiting)
        async with hung(service):
            refused = await asyncio.gather(*(refusal(asked(service, waiting, number)) for number in range(50)))
            assert any("may or may not have happened" in str(error) for error in refused)
            assert {error.status for error in refused} == {503}
            ready, reason = await service.ready()
            assert not ready
            assert "the store has kept a request waiting" in reason
            assert service.readiness.takes_runs() == (False, reason)
            late = await refusal(service.submit(Submission(pipeline="quick", input=b"{}")))
            assert late.status == 503
            began = time.monotonic()
            await eventually(lambda: time.monotonic() > began + TIMEOUT_S)

        async def is_ready():
            return (await service.ready())[0]

        await eventually(is_ready)
        assert [run["id"] for run in (await service.list(RunFilter()))[0]] == [waiting]
        assert await service.process.store.signals(waiting) == []
        again = (await service.submit(Submission(pipeline="quick", input=b"{}", idempotency_key="key 1"))).record.id
        assert (await frames_of(service, again))[-1].type == "run.completed"


async def test_a_run_that_is_being_written_when_its_request_is_refused_is_the_one_that_the_key_attaches_to(tmp_path):
    async with member(made(), tmp_path, "local", write_timeout=TIMEOUT_S) as service:
        await frames_of(service, (await service.submit(Submission(pipeline="quick", input=b"{}"))).record.id)
        entered, go = Signal(), Signal()
        writer = service.process.store.writer
        tell = writer._tell

        def held(transaction):
            if any(batch.first == 1 for batch in transaction.published.values()) and not entered.is_set():
                entered.set()
                go.block()
            tell(transaction)

        writer._tell = held
        submission = Submission(pipeline="quick", input=b"{}", idempotency_key="one")
        error = await refusal(service.submit(submission))
        assert isinstance(error, StoreTimeout)
        assert entered.is_set()
        go.set()
        await eventually(lambda: service.process.store.trouble() is None)
        accepted = await service.submit(submission)
        assert accepted.attached
        assert (await frames_of(service, accepted.record.id))[-1].type == "run.completed"
        assert len((await service.list(RunFilter()))[0]) == 2


async def test_a_cancellation_that_was_refused_may_happen_still(tmp_path):
    async with member(made(), tmp_path, "local", write_timeout=TIMEOUT_S) as service:
        waiting = (await service.submit(Submission(pipeline="asks", input=b"{}"))).record.id
        await waits(service, waiting)
        async with hung(service):
            assert isinstance(await refusal(service.cancel(waiting)), StoreTimeout)
        assert (await frames_of(service, waiting))[-1].type == "run.cancelled"


async def test_a_read_that_hangs_is_given_up(tmp_path):
    async with member(made(), tmp_path, "local", write_timeout=TIMEOUT_S) as service:
        run = (await service.submit(Submission(pipeline="quick", input=b"{}"))).record.id
        await frames_of(service, run)
        go = Signal()
        readers = [service.process.store.database.readers.submit(lambda _: go.block(), None) for _ in range(READERS)]
        try:
            for read in (
                lambda: service.get(run),
                lambda: service.document(run),
                lambda: service.list(RunFilter()),
                service.ready,
                lambda: service.signal(run, "late"),
            ):
                assert isinstance(await refusal(read()), StoreTimeout)
        finally:
            go.set()
        assert [reader.result() for reader in readers] == [None] * READERS
        assert (await service.get(run)).status == "completed"
        assert await service.process.store.signals(run) == []


async def test_what_a_request_no_longer_waits_for_goes_on_and_is_trouble_until_it_ends():
    patience, ends = Patience(0.01, lambda: None), Signal()

    async def work():
        await ends.wait()
        return "done"

    with pytest.raises(StoreTimeout, match=r"within 0\.01 s"):
        await patience.write(work)
    assert "kept a request waiting" in patience.trouble()
    ends.set()
    await eventually(lambda: patience.trouble() is None)


async def test_a_timeout_of_the_work_itself_is_not_taken_for_ours():
    async def fails():
        raise TimeoutError("its own")

    patience = Patience(GUARD_S, lambda: None)
    with pytest.raises(TimeoutError, match="its own"):
        await patience.read(fails())
    with pytest.raises(TimeoutError, match="its own"):
        await patience.write(fails)


async def test_a_request_that_is_cancelled_leaves_its_work_to_end():
    patience, begun, ends, done = Patience(GUARD_S, lambda: None), Signal(), Signal(), Signal()

    async def work():
        begun.set()
        await ends.wait()
        done.set()

    request = asyncio.ensure_future(patience.write(work))
    await begun.wait()
    request.cancel()
    with pytest.raises(asyncio.CancelledError):
        await request
    assert patience.trouble() is None
    ends.set()
    await done.wait()
