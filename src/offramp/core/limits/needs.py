"""What a request to a model will use, read from its body before it is sent: an estimate, in linear time. Pure.

The input is estimated by its length; images and files, which are long and cost little, by their number.
"""

from __future__ import annotations

from typing import Any

import msgspec

BYTES_PER_TOKEN = 4
"""Bytes of a request for one token of input: English text has 4 to 5, other languages and code fewer characters."""
TOKENS_PER_FILE = 1_500
"""What an image within a request counts as: those of OpenAI cost 85 to about 1,500, of Anthropic up to about 1,600."""
BODY_BYTES_MAX = 32 * 1024 * 1024
"""Bytes of a request that are read for its needs; of a larger one nothing is known."""

FILE_BYTES_MIN = 1_024
"""Bytes of the shortest word that counts as a file in base64: no text has so long a one."""

_WORD = bytes(
    b"a"[0] if chr(each).isascii() and (chr(each).isalnum() or chr(each) in "+/_=-") else 0 for each in range(256)
)
_FILE = b"a" * FILE_BYTES_MIN


class _Config(msgspec.Struct):
    """Where Gemini and Bedrock have the limit of the output."""

    maxOutputTokens: Any = None  # noqa: N815 - the provider's name
    maxTokens: Any = None  # noqa: N815 - the provider's name


class _Body(msgspec.Struct):
    """Where the others have it; what else a body has is skipped."""

    max_tokens: Any = None
    max_completion_tokens: Any = None
    max_output_tokens: Any = None
    n: Any = None
    generationConfig: _Config | None = None  # noqa: N815 - the provider's name
    inferenceConfig: _Config | None = None  # noqa: N815 - the provider's name


_decoder = msgspec.json.Decoder(_Body)


def input_tokens(body: bytes) -> int:
    """About how many tokens the input of a request has."""
    words, files, left = body.translate(_WORD), 0, len(body)
    start = words.find(_FILE)
    while start >= 0:
        end = words.find(b"\0", start + FILE_BYTES_MIN)
        end = len(words) if end < 0 else end
        files += 1
        left -= end - start
        start = words.find(_FILE, end)
    return left // BYTES_PER_TOKEN + files * TOKENS_PER_FILE


def tokens_max(body: bytes) -> int | None:
    """About the most that a request can use: its input, and the output that it permits; None where it has no limit."""
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        given = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    output = _output(given)
    if output is None:
        return None
    choices = given.n if _is_count(given.n) else 1
    return input_tokens(body) + output * choices


def _output(given: _Body) -> int | None:
    gemini, bedrock = given.generationConfig, given.inferenceConfig
    limits = (
        given.max_completion_tokens,
        given.max_output_tokens,
        given.max_tokens,
        None if gemini is None else gemini.maxOutputTokens,
        None if bedrock is None else bedrock.maxTokens,
    )
    return next((each for each in limits if _is_count(each)), None)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
