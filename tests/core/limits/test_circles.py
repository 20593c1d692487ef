"""Code that holds a permit and asks for another: it goes first, and is never left to wait for itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.limits import recovery
from offramp.core.limits.backlog import Waiting
from offramp.core.limits.book import Book
from offramp.core.limits.capacity import Capacity
from offramp.core.limits.cycles import Keepers
from offramp.core.limits.gate import Permit
from offramp.core.limits.memory import Remembered
from offramp.core.limits.messages import Ask, Done, Granted, Refused, Waits, circle
from offramp.core.order import Waiter
from offramp.core.sla import SLA
from tests.core.limits.world import World, resource

CLASSES = {"high": SLA("high", priority=10), "middle": SLA("middle"), "low": SLA("low", priority=-1)}


def world(*specs):
    return World(specs, CLASSES)


def is_circle(answer, name):
    return answer == Refused("deadlock", circle(name))


def test_a_call_that_waits_for_its_own_asker_is_refused():
    w = world(resource(concurrency=1))
    one = w.ask("a", 1, "r")
    assert is_circle(w.answers[w.ask("a", 2, "r", within=[one])], "r")
    assert isinstance(w.answers[w.ask("a", 3, "r")], Waits)
    w.end(one)
    w.look()


def test_parallel_calls_of_steps_that_hold_all_permits_are_refused_last():
    w = world(resource(concurrency=2))
    one, two = w.ask("a", 1, "r", run=1), w.ask("b", 2, "r", run=2)
    inner = w.ask("a", 3, "r", run=1, within=[one])
    assert isinstance(w.answers[inner], Waits)
    assert is_circle(w.answers[w.ask("b", 4, "r", run=2, within=[two])], "r")
    w.end(two)
    assert isinstance(w.answers[inner], Granted)


def test_two_resources_in_either_order():
    w = world(resource("r", concurrency=1), resource("s", concurrency=1))
    one, two = w.ask("a", 1, "r"), w.ask("b", 2, "s")
    assert isinstance(w.answers[w.ask("a", 3, "s", within=[one])], Waits)
    assert is_circle(w.answers[w.ask("b", 4, "r", within=[two])], "r")
    w.end(two)
    assert w.order[-1].endswith("00003")


def test_a_circle_may_go_through_windows_and_tokens():
    w = world(resource("r", rate="1/min"), resource("s", tokens="100/min"))
    one, two = w.ask("a", 1, "r"), w.ask("b", 2, "s", tokens=60)
    inner = w.ask("a", 3, "s", tokens=50, within=[one])
    assert isinstance(w.answers[inner], Waits)
    assert is_circle(w.answers[w.ask("b", 4, "r", within=[two])], "r")


def test_a_window_that_only_needs_time_is_no_circle():
    w = world(resource("r", rate="1/min", concurrency=5))
    one = w.ask("a", 1, "r")
    w.write(one)
    inner = w.ask("a", 2, "r", within=[one])
    assert isinstance(w.answers[inner], Waits)
    w.passes(60.1)
    assert isinstance(w.answers[inner], Granted)


def test_a_permit_that_ends_meanwhile_is_not_kept():
    w = world(resource(concurrency=1), resource("s", concurrency=1))
    one, other = w.ask("a", 1, "r"), w.ask("b", 2, "s")
    waits = w.ask("a", 3, "s", within=[one])
    w.end(one)
    again = w.ask("b", 4, "r", within=[other])
    assert isinstance(w.answers[again], Granted)
    assert isinstance(w.answers[waits], Waits)


def test_limits_that_shrink_do_not_leave_a_circle():
    w = world(resource(concurrency=2))
    one, two = w.ask("a", 1, "r"), w.ask("b", 2, "r")
    inner = w.ask("a", 3, "r", within=[one])
    w.end(two, how="throttled", blocked_s=1)
    assert is_circle(w.answers[inner], "r")
    w.look()


def test_what_holds_a_permit_goes_before_everything():
    w = world(resource("r", concurrency=1), resource("s", concurrency=2))
    holder, slot = w.ask("a", 1, "r"), w.ask("b", 2, "s", run=9)
    high = w.ask("c", 3, "r", run=1, sla="high")
    inner = w.ask("b", 4, "r", run=9, sla="low", within=[slot])
    stranger = w.ask("c", 5, "r", run=0, sla="high", within=[slot])
    w.end(holder)
    assert inner in w.held
    w.end(inner)
    assert stranger in w.held, "a permit of another run in another process is not its own"
    w.end(stranger)
    assert high in w.held


def test_what_a_process_lane_keeps_was_lent_by_its_process():
    w = world(resource("r", concurrency=1), resource("s", concurrency=2))
    holder, slot = w.ask("a", 1, "r"), w.ask("b", 2, "s", run=9)
    high = w.ask("c", 3, "r", run=1, sla="high")
    lane = w.ask("lane", 4, "r", run=9, sla="low", within=[slot])
    w.end(holder)
    assert lane in w.held
    w.end(lane)
    assert high in w.held


def test_a_process_lane_that_waits_for_what_it_was_lent_is_refused():
    w = world(resource(concurrency=1))
    lent = w.ask("a", 1, "r", run=9)
    assert is_circle(w.answers[w.ask("lane", 2, "r", run=9, within=[lent])], "r")


def test_a_takeover_learns_of_what_a_lane_was_lent_whichever_process_is_first():
    specs = (resource("r", concurrency=1), resource("s", concurrency=1))
    lender, lane, other = Remembered(specs), Remembered(specs), Remembered(specs)
    granted = Granted(0, 0.0, False)
    for memory, ask in (
        (lender, Ask(id="run_9:1", resource="s", run_id="run_9")),
        (other, Ask(id="run_1:1", resource="r", run_id="run_1")),
    ):
        memory.asked(0.0, ask)
        memory.answered(0.0, ask.id, granted)
    other.asked(0.0, Ask(id="run_1:2", resource="r", run_id="run_1", priority=5))
    lane.asked(1.0, Ask(id="run_9:2", resource="r", run_id="run_9", within=("run_9:1",)))
    book = Book(specs, CLASSES, recovering=True)
    for name, memory in (("lane", lane), ("other", other), ("lender", lender)):
        recovery.restore(book, 2.0, name, memory.memory(2.0))
    recovery.recovered(book, 2.0)
    answers = book.done(3.0, "other", "run_1:1", Done())
    assert [(each.client, each.id) for each in answers if isinstance(each.answer, Granted)] == [("lane", "run_9:2")]


def test_a_run_that_another_waits_for_counts_as_of_its_class():
    w = world(resource(concurrency=1))
    holder = w.ask("a", 0, "r")
    low, middle = w.ask("a", 1, "r", run=5), w.ask("a", 2, "r", run=6, sla="middle")
    w.lift(5, "high")
    w.lift(5, "middle")
    later = w.ask("a", 3, "r", run=5)
    assert w.book.levels(w.now)[0].waiting["high"].count == 2
    for name in (low, later, middle):
        w.end(holder)
        holder = w.order[-1]
        assert holder == name


def test_a_lifted_run_leaves_no_reserve():
    w = world(resource(concurrency=10, reserve=0.5))
    w.ask("a", 0, "r", sla="high")
    names = [w.ask("a", n, "r", run=n) for n in range(1, 8)]
    assert sum(name in w.held for name in names) == 4
    w.lift(6, "high")
    assert sum(name in w.held for name in names) == 5
    assert names[5] in w.held


def test_what_keeps_a_resource_from_a_higher_one_counts_as_of_that_class():
    w = world(resource("r", concurrency=1), resource("s", concurrency=1), resource("t", concurrency=1))
    low = w.ask("a", 1, "r", run=1)
    middle = w.ask("b", 2, "t", run=2, sla="middle")
    holder = w.ask("c", 3, "s", run=3)
    inner_middle = w.ask("b", 4, "s", run=2, sla="middle", within=[middle])
    inner_low = w.ask("a", 5, "s", run=1, within=[low])
    w.ask("d", 6, "r", run=6, sla="high")
    w.end(holder)
    assert (inner_low in w.held, inner_middle in w.held) == (True, False)


def test_the_same_if_the_higher_one_waits_already():
    w = world(resource("r", concurrency=1), resource("s", concurrency=1), resource("t", concurrency=1))
    low = w.ask("a", 1, "r", run=1)
    middle = w.ask("b", 2, "t", run=2, sla="middle")
    holder = w.ask("c", 3, "s", run=3)
    w.ask("d", 6, "r", run=6, sla="high")
    inner_middle = w.ask("b", 4, "s", run=2, sla="middle", within=[middle])
    inner_low = w.ask("a", 5, "s", run=1, within=[low])
    w.end(holder)
    assert (inner_low in w.held, inner_middle in w.held) == (True, False)


def test_lifted_runs_are_bounded(monkeypatch):
    monkeypatch.setattr("offramp.core.limits.memory.LIFTED_MAX", 3)
    w = world(resource(concurrency=1))
    w.ask("a", 0, "r")
    for run in range(5):
        w.lift(run, "high")
    assert list(w.book.lifted) == ["run_0002", "run_0003", "run_0004"]
    assert w.book.lift(w.now, "", "high", 10) == []


def _entry(name, resource, holds=()):
    ask = Ask(id=name, resource=resource, run_id="", sla="low", priority=0)
    return Waiting("a", ask, Waiter(name, "low", "", 0, float(name)), 0, holds)


def _served(limits, permits, asks):
    """A search over every order: grant what fits, and let go what an asker that was granted keeps; what is left."""
    kept = {permit for _, holds in asks.values() for permit in holds}
    free = [limit - sum(permits[int(each)] == place for each in kept) for place, limit in enumerate(limits)]
    left, moved = dict(asks), True
    while moved:
        moved = False
        for name, (place, _) in list(left.items()):
            if free[place] > 0:
                del left[name]
                moved = True
                still = {permit for _, holds in left.values() for permit in holds}
                for permit in kept - still:
                    free[permits[int(permit)]] += 1
                kept = still
    return set(left)


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 3), min_size=1, max_size=4),
    st.lists(st.integers(0, 3), max_size=8),
    st.lists(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 7), max_size=3)), max_size=8),
    st.data(),
)
def test_exactly_what_no_order_of_ends_can_serve_is_stuck(limits, permits, asks, data):
    """Ask by ask, as long as none is in a circle; then limits shrink, and asks end."""
    permits = [place % len(limits) for place in permits]
    asks = {
        f"{number}": (
            place % len(limits),
            tuple(sorted({str(each % len(permits)) for each in holds} if permits else ())),
        )
        for number, (place, holds) in enumerate(asks)
    }
    exist = {str(each): Permit(_entry(str(each), str(place)), 0.0, probe=False) for each, place in enumerate(permits)}
    keepers = Keepers(exist, lambda place, load, _: load.permits < limits[int(place)])
    waits, entries = {}, {}
    for name, ask in asks.items():
        if not ask[1]:
            continue
        entry = entries[name] = _entry(name, str(ask[0]), ask[1])
        keepers.add(entry)
        assert keepers.is_stuck(entry) == (name in _served(limits, permits, {**waits, name: ask}))
        if keepers.is_stuck(entry):
            keepers.remove(entry)
        else:
            waits[name] = ask
    for name in data.draw(st.sets(st.sampled_from([*waits]) if waits else st.nothing())):
        keepers.remove(entries[name])
        del waits[name]
    limits = [data.draw(st.integers(1, limit)) for limit in limits]
    refused = [entry.ask.id for entry in keepers.untangle()]
    for name in refused:
        assert name == max(_served(limits, permits, waits), key=int), "the newest is refused"
        del waits[name]
    assert not _served(limits, permits, waits)


def test_thousands_that_keep_permits_cost_little_each():
    """Counted in looks at what fits, not in time."""
    looks = 0

    def fits(_, load, tokens):
        nonlocal looks
        looks += 1
        return load.permits < limit

    count, limit = 5_000, 5_001
    exist = {str(each): Permit(_entry(str(each), "r"), 0.0, probe=False) for each in range(count)}
    keepers = Keepers(exist, fits)
    for number in range(count):
        entry = _entry(str(count + number), "r", (str(number),))
        keepers.add(entry)
        assert not keepers.is_stuck(entry)
    assert looks <= 2 * count
    looks, limit = 0, count - 100
    assert len(list(keepers.untangle())) == 101
    assert looks <= 3 * count


def test_a_takeover_with_thousands_that_keep_permits_costs_little_each(monkeypatch):
    looks = 0
    looked = Capacity.fits_beside

    def looks_again(*given):
        nonlocal looks
        looks += 1
        return looked(*given)

    monkeypatch.setattr(Capacity, "fits_beside", looks_again)
    count = 2_000
    specs = [resource("r", concurrency=10_000), resource("s", concurrency=1)]
    book = Book(specs, CLASSES)
    memory = Remembered(specs)

    def ask(name, place, within=()):
        asked = Ask(id=name, resource=place, run_id=name[:5], sla="low", priority=-1, within=within)
        memory.asked(0.0, asked)
        for _, each, answer in book.ask(0.0, "a", asked):
            memory.answered(0.0, each, answer)

    ask("first", "s")
    for number in range(count):
        ask(f"{number:05}", "r")
        ask(f"{number:05}:1", "s", (f"{number:05}",))
    assert looks <= 2 * count
    looks = 0
    book = Book(specs, CLASSES, recovering=True)
    recovery.restore(book, 1.0, "a", memory.memory(1.0))
    told = recovery.recovered(book, 1.0)
    assert [type(answer) for _, _, answer in told] == [Waits] * count
    assert looks <= 2
    told = book.done(2.0, "a", "first", Done())
    assert [type(answer) for _, _, answer in told] == [Granted]
