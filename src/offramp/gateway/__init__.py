"""HTTP, SSE and WebSocket: turns a request into one call of the service, and the result into an answer.

Must not decide where a run executes, touch a store, or run user code.
"""
