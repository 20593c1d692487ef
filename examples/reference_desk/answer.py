"""Writes the answer from passages: quoted one by one, or by a language model if one is configured.

Yields the text in pieces, so that a step can stream it. Never answers from anything but the passages.
"""

import asyncio
import os
import platform
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import msgspec

from .topics import Passage

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types.chat import ChatCompletionMessageParam

MODEL_DEFAULT = "gpt-4o-mini"
"""The model used unless OPENAI_MODEL is set."""

QUOTED = "quotation"
"""The author given for an answer that only quotes."""

_INSTRUCTIONS = (
    "Answer the question about Python from the numbered passages of the language reference, and from nothing "
    "else. Be brief, show code where it helps, and cite passages as [1]. If they do not answer it, say so."
)

_NOTHING_FOUND = (
    "The language reference has nothing on that. It explains Python's own syntax and data model: try words "
    "such as `with`, `class`, `yield`, `slicing` or `operator precedence`.\n"
)


class Answer(msgspec.Struct, frozen=True):
    """The streamed text and its sources."""

    question: str
    text: str
    sources: list[str]
    written_by: str


def reading_order(passages: Sequence[Passage]) -> list[Passage]:
    """Group passages by topic, in the topic's own order; the topic of the best passage comes first."""
    topics = list(dict.fromkeys(passage.topic for passage in passages))
    return sorted(passages, key=lambda passage: (topics.index(passage.topic), passage.number))


def quote(passages: Sequence[Passage]) -> Iterator[str]:
    """Yield an answer as Markdown that quotes the passages, one heading or passage at a time."""
    if not passages:
        yield _NOTHING_FOUND
        return
    version = ".".join(platform.python_version_tuple()[:2])
    yield f"From the Python {version} language reference:\n\n"
    heading = ""
    for passage in reading_order(passages):
        if full_heading(passage) != heading:
            heading = full_heading(passage)
            yield f"### {heading} (`help({passage.topic!r})`)\n\n"
        # The manual's plain text is not Markdown: `__enter__` would render as bold.
        yield f"```text\n{passage.text}\n```\n\n"


def full_heading(passage: Passage) -> str:
    """Name a passage for a person: its topic's title, and its own heading if that differs."""
    return passage.title if passage.heading == passage.title else f"{passage.title}: {passage.heading}"


def model_configured() -> str | None:
    """Return the model to use, or None if the environment sets neither a key nor an address."""
    if os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"):
        return os.environ.get("OPENAI_MODEL") or MODEL_DEFAULT
    return None


def openai_client() -> "AsyncOpenAI":
    """Create a client without retries of its own: the step retries, so that every attempt is announced."""
    from openai import AsyncOpenAI

    # A local server named by OPENAI_BASE_URL often needs no key, but the client insists on one.
    return AsyncOpenAI(api_key=os.environ.get("OPENAI_API_KEY") or "not-needed", max_retries=0)


async def ask_model(
    client_of_loop: Callable[[], "AsyncOpenAI"], model: str, question: str, passages: Sequence[Passage]
) -> AsyncIterator[str]:
    """Yield a model's answer from the passages as it is written."""
    # The first import takes about a second, which would block the loop: a thread does it.
    await asyncio.to_thread(import_module, "openai.resources.chat")
    client = client_of_loop()
    stream = await client.chat.completions.create(model=model, messages=_messages(question, passages), stream=True)
    async with stream:
        async for chunk in stream:
            # The last chunk of some servers counts tokens and has no choices.
            if chunk.choices and (piece := chunk.choices[0].delta.content):
                yield piece


def _messages(question: str, passages: Sequence[Passage]) -> list["ChatCompletionMessageParam"]:
    numbered = "\n\n".join(
        f"[{number}] {full_heading(passage)} ({passage.id})\n{passage.text}"
        for number, passage in enumerate(passages, start=1)
    )
    return [
        {"role": "system", "content": _INSTRUCTIONS},
        {"role": "user", "content": f"{numbered}\n\nQuestion: {question}"},
    ]
