"""`offramp serve`: the gateway in this process, and its worker processes."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from offramp.cli.collector import relax
from offramp.cli.engines import crew_of, data_place, load_settings, warn_of_unread
from offramp.cli.logs import show_logs
from offramp.cli.options import (
    AllowHost,
    Cors,
    Data,
    DrainTimeout,
    Engine,
    Host,
    Insecure,
    LogFormat,
    MaxBudget,
    Objects,
    Port,
    Reload,
    RootPath,
    Store,
    Target,
    TenantShare,
    WorkerMetrics,
    Workers,
    WriteTimeout,
)
from offramp.cli.output import CommandError, counted
from offramp.cli.reload import DRAIN_S, inherited, serve_versions
from offramp.cli.secrets import for_worker, withdraw
from offramp.cli.supervisor import KILL_MARGIN_S, Supervisor
from offramp.cli.target import load_app
from offramp.core.keys import shown_tenant

if TYPE_CHECKING:
    from offramp.app import App
    from offramp.gateway.access import Access
    from offramp.settings import Settings

logger = logging.getLogger("offramp")


def serve(  # noqa: PLR0913 - each is an option of the command
    target: Target,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    data: Data = None,
    workers: Workers = "1",
    engine: Engine = None,
    store: Store = None,
    objects: Objects = None,
    write_timeout: WriteTimeout = None,
    drain_timeout: DrainTimeout = None,
    max_budget: MaxBudget = None,
    tenant_share: TenantShare = None,
    worker_metrics: WorkerMetrics = None,
    log_format: LogFormat = None,
    allow_host: AllowHost = None,
    cors: Cors = None,
    root_path: RootPath = None,
    insecure: Insecure = False,
    reload: Reload = False,
) -> int:
    """Serve an App over HTTP, with worker processes for the deep path.

    A worker that dies is restarted. On SIGTERM the gateway drains, hands its runs over and exits 0.
    """
    if reload and drain_timeout is None:
        drain_timeout = DRAIN_S
    settings = load_settings(
        data=data,
        workers=workers,
        engine=engine,
        store=store,
        objects=objects,
        write_timeout=write_timeout,
        drain_timeout=drain_timeout,
        max_budget=max_budget,
        tenant_share=tenant_share,
        worker_metrics=worker_metrics,
        log_format=log_format,
        allow_hosts=",".join(allow_host) if allow_host else None,
        cors_origins=",".join(cors) if cors else None,
        root_path=root_path,
    )
    show_logs("gateway", settings.log_format)
    bound = inherited() if reload else None
    if reload and bound is None:
        return _reloading(target, settings, host, port, insecure=insecure)
    withdraw()
    return _serve(served_app(target), target, settings, host, port, insecure=insecure, bound=bound)


def _reloading(target: str, settings: Settings, host: str, port: int, *, insecure: bool) -> int:
    from offramp.gateway.access import Access
    from offramp.gateway.wire import server

    with closing(server.bind(host, port, insecure=insecure, keys=Access.of(settings, host).closed)) as bound:
        return serve_versions(target, bound, settings.drain_timeout)


def _serve(
    app: App,
    target: str,
    settings: Settings,
    host: str,
    port: int,
    *,
    insecure: bool,
    bound: socket.socket | None,
) -> int:
    from offramp.cli.supervised import SupervisedGateway
    from offramp.core.addresses import parse_root_path
    from offramp.gateway.access import Access
    from offramp.gateway.descriptors import raise_limit
    from offramp.gateway.wire import server
    from offramp.telemetry.setup import set_up
    from offramp.wiring import build

    raise_limit()
    access = Access.of(settings, host)
    root_path = parse_root_path(settings.root_path)
    span = crew_of(app.classes, settings)
    gateway = SupervisedGateway(
        lambda: build(app, settings, role="gateway", on_present=gateway.present),
        lambda retire: _supervisor(target, span.low, settings, retire),
        access,
        root_path,
        span=span,
    )

    def started(url: str) -> None:
        relax()
        _log_access(app, url + root_path, access, host)
        if span.scales:
            logger.info("workers: %s, by how long runs wait; fewer after %g s", span, settings.workers_idle)
        if not span.high:
            logger.info("no workers here; elsewhere: %s", worker_elsewhere(target, settings))

    with closing(set_up(app.name, "gateway")):
        return server.serve(
            gateway,
            host,
            port,
            drain_timeout=settings.drain_timeout + KILL_MARGIN_S,
            insecure=insecure,
            keys=access.closed,
            on_started=started,
            bound=bound,
        )


def _supervisor(target: str, workers: int, settings: Settings, retire: Callable[[str], Awaitable[int]]) -> Supervisor:
    command, secrets = worker_command(target, settings), for_worker(settings)
    return Supervisor(command, workers, retire, settings.drain_timeout, secrets, silence_s=settings.lease)


def served_app(target: str) -> App:
    """The App, if there is something to serve.

    Raises:
        CommandError: it cannot be imported, or has no pipeline.
    """
    warn_of_unread()
    app = load_app(target)
    if not app.pipelines:
        raise CommandError(f"{target} declares no pipeline: there is nothing to serve")
    return app


def _log_access(app: App, url: str, access: Access, host: str) -> None:
    from offramp.core.addresses import is_loopback
    from offramp.core.origins import ANY_ORIGIN

    pipelines = counted(len(app.pipelines), "pipeline")
    logger.info("%s: %s at %s, to read and try at %s/docs", app.name, pipelines, url, url)
    if access.closed:
        tenants = {shown_tenant(key.tenant) for key in access.keys}
        keys = counted(len(access.keys), "API key")
        logger.info("%s of %s; requests need one", keys, counted(len(tenants), "tenant"))
    elif is_loopback(host):
        logger.info("no API keys: serving this machine only; 'offramp keys add NAME' makes one")
    else:
        logger.warning("no API keys, and others can reach %s: every client may start, read and cancel runs", host)
    if ANY_ORIGIN in access.origins:
        logger.warning("cors_origins is '*': any page in a browser that reaches this gateway may use it")
    elif access.origins:
        logger.info("pages that may use it: %s", ", ".join(sorted(access.origins)))


def worker_command(target: str, settings: Settings) -> list[str]:
    """The command of a worker for the same App and data; it inherits other settings in the environment.

    It gets secrets over stdin (`secrets.for_worker`): every user of the machine can see arguments.
    """
    command = [sys.executable, "-m", "offramp", "worker", target, *engine_options(settings)]
    command += ["--write-timeout", f"{settings.write_timeout:g}", "--drain-timeout", f"{settings.drain_timeout:g}"]
    command += ["--log-format", settings.log_format]
    return [*command, "--worker-metrics", settings.worker_metrics] if settings.worker_metrics else command


def worker_elsewhere(target: str, settings: Settings) -> str:
    """The command to start a worker by hand on another machine."""
    command = f"offramp worker {target} {' '.join(engine_options(settings))}"
    return f"{command}, with OFFRAMP_STORE for {data_place(settings)}" if settings.store else command


def engine_options(settings: Settings) -> list[str]:
    """The options for engine, data folder and large values, valid in any working directory."""
    from offramp.stores.blobs.address import parse_objects

    folder = str(Path(settings.data).resolve())
    place = parse_objects(settings.objects)
    objects = ["--objects", str(place.resolve()) if isinstance(place, Path) else settings.objects] if place else []
    if settings.engine.startswith("temporal:"):
        return ["--engine", settings.engine, "--data", folder, *objects]
    return ["--engine", f"embedded:{folder}", *objects]
