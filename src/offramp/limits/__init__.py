"""The adapters of `ports/limits.py`: in one process, over a unix socket, over Redis."""
