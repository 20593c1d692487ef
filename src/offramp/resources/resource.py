"""A declared resource as user code has it: `app.resource(...)` returns it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

from offramp.core.limits.spec import ResourceSpec
from offramp.errors import DeclarationError
from offramp.resources.permit import Permit, whole
from offramp.resources.requests import Requests
from offramp.resources.service import Service

if TYPE_CHECKING:
    import httpx
    import httpx2


class Resource:
    """What calls of all processes share, such as the rate limit of a provider's key: made by `app.resource(...)`.

    Calls made with its clients, or within `permit()`, keep to its limits: in every lane of a step, in all processes of
    the service. In the body of a pipeline they are refused (`BodyNotRepeatable`). Outside of runs they keep to the
    limits of the service that this process runs; where it runs none, nothing is limited.

    Where it cannot be called, its clients and permits raise: `ResourceBusy`, if its queue is full; `CircuitOpen`, if
    its breaker is open; `WaitsForItself`, if the calling code keeps the permit that it would wait for; `ExceedsLimit`,
    if the call needs more tokens than the limit. SDKs pass these errors on and do not repeat them.
    """

    def __init__(self, spec: ResourceSpec, service: Service) -> None:
        self.spec = spec
        self._service = service
        self._requests = Requests(spec, service)

    @property
    def name(self) -> str:
        """Its name, as in events and metrics."""
        return self.spec.name

    @overload
    def http_client(self, library: Literal["httpx"], **options: Any) -> httpx.Client: ...
    @overload
    def http_client(self, library: Literal["httpx2"], **options: Any) -> httpx2.Client: ...
    @overload
    def http_client(self, library: None = None, **options: Any) -> Any: ...
    def http_client(self, library: str | None = None, **options: Any) -> Any:
        """A client for plain code, every request of which takes a permit and waits for it in its thread.

        The permit is kept until the answer is read or closed. The wait does not count for the client's `timeout`.

        Args:
            library: `"httpx"` or `"httpx2"`: the type of client that an SDK takes; httpx2 where that is installed,
                otherwise httpx.
            options: all that the library's `Client` takes. `limits` has at least as many connections as the resource
                has `concurrency`.

        Raises:
            ValueError: there is no such library.
            MissingExtra: the library is not installed.
        """
        from offramp.resources.clients import client

        return client(self._requests, library, options)

    @overload
    def async_http_client(self, library: Literal["httpx"], **options: Any) -> httpx.AsyncClient: ...
    @overload
    def async_http_client(self, library: Literal["httpx2"], **options: Any) -> httpx2.AsyncClient: ...
    @overload
    def async_http_client(self, library: None = None, **options: Any) -> Any: ...
    def async_http_client(self, library: str | None = None, **options: Any) -> Any:
        """An async client, every request of which waits for a permit; see `http_client`.

        It belongs to the event loop of its first use, as every async client: `offramp.per_loop` makes one for each.

        Args:
            library: see `http_client`.
            options: all that the library's `AsyncClient` takes.

        Raises:
            ValueError: there is no such library.
            MissingExtra: the library is not installed.
        """
        from offramp.resources.clients import async_client

        return async_client(self._requests, library, options)

    def permit(self, tokens: int | None = None) -> Permit:
        """A permit for one call that no client of the resource makes: `async with` on a loop, `with` in a thread.

        The call should begin at once: it counts from the moment that the block is entered. An exception that leaves
        the block tells how the call failed.

        Args:
            tokens: what the call is expected to use, input and output together; None for what calls of the step used.

        Raises:
            ValueError: it is no whole number from 0 on.
        """
        return Permit(self.spec, self._service, None if tokens is None else whole(tokens, "permit(tokens=)"))

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled or copied: the limits belong to the app that declares the resource."""
        raise TypeError(
            f"resource {self.name!r} cannot be pickled or copied, as it belongs to its app: import it from the module "
            "that declares it"
        )

    def __repr__(self) -> str:
        return f"<resource {self.name!r}>"


def names_of(uses: object, declared: Mapping[str, Resource], app: str) -> tuple[str, ...]:
    """The names of what `step(uses=)` was given.

    Raises:
        DeclarationError: it is no resource, or not one of this app.
    """
    given = () if uses is None else tuple(uses) if isinstance(uses, (list, tuple, set, frozenset)) else (uses,)
    for each in given:
        if not isinstance(each, Resource):
            raise DeclarationError(
                f"step(uses=) takes what app.resource(...) returned, or a list of such, as in openai = "
                f"app.resource('openai', rate='500/min') and uses=openai; got {each!r:.80}"
            )
        if declared.get(each.name) is not each:
            raise DeclarationError(
                f"step(uses=): {each!r} belongs to another app; declare it in app {app!r} too, by "
                f"app.resource({each.name!r}, ...)"
            )
    return tuple(each.name for each in given)
