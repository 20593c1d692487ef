"""The demonstration: its reader of streams, and the whole of it as a real process."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.reference_desk.tour.client import Event
from examples.reference_desk.tour.scenes import differences, gaps
from examples.reference_desk.tour.server import ServerError, running
from examples.reference_desk.tour.sse import Message, Parser

REPOSITORY = Path(__file__).parents[2]

STREAM = (
    "retry: 1000\n\n"
    ": heartbeat\n\n"
    'id: 1\nevent: run.accepted\ndata: {"seq": 1}\n\n'
    "id: 2\r\nevent: step.delta\r\ndata: one\r\ndata:two\u2028\u0085\r\n\r\n"
    "data\r\r"
    "event: ignored\n\n"
    "data: cut off"
).encode()

MESSAGES = [
    Message("1", "run.accepted", '{"seq": 1}'),
    Message("2", "step.delta", "one\ntwo\u2028\u0085"),
    Message("2", "message", ""),
]


def test_a_stream_is_parsed() -> None:
    assert Parser().feed(STREAM) == MESSAGES


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_a_stream_may_be_cut_anywhere(cuts: list[int]) -> None:
    parser = Parser()
    places = [0, *sorted(cuts), len(STREAM)]
    chunks = [STREAM[start:end] for start, end in pairwise(places)]
    assert [message for chunk in chunks for message in parser.feed(chunk)] == MESSAGES


def log(*events: tuple[int, str]) -> list[Event]:
    return [Event(seq, kind, {}, after_s=0.0) for seq, kind in events]


def test_a_whole_log_has_no_gaps() -> None:
    assert gaps(log((1, "run.accepted"), (2, "run.demoted"), (3, "run.completed"))) == []


@pytest.mark.parametrize(
    "events",
    [
        [(1, "run.accepted"), (3, "run.completed")],
        [(1, "run.accepted"), (1, "step.delta"), (2, "run.completed")],
        [(2, "run.accepted"), (3, "run.completed")],
        [(1, "run.accepted"), (2, "run.demoted")],
        [(1, "run.accepted"), (2, "run.completed"), (3, "step.delta")],
        [(1, "run.accepted"), (2, "run.failed"), (3, "run.completed")],
    ],
)
def test_a_log_that_is_not_whole_is_noticed(events: list[tuple[int, str]]) -> None:
    assert gaps(log(*events))


def test_a_run_that_ended_otherwise_is_told_apart() -> None:
    run = {"status": "failed", "path": "fast", "demotion": None, "error": {"code": "step_failed"}}
    assert len(differences(run, status="completed", path="deep", reason="budget")) == 4
    run = {"status": "completed", "path": "deep", "demotion": {"reason": "budget"}, "error": None}
    assert differences(run, status="completed", path="deep", reason="budget") == []
    assert differences(run, status="completed", path="deep")


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", "import sys; print('the port is taken'); sys.exit(5)"]
    with (
        running(arguments, port=1, folder=tmp_path, log=tmp_path / "log", env={}) as server,
        pytest.raises(ServerError, match=r"exited with code 5(.|\n)*the port is taken"),
    ):
        server.wait_until_ready()
    assert "exit code 5, expected 0" in (server.stop_problem or "")


@pytest.mark.timeout(120)
def test_the_demonstration_ends_as_it_should() -> None:
    demo = REPOSITORY / "examples" / "reference_desk" / "demo.py"
    ended = subprocess.run(
        [sys.executable, str(demo)], cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"run\.demoted after .* \(budget\)", ended.stdout)
    assert "202 after" in ended.stdout
    assert "none missing, none repeated" in ended.stdout
