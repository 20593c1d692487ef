"""The lease port on Redis: the ownership of runs.

A run's `owner` and `token` change only inside scripts; the server executes one script at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from redis.exceptions import RedisError

from offramp.core import ownership
from offramp.core.ownership import ENGINE, SIGNALS_BYTES_MAX, SIGNALS_MAX, Ownership
from offramp.core.patience import overdue_before
from offramp.core.run import RunRecord
from offramp.core.sla import DEFAULT_CLASS, NO_CLASSES, SLA
from offramp.ports.commit import Commit
from offramp.ports.store import (
    About,
    Claim,
    Lease,
    Owner,
    Parked,
    Turn,
)
from offramp.stores.redis.connection import client, problem
from offramp.stores.redis.operations import REFUSED, Operation, Records, held, raw, wire
from offramp.stores.redis.reader import Reader
from offramp.stores.redis.rows import ENCODE
from offramp.stores.redis.scripts import EXPIRE, OWNERS, QUEUED, RENEW
from offramp.stores.redis.writer import Writer

T = TypeVar("T")

FAR_FUTURE = 253_402_300_799.0
"""The last second of the year 9999, for a run that only a signal wakes."""
OVERDUE_MAX = 1_000
UNHEARD_MAX = 1_000
CLAIM_MAX = 100
"""Runs that one claim takes: their records come in one answer."""
LEASE_TIMEOUT_S = 3.0
"""Seconds that the answer to a renewal may take before its connection is closed."""

_decode_about = msgspec.msgpack.Decoder(About).decode
_decode_signal = msgspec.msgpack.Decoder(tuple[str, bytes]).decode


class RedisLeases:
    """Leases on a server; see the port.

    `renew` and `expire` use a connection of their own, so that a long batch of the writer cannot starve them.
    """

    def __init__(self, reader: Reader, writer: Writer) -> None:
        self._reader = reader
        self._tag = reader.address.tag
        self._writer = writer
        self._own = client(reader.address, retries=1, timeout_s=LEASE_TIMEOUT_S)
        self._own_lock = threading.Lock()

    async def _change(
        self,
        request: bytes,
        read: Callable[[Any, Records], T],
        *,
        lease: Lease | None = None,
        durable: bool = False,
        gives_up: bool = False,
        asked_at: float = math.inf,
    ) -> T:
        commit: Commit[T] = Commit()
        self._writer.put(
            Operation(request, commit, read, lease=lease, durable=durable, gives_up=gives_up, asked_at=asked_at)
        )
        return await commit

    async def _take(self, request: bytes, owner: str, *, durable: bool) -> list[Claim]:
        commit: Commit[list[Claim]] = Commit()
        self._writer.put(
            Operation(
                request,
                commit,
                lambda answer, records: _claims(answer, records, owner),
                durable=durable,
                claimed_by=owner,
                undo=lambda answer: _given_back(answer, owner),
            )
        )
        return await commit

    async def register(self, owner: Owner) -> None:
        """Make an owner known."""
        encoded = ENCODE((owner.id, owner.kind, owner.port, owner.ready, owner.started_at, owner.leaving))
        said = False if owner.about is None else raw(ENCODE(owner.about))
        await self._change(wire("register", owner.id, raw(encoded), owner.expires_at, said), _nothing)

    async def describe(self, owner: str, about: About) -> None:
        """Set what an owner says about itself."""
        await self._change(wire("describe", owner, raw(ENCODE(about))), _nothing)

    def renew(self, owner: str, expires_at: float) -> tuple[bool, Sequence[str]]:
        """Extend the lease on all runs of this owner; returns its runs with a request to cancel."""
        with self._own_lock:
            try:
                known, *cancels = RENEW(self._own, [self._tag], self._tag, owner, repr(expires_at))
            except RedisError as error:
                raise problem(self._reader.address, error) from error
            return bool(known), [run_id.decode() for run_id in cancels]

    def expire(self, now: float, *, blames: bool = True) -> Sequence[str]:
        """Retire the owners whose lease ran out."""
        with self._own_lock:
            try:
                late = EXPIRE(self._own, [self._tag], self._tag, repr(now), int(blames))
            except RedisError as error:
                raise problem(self._reader.address, error) from error
            return [owner.decode() for owner in late]

    async def retire(self, owner: str) -> int:
        """Forget an owner and queue its runs."""
        return await self._change(wire("retire", owner), lambda answer, _: int(answer[1]), durable=True)

    async def owners(self) -> Sequence[Owner]:
        """Every known owner."""
        rows = await self._reader.read(lambda client: OWNERS(client, [self._tag], self._tag))
        found = []
        for encoded, expires_at, said in rows:
            owner_id, kind, port, ready, started_at, leaving = msgspec.msgpack.decode(encoded)
            about = None if said is None else _decode_about(said)
            found.append(Owner(owner_id, kind, port, ready, float(expires_at), started_at, leaving, about))
        return found

    async def claim(
        self,
        owner: str,
        limit: int,
        pipelines: Sequence[str],
        now: float,
        classes: Mapping[str, SLA] = NO_CLASSES,
    ) -> Sequence[Claim]:
        """Take up to `limit` queued runs, at most `CLAIM_MAX`; the script chooses them."""
        named = {**classes, "": DEFAULT_CLASS}
        terms = {name: (sla.share, overdue_before(sla, now)) for name, sla in named.items()}
        request = wire("claim", owner, min(limit, CLAIM_MAX), list(pipelines), now, terms)
        return await self._take(request, owner, durable=False)

    async def claim_one(self, owner: str, run_id: str, now: float) -> Claim | None:
        """Take this run if it is queued or parked."""
        claims = await self._take(wire("claim_one", owner, run_id, now), owner, durable=True)
        return claims[0] if claims else None

    async def assign_to_engine(self, run_id: str, now: float) -> Claim | None:
        """Give a run to the engine."""
        claims = await self._take(wire("entrust", run_id, now), ENGINE, durable=True)
        return claims[0] if claims else None

    async def release(self, lease: Lease, parked: Parked | None = None) -> None:
        """Give a run back: queued, or parked."""
        until, seen = (False, 0) if parked is None else (min(parked.until, FAR_FUTURE), parked.signals_seen)
        request = wire("release", lease.run_id, lease.owner, lease.token, until, seen)
        await self._change(request, _nothing, lease=lease, durable=True, gives_up=True)

    async def send_signal(
        self, run_id: str, name: str, value: bytes, at: float, key: str | None = None
    ) -> RunRecord | None:
        """Store a signal and wake its run if that is parked."""
        encoded = ENCODE((name, value))
        request = wire(
            "signal",
            run_id,
            raw(encoded),
            len(value),
            False if key is None else key,
            SIGNALS_MAX,
            SIGNALS_BYTES_MAX,
        )

        def read(answer: Any, records: Records) -> RunRecord | None:
            if answer[0] == REFUSED and answer[1] == b"key":
                ownership.require_same(_decode_signal(answer[2]), name, value)
            record = _shown(answer, records)
            if answer[0] == REFUSED and record is not None:
                # The script refused it, so this raises.
                ownership.signal(Ownership(record.status, None), record.id, answer[3], answer[4])
            return record

        return await self._change(request, read, durable=True, asked_at=time.monotonic())

    async def queued(self) -> dict[str, int]:
        """How many runs of each tenant are queued; the scripts count them."""
        return await self._queued("waiting")

    async def queued_by_class(self) -> dict[str, int]:
        """How many runs of each class are queued; the scripts count them."""
        return await self._queued("waiting:class")

    async def _queued(self, counts: str) -> dict[str, int]:
        await self._change(wire("turn"), _nothing)  # earlier operations are then applied
        flat = await self._reader.read(lambda client: QUEUED(client, [self._tag], self._tag, counts))
        return {name.decode(): int(count) for name, count in zip(flat[::2], flat[1::2], strict=True)}

    async def overdue(self, now: float) -> Sequence[str]:
        """Runs without an owner whose deadline has passed: an index of `ownership.is_overdue`."""
        return await self._reader.read(
            lambda client: [
                run_id.decode() for run_id in client.zrangebyscore(self._tag + "free", "-inf", now, 0, OVERDUE_MAX)
            ]
        )

    async def request_cancel(self, run_id: str) -> RunRecord | None:
        """Record the request on an unfinished run."""
        return await self._change(wire("cancel", run_id), _shown, durable=True)

    async def take_step(self, lease: Lease, step: str) -> Turn:
        """Begin to execute a step of an assigned run."""

        def read(answer: Any, _records: Records) -> Turn:
            return Turn(msgspec.structs.replace(lease, step=step, turn=answer[1]), bool(answer[2]))

        return await self._change(wire("take_step", *held(lease), step), read, lease=lease)

    async def pending_notices(self) -> Sequence[str]:
        """Assigned runs whose engine has a notice pending."""
        return await self._reader.read(
            lambda client: [run_id.decode() for run_id in client.zrange(self._tag + "unheard", 0, UNHEARD_MAX - 1)]
        )

    async def acknowledge_notice(self, run_id: str) -> None:
        """The engine has received one notice."""
        await self._change(wire("heard", run_id), _nothing)

    def leave(self) -> None:
        """Close the connection of the lease thread."""
        with self._own_lock:
            self._own.close()


def _nothing(_answer: Any, _records: Records) -> None:
    pass


def _shown(answer: Any, records: Records) -> RunRecord | None:
    """The run that an answer names; None if it is unknown."""
    return records.get(answer[2]) if len(answer) > 2 else None


def _claims(answer: Any, records: Records, owner: str) -> list[Claim]:
    return [
        Claim(record, Lease(record.id, owner, token), bool(fresh))
        for run_id, token, fresh, *_ in answer[2]
        if (record := records.get(run_id)) is not None
    ]


def _given_back(answer: Any, owner: str) -> list[Operation]:
    """The operations that undo a claim after its caller has failed."""
    claims = answer[2] if len(answer) > 2 else []
    return [
        Operation(wire("release", run_id.decode(), owner, token, False, 0), durable=True)
        for run_id, token, *_ in claims
    ]
