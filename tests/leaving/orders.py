"""What may happen to a run while it leaves, as data: drawn by Hypothesis, read by people, replayed by plain tests."""

from __future__ import annotations

from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.leaving.world import world

SHAPES = ["line", "branches", "careful", "waits"]


class Order(NamedTuple):
    """A run and what happens to it.

    Attributes:
        shape: its pipeline.
        expires: whether it has a deadline.
        works: whether the process that accepts it executes deep runs, too.
        durable: whether the store has it before anything happens.
        events: what happens then, in this order.
    """

    shape: str = "line"
    expires: bool = False
    works: bool = True
    durable: bool = True
    events: Any = ()


member = st.integers(0, 1)
disturbance = st.one_of(
    st.tuples(st.sampled_from(["disconnect", "cancel", "leave", "retire", "crash", "refuse", "silence"]), member),
    st.tuples(st.sampled_from(["open", "open", "signal", "deaf"]), member),
    st.tuples(st.just("pass"), st.sampled_from([0.06, 0.5, 2.0, 9.5])),
)
progress = st.one_of(
    st.tuples(st.sampled_from(["eager", "lazy"]), member, st.integers(0, 12)),
    st.tuples(st.sampled_from(["control", "run", "commit"]), member, st.integers(1, 4)),
    st.tuples(st.just("settle"), member),
)
events = st.lists(st.tuples(disturbance, progress), min_size=1, max_size=10).map(lambda pairs: sum(pairs, ()))
ORDER = st.builds(Order, st.sampled_from(SHAPES), st.booleans(), st.booleans(), st.booleans(), events)

ONE = [
    *[(name, 0) for name in ("crash", "cancel", "retire", "silence", "leave", "refuse", "open")],
    *[(name, 1) for name in ("cancel", "unheard", "crash")],
    ("pass", 9.5),
]
"""What happens once, at each point of a demotion."""


def creep(subject, how, most):
    """Make so many single calls and commits; the number made. `lazy`: commit where there is no call to make."""
    made, place = 0, 0
    ways = [lambda: subject.control_step(1), lambda: subject.run_step(1), lambda: subject.store.commit(1)]
    while made < most and not subject.is_gone:
        order = ways[place:] + ways[:place] if how == "eager" else ways
        went = next((way for way in order if way()), None)
        if went is None:
            break
        place = (ways.index(went) + 1) % len(ways)
        made += 1
    return made


def happen(made, event):
    """One event; nothing where it cannot happen."""
    kind, *given = event
    if kind == "pass":
        made.advance(given[0])
        return
    subject, other = made.members[given[0]], made.members[1 - given[0]]
    if kind == "open":
        made.open(given[0])
    elif kind == "retire":
        if not other.is_gone:
            made.retire(other, subject)
    elif not subject.is_gone:
        HAPPENS[kind](made, subject, *given[1:])


HAPPENS = {
    "control": lambda _made, subject, count: subject.control_step(count),
    "run": lambda _made, subject, count: subject.run_step(count),
    "commit": lambda _made, subject, count: subject.store.commit(count),
    "eager": lambda _made, subject, count: creep(subject, "eager", count),
    "lazy": lambda _made, subject, count: creep(subject, "lazy", count),
    "settle": lambda _made, subject: subject.settle(),
    "disconnect": lambda made, subject: subject.service.disconnected(made.run_id),
    "cancel": lambda made, subject: made.cancel(subject),
    "leave": lambda _made, subject: subject.leave(),
    "signal": lambda made, subject: made.signal(subject),
    "silence": lambda made, subject: made.advance(4.5, silent=subject),
    "crash": lambda _made, subject: subject.crash(),
    "refuse": lambda _made, subject: subject.store.refuse(),
    "unheard": lambda made, subject: made.cancel_unheard(subject),
    "deaf": lambda _made, subject: subject.hints.lose(),
}


DEMOTED = (("disconnect", 0),)
AT_ITS_BOUNDARY = (*DEMOTED, ("settle", 0), ("open", 0))
"""The step in flight has ended, and the run is to be given back."""


def points(shape, how, begun):
    """How many single calls and commits follow, up to where only a step or time goes on."""
    with world(shape) as made:
        made.submit()
        for event in begun:
            happen(made, event)
        return creep(made.first, how, 10_000)


def at_each_point(shape, *, thin=False):
    """An order for each event at each point of a demotion, where the disk is quick and where it is slow.

    `thin`: once the step in flight has ended, each event at every third point, which are others for the next event.
    """
    for begun in (DEMOTED, AT_ITS_BOUNDARY):
        every = 3 if thin and begun is AT_ITS_BOUNDARY else 1
        for how in ("eager", "lazy"):
            last = points(shape, how, begun)
            for place, event in enumerate(ONE):
                for point in range(place % every, last + 1, every):
                    yield Order(shape, expires=True, events=(*begun, (how, 0, point), event))


def check(order):
    """Nothing is broken by this order of events."""
    faults = violations(order)
    assert faults == [], f"{faults} by {order}"


def violations(order):
    """What an order of events breaks: a line for each, none if everything holds."""
    with world(order.shape, expires=order.expires, first_works=order.works) as made:
        made.submit(durable=order.durable)
        for event in order.events:
            happen(made, event)
            if made.watch.faults:
                break
        else:
            made.finish()
        return made.watch.faults
