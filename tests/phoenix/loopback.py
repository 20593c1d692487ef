"""`phoenix serve` with both ports on loopback. Run by the Python of Phoenix's own environment.

`PHOENIX_HOST` is for HTTP only: Phoenix binds its gRPC server to every address, and has no setting for it.
"""

import sys

import grpc.aio
from phoenix.server.main import main

make = grpc.aio.server


def on_loopback(*args, **options):
    server = make(*args, **options)
    bind = server.add_insecure_port
    server.add_insecure_port = lambda address: bind(address.replace("[::]", "127.0.0.1"))
    return server


if __name__ == "__main__":
    grpc.aio.server = on_loopback
    sys.argv = ["phoenix", "serve"]
    main()
