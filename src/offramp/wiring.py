"""The composition root: the only place that picks adapters and puts a process together."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from offramp.core.addresses import parse_allowed
from offramp.core.advisers import RULE_TIMEOUT_S, Adviser
from offramp.core.limits.hedging import Hedges
from offramp.core.scaling import lane_processes
from offramp.core.shares import Tenancy
from offramp.core.webhooks import parse_secrets
from offramp.declarations import Declarations
from offramp.engines.embedded.engine import EmbeddedEngine
from offramp.engines.leased.hints import UDPHints
from offramp.engines.leased.membership import Links
from offramp.engines.leased.presence import Presence
from offramp.engines.leased.seat import Member
from offramp.errors import MissingExtra, SettingsError
from offramp.execution.advice import Advice, Consultant
from offramp.execution.clock import SystemClock
from offramp.execution.crowd import Crowd
from offramp.execution.hedging import Hedging
from offramp.execution.lanes import Lanes
from offramp.execution.lease_window import LeaseWindow
from offramp.execution.leftovers import Leftovers
from offramp.execution.loops import LoopThread, RunLoops
from offramp.execution.permits import Permits
from offramp.execution.processes import ProcessLane
from offramp.execution.steps import LocalSteps
from offramp.execution.threads import Threads
from offramp.execution.values import Values
from offramp.execution.warming import Warming
from offramp.execution.watchdog import Watchdog
from offramp.limits.counted import CountedLimits
from offramp.limits.opening import Meeting, meeting
from offramp.paths.deep import DeepPath
from offramp.paths.deliver import Feed
from offramp.paths.demote import Demoter
from offramp.paths.engine_path import EnginePath
from offramp.paths.live import LiveRuns
from offramp.paths.local import LocalRuntime
from offramp.paths.process import Process
from offramp.paths.roster import Roster
from offramp.paths.service import Service
from offramp.paths.webhooks import WebhookDispatcher
from offramp.ports.bodies import PAYLOAD_BYTES_MAX
from offramp.ports.extras import install
from offramp.ports.seams import NO_SEAMS, Seams
from offramp.settings import Given, Settings
from offramp.stores.blobs.places import open_blobs
from offramp.stores.memory import MemoryStore
from offramp.stores.redis.address import Address, is_redis, without_password
from offramp.stores.sqlite import Database, SQLiteStore
from offramp.stores.sqlite.crash_points import CrashPoint
from offramp.stores.sqlite.leases import SQLiteLeases
from offramp.stores.sqlite.outbox import SQLiteOutbox
from offramp.stores.sqlite.writer import Writer
from offramp.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from offramp.ports.clock import Clock
    from offramp.ports.engine import Engine
    from offramp.ports.hints import Hints
    from offramp.ports.limits import Limits
    from offramp.ports.outbox import Outbox
    from offramp.ports.store import Leases, Owner, Store
    from offramp.telemetry.tracing import Tracing

Role = Literal["gateway", "worker", "local"]
DRAIN_MARGIN_S = 3.0
"""What a stopping worker of Temporal's keeps of its drain for telling Temporal what was interrupted."""


def data_folder(settings: Settings) -> Path:
    """Where the database is: in the engine URL (`embedded:DIR`), else `data`.

    Raises:
        SettingsError: the engine URL does not fit, or names something this version does not have.
    """
    scheme, _, place = settings.engine.partition(":")
    if scheme == "temporal":
        from offramp.engines.temporal.address import Address as TemporalAddress

        TemporalAddress.parse(settings.engine)
        return Path(settings.data)
    if scheme != "embedded":
        raise SettingsError(
            f"engine {settings.engine!r}: this version has embedded: (SQLite) and temporal://host:port/namespace"
        )
    return Path(place or settings.data)


def build(
    app: Declarations,
    settings: Settings,
    *,
    role: Role,
    owner: str | None = None,
    clock: Clock | None = None,
    on_present: Callable[[Collection[str]], object] = lambda _ids: None,
    seams: Seams = NO_SEAMS,
    warms: bool = True,
    limits: Limits | None = None,
    alone: bool = False,
) -> Service:
    """A process of the service, not started yet.

    Args:
        app: what it serves.
        settings: how.
        role: `gateway` executes fast runs, `worker` deep ones, `local` both.
        owner: its id among the processes; made up otherwise.
        clock: the system's otherwise.
        on_present: told the ids of the processes that hold a lease, on another thread, whenever that was looked up.
        seams: what each attempt of a step waits for before it, and what is around it.
        warms: whether `start` makes the clients of `per_loop`, and waits for process lanes.
        limits: give the permits of the app's resources; None opens those that the settings name.
        alone: whether no other process can share the limits, as the data directory is this one's own.
    """
    alone = alone or clock is not None or settings.store == "memory:"
    clock = clock or SystemClock()
    metrics = Metrics(app.classes)
    imports = _imports(app)
    values = _values(settings, role, clock)
    tracing = _tracing(settings)
    store, leases, outbox = _store(settings, role, metrics)
    loops = RunLoops(settings.spare_loops)
    watchdog = Watchdog(loops, settings.blocked_after, metrics.blocked)
    control = LoopThread("offramp-control")
    shared = _meeting(app, settings, clock, alone=alone and role == "local" and not imports)
    processes = _process_lane(app, imports, settings, metrics, tracing, shared) if imports else None
    opened = None if limits is not None or shared is None else CountedLimits(shared.open(clock), metrics)
    limits = limits or opened
    lanes = _lanes(settings, metrics, control, processes, _hedging(app, metrics, limits))
    warming = Warming(
        app.start_hooks, loops, processes, settings.start_timeout, joins_first=role == "gateway", only_hooks=not warms
    )
    member_id = owner or f"{role}-{socket.gethostname()}-{os.getpid()}-{clock.random_bytes(3).hex()}"
    hints = _hints(settings, member_id)
    feed = Feed(hints.follow, hints.unfollow)
    store.listen(feed.publish)
    process = Process(
        id=member_id,
        settings=settings,
        pipelines={name: pipeline.spec for name, pipeline in app.pipelines.items()},
        classes=app.classes,
        clock=clock,
        store=store,
        values=values,
        control=control,
        loops=loops,
        lanes=lanes,
        steps=LocalSteps(lanes, seams, _permits(limits, settings, clock)),
        lease_window=LeaseWindow(),
        tenancy=Tenancy(settings.tenant_share),
        feed=feed,
        metrics=metrics,
        advice=_advice(app, loops, metrics),
        tracing=tracing,
        on_present=on_present,
        limits=limits,
    )

    parts = (watchdog, process.advice, lanes, loops, app.service.begin(limits, clock), opened)
    close = functools.partial(_close, parts, leases, control, values)
    return _service(app, process, leases, outbox, hints, role, warming=warming, close=close)


class _Part(Protocol):
    """What ends with the process."""

    def close(self) -> object:
        """End."""


def _close(parts: Iterable[_Part | None], leases: Leases, control: LoopThread, values: Values) -> None:
    for part in parts:
        if part is not None:
            part.close()
    leases.leave()
    control.close()
    values.close()


def _values(settings: Settings, role: Role, clock: Clock) -> Values:
    """Where large values go."""
    if settings.objects == "memory:" and role != "local":
        raise SettingsError("objects memory: is for one process and its tests; name a folder or a bucket")
    return Values(open_blobs(settings.objects), settings.objects_above, settings.objects_patience, clock)


def _meeting(app: Declarations, settings: Settings, clock: Clock, *, alone: bool) -> Meeting | None:
    """How the processes of the service share the limits of its resources; None without any."""
    specs = [resource.spec for resource in app.resources.values()]
    redis = settings.store if is_redis(settings.store) else ""
    return meeting(specs, app.classes, data_folder(settings), clock, redis=redis, alone=alone)


def _permits(limits: Limits | None, settings: Settings, clock: Clock) -> Permits | None:
    """What the attempts of this process get permits from; None without resources."""
    return None if limits is None else Permits(limits, clock, Crowd(settings.worker_runs, clock))


def _service(
    app: Declarations,
    process: Process,
    leases: Leases,
    outbox: Outbox,
    hints: Hints,
    role: Role,
    *,
    warming: Warming,
    close: Callable[[], None],
) -> Service:
    """Its paths, and the engine between them."""
    live = LiveRuns(
        process,
        lambda: engine.has_room(),  # noqa: PLW0108 - made below, as the next
        lambda run, until: demoter.waits(run, until),  # noqa: PLW0108
        lambda run, estimate, reasons: demoter.doomed(run, estimate, reasons),  # noqa: PLW0108
        shows_levels=role != "worker",
    )
    dispatcher = _dispatcher(process, outbox) if role != "worker" else None
    deep, engine = _engine(app, process, live, leases, role, dispatcher, hints)
    demoter = Demoter(process, engine, live)
    outbox.listen(dispatcher.wake if dispatcher else functools.partial(hints.send, "webhooks"))
    process.store.on_lost(lambda lease: process.control.call(deep.lost, lease))
    roster = Roster(process, leases, live, deep.places if role != "gateway" else lambda: (0, 0))
    return Service(
        app.name, process, live, demoter, deep, engine, dispatcher, roster=roster, warming=warming, close=close
    )


def _engine(
    app: Declarations,
    process: Process,
    live: LiveRuns,
    leases: Leases,
    role: Role,
    dispatcher: WebhookDispatcher | None,
    hints: Hints,
) -> tuple[DeepPath, Engine]:
    """What drives deep runs, and what executes them here for it."""
    settings, clock, metrics = process.settings, process.clock, process.metrics
    member = Member(
        id=process.id,
        kind=role,
        works=role != "gateway",
        lease_s=settings.lease,
        poll_s=settings.poll,
        queue_max=settings.queue_runs,
        tenancy=process.tenancy,
        queue_limits={sla.name: sla.queue_limit for sla in process.classes.values() if sla.queue_limit is not None},
    )
    # Only what is shared through a folder can be seen to live by a lock in it.
    presence = None if settings.store else Presence(data_folder(settings) / "alive", process.id)

    def present(owners: Sequence[Owner]) -> None:
        held = [owner for owner in owners if owner.expires_at > clock.time()]
        metrics.workers_warm([owner.id for owner in held if owner.ready], clock.monotonic())
        process.on_present({owner.id for owner in held})

    links = Links(
        hints=hints,
        presence=presence,
        on_events=process.feed.notice,
        on_webhooks=dispatcher.wake if dispatcher else lambda: None,
        on_owners=present,
    )
    if not settings.engine.startswith("temporal:"):
        deep = DeepPath(process, live)
        return deep, EmbeddedEngine(member, process.store, leases, clock, deep, links)
    durable = EnginePath(process, live, {name: step.spec for name, step in app.steps.items()})
    return durable, _temporal(settings, member, process, leases, durable, links)


def _temporal(
    settings: Settings, member: Member, process: Process, leases: Leases, host: EnginePath, links: Links
) -> Engine:
    """The engine on Temporal.

    Raises:
        MissingExtra: the extra `temporal` is not installed.
        SettingsError: the engine URL does not fit.
    """
    try:
        from offramp.engines.temporal.engine import Options, TemporalEngine
    except ImportError as error:
        raise MissingExtra(f"engine temporal:// needs {error.name}: {install('temporal')}") from error
    from offramp.engines.temporal.address import Address as TemporalAddress

    options = Options(
        address=TemporalAddress.parse(settings.engine),
        api_key=settings.temporal_api_key,
        activities_max=settings.worker_runs,
        heartbeat_s=settings.lease,
        cancel_grace_s=settings.cancel_grace,
        grace_s=max(0.0, settings.drain_timeout - DRAIN_MARGIN_S),
        objects_wait_s=settings.objects_patience,
    )
    return TemporalEngine(
        member, options, process.store, leases, process.clock, host, links, blobs=process.values.blobs
    )


def _step_bytes_max(settings: Settings) -> int:
    """Of a step's result: what goes through Temporal is bounded by what its history should carry."""
    if settings.objects or not settings.engine.startswith("temporal:"):
        return settings.max_result_bytes
    return min(settings.max_result_bytes, PAYLOAD_BYTES_MAX)


def _dispatcher(process: Process, outbox: Outbox) -> WebhookDispatcher | None:
    """What delivers webhooks; nothing is sent unsigned."""
    secrets = parse_secrets(process.settings.webhook_secret)
    if not secrets:
        return None
    from offramp.egress.http import HttpSender
    from offramp.egress.signing import Signer

    allowed = parse_allowed(process.settings.webhook_allow, process.settings.webhook_ports)
    sender = HttpSender(Signer(secrets), allowed, process.clock, process.settings.webhook_timeout)
    return WebhookDispatcher(process, outbox, sender)


def _store(settings: Settings, role: Role, metrics: Metrics) -> tuple[Store, Leases, Outbox]:
    """The store, its leases and its outbox: SQLite, Redis, or memory for a process that is alone."""
    if settings.store == "memory:" and role == "local":
        memory = MemoryStore()
        return memory, memory, memory.outbox
    if is_redis(settings.store):
        return _redis(settings, metrics)
    if settings.store:
        raise SettingsError(
            f"store {without_password(settings.store)!r}: it is redis://host:port/db, or left out, and then SQLite "
            "beside the data (memory: is for tests in one process)"
        )
    database = Database(data_folder(settings), settings.tenant_share)
    crash = CrashPoint.armed(os.environ, role)
    writer = Writer(
        database,
        settings.sync_every,
        settings.backlog_bytes,
        metrics.committed,
        settings.write_timeout,
        crash,
    )
    return SQLiteStore(database, writer), SQLiteLeases(database, writer), SQLiteOutbox(database, writer)


def _hints(settings: Settings, own: str) -> Hints:
    """How processes tell each other: through the store they share, or on the one machine that they are on."""
    if not is_redis(settings.store):
        return UDPHints()
    from offramp.stores.redis.hints import RedisHints

    return RedisHints(Address.parse(settings.store), own)


def _redis(settings: Settings, metrics: Metrics) -> tuple[Store, Leases, Outbox]:
    """The store on Redis.

    Raises:
        MissingExtra: the extra `redis` is not installed.
        SettingsError: the URL does not fit, or what it leads to.
        StoreError: the server cannot be reached.
    """
    try:
        from offramp.stores.redis.opening import open_redis
    except ImportError as error:
        missing = (error.name or "redis").partition(".")[0]
        raise MissingExtra(f"store redis:// needs {missing}: {install('redis')}") from error
    return open_redis(
        Address.parse(settings.store),
        settings.backlog_bytes,
        settings.write_timeout,
        metrics.committed,
        settings.tenant_share,
    )


def _tracing(settings: Settings) -> Tracing | None:
    """The spans of this process, None while it has no provider for them."""
    from offramp.telemetry.tracing import Tracing

    return Tracing.current(settings.trace_content_bytes if settings.trace_content else None)


def _advice(app: Declarations, loops: RunLoops, metrics: Metrics) -> Advice:
    """The app's rules, classifier and feature functions."""

    def ready(adviser: Adviser, limit_s: float = RULE_TIMEOUT_S) -> Consultant:
        return Consultant(adviser, limit_s, loops, metrics.advised)

    return Advice(
        [ready(rule) for rule in app.rules],
        None if app.classifier is None else ready(app.classifier, app.classifier_timeout),
        {name: ready(each.describes) for name, each in app.pipelines.items() if each.describes is not None},
    )


def _hedging(app: Declarations, metrics: Metrics, limits: Limits | None) -> Hedging | None:
    """None if no step is hedged."""
    expected = [step.spec.policy.first for step in app.steps.values()]
    if not any(first is not None and first.hedge for first in expected):
        return None
    hedging = Hedging(Hedges(), lambda won: metrics.hedged(won=won))
    if limits is not None:
        limits.watch(hedging.watch)
    return hedging


def _lanes(
    settings: Settings,
    metrics: Metrics,
    control: LoopThread,
    processes: ProcessLane | None,
    hedging: Hedging | None,
) -> Lanes:
    threads = Threads(settings.threads)
    leftovers = Leftovers(threads, metrics, settings.cancel_grace, control.call)
    return Lanes(threads, processes, leftovers, settings.cancel_grace, _step_bytes_max(settings), hedging)


class _Imports(NamedTuple):
    """What a child of a process lane imports: modules with steps, and the places of start hooks."""

    modules: list[str]
    hooks: list[tuple[str, str]]


def _imports(app: Declarations) -> _Imports | None:
    """None if no step is for a process lane.

    Raises:
        DeclarationError: a start hook cannot be imported.
    """
    modules = {step.spec.function.__module__ for step in app.steps.values() if step.spec.policy.lane == "process"}
    return _Imports(sorted(modules), [hook.place for hook in app.start_hooks]) if modules else None


def _process_lane(
    app: Declarations,
    imports: _Imports,
    settings: Settings,
    metrics: Metrics,
    tracing: Tracing | None,
    limits: Meeting | None,
) -> ProcessLane:
    started = functools.partial(metrics.cold_start, "lane")
    return ProcessLane(
        lane_processes(settings.processes, os.cpu_count() or 1, [sla.min_warm for sla in app.classes.values()]),
        imports.modules,
        started,
        None if tracing is None else app.name,
        hooks=imports.hooks,
        start_timeout_s=settings.start_timeout,
        place=limits,
    )


@asynccontextmanager
async def local(
    app: Declarations, given: Given, clock: Clock | None = None, *, warms: bool = True
) -> AsyncIterator[LocalRuntime]:
    """Both paths in this process; see `App.local`."""
    temporary = tempfile.mkdtemp(prefix="offramp-") if given.get("data") is None else None
    chosen: Given = {**given} if temporary is None else {**given, "data": temporary}
    try:
        settings = Settings.load(**chosen)
        service = build(app, settings, role="local", clock=clock, warms=warms, alone=temporary is not None)
        try:
            await service.start()
            yield LocalRuntime(service)
        finally:
            await service.stop()
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
