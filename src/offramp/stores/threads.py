"""Blocking reads of a store, on threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from offramp.errors import StoreError

T = TypeVar("T")
Q = TypeVar("Q")


async def read_on(threads: ThreadPoolExecutor, read: Callable[[Q], T], query: Q) -> T:
    """Run `read(query)` on one of the threads.

    Raises:
        StoreError: the threads were shut down.
    """
    try:
        reading = asyncio.get_running_loop().run_in_executor(threads, read, query)
    except RuntimeError as error:
        raise StoreError("the store is closed") from error
    return await reading
