"""What the service tells about itself; nothing here changes what it does."""

from offramp.telemetry.logs import LogContext, ReplayFilter

__all__ = ["LogContext", "ReplayFilter"]
