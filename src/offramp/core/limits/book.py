"""All resources of a service, their permits, and what waits for them: asks go in, answers come out. Pure.

The time is an argument and never goes back. Not safe to use from several threads at once. `ports/limits.py` has the
obligations; what is between resources is decided here: circles of waits, lifting, processes that leave.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from offramp.core.limits.backlog import Waiting
from offramp.core.limits.cycles import Keepers
from offramp.core.limits.gate import Gate, Permit
from offramp.core.limits.memory import Logs, State, Stopped, lift
from offramp.core.limits.messages import Answer, Ask, Done, Granted, Level, Refused, circle
from offramp.core.limits.spec import ResourceSpec
from offramp.core.limits.windows import MARGIN_S
from offramp.core.order import Waiter
from offramp.core.sla import SLA

WAITERS_MAX = 100_000
"""Asks that wait at once, over all resources and processes; more are refused."""
BLOCKED_SAID_S = 1.0
"""Waiters hear again how long to wait when a provider stops calls for so much longer than they know."""


class Tell(NamedTuple):
    """An answer to an ask of a process."""

    client: str
    id: str
    answer: Answer


class Book:
    """The limits of all resources.

    Every method returns what is to be said now, and to which process.

    Args:
        specs: the resources.
        classes: by name.
        margin_s: seconds for which calls count longer than their windows.
        recovering: nothing is granted until `recovered`, see `core.limits.recovery`.
    """

    def __init__(
        self,
        specs: Iterable[ResourceSpec],
        classes: Mapping[str, SLA],
        *,
        margin_s: float = MARGIN_S,
        recovering: bool = False,
    ) -> None:
        self.gates: dict[str, Gate] = {spec.name: Gate(spec, classes, margin_s) for spec in specs}
        self.classes = dict(classes)
        self.recovering = recovering
        self.lifted: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self.logs: defaultdict[str, Logs] = defaultdict(lambda: Logs(margin_s))
        """The calls of each process that lives."""
        self.gone = Logs(margin_s)
        """The calls of processes that have left."""
        self.changed = True
        """Whether `recovery.state` is another one than it was when this was last set to False."""
        self.urgent = False
        """Whether a refusal or a breaker changed it since this was last set to False."""
        self.number = 0
        """Of the last `recovery.state`."""
        self.inherited: tuple[State, float] | None = None
        """The last state of the predecessor, and when it was that."""
        self.stopped: list[tuple[float, Stopped]] = []
        """What providers said to processes, and when these reported that."""
        self._margin_s = margin_s
        self._waiting: dict[str, Waiting] = {}
        self._permits: dict[str, Permit] = {}
        self._keepers = Keepers(
            self._permits, lambda name, load, tokens: self.gates[name].capacity.fits_beside(load, tokens)
        )
        self._of_client: defaultdict[str, set[str]] = defaultdict(set)
        self._of_run: defaultdict[str, set[str]] = defaultdict(set)
        self._out: list[Tell] = []

    # What processes say.

    def ask(self, now: float, client: str, ask: Ask, since: float | None = None) -> list[Tell]:
        """A call is to be made, since then if not since now. One that is known is not asked for again."""
        if self.knows(ask.id):
            return []
        gate = self.gates.get(ask.resource)
        if gate is None:
            return [Tell(client, ask.id, Refused("closed", f"{ask.resource}: no such resource is declared"))]
        gate.capacity.pass_to(now)
        need = gate.need(ask)
        if isinstance(need, Refused):
            return [Tell(client, ask.id, need)]
        refused = gate.shut(now, ask.credential)
        if refused is not None:
            return [Tell(client, ask.id, refused)]
        entry = self.entry(now if since is None else since, client, ask, need)
        if not self.recovering and gate.fits(now, entry):
            self._grant(now, gate, entry)
            return self._answers()
        if len(self._waiting) >= WAITERS_MAX:
            refused = gate.full(now, entry, f"{WAITERS_MAX:,} may wait in all")
        else:
            refused = gate.busy(now, entry)
        if refused is not None:
            return [Tell(client, ask.id, refused)]
        self.enqueue(gate, entry)
        self._advance(now, gate)
        if ask.id in self._waiting and not self.recovering:
            if entry.holds and ask.queues and self._keepers.is_stuck(entry):
                self._refuse(gate, entry, _circle(entry))
            else:
                self._waits(now, gate, entry)
        return self._answers()

    def withdraw(self, now: float, client: str, permit_id: str) -> list[Tell]:
        """An ask is given up, or a permit whose call was not made."""
        entry = self._waiting.get(permit_id)
        if entry is not None and entry.client == client:
            gate = self.gates[entry.ask.resource]
            self._dequeue(gate, entry)
            self._advance(now, gate)
        elif self._permit(client, permit_id) is not None:
            self._end(now, permit_id, Done(how="unused"))
        return self._answers()

    def written(self, now: float, client: str, permit_id: str, ago_s: float = 0.0) -> list[Tell]:
        """The request of a permit was sent, so many seconds ago."""
        permit = self._permit(client, permit_id)
        if permit is not None and permit.written_at is None:
            gate = self.gates[permit.ask.resource]
            self._written(max(permit.granted_at, now - max(0.0, ago_s)), gate, permit)
            if ago_s > 0:  # it ceases to count earlier than was expected
                self._advance(now, gate)
        return self._answers()

    def slow(self, now: float, client: str, permit_id: str) -> list[Tell]:
        """The first token of a call is late."""
        permit = self._permit(client, permit_id)
        if permit is not None:
            gate = self.gates[permit.ask.resource]
            if gate.slow(now, permit):
                self._broke(now, gate)
        return self._answers()

    def done(self, now: float, client: str, permit_id: str, done: Done) -> list[Tell]:
        """A call is over."""
        if self._permit(client, permit_id) is not None:
            self._end(now, permit_id, done)
        return self._answers()

    def lift(self, now: float, run_id: str, sla: str, priority: int) -> list[Tell]:
        """A run of this class waits for that run: its asks, now and later, count as of this class if it is higher."""
        if not lift(self.lifted, run_id, sla, priority):
            return []
        self.changed = True
        touched = {}
        for name in sorted(self._of_run.get(run_id, ())):
            entry = self._waiting[name]
            self._lift(entry, sla, priority)
            touched[entry.ask.resource] = self.gates[entry.ask.resource]
        for gate in touched.values():
            self._advance(now, gate)
        return self._answers()

    def leave(self, now: float, client: str) -> list[Tell]:
        """A process is gone, and with it all that it asked for and held. What it called counts on."""
        touched = {}
        for name in self._of_client.pop(client, ()):
            entry = self._waiting.get(name)
            if entry is not None:
                gate = self.gates[entry.ask.resource]
                self._dequeue(gate, entry)
            else:
                permit = self._ended(name)
                gate = self.gates[permit.ask.resource]
                self._written(now, gate, permit)
                self.logs[client].of(gate.spec).used(now, permit.tokens)
                gate.done(now, permit, Done(how="cancelled"))
            touched[gate.spec.name] = gate
        log = self.logs.pop(client, None)
        for each in () if log is None else log.called(now):
            self.gone.of(self.gates[each.resource].spec).recall(now, each.calls, each.tokens)
        self.changed = True
        for gate in touched.values():
            self._broke(now, gate)
            self._advance(now, gate)
        return self._answers()

    # What happens by itself.

    def pass_to(self, now: float) -> list[Tell]:
        """The time has come that `due` named, or any other."""
        for gate in self.gates.values():
            if gate.due is not None and gate.due <= now:
                self._advance(now, gate)
        return self._answers()

    def due(self) -> float | None:
        """When something changes by itself; None if nothing does."""
        return min((gate.due for gate in self.gates.values() if gate.due is not None), default=None)

    def levels(self, now: float) -> tuple[Level, ...]:
        """All resources as they are now."""
        return tuple(gate.level(now) for gate in self.gates.values())

    def declare(self, now: float, specs: Iterable[ResourceSpec], classes: Mapping[str, SLA]) -> list[Tell]:
        """Another deployment knows more resources and classes, or other limits: what it declares holds from now on."""
        self.classes.update(classes)
        new = {spec.name: spec for spec in specs}
        for name, spec in new.items():
            if name not in self.gates:
                self.gates[name] = Gate(spec, self.classes, self._margin_s)
        for name, gate in self.gates.items():
            gate.respecify(now, new.get(name, gate.spec), self.classes)
            self._untangle()
            self._advance(now, gate)
        return self._answers()

    # Grants and ends.

    def entry(self, now: float, client: str, ask: Ask, tokens: int) -> Waiting:
        """An ask as it waits, in the class of the highest run that waits for it."""
        sla, priority = ask.sla, ask.priority
        lifted = self.lifted.get(ask.run_id)
        if lifted is not None and lifted[1] > priority:
            sla, priority = lifted
        holds = tuple(name for name in dict.fromkeys(ask.within) if self._is_kept(client, ask, name))
        waiter = Waiter(ask.id, sla, ask.tenant, priority, now)
        return Waiting(client, ask, waiter, tokens, holds)

    def enqueue(self, gate: Gate, entry: Waiting) -> None:
        """An ask waits from now on."""
        top, name = gate.waits.top(), entry.ask.id
        gate.waits.add(entry)
        self._waiting[name] = entry
        self._of_client[entry.client].add(name)
        if entry.ask.run_id:
            self._of_run[entry.ask.run_id].add(name)
        if entry.holds:
            self._keepers.add(entry)
            held = {permit.ask.resource for permit in map(self._permits.get, entry.holds) if permit is not None}
            priority, sla = max(self.gates[each].waits.top() for each in held)
            self._lift(entry, sla, priority)
        if entry.waiter.priority > top[0]:
            self._lift_keepers(gate, entry.waiter.sla, entry.waiter.priority)

    def knows(self, permit_id: str) -> bool:
        """Whether it is an ask that waits, or a permit."""
        return permit_id in self._waiting or permit_id in self._permits

    def settle(self) -> None:
        """More permits are known: those that processes lent each other are kept, too, by what waits."""
        for gate in self.gates.values():
            for entry in [each for each in gate.waits if len(each.holds) < len(each.ask.within)]:
                again = self.entry(entry.waiter.since, entry.client, entry.ask, entry.tokens)
                if again.holds != entry.holds:
                    self._dequeue(gate, entry)
                    self.enqueue(gate, again)

    def resume(self, now: float) -> list[Tell]:
        """Grant what can be granted."""
        self._untangle()
        for gate in self.gates.values():
            self._broke(now, gate)
            self._blocked(now, gate)
            self._advance(now, gate)
        return self._answers()

    def reckon(self) -> None:
        """More is known now of what calls need than when what waits was asked for."""
        for gate in self.gates.values():
            for entry in gate.waits if gate.spec.tokens else ():
                need = gate.need(entry.ask)
                if isinstance(need, Refused) or need == entry.tokens:
                    continue  # one that was not too large is not now
                if entry.holds:
                    self._keepers.remove(entry)
                entry.tokens = need
                if entry.holds:
                    self._keepers.add(entry)

    def foretell(self, now: float) -> list[Tell]:
        """Answer all that wait: how long about, or that those are refused which do not queue. None is in a circle."""
        for gate in self.gates.values():
            for entry in list(gate.waits):
                if entry.ask.id in self._waiting:
                    self._waits(now, gate, entry)
        return self._answers()

    def hold(self, permit: Permit) -> None:
        """A permit exists from now on."""
        self._permits[permit.ask.id] = permit
        self._of_client[permit.client].add(permit.ask.id)

    def _grant(self, now: float, gate: Gate, entry: Waiting) -> None:
        self._granted(now, gate, gate.begin(now, entry))

    def _granted(self, now: float, gate: Gate, permit: Permit) -> None:
        self.hold(permit)
        if gate.rose:
            gate.rose, self.changed = False, True
        answer = Granted(permit.tokens, max(0.0, now - permit.since), permit.probe)
        self._out.append(Tell(permit.client, permit.ask.id, answer))

    def _advance(self, now: float, gate: Gate) -> None:
        """Grant what can be granted now."""
        if self.recovering or not gate.waits.entries:
            gate.due = None
            return
        for entry, answer in gate.advance(now):
            self._forget(entry)
            if isinstance(answer, Permit):
                self._granted(now, gate, answer)
            else:
                self._leaves(entry)
                self._out.append(Tell(entry.client, entry.ask.id, answer))

    def _waits(self, now: float, gate: Gate, entry: Waiting) -> None:
        """What becomes of an ask that was not granted at once."""
        if entry.ask.queues:
            self._out.append(Tell(entry.client, entry.ask.id, gate.foretell(now, entry)))
        else:
            self._refuse(gate, entry, gate.full(now, entry, "this call does not wait"))

    def _refuse(self, gate: Gate, entry: Waiting, refused: Refused) -> None:
        self._dequeue(gate, entry)
        self._out.append(Tell(entry.client, entry.ask.id, refused))

    def _end(self, now: float, permit_id: str, done: Done) -> None:
        permit = self._ended(permit_id)
        self._of_client[permit.client].discard(permit_id)
        gate = self.gates[permit.ask.resource]
        if done.how == "unused" and permit.written_at is None:
            broke = gate.unused(now, permit)
        else:
            self._written(now, gate, permit)
            scale, blocked_until = gate.capacity.scale, gate.capacity.blocked_until
            used = gate.used(permit, done)
            broke = gate.done(now, permit, done)
            if gate.spec.tokens:
                self.logs[permit.client].of(gate.spec).used(now, used)
            if gate.capacity.scale < scale:
                self._untangle()
            if (scale, blocked_until) != (gate.capacity.scale, gate.capacity.blocked_until):
                self.changed = True
                self.urgent |= done.how != "ok"
                self._blocked(now, gate)
        if broke:
            self._broke(now, gate)
        self._advance(now, gate)

    def _written(self, now: float, gate: Gate, permit: Permit) -> None:
        if permit.written_at is None:
            gate.written(now, permit)
            self._keepers.written(permit)
            if gate.spec.rates:
                self.logs[permit.client].of(gate.spec).written(now)

    def _blocked(self, now: float, gate: Gate) -> None:
        """What waits hears that it waits for longer."""
        until = gate.capacity.blocked_until
        if until > max(now, gate.said_until) + BLOCKED_SAID_S:
            gate.said_until = until
            gate.capacity.pass_to(now)
            for entry in gate.waits:
                self._out.append(Tell(entry.client, entry.ask.id, gate.foretell(now, entry)))

    def _broke(self, now: float, gate: Gate) -> None:
        """A breaker changed: what waits and may not go is refused."""
        self.changed = True
        if gate.breakers is None:
            return
        self.urgent = True
        shut: dict[str, Refused | None] = {}
        for entry in gate.waits:
            credential = entry.ask.credential
            if credential not in shut:
                shut[credential] = gate.shut(now, credential)
            refused = shut[credential]
            if refused is not None:
                self._refuse(gate, entry, refused)

    # Between resources.

    def _lift(self, entry: Waiting, sla: str, priority: float) -> None:
        """An ask counts as of this class, if it is higher."""
        if priority <= entry.waiter.priority:
            return
        gate = self.gates[entry.ask.resource]
        top = gate.waits.top()
        before = entry.waiter.priority
        gate.waits.lift(entry, sla, int(priority))
        self._keepers.lifted(entry, before)
        if priority > top[0]:
            self._lift_keepers(gate, sla, priority)

    def _lift_keepers(self, gate: Gate, sla: str, priority: float) -> None:
        """What waits elsewhere and keeps permits of this resource counts as of the class that waits for these."""
        for keeper in self._keepers.below(gate.spec.name, priority):
            self._lift(keeper, sla, priority)

    def _untangle(self) -> None:
        """Limits shrank: what waits in a circle because of that is refused, the newest first."""
        for entry in self._keepers.untangle():
            self._refuse(self.gates[entry.ask.resource], entry, _circle(entry))

    # What is known.

    def _permit(self, client: str, permit_id: str) -> Permit | None:
        permit = self._permits.get(permit_id)
        return permit if permit is not None and permit.client == client else None

    def _is_kept(self, client: str, ask: Ask, permit_id: str) -> bool:
        """Whether a permit is kept while an ask waits: one of its process, or that another lent to its run's lane."""
        permit = self._permits.get(permit_id)
        return permit is not None and (permit.client == client or permit.ask.run_id == ask.run_id != "")

    def _ended(self, permit_id: str) -> Permit:
        permit = self._permits.pop(permit_id)
        self._keepers.ended(permit)
        return permit

    def _dequeue(self, gate: Gate, entry: Waiting) -> None:
        gate.waits.remove(entry)
        self._forget(entry)
        self._leaves(entry)

    def _forget(self, entry: Waiting) -> None:
        """An ask waits no longer."""
        name, run_id = entry.ask.id, entry.ask.run_id
        del self._waiting[name]
        self._keepers.remove(entry)
        names = self._of_run.get(run_id)
        if names is not None:
            names.discard(name)
            if not names:
                del self._of_run[run_id]

    def _leaves(self, entry: Waiting) -> None:
        """A process has one thing less here."""
        names = self._of_client.get(entry.client)
        if names is not None:
            names.discard(entry.ask.id)

    def _answers(self) -> list[Tell]:
        out = self._out
        if out:
            self._out = []
        return out


def _circle(entry: Waiting) -> Refused:
    return Refused("deadlock", circle(entry.ask.resource))
