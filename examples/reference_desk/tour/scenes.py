"""The three scenes: a run that is demoted in mid-stream, one that is fast enough, an asynchronous one.

Each returns the run's document and everything that was not as it should be.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .client import TERMINAL_EVENTS, Client, Event, UnexpectedAnswerError
from .screen import Bar, Screen

QUESTION = "How do I write a context manager?"

AUDIT_BUDGET_S = 1.0
"""Less than the audit of a standard library takes on any current machine."""

_REPORT_LINES_SHOWN = 12


@dataclass(frozen=True)
class Outcome:
    """How a scene ended; `run` is its document."""

    title: str
    run: dict[str, Any]
    problems: list[str]


def demoted_and_followed(client: Client, screen: Screen) -> Outcome:
    """Stream an audit until it is demoted, then resume its stream to the end."""
    screen.scene(
        f"1. An audit of the standard library that exceeds its budget of {AUDIT_BUDGET_S:g} s",
        f'POST /v1/pipelines/audit/runs  {{"budget": {AUDIT_BUDGET_S:g}}}',
    )
    with screen.progress("fast path") as bar:
        before = _show(client.stream("audit", {"input": {}, "budget": AUDIT_BUDGET_S}), bar)
    first, last = _first_and_last(before)
    if last.type != "run.demoted":
        problem = f"expected the stream to end with run.demoted, got {last.type}"
        return Outcome("audit", _document(client, first), [problem])
    screen.say(
        f"run.demoted after {_ms(last.after_s)} ({last.data['reason']}): {last.data['message']}",
        style="yellow",
    )
    screen.say(f"the stream ended; following {first.data['run_id']} after event {last.seq}")

    with screen.progress("deep path") as bar:
        after = _show(client.resume(last.data["links"]["events"], last.seq), bar)
    run = _document(client, first)
    problems = [
        *gaps([*before, *after]),
        *differences(run, status="completed", path="deep", reason="budget"),
    ]
    if not problems:
        _, end = _first_and_last(after)
        screen.good(f"{end.type}; events 1 to {end.seq} in two streams, none missing, none repeated")
        _show_report(screen, client.get(run["links"]["result"]))
    return Outcome("audit, streamed", run, problems)


def answered_on_the_fast_path(client: Client, screen: Screen) -> Outcome:
    """Stream an answer and time it."""
    screen.scene("2. A question, answered on the fast path", f'POST /v1/pipelines/explain/runs  "{QUESTION}"')
    events: list[Event] = []
    for event in client.stream("explain", {"input": {"question": QUESTION}}):
        events.append(event)
        if event.type == "step.delta":
            screen.passage(event.data["delta"])
    first, last = _first_and_last(events)
    screen.say(f"first event after {_ms(first.after_s)}, {last.type} after {_ms(last.after_s)}")
    run = _document(client, first)
    problems = [*gaps(events), *differences(run, status="completed", path="fast")]
    text = "".join(event.data["delta"] for event in events if event.type == "step.delta")
    if last.type == "run.completed" and text != last.data["result"]["text"]:
        problems.append("the streamed pieces do not match the answer in the result")
    return Outcome("explain", run, problems)


def asked_for_later(client: Client, screen: Screen) -> Outcome:
    """Post an audit of Offramp's own source without waiting for it, and poll for its result."""
    screen.scene(
        "3. An asynchronous audit of Offramp itself",
        'POST /v1/pipelines/audit/runs  {"input": {"path": "src"}}  Prefer: respond-async',
    )
    answer, seconds = client.submit("audit", {"input": {"path": "src"}})
    location = answer.headers["Location"]
    screen.say(f"202 after {_ms(seconds)}, Location: {location}")
    polls = 0
    for polled in client.poll_result(client.get(location)["links"]["result"]):
        polls += 1
        wait = polled.headers.get("Retry-After")
        if wait:
            screen.say(f"  GET result: {polled.status_code}, Retry-After: {wait}")
    totals = polled.json()["totals"]
    screen.good(
        f"  GET result: {polled.status_code} at poll {polls}: {totals['files']:,} files, "
        f"{totals['functions']:,} functions, {totals['documented_functions']:,} of "
        f"{totals['public_functions']:,} public ones documented"
    )
    run = client.get(location)
    return Outcome("audit, not awaited", run, differences(run, status="completed", path="deep"))


def _show(events: Iterable[Event], bar: Bar) -> list[Event]:
    seen: list[Event] = []
    for event in events:
        seen.append(event)
        if event.type == "step.delta" and isinstance(event.data["delta"], dict):
            bar.show(event.data["delta"])
    return seen


def _show_report(screen: Screen, report: dict[str, Any]) -> None:
    lines: list[str] = report["text"].splitlines()
    for line in lines[:_REPORT_LINES_SHOWN]:
        screen.say(f"  {line}")
    screen.say(f"  ... and {len(lines) - _REPORT_LINES_SHOWN} lines more")


def _first_and_last(events: Sequence[Event]) -> tuple[Event, Event]:
    if not events:
        message = "the stream ended without an event"
        raise UnexpectedAnswerError(message)
    return events[0], events[-1]


def _document(client: Client, event: Event) -> dict[str, Any]:
    return client.get(f"/v1/runs/{event.data['run_id']}")


def gaps(events: Sequence[Event]) -> list[str]:
    """Check that the log is numbered from 1 without a gap, and ends with its only terminal event."""
    problems: list[str] = []
    sequence = [event.seq for event in events]
    if sequence != list(range(1, len(events) + 1)):
        problems.append(f"expected events 1 to {len(events)}, got {sequence}")
    ends = [event.type for event in events if event.type in TERMINAL_EVENTS]
    if len(ends) != 1 or events[-1].type != ends[0]:
        problems.append(f"expected one terminal event at the end, got {ends or 'none'}")
    return problems


def differences(run: dict[str, Any], *, status: str, path: str, reason: str | None = None) -> list[str]:
    """Compare a run's document with the expected end."""
    problems = [
        f"expected {field} {expected!r}, got {run[field]!r}"
        for field, expected in (("status", status), ("path", path))
        if run[field] != expected
    ]
    demoted = (run["demotion"] or {}).get("reason")
    if demoted != reason:
        problems.append(f"expected demotion for {reason}, got {demoted}")
    if run.get("error"):
        problems.append(f"the run's error: {run['error']}")
    return problems


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"
