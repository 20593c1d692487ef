"""Requests that the service sends to addresses that callers name."""
