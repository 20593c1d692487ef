"""Keeps a worker alive where a task that a body began raises what would end the event loop around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("offramp")


def outlast_exits(loop: Any) -> None:
    """Let a task of this loop, a workflow's, end by `SystemExit` or `KeyboardInterrupt` as by any other exception.

    A task hands both on to its loop, and Temporal's would hand them on to the worker. What awaits the task gets them.
    """
    schedule: Callable[..., asyncio.Handle] = loop.call_soon

    def call_soon(callback: Callable[..., object], *args: Any, **options: Any) -> asyncio.Handle:
        return schedule(_outlasting, callback, *args, **options)

    loop.call_soon = call_soon


def _outlasting(callback: Callable[..., object], *args: Any) -> None:
    try:
        callback(*args)
    except (SystemExit, KeyboardInterrupt) as error:
        logger.error("a task of a pipeline raised %r; all others go on", error)  # noqa: TRY400 - the run shows it
