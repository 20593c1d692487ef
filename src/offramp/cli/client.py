"""The client of the commands: `offramp.Client`, whose errors are one line and an exit code, and whose retries are said.

Imported when a command runs: it takes as long as the rest of the command line.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from offramp.cli.output import REFUSED, CommandError, say, with_fields
from offramp.client import Client, Retrying
from offramp.errors import OfframpError, Unauthenticated, UnexpectedAnswer, Unreachable

PATIENCE_S = 30.0


class Gateway(Client):
    """A running gateway; a context manager, which turns what the gateway refuses into a `CommandError`.

    Args:
        url: its address, with the prefix if it is mounted under one.
        api_key: sent as a bearer token.
        note: called with a message for a person before something is tried again.
    """

    def __init__(self, url: str, api_key: str | None = None, note: Callable[[str], None] = say) -> None:
        super().__init__(url, api_key or "", patience=PATIENCE_S, on_retry=self._retrying)
        self.note = note

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if isinstance(error, OfframpError) and (
            error.problem is not None or isinstance(error, (Unreachable, UnexpectedAnswer))
        ):
            raise CommandError(refused(error), REFUSED) from error

    def _retrying(self, retrying: Retrying) -> None:
        if isinstance(retrying.error, Unreachable) and not retrying.answered:
            raise retrying.error  # most likely a wrong address, or no gateway yet: a person can look
        if retrying.run_id is not None:
            self.note(f"the stream broke; resuming after event {retrying.after} in {retrying.delay_s:.1f} s")
        else:
            self.note(f"{retrying.error}; trying again in {retrying.delay_s:.1f} s")


def refused(error: OfframpError) -> str:
    """An error of a gateway as one line: its detail, each field that is wrong, and what to do."""
    fields = error.problem.errors if error.problem is not None else []
    line = with_fields(error, [(field.pointer, field.message) for field in fields])
    if isinstance(error, Unauthenticated):
        return f"{line}; give --api-key or OFFRAMP_API_KEY"
    if isinstance(error, Unreachable) and error.run_id is not None:
        return f"{line}; in a terminal: offramp follow {error.run_id} --after {error.after}"
    if isinstance(error, Unreachable):
        return f"{line}; start a gateway with 'offramp serve MODULE:APP' or give --url"
    return line
