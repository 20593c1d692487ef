"""The notifications of an executing run to the part of the process that watches it: one observer for each scope."""

from __future__ import annotations


class Observer:
    """Watches one executing run; this one does nothing.

    The run's loop calls it, unless a method says otherwise.
    """

    __slots__ = ()

    def changed(self) -> None:
        """The state has changed, or the steps in flight of a leaving or ending run. From any thread."""

    def rests(self) -> None:
        """The run seems only to wait."""

    def has_to_wait(self, until: float) -> None:
        """A step cannot continue before this time, in epoch seconds, whatever else the run does. From any thread."""

    def step_ended(self) -> None:
        """An attempt of a step has ended."""

    def waits_for_signal(self) -> None:
        """The body starts to wait for a signal, which the store may have already."""

    def ending_changed(self) -> None:
        """The time that an ending run has left has changed. From any thread."""

    def step_waits(self, what: str | None) -> None:
        """A step waits for this before it begins; None once it waits no longer."""

    def cold_started(self) -> None:
        """A step waited for a process of the process lane to start. From any thread."""

    def began_task(self) -> None:
        """The body begins a task."""


SILENT = Observer()
"""The observer of an unwatched execution."""
