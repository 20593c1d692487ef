"""A successor of the limits' process goes on exactly where its predecessor was, from what the processes remember."""

from __future__ import annotations

import msgspec
import pytest

from offramp.core.limits import recovery
from offramp.core.limits.book import Book
from offramp.core.limits.memory import Memory, Remembered, State
from offramp.core.limits.messages import Ask, Done, Granted, Waits
from offramp.core.limits.spec import Breaker
from offramp.core.sla import SLA
from tests.core.limits.world import MARGIN_S, World, resource

CLASSES = {"high": SLA("high", priority=5), "low": SLA("low", priority=-5)}


def world(*specs):
    return World(specs, CLASSES)


def over_the_wire(value):
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=type(value))


def test_permits_waiters_and_calls_count_on():
    w = world(resource(concurrency=3, rate="5/min", reserve=0))
    names = [w.ask("ab"[n % 2], n, "r", run=n) for n in range(9)]
    for name in names[:3]:
        w.write(name)
    w.passes(10.0)
    for name in names[:2]:
        w.end(name)
    assert len(w.held) == 3
    w.crash()
    level = w.book.levels(w.now)[0]
    assert (level.in_use, level.windows[0].used, level.waiting["low"].count) == (3, 5, 4)
    assert level.waiting["low"].oldest_s == 10.0
    w.passes(50.06)
    w.end(names[2])
    assert w.order[-1] == names[5]
    w.drain()


def test_calls_of_processes_that_left_count_on():
    w = world(resource(rate="4/min", tokens="1k/min", reserve=0))
    one, two = w.ask("a", 1, "r", tokens=100), w.ask("a", 2, "r", tokens=200)
    w.write(one)
    w.end(one, tokens=50)
    w.passes(20.0)
    w.leave("a")
    w.passes(10.0)
    w.crash()
    assert [each.used for each in w.book.levels(w.now)[0].windows] == [2, 250]
    w.passes(5.0)
    w.crash()
    assert [each.used for each in w.book.levels(w.now)[0].windows] == [2, 250]
    w.passes(25.1)
    assert [each.used for each in w.book.levels(w.now)[0].windows] == [1, 200]
    w.passes(20.0)
    assert [each.used for each in w.book.levels(w.now)[0].windows] == [0, 0]
    assert not w.asks
    assert two not in w.held


def test_what_providers_said_is_remembered():
    spec = resource(concurrency=10, breaker=Breaker(min_calls=2, open_for=30))
    w = world(spec, resource("s", tokens="10k/min", concurrency=4))
    for number in range(2):
        w.end(w.ask("a", number, "r", credential="k"), how="failed", says="503")
    w.end(w.ask("a", 5, "s", tokens=10, step="write", sla="high"), how="ok", tokens=70)
    w.end(w.ask("a", 6, "s", tokens=10), how="throttled", blocked_s=40)
    w.lift(7, "high")
    w.passes(10.0)
    w.crash()
    r, s = w.book.levels(w.now)
    assert (r.breaker.state, r.breaker.next_try_s) == ("open", 20.0)
    assert (s.scale, s.blocked_s) == (0.75, 30.0)
    assert w.answers[w.ask("a", 8, "r", credential="k")].why == "open"
    w.passes(30.1)
    assert w.answers[w.ask("a", 9, "s", step="write")].tokens == 70
    assert w.book.gates["s"].highest == 5
    assert w.book.lifted == {"run_0007": ("high", 5)}


def test_nothing_is_granted_before_all_have_reported():
    specs = [resource(concurrency=1)]
    book = Book(specs, CLASSES, recovering=True)
    assert book.ask(5.0, "new", Ask(id="x", resource="r", sla="high", priority=5)) == []
    held = Remembered(specs)
    held.asked(70.0, Ask(id="y", resource="r"))
    held.answered(71.0, "y", Granted())
    assert recovery.restore(book, 5.5, "old", over_the_wire(held.memory(80.0))) == []
    assert book.pass_to(100.0) == []
    assert recovery.recovered(book, 100.0) == [("new", "x", Waits("concurrency", 0, None))]
    assert book.levels(100.0)[0].in_use == 1
    [tell] = book.done(101.0, "old", "y", Done())
    assert (tell.client, tell.id, tell.answer) == ("new", "x", Granted(waited_s=96.0))


def test_a_process_that_reports_late_is_heard():
    specs = [resource(concurrency=2, rate="5/min", reserve=0)]
    book = Book(specs, CLASSES, recovering=True)
    assert recovery.recovered(book, 1.0) == []
    one = Remembered(specs)
    for name in "uvw":
        one.asked(0.0, Ask(id=name, resource="r"))
    for name in "uv":
        one.answered(0.0, name, Granted())
        one.written(0.0, name)
    one.done(0.0, "u", Done())
    [tell] = recovery.restore(book, 2.0, "late", one.memory(2.0))
    assert (tell.id, type(tell.answer)) == ("w", Granted)
    level = book.levels(2.0)[0]
    assert (level.in_use, level.windows[0].used) == (2, 3)


def test_a_process_that_reports_twice_counts_once():
    specs = [resource(concurrency=2)]
    book, log = Book(specs, CLASSES, recovering=True), Remembered(specs)
    log.asked(0.0, Ask(id="u", resource="r"))
    log.answered(0.0, "u", Granted())
    log.asked(0.0, Ask(id="v", resource="r"))
    for _ in range(2):
        recovery.restore(book, 1.0, "a", log.memory(1.0))
    assert book.levels(1.0)[0].in_use == 1
    assert book.levels(1.0)[0].waiting["low" if "low" in book.levels(1.0)[0].waiting else "default"].count == 1


def test_the_state_with_the_largest_number_holds():
    specs = [resource(concurrency=8)]
    book = Book(specs, CLASSES, recovering=True)
    old = Book(specs, CLASSES)
    old.gates["r"].capacity.blocks(50.0)
    first = recovery.state(old, 0.0)
    old.gates["r"].capacity.blocks(90.0)
    second = recovery.state(old, 0.0)
    for number, state in enumerate([second, first]):
        recovery.restore(book, 10.0, f"{number}", Memory(state=over_the_wire(state), state_ago_s=10.0))
    recovery.recovered(book, 10.0)
    assert book.levels(10.0)[0].blocked_s == 80.0
    assert recovery.state(book, 10.0).number == 3


def test_what_is_not_declared_any_more_is_dropped():
    old = [resource("gone", concurrency=1), resource("r", rate="2/s")]
    log = Remembered(old)
    for name in ("gone", "r"):
        log.asked(0.0, Ask(id=f"held {name}", resource=name))
        log.answered(0.0, f"held {name}", Granted())
        log.written(0.0, f"held {name}")
        log.asked(0.0, Ask(id=f"waits {name}", resource=name))
    log.keeps(0.0, recovery.state(Book(old, CLASSES), 0.0))
    book = Book(old[1:], CLASSES, recovering=True)
    tells = recovery.restore(book, 0.5, "a", log.memory(0.5)) + recovery.recovered(book, 0.5)
    assert {tell.id: type(tell.answer).__name__ for tell in tells} == {"waits gone": "Refused", "waits r": "Granted"}
    assert [level.in_use for level in book.levels(0.5)] == [2]


def test_a_memory_travels():
    log = Remembered([resource(rate="5/min", tokens="1k/min", breaker=Breaker())], MARGIN_S)
    log.asked(0.0, Ask(id="u", resource="r", within=("x",), tokens=5))
    log.answered(1.0, "u", Waits("rate", 1, 2.0))
    log.asked(0.0, Ask(id="v", resource="r"))
    log.answered(1.0, "v", Granted(tokens=7))
    log.written(2.0, "v")
    log.keeps(2.0, State(3))
    memory = log.memory(4.0)
    assert over_the_wire(memory) == memory
    assert (memory.held[0].granted_ago_s, memory.held[0].written_ago_s, memory.held[0].tokens) == (3.0, 2.0, 7)
    assert (memory.asks[0].ask.id, memory.asks[0].since_ago_s) == ("u", 4.0)
    assert [list(each) for each in memory.called[0].calls] == [[2.0, 1]]
    assert (memory.state, memory.state_ago_s) == (State(3), 2.0)
    log.done(5.0, "v", Done(tokens=40))
    log.withdrawn(5.0, "u")
    memory = log.memory(6.0)
    assert (memory.held, memory.asks, memory.called[0].tokens) == ((), (), [(1.0, 40)])


@pytest.mark.parametrize("ends", ["unused", "withdrawn"])
def test_a_permit_that_was_not_used_leaves_no_call(ends):
    log = Remembered([resource(rate="5/min")])
    log.asked(0.0, Ask(id="u", resource="r"))
    log.answered(0.0, "u", Granted())
    if ends == "unused":
        log.done(1.0, "u", Done(how="unused"))
    else:
        log.withdrawn(1.0, "u")
    assert log.memory(1.0) == Memory()


def test_what_a_process_remembers_is_bounded():
    log = Remembered([resource(rate="5/s", tokens="100/s")])
    for number in range(1_000):
        log.asked(number, Ask(id=f"{number}", resource="r"))
        log.answered(number, f"{number}", Granted(tokens=1))
        log.written(number, f"{number}")
        log.done(number, f"{number}", Done())
    assert len(msgspec.msgpack.encode(log.memory(1_000.0))) < 500


def asks_of_a_process_that_was_not_connected(log):
    """One that waits, one past the queue's limit, one that does not wait, and one that waits for its own permit."""
    full = SLA("full", queue_limit=1)
    for name, more in (
        ("waits", {}),
        ("past", {}),
        ("hasty", {"sla": "default", "queues": False}),
        ("own", {"sla": "default", "within": ("s",)}),
        ("s", {"resource": "s"}),
    ):
        log.asked(3.0, Ask(**{"id": name, "resource": "r", "sla": "full", "within": (), **more}))
    log.answered(3.0, "s", Granted())
    log.asked(4.0, Ask(id="own-s", resource="s", within=("s",)))
    return {**CLASSES, "full": full}


@pytest.mark.parametrize("recovering", [False, True], ids=["late", "in time"])
def test_what_was_asked_without_a_coordinator_is_asked_of_the_next(recovering):
    specs = [resource(concurrency=1), resource("s", concurrency=1)]
    log = Remembered(specs)
    classes = asks_of_a_process_that_was_not_connected(log)
    book = Book(specs, classes, recovering=recovering)
    held = Remembered(specs)
    held.asked(0.0, Ask(id="h", resource="r"))
    held.answered(0.0, "h", Granted())
    recovery.restore(book, 4.0, "other", held.memory(4.0))
    told = recovery.restore(book, 5.0, "late", over_the_wire(log.memory(5.0)))
    if recovering:
        told += recovery.recovered(book, 5.0)
    answers = {tell.id: getattr(tell.answer, "why", "waits") for tell in told}
    assert answers == {"waits": "waits", "past": "busy", "hasty": "busy", "own": "waits", "own-s": "deadlock"}
    told = book.done(6.0, "other", "h", Done())
    assert [(tell.id, tell.answer.waited_s) for tell in told] == [("own", 3.0)]


def test_runs_that_a_process_lifted_stay_so_without_a_state():
    specs = [resource(concurrency=1)]
    log = Remembered(specs)
    for number in range(3):
        log.asked(float(number), Ask(id=f"{number}", resource="r", run_id=f"run {number}"))
    log.lift("run 2", "high", 5)
    log.lift("run 2", "low", -5)
    assert log.memory(4.0).lifted == (("run 2", "high", 5),)
    book = Book(specs, CLASSES, recovering=True)
    recovery.restore(book, 4.0, "a", over_the_wire(log.memory(4.0)))
    assert [tell.id for tell in recovery.recovered(book, 4.0) if isinstance(tell.answer, Granted)] == ["2"]


def test_what_waits_needs_after_a_takeover_what_it_needed_before():
    specs = [resource(tokens="40k/min", concurrency=50)]
    book = Book(specs, CLASSES)
    log, other = Remembered(specs), Remembered(specs)
    for number in range(20):
        memory = (log, other)[number % 2]
        ask = Ask(id=f"{number:02}", resource="r", step="write", run_id=f"{number:02}")
        memory.asked(0.0, ask)
        for _, name, answer in book.ask(0.0, "ab"[number % 2], ask):
            memory.answered(0.0, name, answer)
        if number == 0:
            log.done(0.0, "00", Done(tokens=8_000))
            book.done(0.0, "a", "00", Done(tokens=8_000))
    assert book.levels(0.0)[0].in_use == 4
    other.keeps(0.0, recovery.state(book, 0.0))
    book = Book(specs, CLASSES, recovering=True)
    for name, memory in (("a", log), ("b", other)):
        assert recovery.restore(book, 1.0, name, memory.memory(1.0)) == []
    asked = Ask(id="50", resource="r", step="write", run_id="50")
    assert book.ask(1.0, "c", asked) == []
    recovery.recovered(book, 1.0)
    level = book.levels(1.0)[0]
    assert (level.in_use, level.windows[0].used) == (4, 40_000)


def test_what_a_provider_said_to_a_process_counts_once():
    """Whether the coordinator heard of it and said so, heard of it, or did not."""
    specs = [resource(concurrency=16)]
    for heard, shared in ((True, True), (True, False), (False, False)):
        book = Book(specs, CLASSES)
        log = Remembered(specs)
        log.keeps(0.0, recovery.state(book, 0.0))
        for name in "uv":
            ask = Ask(id=name, resource="r")
            log.asked(1.0, ask)
            [tell] = book.ask(1.0, "a", ask)
            log.answered(1.0, name, tell.answer)
        for name, done in (("u", Done(how="throttled", blocked_s=60.0)), ("v", Done(how="throttled"))):
            log.done(2.0, name, done)
            if heard:
                book.done(2.0, "a", name, done)
        if shared:
            log.keeps(3.0, over_the_wire(recovery.state(book, 3.0)))
        successor = Book(specs, CLASSES, recovering=True)
        recovery.restore(successor, 12.0, "a", over_the_wire(log.memory(12.0)))
        recovery.recovered(successor, 12.0)
        assert (successor.levels(12.0)[0].blocked_s, successor.levels(12.0)[0].scale) == (50.0, 0.75)
        recovery.restore(successor, 13.0, "b", over_the_wire(log.memory(13.0)))
        assert (successor.levels(13.0)[0].blocked_s, successor.levels(13.0)[0].scale) == (49.0, 0.75)
        waits = successor.ask(13.0, "a", Ask(id="w", resource="r"))[0].answer
        assert (waits.reason, waits.expected_s) == ("retry-after", 49.0)


def test_what_a_process_reports_late_stops_those_that_wait():
    specs = [resource(concurrency=1)]
    book, log = Book(specs, CLASSES), Remembered(specs)
    book.ask(0.0, "a", Ask(id="h", resource="r"))
    book.ask(0.0, "a", Ask(id="w", resource="r"))
    log.asked(0.0, Ask(id="u", resource="r"))
    log.answered(0.0, "u", Granted())
    log.done(1.0, "u", Done(how="exhausted"))
    [tell] = recovery.restore(book, 2.0, "b", log.memory(2.0))
    assert (tell.id, type(tell.answer)) == ("w", Waits)
    assert book.levels(2.0)[0].blocked_s == 59.0


def test_a_refusal_and_a_breaker_are_urgent_news():
    book = Book([resource(concurrency=4, breaker=Breaker(min_calls=2))], CLASSES)
    news = []
    for name, how in (("a", "ok"), ("b", "throttled"), ("c", "ok"), ("d", "failed")):
        book.ask(10.0 * len(news), "x", Ask(id=name, resource="r"))
        book.done(10.0 * len(news), "x", name, Done(how=how))
        news.append(book.urgent)
        book.urgent = False
    assert news == [False, True, False, True]
