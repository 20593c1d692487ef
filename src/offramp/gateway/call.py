"""One request as the endpoints see it: the connection, the service, where the gateway is mounted, its tenant.

Owns the reading of paths and query strings; bodies.py reads bodies, and the surfaces interpret them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection
from starlette.types import Receive

from offramp.core.keys import Key, Scope
from offramp.core.names import did_you_mean
from offramp.core.quotas import Quota
from offramp.core.run import RunRecord, is_run_id
from offramp.core.spec import PipelineSpec
from offramp.errors import InputError, RunGone, UnknownPipeline, UnknownRun
from offramp.gateway.access import Access, Rule, require_scope
from offramp.gateway.metering import Meter
from offramp.gateway.slots import Slot

if TYPE_CHECKING:
    from offramp.paths.service import Service
    from offramp.telemetry.tracing import RequestTrace


class ClientGone(Exception):
    """The client left before it had its answer."""


@dataclass(frozen=True, slots=True)
class Call:
    """The request, as an endpoint gets it.

    Attributes:
        prefix: the path the gateway is mounted at, without a trailing slash.
        rules: which requests each endpoint admits, by method and template of its path.
    """

    connection: HTTPConnection
    receive: Receive
    prefix: str
    meter: Meter
    running: Service | None
    access: Access
    rules: Mapping[tuple[str, str], Rule]
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
        """The tenant of the request; empty for the default tenant, and without keys."""
        return "" if self.key is None else self.key.tenant

    @property
    def quota(self) -> Quota | None:
        """The limits of its key, None without any."""
        return None if self.key is None else self.key.quota

    @property
    def revoked(self) -> bool:
        """Whether the request would be refused now; streams check it while they are open."""
        return not self.access.is_good(self.key)

    def require(self, scopes: frozenset[Scope]) -> None:
        """Refuse the request if there are keys and its key has none of `scopes`.

        Raises:
            Forbidden: it has none of them.
        """
        require_scope(self.key, scopes)

    def open_stream(self) -> Slot:
        """Reserve room for one stream of this tenant; release it at the end of the stream.

        Raises:
            TenantLimit: the tenant has its maximum of streams open in this process.
        """
        return self.access.streams.take(self.tenant, self.service.settings.tenant_streams)

    @property
    def run_id(self) -> str:
        """The run in the path.

        Raises:
            UnknownRun: it does not have the form of a run's id.
        """
        text: str = self.connection.path_params["run_id"]
        if not is_run_id(text):
            raise UnknownRun(f"no run {text[:60]!r}; a run's id is 'run_' and 26 characters")
        return text

    def pipeline(self, name: str) -> PipelineSpec:
        """The pipeline of that name.

        Raises:
            UnknownPipeline: there is none.
        """
        spec = self.service.pipelines.get(name)
        if spec is None:
            raise UnknownPipeline(f"no pipeline {name[:60]!r}; {did_you_mean(name, self.service.pipelines)}")
        return spec

    async def followed(self) -> RunRecord:
        """The run in the path, if its events can still be read.

        Raises:
            UnknownRun: the tenant has no such run.
            RunGone: the retention of its events has ended.
        """
        record = await self.service.get(self.run_id, self.tenant)
        if record.purged:
            raise RunGone(f"the events of {record.id} were removed when their retention ended")
        return record

    def query(self, *known: str) -> Mapping[str, str]:
        """The query's parameters, each at most once; unknown ones that begin with `_` are ignored.

        Raises:
            InputError: one is unknown or given twice.
        """
        given: dict[str, str] = {}
        for name, value in self.connection.query_params.multi_items():
            if name not in known:
                if name.startswith("_"):
                    continue
                hint = did_you_mean(name, known)
                raise InputError(
                    f"no query parameter {name[:60]!r}; {hint}", [(query_pointer(name), f"unknown; {hint}")]
                )
            if name in given:
                raise InputError(f"{name} is given more than once", [(query_pointer(name), "given more than once")])
            given[name] = value
        return given


def query_pointer(name: str) -> str:
    """The pointer to a query parameter in a problem document; no body has a field of that name."""
    return "/query/" + name[:60].replace("~", "~0").replace("/", "~1")
