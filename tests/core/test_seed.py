"""Which records a retried run keeps: any journal, any place to begin from."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.ending import CLEANUP, STRUCK, struck
from offramp.core.events import StepState
from offramp.core.failure import Failure
from offramp.core.journal import BEGUN, DUE, KEPT, TIMER, Entry, as_seen, digest, parted, steps_in, taken
from offramp.core.seed import calls_of, received_in, results_kept, seed_of, steps_begun
from offramp.errors import EffectUnknown

NAMES = ("search", "write", "send")
CALLS = tuple(f"{name}:{digits}" for name in NAMES for digits in ("aa:0", "aa:1", "bb:0"))
SIGNALS = ("approve", "stop")
FAILED = Failure("step-failed", "ValueError: no")


def signal_key(name, number):
    return f"offramp.signal:{digest(msgspec.json.encode(name))}:{number}"


@st.composite
def journals(draw, *, ends=True):
    """Entries as a body makes them: every key once, a signal after the time until which it is awaited."""
    entries, signals = [], []
    for key in draw(st.permutations(CALLS)):
        if draw(st.booleans()):
            failure = draw(st.sampled_from([None, None, None, FAILED]))
            value = None if failure else b"1"
            entries.append(Entry(key, key.split(":")[0], "step", value, failure, started_at=draw(st.floats(1, 9))))
    for number, name in enumerate(draw(st.lists(st.sampled_from(SIGNALS), max_size=3))):
        key, value = signal_key(name, number), str(number).encode()
        came = draw(st.booleans())
        place = draw(st.integers(0, len(entries)))
        entries[place:place] = [
            Entry(f"{key}:due", "offramp.signal", "value", b"7"),
            Entry(key, "offramp.signal", "signal", value if came else None, None if came else FAILED),
        ]
        signals += [(name, value)] if came else []
    values = [
        Entry("offramp.now:cc:0", "offramp.now", "value", b"3"),
        Entry("offramp.emit:dd:0", "offramp.emit", "emit"),
    ]
    timers = [Entry(f"{TIMER}:{kind}:0", TIMER, "sleep") for kind in ("timer", "sleep")]
    others = [*values, *timers, Entry(f"{TIMER}:timer:1:due", DUE, "value", b"8")]
    if ends:
        others += [struck("cancelled", draw(st.floats(1, 9))), Entry(f"{CLEANUP}:ee:0", CLEANUP, "value", b"9")]
    for entry in others:
        if draw(st.booleans()):
            entries.insert(draw(st.integers(0, len(entries))), entry)
    return entries, draw(st.permutations(signals))


def steps(entries):
    return {entry.key for entry in entries if entry.kind == "step" and entry.failure is None}


def before_strike(entries):
    """All but the steps that a cleanup may have executed."""
    place = next((place for place, entry in enumerate(entries) if entry.key == STRUCK), len(entries))
    return entries[:place]


@given(journals())
def test_no_recorded_step_is_lost_and_no_failure_kept(journal):
    entries, signals = journal
    seed = seed_of(entries, signals, {})
    assert steps(before_strike(entries)) <= steps(seed.entries) <= steps(entries)
    assert not [entry for entry in seed.entries if entry.failure is not None]
    assert seed.signals == list(signals)
    names = {entry.name for entry in seed.entries}
    assert not names & {DUE, CLEANUP, STRUCK}
    keys = [entry.key for entry in seed.entries]
    assert len(keys) == len(set(keys))


@given(journals())
def test_the_ordered_part_is_the_journal_up_to_the_first_failure(journal):
    entries, signals = journal
    head, ordered = parted(seed_of(entries, signals, {}).entries)
    assert not head or head[0].key == KEPT
    ends = (
        place
        for place, entry in enumerate(entries)
        if entry.failure or entry.key == STRUCK or (entry.name == TIMER and ":timer:" in entry.key)
    )
    before = entries[: next(ends, len(entries))]
    received = {f"{entry.key}:due" for entry in before if entry.kind == "signal"}
    gone = {entry.key for entry in before if entry.key.endswith(":due")} - received
    assert ordered == [entry for entry in before if entry.key not in gone and entry.name != CLEANUP]


@given(journals(), st.sampled_from([*NAMES, *CALLS]))
def test_nothing_from_the_step_on_is_kept(journal, start):
    entries, signals = journal
    cut = next(
        (place for place, entry in enumerate(entries) if entry.kind == "step" and start in {entry.name, entry.key}),
        len(entries),
    )
    seed = seed_of(entries, signals, {}, start)
    assert steps(before_strike(entries[:cut])) <= steps(seed.entries) <= steps(entries[:cut])
    calls = calls_of(entries, {})
    assert (start in calls or start in calls.values()) == (cut < len(entries))
    for name in SIGNALS:
        assert sum(sent == name for sent, _ in seed.signals) == received_in(entries[:cut], name)
    left = [signal for signal in signals if signal in seed.signals]
    assert seed.signals == left


@given(journals(), st.data())
def test_a_kept_result_has_the_place_in_which_it_was_taken(journal, data):
    entries, signals = journal
    seed = seed_of(entries, signals, {})
    kept = results_kept(seed.entries)
    order = data.draw(st.permutations(sorted(kept)))[: data.draw(st.integers(0, len(kept)))]
    new = Entry("new:ff:0", "new", "step", b"5")
    recorded = [*seed.entries, *map(taken, order), new]
    head, seen = parted(as_seen(recorded))
    assert [entry.key for entry in seen] == [*(e.key for e in parted(seed.entries)[1]), *order, new.key]
    assert [entry.value for entry in seen[len(seen) - 1 - len(order) : -1]] == [kept[key].value for key in order]
    assert steps_in([*head, *seen]) == len(steps(seed.entries)) + 1


@given(journals(), st.data())
def test_a_retry_of_a_retry_that_did_nothing_begins_with_the_same(journal, data):
    entries, signals = journal
    begun = {
        key: StepState(key.split(":")[0], key, "running", 2, "")
        for key in CALLS[:2]
        if key not in calls_of(entries, {})
    }
    seed = seed_of(entries, signals, begun)
    assert steps_begun(seed.entries).keys() == begun.keys()
    again = seed_of(as_seen(seed.entries), seed.signals, {})
    assert again == seed
    order = data.draw(st.permutations(sorted(results_kept(seed.entries))))
    later = seed_of(as_seen([*seed.entries, *map(taken, order)]), seed.signals, {})
    assert steps(later.entries) == steps(seed.entries)


def test_a_step_whose_effect_may_have_happened_is_known_unless_the_retry_is_from_it():
    unsure = Entry("pay:aa:0", "pay", "step", None, Failure(EffectUnknown.code, "?"), 3)
    running = {key: StepState("send", key, "running", 1, "") for key in ("send:aa:0", "send:aa:1")}
    waiting = {"look:aa:0": StepState("look", "look:aa:0", "retrying", 1, "")}

    asked = Entry("ask:aa:0", "ask", "step", None, FAILED, 1)
    failed = {"ask:aa:0": StepState("ask", "ask:aa:0", "failed", 1, "", interrupted=True)}
    entries, steps = [unsure, asked, Entry("fail:aa:0", "fail", "step", None, FAILED)], running | waiting | failed

    def begun(start=None, entries=entries, steps=steps):
        found = steps_begun(seed_of(entries, [], steps, start).entries)
        assert all((step.status, step.starts) == ("running", 0) for step in found.values())
        return {key: step.attempts for key, step in found.items()}

    every = {"pay:aa:0": 3, "send:aa:0": 1, "send:aa:1": 1, "ask:aa:0": 1}
    assert begun() == every
    assert begun("pay") == {key: every[key] for key in every if key != "pay:aa:0"}
    assert begun("send:aa:1") == {key: every[key] for key in every if key != "send:aa:1"}
    assert begun("send") == {"pay:aa:0": 3, "ask:aa:0": 1}
    # What the retry asks about is not sure either: a failed answer leaves it unknown, a result settles it.
    seed = seed_of(entries, [], steps).entries
    assert begun(entries=[*seed, asked], steps={}) == every
    assert begun(entries=[*seed, Entry("ask:aa:0", "ask", "step", b"1")], steps={}).keys() == every.keys() - {
        "ask:aa:0"
    }


def test_what_a_cancelled_retry_had_at_hand_is_at_hand_again():
    failed = Entry("work:aa:0", "work", "step", None, FAILED)
    entries = [
        failed,
        Entry("offramp.now:cc:0", "offramp.now", "value", b"3"),
        Entry("more:aa:0", "more", "step", b"1"),
    ]
    seed = seed_of(entries, [], {}).entries
    again = seed_of([*seed, struck("cancelled", 0.5)], [], {})
    assert list(again.entries) == list(seed)


def test_a_cleanup_is_not_kept_and_what_outlived_the_cancellation_is():
    late = Entry("late:aa:0", "late", "step", b"1", started_at=4.0)
    undo = Entry("undo:aa:0", "undo", "step", b"1", started_at=6.0)
    seed = seed_of([struck("cancelled", 5.0), undo, late], [], {})
    assert list(results_kept(seed.entries)) == ["late:aa:0"]
    assert BEGUN not in {entry.name for entry in seed.entries}
