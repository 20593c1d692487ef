"""`offramp doctor` on the data folder: room, file system, fsync, and unfinished runs.

It writes one small file and removes it; it only reads the database.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from offramp.cli.findings import Finding
from offramp.cli.view import duration
from offramp.core.run import OUTCOMES
from offramp.stores.sqlite.custody import damage
from offramp.stores.sqlite.database import FILE_NAME, PAGE_BYTES

FREE_BROKEN_BYTES = 50 << 20
FREE_RISK_BYTES = 1 << 30
FSYNC_RISK_MS = 20.0
FSYNC_TRIES = 15
_NETWORK = ("nfs", "cifs", "smb", "fuse.sshfs", "9p", "afs", "ceph", "glusterfs", "lustre", "fuse.s3fs", "drvfs")


def check_folder(folder: Path, *, whole: bool = False) -> Iterator[Finding]:
    """Check the data folder, or the parent it would be created in; `whole` reads the whole database for damage."""
    there = existing(folder)
    if not os.access(there, os.W_OK | os.X_OK) or not there.is_dir():
        yield Finding("broken", "data", f"{there} cannot be written to", "give another --data, or change its owner")
        return
    yield Finding("ok", "data", f"{folder.resolve()}{'' if folder.is_dir() else ' (made by the first start)'}")
    yield _room(there)
    yield from _filesystem(there)
    yield from _disk(there)
    database = folder / FILE_NAME
    if database.is_file():
        yield from check_database(database)
        if whole:
            yield _soundness(database)


def existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    resolved = folder.resolve()
    return next(path for path in (resolved, *resolved.parents) if path.exists())


def check_database(database: Path) -> Iterator[Finding]:
    """Its journal mode, and its unfinished runs."""
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=2)
        try:
            mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
            counts = dict(connection.execute("SELECT status, count(*) FROM runs GROUP BY status").fetchall())
            shrinks = connection.execute("PRAGMA auto_vacuum").fetchone()[0]
            free = connection.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
            live = connection.execute("SELECT count(*) FROM owners WHERE expires_at > ?", (time.time(),)).fetchone()[0]
        finally:
            connection.close()
    except sqlite3.Error as error:
        fix = "move it away if it is damaged or not Offramp's; the next start makes a new one"
        yield Finding("broken", "database", f"{database} cannot be read: {error}", fix)
        return
    if mode != "wal":
        yield Finding(
            "risk",
            "database",
            f"journal mode is {mode}, not wal: readers wait for writers",
            "put --data on a local file system; WAL does not work on the present one",
        )
    else:
        yield Finding("ok", "database", f"{database.stat().st_size >> 10:,} KiB, journal mode wal")
    if not shrinks:
        yield Finding(
            "note",
            "database",
            f"{free >> 10:,} KiB of it are free; it was made by an older version and never shrinks",
            "with every process stopped: 'offramp backup DIR FILE', then 'offramp restore FILE DIR'",
        )
    unfinished = {status: count for status, count in counts.items() if status not in OUTCOMES}
    if not unfinished:
        yield Finding("ok", "runs", f"none unfinished, {sum(counts.values())} in all")
        return
    shown = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
    if live:
        yield Finding("ok", "runs", f"{shown}; {live} processes are at work")
    else:
        yield Finding(
            "note",
            "runs",
            f"{shown}, and no process is at work here",
            "start 'offramp serve' or 'offramp worker' to resume them",
        )


def _soundness(database: Path) -> Finding:
    try:
        with closing(sqlite3.connect(database, timeout=2)) as connection:
            problem = damage(connection, full=True)
    except sqlite3.Error as error:
        problem = str(error)
    if problem is None:
        return Finding("ok", "database", "no damage in the whole file")
    fix = "stop every process and restore a backup: offramp restore FILE DIR"
    return Finding("broken", "database", f"{database} is damaged: {problem}", fix)


def _room(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    says = f"{free / (1 << 30):.1f} GiB free"
    if free < FREE_BROKEN_BYTES:
        return Finding("broken", "disk", says, "free some, or give another --data")
    if free < FREE_RISK_BYTES:
        return Finding("risk", "disk", says, "free some; without room no run is accepted")
    return Finding("ok", "disk", says)


def _filesystem(folder: Path) -> Iterator[Finding]:
    kind = filesystem_of(folder, mount_table())
    if kind.startswith(_NETWORK):
        yield Finding(
            "broken",
            "file system",
            f"{folder} is on {kind}, a network file system: SQLite's WAL does not work there",
            "put --data on a local disk",
        )
    elif kind in {"tmpfs", "ramfs"}:
        yield Finding(
            "risk", "file system", f"{folder} is on {kind}: runs are lost with the machine", "put --data on a disk"
        )
    elif kind:
        yield Finding("ok", "file system", kind)


def filesystem_of(folder: Path, mounts: str) -> str:
    """The type of the file system that contains `folder`, from a mount table; empty if that is unknown."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " "))
        # A later line hides an earlier one for the same place.
        if (folder == point or point in folder.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def mount_table() -> str:
    """The system's mount table; empty where it has none in /proc."""
    try:
        return Path("/proc/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _disk(folder: Path) -> Iterator[Finding]:
    try:
        took = _fsync_ms(folder)
    except OSError as error:
        yield Finding("broken", "fsync", f"writing in {folder} failed: {error.strerror}", "give another --data")
        return
    median, worst = statistics.median(took), max(took)
    says = f"an fsync takes {median:.1f} ms, at worst {worst:.1f} ms (of {len(took)})"
    if median > FSYNC_RISK_MS:
        fix = "put --data on an SSD or a volume with provisioned IOPS"
        yield Finding("risk", "fsync", f"{says}: a 202 takes at least {duration(median)}", fix)
    else:
        yield Finding("ok", "fsync", says)


def _fsync_ms(folder: Path) -> list[float]:
    took = []
    with tempfile.TemporaryFile(dir=folder, prefix=".offramp-doctor-") as file:
        for _ in range(FSYNC_TRIES):
            file.write(b"\0" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - started) * 1000)
    return took
