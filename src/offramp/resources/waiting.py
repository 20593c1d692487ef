"""Waiting for a permit, in a thread and on a loop."""

from __future__ import annotations

import asyncio

from offramp.core.limits.spec import ResourceSpec
from offramp.errors import BlocksLoop
from offramp.ports.limits import Holder
from offramp.resources.holding import Asking, Holding, Need


def acquire(spec: ResourceSpec, holder: Holder, need: Need) -> Holding:
    """A permit, for which this thread waits.

    Raises:
        BlocksLoop: an event loop runs on this thread.
        OfframpError: it is refused; see `Asking.holding`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise BlocksLoop(
            f"resource {spec.name!r} is called by plain code on an event loop, which would stand still while the call "
            "waits for a permit: use async_http_client() or 'async with', or move the code to a step declared with a "
            "plain 'def', which runs in a thread"
        )
    with Asking(spec, holder, need) as asking:
        asking.answered.result()
    return asking.holding()


async def acquire_async(spec: ResourceSpec, holder: Holder, need: Need) -> Holding:
    """A permit, for which this task waits.

    Raises:
        OfframpError: it is refused; see `Asking.holding`.
    """
    with Asking(spec, holder, need) as asking:
        if not asking.answered.done():
            await asyncio.wrap_future(asking.answered)
    return asking.holding()
