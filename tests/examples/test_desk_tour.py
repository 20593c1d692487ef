"""The demonstration: its reader of streams, and the whole of it as a real process."""

import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.timeout(120)
def test_the_demonstration_ends_as_it_should() -> None:
    demo = REPOSITORY / "examples" / "reference_desk" / "demo.py"
    ended = subprocess.run(
        [sys.executable, str(demo)], cwd=REPOSITORY, capture_output=True, text=True, timeout=110, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"run\.demoted after .* \(budget\)", ended.stdout)
    assert "202 after" in ended.stdout
    assert "none missing, none twice" in ended.stdout
