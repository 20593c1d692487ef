"""What processes tell each other so that nobody has to wait for a poll. Obligations of every adapter:

H1 A hint has no authority: it may be lost, repeated, late or forged, and its receiver only looks into the store sooner
   than it would have. What is lost while the way is interrupted is made up for by one `missed` afterwards.
H2 `send`, `follow` and `unfollow` may be called from any thread, while the process does anything else, and never wait.
H3 A hint of events reaches the processes that follow one of its runs; any other hint reaches every other process.
H4 A process is not told what it sent itself.
H5 Where it takes a moment until `follow` has an effect, the process is told of that run's events once it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from offramp.ports.store import Owner

Kind = Literal["hello", "work", "events", "cancel", "signal", "webhooks"]
"""A process joined; a run waits for a worker; runs have new events, are to be cancelled, were sent a signal; a webhook
is due."""
IDS_MAX = 1_000
"""Runs named by one hint; 1,000 of them take 32 kB."""


class Hearer(Protocol):
    """Who hints are for; called on the loop that opened them."""

    def hinted(self, kind: Kind, ids: Sequence[str]) -> object:
        """Another process says so of these runs."""

    def missed(self) -> object:
        """Hints of any kind may have been lost."""


class Hints(Protocol):
    """This process's end. See the obligations at the top of this module."""

    @property
    def port(self) -> int:
        """Where the other processes of this machine reach it, for `Owner.port`; 0 where they need not know."""

    async def open(self, hearer: Hearer) -> None:
        """Begin to hear; does not wait for a server that is away."""

    def peers(self, owners: Sequence[Owner]) -> None:
        """Who is there, as the store knows it."""

    def send(self, kind: Kind, ids: Sequence[str] = ()) -> None:
        """Tell the others (H2, H3)."""

    def follow(self, run_id: str) -> None:
        """Events of this run are waited for here that another process writes (H3, H5)."""

    def unfollow(self, run_id: str) -> None:
        """They are not any more."""

    async def close(self) -> None:
        """Hear and send no more."""
