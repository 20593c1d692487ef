"""What went in and out of a run's steps is the same on every store, and stays with a demotion."""

from __future__ import annotations

import pytest

from offramp import SLA, App, testing
from offramp.paths.local import LocalRuntime
from offramp.settings import Settings
from tests import valkey
from tests.paths.inspected import app, check
from tests.support import Signal, member, reach, result_of


async def test_in_memory():
    async with testing.runtime(app) as runtime:
        await check(runtime)


async def test_in_a_database(tmp_path):
    async with member(app, tmp_path, "local") as service:
        await check(LocalRuntime(service))


@pytest.mark.skipif(valkey.missing() is not None, reason=valkey.missing() or "")
async def test_on_redis(tmp_path):
    server = valkey.Server(tmp_path)
    try:
        async with member(app, tmp_path, "local", store=server.url()) as service:
            await check(LocalRuntime(service))
    finally:
        server.kill()


WHOLE = '{"text":"1234567"}'
CUT = {"truncated": True, "bytes": len(WHOLE), "preview": WHOLE, "link": None}


@pytest.mark.parametrize(("bytes_max", "shown"), [(len(WHOLE), {"text": "1234567"}), (len(WHOLE) - 1, CUT)])
async def test_the_edge_of_what_is_recorded_whole(bytes_max, shown):
    small = App("small")

    @small.step
    async def takes(text: str) -> None: ...

    @small.pipeline
    async def passes() -> None:
        await takes("1234567")

    async with testing.runtime(small, record_arguments=bytes_max) as runtime:
        handle = await runtime.start("passes")
        await result_of(handle)
        [step] = (await handle.document(["steps"]))["steps"]
    assert step["arguments"] == shown


def test_what_a_request_may_carry_is_recorded_whole_as_a_rule():
    assert Settings().record_arguments >= Settings().max_body_bytes


async def test_none_are_recorded_if_so_set():
    async with testing.runtime(app, record_arguments=0) as runtime:
        handle = await runtime.start("shows", question="why")
        await result_of(handle)
        document = await handle.document(["steps"])
    assert {str(step["arguments"]) for step in document["steps"]} == {"None"}
    assert document["steps"][0]["result"] == ["web: why"] * 3


async def test_a_step_that_runs_has_no_arguments_yet_and_a_demotion_keeps_those_of_others():
    held, may = App("held", classes=[SLA("now", budget=0.05)]), Signal()

    @held.step
    async def first(word: str) -> str:
        return word

    @held.step
    async def holds(word: str) -> str:
        await may.wait()
        return word

    @held.step
    async def last(word: str) -> str:
        return word

    @held.pipeline(sla="now")
    async def goes_on() -> str:
        return await last(await holds(await first("x")))

    async with testing.runtime(held) as runtime:
        handle = await runtime.start("goes_on")
        await reach(handle, "run.demoted")
        begun = await handle.document(["steps"])
        may.set()
        await result_of(handle)
        ended = await handle.document(["steps"])
    assert [step["arguments"] for step in begun["steps"]] == [{"word": "x"}, None]
    assert [step["arguments"] for step in ended["steps"]] == [{"word": "x"}] * 3
