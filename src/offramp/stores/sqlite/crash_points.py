"""Named points at which a test kills this process: before and after the commit of each kind of write. Off by default.

Owns the names and the kill. A variable for tests alone arms it, so it is not a setting.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from offramp.core.names import did_you_mean
from offramp.errors import SettingsError
from offramp.stores.sqlite.batch import Call, Operation
from offramp.stores.sqlite.operations import Append, Create, Finish, Sync

VARIABLE = "OFFRAMP_CRASH_AT"
"""`[ROLE/]POINT.before` or `.after`, then `:N` for the Nth time in a process: `worker/claim.after`, `step.before:3`."""
MARK = "OFFRAMP_CRASH_MARK"
"""A file for the id of the first process that reaches its point; once it exists, no process is killed."""

POINTS: dict[str, str] = {
    "submit": "a new run with its first event and its idempotency key",
    "event": "an event alone: a step began, emitted something, is retried; a run was resumed",
    "step": "a finished step or journaled value, with its event",
    "deliver": "the same for a step that was in flight when its run was demoted, from the process that demoted it",
    "sync": "no new write: all earlier ones reach the disk, as a demotion and an effect require first",
    "adopt": "the engine owns a demoted run",
    "demoted": "`run.demoted` is in the event log",
    "release": "a run is given back for any worker to take",
    "park": "a run is given back until a time, or a signal",
    "claim": "queued runs change hands",
    "finish": "a run's outcome with its terminal event",
    "signal": "a signal sent to a run",
    "cancel": "a request to cancel a run",
    "register": "a process is known",
    "survive": "the deaths of a run's processes are forgotten, as the interrupted steps have finished",
    "retire": "the runs of a dead process are queued",
    "purge": "a process takes the duty to remove runs past their retention, or removes some",
    "webhook-due": "an event that a webhook announces",
    "webhook-claim": "webhooks are taken, to send one message for each",
    "webhook-delivered": "a message arrived; the next event has its turn",
    "webhook-retry": "a message did not arrive and is sent again later",
    "webhook-given-up": "a message did not arrive for too long; the next event has its turn",
    "webhook-done": "a webhook has no further event, or its receiver wants no more",
}
When = Literal["before", "after"]


class CrashPoint:
    """Kills this process when its writer reaches one point.

    Args:
        point: one of `POINTS`.
        when: before or after the commit.
        count: how many times the point has to be reached.
        mark: see `MARK`.
        kill: called then.
    """

    def __init__(
        self, point: str, when: When, count: int, mark: str | None = None, kill: Callable[[], object] | None = None
    ) -> None:
        self._point = point
        self._when = when
        self._left = count
        self._mark = mark
        self._kill = kill or _kill

    @classmethod
    def armed(cls, environment: Mapping[str, str], role: str) -> CrashPoint | None:
        """The crash point that the environment names for a process of this role; almost always None.

        Raises:
            SettingsError: it names an unknown point.
        """
        wanted = environment.get(VARIABLE)
        if not wanted:
            return None
        place, _, count = wanted.partition(":")
        where, _, name = place.rpartition("/")
        point, _, when = name.partition(".")
        if point not in POINTS:
            raise SettingsError(f"{VARIABLE}: no point {point!r}; {did_you_mean(point, POINTS)}")
        if when not in {"before", "after"} or not (count or "1").isdigit():
            raise SettingsError(f"{VARIABLE} is [ROLE/]POINT.before or POINT.after, then :N; got {wanted!r}")
        if where not in {"", role}:
            return None
        return cls(point, "before" if when == "before" else "after", int(count or 1), environment.get(MARK))

    def reach(
        self, connection: sqlite3.Connection, operations: Sequence[Operation], when: When, *, announces: bool
    ) -> None:
        """The writer calls it around each commit; `announces` is whether the commit makes a webhook due."""
        if when != self._when:
            return
        points = [point_of(operation, connection) for operation in operations]
        if announces:
            points.append("webhook-due")
        self._left -= points.count(self._point)
        if self._left <= 0 and self._first():
            self._kill()

    def _first(self) -> bool:
        if self._mark is None:
            return True
        try:
            mark = os.open(self._mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        except FileExistsError:
            return False
        os.write(mark, b"%d" % os.getpid())
        os.close(mark)
        return True


def point_of(operation: Operation, connection: sqlite3.Connection) -> str:
    """The name of the point of an operation."""
    if isinstance(operation, Call):
        return operation.point
    if isinstance(operation, Append):
        if operation.entry is not None:
            return "deliver" if _is_delivered(operation, connection) else "step"
        return "demoted" if operation.event is not None and operation.event.type == "run.demoted" else "event"
    points: dict[type[Operation], str] = {Create: "submit", Finish: "finish", Sync: "sync"}
    return points[type(operation)]


def _is_delivered(operation: Append, connection: sqlite3.Connection) -> bool:
    # A demoted run still has its first lease: its token grows when a worker claims it.
    lease = operation.lease
    query = "SELECT 1 FROM runs WHERE id = ? AND token = 1 AND demotion IS NOT NULL"
    return lease.token == 1 and connection.execute(query, (lease.run_id,)).fetchone() is not None


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
