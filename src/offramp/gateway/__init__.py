"""HTTP, SSE and WebSocket: turns a request into one call of the service, and its answer back.

Owns what is on the wire. Must not decide where a run goes, touch a store, or run user code.
"""
