"""Runs a gateway under uvicorn on one bound socket, and drains it before it ends.

Owns the socket and the signals, and refuses to be reachable by others without keys. Must not know what is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator

import uvicorn

from offramp.core.addresses import PORT_MAX, is_loopback
from offramp.errors import SettingsError
from offramp.gateway.asgi import Gateway
from offramp.gateway.descriptors import connections_max
from offramp.gateway.wire.accepting import Acceptor
from offramp.gateway.wire.connections import SOCKET_MESSAGE_BYTES_MAX, BoundedHttp, BoundedSocket
from offramp.ports import forks

BACKLOG = 2048
KEEP_ALIVE_S = 15
UNSENT_BYTES_MAX = 32 * 1024
"""Bytes that the kernel holds for a client with no room for them; otherwise it would take megabytes."""
FORCED_S_MAX = 2.0
"""How long the gateway may take to stop after a second signal."""
CLOSE_S_MIN = 1.0
"""How long connections may take to end after the drain, even if the drain took all its time."""

logger = logging.getLogger("offramp.gateway")


def bind(host: str, port: int, *, insecure: bool = False, keys: bool = False) -> socket.socket:
    """Bind and listen before anything is started; port 0 takes a free port.

    Raises:
        SettingsError: others can reach the address and there are no keys, or it is in use or invalid.
    """
    if not (keys or insecure or is_loopback(host)):
        raise SettingsError(
            f"{host!r} is reachable by others and there are no API keys: add one with 'offramp keys add NAME', bind "
            "127.0.0.1, or use --insecure"
        )
    if not 0 <= port <= PORT_MAX:
        raise SettingsError(f"port must be from 0 (any free one) to {PORT_MAX}, got {port}")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"{host!r} is not an address of this machine: {error}") from error
    family, kind, protocol, _, address = addresses[0]
    bound = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):  # accepted connections inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        bound.bind(address)
        # Listen now, not when the server is up, so that a port in use is noticed before anything is started.
        bound.listen(BACKLOG)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        raise SettingsError(_bind_problem(host, port, error)) from error
    return bound


def _bind_problem(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is in use: stop the process that listens there, or choose another port with --port"
        )
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights: choose a port from 1024 with --port"
    return f"cannot listen on {host} port {port}: {error.strerror or error}"


def url_of(bound: socket.socket) -> str:
    """The address to open in a browser."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def serve(
    gateway: Gateway,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    drain_timeout: float = 25.0,
    insecure: bool = False,
    keys: bool = False,
    on_started: Callable[[str], object] | None = None,
    bound: socket.socket | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then drain; a second signal ends the process at once.

    Args:
        gateway: the application.
        host: the address to bind; without `keys` or `insecure`, only loopback ones.
        port: 0 for a free one.
        drain_timeout: the maximum of seconds from the signal to the end.
        insecure: serve others without keys.
        keys: requests are authenticated.
        on_started: called with the address once the process has joined the service. Requests are accepted, and wait
            until it is ready.
        bound: a socket that listens already, in place of `host` and `port`.

    Returns:
        The process's exit code: 0 after a drain, 1 when a second signal cut it short.

    Raises:
        SettingsError: it cannot listen at that address.
        OfframpError: the service did not start.
    """
    if bound is None:
        bound = bind(host, port, insecure=insecure, keys=keys)
    with contextlib.closing(bound), asyncio.Runner(loop_factory=_new_loop) as runner:
        return runner.run(_serve(gateway, bound, drain_timeout, on_started))


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve(
    gateway: Gateway, bound: socket.socket, drain_timeout: float, on_started: Callable[[str], object] | None
) -> int:
    server = Server(config_of(gateway), bound)
    stopping = _Stopping(gateway, server, drain_timeout)
    with stopping.signals():
        # At the same time: probes are answered while the gateway starts, and requests wait for it.
        if on_started is not None:
            gateway.on_joined = lambda: on_started(url_of(bound))
        opening = asyncio.create_task(_open(gateway, server))
        try:
            await server.serve(sockets=[bound])
        finally:
            opening.cancel()
            await asyncio.wait({opening})
            await stopping.finish()
    if not opening.cancelled():
        await opening
    return 1 if server.force_exit else 0


async def _open(gateway: Gateway, server: Server) -> None:
    try:
        await gateway.open()
    except BaseException:
        server.should_exit = True
        raise


def config_of(gateway: Gateway) -> uvicorn.Config:
    """uvicorn's configuration for the gateway."""
    return uvicorn.Config(
        gateway,
        loop="none",
        http=BoundedHttp,
        ws=BoundedSocket,
        ws_max_size=SOCKET_MESSAGE_BYTES_MAX,
        # `_serve` starts and stops the gateway: uvicorn's lifespan ends only after the last stream.
        lifespan="off",
        log_config=None,
        # At DEBUG, which an application may set for all loggers, uvicorn logs a handshake with its Authorization.
        log_level="info",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
    )


class Server(uvicorn.Server):
    """uvicorn's server without its signal handlers, which calls `on_started` once it listens."""

    def __init__(
        self, config: uvicorn.Config, bound: socket.socket, on_started: Callable[[], object] | None = None
    ) -> None:
        super().__init__(config)
        self._bound = bound
        self._on_started = on_started
        forks.on_fork(self)

    def forked(self) -> None:
        """In a forked child: close its copies of the port and the connections, which would outlive the parent's."""
        listening = [each.fileno() for server in getattr(self, "servers", []) for each in server.sockets]
        open_now = [connection.transport for connection in list(self.server_state.connections)]
        forks.close_copy(self._bound.fileno(), *listening, *map(forks.descriptor_of, filter(None, open_now)))

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        most = connections_max()
        await super().startup(sockets if most is None else [])
        if most is not None:
            self.servers = [self._accepting(bound, most) for bound in sockets or ()]  # type: ignore[misc]
        if self.started and self._on_started is not None:
            self._on_started()

    def _accepting(self, bound: socket.socket, most: int) -> Acceptor:
        def protocol() -> BoundedHttp:
            return BoundedHttp(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                crowded=lambda: acceptor.is_crowded,
            )

        acceptor = Acceptor(bound, protocol, self.server_state.connections, most)
        return acceptor


class _Stopping:
    """Ends a server: the first signal drains the gateway and then stops uvicorn, the second forces the end."""

    def __init__(self, gateway: Gateway, server: Server, timeout: float) -> None:
        self._gateway = gateway
        self._server = server
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT during the block, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with forks.signals((signal.SIGINT, signal.SIGTERM), self.signalled):
            yield

    def signalled(self, number: int) -> None:
        """Drain on the first signal, stop at once on the second."""
        if self._task is None:
            logger.info("%s: draining", signal.Signals(number).name)
            self._task = asyncio.get_running_loop().create_task(self._drain())
            return
        logger.warning("%s again: stopping at once", signal.Signals(number).name)
        self._server.force_exit = True
        self._server.should_exit = True
        self._task.cancel()
        for connection in list(self._server.server_state.connections):
            connection.transport.abort()

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + self._timeout
        try:
            async with asyncio.timeout_at(ends_at):
                await self._gateway.drain()
        except TimeoutError:
            logger.warning("the drain took more than %g s; another process recovers the remaining runs", self._timeout)
        except Exception:
            logger.exception("the drain failed; another process recovers the remaining runs")
        finally:
            self._server.config.timeout_graceful_shutdown = max(CLOSE_S_MIN, ends_at - loop.time())  # type: ignore[assignment]
            self._server.should_exit = True

    async def finish(self) -> None:
        """Stop the gateway after the server has ended; after a second signal, for at most `FORCED_S_MAX`."""
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if not self._server.force_exit:
            await self._gateway.close()
            return
        try:
            async with asyncio.timeout(FORCED_S_MAX):
                await self._gateway.close()
        except TimeoutError:
            logger.warning("the gateway did not stop within %g s; another process recovers its runs", FORCED_S_MAX)
