"""A JSON document from a gateway: attributes for what this version knows, `document["field"]` for all that came."""

from __future__ import annotations

from collections.abc import Iterable, KeysView, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import field

D = TypeVar("D", bound="Document")


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all documents; `data` is the whole JSON object, with fields that this version does not know."""

    data: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.data[name]

    def __contains__(self, name: object) -> bool:
        return name in self.data

    def keys(self) -> KeysView[str]:
        """The names of all fields that came; with them, `dict(document)` works."""
        return self.data.keys()

    def get(self, name: str, default: Any = None) -> Any:
        """A field as it came, or `default`."""
        return self.data.get(name, default)

    def __repr__(self) -> str:
        return shown(self)


class FieldError(msgspec.Struct, frozen=True):
    """What is wrong with one field of a request; `pointer` is a JSON pointer into its body or address."""

    pointer: str = ""
    message: str = ""


class Problem(Document, frozen=True, kw_only=True):
    """A problem document (RFC 9457): why a gateway refused a request, and what to change.

    `type` is `urn:offramp:error:<code>`. `errors` lists the fields that do not fit, `error` is that of a run without a
    result, and `error_id` finds the cause in the gateway's log.
    """

    type: str = ""
    title: str = ""
    status: int = 0
    detail: str = ""
    errors: list[FieldError] = field(default_factory=list)
    error: dict[str, Any] | None = None
    error_id: str | None = None


def read(kind: type[D], fields: Mapping[str, Any]) -> D:
    """The JSON object as a document of this kind; unknown fields are kept in `data`.

    Raises:
        msgspec.ValidationError: a known field has another type, or is missing.
    """
    return msgspec.convert({**fields, "data": fields}, kind)


def shown(struct: msgspec.Struct, hidden: Iterable[str] = ("data",)) -> str:
    """A representation without the fields that say everything twice."""
    names = [name for name in struct.__struct_fields__ if name not in hidden]
    return f"{type(struct).__name__}({', '.join(f'{name}={getattr(struct, name)!r}' for name in names)})"
