"""A run's log after handover: accepts writes only from steps still running here.

Writes during the change of owner are held back until the new lease is known.
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
        store: holds the log.
        log: the log of the run while only this process owns it.
    """

    def __init__(self, store: Store, log: RunLog) -> None:
        self._store = store
        self._log = log
        self._lock = threading.Lock()
        self._steps: dict[str, RunLog | None] | None = None
        self._back: list[tuple[str, Entry | None, Draft | None]] | None = None
        self._commits: list[Commit[None]] = []
        self.over: set[str] = set()
        """The steps that have a recorded end or a further attempt."""

    @property
    def lease(self) -> Lease:
        """The lease of present writes."""
        return self._log.lease

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Queue a write; after `keep`, drop writes that do not belong to its steps."""
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
        assert self._steps is not None  # noqa: S101 - the caller has checked it
        log = self._steps[key]
        if log is None:
            log = self._steps[key] = self._store.log(self._log.lease.of_step(key))
        log.append(entry, event)

    def keep(self, steps: Iterable[str]) -> None:
        """Prepare a change of owner: hold back writes of these steps, and drop all others."""
        with self._lock:
            self._steps, self._back = dict.fromkeys(steps), []

    def share(self, lease: Lease) -> None:
        """Complete the change of owner: `lease` is shared by all processes that execute the run."""
        with self._lock:
            self._log = self._store.log(lease)
            back, self._back = self._back or [], None
            for key, entry, event in back:
                self._write(key, entry, event)
            for commit in self._commits:
                self._log.durable().then(lambda made, commit=commit: commit.resolve(error=made.error))  # type: ignore[misc]
            self._commits = []

    def durable(self) -> Commit[None]:
        """Resolves when everything is on disk; writes held back reach it only after `share`."""
        with self._lock:
            if self._back is None:
                return self._log.durable()
            commit: Commit[None] = Commit()
            self._commits.append(commit)
            return commit

    def survived(self) -> None:
        """Forget the deaths of the whole run."""
        self._log.survived()

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """End the whole run."""
        return self._log.finish(outcome, event, at)
