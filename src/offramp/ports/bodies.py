"""The port of an engine that calls pipeline bodies itself, instead of handing whole runs to a process.

Such an engine owns the schedule: it calls a body wherever and as often as it likes, and chooses the process that
executes each step. `BodyHost`, implemented by `paths`, executes; `BodyRuntime` is how a body reaches the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from offramp.core.events import Draft, StepState
from offramp.core.failure import Failure
from offramp.core.journal import Entry
from offramp.core.run import Outcome, RunRecord
from offramp.ports.clock import Clock
from offramp.ports.store import Claim, Lease

PAYLOAD_BYTES_MAX = 256 * 1024
"""The limit of an argument list, a step's result, an input or a signal carried by an engine: Temporal's server warns at
512 KiB and refuses 2 MiB. A larger value travels as a reference, or is refused."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """The facts of a run that its body may know: none that changes while the run executes."""

    run_id: str
    pipeline: str
    version: str
    session_id: str | None = None
    metadata: dict[str, str] = {}
    deadline_at: float | None = None
    not_before: float = 0.0
    """The creation, in epoch seconds, of a run that retries another, and so has older records; else 0."""
    keys_of: str | None = None
    sla: str = "default"
    tenant: str = ""
    priority: int = 0
    """Of its class, when it was accepted."""

    @classmethod
    def of(cls, record: RunRecord) -> Facts:
        """Of a stored run."""
        return cls(
            run_id=record.id,
            pipeline=record.pipeline,
            version=record.version,
            session_id=record.session_id,
            metadata=record.metadata,
            deadline_at=record.deadline_at,
            not_before=0.0 if record.retry_of is None else record.created_at,
            keys_of=record.keys_of,
            sla=record.sla,
            tenant=record.tenant,
            priority=record.priority,
        )


class TraceContext(msgspec.Struct, frozen=True):
    """The trace context of a run on an engine, for spans made by any process.

    Attributes:
        trace: the context, as headers, of the run's own span, which is recorded when the run has ended.
        session: the session id of all spans.
        parent: the id of the span around the run's, in hexadecimal.
        began_ns: when the run's span begins, in epoch nanoseconds.
        replayed_steps: how many steps were finished then.
    """

    trace: dict[str, str]
    session: str
    parent: str
    began_ns: int
    replayed_steps: int


class Known(msgspec.Struct, frozen=True):
    """The history of a run from earlier executions, see `execution.History`."""

    entries: list[Entry] = []
    interrupted: dict[str, StepState] = {}
    signals: list[tuple[str, bytes]] = []
    waiting: list[str] = []
    elsewhere: list[str] = []
    """The keys of steps in flight in the process that demoted the run."""
    refused: list[str] = []


class StepCall(msgspec.Struct, frozen=True):
    """One step call of a body; `decides` to call `on_unknown` for an interrupted one instead.

    `cleans_up` if it belongs to a cleanup, which continues although its run is cancelled.
    """

    name: str
    key: str
    attempt: int = 1
    decides: bool = False
    cleans_up: bool = False


class StepTerms(NamedTuple):
    """How a step is declared; `timeout` in seconds, None for none."""

    timeout: float | None
    short: bool


class AttemptContext(NamedTuple):
    """The context of an attempt.

    Attributes:
        part: the trace context of its spans.
        queued_s: how long it waited for a worker.
        opens: whether no step of the run has ended before.
        left: how many of the processes that began it without ending it stopped in order, and so did not die of it.
        patience_s: how long it may wait in this process before it begins; None for any time.
        says: called, from any thread, with the reason that it waits; None for no reason any more.
        stays: whether it may wait for a permit here; if not, it is put off as soon as it would.
    """

    part: TraceContext | None = None
    queued_s: float = 0.0
    opens: bool = False
    left: int = 0
    patience_s: float | None = None
    says: Callable[[str | None], object] = lambda _what: None
    stays: bool = True


class TryAgain(Exception):
    """Another attempt follows after `delay_s`: this one failed, as was announced, or could not begin."""

    def __init__(self, failure: Failure, delay_s: float) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.delay_s = delay_s


class BodyExecution(Protocol):
    """An executing body; every method is called in its process."""

    async def ended(self) -> Outcome | None:
        """Wait for the outcome; None if `cut` ended it instead."""

    def signals(self, received: Sequence[tuple[str, bytes]]) -> None:
        """All signals of the run so far."""

    def cancel(self) -> None:
        """End it `cancelled`: steps under way are cancelled, and only cleanup steps start."""

    def expire(self) -> None:
        """End it `expired`, likewise."""

    def give_up(self) -> None:
        """End it with that outcome, whatever its code does; during a cleanup, once the time for that is over."""

    def stop_at_boundary(self) -> None:
        """Let no further step start."""

    def seen(self) -> list[str]:
        """The keys of the results of this execution, in the order in which the body saw them."""

    def cut(self) -> bool:
        """End this execution without an outcome, unless a step is under way; the body will be called again."""


class BodyRuntime(Protocol):
    """The engine as a body sees it: implemented by the engine, used in the body's process."""

    @property
    def clock(self) -> Clock:
        """A clock that gives a repetition of the body the same times."""

    keeps_timers: bool
    """Whether the body's plain asyncio timers are journaled, as in every run since that was introduced."""

    @property
    def repeats(self) -> bool:
        """Whether the body is being replayed up to its last position."""

    async def step(self, call: StepCall, arguments: bytes) -> Entry:
        """Execute a step in any process, until it succeeds or fails for good."""

    def record(self, entry: Entry | None, event: Draft | None) -> None:
        """Record entries and events of the body itself, in order; an event soon, an entry alone by the end."""

    async def written(self) -> None:
        """Return when all records of the body so far are written."""

    def waited(self, what: str, began: float, *, over: bool) -> None:
        """The body waited since `began`, in epoch seconds; `over` unless it gave that up. Not called in a replay."""


class BodyHost(Protocol):
    """One process's host of bodies and steps."""

    @property
    def pipelines(self) -> list[str]:
        """The names whose bodies this process can execute."""

    def terms(self, step: str) -> StepTerms | None:
        """A step's declaration; None if it is not declared here."""

    def play(
        self, facts: Facts, encoded_input: bytes, known: Known, runtime: BodyRuntime, part: TraceContext | None
    ) -> BodyExecution:
        """Begin to execute a body in the running loop."""

    async def known(self, run_id: str) -> Known:
        """The run's history in the store."""

    def began(self, claim: Claim, replayed_steps: int, *, first: bool) -> TraceContext | None:
        """An engine took up a run, for the `first` time on the deep path; its trace context, None without tracing."""

    async def resumed(
        self, lease: Lease, replayed_steps: int, reason: Literal["demotion", "retry"] | None = None
    ) -> None:
        """Append `run.resumed`: a process continues a run that another began, or another run."""

    def took_over(self, facts: Facts, replayed_steps: int, part: TraceContext) -> None:
        """The same in its trace, for a body that another process executed before."""

    def waited(self, facts: Facts, part: TraceContext, what: str, began: float, *, over: bool) -> None:
        """A body waited until now, see `BodyRuntime.waited`."""

    async def attempt(
        self, lease: Lease, record: RunRecord, call: StepCall, arguments: bytes, context: AttemptContext
    ) -> Entry:
        """Execute one attempt of a step, in a turn that was taken (`lease.step`), and record its outcome.

        Returns:
            The entry, on disk; with its failure if the step has failed for good.

        Raises:
            TryAgain: it failed, or could not begin, and another attempt follows.
            LeaseLost: another process has the step or the run now; or the run has ended, as this step killed too many.
        """

    async def conclude(self, claim: Claim, outcome: Outcome, part: TraceContext | None = None) -> None:
        """Write a run's outcome; returns when it is on disk. Without a part, no process has executed its body.

        Raises:
            LeaseLost: it has one, or was taken from the engine.
        """
