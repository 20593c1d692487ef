"""A run's event log as a waterfall: a row for each step and wait with its spans over time, and where the time went.

Pure: no terminal and no clock. Times are seconds since the run was accepted, from the events' own `at`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from offramp.core.critical import Interval, Link, Totals, critical_path, totals
from offramp.core.events import INTERRUPTED, SAID_AFTER_S, TERMINAL, Event

SpanKind = Literal[
    "attempt",
    "failed",
    "lost",
    "cancelled",
    "retry",
    "permit",
    "wait",
    "queued",
    "fast",
    "deep",
    "handoff",
    "parked",
    "moved",
]
"""What fills a stretch of time. Of a step: an attempt that runs or completed, one that `failed`, one that was `lost`
with its process, one that was `cancelled` (its end is in no event), the delay before a `retry`, the wait for a `permit`
of what it uses. Of a wait: the `wait`.
Of the run: `queued`, executing on the `fast` or the `deep` path, between two processes after a demotion (`handoff`),
while it only waited (`parked`), or because its process died or stopped (`moved`)."""

EMITTED_LENGTH_MAX = 2_000
"""Characters kept of what a step emitted last."""
BUSY: frozenset[str] = frozenset({"attempt", "failed", "cancelled"})
WAITING: frozenset[str] = frozenset({"queued", "retry", "permit", "wait", "parked"})
MOVING: frozenset[str] = frozenset({"handoff", "moved", "lost"})


class Span(NamedTuple):
    """A stretch of time; `open` if no event ends it, and `end` is then the last known moment."""

    kind: SpanKind
    start: float
    end: float
    open: bool = False


class Failed(NamedTuple):
    """A failed attempt: its number, and the error as events describe it."""

    attempt: int
    error: Mapping[str, Any]


class Emitted(NamedTuple):
    """What a running attempt emitted last, and when, in seconds."""

    text: str
    at: float


class Row(NamedTuple):
    """The run itself, a step call or a wait; `took` in seconds from its first span to its last.

    `failures` are those of its attempts, and `emitted` is the last of what a running one emitted.
    """

    kind: Literal["run", "step", "wait"]
    name: str
    status: str
    attempts: int
    spans: tuple[Span, ...]
    failures: tuple[Failed, ...] = ()
    emitted: Emitted | None = None
    target: str | None = None

    @property
    def took(self) -> float:
        """Seconds from the begin of the first span to the end of the last."""
        return self.spans[-1].end - self.spans[0].start if self.spans else 0.0


class Mark(NamedTuple):
    """A moment of the run: its demotion, or a worker that took it over."""

    kind: Literal["demoted", "resumed"]
    at: float
    text: str


class Waterfall(NamedTuple):
    """A run as it can be drawn; the first row is the run itself.

    Attributes:
        took: seconds from acceptance to the outcome, or to now.
        status: the outcome, or `running`.
        rows: in the order in which they began.
        marks: in time.
        busy: when steps executed, as (start, end); these may overlap.
        critical: what the run's end waited for, backwards joined to its acceptance, without a gap.
        totals: where the time went.
    """

    took: float
    status: str
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]
    busy: tuple[Interval, ...]
    critical: tuple[Link, ...]
    totals: Totals


def layout(log: Iterable[Event], now: float, started_at: float | None = None) -> Waterfall | None:
    """The waterfall of a run.

    Args:
        log: its events from the first, in order; deltas may be left out.
        now: in epoch seconds, where a run that has not ended is drawn to; never before its newest event.
        started_at: when a process first executed it, in epoch seconds; what its first event says if None.

    Returns:
        None without any event.
    """
    fold = _Fold()
    for event in log:
        fold.take(event)
    return None if fold.accepted_at is None else fold.close(now, started_at)


@dataclass(slots=True)
class _Track:
    """A row that is being made; `open` is what began last and has not ended."""

    kind: Literal["step", "wait"]
    name: str
    status: str = "running"
    attempts: int = 1
    spans: list[Span] = field(default_factory=list)
    open: tuple[SpanKind, float] | None = None
    given_up: bool = False
    failures: list[Failed] = field(default_factory=list)
    emitted: Emitted | None = None
    target: str | None = None

    def begin(self, kind: SpanKind, at: float) -> None:
        # Clocks of two machines disagree: a span is drawn after the one before it all the same.
        self.open = (kind, max(at, self.spans[-1].end) if self.spans else at)

    def end(self, at: float, kind: SpanKind | None = None, *, known: bool = True) -> None:
        """End what is open, as `kind` if that turned out to be another."""
        if self.open is not None:
            began_as, start = self.open
            self.spans.append(Span(kind or began_as, start, max(start, at), open=not known))
            self.open = None

    def give_up(self, at: float, *, handoff: bool) -> None:
        """Another process continues the run: an attempt counts as lost, after a handoff until an event reports it."""
        if self.open is not None and self.open[0] == "attempt":
            self.end(at, "lost")
            self.given_up = handoff

    def go_on(self) -> None:
        """An event reports an attempt that counted as lost: it continued in its process."""
        if self.given_up:
            self.open, self.given_up = ("attempt", self.spans.pop().start), False

    def row(self) -> Row:
        emitted = self.emitted if self.status == "running" else None
        spans, failures = tuple(self.spans), tuple(self.failures)
        return Row(self.kind, self.name, self.status, self.attempts, spans, failures, emitted, self.target)


class _Fold:
    """Takes in events one by one."""

    def __init__(self) -> None:
        self.accepted_at: float | None = None
        self.last = 0.0
        self._tracks: dict[str, _Track] = {}
        self._run: list[Span] = []
        self._marks: list[Mark] = []
        self._path: Literal["fast", "deep"] = "fast"
        self._pipeline = "run"
        self._queued = False
        self._since = 0.0
        self._second: float | None = None
        self._handoff = False
        self._ended: str | None = None

    def take(self, event: Event) -> None:
        at = self._moment(event.at)
        if event.type in TERMINAL:
            self._ended = event.type.removeprefix("run.")
        elif event.type in _TABLE:
            _TABLE[event.type](self, event, at)
        if event.type != "run.accepted" and self._second is None:
            self._second = at
        self.last = max(self.last, at)

    def _moment(self, text: str) -> float:
        try:
            epoch = datetime.fromisoformat(text).timestamp()
        except ValueError:
            return self.last
        if self.accepted_at is None:
            self.accepted_at = epoch
        return max(0.0, epoch - self.accepted_at)

    # The run.

    def accepted(self, event: Event, _at: float) -> None:
        self._pipeline = str(event.data.get("pipeline", self._pipeline))
        self._queued = event.data.get("path") == "deep"
        self._path = "deep" if self._queued else "fast"

    def demoted(self, event: Event, at: float) -> None:
        self._marks.append(Mark("demoted", at, str(event.data.get("reason", "budget"))))
        self._handoff = True

    def resumed(self, event: Event, at: float) -> None:
        gone = max(self._since, min(self.last, at))
        at = max(gone, at)
        kind: SpanKind = "moved"
        if self._handoff:
            kind = "handoff"
        elif self._only_waits():
            kind = "parked"
        self._executed(gone)
        self._run.append(Span(kind, gone, at))
        for track in self._tracks.values():
            track.give_up(at, handoff=self._handoff)
        self._path, self._since, self._handoff = "deep", at, False
        steps = int(event.data.get("replayed_steps") or 0)
        self._marks.append(Mark("resumed", at, f"{event.data.get('worker', 'a worker')}, {steps} steps taken over"))

    def _only_waits(self) -> bool:
        going_on = [track.open[0] for track in self._tracks.values() if track.open is not None]
        return bool(going_on) and all(kind in WAITING for kind in going_on)

    def _executed(self, until: float) -> None:
        if until > self._since:
            self._run.append(Span(self._path, self._since, until))

    # Steps and waits.

    def began(self, event: Event, at: float) -> None:
        label = event.data.get("label")
        track = self._track(event, "step", str(event.data.get("step", "?")) + (f" {label}" if label else ""))
        track.end(at)
        if label:
            track.name = f"{event.data.get('step', '?')} {label}"
        track.given_up, track.emitted = False, None
        track.status, track.attempts = "running", int(event.data.get("attempt", 1))
        target = event.data.get("target")
        track.target = None if target is None else str(target)
        track.begin("attempt", at)

    def waiting(self, event: Event, at: float) -> None:
        """It waits for a permit before it begins; a wait of a request belongs to its attempt."""
        track = self._track(event, "step", str(event.data.get("step", "?")))
        if track.open is None or track.open[0] == "retry":
            track.end(max(at - SAID_AFTER_S, 0.0))
            track.status = "waiting"
            track.begin("permit", max(at - SAID_AFTER_S, 0.0))

    def retrying(self, event: Event, at: float) -> None:
        track = self._track(event, "step", str(event.data.get("step", "?")))
        error = event.data.get("error")
        if isinstance(error, Mapping) and error.get("code") == INTERRUPTED:
            track.end(at, "lost")  # as a rule it was lost when the run was resumed, and nothing is open
            track.given_up = False
            return
        track.go_on()
        track.end(at, "failed")
        self._note_failure(track, event)
        track.status = "retrying"
        track.begin("retry", at)

    def completed(self, event: Event, at: float) -> None:
        self._over(event, at, "completed", "attempt")

    def failed(self, event: Event, at: float) -> None:
        self._over(event, at, "failed", "failed")

    def _over(self, event: Event, at: float, status: str, kind: SpanKind) -> None:
        track = self._track(event, "step", str(event.data.get("step", "?")))
        if status == "completed" or event.data.get("duration_ms"):
            track.go_on()
        if track.open is None:
            track.begin(kind, at)  # an interrupted step whose effect is unknown fails without an attempt
        track.end(at, kind)
        if status == "failed":
            self._note_failure(track, event)
        track.status, track.attempts = status, int(event.data.get("attempt", 1))

    @staticmethod
    def _note_failure(track: _Track, event: Event) -> None:
        error = event.data.get("error")
        track.failures.append(Failed(int(event.data.get("attempt", 1)), error if isinstance(error, Mapping) else {}))
        track.emitted = None  # its deltas are void

    def emitted(self, event: Event, at: float) -> None:
        track = self._tracks.get(str(event.data.get("key")))
        if track is None:  # from the body of the pipeline
            return
        delta = event.data.get("delta")
        before = track.emitted.text if track.emitted is not None and isinstance(delta, str) else ""
        text = delta if isinstance(delta, str) else msgspec.json.encode(delta).decode()
        track.emitted = Emitted((before + text)[-EMITTED_LENGTH_MAX:], at)

    def waits(self, event: Event, at: float) -> None:
        track = self._wait(event)
        track.end(at)
        track.status = "waiting"
        track.begin("wait", at)

    def waited(self, event: Event, at: float) -> None:
        track = self._wait(event)
        track.end(at)
        track.status = str(event.data.get("reason", "due"))

    def _wait(self, event: Event) -> _Track:
        name = event.data.get("name")
        kind = str(event.data.get("wait", "wait"))
        return self._track(event, "wait", f"{kind} {name}" if name else kind)

    def _track(self, event: Event, kind: Literal["step", "wait"], name: str) -> _Track:
        return self._tracks.setdefault(str(event.data.get("key", name)), _Track(kind, name))

    # The whole.

    def close(self, now: float, started_at: float | None) -> Waterfall:
        """End what is open where the run ends, or now."""
        accepted = self.accepted_at or 0.0
        end = self.last if self._ended is not None else max(self.last, now - accepted)
        if self._queued:
            self._leave_queue(end, None if started_at is None else started_at - accepted)
        self._executed(end)
        for track in self._tracks.values():
            self._cut_off(track, end)
        status = self._ended or "running"
        rows = (
            Row("run", self._pipeline, status, 1, tuple(self._run)),
            *(track.row() for track in self._tracks.values()),
        )
        known = [
            (number, span)
            for number, row in enumerate(rows)
            for span in row.spans
            if span.kind not in {"fast", "deep"} and (not span.open or self._ended is None)
        ]
        links = critical_path([(number, span.start, span.end) for number, span in known], end)
        busy, waiting, moving = (
            [(span.start, span.end) for _, span in known if span.kind in kinds] for kinds in (BUSY, WAITING, MOVING)
        )
        shares = totals(end, busy, waiting, moving)
        return Waterfall(end, status, rows, tuple(self._marks), tuple(busy), links, shares)

    def _cut_off(self, track: _Track, end: float) -> None:
        """End what no event ends: the run goes on, or its outcome cut it off, or the pipeline did some time before."""
        if self._ended is None:
            track.go_on()
            track.end(end, known=False)
            return
        if track.open is None:
            return
        track.status = "cancelled"
        kind: SpanKind | None = "cancelled" if track.open[0] == "attempt" else None
        track.end(end, kind, known=self._ended in {"cancelled", "expired"})

    def _leave_queue(self, end: float, started: float | None) -> None:
        until = started if started is not None else self._second if self._second is not None else end
        until = min(max(0.0, until), end if self._second is None else self._second)
        if self._run:  # it was resumed: what came before that is cut anew
            first = self._run[0]
            self._run[0] = Span(first.kind, max(first.start, until), max(first.end, until))
        else:
            self._since = until
        if until > 0.0:
            self._run.insert(0, Span("queued", 0.0, until))


_TABLE: Mapping[str, Callable[[_Fold, Event, float], None]] = {
    "run.accepted": _Fold.accepted,
    "run.demoted": _Fold.demoted,
    "run.resumed": _Fold.resumed,
    "step.waiting": _Fold.waiting,
    "step.started": _Fold.began,
    "step.delta": _Fold.emitted,
    "step.retrying": _Fold.retrying,
    "step.completed": _Fold.completed,
    "step.failed": _Fold.failed,
    "wait.started": _Fold.waits,
    "wait.ended": _Fold.waited,
}
