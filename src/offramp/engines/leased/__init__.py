"""Shared by engines that lease runs from the store: membership among the processes, and the taking of queued runs."""
