"""`offramp serve --reload`: serves in a process of its own, and in a new one each time the App's files change.

This process holds the port, so that requests wait during a change, and never imports the App: a fresh process imports
each version first, and only a version that can be imported replaces the one that is served.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from offramp.cli.output import OK, USAGE, CommandError
from offramp.cli.supervisor import KILL_MARGIN_S, how_it_ended
from offramp.cli.target import is_file, module_of, split_target

POLL_S = 0.25
"""How often the files are looked at."""
SHARE = 20
"""In a large folder, looking takes at most one part in so many of the time."""
FILES_MAX = 5_000
"""How many files are watched."""
DRAIN_S = 5.0
"""How long a process that is replaced may drain, unless `--drain-timeout` says otherwise."""
IMPORT_S_MAX = 60.0
"""How long the import of a new version may take."""
LISTENING = "OFFRAMP_LISTENING"
"""The descriptor of the port, for the process that serves; it stops when its stdin ends."""

_NOT_OURS = ("__pycache__", "node_modules", "site-packages")
_IMPORT = """
import sys
from offramp.cli.output import CommandError, complain
from offramp.cli.secrets import withdraw
from offramp.cli.serve import served_app
withdraw()
try:
    served_app(sys.argv[1])
except CommandError as error:
    complain(str(error))
    sys.exit(error.code)
"""

logger = logging.getLogger("offramp")


def inherited() -> socket.socket | None:
    """The port that a watching process holds, None if this process was started otherwise.

    Removes the variable, so that processes started by user code do not read it.
    """
    given = os.environ.pop(LISTENING, "")
    if not given:
        return None
    threading.Thread(target=_stop_with_parent, name="offramp-parent", daemon=True).start()
    return socket.socket(fileno=int(given))


def _stop_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1024):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def serve_versions(target: str, bound: socket.socket, drain_s: float) -> int:
    """Serve on this port until SIGTERM or SIGINT, always the newest version that can be imported.

    Args:
        target: the App; the folder that it is imported from is watched.
        bound: the port.
        drain_s: seconds that a served process may take to hand over its runs.

    Returns:
        The exit code of the process that served last.

    Raises:
        CommandError: the target is no file.
    """
    root = watched_folder(target)
    versions = _Versions(target, bound, drain_s)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, versions.signalled)
    seen = watched(root)
    logger.info("watching %d files in %s", len(seen), root)
    if len(seen) >= FILES_MAX:
        logger.warning("other files there are not watched: move the App to a folder of its own")
    versions.replace()
    pause_s = POLL_S
    while not versions.stopping.wait(pause_s) and not versions.is_refused():
        began = time.monotonic()
        before, now = seen, watched(root)
        pause_s = max(POLL_S, SHARE * (time.monotonic() - began))
        while now != seen and not versions.stopping.wait(POLL_S):  # until an editor has saved all of its files
            seen, now = now, watched(root)
        if seen != before:
            changed = sorted({Path(name).name for name, _ in before.items() ^ seen.items()})
            logger.info("changed: %s", ", ".join(changed[:5]) + (", …" if len(changed) > 5 else ""))
            versions.replace()
    return versions.end()


class _Versions:
    """The process that serves, and those that replace it."""

    def __init__(self, target: str, bound: socket.socket, drain_s: float) -> None:
        self._target = target
        self._bound = bound
        self._patience_s = drain_s + 2 * KILL_MARGIN_S
        self._process: subprocess.Popen[bytes] | None = None
        self._is_first = True
        self.stopping = threading.Event()

    def signalled(self, _number: int, _frame: object) -> None:
        """Stop. The served process gets every signal, so a second one ends it at once."""
        self.stopping.set()
        if self._process is not None:
            self._process.terminate()

    def is_refused(self) -> bool:
        """Whether the first process ended because of how it was called; after any other end, a change is awaited."""
        if self._process is None or self._process.poll() is None:
            return False
        code = self._process.returncode
        if code == USAGE and self._is_first:
            return True
        logger.error("the gateway ended (%s): it starts again when a file changes", how_it_ended(code))
        self._process = None
        return False

    def replace(self) -> None:
        """Serve the files as they are now, if they can be imported."""
        if not self._can_be_imported():
            meanwhile = "waiting for a change" if self._process is None else "the version before it is still served"
            logger.error("this version cannot be served: %s", meanwhile)
            return
        if self._process is not None:
            self._is_first = False
            self._process.terminate()
            self.end()
        if not self.stopping.is_set():
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, with the arguments of this command
                [sys.executable, "-m", "offramp", *sys.argv[1:]],
                stdin=subprocess.PIPE,
                pass_fds=(self._bound.fileno(),),
                env={**os.environ, LISTENING: str(self._bound.fileno())},
                # Ctrl-C goes to this process only, which then stops the other in order.
                start_new_session=True,
            )

    def end(self) -> int:
        """Wait until the served process, which is stopping, has left; its exit code."""
        if self._process is None:
            return OK
        try:
            code = self._process.wait(self._patience_s)
        except subprocess.TimeoutExpired:
            logger.error("the gateway did not leave within %g s and is killed", self._patience_s)  # noqa: TRY400
            self._process.kill()
            code = self._process.wait()
        self._process = None
        return code

    def _can_be_imported(self) -> bool:
        command = [sys.executable, "-c", _IMPORT, self._target]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False, timeout=IMPORT_S_MAX)  # noqa: S603 - as above
        except subprocess.TimeoutExpired:
            logger.error("importing %s took more than %g s", self._target, IMPORT_S_MAX)  # noqa: TRY400
            return False
        return done.returncode == OK


def watched_folder(target: str) -> Path:
    """The folder that the App is imported from."""
    module, _ = split_target(target)
    if not is_file(module):
        return Path.cwd()
    if not Path(module).is_file():
        raise CommandError(f"no file {module}: name the App as MODULE:APP, for example desk/app.py:app")
    return module_of(Path(module).resolve())[0]


def watched(root: Path) -> dict[str, tuple[int, int]]:
    """The Python files and offramp.toml below a folder, each with its time and size; no environments or hidden ones."""
    found: dict[str, tuple[int, int]] = {}
    folders = [str(root)]
    while folders:
        entries: list[os.DirEntry[str]] = []
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as scanned:
            entries = [each for each in scanned if not each.name.startswith(".") and each.name not in _NOT_OURS]
        if any(each.name == "pyvenv.cfg" for each in entries):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            elif entry.name.endswith(".py") or entry.name == "offramp.toml":
                if len(found) == FILES_MAX:
                    return found
                with contextlib.suppress(OSError):  # removed meanwhile, or a link to nowhere
                    state = entry.stat()
                    found[entry.path] = (state.st_mtime_ns, state.st_size)
    return found
