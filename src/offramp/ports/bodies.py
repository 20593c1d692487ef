"""What an engine needs that calls pipelines itself, in a place of its own, instead of handing whole runs to a process.

Such an engine owns the schedule: it calls a body wherever it likes, as often as it likes, and has each step executed by
whatever process it chooses. `BodyHost`, implemented by `paths`, executes; `Outside` is what a body reaches meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from offramp.core.events import Draft, StepState
from offramp.core.failure import Failure
from offramp.core.journal import Entry
from offramp.core.run import Outcome, RunRecord
from offramp.ports.clock import Clock
from offramp.ports.store import Claim, Lease

PAYLOAD_BYTES_MAX = 256 * 1024
"""Of one argument list, one step's result, one input or signal, where an engine carries them: Temporal's server warns
at 512 KiB and refuses 2 MiB. What is larger is kept elsewhere and travels as a reference, or is refused."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a body may know of its run: nothing that changes while the run is on its way."""

    run_id: str
    pipeline: str
    version: str
    session_id: str | None = None
    metadata: dict[str, str] = {}
    deadline_at: float | None = None

    @classmethod
    def of(cls, record: RunRecord) -> Facts:
        """Of a stored run."""
        return cls(**{name: getattr(record, "id" if name == "run_id" else name) for name in cls.__struct_fields__})


class Part(msgspec.Struct, frozen=True):
    """What the spans of a run hang on from where an engine took it up, whichever process makes them.

    Attributes:
        trace: the context, as headers, of the run's own span, which is made when the run has ended.
        session: what all of them belong to.
        parent: the id of the span around the run's, in hexadecimal.
        began_ns: when the run's span begins, in epoch nanoseconds.
        replayed_steps: what was finished then.
    """

    trace: dict[str, str]
    session: str
    parent: str
    began_ns: int
    replayed_steps: int


class Known(msgspec.Struct, frozen=True):
    """What earlier executions left: see `execution.History`."""

    entries: list[Entry] = []
    interrupted: dict[str, StepState] = {}
    signals: list[tuple[str, bytes]] = []
    waiting: list[str] = []
    elsewhere: list[str] = []
    """The keys of steps that are in flight where the run was demoted."""


class StepCall(msgspec.Struct, frozen=True):
    """One step call of a body; `decides` when it is to be found out what became of an interrupted one instead."""

    name: str
    key: str
    attempt: int = 1
    decides: bool = False


class StepTerms(NamedTuple):
    """How a step is declared; `timeout` in seconds, None for none."""

    timeout: float | None
    short: bool


class Scene(NamedTuple):
    """What is around an attempt.

    Attributes:
        part: what its spans hang on.
        queued_s: how long it waited for a worker.
        opens: whether no step of the run has ended before.
        left: how many of those who began it and did not end it were told to stop, and so did not die of it.
    """

    part: Part | None = None
    queued_s: float = 0.0
    opens: bool = False
    left: int = 0


class TryAgain(Exception):
    """An attempt failed, and another is to be made after `delay_s`; it is announced already."""

    def __init__(self, failure: Failure, delay_s: float) -> None:
        super().__init__(failure.message)
        self.failure = failure
        self.delay_s = delay_s


class Playing(Protocol):
    """A body that is being executed; every method is called where the body is."""

    async def ended(self) -> Outcome | None:
        """Wait for the end; None when it was cut instead."""

    def signals(self, received: Sequence[tuple[str, bytes]]) -> None:
        """All signals of the run so far."""

    def cancel(self) -> None:
        """End it `cancelled`: what is under way is cancelled, no step starts but to clean up."""

    def expire(self) -> None:
        """End it `expired`, likewise."""

    def give_up(self) -> None:
        """End it so, whatever its code does; where it cleans up, when the time for that is over."""

    def stop_at_boundary(self) -> None:
        """Let no further step start."""

    def seen(self) -> list[str]:
        """The keys of what this execution waited for and recorded, in the order in which the body saw it."""

    def cut(self) -> bool:
        """End this execution, without an outcome, unless a step is under way: it is called again with what is known."""


class Outside(Protocol):
    """What a body reaches: implemented by the engine, used where the body is executed."""

    @property
    def clock(self) -> Clock:
        """Time that a repetition of the body sees again."""

    keeps_timers: bool
    """Whether what the body sets by plain asyncio is journaled, as in every run that began since that is done."""

    @property
    def repeats(self) -> bool:
        """Whether the body is just being executed again up to where it was."""

    async def step(self, call: StepCall, arguments: bytes) -> Entry:
        """Have a step executed, somewhere, until it succeeds or fails for good."""

    def record(self, entry: Entry | None, event: Draft | None) -> None:
        """Write down what the body itself made, in order; `event` soon, an entry alone at the latest at the end."""

    async def written(self) -> None:
        """Return when what the body made so far is written down."""

    def waited(self, what: str, began: float, *, over: bool) -> None:
        """The body waited, since `began` in epoch seconds; `over` unless it gave that up. Not told by a repetition."""


class BodyHost(Protocol):
    """One process's host of bodies and steps."""

    @property
    def pipelines(self) -> list[str]:
        """The names whose bodies this process can execute."""

    def terms(self, step: str) -> StepTerms | None:
        """A step's declaration; None if it is not declared here."""

    def play(self, facts: Facts, encoded_input: bytes, known: Known, outside: Outside, part: Part | None) -> Playing:
        """Begin to execute a body in the running loop."""

    async def known(self, run_id: str) -> Known:
        """What the store has of a run."""

    def began(self, claim: Claim, replayed_steps: int, *, first: bool) -> Part | None:
        """A run was taken up by an engine, for the `first` time on the deep path; None where nothing is traced."""

    async def resumed(self, lease: Lease, replayed_steps: int, *, demoted: bool = False) -> None:
        """A process goes on with a run that another one began: say so in its log, and whether that is its demotion."""

    def took_over(self, facts: Facts, replayed_steps: int, part: Part) -> None:
        """The same, in its trace, where a body goes on that another process executed before."""

    def waited(self, facts: Facts, part: Part, what: str, began: float, *, over: bool) -> None:
        """A body waited until now, see `Outside.waited`."""

    async def attempt(self, lease: Lease, record: RunRecord, call: StepCall, arguments: bytes, scene: Scene) -> Entry:
        """Execute one attempt of a step, in a turn that was taken (`lease.step`), and record what came of it.

        Returns:
            The entry, written and on disk; with its failure where the step has failed for good.

        Raises:
            TryAgain: it failed, and is to be tried again.
            LeaseLost: another process has the step or the run now; or the run has ended, as this step killed too many.
        """

    async def conclude(self, claim: Claim, outcome: Outcome, part: Part | None = None) -> None:
        """Write a run's outcome; returns when it is on disk. Without a part, no process has executed its body.

        Raises:
            LeaseLost: it has one, or was taken from the engine.
        """
