"""The outbox port on Redis: entries change only inside scripts of some process's writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from offramp.core.webhooks import Progress
from offramp.ports.commit import Commit
from offramp.ports.outbox import CANDIDATES_MAX, Pending, Room
from offramp.stores.redis.operations import Operation, Records, wire
from offramp.stores.redis.writer import Writer


class RedisOutbox:
    """Entries on a server; see the port."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def claim(self, room: Room, now: float, until: float) -> Sequence[Pending]:
        """Take due entries, as many as fit."""
        total = min(room.total, CANDIDATES_MAX)
        if total <= 0:
            return []
        asked = {"total": total, "per_host": room.per_host, "busy": dict(room.busy), "hosts_max": CANDIDATES_MAX}
        commit: Commit[list[Pending]] = Commit()
        self._writer.put(Operation(wire("claim_webhooks", asked, now, until), commit, _pending, durable=True))
        return await commit

    async def settle(self, pending: Pending, progress: Progress) -> bool:
        """Give an entry back; a lost cursor only repeats a message."""
        told = wire(
            "settle",
            pending.run_id,
            pending.token,
            progress.cursor,
            progress.attempts,
            _or_false(progress.failing_since),
            _or_false(progress.due_at),
            progress.done,
        )
        commit: Commit[bool] = Commit()
        self._writer.put(Operation(told, commit, lambda answer, _: bool(answer[1])))
        return await commit

    def listen(self, listener: Callable[[], object]) -> None:
        """Call back when this process makes an entry due."""
        self._writer.on_announced.append(listener)


def _or_false(value: float | None) -> float | bool:
    return False if value is None else value


def _pending(answer: Any, _records: Records) -> list[Pending]:
    return [
        Pending(
            run_id.decode(),
            host.decode(),
            int(token),
            int(latest),
            Progress(int(cursor), int(attempts), float(failing) if failing else None),
        )
        for run_id, host, token, latest, cursor, attempts, failing in answer[1]
    ]
