"""Keeps a worker alive when a task of a body raises an exception that would end the worker's event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("offramp")


def outlast_exits(loop: Any) -> None:
    """End a task of this workflow loop by `SystemExit` or `KeyboardInterrupt` as by any other exception.

    A task passes both on to its loop, and Temporal's loop would pass them on to the worker. Code that
    awaits the task receives them.
    """
    schedule: Callable[..., asyncio.Handle] = loop.call_soon

    def call_soon(callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
        return schedule(_outlasting, callback, *args, **options)

    loop.call_soon = call_soon


def _outlasting(callback: Callable[..., object], *args: Any) -> None:
    try:
        callback(*args)
    except (SystemExit, KeyboardInterrupt) as error:
        logger.error("a task of a pipeline raised %r; all others continue", error)  # noqa: TRY400 - the run shows it
