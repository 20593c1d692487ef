"""The two connections of a process to the limits on a server: one for script calls, one on which it hears of grants.

Commands are packed by hand and answers are one string each: a permit costs two calls, so every microsecond counts.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from redis.exceptions import NoPermissionError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from offramp.limits.redis.scripts import LIBRARIES, Script
from offramp.stores.redis.address import Address
from offramp.stores.redis.connection import client, problem

logger = logging.getLogger("offramp")

ANSWER_TIMEOUT_S = 3.0
"""Seconds that the answer to a call may take before its connection is closed."""
PING_EVERY_S = 3.0
"""Seconds without a message after which the server is asked whether it is still there."""
LOOK_EVERY_S = 0.5
"""Seconds between looks at whether the process has closed its limits."""
LIBRARIES_MAX = 64
"""Libraries of limits that a server keeps: each version of an app with other limits has one."""
RETRY_BASE_S, RETRY_CAP_S = 0.05, 1.0
"""The shortest and longest wait before another attempt to connect."""


def wait_s(failures: int) -> float:
    """Seconds to wait after so many failures in a row."""
    return min(RETRY_BASE_S * 2.0 ** min(failures, 10), RETRY_CAP_S)


class Link:
    """Calls scripts over one connection, from one thread.

    Args:
        address: of the server.
        script: that is called.
    """

    def __init__(self, address: Address, script: Script) -> None:
        self._pool = client(address, retries=0, timeout_s=ANSWER_TIMEOUT_S).connection_pool
        self._connection: Any = None
        self._script, self._key = script, address.tag.encode()
        self._head = self._calls_library = _begin(b"FCALL", script.name.encode(), b"1", self._key)

    def call(self, argument: bytes) -> bytes:
        """The answer.

        Raises:
            RedisError: the server refused, or did not answer; the call may have had its effect.
            OSError: likewise.
        """
        if self._connection is None:
            self._connection = self._pool.get_connection()
        rest = b"$%d\r\n%b\r\n" % (len(argument), argument)
        try:
            try:
                return cast("bytes", self._ask(self._head + rest))
            except ResponseError as error:
                if not _lacks_script(error):
                    raise
                self._head = self._load(libraries=not isinstance(error, NoPermissionError))
            return cast("bytes", self._ask(self._head + rest))
        except BaseException:
            self.close()
            raise

    def _load(self, *, libraries: bool) -> bytes:
        """Load the library, or else the script; how a call begins."""
        if libraries and self._head == self._calls_library:
            try:
                self._drop_libraries()
                self._ask(_begin(b"FUNCTION", b"LOAD", self._script.library, more=0))
            except ResponseError as error:
                if "already exists" in str(error):  # another process was faster
                    return self._calls_library
                logger.debug("no library of functions can be loaded (%s): using a script", error)
            else:
                return self._calls_library
        self._ask(_begin(b"SCRIPT", b"LOAD", self._script.source, more=0))
        return _begin(b"EVALSHA", self._script.digest, b"1", self._key)

    def _drop_libraries(self) -> None:
        """Remove libraries of other versions of apps once there are many; one that is in use is loaded again."""
        listed = self._ask(_begin(b"FUNCTION", b"LIST", b"LIBRARYNAME", LIBRARIES.encode() + b"*", more=0))
        for library in listed[LIBRARIES_MAX - 1 :]:
            self._ask(_begin(b"FUNCTION", b"DELETE", library[1], more=0))

    def _ask(self, command: bytes) -> Any:
        self._connection.send_packed_command([command], check_health=False)
        return self._connection.read_response(disable_decoding=True)

    def close(self) -> None:
        """Close the connection; another call opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(RedisError, OSError):
                connection.disconnect()
            self._pool.release(connection)


def _begin(*words: bytes, more: int = 1) -> bytes:
    """A command up to its last `more` words."""
    packed = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
    return b"*%d\r\n%b" % (len(words) + more, packed)


def _lacks_script(error: ResponseError) -> bool:
    """Whether the server does not have the library or the script, or nothing of the kind."""
    if isinstance(error, (NoScriptError, NoPermissionError)):
        return True
    return "unction not found" in str(error) or "unknown command" in str(error)


class Grants:
    """Listens, on a thread of its own, to what other processes' calls granted to this one.

    Args:
        address: of the server.
        channel: of this process.
        hear: called on the thread with each message.
        missed: called on the thread when it begins to listen: what was said before is lost.
    """

    def __init__(
        self, address: Address, channel: str, hear: Callable[[bytes], object], missed: Callable[[], object]
    ) -> None:
        self._address, self._channel = address, channel
        self._hear, self._missed = hear, missed
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_listening, name="offramp-grants", daemon=True)

    def start(self) -> None:
        """Begin to listen, as soon as the server can be reached."""
        self._thread.start()

    def close(self) -> None:
        """Hear nothing more."""
        self._closed.set()

    def join(self) -> None:
        """Wait for the end of the thread, for a moment."""
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(2 * LOOK_EVERY_S)

    def _keep_listening(self) -> None:
        pool = client(self._address, retries=0, timeout_s=ANSWER_TIMEOUT_S).connection_pool
        failures = 0
        while not self._closed.is_set():
            connection: Any = None
            try:
                connection = pool.get_connection()
                failures = -1
                self._listen(connection)
            except (RedisError, OSError) as error:
                logger.debug("grants of permits: %s", problem(self._address, error))
            except Exception:
                logger.exception("grants of permits are not received; trying again")
            finally:
                if connection is not None:
                    with contextlib.suppress(RedisError, OSError):
                        connection.disconnect()
                    pool.release(connection)
            failures += 1
            self._closed.wait(wait_s(failures))

    def _listen(self, connection: Any) -> None:
        connection.send_command("SUBSCRIBE", self._channel, check_health=False)
        heard_at, asked = time.monotonic(), False
        while not self._closed.is_set():
            if connection.can_read(timeout=LOOK_EVERY_S):
                message = connection.read_response(disable_decoding=True)
                heard_at, asked = time.monotonic(), False
                if message[0] == b"message":
                    self._hear(message[2])
                elif message[0] == b"subscribe":
                    self._missed()
            elif time.monotonic() - heard_at > PING_EVERY_S:
                if asked:
                    raise RedisTimeoutError("no answer to a PING")
                connection.send_command("PING", check_health=False)
                heard_at, asked = time.monotonic(), True
