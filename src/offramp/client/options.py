"""The options of a request for a run, and what of a request is checked and encoded before anything is sent. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict
from urllib.parse import quote

import msgspec

from offramp.client.documents import RunDocument
from offramp.core.codec import encode
from offramp.core.names import did_you_mean
from offramp.errors import InputError, RequestError

KEY_LENGTH_MAX = 255
_BARE = re.compile(r"[!#-~]+")

_Class = TypedDict("_Class", {"class": str | None}, total=False)


class Options(_Class, total=False):
    """What a request for a run can say beside its input; None is the same as leaving it out.

    Attributes:
        class_: the SLA class; "class", in a dict of options, is the same.
        session_id: the conversation that the run belongs to.
        metadata: text by name, stored with the run.
        budget: seconds that the run may stay on the fast path.
        webhook: `{"url": ..., "events": [...]}`, where events are posted.
        follow: False ends a stream where the run is on the deep path, at `run.demoted` or at `run.accepted`; by
            default it follows the run to its end.
        idempotency_key: the same key with the same request attaches to the same run. By default each call has a new
            one, so that a request which is sent again after a lost connection starts no second run.
    """

    class_: str | None
    session_id: str | None
    metadata: Mapping[str, str] | None
    budget: float | None
    webhook: Mapping[str, Any] | None
    follow: bool | None
    idempotency_key: str | None


_NAMES = sorted(Options.__annotations__ | _Class.__annotations__)


def body_of(pipeline: str, input: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON body of a request for a run, but for `follow`.

    Raises:
        TypeError: an option is unknown.
        InputError: the class is given twice.
        EncodingError: the input has no form in JSON.
    """
    for name in options:
        if name not in _NAMES:
            hint = "a pipeline's arguments go into its input, a dict"
            raise TypeError(f"no option {name!r}; {did_you_mean(name, _NAMES)} ({hint})")
    if options.get("class_") is not None and options.get("class") is not None:
        raise InputError("class and class_ are the same option: give one of them")
    given = {name.rstrip("_"): value for name, value in options.items() if value is not None}
    for name in ("follow", "idempotency_key"):
        given.pop(name, None)
    return {"input": raw({} if input is None else input, f"the input of pipeline {pipeline!r}"), **given}


def raw(value: Any, what: str) -> msgspec.Raw:
    """A value as JSON, as a step's result would be encoded; `msgspec.Raw` is taken as it is.

    Raises:
        EncodingError: it has no form in JSON.
    """
    return value if isinstance(value, msgspec.Raw) else msgspec.Raw(encode(value, what))


def key_header(key: str) -> dict[str, str]:
    """The Idempotency-Key header.

    Raises:
        RequestError: a gateway would refuse the key.
    """
    if not (key.isascii() and key.isprintable() and 1 <= len(key) <= KEY_LENGTH_MAX):
        raise RequestError(f"an idempotency key has 1 to {KEY_LENGTH_MAX} printable ASCII characters")
    if not _BARE.fullmatch(key):
        key = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return {"Idempotency-Key": key}


def preference(wait: float | None) -> dict[str, str]:
    """The Prefer header: without `wait`, an answer at once; infinite is the run's budget, which needs no header.

    Raises:
        RequestError: it is negative or not a number.
    """
    if wait is None:
        return {"Prefer": "respond-async"}
    if not wait >= 0:
        raise RequestError(f"wait is in seconds, 0 or more, got {wait!r}")
    return {} if math.isinf(wait) else {"Prefer": f"wait={math.ceil(wait)}"}


def id_of(run: str | RunDocument) -> str:
    """The id of a run.

    Raises:
        RequestError: it is none.
    """
    given = run.id if isinstance(run, RunDocument) else run
    if not isinstance(given, str) or not given:
        raise RequestError(f"a run is given by its id, 'run_…', or its document, got {given!r}")
    return given


def path_of(*parts: str) -> str:
    """The address of a resource below `/v1`."""
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)


def query_of(values: Mapping[str, Any]) -> dict[str, str]:
    """Query parameters: None is left out, lists are joined by commas."""
    return {name: _text(value) for name, value in values.items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
