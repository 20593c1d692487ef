"""`offramp doctor` on this Python, this machine and the settings. Changes nothing."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import re
import socket
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

from offramp.cli.engines import crew_of
from offramp.cli.findings import Finding
from offramp.cli.output import CommandError
from offramp.core.scaling import lane_processes
from offramp.core.sla import SLA
from offramp.gateway.descriptors import FILES_RESERVED, files_allowed
from offramp.ports.extras import install, packages_by_extra
from offramp.settings import Settings, unread

EXTRAS_OF_DEVELOPERS = frozenset({"all", "bench", "dev", "docs", "test"})
# Before these, a checkpoint that races with a reset of the WAL can corrupt the database:
# sqlite.org/wal.html#walresetbug
_WAL_RESET_FIXED = ((3, 44, 6), (3, 50, 7), (3, 51, 3))


def check_python() -> Iterator[Finding]:
    """Versions, and the optional packages that make the runtime faster."""
    yield Finding("ok", "python", f"{platform.python_implementation()} {platform.python_version()}")
    for module, what in (("uvloop", "the event loops"), ("httptools", "reading requests")):
        if importlib.util.find_spec(module) is not None:
            yield Finding("ok", module, f"{module} {_version(module)}")
        else:
            yield Finding("note", module, f"{module} is not installed; {what} are slower", f"pip install {module}")
    yield from _extras()


def check_sqlite() -> Iterator[Finding]:
    """The SQLite library of this Python."""
    if has_wal_reset_bug(sqlite3.sqlite_version_info):
        yield Finding(
            "risk",
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} has the WAL-reset bug: very rarely, processes that write at the same "
            "time corrupt the database",
            "build on the image of deploy/Dockerfile, or use a Python that is linked against SQLite 3.51.3 or later "
            "(or 3.50.7, 3.44.6)",
        )
    else:
        yield Finding("ok", "sqlite", f"SQLite {sqlite3.sqlite_version}")


def has_wal_reset_bug(version: tuple[int, ...]) -> bool:
    """Whether this SQLite is older than the fix, or than its backport to the same release line."""
    if version >= _WAL_RESET_FIXED[-1]:
        return False
    return not any(version[:2] == fixed[:2] and version >= fixed for fixed in _WAL_RESET_FIXED)


def check_workers(settings: Settings, classes: Mapping[str, SLA]) -> Iterator[Finding]:
    """The number of workers against what the classes keep warm, and against the machine."""
    try:
        span = crew_of(classes, settings)
    except CommandError as error:
        yield Finding("broken", "workers", str(error), "raise --workers, or lower min_warm")
    else:
        yield from check_machine(settings, span.high, [sla.min_warm for sla in classes.values()])


def check_machine(settings: Settings, workers: int, min_warms: Iterable[int] = ()) -> Iterator[Finding]:
    """Cores against threads and processes, and open files against connections."""
    cores = cores_available()
    lanes = lane_processes(settings.processes, int(cores), min_warms)
    in_all = lanes * (workers + 1)
    says = f"{cores:g} cores; {settings.threads} threads and {lanes} process lanes in each of {workers + 1} processes"
    if in_all > 4 * max(1.0, cores):
        yield Finding(
            "risk",
            "cores",
            f"{says}: up to {in_all} CPU-bound processes share them",
            f"lower --workers, or set OFFRAMP_PROCESSES={max(1, int(cores // (workers + 1)))}",
        )
    else:
        yield Finding("ok", "cores", says)
    files = files_allowed()
    needed = settings.fast_runs + FILES_RESERVED
    if files is not None and files < needed:
        yield Finding(
            "risk",
            "open files",
            f"at most {files} files may be open; {settings.fast_runs} fast runs at once need about {needed}",
            f"raise the hard limit (ulimit -Hn {needed}; LimitNOFILE= in systemd) or lower OFFRAMP_FAST_RUNS",
        )


def check_settings(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings but have no effect."""
    for variable, hint in unread(environment):
        yield Finding("risk", "settings", f"{variable} is set, but nothing reads it", f"rename or unset it; {hint}")


def check_webhooks(settings: Settings) -> Iterator[Finding]:
    """Whether requests may ask for webhooks, and which addresses are allowed."""
    if not settings.webhook_secret:
        yield Finding(
            "note",
            "webhooks",
            "OFFRAMP_WEBHOOK_SECRET is not set: requests that ask for a webhook are refused",
            "if you want webhooks: OFFRAMP_WEBHOOK_SECRET=whsec_$(openssl rand -base64 32)",
        )
        return
    count = len(settings.webhook_secret.split())
    yield Finding("ok", "webhooks", f"signed with {count} secret{'s' if count > 1 else ''}")
    if settings.webhook_allow:
        yield Finding(
            "risk",
            "webhooks",
            f"callers may make this machine post to non-public addresses: {settings.webhook_allow}",
            "limit OFFRAMP_WEBHOOK_ALLOW to receivers that expect it",
        )


def check_address(host: str, port: int) -> Iterator[Finding]:
    """Whether `serve` could listen at this address."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            yield Finding(
                "risk",
                "port",
                f"{host}:{port} is taken (by a running gateway?)",
                "stop that process, or serve with another --port",
            )
        else:
            yield Finding(
                "broken", "port", f"cannot listen on {host}:{port}: {error.strerror or error}", "choose another"
            )
    else:
        yield Finding("ok", "port", f"{host}:{port} is free")


def cores_available() -> float:
    """Cores that this process may use: its affinity, and the container's quota if there is one."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:
        cores = float(os.cpu_count() or 1)
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return cores if quota == "max" else min(cores, round(int(quota) / int(period), 1))
    except (OSError, ValueError):
        return cores


def _extras() -> Iterator[Finding]:
    for name, requirements in packages_by_extra().items():
        if name in EXTRAS_OF_DEVELOPERS:
            continue
        packages = [re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0] for requirement in requirements]
        missing = [package for package in packages if _version(package) == "?"]
        if missing:
            says = f"extra {name!r} is not installed ({', '.join(missing)})"
            yield Finding("note", "extras", says, f"if you need it: {install(name)}")
        else:
            yield Finding("ok", "extras", f"extra {name!r} is installed")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"
