"""A scripted service: runs do what the test tells them to, step by step, in the test's own loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import msgspec

from offramp.core import events
from offramp.core.events import Frame, draft, frame
from offramp.core.failure import Failure
from offramp.core.names import did_you_mean
from offramp.core.routing import Facts, Load, decide
from offramp.core.run import Demotion, RunRecord, document, links, run_id
from offramp.core.scaling import Span
from offramp.core.sla import SLA, budget_s
from offramp.core.slo import WINDOWS, Counts
from offramp.core.spec import pipeline_spec
from offramp.errors import IdempotencyMismatch, InputError, RunConflict, RunGone, UnknownRun, UnknownStep
from offramp.paths.crew import Keeping
from offramp.paths.signalling import Sent
from offramp.paths.slo import ServiceLevel
from offramp.paths.submission import Accepted, Submission
from offramp.ports.listing import RunFilter
from offramp.settings import Settings
from offramp.stores.memory.run import paged

AT = "2026-11-21T09:30:00.000Z"


class FakeRun:
    def __init__(self, record):
        self.record = record
        self.frames = []
        self.changed = asyncio.Event()
        self.disconnects = 0
        self.drained = False
        self.broken = None
        self.followers = 0
        self.unfollowed = asyncio.Event()

    def add(self, body):
        self.frames.append(Frame(len(self.frames) + 1, b""))
        seq = len(self.frames)
        self.frames[-1] = Frame(seq, frame(draft(body, AT), self.record.id, seq))
        self.notify()

    def notify(self):
        self.changed.set()
        self.changed = asyncio.Event()

    def delta(self, value, step="write"):
        self.add(events.StepDelta(step, f"{step}#1", 1, msgspec.Raw(msgspec.json.encode(value))))

    def demote(self, reason="budget"):
        self.record.path = "deep"
        self.record.demotion = Demotion(reason, 1.0, 6000.0, 6000.0)
        self.add(events.RunDemoted(reason, 6000.0, 6000.0, "It goes on.", links(self.record.id)))

    def complete(self, value):
        self.record.status, self.record.finished_at = "completed", 2.0
        self.record.result = msgspec.json.encode(value)
        self.add(events.RunCompleted(result=msgspec.Raw(self.record.result)))

    def fail(self, message="no luck"):
        self.record.status, self.record.finished_at = "failed", 2.0
        self.record.error = Failure("step-failed", message, "write", 1)
        self.add(events.RunFailed(self.record.error.public()))

    def cancel(self):
        self.record.status, self.record.finished_at = "cancelled", 2.0
        self.record.error = Failure("cancelled", "cancelled")
        self.add(events.RunCancelled(self.record.error.public()))


async def research(question: str, depth: int = 1) -> str:
    """Answer a question."""
    return question * depth


async def nightly(day: str) -> dict[str, int]:
    return {day: 1}


def spec_of(function, **given):
    options = {
        "name": None,
        "sla": "interactive",
        "budget": None,
        "deadline": None,
        "retention": None,
        "on_disconnect": "continue",
        "demotion_message": None,
        "version": "1",
    }
    classes = {"interactive", "batch"}
    return pipeline_spec(function, classes=classes, **(options | given))


class FakeService:
    app_name = "demo"

    def __init__(self, **settings):
        self.settings = Settings(**settings)
        self.classes = {"interactive": SLA("interactive", p95=2.0), "batch": SLA("batch", budget=0)}
        specs = [spec_of(research), spec_of(nightly, sla="batch")]
        self.pipelines = {spec.name: spec for spec in specs}
        self.runs: dict[str, FakeRun] = {}
        self.keys: dict[str, tuple[bytes, str]] = {}
        self.submissions: list[Submission] = []
        self.script: Callable[[FakeRun], None] = lambda run: None
        self.created: asyncio.Queue[FakeRun] = asyncio.Queue()
        self.followed: asyncio.Queue[str] = asyncio.Queue()
        self.left: asyncio.Queue[str] = asyncio.Queue()
        self.cancelled: asyncio.Queue[str] = asyncio.Queue()
        self.signals: asyncio.Queue[tuple[str, str, bytes]] = asyncio.Queue()
        self.signal_keys = {}
        self.secured = []
        self.not_ready = ""
        self.now = 1_700_000_000.0
        self.owners = []
        self.limited = []
        self.levels = dict.fromkeys(WINDOWS, Counts())
        self.fails_with: Exception | None = None
        self.started = self.drains = self.stopped = 0
        self._numbers = itertools.count(1)

    async def start(self):
        if self.fails_with is not None:
            raise self.fails_with
        self.started += 1
        self.on_joined()

    async def stop(self):
        await self.drain()
        self.stopped += 1

    async def drain(self):
        self.drains += 1
        for run in self.runs.values():
            if not run.record.finished and run.record.path == "fast":
                run.demote("drain")
            run.drained = True
            run.notify()

    async def service_levels(self, tenant=""):
        return [ServiceLevel(self.classes["interactive"], self.levels)]

    async def secret(self):
        return b"s" * 32

    async def secure(self, run_id):
        self.secured.append(run_id)

    async def ready(self):
        return not self.not_ready, self.not_ready

    def new_run(self, pipeline="research", **given):
        number = next(self._numbers)
        sla = given.pop("sla", "interactive")
        budget = given.pop("budget_s", 6.0)
        route = decide(Facts(sla, budget, given.pop("respond_async", False)), Load(0, 1)).route()
        record = RunRecord(
            id=run_id(number, number.to_bytes(10, "big")),
            pipeline=pipeline,
            version="1",
            status="running" if route.path == "fast" else "queued",
            path=route.path,
            sla=sla,
            route=route,
            created_at=float(number),
            budget_s=budget,
            input=given.pop("input", b"{}"),
            **given,
        )
        run = self.runs[record.id] = FakeRun(record)
        run.add(events.RunAccepted(pipeline, record.session_id, record.path, sla, route.shown()))
        return run

    async def submit(self, submission, waits=None, wait_s=0.0):
        self.submissions.append(submission)
        if self.fails_with is not None:
            raise self.fails_with
        spec = self.pipelines[submission.pipeline]
        spec.signature.decode_input(submission.input)
        name = submission.sla or spec.sla
        if name not in self.classes:
            message = f"no class {name!r}; {did_you_mean(name, self.classes)}"
            raise InputError(message, [("/class", message)])
        budget = budget_s(self.classes[name], spec.budget, submission.budget, self.settings.max_budget)
        if submission.idempotency_key in self.keys:
            body, existing = self.keys[submission.idempotency_key]
            if body != submission.input:
                raise IdempotencyMismatch("this Idempotency-Key came with another body before; use a new key")
            return Accepted(self.runs[existing].record, attached=True)
        run = self.new_run(
            submission.pipeline,
            sla=name,
            budget_s=budget,
            respond_async=submission.respond_async,
            input=submission.input,
            session_id=submission.session_id,
            metadata=submission.metadata,
            trace=submission.trace,
        )
        if submission.idempotency_key is not None:
            self.keys[submission.idempotency_key] = (submission.input, run.record.id)
        self.script(run)
        self.created.put_nowait(run)
        return Accepted(run.record, attached=False)

    def _run(self, run_id):
        if self.fails_with is not None:
            raise self.fails_with
        if run_id not in self.runs:
            raise UnknownRun(f"no run {run_id!r}")
        return self.runs[run_id]

    async def get(self, run_id, tenant=""):
        return self._run(run_id).record

    async def document(self, run_id, tenant="", prefix="", include=frozenset()):
        return document(self._run(run_id).record, [], prefix)

    async def step(self, run_id, key, tenant="", prefix=""):
        raise UnknownStep(f"{self._run(run_id).record.id} has no step {key!r}")

    async def list(self, wanted: RunFilter, prefix="", include=frozenset()):
        page = paged([run.record for run in self.runs.values()], wanted)
        return [document(record, [], prefix) for record in page.runs], page.after

    crew = SimpleNamespace(last=None, keeping=Keeping(0, Span(0, 0)))

    async def workers(self):
        return self.owners

    async def resources(self):
        return self.now, self.limited

    def unwritten_s(self, run_id):
        return 0.0

    async def is_read(self, record, seq):
        return seq >= len(self.runs[record.id].frames)

    async def follow(self, run_id, after=0, idle=None) -> AsyncIterator[list[Frame]]:
        run = self.runs[run_id]
        run.followers += 1
        self.followed.put_nowait(run_id)
        try:
            while True:
                changed = run.changed
                if run.broken is not None:
                    raise run.broken
                if run.record.purged:
                    raise RunGone("gone")
                new = run.frames[after:]
                if new:
                    after = new[-1].seq
                    yield new
                    if new[-1].type in events.TERMINAL:
                        return
                elif run.drained or run.record.finished:
                    return
                else:
                    try:
                        async with asyncio.timeout(idle):
                            await changed.wait()
                    except TimeoutError:
                        yield []
        finally:
            run.followers -= 1
            run.unfollowed.set()

    async def cancel(self, run_id, tenant=""):
        run = self._run(run_id)
        if run.record.finished:
            raise RunConflict(f"{run_id} is {run.record.status} already")
        run.record.cancel_requested = True
        self.cancelled.put_nowait(run_id)
        return run.record

    async def signal(self, run_id, name, value, tenant="", key=None):
        run = self._run(run_id)
        known = self.signal_keys.setdefault((run_id, key), (name, value)) if key is not None else None
        if known not in {None, (name, value)}:
            raise IdempotencyMismatch("this Idempotency-Key came with another signal")
        if run.record.finished:
            raise RunConflict(f"{run_id} has ended ({run.record.status}) and takes no signal")
        self.signals.put_nowait((run_id, name, value))
        return Sent(run.record, awaited=name == "approved")

    def disconnected(self, run_id):
        self.runs[run_id].disconnects += 1
        self.left.put_nowait(run_id)
