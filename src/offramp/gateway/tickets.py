"""Tickets at the gateway: taken out of the address before anything logs it, and redeemed for the key that made them.

Owns which key a ticket stands for. `core.tickets` knows its form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import Scope

from offramp.core import tickets
from offramp.core.keys import Key
from offramp.errors import InputError, Unauthenticated
from offramp.ports import readers

if TYPE_CHECKING:
    from offramp.gateway.access import Access
    from offramp.paths.service import Service

NAME = "ticket"
_FIELD = f"{NAME}=".encode()
_NOT_ADMITTED = "?"
"""Reads the secret in the name of no tenant and without the precedence of the service's own reads."""
_INVALID = 'Bearer error="invalid_token"'
_MAKE_ONE = "make one with POST /v1/runs/{id}/ticket"


def withdraw(scope: Scope) -> tuple[str, ...]:
    """Remove the tickets from the query of a request's scope, which servers read for their logs, and return them."""
    query: bytes = scope.get("query_string", b"")
    if _FIELD not in query:
        return ()
    fields = query.split(b"&")
    scope["query_string"] = b"&".join(field for field in fields if not field.startswith(_FIELD))
    return tuple(field[len(_FIELD) :].decode("latin-1") for field in fields if field.startswith(_FIELD))


class Tickets:
    """Redeems the tickets of one gateway.

    Args:
        access: has the keys that tickets are made with.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._of: tuple[bytes, tuple[Key, ...]] = (b"", ())
        self._keys: dict[bytes, Key] = {}

    async def redeem(self, given: tuple[str, ...], run_id: str, service: Service) -> Key | None:
        """Return the key that a ticket was made with; None if it was made without, and requests need none.

        Raises:
            InputError: several tickets were given.
            Unauthenticated: it is none, it is for another run, it has expired, or its key is no longer valid.
            StoreError: the secret cannot be read.
        """
        if len(given) > 1:
            raise InputError(f"{NAME} is given more than once", [(f"/query/{NAME}", "given more than once")])
        ticket = tickets.read(given[0])
        if ticket is None:
            raise Unauthenticated(f"that is not a ticket; {_MAKE_ONE}", _INVALID)
        if ticket.expires_at <= service.now:
            raise Unauthenticated(f"the ticket has expired; {_MAKE_ONE}", _INVALID)
        readers.tenant.set(_NOT_ADMITTED)
        secret = await service.secret()
        key = self._known(secret).get(ticket.key) if self._access.closed else None
        digest = None if key is None and self._access.closed else _digest(key)
        if digest is None or not tickets.is_signed(ticket, secret, run_id, digest):
            raise Unauthenticated(f"the ticket is for another run, or its API key was revoked; {_MAKE_ONE}", _INVALID)
        return key

    def _known(self, secret: bytes) -> dict[bytes, Key]:
        """The valid keys by their names in tickets."""
        keys = self._access.keys
        if self._of != (secret, keys):
            self._of = secret, keys
            self._keys = {tickets.key_id(secret, key.digest): key for key in keys}
        return self._keys


async def issue(service: Service, run_id: str, key: Key | None) -> tuple[str, float]:
    """A ticket for a run's streams, made with this key, and when it expires in epoch seconds.

    Raises:
        StoreError: the secret cannot be read.
    """
    expires_at = int(service.now + tickets.TICKET_S)
    return tickets.sign(await service.secret(), run_id, _digest(key), expires_at), float(expires_at)


def _digest(key: Key | None) -> str:
    return "" if key is None else key.digest
