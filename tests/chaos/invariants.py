"""The invariants of DESIGN.md, from outside: what clients saw, what steps wrote down, what the database holds."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from collections.abc import Container, Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from offramp.core.journal import Entry
from tests.chaos.announced import unannounced
from tests.chaos.client import TERMINAL, Seen
from tests.chaos.serving import Interruption

_entry = msgspec.msgpack.Decoder(Entry).decode
Execution = dict[str, Any]
LANE_OUTLIVES_S = 0.5
"""How long a process lane may take to find its worker dead, on a busy machine."""


def executions(home: Path) -> dict[str, list[Execution]]:
    """Executions of each step of each run, by idempotency key, in the order they began; `token` where they ended."""
    found: dict[str, list[Execution]] = defaultdict(list)
    file = home / "executions"
    for line in file.read_text().splitlines() if file.exists() else ():
        noted = json.loads(line)
        if noted["ended"] is None:
            found[noted["key"]].append(noted | {"token": None})
            continue
        for execution in reversed(found[noted["key"]]):
            if execution["pid"] == noted["pid"] and execution["token"] is None:
                execution["token"] = noted["ended"]
                break
    for runs in found.values():
        runs.sort(key=lambda execution: execution["at"])
    return found


def violations(
    home: Path, seen: Sequence[Seen], interruptions: Sequence[Interruption], silent: set[int] = frozenset()
) -> list[str]:
    """Everything that is not as it must be, once all is calm and every process has left."""
    executed = executions(home)
    database = Recorded(home / "data" / "offramp.db")
    return [
        *database.violations(),
        *_clients(seen, database),
        *repeated(executed, interruptions, silent),
        *_finished_again(executed, seen, interruptions, silent),
        *_results(executed, database),
        *unannounced(home, seen, database.events, database.unannounced),
    ]


class Recorded:
    """What the database holds."""

    def __init__(self, path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as connection:
            self.integrity = connection.execute("PRAGMA integrity_check").fetchone()[0]
            columns = "id, pipeline, status, path, owner, token, result, demotion, finished_at"
            connection.row_factory = sqlite3.Row
            self.runs = {row["id"]: dict(row) for row in connection.execute(f"SELECT {columns} FROM runs")}
            connection.row_factory = None
            self.entries: dict[str, list[tuple[int, Entry]]] = defaultdict(list)
            for run, position, entry in connection.execute(
                "SELECT run_id, position, entry FROM journal ORDER BY run_id, position"
            ):
                self.entries[run].append((position, _entry(entry)))
            self.events: dict[str, list[tuple[int, dict[str, Any]]]] = defaultdict(list)
            for run, first, last, data in connection.execute(
                "SELECT run_id, first, last, data FROM events ORDER BY run_id, first"
            ):
                lines = data.split(b"\n")
                assert last == first + len(lines) - 1
                self.events[run] += [(first + place, json.loads(line)) for place, line in enumerate(lines)]
            self.keys = connection.execute("SELECT key, run_id FROM idempotency").fetchall()
            self.unannounced = [run for (run,) in connection.execute("SELECT run_id FROM webhooks")]

    def violations(self, retries: Container[str] = ()) -> Iterator[str]:
        """Everything that is not as it must be; `retries` are runs whose journal begins with another run's."""
        if self.integrity != "ok":
            yield f"the database is damaged: {self.integrity}"
        for run_id, run in self.runs.items():
            entries, events = self.entries[run_id], self.events[run_id]
            # J1: each key once, positions without a gap.
            if [position for position, _ in entries] != list(range(len(entries))):
                yield f"{run_id}: journal positions {[position for position, _ in entries]}"
            keys = [entry.key for _, entry in entries]
            if len(set(keys)) != len(keys):
                yield f"{run_id}: a key twice in the journal: {keys}"
            yield from _log(run_id, run, events)
            finished = [event["key"] for _, event in events if event["type"] in {"step.completed", "step.failed"}]
            recorded = [entry.key for _, entry in entries if entry.kind == "step"]
            if finished != (recorded[len(recorded) - len(finished) :] if run_id in retries else recorded):
                yield f"{run_id}: journal and log differ: {finished} {keys}"
            if run["owner"] is not None:
                yield f"{run_id} is {run['status']} and owned by {run['owner']} at the end"
        for run_id in {*self.entries, *self.events} - {*self.runs}:
            if self.entries[run_id] or self.events[run_id]:
                yield f"{run_id} has a journal or a log and no record"


def _log(run_id: str, run: dict[str, Any], events: list[tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """E1, E2, D2 and D3 in one run's log."""
    types = [event["type"] for _, event in events]
    if [number for number, _ in events] != list(range(1, len(events) + 1)):
        yield f"{run_id}: event numbers {[number for number, _ in events]}"
    if any(event["seq"] != number for number, event in events):
        yield f"{run_id}: an event says another number than it has"
    if types[:1] != ["run.accepted"]:
        yield f"{run_id}: begins with {types[:1]}"
    if [place for place, kind in enumerate(types) if kind in TERMINAL] != [len(types) - 1]:
        yield f"{run_id} ({run['status']}, {run['path']}): no terminal event at the end, or several: {types[-5:]}"
    elif types[-1] != f"run.{run['status']}":
        yield f"{run_id}: is {run['status']}, its log says {types[-1]}"
    if types.count("run.demoted") > 1:
        yield f"{run_id}: demoted {types.count('run.demoted')} times"
    if (run["demotion"] is not None) != ("run.demoted" in types) and "run.demoted" in types:
        yield f"{run_id}: run.demoted without a demotion in the record"
    steps: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, event in events:
        if event["type"].startswith("step.") and event["step"] != run["pipeline"]:
            steps[event["key"]].append(event)
    for key, step_events in steps.items():
        yield from _step(f"{run_id} {key}", step_events)


def _step(where: str, step_events: list[dict[str, Any]]) -> Iterator[str]:
    attempt, open_, over = 0, False, False
    for event in step_events:
        kind = event["type"]
        if over:
            yield f"{where}: {kind} after it had finished"
            return
        if kind == "step.started":
            if open_:
                yield f"{where}: attempt {event['attempt']} started while {attempt} was open, and no event says so"
            if event["attempt"] not in {attempt, attempt + 1}:
                yield f"{where}: attempt {event['attempt']} after {attempt}"
            attempt, open_ = event["attempt"], True
        elif kind == "step.retrying":
            if event["error"]["code"] == "interrupted":
                attempt = event["attempt"]  # the same one again (D3)
                open_ = False
            else:
                attempt, open_ = event["attempt"], False
        elif kind in {"step.completed", "step.failed"}:
            over = True
            # A step may be finished by what was started before a crash took its step.started away.
    starts = [event["attempt"] for event in step_events if event["type"] == "step.started"]
    burnt = [
        event for event in step_events if event["type"] == "step.retrying" and event["error"]["code"] != "interrupted"
    ]
    if starts and max(starts) > len(burnt) + 1:
        yield f"{where}: {max(starts)} attempts, {len(burnt)} of them failed"


def _clients(seen: Sequence[Seen], database: Recorded) -> Iterator[str]:
    """E1 on the wire, and nothing acknowledged is lost."""
    by_key = dict(database.keys)
    for one in seen:
        yield from one.wrong
        if one.run is None:
            continue
        if one.run not in database.runs:
            yield f"{one.run} ({one.asked}) was acknowledged and is not in the database"
            continue
        if one.outcome is None:
            yield f"{one.run} ({one.asked}) was not seen to end; last event {one.frames[-1:]}"
            continue
        if one.asked.key is not None and by_key.get(stored(one.asked.key)) != one.run:
            yield f"{one.run}: its key belongs to {by_key.get(stored(one.asked.key))}"
        again = [(frame.seq, frame.data) for frame in one.again]
        if again != [(frame.seq, frame.data) for frame in one.frames]:
            yield f"{one.run}: read again, its log is not what was streamed"
        yield from _outcome(one)


def _outcome(one: Seen) -> Iterator[str]:
    expected = {"breaks": {"run.failed"}, "endless": {"run.cancelled"}, "pays": {"run.completed", "run.failed"}}
    if one.outcome not in expected.get(one.asked.pipeline, {"run.completed"}) and not one.cancelled:
        yield f"{one.run} ({one.asked}) ended {one.frames[-1].data[:600]!r}"
    if one.cancelled and one.outcome != "run.cancelled":
        yield f"{one.run}: its cancellation was acknowledged, it ended {one.outcome}"
    if one.outcome == "run.failed" and one.asked.pipeline == "pays":
        code = json.loads(one.frames[-1].data)["error"]["code"]
        if code != "effect-unknown":
            yield f"{one.run}: failed with {code}"
    if one.document is not None and f"run.{one.document['status']}" != one.outcome:
        yield f"{one.run}: its document says {one.document['status']}, its log {one.outcome}"


def repeated(
    executed: dict[str, list[Execution]], interruptions: Sequence[Interruption], silent: set[int]
) -> Iterator[str]:
    """D2: an execution is followed by another of the same attempt only if its process was killed or stopped."""
    harmed: dict[int, list[Interruption]] = defaultdict(list)
    for interruption in interruptions:
        harmed[interruption.pid].append(interruption)
    for key, runs in executed.items():
        if ":charge:" in key and len(runs) > 1:
            yield f"{key}: an effect that is to happen once was executed {len(runs)} times: {runs}"
        for before, after in pairwise(runs):
            if after["attempt"] > before["attempt"]:
                continue
            excused = before["pid"] in silent or any(
                item.until >= before["at"] and item.at <= after["at"] for item in harmed[before["pid"]]
            )
            # Of the two, either may be what a stopped process began when it went on.
            excused = excused or any(began_late(each, harmed[each["pid"]]) for each in (before, after))
            excused = excused or _outlived(before, harmed[before["pid"]])
            if not excused:
                yield f"{key}: executed again though nothing happened to its process: {before} {after}"


def began_late(execution: Execution, harm: Sequence[Interruption]) -> bool:
    """Whether the step was in flight when its process was stopped, and its code begun when that went on.

    It was on its way to a thread, or waited for the one process lane.
    """
    within_s = 1.0 if ":compute:" in execution["key"] else 0.05
    return any(item.how == "stopped" and 0 <= execution["at"] - item.until < within_s for item in harm)


def _outlived(execution: Execution, harm: Sequence[Interruption]) -> bool:
    """Whether a process lane was just told to begin, and did, when its worker was killed: that is its death, too."""
    lanes = [item for item in harm if item.how == "killed"] if ":compute:" in execution["key"] else []
    return any(0 <= execution["at"] - item.until < LANE_OUTLIVES_S for item in lanes)


def _finished_again(
    executed: dict[str, list[Execution]], seen: Sequence[Seen], interruptions: Sequence[Interruption], silent: set[int]
) -> Iterator[str]:
    """D2: nothing begins once a client has heard that it was finished; N5: nor after the run's end."""
    finished: dict[str, float] = {}
    ended: dict[str, float] = {}
    harmed: dict[int, list[Interruption]] = defaultdict(list)
    for interruption in interruptions:
        harmed[interruption.pid].append(interruption)
    for one in seen:
        for frame in one.frames:
            if frame.type in {"step.completed", "step.failed"}:
                finished[f"{one.run}:{json.loads(frame.data)['key']}"] = frame.at
            elif frame.type in TERMINAL:
                ended[str(one.run)] = frame.at
    for key, runs in executed.items():
        for execution in runs:
            if execution["pid"] in silent or began_late(execution, harmed[execution["pid"]]):
                continue
            if execution["at"] > finished.get(key, execution["at"]):
                late = execution["at"] - finished[key]
                yield f"{key}: executed again {late:.3f} s after it was heard to be finished: {execution}"
            elif execution["at"] > ended.get(execution["run"], execution["at"]):
                yield f"{key}: begun after its run had ended: {execution}"


def _results(executed: dict[str, list[Execution]], database: Recorded) -> Iterator[str]:
    """What is in the journal was really returned by an execution, and the result is made of the journal alone."""
    for run_id, run in database.runs.items():
        values = {}
        for _, entry in database.entries[run_id]:
            if entry.kind != "step" or entry.value is None:
                continue
            token = values[entry.key] = json.loads(entry.value)
            tokens = {execution["token"] for execution in executed.get(f"{run_id}:{entry.key}", ())}
            if token not in tokens:
                yield f"{run_id} {entry.key}: the journal has {token}, its executions returned {tokens}"
        if run["status"] == "completed":
            steps = [token for token in json.loads(run["result"]) if isinstance(token, str) and "=" in token]
            if sorted(steps) != sorted(values.values()):
                yield f"{run_id}: the result {steps} is not what the journal holds: {values}"


def stored(key: str) -> str:
    """An Idempotency-Key as the database has it."""
    return blake2b(key.encode(), digest_size=32).hexdigest()
