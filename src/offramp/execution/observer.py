"""What an executing run tells the part of the process that watches it: one observer for each scope."""

from __future__ import annotations


class Observer:
    """Watches one executing run; this one does nothing.

    The run's loop calls it, unless a method says otherwise.
    """

    __slots__ = ()

    def changed(self) -> None:
        """The state is another, or a run that leaves or is to end has other steps in flight. From any thread."""

    def rests(self) -> None:
        """The run seems to do nothing but wait."""

    def waits_for_signal(self) -> None:
        """The body begins to wait for a signal; the store may have it already."""

    def ending_changed(self) -> None:
        """A run that is to end has another time left for that. From any thread."""

    def step_waits(self, what: str | None) -> None:
        """A step waits for this before it begins; None: for nothing more."""

    def began_task(self) -> None:
        """The body begins a task."""


SILENT = Observer()
"""For an execution that nothing watches."""
