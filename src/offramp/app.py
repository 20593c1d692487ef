"""The App that a user makes: what it declares, and the two ways to start it from a program.

Starting it is put together by `wiring.py` and `gateway/`, which are imported when it is asked for: declaring an App
loads no adapter.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Unpack

from offramp.declarations import Declarations

if TYPE_CHECKING:
    from offramp.gateway.asgi import Gateway
    from offramp.paths.local import LocalRuntime
    from offramp.settings import Given


class App(Declarations):
    """A set of pipelines and steps that are served together.

    Args:
        name: what the service is called.
        classes: its SLA classes; a class `default` (budget 6 s) exists unless one of that name is given.
        classifier: decides where a request goes that no rule decides, as a rule does or by the seconds that it expects:
            above the budget, the run goes deep. Plain or async.
        classifier_timeout: seconds for one call of it, at most 10.

    Raises:
        DeclarationError: the name or a class is not usable; raised by `step` and `pipeline` too.
    """

    @asynccontextmanager
    async def local(self, **settings: Unpack[Given]) -> AsyncIterator[LocalRuntime]:
        """Run pipelines in this process, without HTTP: both paths, embedded engine.

        Args:
            settings: see `offramp.settings.Settings`; without `data`, a temporary folder is used and removed.
        """
        from offramp.wiring import local

        async with local(self, settings) as runtime:
            yield runtime

    def asgi(self, **settings: Unpack[Given]) -> Gateway:
        """The gateway as an ASGI application with an embedded engine and a worker in this process.

        Serve it with any ASGI server, or mount it under a prefix in Starlette or FastAPI. Where the settings or the
        data folder hold API keys, requests need one; without, who may reach it is the server's matter.

        Args:
            settings: see `offramp.settings.Settings`.
        """
        from offramp.core.addresses import parse_root_path
        from offramp.gateway.access import Access
        from offramp.gateway.asgi import create_asgi
        from offramp.settings import Settings, unread_warning
        from offramp.wiring import build

        chosen = Settings.load(**settings)
        if misspelt := unread_warning():
            logging.getLogger("offramp").warning("%s", misspelt)
        service = functools.partial(build, self, chosen, role="local")
        return create_asgi(
            service,
            Access.of(chosen),
            drains_on_signal=chosen.drain_on_signal,
            root_path=parse_root_path(chosen.root_path),
        )
