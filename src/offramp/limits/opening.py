"""Chooses how the processes of a service share their limits, and opens this process's side."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from offramp.core.limits.spec import ResourceSpec
from offramp.core.sla import SLA
from offramp.errors import MissingExtra
from offramp.ports.clock import Clock
from offramp.ports.extras import install
from offramp.ports.limits import Limits

logger = logging.getLogger("offramp")


class Meeting(msgspec.Struct, frozen=True):
    """How a process gets at the limits of its service; can be sent to another process.

    Attributes:
        by: `alone` in one process, `socket` through the coordinator of a data directory, `redis` for several machines.
        where: the data directory, or the URL of Redis.
        resources: what the app declares.
        classes: those of the app.
        declared_at: when the service began, in epoch seconds: of two declarations of a resource the later one counts.
    """

    by: Literal["alone", "socket", "redis"]
    where: str
    resources: tuple[ResourceSpec, ...]
    classes: tuple[SLA, ...]
    declared_at: float

    def open(self, clock: Clock) -> Limits:
        """This process's side; it connects at `start`, or with its first ask.

        Raises:
            MissingExtra: the extra `redis` is not installed.
            SettingsError: the URL of Redis does not fit.
        """
        classes = {sla.name: sla for sla in self.classes}
        if self.by == "redis":
            return self._over_redis(classes)
        if self.by == "socket":
            from offramp.limits.client import SocketLimits

            return SocketLimits(Path(self.where), self.resources, classes, clock, self.declared_at)
        from offramp.limits.local import LocalLimits

        return LocalLimits(self.resources, classes, clock)

    def _over_redis(self, classes: Mapping[str, SLA]) -> Limits:
        try:
            from offramp.limits.redis import open_redis_limits
        except ImportError as error:
            missing = (error.name or "redis").partition(".")[0]
            raise MissingExtra(f"limits over Redis need {missing}: {install('redis')}") from error
        return open_redis_limits(self.where, self.resources, classes)


def meeting(
    resources: Sequence[ResourceSpec],
    classes: Mapping[str, SLA],
    folder: Path,
    clock: Clock,
    *,
    redis: str = "",
    alone: bool = False,
) -> Meeting | None:
    """How the processes of a service share their limits; None for an app without resources.

    Args:
        resources: what the app declares.
        classes: of the app, by name.
        folder: the data directory of the service.
        clock: for the time of the declaration.
        redis: the URL of the service's store, if that is on Redis.
        alone: whether no other process shares the limits: neither by the data directory nor as a process lane.
    """
    if not resources:
        return None
    by: Literal["alone", "socket", "redis"] = "redis" if redis else "alone" if alone else "socket"
    if by == "socket" and sys.platform == "win32":
        logger.warning("this system has no coordinator of limits: each process keeps to them by itself")
        by = "alone"
    where = {"redis": redis, "socket": str(folder.absolute())}.get(by, "")
    return Meeting(by, where, tuple(resources), tuple(classes.values()), clock.time())
