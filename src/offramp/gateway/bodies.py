"""Reads the bodies of requests: bounded, declared as JSON, and strictly one JSON value.

The surfaces interpret the value.
"""

from __future__ import annotations

import codecs
import re
from itertools import accumulate

import msgspec

from offramp.core.codec import validation_error
from offramp.errors import InputError, RequestError
from offramp.gateway.call import Call, ClientGone
from offramp.gateway.problems import BodyTooLarge, UnsupportedMediaType

DEPTH_MAX = 64
"""Levels of objects and lists in a body."""

_BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_decode_any = msgspec.json.Decoder().decode
# Possessive, and an unclosed string ends with the body: one pass over any input.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
# As signed bytes: an opening bracket is 1, a closing one -1.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")


async def read_json_body(call: Call, bytes_max: int) -> bytes:
    """Read the body, never holding more than `bytes_max` of it.

    Raises:
        UnsupportedMediaType: it is not declared as JSON. This also keeps out forms of other sites: a browser sends this
            content type to another origin only after a preflight request.
        BodyTooLarge: it is longer.
        ClientGone: the client left before the body was complete.
    """
    _require_json(call.connection.headers.get("content-type"))
    return await _receive(call, bytes_max)


async def read_optional_json_body(call: Call, bytes_max: int) -> bytes:
    """Like `read_json_body`, but for a request without a body, which needs no content type, return b""."""
    declared = call.connection.headers.get("content-type")
    if declared is not None:
        return await read_json_body(call, bytes_max)
    body = await _receive(call, bytes_max)
    if body:
        _require_json(declared)
    return body


async def _receive(call: Call, bytes_max: int) -> bytes:
    declared = call.connection.headers.get("content-length", "")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > bytes_max):
        raise _too_large(bytes_max)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await call.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(bytes_max)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"the body has more than {bytes_max} bytes (OFFRAMP_MAX_BODY_BYTES); pass large data by reference"
    )


def _require_json(content_type: str | None) -> None:
    media, *parameters = (content_type or "").lower().split(";")
    charsets = [
        value.strip(' "') for name, _, value in (p.partition("=") for p in parameters) if name.strip() == "charset"
    ]
    if media.strip() != "application/json" or any(charset not in {"utf-8", "utf8"} for charset in charsets):
        got = f"got {content_type[:100]!r}" if content_type else "got no Content-Type"
        raise UnsupportedMediaType(f"the body must be JSON in UTF-8 with Content-Type: application/json; {got}")


def require_json_value(body: bytes) -> None:
    """Accept any one JSON value, strictly.

    Raises:
        RequestError: it is not JSON, or begins with a byte order mark.
        InputError: it is nested too deep, or has a number that cannot be read.
    """
    if body.startswith(_BYTE_ORDER_MARKS):
        raise RequestError("the body begins with a byte order mark (BOM); send JSON in UTF-8 without one (RFC 8259)")
    if depth_exceeds(body, DEPTH_MAX):
        message = f"nested deeper than {DEPTH_MAX} levels"
        raise InputError(f"the body is {message}", [("", message)])
    try:
        _decode_any(body)
    except msgspec.ValidationError as error:
        raise body_error(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"the body is not valid JSON: {error}") from error


def body_error(error: msgspec.ValidationError) -> InputError:
    """A decoder's complaint about a body, with pointers to the fields."""
    if "out of range" in str(error):
        message = str(error).partition(" - ")[0].lower()
        return InputError(f"the body has a number that cannot be read: {message}", [("", message)])
    return validation_error(error, "")


def depth_exceeds(body: bytes, levels_max: int) -> bool:
    """Whether objects and lists are nested deeper. Linear, without recursion, and nearly free for ordinary bodies."""
    if body.count(b"{") + body.count(b"[") <= levels_max:
        return False
    brackets = _STRING.sub(b"", body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(memoryview(brackets).cast("b")), default=0) > levels_max
