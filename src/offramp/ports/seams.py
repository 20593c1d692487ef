"""The two seams of an attempt, the same on every engine: what it waits for before it begins, and what is around it.

Limits, circuit breakers and failover attach here. `wiring.build` takes them; by default both seams are empty. They are
called on the run's loop, beside user code, and must not block it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import msgspec

from offramp.core.attempts import Completed, Failed, FailedAttempt
from offramp.core.call import StepKind
from offramp.core.run import Path
from offramp.ports.limits import Waits


class Asked(msgspec.Struct, frozen=True):
    """An attempt that is to be made.

    Attributes:
        run_id: of the run.
        pipeline: its pipeline's name.
        session_id: the conversation it belongs to, if any.
        path: where the run is.
        step: the step's name.
        kind: of the step.
        key: the step's in the journal; the same for every attempt of one call.
        number: of the attempt, from 1; an interruption does not count.
        earlier: the attempts of the call that failed, in any process.
        target: what the code is to use, chosen by an outer `Around`, or in a failover the step that is asked or
            called; None for its default.
        uses: the resources whose permits it has before it begins, in their one order.
        sla: the class of the run.
        tenant: of the run.
        priority: of the class, when the run was accepted.
    """

    run_id: str
    pipeline: str
    session_id: str | None
    path: Path
    step: str
    kind: StepKind
    key: str
    number: int
    earlier: tuple[FailedAttempt, ...] = ()
    target: str | None = None
    uses: tuple[str, ...] = ()
    sla: str = "default"
    tenant: str = ""
    priority: int = 0


class Wait(NamedTuple):
    """A wait for a permit: the resource, and what its limits say of the wait; None once it is over."""

    resource: str
    answer: Waits | None

    def __str__(self) -> str:
        if self.answer is None:
            return f"a permit of {self.resource!r}"
        about = "" if self.answer.expected_s is None else f", about {self.answer.expected_s:.1f} s"
        return f"a permit of {self.resource!r} ({self.answer.reason}, {self.answer.ahead} ahead{about})"


Says = Callable[[str | Wait], object]
"""Called with what an attempt waits for, on its loop; see `Before`."""


class Postpone(Exception):
    """Raised by `Before`: ask again at `until`, in epoch seconds.

    Until then the run only waits: it may be parked, and is demoted if its budget ends earlier. No attempt is counted.
    """

    def __init__(self, until: float) -> None:
        super().__init__(until)
        self.until = until


class Before(Protocol):
    """What an attempt waits for before it begins, such as a permit.

    1. Until `admit` returns, the step is not in flight: it has no event, and a run that leaves takes it along.
    2. The wait is cancelled if the run is cancelled, leaves or loses its lease, or if the pipeline gives the call up.
    3. What `admit` returns is called once: when the attempt is over, or cannot begin here after all.
    4. `Postpone` asks for a wait without a process. An engine that bounds how long an attempt may wait in a process
       (Temporal) cancels the wait then, and asks again.
    5. Any other exception fails the attempt, as if its code had raised it.
    """

    async def admit(self, asked: Asked, says: Says) -> Callable[[], object]:
        """Wait until the attempt may begin.

        Args:
            asked: the attempt.
            says: to be called with what it waits for, where it does not begin at once. Words are shown by the log, and
                by Temporal beside the activity. A `Wait` is said anew at each change, and when it is over; it is in the
                run's events and trace too, and demotes a run whose budget ends before.
        """


class Around(Protocol):
    """What is around the code of an attempt that is in flight, such as a circuit breaker.

    1. `run` executes the code: at most once for each target, awaited in the task that called `around`. It returns how
       that ended; what stops the attempt from outside is raised through `run` and must not be caught.
    2. What `around` returns is how the attempt ended: whether another follows is the step's retry policy's to say.
       What it raises fails the attempt.
    3. The target is in the context of the step's code, in every lane.
    """

    async def around(self, asked: Asked, run: Code) -> Completed | Failed:
        """How the attempt ended; without a call of `run` where it refuses."""


class Code(Protocol):
    """Executes the code of an attempt."""

    def __call__(self, target: str | None = None, /) -> Awaitable[Completed | Failed]:
        """How it ended, with this target; None for the one that was asked for."""


class Seams(NamedTuple):
    """What a process has in both; the first of `around` is the outermost."""

    before: tuple[Before, ...] = ()
    around: tuple[Around, ...] = ()


NO_SEAMS = Seams()
