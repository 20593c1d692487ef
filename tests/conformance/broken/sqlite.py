"""Harnesses of databases that break a promise when their process dies or ends."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3

from offramp.ports.commit import Commit
from offramp.stores.sqlite.database import FILE_NAME
from tests.conformance.adapters import SQLite
from tests.conformance.broken.marks import breaks

LATER_S = 0.03


class Passing:
    """Passes everything on."""

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)


class _LateLog(Passing):
    """Entries that come alone are written a moment later, though their caller learns that they are on disk."""

    def __init__(self, inner):
        super().__init__(inner)
        self._late = []

    def append(self, entry, event, *, durable=False):
        if event is not None:
            self._inner.append(entry, event, durable=durable)
            return
        self._late.append(entry)
        asyncio.get_running_loop().call_later(LATER_S, self._write)

    def _write(self):
        if self._late:
            self._inner.append(self._late.pop(0), None)

    def flush(self):
        while self._late:
            self._write()

    def durable(self):
        commit = Commit()
        commit.resolve()
        return commit


class _LateStore(Passing):
    _log = None

    def create(self, *args, **options):
        commit, log = self._inner.create(*args, **options)
        self._log = log and _LateLog(log)
        return commit, self._log

    async def close(self):
        if self._log is not None:
            self._log.flush()
        await self._inner.close()


@breaks("S2")
class EarlyPromise(SQLite):
    """What was promised is on its way."""

    def __init__(self):
        super().__init__(wrap_store=_LateStore)


class Forgetful(SQLite):
    """A crash undoes what `undo` names, though it was acknowledged."""

    undo = ""

    def left(self, folder):
        with contextlib.closing(sqlite3.connect(folder / FILE_NAME)) as connection, connection:
            connection.execute(self.undo)


@breaks("S2")
class NewRunLost(Forgetful):
    """A new run is gone."""

    undo = "DELETE FROM runs WHERE path = 'fast' AND status = 'running' AND parked_until IS NULL"


@breaks("S2")
class OutcomeLost(Forgetful):
    """An outcome is gone."""

    undo = "UPDATE runs SET status = 'running' WHERE status = 'completed'"


@breaks("S2")
class AdoptionLost(Forgetful):
    """An adoption is gone."""

    undo = "UPDATE runs SET path = 'fast', demotion = NULL WHERE demotion IS NOT NULL"


@breaks("S2")
class DurableEventLost(Forgetful):
    """An event is gone that was to be on disk when it was seen."""

    undo = "DELETE FROM events WHERE first = 2 AND CAST(data AS TEXT) LIKE '%step.started%'"


@breaks("Q4")
class WishLost(Forgetful):
    """A wish to cancel is gone."""

    undo = "UPDATE runs SET cancel_requested = 0"


@breaks("Q5")
class ParkingLost(Forgetful):
    """A run that waited is queued."""

    undo = "UPDATE runs SET status = 'queued', parked_until = NULL WHERE parked_until IS NOT NULL"


@breaks("Q8")
class SignalLost(Forgetful):
    """A signal is gone."""

    undo = "DELETE FROM signals"


@breaks("Q12")
class KeyLost(Forgetful):
    """A signal has lost its key."""

    undo = "UPDATE signals SET key = NULL"


@breaks("Q15")
class DeathsForgotten(Forgetful):
    """Deaths that were counted are forgotten."""

    undo = "UPDATE runs SET deaths = 0"


@breaks("W4")
class AnnouncedEventLost(Forgetful):
    """An event is gone that may have been announced."""

    undo = "DELETE FROM events WHERE first > 1 AND run_id IN (SELECT run_id FROM webhooks WHERE token > 0)"


@breaks("W5")
class EntryLost(Forgetful):
    """What was to be announced is forgotten."""

    undo = "DELETE FROM webhooks"


class _HastyLog(_LateLog):
    """Entries that come alone are written when something else is, or when somebody asks for them."""

    def append(self, entry, event, *, durable=False):
        if event is None:
            self._late.append(entry)
            return
        self.flush()
        self._inner.append(entry, event, durable=durable)

    def durable(self):
        self.flush()
        return self._inner.durable()

    def finish(self, outcome, event, at):
        self.flush()
        return self._inner.finish(outcome, event, at)


class _HastyStore(Passing):
    def create(self, *args, **options):
        commit, log = self._inner.create(*args, **options)
        self._log = log and _HastyLog(log)
        return commit, self._log

    def adopt(self, lease, demotion):
        self._log.flush()
        return self._inner.adopt(lease, demotion)


class _EntriesBehind(Passing):
    def create(self, record, event, *, entries=(), **options):
        return self._inner.create(record, event, **options)


@breaks("S20")
class EntriesBehind(SQLite):
    """The entries of a new run do not reach the disk."""

    def __init__(self):
        super().__init__(wrap_store=_EntriesBehind)


@breaks("S14")
class HastyEnd(SQLite):
    """What is pending at the end is lost."""

    def __init__(self):
        super().__init__(wrap_store=_HastyStore)
