"""A process that has loaded the command line: each command is a fork of it, as to start anew takes 0.2 s of CPU.

It is started as a script, so that a command finds on `sys.path` and in `sys.modules` what it would find by itself.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys

SIZE_MAX = 1 << 20
LOOK_EVERY_S = 5.0


def serve(listener, tests):
    """Fork for each connection; returns in the fork that is to become a command, with what the client sent.

    `tests` is the process that it is for: it ends with that one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener.settimeout(LOOK_EVERY_S)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != tests:  # they were killed
                sys.exit()
            continue
        if os.fork():
            connection.close()
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        listener.close()
        sent, descriptors, _, _ = socket.recv_fds(connection, SIZE_MAX, 3)
        command = os.fork()
        if not command:
            connection.close()
            return json.loads(sent), descriptors
        connection.sendall(command.to_bytes(4, "big", signed=True))
        _, status = os.waitpid(command, 0)
        connection.sendall(os.waitstatus_to_exitcode(status).to_bytes(4, "big", signed=True))
        os._exit(0)


def become(command, descriptors):
    """What an interpreter does before it executes `python -m offramp`."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["env"])
    sys.path[0] = command["cwd"]
    sys.argv[1:] = command["arguments"]


def load():
    """What most commands use in the end."""
    for name in (
        *("anyio", "h11", "httpcore", "httpx", "pydantic.fields", "pydantic.type_adapter", "uvloop"),
        *("rich.console", "rich.live", "rich.table"),
        *("offramp.cli.program", "offramp.cli.client", "offramp.cli.render", "offramp.gateway", "offramp.paths.local"),
        *("offramp.engines.embedded.engine", "offramp.stores.memory", "offramp.stores.sqlite"),
    ):
        importlib.import_module(name)
    gc.freeze()


if __name__ == "__main__":
    descriptor, parent = map(int, sys.argv[1:])
    bound = socket.socket(fileno=descriptor)
    load()
    become(*serve(bound, parent))
    runpy.run_module("offramp", run_name="__main__", alter_sys=True)
