"""nginx, Caddy and Envoy, started with the configurations of docs/how-to/proxy.md."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, blocks
from tests.servers import free_port, wait_for

PAGE = ROOT / "docs" / "how-to" / "proxy.md"
PEM = ROOT / "tests" / "webhooks" / "receiver.example.pem"
HOST = "receiver.example"
LANGUAGES = {"nginx": "nginx", "caddy": "caddyfile", "envoy": "yaml"}
READY_S = 30.0


def binary(name):
    """Where it is; None if it is not installed."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or shutil.which(name, path="/usr/sbin")


def missing(name):
    """Why tests with it cannot run here; None if they can."""
    return None if binary(name) else f"no {name} (docs/contributing/development.md says where it comes from)"


def trusting():
    """A client's context that accepts the proxies' certificate."""
    return ssl.create_default_context(cafile=PEM)


def configuration(name, port, gateway_port, folder):
    """The one on the page, with other ports, files and names."""
    (block,) = blocks(PAGE, LANGUAGES[name])
    text = block.code
    for old, new in {
        "/etc/ssl/app.example.pem": str(PEM),
        "/etc/ssl/app.example.key": str(PEM),
        f"/var/log/{name}/agents.log": str(folder / "access.log"),
        "app.example": HOST,
        "8443": str(port),
        "8000": str(gateway_port),
    }.items():
        assert old in text, f"{block.name} no longer has {old}"
        text = text.replace(old, new)
    return text


def command(name, text, folder):
    """Write the configuration, and what starts the proxy with it in the foreground."""
    file = folder / f"{name}.yaml"  # Envoy goes by the ending
    program = binary(name)
    if name == "nginx":
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
        file.write_text(f"daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ {temporary}\n{text} }}")
        return [program, "-p", str(folder), "-e", "stderr", "-c", str(file)]
    if name == "caddy":
        file.write_text("{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n" + text)
        return [program, "run", "--adapter", "caddyfile", "--config", str(file)]
    file.write_text(text)
    return [
        program,
        "--config-path",
        str(file),
        "--concurrency",
        "1",
        "--use-dynamic-base-id",
        "--log-level",
        "warning",
    ]


@contextlib.contextmanager
def proxying(name, gateway_port, folder):
    """The proxy in front of a gateway; its port."""
    port = free_port()
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(name, configuration(name, port, gateway_port, folder), folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=folder,
            env={"HOME": str(folder), "PATH": "/usr/sbin:/usr/bin:/bin"},
        )
    try:
        wait_for(process, lambda: answers(port), log, name, READY_S)
        yield port
    finally:
        process.terminate()
        process.wait(READY_S)


def answers(port):
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port), timeout=5) as connection,
        trusting().wrap_socket(connection, server_hostname=HOST),
    ):
        return True
    return False
