"""`offramp worker`: executes deep runs until a signal stops it; started by hand or by `offramp serve`."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from offramp.cli.collector import relax
from offramp.cli.engines import data_place, load_settings, warn_of_unread
from offramp.cli.logs import show_logs
from offramp.cli.options import (
    DrainTimeout,
    Engine,
    LogFormat,
    Objects,
    Store,
    Target,
    WorkerData,
    WorkerMetrics,
    WriteTimeout,
)
from offramp.cli.output import OK
from offramp.cli.pulse import send_pulse
from offramp.cli.secrets import received, withdraw
from offramp.cli.signals import Stop
from offramp.cli.supervisor import supervised
from offramp.cli.target import load_app
from offramp.telemetry.setup import set_up

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.paths.service import Service
    from offramp.settings import Settings
    from offramp.telemetry.scrape import Pages

logger = logging.getLogger("offramp")


def worker(
    target: Target,
    *,
    data: WorkerData = None,
    engine: Engine = None,
    store: Store = None,
    objects: Objects = None,
    write_timeout: WriteTimeout = None,
    drain_timeout: DrainTimeout = None,
    worker_metrics: WorkerMetrics = None,
    log_format: LogFormat = None,
) -> int:
    """Execute the deep runs of an App.

    Takes queued runs from the engine. On SIGTERM it hands over its runs and exits 0.
    """
    started = time.monotonic()
    faulthandler.enable()  # a crash in C code, and the abort of a hung process, write the stacks of all threads
    number, owner = supervised()
    send_pulse()
    told = received() if owner is not None else {}
    settings = load_settings(
        data=data,
        engine=engine,
        store=store or told.get("store"),
        temporal_api_key=told.get("temporal_api_key"),
        objects=objects,
        write_timeout=write_timeout,
        drain_timeout=drain_timeout,
        worker_metrics=worker_metrics,
        log_format=log_format,
    )
    withdraw()
    name = f"worker {number}" if number else ""
    show_logs(name or "worker", settings.log_format, who=name)
    if owner is None:  # otherwise the serving process has logged it
        warn_of_unread()
    app = load_app(target)
    with contextlib.closing(set_up(app.name, "worker")):
        return asyncio.run(_work(app, settings, number, owner, started))


async def _work(app: App, settings: Settings, number: int, owner: str | None, started: float) -> int:
    from offramp.telemetry.scrape import scraped
    from offramp.wiring import build

    with Stop(watch_stdin=owner is not None) as stop:
        service = build(app, settings, role="worker", owner=owner)
        pages = _probes(service) if settings.worker_metrics else {}
        with scraped(service.collectors, settings.worker_metrics, max(0, number - 1), pages):
            try:
                if not await _started(service, stop):
                    return OK
                relax()
                ready_s = time.monotonic() - started
                logger.info("ready in %.1f s, data in %s", ready_s, data_place(settings))
                if owner is None:  # else it counts where it was started
                    service.metrics.cold_start("worker", ready_s)
                await stop.asked()
                logger.info("stopping (%s): running work is handed over", stop.reason)
                await _drained(service.drain(), stop)
            finally:
                await service.stop()
    return OK


async def _started(service: Service, stop: Stop) -> bool:
    """Start, unless a signal comes first.

    Raises:
        OfframpError: the service did not start.
    """
    starting, asked = asyncio.create_task(service.start()), asyncio.create_task(stop.asked())
    await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
    asked.cancel()
    if starting.done():
        await starting
        return True
    logger.info("stopping (%s) before it was ready", stop.reason)
    starting.cancel()
    await asyncio.wait({starting})
    return False


def _probes(service: Service) -> Pages:
    """The pages beside the metrics."""
    from offramp.gateway.probes import probes

    return probes(service.readiness)


async def _drained(drain: Coroutine[Any, Any, None], stop: Stop) -> None:
    """Drain, unless a second signal comes."""
    draining, hurried = asyncio.create_task(drain), asyncio.create_task(stop.hurried())
    await asyncio.wait({draining, hurried}, return_when=asyncio.FIRST_COMPLETED)
    for task in (draining, hurried):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await draining
