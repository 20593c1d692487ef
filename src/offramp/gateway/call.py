"""One request as the endpoints see it: the connection, the service, where the gateway is mounted, whose it is.

Owns the reading of bodies and query strings; what they mean is submission.py's and runs.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import Receive

from offramp.core.keys import Key
from offramp.core.names import did_you_mean
from offramp.core.run import is_run_id
from offramp.errors import InputError, UnknownRun
from offramp.gateway.access import Access, Guard
from offramp.gateway.metering import Meter
from offramp.gateway.problems import BodyTooLarge, UnsupportedMediaType
from offramp.gateway.slots import Slot

if TYPE_CHECKING:
    from offramp.paths.service import Service
    from offramp.telemetry.tracing import RequestTrace


class ClientGone(Exception):
    """The client went away before it had its answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an endpoint is given.

    Attributes:
        prefix: the path the gateway is mounted at, without a trailing slash.
        guards: who may ask for what at this gateway, by the template of the path.
    """

    connection: HTTPConnection
    receive: Receive
    prefix: str
    meter: Meter
    running: Service | None
    access: Access
    guards: Mapping[str, Guard]
    key: Key | None = None
    trace: RequestTrace | None = None

    @property
    def service(self) -> Service:
        """The started service."""
        if self.running is None:
            raise AssertionError("this route is declared to need no service")
        return self.running

    @property
    def tenant(self) -> str:
        """Whose request this is; without keys, everybody's."""
        return "" if self.key is None else self.key.tenant

    @property
    def revoked(self) -> bool:
        """Whether the request would be refused by now: for what stays open."""
        return not self.access.is_good(self.key)

    def open_stream(self) -> Slot:
        """Room for one stream of this tenant, to be released at its end.

        Raises:
            TenantLimit: the tenant has as many open here as it may.
        """
        return self.access.streams.take(self.tenant, self.service.settings.tenant_streams)

    @property
    def run_id(self) -> str:
        """The run in the path.

        Raises:
            UnknownRun: it has not even the form of a run's id.
        """
        text: str = self.connection.path_params["run_id"]
        if not is_run_id(text):
            raise UnknownRun(f"no run {text[:60]!r}; a run's id is 'run_' and 26 characters")
        return text

    def query(self, *known: str) -> Mapping[str, str]:
        """The query's parameters, each at most once.

        Raises:
            InputError: one is unknown or given twice.
        """
        given: dict[str, str] = {}
        for name, value in self.connection.query_params.multi_items():
            if name not in known:
                hint = did_you_mean(name, known)
                raise InputError(
                    f"no query parameter {name[:60]!r}; {hint}", [(query_pointer(name), f"unknown; {hint}")]
                )
            if name in given:
                raise InputError(f"{name} is given more than once", [(query_pointer(name), "given more than once")])
            given[name] = value
        return given


def query_pointer(name: str) -> str:
    """How problem documents point at a query parameter; a body has no field of that name."""
    return "/query/" + name[:60].replace("~", "~0").replace("/", "~1")


async def read_json_body(call: Call, bytes_max: int) -> bytes:
    """The body, never holding more than `bytes_max` of it.

    Raises:
        UnsupportedMediaType: it is not declared as JSON. Requiring that keeps other sites' forms out, too:
            a browser asks before it sends this content type across origins.
        BodyTooLarge: it is longer.
        ClientGone: the client left before it was complete.
    """
    _require_json(call.connection.headers.get("content-type"))
    return await _receive(call, bytes_max)


async def read_optional_json_body(call: Call, bytes_max: int) -> bytes:
    """As `read_json_body`, but a request may also have no body, and then needs no content type: b"" is returned."""
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
        got = f"got {content_type[:100]!r}" if content_type else "there is none"
        raise UnsupportedMediaType(f"the body is JSON in UTF-8 with Content-Type: application/json; {got}")
