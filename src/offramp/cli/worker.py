"""`offramp worker`: executes deep runs until it is told to stop; started by hand or by `offramp serve`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from offramp.cli.engines import load_settings
from offramp.cli.logs import show_logs
from offramp.cli.options import DrainTimeout, Engine, Store, Target, WorkerData
from offramp.cli.output import OK
from offramp.cli.signals import Stop
from offramp.cli.supervisor import supervised
from offramp.cli.target import load_app

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.settings import Settings

log = logging.getLogger("offramp")


def worker(
    target: Target,
    *,
    data: WorkerData = None,
    engine: Engine = None,
    store: Store = None,
    drain_timeout: DrainTimeout = None,
) -> int:
    """Execute the deep runs of an App.

    Takes queued runs from the engine. On SIGTERM it hands over what it is running and exits 0.
    """
    started = time.monotonic()
    number, owner = supervised()
    show_logs(f"worker {number}" if number else "")
    settings = load_settings(data=data, engine=engine, store=store, drain_timeout=drain_timeout)
    app = load_app(target)
    return asyncio.run(_work(app, settings, owner, started))


async def _work(app: App, settings: Settings, owner: str | None, started: float) -> int:
    from offramp.wiring import build

    with Stop(watch_stdin=owner is not None) as stop:
        service = build(app, settings, role="worker", owner=owner)
        await service.start()
        try:
            log.info("ready in %.1f s, data in %s", time.monotonic() - started, settings.data)
            await stop.asked()
            log.info("stopping (%s): running work is handed over", stop.reason)
            await _drained(service.drain(), stop)
        finally:
            await service.stop()
    return OK


async def _drained(drain: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Drain, unless told a second time to stop."""
    draining, hurried = asyncio.create_task(drain), asyncio.create_task(stop.hurried())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurried):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await draining
