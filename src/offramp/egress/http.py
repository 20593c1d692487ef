"""Webhooks over HTTP: one guarded connection per attempt, with bounds on its time and on the answer."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from importlib import metadata

import httpcore

from offramp.core.addresses import Allowed
from offramp.core.limits.headers import parse_retry_after
from offramp.core.webhooks import Answer, Target
from offramp.egress.guard import ForbiddenAddress, GuardedBackend
from offramp.egress.signing import Signer
from offramp.ports.clock import Clock
from offramp.ports.outbox import Message

RESPONSE_BYTES_MAX = 16 * 1024
"""How much of an answer's body is read, to let the receiver finish, and discarded."""
RESPONSE_S_MAX = 1.0


class HttpSender:
    """Posts messages; see the port. It uses no proxy, follows no redirect, stores no cookie.

    Each attempt has its own connection, so its address is resolved and checked anew.

    Args:
        signer: signs messages.
        allowed: the allowed addresses beside public ones.
        clock: the time of an attempt.
        timeout: seconds for one attempt, from the look-up of the name to the status.
        tls: the trusted certificates; by default certifi's, or those of SSL_CERT_FILE and SSL_CERT_DIR.
    """

    def __init__(
        self, signer: Signer, allowed: Allowed, clock: Clock, timeout: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._signer = signer
        self._network = GuardedBackend(allowed)
        self._clock = clock
        self._timeout = timeout
        self._tls = tls
        self._agent = f"offramp/{metadata.version('offramp')}"

    async def send(self, target: Target, message: Message) -> Answer:
        """One attempt."""
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(target, message)
        except (TimeoutError, httpcore.TimeoutException):
            return Answer("timeout", f"no answer within {self._timeout:g} s")
        except ForbiddenAddress as error:
            return Answer("forbidden", str(error))
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return Answer("unreachable", str(error)[:200] or type(error).__name__)

    async def _post(self, target: Target, message: Message) -> Answer:
        tls = await self._trusted() if target.scheme == "https" else None
        headers = {
            "host": target.authority,
            "content-type": "application/json",
            "user-agent": self._agent,
            **message.headers,
            **self._signer.headers(message, self._clock.time()),
        }
        url = httpcore.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        timeouts = dict.fromkeys(("connect", "read", "write"), self._timeout)
        async with (
            httpcore.AsyncHTTPConnection(url.origin, ssl_context=tls, network_backend=self._network) as connection,
            connection.stream(
                "POST", url, headers=pairs, content=message.body, extensions={"timeout": timeouts}
            ) as answer,
        ):
            judged = self._judge(answer)
            with contextlib.suppress(
                TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError
            ):
                async with asyncio.timeout(RESPONSE_S_MAX):
                    await _drain(answer)
            return judged

    def _judge(self, answer: httpcore.Response) -> Answer:
        if 200 <= answer.status < 300:
            return Answer("delivered", str(answer.status))
        if answer.status == 410:
            return Answer("gone", "410")
        asked = next((value for name, value in answer.headers if name.lower() == b"retry-after"), None)
        return Answer("refused", str(answer.status), parse_retry_after(asked, self._clock.time()))

    async def _trusted(self) -> ssl.SSLContext:
        if self._tls is None:
            import httpx

            # Reading the certificates takes tens of milliseconds.
            self._tls = await asyncio.get_running_loop().run_in_executor(None, httpx.create_ssl_context)
        return self._tls

    async def close(self) -> None:
        """End the resolver's threads."""
        self._network.close()


async def _drain(answer: httpcore.Response) -> None:
    size = 0
    async for chunk in answer.aiter_stream():
        size += len(chunk)
        if size > RESPONSE_BYTES_MAX:
            return
