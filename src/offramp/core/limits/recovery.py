"""How a book is taken over: what all processes remember of it, and how a new one is made of their memories. Pure."""

from __future__ import annotations

import math

from offramp.core.limits.book import Book, Tell
from offramp.core.limits.gate import Permit
from offramp.core.limits.memory import LIFTED_MAX, Asking, Called, Holding, Kept, Memory, State
from offramp.core.limits.messages import Refused

_SAME_S = 1e-3
"""A call that was granted sooner after a cut than this was granted before it: ages are not exact."""


def state(book: Book, now: float) -> State:
    """What all processes remember for a successor, beside their own calls. Each has a larger number than the last."""
    gone = {each.resource: each for each in book.gone.called(now)}
    book.number += 1
    resources = []
    for name, gate in book.gates.items():
        called = gone.get(name)
        resources.append(
            Kept(
                name,
                scale=gate.capacity.scale,
                cut_ago_s=None if math.isinf(gate.capacity.cut_at) else now - gate.capacity.cut_at,
                blocked_s=max(0.0, gate.capacity.blocked_until - now),
                highest=gate.highest,
                expected=gate.learned.remembered(),
                breakers=() if gate.breakers is None else gate.breakers.memory(now),
                calls=[] if called is None else called.calls,
                tokens=[] if called is None else called.tokens,
            )
        )
    return State(book.number, tuple(resources), tuple((run_id, *lifted) for run_id, lifted in book.lifted.items()))


def restore(book: Book, now: float, client: str, memory: Memory) -> list[Tell]:
    """A process says what it holds, asks for, and called. Before `recovered` nothing is granted to anybody."""
    out: list[Tell] = []
    for lifted in memory.lifted:
        out += book.lift(now, *lifted)
    for holding in memory.held:
        _hold(book, now, client, holding)
    for called in memory.called:
        gate = book.gates.get(called.resource)
        if gate is not None:
            gate.capacity.calls.recall(now, called.calls)
            gate.capacity.tokens.recall(now, called.tokens)
            book.logs[client].of(gate.spec).recall(now, called.calls, called.tokens)
    for asking in memory.asks:
        out += _wait(book, now, client, asking)
    if memory.state is not None and memory.state.number > book.number:
        book.number = memory.state.number
        book.inherited = memory.state, now - memory.state_ago_s
    book.stopped += [(now, stopped) for stopped in memory.stopped]
    if not book.recovering:
        out += recovered(book, now)
    for asking in memory.new:
        out += book.ask(now, client, asking.ask, now - asking.since_ago_s)
    return out


def _hold(book: Book, now: float, client: str, holding: Holding) -> None:
    """A permit exists, of which this book had not heard."""
    gate = book.gates.get(holding.ask.resource)
    if gate is None or book.knows(holding.ask.id):
        return
    permit = Permit(book.entry(now - holding.granted_ago_s, client, holding.ask, holding.tokens), now, probe=False)
    permit.granted_at = now - holding.granted_ago_s
    gate.capacity.begins(now, holding.tokens)
    if holding.written_ago_s is not None:
        permit.written_at = now - holding.written_ago_s
        gate.capacity.calls.open -= 1  # it is among the calls that the process remembers
    book.hold(permit)


def _wait(book: Book, now: float, client: str, asking: Asking) -> list[Tell]:
    """An ask waits on, as it did at a predecessor."""
    ask = asking.ask
    gate = book.gates.get(ask.resource)
    if gate is None:
        return book.ask(now, client, ask)
    if book.knows(ask.id):
        return []
    need = gate.need(ask)
    if isinstance(need, Refused):
        return [Tell(client, ask.id, need)]
    book.enqueue(gate, book.entry(now - asking.since_ago_s, client, ask, need))
    return []


def recovered(book: Book, now: float) -> list[Tell]:
    """All processes that live have reported, or had the time to: grants begin."""
    if book.inherited is not None:
        _inherit(book, now, *book.inherited)
        book.inherited = None
        book.reckon()
    _stop(book)
    book.settle()
    was, book.recovering = book.recovering, False
    book.changed = True
    out = book.resume(now)
    # What was asked for meanwhile has heard nothing yet.
    return [*out, *book.foretell(now)] if was else out


def _stop(book: Book) -> None:
    """What providers said to processes that live; what the state has of it already changes nothing."""
    stopped, book.stopped = book.stopped, []
    for at, each in sorted(stopped, key=lambda one: one[0] - one[1].cut_ago_s):
        gate = book.gates.get(each.resource)
        if gate is None:
            continue
        if each.blocked_s > 0:
            gate.capacity.blocks(at + each.blocked_s)
        if each.cut_ago_s < math.inf and at - each.granted_ago_s > gate.capacity.cut_at + _SAME_S:
            gate.capacity.cut(at - each.cut_ago_s, at - each.granted_ago_s)


def called(book: Book, now: float) -> dict[str, tuple[Called, ...]]:
    """The calls of each process that lives, as they count now."""
    return {client: found for client, log in book.logs.items() if (found := log.called(now))}


def recall_gone(book: Book, now: float, calls: tuple[Called, ...], ago_s: float) -> None:
    """Count the calls of a process that died with the predecessor, as they counted some time ago."""
    for each in calls:
        gate = book.gates.get(each.resource)
        if gate is not None:
            made = [(ago + ago_s, amount) for ago, amount in each.calls]
            tokens = [(ago + ago_s, amount) for ago, amount in each.tokens]
            gate.capacity.calls.recall(now, made)
            gate.capacity.tokens.recall(now, tokens)
            book.gone.of(gate.spec).recall(now, made, tokens)


def _inherit(book: Book, now: float, known: State, at: float) -> None:
    ago_s = now - at
    for each in known.resources:
        gate = book.gates.get(each.resource)
        if gate is None:
            continue
        capacity = gate.capacity
        capacity.scale_to(min(capacity.scale, each.scale))
        if each.cut_ago_s is not None:
            capacity.cut_at = max(capacity.cut_at, at - each.cut_ago_s)
        if each.blocked_s > 0:
            capacity.blocks(at + each.blocked_s)
        if each.highest is not None:
            gate.highest = each.highest if gate.highest is None else max(gate.highest, each.highest)
        gate.learned.recall(each.expected)
        if gate.breakers is not None:
            gate.breakers.restore(at, each.breakers)
        calls = [(ago + ago_s, amount) for ago, amount in each.calls]
        tokens = [(ago + ago_s, amount) for ago, amount in each.tokens]
        capacity.calls.recall(now, calls)
        capacity.tokens.recall(now, tokens)
        book.gone.of(gate.spec).recall(now, calls, tokens)
    for run_id, sla, priority in known.lifted[-LIFTED_MAX:]:
        book.lift(now, run_id, sla, priority)
