"""Run with: python -m pytest."""

import asyncio

from app import app

from offramp import testing


def test_the_answer_of_the_writer_is_the_result() -> None:
    async def ask() -> None:
        async with testing.runtime(app, fakes={"search": "a note", "write": "Because."}) as runtime:
            handle = await runtime.start("research", question="Why?")
            assert await testing.result_of(handle) == "Because."

    asyncio.run(ask())


def test_the_pipeline_can_continue_in_another_process() -> None:
    asyncio.run(testing.replays(app, "research", question="Why?"))
