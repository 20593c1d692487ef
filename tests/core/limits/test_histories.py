"""On any history, limits hold as an independent count has it, every ask is answered, and no permit is lost."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.limits.messages import Granted
from offramp.core.sla import SLA
from tests.core.limits.world import MARGIN_S, World, resource

CLASSES = {
    "high": SLA("high", priority=5, patience=20),
    "middle": SLA("middle", patience=3, queue_limit=9),
    "low": SLA("low", priority=-5, patience=8),
}
SPECS = [
    resource("calls", concurrency=3, rate=("3/s", "9/5s"), reserve=0.4),
    resource("tokens", rate="6/2s", tokens=("100/s", "250/4s"), reserve=0.2),
    resource("slots", concurrency=2, reserve=0.0),
]
NAMES = [spec.name for spec in SPECS]

asks = st.tuples(
    st.just("ask"),
    st.sampled_from("abc"),
    st.sampled_from(NAMES),
    st.integers(0, 5),
    st.sampled_from(["high", "middle", "low"]),
    st.sampled_from(["", "t", "u"]),
    st.integers(1, 100),
    st.integers(0, 2),
)
moves = st.one_of(
    asks,
    asks,
    st.tuples(st.just("write"), st.integers(0, 99), st.floats(0, MARGIN_S * 0.99)),
    st.tuples(st.just("write"), st.integers(0, 99), st.floats(0, MARGIN_S * 0.99)),
    st.tuples(
        st.just("end"),
        st.integers(0, 99),
        st.sampled_from(["ok", "ok", "ok", "failed", "cancelled", "throttled", "exhausted", "unused"]),
        st.floats(0, 1),
    ),
    st.tuples(st.just("end"), st.integers(0, 99), st.just("ok"), st.floats(0, 1)),
    st.tuples(st.just("withdraw"), st.integers(0, 99)),
    st.tuples(st.just("lift"), st.integers(0, 5), st.sampled_from(["high", "middle"])),
    st.tuples(st.just("leave"), st.sampled_from("abc")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("pass"), st.floats(0, 4)),
    st.tuples(st.just("pass"), st.floats(0, 0.5)),
)


def play(world, history):
    used = {}
    for number, (kind, *given_values) in enumerate(history):
        written = [name for name in world.held if name in used]
        unwritten = [name for name in world.held if name not in used]
        if kind == "ask":
            client, name, run, sla, tenant, tokens, within = given_values
            mine = [held for held, (owner, _) in world.held.items() if owner == client][:within]
            world.ask(client, number, name, run, mine, sla=sla, tenant=tenant, tokens=tokens)
        elif kind == "write" and unwritten:
            place, jitter = given_values
            name = unwritten[place % len(unwritten)]
            used[name] = world.answers[name].tokens
            world.write(name, jitter, used[name])
        elif kind == "end" and world.held:
            place, how, part = given_values
            name = list(world.held)[place % len(world.held)]
            if how == "unused" or name not in written:
                world.end(name, how="unused")
            else:
                # What a provider refuses counts for nothing there.
                world.end(name, how=how, tokens=used[name], blocked_s=part if how == "throttled" else None)
        elif kind == "withdraw" and world.asks:
            world.withdraw(list(world.asks)[given_values[0] % len(world.asks)])
        elif kind == "lift":
            world.lift(*given_values)
        elif kind == "leave":
            world.leave(*given_values)
        elif kind == "crash":
            world.crash()
        elif kind == "pass":
            world.passes(*given_values)
        world.look()


@settings(max_examples=150)
@given(st.lists(moves, min_size=20, max_size=120))
def test_limits_hold_and_all_are_served(history):
    world = World(SPECS, CLASSES)
    play(world, history)
    world.drain()
    world.look()


@settings(max_examples=60)
@given(st.lists(moves, min_size=20, max_size=80))
def test_a_successor_that_was_told_counts_on(history):
    world = World(SPECS, CLASSES)
    play(world, history)
    before = world.book.levels(world.now)
    world.crash()
    after = world.book.levels(world.now)
    for old, new in zip(before, after, strict=True):
        assert new.in_use >= old.in_use
        assert new.scale == old.scale
        for was, is_now in zip(old.windows, new.windows, strict=True):
            assert is_now.used >= was.used
    world.drain()


def test_a_history_has_grants():
    world = World(SPECS, CLASSES)
    name = world.ask("a", 1, "calls")
    assert isinstance(world.answers[name], Granted)
