"""A person's view of a run: one pure reducer from events to a state and the lines that each event adds.

No terminal, no clock, no I/O: `render.py` shows it. A local run and a followed run have the same view.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from offramp.cli.output import one_line, printable
from offramp.core.events import TERMINAL, Event

Mark = Literal[
    "run", "start", "done", "failed", "retry", "wait", "text", "data", "demoted", "resumed", "ended", "broken"
]

TEXT_PENDING_MAX = 2_000
"""The maximum of characters in an unfinished line; past it, the line is shown as it is."""
DATA_SHOWN_MAX = 200


class Line(NamedTuple):
    """One line of the view; `seconds` since the run was accepted."""

    seconds: float
    mark: Mark
    text: str


@dataclass(frozen=True, slots=True)
class StepView:
    """A running step; `pending` is streamed text whose line has not ended yet, `data` its last progress."""

    name: str
    attempt: int
    started_at: float
    pending: str = ""
    data: str = ""


@dataclass(frozen=True, slots=True)
class RunView:
    """A run after some of its events; times in epoch seconds of the runtime's clock.

    `running` has the running steps and `waits` the open waits, both by key.
    """

    run_id: str = ""
    pipeline: str = ""
    path: str = ""
    status: str = ""
    seq: int = 0
    accepted_at: float = 0.0
    at: float = 0.0
    running: Mapping[str, StepView] = field(default_factory=dict)
    waits: Mapping[str, str] = field(default_factory=dict)
    ended: Event | None = None


class Shown(NamedTuple):
    """The state after an event, and the lines that the event adds."""

    view: RunView
    lines: list[Line]


def fold(view: RunView, event: Event) -> Shown:
    """Apply the next event; an event seen before (a resumed stream may repeat one) changes nothing."""
    if event.seq <= view.seq:
        return Shown(view, [])
    at = _epoch(event.at, view.at)
    view = replace(view, run_id=event.run_id, seq=event.seq, at=at, accepted_at=view.accepted_at or at)
    take = _terminal if event.type in TERMINAL else _TABLE.get(event.type)
    return take(view, event) if take is not None else Shown(view, [])


def duration(milliseconds: float) -> str:
    """A duration for a person: `310 ms`, `8.1 s`, `2 min 05 s`."""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def waited_for(wait: Mapping[str, Any]) -> str:
    """A wait in a few words, with what is asked if that is a text."""
    until = str(wait.get("until") or "")
    if wait["kind"] == "time":
        return f"the time {until[5:10]} {until[11:19]}" if until else "a time"
    asked = f" ({wait['ask']})" if isinstance(wait.get("ask"), str) else ""
    return f"signal {wait['name']}{asked}"


def waited_for_permit(wait: Mapping[str, Any]) -> str:
    """A wait for a permit in a few words: `openai (rate, 12 ahead, about 3.2 s)`."""
    facts = [str(wait.get("reason") or "")]
    if wait.get("ahead"):
        facts.append(f"{wait['ahead']} ahead")
    if wait.get("expected_ms"):
        facts.append(f"about {duration(float(wait['expected_ms']))}")
    return one_line(f"{wait.get('resource')} ({', '.join(filter(None, facts))})")


def error_text(error: object) -> str:
    """`message (step write, attempt 3, desk.py:12 in fetch)` for the error object of an event or document."""
    if not isinstance(error, Mapping):
        return "no reason given"
    where = []
    if error.get("step"):
        where.append(f"step {error['step']}")
    if error.get("attempt") and error["attempt"] != 1:
        where.append(f"attempt {error['attempt']}")
    if isinstance(error.get("where"), Mapping):
        where.append("{file}:{line} in {function}".format_map(error["where"]))
    message = str(error.get("message") or error.get("code") or "no reason given")
    return one_line(message + (f" ({', '.join(where)})" if where else ""))


def _accepted(view: RunView, event: Event) -> Shown:
    data = event.data
    reasons = data.get("route", {}).get("reasons") or []
    view = replace(view, pipeline=str(data.get("pipeline", "")), path=str(data.get("path", "")), status="accepted")
    why = f": {', '.join(map(str, reasons))}" if reasons else ""
    text = f"{event.run_id} {view.pipeline}, {view.path} path, class {data.get('class', 'default')}{why}"
    return Shown(view, [_line(view, "run", text)])


def _started(view: RunView, event: Event) -> Shown:
    label, attempt = event.data.get("label"), int(event.data.get("attempt", 1))
    step = _step(event) + (f" ({one_line(str(label))})" if label else "")
    view = _with(view, _key(event), StepView(step, attempt, view.at))
    return Shown(view, [_line(view, "start", step + _by(event) + _nth(attempt))])


def _waiting(view: RunView, event: Event) -> Shown:
    data = event.data
    text = f"{_step(event)} waits for {waited_for_permit(data)}"
    known = view.running.get(_key(event))
    if known is not None:
        view = _with(view, _key(event), replace(known, data=f"waits for {one_line(str(data.get('resource')))}"))
    return Shown(view, [_line(view, "wait", text)])


def _delta(view: RunView, event: Event) -> Shown:
    known = view.running.get(_key(event)) or StepView(_step(event), int(event.data.get("attempt", 1)), view.at)
    delta = event.data.get("delta")
    if not isinstance(delta, str):
        unfinished = [_text(view, known.name, known.pending)] if known.pending else []
        known = replace(known, data=_compact(delta), pending="")
        view = _with(view, _key(event), known)
        return Shown(view, [*unfinished, _line(view, "data", f"{known.name} | {known.data}")])
    *whole, pending = (known.pending + printable(delta.replace("\r\n", "\n"))).split("\n")
    if len(pending) > TEXT_PENDING_MAX:
        whole.append(pending)
        pending = ""
    view = _with(view, _key(event), replace(known, pending=pending))
    return Shown(view, [_text(view, known.name, line) for line in whole])


def _retrying(view: RunView, event: Event) -> Shown:
    known = view.running.get(_key(event))
    if known is not None:
        view = _with(view, _key(event), replace(known, pending="", data="waits before its next attempt"))
    attempt = event.data.get("attempt", 1)
    delay_ms = float(event.data.get("delay_ms", 0))
    again = f"again in {duration(delay_ms)}" if delay_ms >= 1 else "again at once"
    text = f"{_step(event)} attempt {attempt}{_by(event)} is void: {_message(event)}; {again}"
    return Shown(view, [_line(view, "retry", text)])


def _by(event: Event) -> str:
    target = event.data.get("target")
    return f" by {one_line(str(target))}" if target else ""


def _completed(view: RunView, event: Event) -> Shown:
    view, lines = _closed(view, event)
    took = duration(float(event.data.get("duration_ms", 0)))
    lines.append(_line(view, "done", f"{_step(event)} in {took}{_nth(int(event.data.get('attempt', 1)))}"))
    return Shown(view, lines)


def _failed(view: RunView, event: Event) -> Shown:
    view, lines = _closed(view, event)
    took = duration(float(event.data.get("duration_ms", 0)))
    nth = _nth(int(event.data.get("attempt", 1)))
    lines.append(_line(view, "failed", f"{_step(event)} failed after {took}{nth}: {_message(event)}"))
    return Shown(view, lines)


def _waits(view: RunView, event: Event) -> Shown:
    name = event.data.get("name")
    what = one_line(f"signal {name}") if name else "a sleep"
    view = replace(view, waits={**view.waits, _key(event): what})
    return Shown(view, [_line(view, "wait", f"waits for {what}" if name else "sleeps")])


def _waited(view: RunView, event: Event) -> Shown:
    key = _key(event)
    ends = {"received": "came", "cancelled": "is not waited for any more"}
    text = f"{view.waits.get(key, 'a wait')} {ends.get(str(event.data.get('reason')), 'is over')}"
    view = replace(view, waits={each: what for each, what in view.waits.items() if each != key})
    return Shown(view, [_line(view, "wait", text)])


def _refused(view: RunView, event: Event) -> Shown:
    problems = [(each.get("pointer"), each.get("message")) for each in event.data.get("errors") or []]
    listed = "; ".join(f"{pointer or 'the value'}: {message}" for pointer, message in problems)
    text = f"signal {event.data.get('name')} came early and does not fit: {listed}"
    return Shown(view, [_line(view, "wait", one_line(text))])


def _demoted(view: RunView, event: Event) -> Shown:
    view = replace(view, path="deep")
    data = event.data
    elapsed, budget = (duration(float(data.get(name) or 0)) for name in ("elapsed_ms", "budget_ms"))
    why = f"demoted to the deep path after {elapsed} ({data.get('reason', 'budget')}, budget {budget})"
    message = one_line(str(data.get("message") or ""))
    return Shown(view, [_line(view, "demoted", f"{why}: {message}" if message else why)])


_RESUMED_AFTER = {"death": ", as the process before it died", "silence": ", as the process before it fell silent"}


def _resumed(view: RunView, event: Event) -> Shown:
    # A run moves between two steps or after its process died, so the previous process executes none of its steps.
    view = replace(view, running={}, path="deep")
    steps = int(event.data.get("replayed_steps") or 0)
    replayed = f"{steps} finished step{'' if steps == 1 else 's'} taken over"
    why = _RESUMED_AFTER.get(event.data.get("reason") or "", "")
    return Shown(view, [_line(view, "resumed", f"resumed by {event.data.get('worker', 'a worker')}{why}, {replayed}")])


def _terminal(view: RunView, event: Event) -> Shown:
    lines = [_text(view, step.name, step.pending) for step in view.running.values() if step.pending]
    status = event.type.removeprefix("run.")
    view = replace(view, running={}, status=status, ended=event)
    took = duration((view.at - view.accepted_at) * 1000)
    if status == "completed":
        return Shown(view, [*lines, _line(view, "ended", f"completed in {took} on the {view.path or 'fast'} path")])
    return Shown(view, [*lines, _line(view, "broken", f"{status} after {took}: {error_text(event.data.get('error'))}")])


_TABLE: Mapping[str, Callable[[RunView, Event], Shown]] = {
    "run.accepted": _accepted,
    "step.waiting": _waiting,
    "step.started": _started,
    "step.delta": _delta,
    "step.retrying": _retrying,
    "step.completed": _completed,
    "step.failed": _failed,
    "wait.started": _waits,
    "wait.ended": _waited,
    "signal.refused": _refused,
    "run.demoted": _demoted,
    "run.resumed": _resumed,
}


def _closed(view: RunView, event: Event) -> tuple[RunView, list[Line]]:
    known = view.running.get(_key(event))
    rest = {key: step for key, step in view.running.items() if key != _key(event)}
    lines = [_text(view, known.name, known.pending)] if known is not None and known.pending else []
    return replace(view, running=rest), lines


def _with(view: RunView, key: str, step: StepView) -> RunView:
    return replace(view, running={**view.running, key: step})


def _line(view: RunView, mark: Mark, text: str) -> Line:
    return Line(max(0.0, view.at - view.accepted_at), mark, one_line(text))


def _text(view: RunView, step: str, text: str) -> Line:
    # Streamed text keeps its indentation, which code and lists need.
    return Line(max(0.0, view.at - view.accepted_at), "text", f"{step} | {text.expandtabs(4).rstrip()}")


def _nth(attempt: int) -> str:
    return "" if attempt == 1 else f", attempt {attempt}"


def _step(event: Event) -> str:
    return one_line(str(event.data.get("step", "?")))


def _key(event: Event) -> str:
    return str(event.data.get("key") or event.data.get("step"))


def _message(event: Event) -> str:
    error = event.data.get("error")
    return one_line(str(error.get("message") or error.get("code"))) if isinstance(error, Mapping) else "no reason given"


def _compact(value: Any) -> str:
    if isinstance(value, Mapping) and value and all(isinstance(v, (str, int, float, bool)) for v in value.values()):
        text = ", ".join(f"{key} {item}" for key, item in value.items())
    else:
        text = msgspec.json.encode(value).decode()
    text = one_line(text)
    return text if len(text) <= DATA_SHOWN_MAX else text[: DATA_SHOWN_MAX - 1] + "…"


def _epoch(at: str, otherwise: float) -> float:
    try:
        return datetime.fromisoformat(at).timestamp()
    except ValueError:
        return otherwise
