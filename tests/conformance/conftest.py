"""Cases that wait in real time rather than compute are played several at a time."""

from __future__ import annotations

import asyncio

import pytest

from offramp.conformance import prove_engine

AT_ONCE = 5
AHEAD = 20
"""As they take up to 11 s each, a place is seldom empty."""


@pytest.fixture(scope="session")
def outcomes():
    """By test id: the outcome of a case that another test played as well."""
    return {}


@pytest.fixture
def play(request, outcomes):
    """Plays this test's case, and at the same time those of the next tests that use this fixture.

    Each case has its own site, and each test the outcome of its own case.
    """

    async def play():
        if request.node.nodeid not in outcomes:
            await play_next(request.node, outcomes)
        error = outcomes.pop(request.node.nodeid)
        if error is not None:
            raise error

    return play


async def play_next(first, outcomes):
    items = first.session.items
    later = [item for item in items[items.index(first) + 1 :] if "play" in item.fixturenames]
    together = [first, *(item for item in later if item.nodeid not in outcomes)][:AHEAD]
    room = asyncio.Semaphore(AT_ONCE)

    async def played(item):
        async with room:
            await prove_engine(item.callspec.params["case"], item.callspec.params["harness"])

    found = await asyncio.gather(*map(played, together), return_exceptions=True)
    outcomes.update(zip((item.nodeid for item in together), found, strict=True))
