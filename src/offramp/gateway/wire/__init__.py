"""Runs the gateway under uvicorn: sockets, connections, signals, and the bounds on what a client may send.

The only code that relies on internals of uvicorn and websockets. tests/gateway/test_internals.py names each of them.
"""
