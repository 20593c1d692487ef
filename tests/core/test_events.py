from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core import events
from offramp.core.events import Frame, decode, draft, fold_steps, frame, type_of
from offramp.core.run import Route, ShownRoute
from offramp.core.timestamps import rfc3339
from offramp.core.waits import waits_in

RUN = "run_01M803AAHNQ8E0R424BHCTM99K"
AT = "2026-11-21T09:30:00.000Z"

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
raws = values.map(msgspec.json.encode).map(msgspec.Raw)
of_type = {
    str: texts,
    int: st.integers(1, 100),
    float: st.floats(0, 1e9),
    msgspec.Raw: raws,
    list[dict[str, str]]: st.lists(st.dictionaries(texts, texts, max_size=2), max_size=2),
    ShownRoute: st.builds(
        Route, st.sampled_from(["fast", "deep"]), st.lists(texts, max_size=2), st.none() | st.floats(0, 9)
    ).map(Route.shown),
}


def bodies(kind):
    hints = typing.get_type_hints(kind)
    fields = {}
    for name in kind.__struct_fields__:
        hint = hints[name]
        if name in {"error", "links"}:
            fields[name] = st.dictionaries(texts, texts, max_size=3)
        elif name == "path":
            fields[name] = st.sampled_from(["fast", "deep"])
        elif typing.get_origin(hint) is typing.Literal:
            fields[name] = st.sampled_from(typing.get_args(hint))
        elif hint == float | None:
            fields[name] = st.none() | st.floats(0, 9)
        elif hint == str | None:
            fields[name] = st.none() | texts
        elif type(None) in typing.get_args(hint):
            fields[name] = st.none() | st.sampled_from(typing.get_args(typing.get_args(hint)[0]))
        elif msgspec.UnsetType in typing.get_args(hint):
            fields[name] = of_type[typing.get_args(hint)[0]]
        else:
            fields[name] = of_type[hint]
    return st.builds(kind, **fields)


any_body = st.one_of([bodies(kind) for kind in events.EVENTS])


@pytest.mark.parametrize("kind", events.EVENTS)
@given(data=st.data(), seq=st.integers(1, 2**40))
def test_every_event_encodes_and_decodes(kind, data, seq):
    body = data.draw(bodies(kind))
    encoded = frame(draft(body, AT), RUN, seq)
    event = decode(encoded)
    assert (event.type, event.run_id, event.seq, event.at) == (kind.__struct_config__.tag, RUN, seq, AT)
    assert event.data == {k: v for k, v in msgspec.json.decode(msgspec.json.encode(body)).items() if k != "type"}
    assert type_of(encoded) == event.type == Frame(seq, encoded).type
    assert b"\n" not in encoded


def test_an_event_reads_as_type_run_number_and_time_before_the_rest():
    encoded = frame(draft(events.StepStarted("search", "k", 1), AT), RUN, 7)
    assert list(msgspec.json.decode(encoded)) == ["type", "run_id", "seq", "at", "step", "key", "attempt"]


def test_the_table_is_complete_and_says_what_ends_a_run():
    assert set(events.TYPES) == {
        *("run.accepted", "run.demoted", "run.resumed", "run.completed", "run.failed", "run.cancelled", "run.expired"),
        *("step.started", "step.delta", "step.retrying", "step.completed", "step.failed", "step.waiting"),
        *("wait.started", "wait.ended", "signal.refused"),
    }
    assert set(events.TYPES) >= events.TERMINAL
    subclasses = {kind for kind in events.Body.__subclasses__() if kind.__module__ == events.__name__}
    assert subclasses == set(events.EVENTS)


@given(st.floats(0, 4e9))
def test_times_are_rfc_3339_in_utc_with_milliseconds(epoch):
    text = rfc3339(epoch)
    assert len(text) == len(AT)
    assert text.endswith("Z")


@given(st.lists(st.tuples(st.sampled_from(["wait.started", "wait.ended", "step.started"]), st.sampled_from("abc"))))
def test_the_waits_that_are_open_are_those_that_began_last(moves):
    frames, open_now = [], set()
    for seq, (kind, key) in enumerate(moves, 1):
        if kind == "step.started":
            body = events.StepStarted("write", key, 1)
        elif kind == "wait.started":
            body = events.WaitStarted("signal", "go", key, None)
            open_now.add(key)
        else:
            body = events.WaitEnded("signal", "go", key, "received")
            open_now.discard(key)
        frames.append(Frame(seq, frame(draft(body, AT), RUN, seq)))
    assert set(waits_in(frames).open) == open_now


# The list of steps.

keys = st.sampled_from(["search:a:0", "search:a:1", "write:b:0"])
moves = st.lists(
    st.tuples(keys, st.sampled_from(["start", "retry", "complete", "fail", "interrupt", "delta", "resume"])),
    max_size=40,
)


def log_and_model(made):
    """An event log as a scope writes it, and what a reader would note on paper."""
    bodies_, model = [events.RunAccepted("p", None, "fast", "default", Route("fast", []).shown())], {}
    for key, move in made:
        name = key.partition(":")[0]
        step = model.get(key)
        status = step["status"] if step else None
        if move == "resume":
            bodies_.append(events.RunResumed("w", 0, "death"))
        elif move == "start" and status in {None, "retrying", "running"}:
            attempt = {None: 1, "retrying": 1, "running": 0}[status] + (step["attempts"] if step else 0)
            bodies_.append(events.StepStarted(name, key, attempt))
            model[key] = {"name": name, "status": "running", "attempts": attempt}
        elif status == "running":
            attempt = step["attempts"]
            if move == "retry":
                bodies_.append(events.StepRetrying(name, key, attempt, {"code": "step-failed"}, 5.0))
                step["status"] = "retrying"
            elif move == "interrupt":
                # D3: the same attempt begins again.
                bodies_.append(events.StepRetrying(name, key, attempt, {"code": "interrupted"}, 0.0))
            elif move == "complete":
                bodies_.append(events.StepCompleted(name, key, attempt, 2.0))
                step["status"] = "completed"
            elif move == "fail":
                bodies_.append(events.StepFailed(name, key, attempt, 2.0, {"code": "step-failed"}))
                step["status"] = "failed"
            elif move == "delta":
                bodies_.append(events.StepDelta(name, key, attempt, msgspec.Raw(b'"x"')))
    frames = [frame(draft(body, AT), RUN, seq) for seq, body in enumerate(bodies_, start=1)]
    return frames, model


@given(moves)
def test_the_list_of_steps_is_what_the_log_says(made):
    frames, model = log_and_model(made)
    folded = fold_steps(frames)
    assert list(folded) == list(model)
    assert {
        key: {"name": step.name, "status": step.status, "attempts": step.attempts} for key, step in folded.items()
    } == model


@given(moves)
def test_in_a_finished_run_no_step_is_left_running(made):
    frames, model = log_and_model(made)
    for key, step in fold_steps(frames, finished=True).items():
        was = model[key]["status"]
        assert step.status == ("cancelled" if was in {"running", "retrying"} else was)


@given(moves)
def test_the_list_of_steps_can_be_folded_without_the_deltas(made):
    frames, _ = log_and_model(made)
    assert fold_steps(frames) == fold_steps([data for data in frames if type_of(data) != "step.delta"])


def test_an_interrupted_attempt_is_not_a_failed_one():
    frames, _ = log_and_model([("write:b:0", "start"), ("write:b:0", "interrupt")])
    step = fold_steps(frames)["write:b:0"]
    assert (step.status, step.attempts) == ("running", 1)


def test_a_document_shows_a_step():
    frames, _ = log_and_model([("write:b:0", "start"), ("write:b:0", "complete")])
    assert fold_steps(frames)["write:b:0"].document() == {
        "name": "write",
        "key": "write:b:0",
        "label": None,
        "status": "completed",
        "attempts": 1,
        "started_at": AT,
        "duration_ms": 2.0,
    }
