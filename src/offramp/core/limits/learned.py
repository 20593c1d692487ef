"""What earlier calls needed, so that later ones can be judged before they are made: means, and tokens by step. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict, deque

STEPS_MAX = 1_000
"""Steps whose tokens are remembered for one resource; of more, those that were called last."""
SAMPLES_MAX = 100
"""Calls of a step that are remembered."""
QUANTILE = 0.95
"""What is reserved for a call covers this part of the remembered ones."""
WEIGHT = 0.02
"""Of a new value in a mean, once there are many."""


class Mean:
    """A mean that forgets: of all values at first, then of about the last 50."""

    __slots__ = ("_count", "value")

    def __init__(self) -> None:
        self.value: float | None = None
        self._count = 0

    def add(self, value: float) -> None:
        """One more value."""
        if self.value is None:
            self.value, self._count = float(value), 1
            return
        weight = WEIGHT
        if self._count < 1 / WEIGHT:
            self._count += 1
            weight = 1 / self._count
        self.value += (value - self.value) * weight


class Tokens:
    """The tokens that calls of each step of one resource used.

    The empty step stands for all: it answers for a step that was not called yet.
    """

    def __init__(self) -> None:
        self._steps: OrderedDict[str, _Sample] = OrderedDict()
        self._all = _Sample()

    def add(self, step: str, used: int) -> None:
        """A call of a step used so many."""
        sample = self._steps.get(step)
        if sample is None:
            sample = self._steps[step] = _Sample()
            if len(self._steps) > STEPS_MAX:
                self._steps.popitem(last=False)
        else:
            self._steps.move_to_end(step)
        sample.add(used)
        self._all.add(used)

    def expected(self, step: str) -> int | None:
        """What the next call of a step will hardly exceed; None if there was no call at all."""
        sample = self._steps.get(step, self._all)
        return sample.quantile()

    def remembered(self) -> dict[str, int]:
        """By step, what is expected."""
        return {step: value for step, sample in self._steps.items() if (value := sample.quantile()) is not None}

    def recall(self, expected: dict[str, int]) -> None:
        """Expect what was expected elsewhere, until calls show otherwise."""
        for step, used in expected.items():
            if step not in self._steps:
                self.add(step, used)


class _Sample:
    """The last values, in order of time and of size."""

    __slots__ = ("_by_size", "_last")

    def __init__(self) -> None:
        self._last: deque[int] = deque()
        self._by_size: list[int] = []

    def add(self, value: int) -> None:
        self._last.append(value)
        insort(self._by_size, value)
        if len(self._last) > SAMPLES_MAX:
            del self._by_size[bisect_left(self._by_size, self._last.popleft())]

    def quantile(self) -> int | None:
        if not self._by_size:
            return None
        return self._by_size[min(len(self._by_size) - 1, int(QUANTILE * len(self._by_size)))]
