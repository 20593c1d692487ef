"""Metrics, traces and log fields of the service. Never changes its behaviour."""

from offramp.telemetry.logs import LogContext, ReplayFilter

__all__ = ["LogContext", "ReplayFilter"]
