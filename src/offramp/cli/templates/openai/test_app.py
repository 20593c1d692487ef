"""Run with: python -m pytest. No model is called."""

import asyncio

from app import app

from offramp import testing

FAKES = {"outline": ["Past", "Future"], "write": lambda topic, title: f"{title} of {topic}."}


def test_every_section_of_the_outline_is_written() -> None:
    async def ask() -> None:
        async with testing.runtime(app, fakes=FAKES) as runtime:
            handle = await runtime.start("report", topic="tea")
            result = await testing.result_of(handle)
            assert result == "# Past\n\nPast of tea.\n\n# Future\n\nFuture of tea."

    asyncio.run(ask())
