"""Builds the image's SQLite in a stage with a C compiler, because Debian's has the WAL-reset bug.

    python sqlite.py DIRECTORY

puts libsqlite3.so.0 there. The download must have the digest that sqlite.org publishes for this release.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from pathlib import Path

VERSION = (3, 51, 3)
NAME = "sqlite-autoconf-{}{:02}{:02}00".format(*VERSION)
URL = f"https://sqlite.org/2026/{NAME}.tar.gz"
SHA3_256 = "581215771b32ea4c4062e6fb9842c4aa43d0a7fb2b6670ff6fa4ebb807781204"
OPTIONS = ["-DSQLITE_THREADSAFE=1", "-DSQLITE_ENABLE_COLUMN_METADATA", "-DSQLITE_ENABLE_FTS5", "-DSQLITE_ENABLE_RTREE"]


def main(target: Path) -> None:
    with urllib.request.urlopen(URL, timeout=60) as answer:
        archive = answer.read()
    if (digest := hashlib.sha3_256(archive).hexdigest()) != SHA3_256:
        raise SystemExit(f"{URL}: SHA3-256 is {digest}, expected {SHA3_256}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(folder, filter="data")
        source, library = Path(folder, NAME, "sqlite3.c"), target / "libsqlite3.so.0"
        linked = ["-shared", "-fPIC", "-Wl,-soname,libsqlite3.so.0", "-o", str(library)]
        subprocess.run(["gcc", "-O2", *OPTIONS, *linked, str(source), "-lm", "-ldl", "-lpthread"], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
