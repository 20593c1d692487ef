"""Why a run loop does not answer, judged from samples of its thread: samples in, verdict out.

A loop is blocked when one piece of user code holds it. It is not when many callbacks wait in its queue, when other
threads hold the interpreter, or when the whole process gets no CPU.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

LOOKS_MIN = 3
"""Samples that must show the same user code before it counts as the cause."""
SHARE = 0.5
"""The share of a period that counts as most of it."""
PARKED_SHARE = 1e-4
"""The most CPU that a thread uses while it waits in a call; one that waits for the interpreter wakes every 5 ms."""
PARKED_SURE_S = 0.5
"""A thread without CPU for this long waits in a call, even if the sampling thread is late: no queue is that long."""
HELD_SURE_S = 5.0
"""The same user code for this long is too long, whatever the cause."""


class Sample(NamedTuple):
    """One look at a loop that owes an answer.

    Attributes:
        at: when, in seconds.
        late_s: how late the sampling thread was, in seconds.
        holder: a number that identifies the user code on the thread's stack; 0 for none.
        own_cpu_s: CPU that the loop's thread has used so far; None where the platform does not say.
        all_cpu_s: CPU that the process has used so far.
    """

    at: float
    late_s: float = 0.0
    holder: int = 0
    own_cpu_s: float | None = None
    all_cpu_s: float = 0.0


class Span(NamedTuple):
    """Consecutive samples, summed up."""

    first: Sample
    last: Sample
    looks: int = 1
    late_s: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first to the last."""
        return self.last.at - self.first.at

    @property
    def is_late(self) -> bool:
        """Whether the sampling thread could not run either for most of it."""
        return self.late_s >= SHARE * self.seconds

    @property
    def own_s(self) -> float | None:
        """CPU that the loop's thread used."""
        if self.first.own_cpu_s is None or self.last.own_cpu_s is None:
            return None
        return self.last.own_cpu_s - self.first.own_cpu_s

    @property
    def is_contended(self) -> bool:
        """Whether others had the CPU for most of it: other threads, as far as that is known, or other processes."""
        own = self.own_s
        others = 0.0 if own is None else self.last.all_cpu_s - self.first.all_cpu_s - own
        return others + self.late_s >= SHARE * self.seconds

    def and_then(self, sample: Sample) -> Span:
        """With one sample more."""
        return Span(self.first, sample, self.looks + 1, self.late_s + sample.late_s)


class Evidence(NamedTuple):
    """All samples since the loop was asked, and those since the user code on its stack last changed."""

    whole: Span
    held: Span

    def and_then(self, sample: Sample) -> Evidence:
        """With one sample more."""
        same = sample.holder == self.held.last.holder
        return Evidence(self.whole.and_then(sample), self.held.and_then(sample) if same else Span(sample, sample))


def begin(sample: Sample) -> Evidence:
    """The first sample."""
    return Evidence(Span(sample, sample), Span(sample, sample))


Verdict = Literal["blocked", "contended", "busy"]


def judge(evidence: Evidence, after_s: float) -> Verdict:
    """Why the loop does not answer.

    Args:
        evidence: what was seen.
        after_s: seconds for which it must have been so.

    Returns:
        `blocked`: user code holds the loop. `contended`: other threads or processes have the CPU that it needs.
        `busy`: none of it, or not for long enough.
    """
    if _is_blocked(evidence.held, after_s):
        return "blocked"
    if evidence.whole.seconds >= after_s and evidence.whole.is_contended:
        return "contended"
    return "busy"


def _is_blocked(held: Span, after_s: float) -> bool:
    if held.last.holder == 0 or held.looks < LOOKS_MIN or held.seconds < after_s:
        return False
    own = held.own_s
    if own is not None and own >= after_s:
        return True  # it computes for as long, whatever else goes on
    if held.seconds >= HELD_SURE_S:
        return True
    if own is not None and own <= PARKED_SHARE * held.seconds and (not held.is_late or held.seconds >= PARKED_SURE_S):
        return True  # it waits in a call, and not for the interpreter
    return not held.is_contended
