"""The script decides as the pure state machine does: on any history, the same answers, at the same times."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offramp.core.limits.book import Book
from offramp.core.limits.messages import Ask, Done, Granted, Refused, Waits
from offramp.core.limits.spec import resource_spec
from offramp.core.sla import SLA
from tests import valkey
from tests.limits.redis.script import ScriptBook

CLASSES = {
    "high": SLA("high", priority=5, patience=20),
    "middle": SLA("middle", patience=3, queue_limit=4),
    "even": SLA("even", patience=2),
    "low": SLA("low", priority=-5, patience=4),
}
SPECS = [
    resource_spec("calls", concurrency=3, rate=("3/s", "9/5s"), reserve=0.4, share=0.3),
    resource_spec("tokens", rate="6/2s", tokens=("100/s", "250/4s"), reserve=0.2),
    resource_spec("slots", concurrency=2, reserve=0.0),
    resource_spec("paced", concurrency=9, rate=("9/s", "30/20s"), reserve=0.5, share=0.2),
]
HOWS = ["ok", "ok", "ok", "failed", "cancelled", "throttled", "exhausted", "unused"]

asks = st.tuples(
    st.just("ask"),
    st.sampled_from("abc"),
    st.sampled_from([spec.name for spec in SPECS]),
    st.integers(0, 5),
    st.sampled_from(list(CLASSES)),
    st.sampled_from(["", "t u", "u"]),
    st.sampled_from([None, 0, 10, 40, 99, 101]),
    st.sampled_from([None, None, 5, 60, 120]),
    st.integers(0, 2),
    st.booleans() | st.just(True),
)
moves = st.one_of(
    asks,
    asks,
    asks,
    st.tuples(st.just("write"), st.integers(0, 99)),
    st.tuples(
        st.just("end"),
        st.integers(0, 99),
        st.sampled_from(HOWS),
        st.sampled_from([None, 0, 30, 90, 150]),
        st.sampled_from([None, None, 0.5, 3]),
    ),
    st.tuples(st.just("withdraw"), st.integers(0, 99)),
    st.tuples(st.just("lift"), st.integers(0, 5), st.sampled_from(["high", "middle"])),
    st.tuples(st.just("leave"), st.sampled_from("abc")),
    st.tuples(st.just("pass"), st.sampled_from([0.1, 0.25, 1.0, 3.0])),
)


class Both:
    """The two, which do the same."""

    def __init__(self, client):
        self.pure = Book(SPECS, CLASSES)
        self.script = ScriptBook(client, SPECS, CLASSES)
        self.now = 100.0
        self.open, self.held = {}, {}

    def does(self, move, *given_values):
        expected = getattr(self.pure, move)(*given_values)
        found = getattr(self.script, move)(*given_values)
        assert self.sorted(found) == self.sorted(expected), move
        for client, name, answer in expected:
            if isinstance(answer, Granted):
                self.held[name] = client
            elif isinstance(answer, Refused):
                del self.open[name]
        self.compare_due()

    def sorted(self, out):
        """By process and resource: grants and refusals in their order; how long others wait is said to all at once."""
        found = {}
        for client, name, answer in out:
            ends, waits = found.setdefault((client, self.script.resource_of[name]), ([], {}))
            if isinstance(answer, Waits):
                waits[name] = rounded(answer)
            else:
                ends.append((name, rounded(answer)))
        return found

    def compare_due(self):
        found = self.script.due()
        assert found == (None if (due := self.pure.due()) is None else pytest.approx(due, abs=1e-6)), (
            found,
            due,
            self.now,
        )

    def passes(self, seconds):
        until = self.now + seconds
        while (due := self.pure.due()) is not None and due <= until:
            self.now = max(self.now, due) + 1e-7
            self.does("pass_to", self.now)
        self.now = max(until, self.now)


def rounded(answer):
    if isinstance(answer, Granted):
        return msgspec.structs.replace(answer, waited_s=0.0)
    if isinstance(answer, Waits) and answer.expected_s is not None:
        return msgspec.structs.replace(answer, expected_s=round(answer.expected_s, 4))
    if isinstance(answer, Refused) and answer.retry_after_s is not None:
        return msgspec.structs.replace(answer, retry_after_s=round(answer.retry_after_s, 4))
    return answer


def play(both, history):
    for number, (kind, *values) in enumerate(history):
        held = list(both.held)
        if kind == "ask":
            client, resource, run, sla, tenant, tokens, tokens_max, within, queues = values
            name = f"run_{run:02}:{number:04}"
            mine = tuple(each for each in held if both.held[each] == client)[:within]
            both.open[name] = client
            both.does(
                "ask",
                both.now,
                client,
                Ask(
                    id=name,
                    resource=resource,
                    run_id=f"run_{run:02}",
                    step=f"s{run % 2}",
                    sla=sla,
                    tenant=tenant,
                    priority=CLASSES[sla].priority,
                    tokens=tokens,
                    tokens_max=tokens_max,
                    within=mine,
                    queues=queues,
                ),
            )
        elif kind == "write" and held:
            name = held[values[0] % len(held)]
            both.does("written", both.now, both.held[name], name)
        elif kind == "end" and held:
            name = held[values[0] % len(held)]
            client = both.held.pop(name)
            del both.open[name]
            how, tokens, blocked_s = values[1:]
            both.does("done", both.now, client, name, Done(how=how, tokens=tokens, blocked_s=blocked_s, says="503"))
        elif kind == "withdraw" and both.open:
            name = list(both.open)[values[0] % len(both.open)]
            client = both.open.pop(name)
            both.held.pop(name, None)
            both.does("withdraw", both.now, client, name)
        elif kind == "lift":
            both.does("lift", both.now, f"run_{values[0]:02}", values[1], CLASSES[values[1]].priority)
        elif kind == "leave":
            for name in [name for name, client in both.open.items() if client == values[0]]:
                del both.open[name]
                both.held.pop(name, None)
            both.does("leave", both.now, values[0])
        elif kind == "pass":
            both.passes(values[0])
        both.now += 0.001


@given(st.lists(moves, max_size=60))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_script_answers_as_the_state_machine(history):
    with valkey.server().client() as client:
        both = Both(client)
        try:
            play(both, history)
        finally:
            both.script.close()


def test_a_clock_of_the_server_that_is_set_back_exceeds_nothing_and_stops_nothing():
    with valkey.server().client() as client:
        book = ScriptBook(client, SPECS, CLASSES)
        try:
            names = [f"run_{number}:1" for number in range(4)]
            asks = [Ask(id=name, resource="tokens", tokens=90) for name in names]
            [granted] = book.ask(10_000.0, "a", asks[0])
            assert isinstance(granted.answer, Granted)
            assert book.done(10_000.0, "a", names[0], Done(tokens=90)) == []
            [waits] = book.ask(100.0, "a", asks[1])
            assert isinstance(waits.answer, Waits)
            assert waits.answer.expected_s == pytest.approx(1.05)
            assert [each.id for each in book.pass_to(book.due())] == [names[1]]
        finally:
            book.close()
