"""The store port on Redis: writes become operations of the writer thread, reads go to the reading threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from offramp.core.events import Draft, Frame
from offramp.core.journal import Entry
from offramp.core.run import Demotion, Outcome, RunHead, RunRecord
from offramp.core.stats import Cell
from offramp.core.waits import BITS, change_in, kinds_in
from offramp.errors import IdempotencyMismatch, TooLarge
from offramp.ports.commit import Commit
from offramp.ports.learning import BeliefCell, EndedTurn, Learned, SessionTurns
from offramp.ports.listing import Page, RunFilter
from offramp.ports.outbox import UNDELIVERED_KEPT_S
from offramp.ports.store import EVENTS_READ_BYTES, Created, Idempotency, KeyRuns, Lease, Listener
from offramp.stores.redis import figures, learned
from offramp.stores.redis.operations import REFUSED, Operation, Records, halves, held, raw, wire
from offramp.stores.redis.reader import Reader
from offramp.stores.redis.rows import ENCODE, announced, decode_record, ended, made
from offramp.stores.redis.scripts import AHEAD, DUTY, EVENTS, GET, KEY, LIST, PURGE, SWEEP
from offramp.stores.redis.writer import RUN_EVENT_BYTES_MAX, Writer

EVENTS_READ_MAX = 1_000
EVENTS_LOOKED_AT_MAX = 10_000
"""Events that one read scans, skipped ones included; it blocks the server meanwhile."""
ENTRIES_READ_MAX = 500
"""Journal entries read at a time."""
LIST_LOOKS_MAX = 1_000
"""Runs that one page of a listing scans for matches; it blocks the server meanwhile."""
AHEAD_MAX = 1_000
"""Readers' positions compared at a time."""
PURGE_RUNS_MAX = 50
TOMBSTONE_S = 7 * 86_400.0
"""Seconds for which the id of a purged run stays known, so that its readers get 410 and not 404."""
UNPURGED_KEPT_S = 3_600.0
"""Seconds past its retention after which an unpurged key expires by itself."""
KEY_SLACK_S = 60.0
"""Seconds for which an idempotency key outlives its validity, as clocks differ."""

_decode_entry = msgspec.msgpack.Decoder(Entry).decode
_decode_signal = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class RedisRunLog:
    """Writes of one run; see the port."""

    __slots__ = ("_put", "_writer", "lease")

    def __init__(self, writer: Writer, lease: Lease) -> None:
        self._writer = writer
        self._put = writer.put
        self.lease = lease

    def append(self, entry: Entry | None, event: Draft | None, *, durable: bool = False) -> None:
        """Queue a write.

        Raises:
            TooLarge: an emitted value, if the run already has `RUN_EVENT_BYTES_MAX` of events.
        """
        lease = self.lease
        is_delta = event is not None and event.type == "step.delta"
        if is_delta and lease.run_id in self._writer.full:
            raise TooLarge(
                f"{lease.run_id} has emitted {RUN_EVENT_BYTES_MAX} bytes, and no run may emit more; "
                "pass large data by reference"
            )
        encoded = False if entry is None else raw(ENCODE(entry))
        described: tuple[Any, ...] = (False,) if event is None else (event.type, *halves(event, lease.run_id))
        if event is not None and (change := change_in(event)) is not None:
            described += (BITS[change.wait], change.key, change.begins)
        self._put(
            Operation(
                wire("append", *held(lease), encoded, *described),
                lease=lease,
                run_id=lease.run_id,
                event=event,
                durable=durable,
                retained=True,
                entries=int(entry is not None),
                size=len(event.body) if is_delta and event is not None else 0,
            )
        )

    def durable(self) -> Commit[None]:
        """Resolves when everything appended so far is acknowledged."""
        commit: Commit[None] = Commit()
        self._put(Operation(wire("sync", *held(self.lease)), commit, lease=self.lease, durable=True, retained=True))
        return commit

    def survived(self) -> None:
        """Forget the run's deaths, in order with the appends."""
        lease = self.lease
        self._put(Operation(wire("survived", lease.run_id, lease.owner, lease.token), retained=True))

    def finish(self, outcome: Outcome, event: Draft, at: float) -> Commit[None]:
        """Write the outcome and the terminal event."""
        commit: Commit[None] = Commit()
        lease = self.lease
        fields, large = ended(outcome, at)
        limits = (UNPURGED_KEPT_S, UNDELIVERED_KEPT_S)
        described = (event.type, *halves(event, lease.run_id))
        request = wire("finish", *held(lease), fields, large or False, *described, *limits)
        self._put(
            Operation(
                request,
                commit,
                lease=lease,
                run_id=lease.run_id,
                event=event,
                durable=True,
                retained=True,
                gives_up=True,
            )
        )
        return commit


class RedisStore:
    """Runs, journals and events on a server.

    Args:
        reader: of this process.
        writer: the thread that writes, shared with the leases.
    """

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._tag = reader.address.tag
        self.writer = writer

    def create(
        self,
        record: RunRecord,
        event: Draft,
        *,
        owner: str | None,
        durable: bool,
        idempotency: Idempotency | None = None,
        entries: Sequence[Entry] = (),
        signals: Sequence[tuple[str, bytes]] = (),
    ) -> tuple[Commit[Created], RedisRunLog | None]:
        """Create a run with its first event."""
        commit: Commit[Created] = Commit()
        key = False if idempotency is None else _key(idempotency, record.created_at)
        webhook = announced(record) or False
        known = [raw(ENCODE(entry)) for entry in entries]
        first = halves(event, record.id)
        retried = record.retry_of or False
        seeded: tuple[Any, ...] = ()
        if signals or retried:
            sent = [raw(ENCODE(signal)) for signal in signals]
            seeded = (sent, sum(len(value) for _, value in signals), retried)
        request = wire("create", record.id, made(record), owner or False, *first, webhook, key, known, *seeded)

        def undo(answer: Any) -> list[Operation]:
            if len(answer) < 3 or not answer[2]:  # refused, or not applied
                return []
            named = idempotency.key if idempotency else False
            return [Operation(wire("uncreate", record.id, record.tenant, named, retried))]

        self.writer.put(
            Operation(
                request,
                commit,
                _created,
                run_id=record.id,
                event=event,
                durable=durable,
                entries=len(known),
                undo=undo,
                is_new=True,
                asked_at=time.monotonic(),
                created_for=owner,
            )
        )
        return commit, None if owner is None else self.log(Lease(record.id, owner, 1))

    def log(self, lease: Lease) -> RedisRunLog:
        """The log of a run that this process holds."""
        return RedisRunLog(self.writer, lease)

    def adopt(self, lease: Lease, demotion: Demotion) -> Commit[None]:
        """Move a leased run to the deep path."""
        commit: Commit[None] = Commit()
        request = wire("adopt", lease.run_id, lease.owner, lease.token, raw(ENCODE(demotion)))
        self.writer.put(Operation(request, commit, lease=lease, durable=True))
        return commit

    async def get(self, run_id: str, tenant: str | None = None) -> RunRecord | None:
        """The record with its result."""
        asked = (run_id, "0" if tenant is None else "1", tenant or "")
        return decode_record(await self._reader.read(lambda client: GET(client, [self._tag], self._tag, *asked)))

    async def open_runs(self) -> dict[str, int]:
        """Queued, owned and parked runs by tenant; the scripts count them."""
        await self._written()
        stored = await self._reader.read(lambda client: client.hgetall(self._tag + "open"))
        return {tenant.decode(): int(count) for tenant, count in stored.items()}

    async def runs_of_key(self, key: str, after: str, limit: int) -> KeyRuns:
        """The open and the newest runs of an API key."""
        await self._written()
        count, ids = await self._reader.read(lambda client: KEY(client, [self._tag], self._tag, key, after, limit))
        return KeyRuns(count, [run_id.decode() for run_id in reversed(ids)])

    async def _written(self) -> None:
        """A turn of the writer: when it ends, earlier operations are applied."""
        turn: Commit[None] = Commit()
        self.writer.put(Operation(wire("turn"), turn))
        await turn

    async def holder(self, tenant: str, key: str, now: float) -> str | None:
        """The run that holds an idempotency key."""
        stored = await self._reader.read(lambda client: client.get(f"{self._tag}i:{tenant}\0{key}"))
        if stored is None:
            return None
        _, run_id, expires_at = msgspec.msgpack.decode(stored)
        return str(run_id) if expires_at > now else None

    async def runs(self, wanted: RunFilter) -> Page:
        """A page of records, without results above `RESULT_INLINE_BYTES_MAX`."""
        asked = {"tenant": wanted.tenant, "session": wanted.session_id, "status": wanted.status}
        asked |= {"pipeline": wanted.pipeline, "path": wanted.path}
        fields = {name: value for name, value in asked.items() if value is not None}
        if wanted.waiting:
            index = "ix:w" if wanted.tenant is None else f"ix:w:{fields.pop('tenant')}"
        elif wanted.session_id is not None:
            index = f"ix:s:{fields.pop('session')}"
        elif wanted.tenant is not None:
            index = f"ix:t:{fields.pop('tenant')}"
        else:
            index = "ix"
        pairs = [text for pair in fields.items() for text in pair]
        order = "newest" if wanted.newest_first else "oldest"
        inside = (wanted.sla or "", wanted.part or "")

        def query(client: Any) -> Page:
            # One more than requested shows whether another page follows.
            asks = (index, order, *wanted.ids, wanted.limit + 1, LIST_LOOKS_MAX, *inside, *pairs)
            last, *rows = LIST(client, [self._tag], self._tag, *asks)
            found = [record for row in rows if (record := decode_record(row)) is not None]
            if len(found) > wanted.limit:
                return Page(found[: wanted.limit], found[wanted.limit - 1].id)
            return Page(found, last.decode() or None)

        return await self._reader.read(query)

    async def journal(self, run_id: str) -> list[Entry]:
        """The finished steps, in order."""
        key = f"{self._tag}j:{run_id}"

        def query(client: Any) -> list[Entry]:
            found: list[Entry] = []
            while part := client.lrange(key, len(found), len(found) + ENTRIES_READ_MAX - 1):
                found += [_decode_entry(encoded) for encoded in part]
                if len(part) < ENTRIES_READ_MAX:
                    break
            return found

        return await self._reader.read(query)

    async def events(self, run_id: str, after: int, *, skip_deltas: bool = False) -> list[Frame]:
        """Events numbered above `after`: at most `EVENTS_READ_MAX`, in about `EVENTS_READ_BYTES`."""
        limits = (EVENTS_READ_MAX, EVENTS_READ_BYTES, EVENTS_LOOKED_AT_MAX)

        def query(client: Any) -> list[Frame]:
            at = after
            while True:
                asks = (run_id, at, int(skip_deltas), *limits)
                at, *rest = EVENTS(client, [self._tag], self._tag, *asks)
                if rest or not at:
                    return [Frame(number, data) for number, data in zip(rest[::2], rest[1::2], strict=True)]

        return await self._reader.read(query)

    async def ahead(self, positions: Mapping[str, int]) -> list[str]:
        """The runs with more events than their readers have, and those that ended or are unknown."""
        pairs = list(positions.items())

        def query(client: Any) -> list[str]:
            found: list[str] = []
            for first in range(0, len(pairs), AHEAD_MAX):
                asks = [value for pair in pairs[first : first + AHEAD_MAX] for value in pair]
                found += [run_id.decode() for run_id in AHEAD(client, [self._tag], self._tag, *asks)]
            return found

        return await self._reader.read(query)

    async def signals(self, run_id: str) -> list[tuple[str, bytes]]:
        """The signals sent to a run, in order."""
        stored = await self._reader.read(lambda client: client.lrange(f"{self._tag}s:{run_id}", 0, -1))
        return [_decode_signal(encoded) for encoded in stored]

    async def due(self, now: float) -> list[str]:
        """Runs past their retention, a bounded number."""
        found = await self._reader.read(
            lambda client: client.zrangebyscore(f"{self._tag}purge", "-inf", now, 0, PURGE_RUNS_MAX)
        )
        return [msgspec.msgpack.decode(packed)[0] for packed in found]

    async def purge(self, now: float, only: Sequence[str] | None = None) -> int:
        """Empty runs past their retention, a bounded number at a time."""
        limits = (PURGE_RUNS_MAX, TOMBSTONE_S, UNPURGED_KEPT_S)
        named = b"" if only is None else msgspec.msgpack.encode(list(only))
        count = await self._reader.read(lambda client: PURGE(client, [self._tag], self._tag, now, *limits, named))
        return int(count)

    async def sweep(self, now: float) -> int:
        """Forget purged runs whose time is over, a bounded number at a time; keys expire by themselves."""
        asks = (now, PURGE_RUNS_MAX)
        return int(await self._reader.read(lambda client: SWEEP(client, [self._tag], self._tag, *asks)))

    async def take_duty(self, duty: str, owner: str, now: float, until: float) -> bool:
        """Take or renew a duty, which one process performs for all."""
        asks = (duty, owner, now, until)
        return bool(await self._reader.read(lambda client: DUTY(client, [self._tag], self._tag, *asks)))

    async def secret(self, offered: bytes) -> bytes:
        """The secret of all processes of this store."""

        def query(client: Any) -> bytes:
            key = f"{self._tag}secret"
            kept: bytes | None = client.get(key)
            if kept is None:
                client.set(key, offered, nx=True)
                kept = client.get(key)
            return kept or offered

        return await self._reader.read(query)

    async def add_cells(self, cells: Sequence[Cell]) -> None:
        """Add to the counts of cells."""
        await self._write(figures.added_cells(cells))

    async def summed_cells(
        self, width: int, first: int, last: int, tenant: str = ""
    ) -> dict[tuple[str, str], dict[str, int]]:
        """The sums of a tenant's cells."""
        asked = (width, first, last, tenant)
        return await self._reader.read(lambda client: figures.summed_cells(client, self._tag, *asked))

    async def learn(self, cells: Sequence[BeliefCell], turns: Sequence[EndedTurn]) -> None:
        """Add to what is learned."""
        await self._write(learned.learn(cells, turns))

    async def learned(self, after: int, limit: int) -> Learned:
        """What has been learned since."""
        return await self._reader.read(lambda client: learned.learned(client, self._tag, after, limit))

    async def forget(self, pipeline: str, sla: str, blocks: Sequence[int]) -> None:
        """Remove blocks of cells."""
        await self._write(learned.forget(pipeline, sla, blocks))

    async def turns_of(self, session: str) -> SessionTurns | None:
        """What is known of a session."""
        return await self._reader.read(lambda client: learned.turns_of(client, self._tag, session))

    async def _write(self, request: bytes) -> None:
        """Make a change that no run waits for; returns when it is visible."""
        commit: Commit[None] = Commit()
        self.writer.put(Operation(request, commit))
        await commit

    async def unfinished(self, limit: int) -> list[RunHead]:
        """Runs that have not ended."""
        return await self._reader.read(lambda client: figures.unfinished(client, self._tag, limit))

    async def ids_after(self, run_id: str, limit: int) -> list[str]:
        """The ids of runs above a text."""
        return await self._reader.read(lambda client: figures.ids_after(client, self._tag, run_id, limit))

    async def heads(self, ids: Sequence[str]) -> list[RunHead]:
        """The heads of these runs."""
        return await self._reader.read(lambda client: figures.heads(client, self._tag, ids))

    async def waiting(self) -> dict[tuple[str, str], int]:
        """How many runs wait, by pipeline and kind of wait."""
        counts = await self._reader.read(lambda client: client.hgetall(f"{self._tag}waits"))
        found: dict[tuple[str, str], int] = {}
        for field, runs in counts.items():
            mask, _, pipeline = field.decode().partition(" ")
            for kind in kinds_in(int(mask)):
                found[pipeline, kind] = found.get((pipeline, kind), 0) + int(runs)
        return found

    def listen(self, listener: Listener) -> None:
        """Call `listener` with every batch that this process makes visible."""
        self.writer.listeners.append(listener)

    def trouble(self) -> str | None:
        """Why the store accepts no writes, or no new runs."""
        return self.writer.trouble()

    def on_lost(self, callback: Callable[[Lease], object]) -> None:
        """Call back when a write is refused because its lease is lost."""
        self.writer.on_lost = callback

    async def close(self) -> None:
        """Write all pending operations, then close the connections."""
        self.writer.close()
        self._reader.close()


def _key(idempotency: Idempotency, now: float) -> dict[str, Any]:
    return {
        "key": idempotency.key,
        "fingerprint": idempotency.fingerprint,
        "at": now,
        "expires_at": idempotency.expires_at,
        "ttl_s": max(1, int(idempotency.expires_at - now + KEY_SLACK_S)),
    }


def _created(answer: Any, _records: Records) -> Created:
    if answer[0] == REFUSED:
        raise IdempotencyMismatch("this Idempotency-Key was used with another request; use a new key for a new request")
    return Created(answer[1].decode() or None)
