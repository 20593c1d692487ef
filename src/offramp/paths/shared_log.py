"""A run's log after handover: accepts writes only from steps still running here.

Writes that come while the run changes hands are kept back until it is known what they are made under.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

import msgspec

from offramp.core.events import Draft
from offramp.core.journal import Entry
from offramp.core.run import Outcome
from offramp.ports.commit import Commit
from offramp.ports.store import Lease, RunLog, Store


class _Keyed(msgspec.Struct):
    """Any event of a step."""

    key: str = ""


_keyed = msgspec.json.Decoder(_Keyed)


class SharedLog:
    """A run's log, usable from any thread.

    Args:
        store: where it is.
        log: the run's, while it is this process's alone.
    """

    def __init__(self, store: Store, log: RunLog) -> None:
        self._store = store
        self._log = log
        self._lock = threading.Lock()
        self._steps: dict[str, RunLog | None] | None = None
        self._back: list[tuple[str, Entry | None, Draft | None]] | None = None
        self._commits: list[Commit[None]] = []
        self.over: set[str] = set()
        """The steps whose end is recorded, or that another attempt follows."""

    @property
    def lease(self) -> Lease:
        """The lease that writes carry now."""
        return self._log.lease

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Write behind; nothing but what belongs to the steps that are kept, once there are any."""
        with self._lock:
            if self._steps is None:
                self._log.append(entry, event, durable=durable)
                return
            key = entry.key if entry is not None else "" if event is None else _keyed.decode(event.body).key
            if key not in self._steps:
                return
            if entry is not None or (event is not None and event.type == "step.retrying"):
                self.over.add(key)
            if self._back is not None:
                self._back.append((key, entry, event))
            else:
                self._write(key, entry, event)

    def _write(self, key: str, entry: Entry | None, event: Draft | None) -> None:
        assert self._steps is not None  # noqa: S101 - looked at by who calls
        log = self._steps[key]
        if log is None:
            log = self._steps[key] = self._store.log(self._log.lease.of_step(key))
        log.append(entry, event)

    def keep(self, steps: Iterable[str]) -> None:
        """The run is about to change hands: hold back what these steps write, and drop anything else."""
        with self._lock:
            self._steps, self._back = dict.fromkeys(steps), []

    def share(self, lease: Lease) -> None:
        """It has, and this is the lease of all who execute it."""
        with self._lock:
            self._log = self._store.log(lease)
            back, self._back = self._back or [], None
            for key, entry, event in back:
                self._write(key, entry, event)
            for commit in self._commits:
                self._log.durable().then(lambda made, commit=commit: commit.resolve(error=made.error))  # type: ignore[misc]
            self._commits = []

    def durable(self) -> Commit[None]:
        """Resolves when everything is on disk, which what is held back is only after `share`."""
        with self._lock:
            if self._back is None:
                return self._log.durable()
            commit: Commit[None] = Commit()
            self._commits.append(commit)
            return commit

    def survived(self) -> None:
        """Of the whole run."""
        self._log.survived()

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Of the whole run."""
        return self._log.finish(outcome, event, at)
