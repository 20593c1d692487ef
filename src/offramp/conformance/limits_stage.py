"""The stage of a case of the limits suite: processes that share resources, and what each ask was answered."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence

from offramp.conformance.case import until
from offramp.conformance.harness import LimitsHarness, LimitsSite
from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.ports.limits import Answer, Ask, Done, Granted, Limits, Refused, Waits

RESOURCE = "openai"


class Asked:
    """One ask, and its answers in their order with the time of each."""

    def __init__(self, ask: Ask, limits: Limits, on_granted: Callable[[Asked], object] | None) -> None:
        self.ask, self.id = ask, ask.id
        self.limits = limits
        self.answers: list[tuple[float, Answer]] = []
        self._on_granted = on_granted

    def notify(self, answer: Answer) -> None:
        """An answer has come."""
        self.answers.append((time.monotonic(), answer))
        if isinstance(answer, Granted) and self._on_granted is not None:
            self._on_granted(self)

    def of(self, kind: type[Granted | Refused | Waits]) -> list[tuple[float, Answer]]:
        """The answers of one kind."""
        return [each for each in tuple(self.answers) if isinstance(each[1], kind)]

    @property
    def granted_at(self) -> float | None:
        """When the permit was granted; None if it was not."""
        return next((at for at, _ in self.of(Granted)), None)

    @property
    def refused(self) -> Refused | None:
        """The refusal; None without one."""
        return next((answer for _, answer in self.of(Refused) if isinstance(answer, Refused)), None)

    @property
    def is_final(self) -> bool:
        """Whether it was granted or refused."""
        return self.granted_at is not None or self.refused is not None

    @property
    def waits(self) -> bool:
        """Whether it was answered, and has to wait."""
        return bool(self.answers) and not self.is_final

    def written(self) -> None:
        """The request is sent."""
        self.limits.written(self.id)

    def done(self, done: Done | None = None) -> None:
        """The call is over."""
        self.limits.done(self.id, done or Done())

    def withdraw(self) -> None:
        """The ask, or the permit, is given up."""
        self.limits.withdraw(self.id)

    async def grant(self) -> float:
        """The time of the grant, which is waited for."""
        await until(lambda: self.is_final)
        assert self.granted_at is not None, f"{self.id} was refused: {self.refused}"
        return self.granted_at

    async def refusal(self) -> Refused:
        """The refusal, which is waited for."""
        await until(lambda: self.is_final)
        assert self.refused is not None, f"{self.id} was granted"
        return self.refused

    async def queue(self) -> Waits:
        """The answer that it has to wait, which is waited for."""
        await until(lambda: bool(self.answers))
        first = self.answers[0][1]
        assert isinstance(first, Waits), f"{self.id} was answered {first}"
        return first


class LimitsStage:
    """Fresh limits and the processes at them."""

    def __init__(self, harness: LimitsHarness) -> None:
        self._harness = harness
        self._site: LimitsSite | None = None
        self._numbers = itertools.count(1)

    @classmethod
    async def open(cls, harness: LimitsHarness) -> LimitsStage:
        """Without limits: the case declares them."""
        return cls(harness)

    @property
    def site(self) -> LimitsSite:
        """Where the processes meet."""
        assert self._site is not None, "the case has declared nothing"
        return self._site

    async def declare(self, *specs: ResourceSpec, classes: Sequence[SLA] = ()) -> Limits:
        """Declare resources and classes; the first process at them."""
        self._site = await self._harness.meet(specs, {sla.name: sla for sla in classes})
        return await self.join()

    async def join(self) -> Limits:
        """One more process, which has been let in."""
        joined = await self.site.join()
        await joined.levels()
        return joined

    def ask(
        self,
        limits: Limits,
        resource: str = RESOURCE,
        *,
        run: int | None = None,
        on_granted: Callable[[Asked], object] | None = None,
        **given: object,
    ) -> Asked:
        """Ask for a permit; the run of a smaller number is the older one."""
        number = next(self._numbers)
        run_id = f"run-{number if run is None else run:06}"
        made = Ask(id=f"{run_id}:{number}", resource=resource, run_id=run_id, **given)  # type: ignore[arg-type]
        asked = Asked(made, limits, on_granted)
        limits.ask(made, asked.notify)
        return asked

    async def close(self) -> None:
        """End the processes."""
        if self._site is not None:
            await self._site.close()


async def settled(*processes: Limits) -> None:
    """Everything that these processes said has been heard, and answered if it can be."""
    for limits in processes:
        await limits.levels()
    for limits in processes:
        await limits.levels()
