"""How a book is taken over: what all processes remember of it, and how a new one is made of their memories. Pure."""

from __future__ import annotations

from offramp.core.limits.book import LIFTED_MAX, Book, Tell
from offramp.core.limits.gate import Permit
from offramp.core.limits.memory import Kept, Memory, State
from offramp.core.limits.messages import Refused


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
    for each in memory.held:
        gate = book.gates.get(each.ask.resource)
        if gate is None or book.knows(each.ask.id):
            continue
        permit = Permit(book.entry(now - each.granted_ago_s, client, each.ask, each.tokens), now, probe=False)
        permit.granted_at = now - each.granted_ago_s
        gate.capacity.begins(now, each.tokens)
        if each.written_ago_s is not None:
            permit.written_at = now - each.written_ago_s
            gate.capacity.calls.open -= 1  # it is among the calls below
        book.hold(permit)
    for called in memory.called:
        gate = book.gates.get(called.resource)
        if gate is not None:
            gate.capacity.calls.recall(now, called.calls)
            gate.capacity.tokens.recall(now, called.tokens)
            book.logs[client].of(gate.spec).recall(now, called.calls, called.tokens)
    for asking in memory.asks:
        gate = book.gates.get(asking.ask.resource)
        if gate is None:
            out += book.ask(now, client, asking.ask)
        elif not book.knows(asking.ask.id):
            need = gate.need(asking.ask)
            if isinstance(need, Refused):
                out.append(Tell(client, asking.ask.id, need))
            else:
                book.enqueue(gate, book.entry(now - asking.since_ago_s, client, asking.ask, need))
    if memory.state is not None and memory.state.number > book.number:
        book.number = memory.state.number
        book.inherited = memory.state, now - memory.state_ago_s
    return out if book.recovering else [*out, *recovered(book, now)]


def recovered(book: Book, now: float) -> list[Tell]:
    """All processes that live have reported, or had the time to: grants begin."""
    if book.inherited is not None:
        _inherit(book, now, *book.inherited)
        book.inherited = None
    was, book.recovering = book.recovering, False
    book.changed = True
    out = book.resume(now)
    # What was asked for meanwhile has heard nothing yet.
    return [*out, *book.foretell(now)] if was else out


def _inherit(book: Book, now: float, known: State, at: float) -> None:
    ago_s = now - at
    for each in known.resources:
        gate = book.gates.get(each.resource)
        if gate is None:
            continue
        capacity = gate.capacity
        capacity.scale_to(min(capacity.scale, each.scale))
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
