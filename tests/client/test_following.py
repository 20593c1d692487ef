"""What the conversations say, without a network: a gateway in memory that loses connections as hypothesis likes."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.client import streaming
from offramp.client.effects import Give, Head, Lost, Open, Pause, Read
from offramp.client.patience import BACKOFF_FIRST_S, BACKOFF_MAX_S, JITTER, backoff_s
from offramp.client.talk import Talk
from offramp.errors import Overloaded, RunUnfinished, Unreachable
from tests.client.both import RUN, event

PATIENCE_S, SILENCE_S = 60.0, 75.0


def log_of(length):
    middle = [event(seq, "step.delta", step="write", key="w", attempt=1, delta="x\u2028") for seq in range(2, length)]
    return [event(1, "run.accepted", pipeline="p", path="fast"), *middle, event(length, "run.completed", result=length)]


class World:
    """A gateway, a network and a clock."""

    def __init__(self, log, faults=(), *, always=None, status="running"):
        self.log = log
        self.faults = list(faults)
        self.always = always
        self.status = status
        self.is_deaf = False
        self.now = 0.0
        self.pauses = []
        self.requests = []
        self.talk = Talk(
            "http://g", patience_s=PATIENCE_S, silence_s=SILENCE_S,
            now=lambda: self.now, draw=lambda: 0.0, make_key=lambda: "key",
        )  # fmt: skip

    def drive(self, conversation):
        """What the conversation gives."""
        outcome, parts = None, iter(())
        while True:
            try:
                effect = conversation.throw(outcome) if isinstance(outcome, Lost) else conversation.send(outcome)
            except StopIteration:
                return
            outcome = None
            if isinstance(effect, Give):
                yield effect.value
            elif isinstance(effect, Pause):
                self.pauses.append(effect.retrying)
                self.now += effect.retrying.delay_s
            elif isinstance(effect, Open):
                self.requests.append(effect.request)
                outcome, parts = self.answer(effect.request)
            else:
                assert isinstance(effect, Read)
                outcome = next(parts, b"")
                if isinstance(outcome, Lost):
                    self.now += SILENCE_S * outcome.silent

    def answer(self, request):
        if request.method == "GET" and request.path.endswith(RUN):
            body = json.dumps({"id": RUN, "status": self.status}).encode()
            return Head(200, "OK", {"content-type": "application/json"}), iter([body])
        kind, amount, size = self.faults.pop(0) if self.faults else (self.always or "none", 0, 1 << 20)
        if kind == "refused":
            return Lost("refused", connecting=True), iter(())
        if kind == "busy":
            body = b'{"type": "urn:offramp:error:overloaded", "status": 503, "detail": "full"}'
            return Head(503, "", {"retry-after": str(amount % 7)}), iter([body])
        after = 0 if self.is_deaf else int(request.headers.get("Last-Event-ID", 0))
        start = max(0, after - amount % 3 if kind == "again" else after)  # sends some events twice
        events = self.log[start:]
        if kind == "gap":
            events = events[: amount % 4] + events[amount % 4 + 1 :]
        raw = b"retry: 1000\n: heartbeat\n" + b"".join(events)
        cut = raw if kind in {"none", "again", "gap"} else raw[: amount % (len(raw) + 1)]
        parts = [cut[at : at + size] for at in range(0, len(cut), size)]
        if kind in {"drop", "silent"}:
            parts.append(Lost(kind, silent=kind == "silent"))
        return Head(200, "OK", {"content-type": "text/event-stream; charset=utf-8"}), iter(parts)


FAULT = st.tuples(
    st.sampled_from(["drop", "close", "silent", "again", "gap", "refused", "busy"]),
    st.integers(0, 3000),
    st.integers(1, 400),
)


@given(st.integers(2, 12), st.lists(FAULT, max_size=8), st.sampled_from(["stream", "follow", "run"]))
def test_each_event_comes_once_and_in_order_whatever_the_connections_do(length, faults, how):
    # Only failures without progress count against the patience; eight of them fit into it.
    world = World(log_of(length), faults)
    if how == "run":
        assert list(world.drive(streaming.run(world.talk, "p", {}, {}))) == [length]
        return
    made = streaming.stream(world.talk, "p", {}, {}) if how == "stream" else streaming.follow(world.talk, RUN, 0)
    assert [event.seq for event in world.drive(made)] == list(range(1, length + 1))
    posted = [request for request in world.requests if request.method == "POST"]
    assert {request.headers["Idempotency-Key"] for request in posted} <= {"key"}


@pytest.mark.parametrize(("always", "kind"), [("refused", Unreachable), ("busy", Overloaded), ("close", Unreachable)])
def test_without_progress_it_gives_up_within_its_patience(always, kind):
    world = World(log_of(4), [("drop", 700, 100)], always=always)
    seen = []
    with pytest.raises(kind) as caught:
        seen += world.drive(streaming.stream(world.talk, "p", {}, {}))
    assert PATIENCE_S - BACKOFF_MAX_S - 1 <= world.now <= PATIENCE_S
    assert "gave up after" in caught.value.__notes__[0]
    if kind is Unreachable:
        assert (caught.value.run_id, caught.value.after) == (RUN, 3)
        assert f"follow({RUN!r}, after=3)" in str(caught.value)


def test_a_stream_that_held_for_a_while_costs_no_patience():
    # A proxy that ends each stream after a minute, while a run waits for days.
    world = World(log_of(2), [("silent", 24, 1000)] * 50)
    assert [event.seq for event in world.drive(streaming.follow(world.talk, RUN, 0))] == [1, 2]
    assert world.now > 50 * SILENCE_S > PATIENCE_S


def test_a_proxy_that_drops_the_header_repeats_no_event():
    world = World(log_of(5), [("drop", 400, 50)] * 3)
    world.is_deaf = True
    assert [event.seq for event in world.drive(streaming.follow(world.talk, RUN, 0))] == [1, 2, 3, 4, 5]


def test_a_reader_past_the_end_of_a_run_gets_an_empty_stream():
    world = World(log_of(3), status="completed")
    assert list(world.drive(streaming.follow(world.talk, RUN, 99))) == []


def test_a_run_that_ended_while_its_stream_broke_is_read_to_its_end():
    world = World(log_of(3), [("close", 24, 100), ("none", 0, 100)], status="completed")
    assert [event.seq for event in world.drive(streaming.follow(world.talk, RUN, 0))] == [1, 2, 3]


def test_a_wait_for_a_result_ends_in_time_and_says_what_is_wrong():
    world = World(log_of(2)[:1], always="silent")
    with pytest.raises(RunUnfinished, match=RUN):
        list(world.drive(streaming.Follower(world.talk, run_id=RUN, until=3.0).outcome()))
    assert world.requests[0].silence_s == 3.0
    gone = World([], always="refused")
    with pytest.raises(Unreachable, match="no gateway answers at http://g"):
        list(gone.drive(streaming.result(gone.talk, RUN, 2.0)))
    assert gone.now <= 2.0


def test_follow_false_ends_at_the_demotion():
    log = [event(1, "run.accepted", path="fast"), event(2, "run.demoted", reason="budget"), *log_of(4)[2:]]
    world = World(log)
    seen = list(world.drive(streaming.stream(world.talk, "p", {}, {"follow": False})))
    assert [each.type for each in seen] == ["run.accepted", "run.demoted"]
    assert json.loads(world.requests[0].content)["follow"] is False
    resumed = World(log, [("drop", len(log[0]) + 30, 50)])
    assert len(list(resumed.drive(streaming.stream(resumed.talk, "p", {}, {"follow": False})))) == 2


@pytest.mark.parametrize("drawn", [0.0, 0.5, 1.0])
def test_backoff_grows_to_a_bound_and_is_spread(drawn):
    assert backoff_s(1, drawn) == pytest.approx(BACKOFF_FIRST_S * (1 - JITTER * drawn))
    assert backoff_s(3, drawn) == pytest.approx(4 * BACKOFF_FIRST_S * (1 - JITTER * drawn))
    assert backoff_s(10_000, drawn) == pytest.approx(BACKOFF_MAX_S * (1 - JITTER * drawn))


def test_the_server_s_wishes_are_kept():
    world = World(log_of(3), [("busy", 6, 1), ("drop", 30, 100)])
    list(world.drive(streaming.follow(world.talk, RUN, 0)))
    assert [pause.delay_s for pause in world.pauses] == [6.0, 1.0]
    assert [type(pause.error) for pause in world.pauses] == [Overloaded, Unreachable]
