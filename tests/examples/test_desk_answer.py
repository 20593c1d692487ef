"""Writing an answer, by quoting and by a model that is a stand-in behind the real client."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from examples.reference_desk.answer import (
    ask_model,
    full_heading,
    model_configured,
    openai_client,
    quote,
    reading_order,
)
from examples.reference_desk.topics import Passage

ONE = Passage(topic="walk", title="Walking", heading="Walking", number=1, text="On foot.")
TWO = Passage(topic="walk", title="Walking", heading="Pace", number=2, text="Not fast.")
MORE = Passage(topic="walk", title="Walking", heading="Walking", number=3, text="Or by boat.")
OTHER = Passage(topic="fly", title="Flying", heading="Flying", number=1, text="With wings.")


def test_passages_of_a_topic_are_read_in_its_order_and_the_best_topic_first() -> None:
    assert reading_order([TWO, OTHER, ONE]) == [ONE, TWO, OTHER]


def test_each_heading_and_each_passage_is_a_piece() -> None:
    opening, *pieces = quote([ONE, TWO])
    assert "language reference" in opening
    assert pieces == [
        "### Walking (`help('walk')`)\n\n",
        "```text\nOn foot.\n```\n\n",
        "### Walking: Pace (`help('walk')`)\n\n",
        "```text\nNot fast.\n```\n\n",
    ]


def test_a_heading_is_not_repeated() -> None:
    assert sum(piece.startswith("###") for piece in quote([ONE, MORE])) == 1


def test_finding_nothing_is_said() -> None:
    (piece,) = quote([])
    assert "nothing" in piece


def test_a_heading_that_is_the_title_is_not_repeated() -> None:
    assert full_heading(ONE) == "Walking"
    assert full_heading(TWO) == "Walking: Pace"


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({}, None),
        ({"OPENAI_API_KEY": "key"}, "gpt-4o-mini"),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:1/v1", "OPENAI_MODEL": "small"}, "small"),
        ({"OPENAI_MODEL": "small"}, None),
    ],
)
def test_a_model_is_asked_only_where_one_is_configured(
    environment: dict[str, str], model: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert model_configured() == model


class StandInModel(BaseHTTPRequestHandler):
    """Answers every request with a streamed completion and keeps what it was asked."""

    asked: ClassVar[list[str]]

    def do_POST(self) -> None:
        """Stream two pieces and a chunk that only counts tokens."""
        self.asked.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        pieces = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("On ", "foot [1].")]
        for chunk in [*pieces, {"choices": []}]:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Run a stand-in for a model's server, named in the environment; yields the bodies of its requests."""
    monkeypatch.setattr(StandInModel, "asked", [], raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), StandInModel) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1")
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        yield StandInModel.asked
        server.shutdown()
        thread.join()


async def test_a_model_is_given_the_passages_and_its_answer_is_streamed(asked: list[str]) -> None:
    async with openai_client() as client:
        pieces = [piece async for piece in ask_model(lambda: client, "small", "How?", [ONE])]
    assert pieces == ["On ", "foot [1]."]
    (request,) = map(json.loads, asked)
    assert request["model"] == "small"
    assert "[1] Walking (walk#1)\nOn foot." in request["messages"][1]["content"]
    assert "Question: How?" in request["messages"][1]["content"]
