"""The limits of one process over Redis: what it asks and reports goes to a script on the server, call by call.

One thread calls the script, and so keeps the lease; another one hears what other processes' calls granted. Neither runs
user code. Obligations and messages are in `ports/limits.py`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import msgspec

from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.limits.redis.answers import level_of, refused_of, waits_of
from offramp.limits.redis.caller import Caller
from offramp.limits.redis.circuits import Circuits
from offramp.limits.redis.link import Grants, Link, wait_s
from offramp.limits.redis.permits import Op, Permit, Permits, ends_of
from offramp.limits.redis.scripts import LEASE_S, LEASE_STEP, Script
from offramp.ports import forks
from offramp.ports.limits import Ask, Done, Granted, Level, Notify, Refused
from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import problem

logger = logging.getLogger("offramp")

RENEWALS = 4
"""Calls in the time of a lease of a process that has nothing to say."""
LEASE_SPARE = 0.1
"""The last part of its lease, in which a process trusts no grant."""
BACKUP_S = 1.0
"""Seconds between the calls of a process whose waiters another one serves, in case that it has died."""
WRITTEN_S = 0.2
"""Seconds for which `written` waits for another message to go along with."""
LEVELS_S = 1.0
"""Seconds between looks at the levels while they are watched."""
LATE_S = 10.0
"""Seconds whose calls, at least, are told again to a server that has another one's data, which may lack the last.

It says itself when its data last heard of a process: a copy of the data can be minutes old.
"""
CALL_OPS_MAX = 500
"""Messages of one call, which blocks the server meanwhile; a process that joins again takes several calls."""
CLOSE_S = 2.0
"""Seconds that the last call of a process may take."""
CLOSED = Refused("closed", "the process stops")

_Look = concurrent.futures.Future[Sequence[Level]]
_decode = msgspec.msgpack.Decoder().decode


class RedisLimits:
    """See the port. Its threads begin with the first call.

    Args:
        address: of the server.
        resources: what the app declares.
        classes: by name.
        lease_s: seconds after its last call for which the process counts as alive.
    """

    def __init__(
        self,
        address: Address,
        resources: Sequence[ResourceSpec],
        classes: Mapping[str, SLA],
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        self._address, self._classes = address, classes
        self._resources = {spec.name: spec for spec in resources}
        self._order = {spec.name: number for number, spec in enumerate(resources)}
        self._script, self._lease_s = Script(resources, classes, lease_s), lease_s
        self._begin()

    def _begin(self) -> None:
        forks.on_fork(self)
        self._watchers: list[Callable[[Sequence[Level]], object]] = []
        self.own = os.urandom(12).hex()  # takes no lock that another thread may hold at a fork
        self._permits = Permits(self._resources)
        self._circuits = Circuits(self._resources)
        self._ops: list[Op] = []
        self._joined = self._urgent = self._closing = False
        self._failures = 0
        self._renew_at = self._leased_until = 0.0
        self._life: Sequence[Any] = (None, 0)
        self._lost_s = 0.0
        """Seconds whose calls the server may have lost."""
        self._rest: Iterator[Op] | None = None
        """What the server has still to learn anew; words of after that wait."""
        self._ticks: dict[str, float] = {}
        self._looks: list[_Look] = []
        self._look_at = 0.0
        self._seen: Sequence[Level] | None = None
        self._caller = Caller(Link(self._address, self._script), self.own, self, WRITTEN_S)
        self._lock = self._caller.lock
        channel = self._address.key_of("lim", "to", self.own)
        self._grants = Grants(self._address, channel, self._receive, self._missed)

    def start(self) -> None:
        """Connect before there is anything to ask."""
        with self._lock:
            self._wake()

    def forked(self) -> None:
        """In a child: the permits, the threads and the connections are its parent's."""
        self._begin()

    # The port.

    def ask(self, ask: Ask, notify: Notify) -> None:
        """Ask for a permit."""
        now = time.monotonic()
        with self._lock:
            refused = self._circuits.refusal(ask, now)
            if self._closing:
                refused = CLOSED
            elif ask.resource not in self._resources:
                refused = Refused("closed", f"{ask.resource}: this process knows no such resource")
            if refused is not None:
                notify(refused)
            elif ask.id not in self._permits.open:
                self._say(self._permits.begin(ask, notify, now).asks("a", now))

    def withdraw(self, permit_id: str) -> None:
        """Give up an ask or a permit."""
        self.done(permit_id, Done(how="unused"))

    def written(self, permit_id: str) -> None:
        """The request has been sent."""
        with self._lock:
            permit = self._permits.open.get(permit_id)
            if permit is not None:
                self._permits.write(permit, time.monotonic())

    def slow(self, permit_id: str) -> None:
        """The first token is late."""
        with self._lock:
            permit = self._permits.open.get(permit_id)
            if permit is not None and self._circuits.slow(permit.ask, time.monotonic()):
                self._refuse_open(permit.ask.resource)

    def done(self, permit_id: str, done: Done) -> None:
        """The call is over."""
        now = time.monotonic()
        with self._lock:
            permit = self._permits.open.get(permit_id)
            if permit is None:
                return
            self._say(self._permits.end(permit, done, now))
            if self._circuits.ended(permit.ask, done, now):
                self._refuse_open(permit.ask.resource)

    def lift(self, run_id: str, sla: str, priority: int) -> None:
        """A run is waited for by a run of a higher class."""
        with self._lock:
            self._permits.lift(run_id, sla, priority)
            self._say(("l", run_id, sla, priority))

    def watch(self, notify: Callable[[Sequence[Level]], object]) -> None:
        """Report the levels."""
        with self._lock:
            self._watchers.append(notify)
            self._seen, self._look_at = None, 0.0
            self._wake()

    async def levels(self) -> Sequence[Level]:
        """All resources as they are now.

        Raises:
            StoreError: the server cannot be reached.
        """
        look: _Look = concurrent.futures.Future()
        with self._lock:
            if self._closing:
                return ()
            self._looks.append(look)
            self._wake()
        return await asyncio.wrap_future(look)

    def close(self) -> None:
        """Refuse what waits, give back what is held. Waits for the server for a moment."""
        with self._lock:
            self._closing = True
            for permit in [each for each in self._permits.open.values() if not each.granted]:
                self._refuse(permit, CLOSED)
        self._end(CLOSE_S, silent=False)

    def drop(self) -> None:
        """End without a word to the server, as a process that is killed."""
        with self._lock:
            self._closing = True
        self._end(CLOSE_S, silent=True)

    def _end(self, timeout_s: float, *, silent: bool) -> None:
        self._grants.close()
        self._caller.close(timeout_s, silent=silent)
        self._grants.join()
        with self._lock:
            looks, self._looks = self._looks, []
        _resolve(looks, ())

    # To the server; under the lock.

    def _say(self, op: Op) -> None:
        self._ops.append(op)
        self._wake()

    def _wake(self) -> None:
        self._urgent = True
        if not self._caller.started and not self._closing:
            self._grants.start()
        self._caller.wake()

    def _refuse(self, permit: Permit, refused: Refused) -> None:
        """Refuse here what the server may grant."""
        self._say(self._permits.end(permit, Done(how="unused"), time.monotonic()))
        permit.notify(refused)

    def _refuse_open(self, resource: str) -> None:
        """A breaker has changed: what it does not let through waits no longer."""
        now = time.monotonic()
        for permit in [each for each in self._permits.open.values() if each.ask.resource == resource]:
            if not permit.granted and (refused := self._circuits.refusal(permit.ask, now)) is not None:
                self._refuse(permit, refused)

    def due(self, now: float) -> float:
        """When the next call is due."""
        if self._failures:
            return self._renew_at
        if self._urgent or not self._joined:
            return now
        at = min(self._renew_at, *self._ticks.values()) if self._ticks else self._renew_at
        if self._permits.written:
            at = min(at, self._permits.written[0].written_at + WRITTEN_S)
        return min(at, self._look_at) if self._watchers else at

    def says(self, now: float) -> list[Op]:
        """What the next call says."""
        ops: list[Op] = []
        if not self._joined:
            ops = [("j", *self._life), *ends_of(self._ops)]
            self._ops, self._joined = [], True  # what follows goes with later calls
            self._rest = self._permits.everything()
        if self._closing:
            self._rest = None
        if self._rest is None:
            ops += self._permits.news(now) + self._ops[:CALL_OPS_MAX]
            del self._ops[:CALL_OPS_MAX]
        else:
            part = list(islice(self._rest, CALL_OPS_MAX))
            ops += part
            if len(part) < CALL_OPS_MAX:
                self._rest = None
        self._urgent = bool(self._ops) or self._rest is not None
        for resource in [name for name, at in self._ticks.items() if at <= now]:
            del self._ticks[resource]
            ops.append(("t", resource))
        if self._looks or (self._watchers and self._look_at <= now):
            ops.append(("v",))
        if self._closing:
            ops.append(("q",))
        return ops

    # From the server; under the lock.

    def hears(self, answer: Any, ops: Sequence[Op], sent_at: float) -> None:
        """The script answered."""
        known, *rest = answer
        if self._failures:
            logger.warning("the limits over %s are back", self._address.shown)
            self._failures = 0
        if not known:
            logger.warning(
                "%s no longer knows this process: its lease ran out, or the server has lost its data. It learns again "
                "what the process holds and has called",
                self._address.shown,
            )
            self._forget_answer(ops)
            return
        answers, dues, levels, life = rest
        self._live(ops[0][0] == "j" if ops else False, life)
        self._leased_until, self._renew_at = (
            sent_at + (1 - LEASE_SPARE) * self._lease_s,
            sent_at + self._lease_s / RENEWALS,
        )
        for resource, in_s in dues:
            self._ticks[resource] = sent_at + in_s
        self._apply(answers)
        for resource, waiting in self._permits.waiting.items():
            if waiting and resource not in self._ticks:
                self._ticks[resource] = sent_at + BACKUP_S
        if levels:
            self._show(levels, sent_at)

    def _live(self, joined: bool, life: Sequence[Any]) -> None:  # noqa: FBT001
        """Which data the server has: it may lack calls of this process if that is new, or of another server."""
        if not joined:
            if self._rest is None:
                self._lost_s = 0.0  # they are told by now
            return
        if self._life[0] not in {None, life[0]}:
            self._lost_s = math.inf
        elif self._life[0] == life[0] and self._life[1] != life[1]:
            unheard_s = math.inf if life[3] is False else life[3] + LEASE_STEP * self._lease_s
            self._lost_s = max(self._lost_s, LATE_S, unheard_s)
        self._life = life[:2]
        if self._lost_s:  # before what waits: it counts for all
            self._rest = chain(self._permits.calls(self._lost_s), self._rest or ())
            self._urgent = True

    def misses(self, error: Exception, ops: Sequence[Op]) -> None:
        """The server did not answer: once it does, it learns everything again."""
        said = problem(self._address, error)
        if not self._failures:
            logger.warning("%s; calls of resources wait until it answers", said)
        self._forget_answer(ops)
        self._renew_at = time.monotonic() + wait_s(self._failures)
        self._failures += 1
        looks: list[_Look] = []
        if self._failures > 1:  # the first may be of a connection that was broken for a while
            looks, self._looks = self._looks, []
        for look in looks:
            if look.set_running_or_notify_cancel():
                look.set_exception(said)

    def _forget_answer(self, ops: Sequence[Op]) -> None:
        self._ops = [*ends_of(ops), *ends_of(self._ops)]
        self._joined = False

    def _receive(self, message: bytes) -> None:
        """Another process's call granted something to this one."""
        with self._lock:
            self._apply(_decode(message))

    def _missed(self) -> None:
        """What others granted before this is lost: the answer to joining again has it."""
        with self._lock:
            self._joined = False
            self._wake()

    def _apply(self, answers: Sequence[Any]) -> None:
        now = time.monotonic()
        if now > self._leased_until:  # the server may have given all of it away: ask again
            self._joined = False
            self._wake()
            return
        for kind, permit_id, *rest in answers:
            permit = self._permits.open.get(permit_id)
            if permit is None or permit.granted:
                continue
            if kind == "g":
                self._grant(permit, rest[0], now)
            elif kind == "w":
                permit.notify(waits_of(rest))
            else:
                self._permits.forget(permit)
                permit.notify(refused_of(self._resources[permit.ask.resource], self._classes, rest))

    def _grant(self, permit: Permit, tokens: int, now: float) -> None:
        refused = self._circuits.refusal(permit.ask, now)  # it has opened, or has all its probes under way
        if refused is not None:
            self._refuse(permit, refused)
            return
        self._permits.grant(permit, tokens)
        probe = self._circuits.granted(permit.ask, now)
        permit.notify(Granted(tokens, now - permit.asked_at, probe))

    def _show(self, given: Sequence[Any], now: float) -> None:
        levels = []
        for each in given:
            level = level_of(self._resources[each[0]], self._classes, each)
            breaker = self._circuits.level(level.name, now)
            levels.append(level if breaker is None else msgspec.structs.replace(level, breaker=breaker))
        levels.sort(key=lambda level: self._order[level.name])
        looks, self._looks = self._looks, []
        _resolve(looks, levels)
        self._look_at = now + LEVELS_S
        if levels != self._seen:
            self._seen = levels
            for notify in self._watchers:
                notify(levels)


def _resolve(looks: Sequence[_Look], levels: Sequence[Level]) -> None:
    for look in looks:
        if look.set_running_or_notify_cancel():
            look.set_result(levels)
